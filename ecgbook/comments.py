"""Comment lines of a WFDB header (codes, age, sex), and the error that names a bad record."""

from __future__ import annotations

import math
import re
from pathlib import Path

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


def parse_comments(
    path: Path, comments: list[str]
) -> tuple[tuple[str, ...], float | None, str | None]:
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

    words = [word for text in stated["dx"] for word in re.split(r"[,;\s]+", text)]
    codes = [word for word in words if re.search(r"\d", word)]
    if odd := [code for code in codes if not re.fullmatch(r"\d{6,18}", code, re.A)]:
        raise RecordError(path, "codes", odd[0], "SNOMED CT codes of 6 to 18 digits")
    if stated["diagnoses"]:  # LUDB spells its findings out
        starts = _LUDB_FINDINGS.items()
        codes += [code for c in comments for start, code in starts if c.lower().startswith(start)]
    return tuple(dict.fromkeys(codes)), age, _SEXES.get(sex_text)
