"""Intervals for scores, and for differences between scores, over patients and over seeds.

A score says something about patients that were not tested and about trainings that were not run.
So an interval knows of both: patients are drawn with all of their records, and where a model was
trained with several seeds, what they vary by is added. A mean of one interval a seed would be an
interval of nothing: it is as wide as the patients alone make it, however much the seeds differ.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.stats import t

from .scores import AbsentClassWarning, auprc, auroc, brier, challenge_score, check, ece, f1

Metric = Callable[..., "np.ndarray | float"]

_RANGES = dict.fromkeys((auroc, auprc, f1, ece, brier), (0.0, 1.0))
_RANGES[challenge_score] = (-np.inf, 1.0)
_ANY = (-np.inf, np.inf)
_CELLS_AT_ONCE = 2_000_000  # draws x records held in memory by a bootstrap
_MIN_GROUPS = 10  # of fewer, draws are too much alike


class FewGroupsWarning(UserWarning):
    """There are too few patients (groups) for an interval that covers what it says."""


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval.

    Attributes
    ----------
    value, low, high : float or ndarray, shape (k,)
        The metric on all records, averaged over the seeds, and the bounds of the interval; NaN
        where not defined.
    level : float
        Nominal coverage, such as 0.95.
    n_draws : int
        Draws asked for; 0 where there was but one group to draw.
    n_used : int or ndarray, shape (k,)
        Draws in which the metric was defined. The others are left out of the interval.
    by_seed : ndarray, shape (seeds,) or (seeds, k)
        The metric on all records, of each seed.
    draws : ndarray, shape (n_draws,) or (n_draws, k)
        The metric in every draw of patients, averaged over the seeds.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float
    n_draws: int
    n_used: int | np.ndarray
    by_seed: np.ndarray = field(compare=False, repr=False)
    draws: np.ndarray = field(compare=False, repr=False)
    within: tuple[float, float] = field(default=_ANY, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        by_seed: np.ndarray,
        draws: np.ndarray,
        level: float = 0.95,
        within: tuple[float, float] = _ANY,
    ) -> Interval:
        """Make an interval of draws, as `bootstrap` does of those it makes.

        Parameters
        ----------
        by_seed : ndarray, shape (seeds,) or (seeds, k)
            The value on all records, of each seed.
        draws : ndarray, shape (n_draws,) or (n_draws, k)
            The mean over the seeds in every draw; NaN where it is not defined.
        level : float
        within : (float, float)
            Least and greatest value that there can be: the bounds are cut there.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level {level} found, a number between 0 and 1 wanted, such as 0.95")
        by_seed = np.asarray(by_seed, dtype=np.float64)
        value = by_seed.mean(axis=0)
        n_used = (~np.isnan(draws)).sum(axis=0)
        if (n_used < len(draws)).any():
            warnings.warn(
                f"{len(draws) - n_used} of {len(draws)} draws left out: a class is absent in them",
                AbsentClassWarning,
                stacklevel=4,
            )
        pairs = zip(*(each.reshape(-1, value.size).T for each in (by_seed, draws)), strict=True)
        bounds = [np.clip(_bounds(*pair, level), *within) for pair in pairs]
        low, high = np.transpose(bounds).reshape(2, *value.shape)
        if value.ndim == 0:
            value, low, high, n_used = float(value), float(low), float(high), int(n_used)
        return cls(value, low, high, level, len(draws), n_used, by_seed, draws, within)

    def average(self, classes: Sequence[int] | None = None) -> Interval:
        """Average over classes inside each draw, as ``bootstrap(…, average=True)`` does over all.

        Parameters
        ----------
        classes : sequence of int, optional
            Which ones; all by default.
        """
        which = slice(None) if classes is None else list(classes)
        columns = self.by_seed[:, which], self.draws[:, which]
        return Interval.of(*_over_classes(*columns), self.level, self.within)

    def as_list(self) -> list[float]:
        """Return ``[value, low, high]`` of a single number, as results files hold it."""
        return [float(self.value), float(self.low), float(self.high)]

    def __str__(self) -> str:
        """Return ``0.912 [0.890, 0.931]``, one such entry a class."""
        columns = (np.atleast_1d(each) for each in (self.value, self.low, self.high))
        return ", ".join(format_interval(row) for row in zip(*columns, strict=True))


def format_interval(values: Sequence[float | None], sign: str = "") -> str:
    """Write a value with its interval as ``0.912 [0.890, 0.931]``.

    Parameters
    ----------
    values : sequence of float or None
        Value, low and high; None, as JSON holds it, and NaN are not defined.
    sign : {"", "+"}
        ``"+"`` writes the sign of positive numbers too, as for a difference.

    Returns
    -------
    str
        ``"not defined"`` without a value; the value alone where only the bounds are missing.
    """
    value, low, high = (np.nan if v is None else float(v) for v in values)
    if np.isnan(value):
        return "not defined"
    if np.isnan(low) or np.isnan(high):
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


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
    within: tuple[float, float] | None = None,
) -> Interval:
    """Compute a metric with an interval over patients, and over seeds where there are several.

    Parameters
    ----------
    metric : callable
        Called as ``metric(y, p, mask=mask, weights=weights)`` with weights (draws, n), all draws
        at once; returns a number or one a class, for every draw. A metric that takes no
        ``weights`` is called for one draw after the other, with the records that it holds. Fix
        thresholds with ``functools.partial(f1, thresholds=t)``.
    y : ndarray, shape (n, k)
        As for `auroc`.
    p : ndarray, shape (n, k) or (seeds, n, k)
        Scores of one model, or of one trained with several seeds.
    mask
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
    within : (float, float), optional
        Least and greatest value of the metric, where the bounds are cut; known for the metrics
        of `ecgbook.metrics`.

    Returns
    -------
    Interval
        Of the mean over the seeds. An `AbsentClassWarning` says how many draws were left out, a
        `FewGroupsWarning` that there are fewer than ten groups; of one group, there are no bounds.

    Raises
    ------
    ValueError
        As `auroc`; also if `groups` has another length or holds empty names.

    Notes
    -----
    A draw takes as many patients as there are, with replacement; its value is the mean over the
    seeds. The seeds themselves are too few to be drawn: three of them make ten different draws,
    which vary too little and have no tail. Their part is an interval of Student's t around the
    mean, and the two parts are put together as squares, each bound by itself (method of variance
    estimates recovery). One seed: percentiles of the draws of patients. The interval covers what
    it says where one part is much larger, and somewhat more where they are alike (of three seeds
    97.6 % at most, for a nominal 95 %).

    Source: B. Efron, R. Tibshirani (1993), An Introduction to the Bootstrap, ch. 13 (percentiles);
    G. Y. Zou, A. Donner (2008), doi:10.1002/sim.3095 (two parts in one interval).
    """
    y, scores, mask = _checked(y, p, mask)
    by_seed, draws = _scored(metric, y, scores, mask, groups, n_draws, seed)
    if within is None:
        within = _RANGES.get(metric.func if isinstance(metric, partial) else metric, _ANY)
    return _interval(by_seed, draws, average, level, within)


def add_seeds(
    low: float, high: float, by_seed: Sequence[float] | np.ndarray, level: float = 0.95
) -> list[float]:
    """Widen an interval over patients by what the seeds vary by, as `bootstrap` does.

    Parameters
    ----------
    low, high : float
        Bounds over patients, of the mean over the seeds.
    by_seed : sequence of float
        The value of each seed. One seed adds nothing.
    level : float
        Nominal coverage of the bounds.

    Returns
    -------
    list of float
        The two bounds: see the notes of `bootstrap`.
    """
    n_seeds, value = len(by_seed), np.mean(by_seed)
    if n_seeds > 1:
        quantile = t.ppf((1 + level) / 2, n_seeds - 1)
        seeds = quantile * np.sqrt(np.var(by_seed, ddof=1) / n_seeds)
        low -= np.hypot(value - low, seeds) - abs(value - low)
        high += np.hypot(high - value, seeds) - abs(high - value)
    return [float(low), float(high)]


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
    p_a, p_b : ndarray, shape (n, k) or (seeds, n, k)
        Scores of two models on the same records, of as many seeds: the first seed of one is
        paired with the first of the other. To compare F1 at different thresholds, give the calls
        (``p_a >= thresholds_a`` as 0/1) and a threshold of 0.5.
    metric, y, groups, mask, average, n_draws, level, seed
        As for `bootstrap`, and so are the errors.

    Returns
    -------
    Interval
        Of b - a: above 0 where b is better, for a metric of which more is better; `verdict` says
        so in a word. It warns as `bootstrap` does.

    Raises
    ------
    ValueError
        As `bootstrap`; also if the two have been trained with another number of seeds.
    """
    y, scores_a, checked = _checked(y, p_a, mask)
    y, scores_b, checked = _checked(y, p_b, mask)
    if len(scores_a) != len(scores_b):
        raise ValueError(
            f"{len(scores_a)} and {len(scores_b)} seeds found, as many of both wanted: give the "
            "seeds that both were trained with"
        )
    both = scores_a + scores_b
    by_seed, draws = _scored(metric, y, both, checked, groups, n_draws, seed)
    n = len(scores_a)
    return _interval(by_seed[n:] - by_seed[:n], draws[n:] - draws[:n], average, level)


def _checked(y, p, mask) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Check the arrays; return the scores of each seed."""
    p = np.asarray(p)
    if p.ndim == 3 and not len(p):
        raise ValueError(f"p of shape {p.shape} found, one seed at least wanted")
    checked = [check(y, each, mask) for each in (p if p.ndim == 3 else [p])]
    return checked[0][0], [scores for _, scores, _ in checked], checked[0][2]


def _scored(metric, y, scores, mask, groups, n_draws, seed) -> tuple[np.ndarray, np.ndarray]:
    """Score all records, (seeds,) or (seeds, k), and every draw, (seeds, n_draws[, k])."""
    n_groups = _group_numbers(groups, len(y))[1]
    if n_groups < _MIN_GROUPS:
        short = "there is no interval of one" if n_groups == 1 else "the interval is too narrow"
        warnings.warn(
            f"number of groups (patients) {n_groups} found, {_MIN_GROUPS} or more wanted: {short}; "
            "test on more patients, or report the value alone",
            FewGroupsWarning,
            stacklevel=3,
        )
    values = np.array([np.asarray(metric(y, p, mask=mask), np.float64) for p in scores])
    draws = np.stack(_replicates(metric, y, scores, mask, groups, n_draws, seed))
    return values, draws if n_groups > 1 else draws[:, :0]  # those of one group are all alike


def _interval(by_seed, draws, average, level, within=_ANY) -> Interval:
    """Average the draws over the seeds, and over the classes if asked to, and find the bounds."""
    drawn = draws.mean(axis=0)
    if average:
        by_seed, drawn = _over_classes(by_seed, drawn)
    return Interval.of(by_seed, drawn, level, within)


def _bounds(by_seed, draws, level) -> list[float]:
    """Return low and high of one number with the draws (n_draws,) of its mean over the seeds."""
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(by_seed).any():
        return [np.nan, np.nan]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return add_seeds(low, high, by_seed, level)


def _group_numbers(groups, n) -> tuple[np.ndarray, int]:
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
    at_once = "weights" in inspect.signature(metric).parameters
    parts: list[list[np.ndarray]] = [[] for _ in scores]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)  # counted by `Interval.of` instead
        for counts in _draw_counts(groups, len(y), n_draws, seed):
            for part, p in zip(parts, scores, strict=True):
                if at_once:
                    part.append(np.asarray(metric(y, p, mask=mask, weights=counts)))
                    continue
                for count in counts:
                    rows = np.repeat(np.arange(len(y)), count)
                    part.append(np.asarray([metric(y[rows], p[rows], mask=mask[rows])]))
    return [np.concatenate(part) for part in parts]


def _over_classes(by_seed, draws) -> tuple[np.ndarray, np.ndarray]:
    """Average values (seeds, k) and draws (n_draws, k) over the classes that all seeds have."""
    if by_seed.ndim != 2:
        raise ValueError("average=True found for a metric of one number, one a class wanted")
    present = ~np.isnan(by_seed).any(axis=0)
    if not present.any():
        return by_seed[:, 0], draws[:, 0]
    return by_seed[:, present].mean(axis=1), draws[:, present].mean(axis=1)
