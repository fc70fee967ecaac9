"""Intervals for scores, and for differences between scores, by resampling patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .metrics import AbsentClassWarning, auprc, auroc, check, curve

Metric = Callable[..., "np.ndarray | float"]

_CELLS_AT_ONCE = 2_000_000  # draws x records held in memory by a bootstrap


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap percentile interval.

    Attributes
    ----------
    value, low, high : float or ndarray, shape (k,)
        The metric on all records and the bounds of the interval; NaN where not defined.
    level : float
        Nominal coverage, such as 0.95.
    n_draws : int
        Draws asked for.
    n_used : int or ndarray, shape (k,)
        Draws in which the metric was defined. The others are left out of the interval.
    draws : ndarray, shape (n_draws,) or (n_draws, k)
        The metric in every draw.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float
    n_draws: int
    n_used: int | np.ndarray
    draws: np.ndarray = field(compare=False, repr=False)

    def average(self, classes: Sequence[int] | None = None) -> Interval:
        """Average over classes inside each draw, as ``bootstrap(…, average=True)`` does over all.

        Parameters
        ----------
        classes : sequence of int, optional
            Which ones; all by default.
        """
        which = slice(None) if classes is None else list(classes)
        return _interval(*_over_classes(self.value[which], self.draws[:, which]), self.level)

    def __str__(self) -> str:
        """Return ``0.912 [0.890, 0.931]``, one such entry a class."""
        rows = zip(
            np.atleast_1d(self.value),
            np.atleast_1d(self.low),
            np.atleast_1d(self.high),
            strict=True,
        )
        return ", ".join(f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in rows)


def bootstrap(
    metric: Metric,
    y: np.ndarray,
    p: np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    mask: np.ndarray | None = None,
    average: bool = False,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a metric with a percentile interval by resampling patients.

    Parameters
    ----------
    metric : callable
        Called as ``metric(y, p, mask=mask)``; returns a number or one a class. Fix thresholds
        with ``functools.partial(f1, thresholds=t)``. `auroc` and `auprc` run on all draws at once.
    y, p, mask
        As for `auroc`.
    groups : sequence of length n, optional
        The patient of each record. All records of a drawn patient come along. None: every record
        is a patient of its own.
    average : bool
        Also average over the classes, inside each draw. The average runs over the classes
        that all records together have, so a draw that lacks one of them is left out.
    n_draws : int
        Number of draws.
    level : float
        Nominal coverage between 0 and 1.
    seed : int
        Seed of the draws; equal seeds, records and groups give equal draws.

    Returns
    -------
    Interval
        An `AbsentClassWarning` says how many draws were left out, if any.

    Raises
    ------
    ValueError
        As `auroc`; also if `groups` has another length or holds empty names.

    Source: B. Efron, R. Tibshirani (1993), An Introduction to the Bootstrap, ch. 13 (percentiles).
    """
    y, p, mask = check(y, p, mask)
    value = metric(y, p, mask=mask)
    (draws,) = _replicates(metric, y, [p], mask, groups, n_draws, seed)
    return _interval(*(_over_classes(value, draws) if average else (value, draws)), level)


def paired_bootstrap(
    metric: Metric,
    y: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    mask: np.ndarray | None = None,
    average: bool = False,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute the difference of a metric, b - a, with an interval from the same draws for both.

    Parameters
    ----------
    p_a, p_b : ndarray, shape (n, k)
        Scores of two models on the same records. To compare F1 at different thresholds, give
        the calls (``p_a >= thresholds_a`` as 0/1) and a threshold of 0.5.
    metric, y, groups, mask, average, n_draws, level, seed
        As for `bootstrap`, and so are the errors.

    Returns
    -------
    Interval
        Of b - a: above 0 where b is better, for a metric of which more is better.
    """
    y, p_a, mask = check(y, p_a, mask)
    y, p_b, mask = check(y, p_b, mask)
    value = np.subtract(metric(y, p_b, mask=mask), metric(y, p_a, mask=mask))
    draws_a, draws_b = _replicates(metric, y, [p_a, p_b], mask, groups, n_draws, seed)
    draws = draws_b - draws_a
    return _interval(*(_over_classes(value, draws) if average else (value, draws)), level)


def _auroc_draws(y, p, mask, counts):
    """AUROC (draws,) of one class in every draw, NaN without positives or negatives."""
    _, hits, calls = curve(y, p, mask, counts)
    alarms = calls - hits
    height = hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]
    area = (np.diff(alarms, axis=1, prepend=0) * height).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return area / (2.0 * hits[:, -1] * alarms[:, -1])


def _auprc_draws(y, p, mask, counts):
    """Average precision (draws,) of one class in every draw, NaN without positives."""
    _, hits, calls = curve(y, p, mask, counts)
    area = (np.diff(hits, axis=1, prepend=0) * (hits / np.maximum(calls, 1))).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return area / hits[:, -1]


def _group_numbers(groups, n):
    """Return the group of each record as integers from 0, and the number of groups."""
    if groups is None:
        return np.arange(n), n
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups of shape {names.shape} found, ({n},) wanted: one per record")
    if names.dtype.kind in "OUS":
        names = np.array([None if name is None else str(name).strip() for name in names])
        empty = [name in (None, "", "nan") for name in names]
    else:
        empty = np.isnan(names) if names.dtype.kind == "f" else np.zeros(n, dtype=bool)
    if np.any(empty):
        raise ValueError(
            f"empty group found in {np.sum(empty)} records, a name wanted: a record of an unknown"
            " patient needs a name of its own, such as its record name"
        )
    unique, numbers = np.unique(names, return_inverse=True)
    return numbers, len(unique)


def _draw_counts(groups, n, n_draws, seed) -> Iterator[np.ndarray]:
    """Yield counts (some draws, n): how often each draw of groups holds each record."""
    numbers, n_groups = _group_numbers(groups, n)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // n)
    for first in range(0, n_draws, step):
        rows = min(step, n_draws - first)
        drawn = rng.integers(n_groups, size=(rows, n_groups))
        drawn += n_groups * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_groups).reshape(rows, n_groups)
        yield counts[:, numbers]


def _replicates(metric, y, scores, mask, groups, n_draws, seed) -> list[np.ndarray]:
    """Return the metric of every draw, (n_draws, k) or (n_draws,), for each of `scores`."""
    if n_draws < 1:
        raise ValueError(f"n_draws {n_draws} found, at least 1 wanted")
    at_once = {auroc: _auroc_draws, auprc: _auprc_draws}.get(metric)
    parts: list[list[np.ndarray]] = [[] for _ in scores]
    for counts in _draw_counts(groups, len(y), n_draws, seed):
        for part, p in zip(parts, scores, strict=True):
            if at_once:
                columns = zip(y.T, p.T, mask.T, strict=True)
                part.append(np.stack([at_once(*c, counts) for c in columns], axis=1))
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AbsentClassWarning)  # counted below instead
                for count in counts:
                    rows = np.repeat(np.arange(len(y)), count)
                    part.append(np.asarray([metric(y[rows], p[rows], mask=mask[rows])]))
    return [np.concatenate(part) for part in parts]


def _over_classes(value, draws) -> tuple[float, np.ndarray]:
    """Average a value (k,) and its draws (n_draws, k) over the classes that the value has."""
    value = np.asarray(value, dtype=np.float64)
    if value.ndim != 1:
        raise ValueError("average=True found for a metric of one number, one a class wanted")
    present = ~np.isnan(value)
    if not present.any():
        return np.nan, draws[:, 0]
    return value[present].mean(), draws[:, present].mean(axis=1)


def _interval(value, draws, level) -> Interval:
    """Turn a value () or (k,) and its draws (n_draws,) or (n_draws, k) into an Interval."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} found, a number between 0 and 1 wanted, such as 0.95")
    value = np.asarray(value, dtype=np.float64)
    defined = ~np.isnan(draws)
    n_used = defined.sum(axis=0)
    if (n_used < len(draws)).any():
        warnings.warn(
            f"{len(draws) - n_used} of {len(draws)} draws left out: a class is absent in them",
            AbsentClassWarning,
            stacklevel=3,
        )
    tails = [(1 - level) / 2, (1 + level) / 2]
    columns = draws.reshape(len(draws), -1).T
    bounds = [np.quantile(c[~np.isnan(c)], tails) if np.isfinite(c).any() else [np.nan] * 2
              for c in columns]  # fmt: skip
    low, high = np.transpose(bounds).reshape(2, *value.shape)
    if value.ndim == 0:
        value, low, high, n_used = float(value), float(low), float(high), int(n_used)
    return Interval(value, low, high, level, len(draws), n_used, draws)
