"""One 12-lead ECG from a file, checked, in millivolts."""

from .header import RecordError, parse_codes
from .reading import Record, read_record

__all__ = [
    "RecordError",
    "parse_codes",
    "Record",
    "read_record",
]
