"""One validated 12-lead WFDB record in millivolts, or a `RecordError` that says what is wrong.

The wfdb library reads the samples. It lets many damaged headers through, so this module first
reads the header with a strict grammar of its own, and afterwards checks the samples against
everything that the header promises about them.

Source: WFDB header format, physionet.org/physiotools/wag/header-5.htm; MATLAB v4 files as in
"MAT-File Format" (The MathWorks).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from .comments import RecordError, parse_comments
from .leads import LEADS, limb_residual, standard_name

MAX_HEADER_BYTES = 65_536
RATE_RANGE_HZ = (20.0, 20_000.0)
GAIN_RANGE = (10.0, 100_000.0)
"""Accepted gains in steps per mV: coarser steps hide the P wave, finer ones clip the QRS."""
LIMB_LIMIT_MV = 0.02
"""Largest 99th percentile of the limb-lead residual; real records stay below 0.008 mV."""
LIMB_LIMIT_STEPS = 4.0
"""The same in steps of the converter, for coarse gains; real records stay below 3.6 steps."""

_MATLAB_OFFSET = 24
_BYTES_PER_SAMPLE = 2
_MISSING = -32_768
_STEPS_PER_UNIT_TO_STEPS_PER_MV = {"": 1, "mv": 1, "uv": 1000, "µv": 1000, "μv": 1000}

_RECORD_LINE = re.compile(
    r"(?P<name>\S+)\s+(?P<n_sig>\S+)\s+(?P<rate>\S+)\s+(?P<n_samples>\S+)(?:\s.*)?", re.A
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\S+)\s+(?P<scale>\S+)\s+(?P<resolution>\S+)\s+(?P<zero>\S+)"
    r"\s+(?P<initial_value>\S+)\s+(?P<checksum>\S+)\s+(?P<block_size>\S+)(?:\s+(?P<lead>.*))?",
    re.A,
)
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,12})?)(?:/\d{1,9}(?:\.\d{1,12})?(?:\(-?\d{1,9}\))?)?", re.A)
_FORMAT = re.compile(r"16(?:x1)?(?::0)?(?:\+(\d{1,9}))?", re.A)
_SCALE = re.compile(r"(\d{1,9}(?:\.\d{0,12})?)(?:\((-?\d{1,9})\))?(?:/(.*))?", re.A)
_NAME = re.compile(r"[-\w]+", re.A)
_FILE_NAME = re.compile(r"[-\w]+\.\w+", re.A)
_COUNT = re.compile(r"\d{1,9}", re.A)
_INTEGER = re.compile(r"-?\d{1,9}", re.A)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, eq=False)
class Record:
    """One 12-lead ECG.

    Attributes
    ----------
    name : str
        The record's name.
    signal_mv : ndarray, shape (samples, 12), float32
        Millivolts, leads in the order of `ecgbook.leads.LEADS`, NaN where a sample is missing.
    fs_hz : float
        Sampling rate.
    codes : tuple of str
        SNOMED CT codes in the order of the header, each once.
    age : float or None
        Years as the header states them; PTB-XL writes 300 for everyone over 89. A lower bound,
        such as ``>89``, stands for itself.
    sex : {"F", "M"} or None
        None where the header does not say.
    rescaled : bool
        True if the file stretched every lead to 1 mV from peak to peak (as all of LUDB), so that
        amplitudes and ratios between leads are not those of the heart.
    """

    name: str
    signal_mv: np.ndarray
    fs_hz: float
    codes: tuple[str, ...] = ()
    age: float | None = None
    sex: str | None = None
    rescaled: bool = False

    @property
    def leads(self) -> tuple[str, ...]:
        """The names of the columns of `signal_mv`: always `ecgbook.leads.LEADS`."""
        return LEADS

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.signal_mv) / self.fs_hz


def read_record(path: str | os.PathLike) -> Record:
    """Read one 12-lead WFDB record and check it.

    Parameters
    ----------
    path : str or path-like
        The header, with or without ``.hea``; the signal file lies beside it.

    Returns
    -------
    Record
        The record in mV and standard lead order; the array is read-only.

    Raises
    ------
    RecordError
        If a file is missing or damaged, if header and samples disagree (file size, MATLAB header,
        initial values, checksums), if a lead is missing, doubled or unknown, if rate, gain or
        unit make no sense, or if the limb leads break the identities of Einthoven and Goldberger,
        as they do when two of them are swapped. Swapped chest leads cannot be seen this way.

    Notes
    -----
    Read are single-segment records of WFDB format 16, plain (``16``) or inside a MATLAB v4 file
    (``16+24``). Words among the SNOMED CT codes, such as PTB-XL's ``NORM``, are left out.
    Leads that are flat take no part in the check of the identities.
    """
    path = Path(path)
    path = path if path.suffix == ".hea" else Path(f"{path}.hea")
    lines, comments = _read_lines(path)
    header = _parse_header(path, lines)
    codes, age, sex = parse_comments(path, comments)
    _check_signal_file(path.with_name(header.file), header)
    counts = _read_counts(path, header)
    _check_counts(path, header, counts)

    order = [header.leads.index(lead) for lead in LEADS]
    counts = counts[:, order]
    gain, baseline = header.gain[order], header.baseline[order]
    signal_mv = np.subtract(counts, baseline, dtype=np.float32)  # exact: far below 2**24
    np.divide(signal_mv, gain, out=signal_mv, dtype=np.float64, casting="same_kind")
    signal_mv[counts == _MISSING] = np.nan
    signal_mv.flags.writeable = False

    rescaled = np.array_equal(np.ptp(counts.astype(np.int32), axis=0), gain)
    _check_leads(path, counts, signal_mv, gain, rescaled)
    return Record(path.stem, signal_mv, header.rate_hz, codes, age, sex, rescaled)


@dataclass(frozen=True, eq=False)
class _Header:
    """What the header promises; arrays of shape (12,) in the order of the file."""

    rate_hz: float
    n_samples: int
    file: str
    offset: int
    gain: np.ndarray  # steps per mV
    baseline: np.ndarray
    initial_value: np.ndarray
    checksum: np.ndarray
    leads: list[str]


def _file_size(path: Path, field: str) -> int:
    """Return the size of a regular file, in bytes."""
    try:
        if path.is_file():
            return path.stat().st_size
        found = "something that is no file" if path.exists() else "no such file"
    except (OSError, ValueError) as error:
        found = error
    raise RecordError(path, field, found, "a regular file", "check the path")


def _read_lines(path: Path) -> tuple[list[str], list[str]]:
    """Return the header's lines and its comments, without blanks around them."""
    size = _file_size(path, "header")
    if not 0 < size <= MAX_HEADER_BYTES:
        raise RecordError(path, "header", f"{size} bytes", f"1 to {MAX_HEADER_BYTES} bytes")
    try:
        raw = path.read_bytes()
        lines = [line.decode("utf-8").strip() for line in raw.splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(path, "header", error, "UTF-8 text") from None
    if control := _CONTROL.search(raw):
        raise RecordError(path, "header", f"control byte {control[0]!r}", "plain text")
    comments = [line.strip("# \t") for line in lines if line.startswith("#")]
    return [line for line in lines if line and not line.startswith("#")], comments


def _parse_header(path: Path, lines: list[str]) -> _Header:
    """Read the record line and the 12 signal lines."""

    def check(ok: object, field: str, found: object, wanted: str, fix: str = "") -> None:
        if not ok:
            raise RecordError(path, field, found, wanted, fix)

    def integer(text: str, field: str) -> int:
        check(_INTEGER.fullmatch(text), field, text, "an integer of at most 9 digits")
        return int(text)

    check(lines, "record line", "no line", "'name 12 rate samples'")
    record = _RECORD_LINE.fullmatch(lines[0])
    check(record, "record line", repr(lines[0]), "'name 12 rate samples'")
    name = record["name"]
    check("/" not in name, "segments", name, "a single-segment record", "read each segment alone")
    fix = f"write {path.stem} as the header's first word, or rename the file"
    check(_NAME.fullmatch(name) and name == path.stem, "record name", name, path.stem, fix)
    n_leads = integer(record["n_sig"], "lead count")
    check(n_leads == len(LEADS), "lead count", n_leads, f"{len(LEADS)}")
    check(len(lines) == 1 + n_leads, "lead count", f"{len(lines) - 1} signal lines", f"{n_leads}")
    rate, (low, high) = _RATE.fullmatch(record["rate"]), RATE_RANGE_HZ
    ok = rate and low <= float(rate[1]) <= high
    check(ok, "rate", record["rate"], f"a decimal number of Hz from {low:g} to {high:g}")
    n_samples = integer(record["n_samples"], "sample count")
    check(n_samples > 0, "sample count", n_samples, "at least 1")

    gains, baselines, initial_values, checksums, leads = [], [], [], [], []
    for line in lines[1:]:
        signal = _SIGNAL_LINE.fullmatch(line)
        check(signal, "signal line", repr(line), "nine fields, as in '16 1000/mV 16 0 5 -17 0 I'")
        file = signal["file"]
        check(_FILE_NAME.fullmatch(file), "signal file", file, "a plain file name in this folder")
        layout = _FORMAT.fullmatch(signal["format"])
        check(layout, "format", signal["format"], "16 or 16+24", "convert with wfdb.wrsamp")
        offset = int(layout[1] or 0)
        check(offset in (0, _MATLAB_OFFSET), "format", signal["format"], "16 or 16+24")
        if not leads:
            first_file, first_offset = file, offset
        check(file == first_file, "signal file", file, f"{first_file} for all leads")
        check(offset == first_offset, "format", signal["format"], "one format for all leads")

        scale, (low, high) = _SCALE.fullmatch(signal["scale"]), GAIN_RANGE
        check(scale, "gain", signal["scale"], "a positive decimal number, as in 1000(0)/mV")
        unit = scale[3] or ""
        factor = _STEPS_PER_UNIT_TO_STEPS_PER_MV.get(unit.lower())
        check(factor, "unit", unit, "mV or uV", "convert the signal to mV")
        gains.append(float(scale[1]) * factor)
        check(low <= gains[-1] <= high, "gain", scale[0], f"{low:g} to {high:g} steps per mV")
        for key in ("resolution", "block_size"):  # not used, but wfdb stumbles over odd ones
            ok, field = _COUNT.fullmatch(signal[key]), key.replace("_", " ")
            check(ok, field, signal[key], "digits, as in 16 or 0")
        zero = integer(signal["zero"], "zero")
        baselines.append(int(scale[2] or zero))
        check(abs(baselines[-1]) <= 32_768, "baseline", baselines[-1], "a 16-bit number")
        initial_values.append(integer(signal["initial_value"], "initial value"))
        checksums.append(integer(signal["checksum"], "checksum"))
        lead = signal["lead"] or ""
        try:
            leads.append(standard_name(lead))
        except ValueError:
            check(False, "lead names", repr(lead), f"one of {', '.join(LEADS)}")
        check(leads.count(leads[-1]) == 1, "lead names", f"{lead} twice", "every lead once")
    columns = (gains, baselines, initial_values, checksums)
    arrays = [np.array(column, dtype) for column, dtype in zip(columns, "dqqq", strict=True)]
    return _Header(float(rate[1]), n_samples, first_file, first_offset, *arrays, leads)


def _check_signal_file(path: Path, header: _Header) -> None:
    """Compare the signal file's size, and its MATLAB header if it has one, with the header."""
    size = _file_size(path, "signal file")
    body = _BYTES_PER_SAMPLE * len(LEADS) * header.n_samples
    if size != header.offset + body:
        fix = "fetch the record again, header and signal file together"
        raise RecordError(path, "file size", f"{size} bytes", f"{header.offset + body} bytes", fix)
    if header.offset:
        # Type 30 is a 16-bit matrix, little-endian; then rows, columns, real, length of "val\0".
        wanted = np.array([30, len(LEADS), header.n_samples, 0, 4], "<i4").tobytes() + b"val\0"
        try:
            with path.open("rb") as file:
                found = file.read(_MATLAB_OFFSET)
        except OSError as error:
            raise RecordError(path, "signal file", error, "a readable file") from None
        if found != wanted:
            fix = "save it with scipy.io.savemat(..., format='4') as a 12-row int16 matrix 'val'"
            raise RecordError(path, "MATLAB header", found.hex(), wanted.hex(), fix)


def _read_counts(path: Path, header: _Header) -> np.ndarray:
    """Read the samples with wfdb: (samples, 12) int16, in steps of the converter."""
    try:
        stem = os.path.abspath(path.with_suffix(""))
        counts = wfdb.rdrecord(stem, physical=False, return_res=16).d_signal
    except Exception as error:  # wfdb raises eight kinds; the caller is promised one
        found = f"{type(error).__name__}: {error}"
        raise RecordError(path, "wfdb", found, "a record that wfdb reads") from error
    if counts.shape != (header.n_samples, len(LEADS)) or counts.dtype != np.int16:
        found = f"{counts.dtype} {counts.shape}"
        raise RecordError(path, "wfdb", found, f"int16 {(header.n_samples, len(LEADS))}")
    return counts


def _check_counts(path: Path, header: _Header, counts: np.ndarray) -> None:
    """Compare first samples and 16-bit checksums with the header's."""
    sums = counts.sum(axis=0, dtype=np.int64)
    for field, found, wanted in (
        ("initial value", counts[0], header.initial_value),
        ("checksum", sums % 65_536, header.checksum % 65_536),
    ):
        if (wrong := np.flatnonzero(found != wanted)).size:
            k = wrong[0]
            lead, fix = header.leads[k], "fetch the record again, header and signal file together"
            raise RecordError(path, field, f"{found[k]} in lead {lead}", f"{wanted[k]}", fix)


def _check_leads(
    path: Path, counts: np.ndarray, signal_mv: np.ndarray, gain: np.ndarray, rescaled: bool
) -> None:
    """Reject doubled leads, and limb leads that break their identities (standard lead order)."""
    flat = (counts == counts[0]).all(axis=0)
    lead_of: dict[bytes, str] = {}
    for lead, column, is_flat in zip(LEADS, counts.T, flat, strict=True):
        first = lead_of.setdefault(column.tobytes(), lead)
        if first != lead and not is_flat:
            raise RecordError(path, "doubled leads", f"{lead} equal to {first}", "12 signals")

    # Leads that were rescaled one by one keep the identities in steps, not in millivolts.
    if rescaled:
        signal, limit, unit = np.where(np.isnan(signal_mv), np.nan, counts), LIMB_LIMIT_STEPS, ""
    else:
        limit = max(LIMB_LIMIT_MV, LIMB_LIMIT_STEPS / gain[:6].min())
        signal, unit = signal_mv, " mV"
    residual = np.abs(limb_residual(signal))
    checkable = ~(flat[0] | flat[1] | flat[2:6])
    beyond = (residual > limit).sum(axis=0) > 0.01 * np.isfinite(residual).sum(axis=0)
    if (wrong := np.flatnonzero(beyond & checkable)).size:
        k = wrong[0]
        found = f"{LEADS[2 + k]} off by {np.nanpercentile(residual[:, k], 99):.3g}{unit}"
        fix = "look for swapped or mislabelled limb leads, or a wrong gain"
        raise RecordError(
            path, "limb leads", found, f"at most {limit:.3g}{unit} from I and II", fix
        )
