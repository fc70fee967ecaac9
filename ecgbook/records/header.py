"""The header of a WFDB record: a strict grammar, and the error that names a bad record.

The wfdb library lets many damaged headers through, so the header is read here.

Source: WFDB header format, physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..leads import LEADS, standard_name

MAX_HEADER_BYTES = 65_536
RATE_RANGE_HZ = (20.0, 20_000.0)
GAIN_RANGE = (10.0, 100_000.0)
"""Accepted gains in steps per mV: coarser steps hide the P wave, finer ones clip the QRS."""
MATLAB_OFFSET = 24
"""Bytes in front of the samples of a MATLAB v4 file."""

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

_COMMENT = re.compile(r"<?(age|sex|dx|diagnoses)>?\s*:\s*(.*)", re.I)
_UNKNOWN = {"", "nan", "unknown", "n/a"}
_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}
_LUDB_FINDINGS = {
    "rhythm: sinus rhythm": "426783006",
    "rhythm: sinus bradycardia": "426177001",
    "rhythm: sinus tachycardia": "427084000",
    "rhythm: sinus arrhythmia": "427393009",
    "rhythm: irregular sinus rhythm": "427393009",
    "rhythm: atrial fibrillation": "164889003",
    "rhythm: atrial flutter": "164890007",
    "atrial extrasystole": "284470004",
    "ventricular extrasystole": "427172004",
}
"""How the findings that LUDB spells out begin, and the SNOMED CT codes of the same meaning."""


class RecordError(ValueError):
    """A record that cannot be trusted.

    Attributes
    ----------
    path : pathlib.Path
        The file at fault.
    field : str
        The field at fault, such as ``"gain"``.
    found, wanted : str
        What the file holds and what was expected.
    fix : str
        What to do about it; may be empty.
    """

    def __init__(self, path, field: str, found: object, wanted: object, fix: str = ""):
        found = str(found)
        self.path = Path(path)
        self.field = field
        self.found = found if len(found) <= 80 else f"{found[:77]}..."
        self.wanted = str(wanted)
        self.fix = fix
        super().__init__(path, field, self.found, self.wanted, fix)  # args: lets workers pickle it

    def __str__(self) -> str:
        fix = f" ({self.fix})" if self.fix else ""
        return f"{self.path}: {self.field}: found {self.found}, wanted {self.wanted}{fix}"


@dataclass(frozen=True, eq=False)
class Header:
    """What a header promises; arrays have shape (12,), in the order of the file.

    Attributes
    ----------
    rate_hz : float
    n_samples : int
    file : str
        Name of the signal file.
    offset : int
        Bytes in front of its samples.
    gain : ndarray
        In steps per mV.
    baseline, initial_value, checksum : ndarray
        In steps.
    leads : list of str
        Standard names.
    """

    rate_hz: float
    n_samples: int
    file: str
    offset: int
    gain: np.ndarray
    baseline: np.ndarray
    initial_value: np.ndarray
    checksum: np.ndarray
    leads: list[str]


def file_size(path: Path, field: str) -> int:
    """Return the size of a regular file, in bytes.

    Parameters
    ----------
    path : Path
    field : str
        What the error calls it.

    Raises
    ------
    RecordError
        If there is no such file.
    """
    try:
        if path.is_file():
            return path.stat().st_size
        found = "something that is no file" if path.exists() else "no such file"
    except (OSError, ValueError) as error:
        found = error
    raise RecordError(path, field, found, "a regular file", "check the path")


def read_lines(path: Path) -> tuple[list[str], list[str]]:
    """Return the lines of a header and its comments, without blanks around them.

    Parameters
    ----------
    path : Path

    Raises
    ------
    RecordError
        If the file is missing, too large or no text.
    """
    size = file_size(path, "header")
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


def parse_header(path: Path, lines: list[str]) -> Header:
    """Read the record line and the 12 signal lines.

    Parameters
    ----------
    path : Path
        The header, for the error message and the name of the record.
    lines : list of str
        As `read_lines` returns them.

    Raises
    ------
    RecordError
        If a field is malformed, or makes no sense in a 12-lead ECG.
    """

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
        check(offset in (0, MATLAB_OFFSET), "format", signal["format"], "16 or 16+24")
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
    return Header(float(rate[1]), n_samples, first_file, first_offset, *arrays, leads)


def parse_codes(text: str, path: str | Path, words: bool = False) -> tuple[str, ...]:
    """Read SNOMED CT codes that commas, semicolons or blanks set apart.

    Parameters
    ----------
    text : str
        As a header or a manifest writes them, such as ``"426783006, 164889003"``.
    path : str or Path
        Where they stand, for the error message.
    words : bool
        Leave out words without a digit, such as PTB-XL's ``NORM``, instead of refusing them.

    Returns
    -------
    tuple of str
        Each once, in their order.

    Raises
    ------
    RecordError
        If something is no code.
    """
    found = [word for word in _apart(text) if not words or re.search(r"\d", word)]
    if odd := [word for word in found if not re.fullmatch(r"\d{6,18}", word, re.A)]:
        fix = "AF, for one, is 164889003: see ecgbook.labels.CODES"
        raise RecordError(path, "codes", odd[0], "SNOMED CT codes of 6 to 18 digits", fix)
    return tuple(dict.fromkeys(found))


def _apart(text: str) -> list[str]:
    return [word for word in re.split(r"[,;\s]+", text) if word]


def parse_comments(
    path: Path, comments: list[str]
) -> tuple[tuple[str, ...], float | None, str | None, tuple[str, ...]]:
    """Read codes, age and sex from the comment lines of a header.

    Parameters
    ----------
    path : Path
        The header, for the error message.
    comments : list of str
        Its comment lines without the hash.

    Returns
    -------
    codes : tuple of str
        SNOMED CT codes in the order of the header, each once. Words that are no codes are left
        out; findings that LUDB spells out become the code of the same meaning.
    age : float or None
        In years.
    sex : {"F", "M"} or None
    words : tuple of str
        Diagnoses that are no codes, and so no labels.

    Raises
    ------
    RecordError
        If a value is out of its range, contradicts another, or a code is malformed.
    """
    stated: dict[str, list[str]] = {"age": [], "sex": [], "dx": [], "diagnoses": []}
    for comment in comments:
        if match := _COMMENT.fullmatch(comment):
            stated[match[1].lower()].append(match[2].strip().lower())

    def one(field: str) -> str:
        values = set(stated[field]) - _UNKNOWN
        if len(values) > 1:
            raise RecordError(path, field, " and ".join(sorted(values)), "one value")
        return values.pop() if values else ""

    age_text, sex_text = one("age"), one("sex")
    try:
        age = float(age_text.removeprefix(">")) if age_text else None
    except ValueError:
        age = math.nan
    if age is not None and not (0 <= age <= 130 or age == 300):
        raise RecordError(path, "age", age_text, "years from 0 to 130, 300 or NaN")
    if sex_text and sex_text not in _SEXES:
        raise RecordError(path, "sex", sex_text, "Female, Male or Unknown")

    codes = [code for text in stated["dx"] for code in parse_codes(text, path, words=True)]
    texts = " ".join(text for text in stated["dx"] if text not in _UNKNOWN)
    words = [word for word in _apart(texts) if not re.search(r"\d", word)]
    if stated["diagnoses"]:  # LUDB spells its findings out
        starts = _LUDB_FINDINGS.items()
        codes += [code for c in comments for start, code in starts if c.lower().startswith(start)]
    return tuple(dict.fromkeys(codes)), age, _SEXES.get(sex_text), tuple(dict.fromkeys(words))
