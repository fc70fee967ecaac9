"""One 12-lead ECG from a file, checked, in millivolts, and what is doubtful in it."""

from .header import RecordError, parse_codes, parse_header, read_lines
from .quality import (
    AMPLITUDE_MV,
    DoubtfulRecordWarning,
    check_alive,
    find_beats,
    height_mv,
    is_dead,
    quality,
)
from .reading import Record, read_record

__all__ = [
    "RecordError",
    "parse_codes",
    "parse_header",
    "read_lines",
    "Record",
    "read_record",
    "AMPLITUDE_MV",
    "DoubtfulRecordWarning",
    "check_alive",
    "find_beats",
    "height_mv",
    "is_dead",
    "quality",
]
