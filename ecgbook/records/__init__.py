"""One 12-lead ECG from a file, checked, in millivolts."""

from .header import RecordError
from .reading import Record, read_record

__all__ = [
    "RecordError",
    "Record",
    "read_record",
]
