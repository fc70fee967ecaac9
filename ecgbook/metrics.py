"""Scores of multi-label probabilities: arrays in, numbers out.

Every metric takes ``y`` (n, k) of 0/1 labels, ``p`` (n, k) scores and an optional ``mask`` (n, k),
True where a label counts. Nothing here knows about models, files or class names.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

CHALLENGE_WEIGHTS: np.ndarray = np.array(
    [
        [1.0, 0.25, 0.25, 0.4125, 0.375],
        [0.25, 1.0, 0.5, 0.3375, 0.375],
        [0.25, 0.5, 1.0, 0.3375, 0.375],
        [0.4125, 0.3375, 0.3375, 1.0, 0.4625],
        [0.375, 0.375, 0.375, 0.4625, 1.0],
    ]
)
"""Credit for calling the column's rhythm where the row's is true; order SR, AF, AFL, PAC, PVC.

Source: ``weights.csv`` of github.com/physionetchallenges/evaluation-2021, these five rows.
"""
CHALLENGE_WEIGHTS.setflags(write=False)

_SINUS = 0  # the row and column of SR above


class AbsentClassWarning(UserWarning):
    """A class cannot be scored because its positives, or its negatives, are missing."""


def auroc(y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve of every class (scikit-learn).

    Parameters
    ----------
    y : ndarray, shape (n, k)
        Labels, 0 or 1.
    p : ndarray, shape (n, k)
        Scores, higher for positives; any finite numbers.
    mask : ndarray, shape (n, k), bool, optional
        True where a label counts.

    Returns
    -------
    ndarray, shape (k,), float64
        NaN, with an `AbsentClassWarning`, for a class without positives or without negatives.

    Raises
    ------
    ValueError
        If the shapes differ, a label is not 0/1 or a score is not finite.
    """
    y, p, mask = check(y, p, mask)
    values = _per_class(roc_auc_score, y, p, mask, needs_negatives=True)
    _warn_absent(np.isnan(values), "positives or no negatives")
    return values


def auprc(y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compute the average precision of every class (scikit-learn).

    Parameters
    ----------
    y, p, mask
        As for `auroc`, and so are the errors.

    Returns
    -------
    ndarray, shape (k,), float64
        NaN, with an `AbsentClassWarning`, for a class without positives.
    """
    y, p, mask = check(y, p, mask)
    values = _per_class(average_precision_score, y, p, mask)
    _warn_absent(np.isnan(values), "positives")
    return values


def f1(
    y: np.ndarray,
    p: np.ndarray,
    thresholds: float | np.ndarray,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the F1 score, 2 TP / (2 TP + FP + FN), of every class.

    Parameters
    ----------
    y, p, mask
        As for `auroc`.
    thresholds : float or ndarray, shape (k,)
        A record is called positive where ``p >= thresholds``.

    Returns
    -------
    ndarray, shape (k,), float64
        NaN, with an `AbsentClassWarning`, for a class without positives.

    Raises
    ------
    ValueError
        As `auroc`; also if `thresholds` has another shape or is not finite.
    """
    y, p, mask = check(y, p, mask)
    called = p >= _check_thresholds(thresholds, y.shape[1])
    hits = (y & called & mask).sum(axis=0)
    positives = (y & mask).sum(axis=0)
    calls = (called & mask).sum(axis=0)
    _warn_absent(positives == 0, "positives")
    return np.where(positives > 0, 2.0 * hits / np.maximum(positives + calls, 1), np.nan)


def macro(values: np.ndarray) -> float:
    """Average a metric over the classes that have it.

    Parameters
    ----------
    values : ndarray, shape (k,)
        One value a class, NaN for an absent class.

    Returns
    -------
    float
        The mean of the values that are not NaN; an `AbsentClassWarning` names the columns left
        out. NaN if none is left.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values of shape {values.shape} found, (k,) with k >= 1 wanted")
    present = ~np.isnan(values)
    if not present.all():
        warnings.warn(
            f"mean over {present.sum()} of {values.size} classes: "
            f"column {_listed(~present)} has no value",
            AbsentClassWarning,
            stacklevel=2,
        )
    return float(values[present].mean()) if present.any() else float("nan")


def challenge_score(
    y: np.ndarray,
    p: np.ndarray,
    thresholds: float | np.ndarray,
    mask: np.ndarray | None = None,
) -> float:
    """Compute the Challenge metric on the five rhythms: 1 is perfect, always-SR scores 0.

    Parameters
    ----------
    y, p, thresholds, mask
        As for `f1`, with k = 5 in the order SR, AF, AFL, PAC, PVC. A masked label counts neither
        as true nor as called.

    Returns
    -------
    float
        NaN, with an `AbsentClassWarning`, where always-SR is itself perfect (no other rhythm).

    Notes
    -----
    With w the weights and T, C the sets of true and called rhythms of a record,

        s(C) = sum over records of [sum over i in T, j in C of w_ij] / max(|T union C|, 1)
        score = (s(called) - s({SR})) / (s(T) - s({SR}))

    It is a five-class sub-score: not comparable with published 26-class Challenge scores.

    Source: github.com/physionetchallenges/evaluation-2021, ``compute_challenge_metric``.
    """
    y, p, mask = check(y, p, mask)
    if y.shape[1] != len(CHALLENGE_WEIGHTS):
        raise ValueError(
            f"{y.shape[1]} classes found, {len(CHALLENGE_WEIGHTS)} wanted: SR, AF, AFL, PAC, PVC"
        )
    true = y & mask
    always_sr = np.zeros_like(y)
    always_sr[:, _SINUS] = True

    def credit(called: np.ndarray) -> float:
        called = called & mask
        union = np.maximum((true | called).sum(axis=1), 1)
        return float((((true @ CHALLENGE_WEIGHTS) * called).sum(axis=1) / union).sum())

    inactive, best = credit(always_sr), credit(true)
    if np.isclose(best, inactive, rtol=1e-12, atol=0):
        warnings.warn(
            "the Challenge score is not defined: no rhythm but SR is present",
            AbsentClassWarning,
            stacklevel=2,
        )
        return float("nan")
    return (credit(p >= _check_thresholds(thresholds, y.shape[1])) - inactive) / (best - inactive)


def ece(
    y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None, n_bins: int = 10
) -> np.ndarray:
    """Compute the expected calibration error of every class.

    Parameters
    ----------
    y, p, mask
        As for `auroc`, with probabilities in `p`.
    n_bins : int
        Number of bins of equal width over [0, 1]; bin b holds ``b <= p * n_bins < b + 1``, and
        the last one also p = 1.

    Returns
    -------
    ndarray, shape (k,), float64
        Sum over bins of (share of records) x |mean label - mean probability|.
        NaN, with an `AbsentClassWarning`, for a class without any label that counts.

    Raises
    ------
    ValueError
        As `auroc`; also if a probability is outside [0, 1] or `n_bins` is below 1.

    Source: M. Pakdaman Naeini, G. Cooper, M. Hauskrecht (2015), AAAI, doi:10.1609/aaai.v29i1.9602.
    """
    y, p, mask = check(y, p, mask, probabilities=True)
    if n_bins < 1:
        raise ValueError(f"n_bins {n_bins} found, at least 1 wanted")
    bins = np.minimum((p * n_bins).astype(np.intp), n_bins - 1)
    error = np.zeros(y.shape[1])
    for column in range(y.shape[1]):
        keep = mask[:, column]
        gap = y[keep, column] - p[keep, column]
        error[column] = np.abs(np.bincount(bins[keep, column], weights=gap)).sum()
    _warn_absent(~mask.any(axis=0), "labels that count")
    return _over_labels(error, mask)


def brier(y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compute the Brier score, the mean of (p - y)^2, of every class.

    Parameters
    ----------
    y, p, mask
        As for `ece`, and so are the errors.

    Returns
    -------
    ndarray, shape (k,), float64
        NaN, with an `AbsentClassWarning`, for a class without any label that counts.

    Source: G. W. Brier (1950), Monthly Weather Review 78:1-3.
    """
    y, p, mask = check(y, p, mask, probabilities=True)
    _warn_absent(~mask.any(axis=0), "labels that count")
    return _over_labels((np.square(p - y) * mask).sum(axis=0), mask)


def best_thresholds(y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Find the threshold of every class that maximizes its F1, over all possible cuts.

    Parameters
    ----------
    y, p, mask
        As for `auroc`. Give validation records: a threshold is a choice.

    Returns
    -------
    ndarray, shape (k,), float64
        For use as ``p >= threshold``. It lies halfway between the scores on either side of the
        best cut (at the lowest score where everything is called positive); of equally good cuts
        the highest is taken. 0.5, with an `AbsentClassWarning`, for a class without positives.
    """
    y, p, mask = check(y, p, mask)
    chosen = np.full(y.shape[1], 0.5)
    present = (y & mask).any(axis=0)
    _warn_absent(~present, "positives", "its threshold is set to 0.5")
    for column in np.flatnonzero(present):
        keep = mask[:, column]
        truth, score = y[keep, column], p[keep, column]
        scores, hits, calls = curve(truth, score, keep[keep], np.ones((1, keep.sum())))
        quality = 2 * hits[0] / (hits[0, -1] + calls[0])
        cut = int(np.argmax(quality))
        chosen[column] = scores[cut]
        if cut + 1 < len(scores):
            halfway = scores[cut + 1] / 2 + scores[cut] / 2
            if scores[cut + 1] < halfway:  # not so for neighboring floats
                chosen[column] = halfway
    return chosen


def check(y, p, mask, probabilities=False):
    """Check the arrays that every metric takes.

    Parameters
    ----------
    y, p, mask
        As for `auroc`.
    probabilities : bool
        Also want every score between 0 and 1.

    Returns
    -------
    y : ndarray, shape (n, k), bool
    p : ndarray, shape (n, k), float64
    mask : ndarray, shape (n, k), bool

    Raises
    ------
    ValueError
        Naming what was found and what was wanted.
    """
    y, p = np.asarray(y), np.asarray(p, dtype=np.float64)
    if y.ndim != 2 or 0 in y.shape:
        raise ValueError(
            f"y of shape {y.shape} found, (records, classes) wanted: reshape with y[:, None]"
            " for one class"
        )
    if p.shape != y.shape:
        raise ValueError(f"p of shape {p.shape} found, the shape of y {y.shape} wanted")
    if y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
        odd = y[~np.isin(y, (0, 1))][:1] if y.dtype.kind in "biuf" else y.dtype
        raise ValueError(f"label {odd} found in y, 0 or 1 wanted (use mask for doubtful labels)")
    if not np.isfinite(p).all():
        row, column = np.argwhere(~np.isfinite(p))[0]
        raise ValueError(f"score {p[row, column]} found at p[{row}, {column}], finite wanted")
    if probabilities and (p.min() < 0 or p.max() > 1):
        odd = p.min() if p.min() < 0 else p.max()
        raise ValueError(f"probability {odd} found in p, 0 to 1 wanted (logits need a sigmoid)")
    mask = np.ones(y.shape, dtype=bool) if mask is None else np.asarray(mask)
    if mask.shape != y.shape or mask.dtype != bool:
        raise ValueError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} found, {y.shape} and bool wanted"
        )
    return y.astype(bool), p, mask


def _check_thresholds(thresholds, n_classes):
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape not in ((), (n_classes,)) or not np.isfinite(thresholds).all():
        raise ValueError(f"thresholds {thresholds} found, a number or {n_classes} finite wanted")
    return thresholds


def _listed(which) -> str:
    return ", ".join(str(column) for column in np.flatnonzero(which))


def _warn_absent(absent, what, then="its value is NaN") -> None:
    """Warn about the classes of which `absent` (k,) is True."""
    if absent.any():
        text = f"class in column {_listed(absent)} has no {what}: {then}"
        warnings.warn(text, AbsentClassWarning, stacklevel=3)


def _per_class(score, y, p, mask, needs_negatives=False):
    values = np.full(y.shape[1], np.nan)
    for column in range(y.shape[1]):
        truth = y[mask[:, column], column]
        if truth.any() and not (needs_negatives and truth.all()):
            values[column] = score(truth, p[mask[:, column], column])
    return values


def _over_labels(total, mask):
    """Divide totals (k,) by the number of labels that count."""
    n = mask.sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def curve(y, p, mask, counts):
    """Count calls at every cut of one class's scores, in many draws of the records at once.

    Parameters
    ----------
    y, mask : ndarray, shape (n,), bool
    p : ndarray, shape (n,)
    counts : ndarray, shape (draws, n)
        How often each draw holds each record.

    Returns
    -------
    scores : ndarray, shape (cuts,)
        Falling; records of equal score share one cut.
    hits, calls : ndarray, shape (draws, cuts)
        True positives, and all positives, of ``p >= score``.
    """
    order = np.argsort(-p, kind="stable")
    scores = p[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    counts = counts[:, order] * mask[order]
    hits = np.cumsum(counts * y[order], axis=1)[:, ends]
    return scores[ends], hits, np.cumsum(counts, axis=1)[:, ends]
