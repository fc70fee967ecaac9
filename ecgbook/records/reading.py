"""One validated 12-lead WFDB record in millivolts, or a `RecordError` that says what is wrong.

The wfdb library reads the samples. It lets many damaged records through, so the header is read
with a strict grammar first, and the samples are checked against everything that it promises.

Source: MATLAB v4 files as in "MAT-File Format" (The MathWorks).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..leads import LEADS, column_names, limb_residual
from .header import (
    MATLAB_OFFSET,
    Header,
    RecordError,
    file_size,
    parse_comments,
    parse_header,
    read_lines,
)
from .quality import check_signal, quality

LIMB_LIMIT_MV = 0.02
"""Largest 99th percentile of the limb-lead residual; real records stay below 0.008 mV."""
LIMB_LIMIT_STEPS = 4.0
"""The same in steps of the converter, for coarse gains; real records stay below 3.6 steps."""

_BYTES_PER_SAMPLE = 2
_MISSING = -32_768


@dataclass(frozen=True, eq=False)
class Record:
    """One ECG.

    Attributes
    ----------
    name : str
        The record's name.
    signal_mv : ndarray, shape (samples, 12), float32
        Millivolts, a column a lead, NaN where a sample is missing. Lists, tensors and masked
        arrays do as well; of a pandas table the columns are taken by name.
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
    leads : tuple of str
        The names of the columns of `signal_mv`: `ecgbook.leads.LEADS`, unless others are given.
    labels : ndarray, shape (n_classes,), or None
        1 where a class is present, 0 where it is not, NaN where that is unknown. Files hold codes;
        labels are for records of your own.
    patient : str or None
        Whose record it is, if that is known.
    remarks : tuple of str
        What reading the file has to say, in sentences; `notes` begins with them.

    Raises
    ------
    ValueError
        If the signal is not (samples, leads), is no table with these columns, or the rate is no
        positive number.
    """

    name: str
    signal_mv: np.ndarray
    fs_hz: float
    codes: tuple[str, ...] = ()
    age: float | None = None
    sex: str | None = None
    rescaled: bool = False
    leads: tuple[str, ...] = LEADS
    labels: np.ndarray | None = None
    patient: str | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        try:
            object.__setattr__(self, "leads", column_names(self.leads))
            object.__setattr__(self, "signal_mv", _columns(self.signal_mv, self.leads))
            check_signal(self.signal_mv, self.fs_hz, self.leads)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is dead, missing or doubtful in the signal, in sentences: see `quality`."""
        return (*self.remarks, *quality(self.signal_mv, self.fs_hz, self.leads))

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.signal_mv) / self.fs_hz


def _columns(signal_mv, leads: tuple[str, ...]) -> np.ndarray:
    """Return a signal as an array with these leads as columns."""
    names = list(getattr(signal_mv, "columns", ()))
    if any(isinstance(name, str) for name in names):  # a table says itself which lead is which
        own = dict(zip(column_names(list(map(str, names))), names, strict=True))
        if set(own) != set(leads):
            raise ValueError(
                f"a table with the columns {', '.join(map(str, names))} found, "
                f"{', '.join(leads)} wanted; rename them, or name the leads: Record(leads=...)"
            )
        signal_mv = signal_mv[[own[lead] for lead in leads]]
    if isinstance(signal_mv, np.ma.MaskedArray):
        signal_mv = np.ma.filled(signal_mv.astype(np.float32), np.nan)
    return np.asarray(signal_mv)


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
    lines, comments = read_lines(path)
    header = parse_header(path, lines)
    codes, age, sex, words = parse_comments(path, comments)
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
    _check_leads(path, counts, signal_mv, gain, rescaled, header.rate_hz)
    remarks = ["each lead is stretched to 1 mV: amplitudes are not those of the heart"] * rescaled
    if words:
        remarks.append(f"diagnoses in words are left out: {', '.join(words)}; only codes are read")
    return Record(
        path.stem, signal_mv, header.rate_hz, codes, age, sex, rescaled, remarks=tuple(remarks)
    )


def _check_signal_file(path: Path, header: Header) -> None:
    """Compare the signal file's size, and its MATLAB header if it has one, with the header."""
    size = file_size(path, "signal file")
    body = _BYTES_PER_SAMPLE * len(LEADS) * header.n_samples
    if size != header.offset + body:
        fix = "fetch the record again, header and signal file together"
        raise RecordError(path, "file size", f"{size} bytes", f"{header.offset + body} bytes", fix)
    if header.offset:
        # Type 30 is a 16-bit matrix, little-endian; then rows, columns, real, length of "val\0".
        wanted = np.array([30, len(LEADS), header.n_samples, 0, 4], "<i4").tobytes() + b"val\0"
        try:
            with path.open("rb") as file:
                found = file.read(MATLAB_OFFSET)
        except OSError as error:
            raise RecordError(path, "signal file", error, "a readable file") from None
        if found != wanted:
            fix = "save it with scipy.io.savemat(..., format='4') as a 12-row int16 matrix 'val'"
            raise RecordError(path, "MATLAB header", found.hex(), wanted.hex(), fix)


def _read_counts(path: Path, header: Header) -> np.ndarray:
    """Read the samples with wfdb: (samples, 12) int16, in steps of the converter."""
    import wfdb  # with pandas, which loads with the first record

    try:
        stem = os.path.abspath(path.with_suffix(""))
        record = wfdb.rdrecord(stem, physical=False, return_res=16)
        counts = np.asarray(vars(record)["d_signal"])
    except Exception as error:  # wfdb raises eight kinds; the caller is promised one
        found = f"{type(error).__name__}: {error}"
        raise RecordError(path, "wfdb", found, "a record that wfdb reads") from error
    if counts.shape != (header.n_samples, len(LEADS)) or counts.dtype != np.int16:
        found = f"{counts.dtype} {counts.shape}"
        raise RecordError(path, "wfdb", found, f"int16 {(header.n_samples, len(LEADS))}")
    return counts


def _check_counts(path: Path, header: Header, counts: np.ndarray) -> None:
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
    path: Path,
    counts: np.ndarray,
    signal_mv: np.ndarray,
    gain: np.ndarray,
    rescaled: bool,
    rate_hz: float,
) -> None:
    """Reject doubled leads, and limb leads that break their identities (standard lead order)."""
    known = (counts != _MISSING).any(axis=1).sum()
    if 0 < known < min(len(counts), rate_hz):
        found = f"{known / rate_hz:.2f} s that are not missing"
        raise RecordError(path, "signal", found, "1 s or more")
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
        fix = "look for swapped, mislabelled or clipped limb leads, or a wrong gain"
        raise RecordError(
            path, "limb leads", found, f"at most {limit:.3g}{unit} from I and II", fix
        )
