"""What a comparison shows, in one of three words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .intervals import Interval

BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"
"""All that a comparison with an interval can say; "not shown" is not "equal"."""


def verdict(
    change: Interval | Sequence[float | None], higher_is_better: bool = True, by: float = 0.0
) -> str:
    """Say what the interval of a difference shows.

    Parameters
    ----------
    change : Interval, or (value, low, high)
        The difference to what it is compared with, b - a, as `paired_bootstrap` returns it or a
        results file holds it.
    higher_is_better : bool
        False for an error, such as `brier` and `ece`.
    by : float
        How large the difference has to be.

    Returns
    -------
    str
        ``"better"`` or ``"worse"`` where the whole interval lies on one side of `by`, or of its
        negative; ``"not shown"`` otherwise, and where a bound is not defined.

    Raises
    ------
    ValueError
        If the bounds are not in order, or `by` is negative.
    """
    if not by >= 0:
        raise ValueError(f"by={by!r} found, 0 or more wanted")
    if isinstance(change, Interval):
        change = change.as_list()
    value, low, high = (np.nan if v is None else float(v) for v in change)
    if np.isnan([value, low, high]).any():
        return NOT_SHOWN
    if low > high:
        raise ValueError(f"an interval from {low} to {high} found, low before high wanted")
    if low > by:
        return BETTER if higher_is_better else WORSE
    if high < -by:
        return WORSE if higher_is_better else BETTER
    return NOT_SHOWN
