"""State-space scans: pure functions of tensors, fast, and the recurrences that they equal."""

from .chunked import slices
from .composed import (
    in_autocast,
    is_followed,
    is_written_down,
    selective_scan_doubling,
    shift,
    ssd_chunks,
    weighted_chunks,
    without_autocast,
)
from .recurrences import (
    may_go_back,
    plain_backward,
    segment_sum,
    selective_scan_recurrence,
    ssd_matrix,
    ssd_recurrence,
    trapezoidal_recurrence,
)
from .scans import (
    SELECTIVE_CHUNK,
    SSD_CHUNK,
    Backend,
    backend,
    selective_scan,
    ssd,
    trapezoidal_scan,
)

__all__ = [
    "slices",
    "in_autocast",
    "is_followed",
    "is_written_down",
    "selective_scan_doubling",
    "shift",
    "ssd_chunks",
    "weighted_chunks",
    "without_autocast",
    "SELECTIVE_CHUNK",
    "SSD_CHUNK",
    "Backend",
    "backend",
    "selective_scan",
    "ssd",
    "trapezoidal_scan",
    "may_go_back",
    "plain_backward",
    "segment_sum",
    "selective_scan_recurrence",
    "ssd_matrix",
    "ssd_recurrence",
    "trapezoidal_recurrence",
]
