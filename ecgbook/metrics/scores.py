"""Scores of multi-label probabilities: arrays in, numbers out.

Every metric takes ``y`` (n, k) of 0/1 labels, ``p`` (n, k) scores, an optional ``mask`` (n, k),
True where a label counts, and optional ``weights`` of the records, (n,) or (draws, n): many sets
of weights, such as the draws of a bootstrap, are scored at once. Nothing here knows about models,
files or class names.
"""

from __future__ import annotations

import warnings

import numpy as np

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


def auroc(
    y: np.ndarray,
    p: np.ndarray,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the area under the ROC curve of every class (scikit-learn; with weights, here).

    Parameters
    ----------
    y : ndarray, shape (n, k)
        Labels, 0 or 1.
    p : ndarray, shape (n, k)
        Scores, higher for positives; any finite numbers.
    mask : ndarray, shape (n, k), bool, optional
        True where a label counts. What `y` and `p` hold elsewhere is not looked at.
    weights : ndarray, shape (n,) or (draws, n), optional
        How much each record counts, 0 or more; 1, if omitted. A record of weight 2 counts as two.

    Returns
    -------
    ndarray, shape (k,) or (draws, k), float64
        NaN, with an `AbsentClassWarning`, for a class without positives or without negatives.

    Raises
    ------
    ValueError
        If the shapes differ, a label is not 0/1, a score is not finite or a weight is negative.
    """
    y, p, mask = check(y, p, mask)
    if weights is None:
        from sklearn.metrics import roc_auc_score  # it loads pandas, where that is installed

        values = _per_class(roc_auc_score, y, p, mask)
    else:
        values = _weighted(_roc_area, y, p, mask, weights)
    _warn_absent(np.isnan(values), "positives or no negatives")
    return values


def auprc(
    y: np.ndarray,
    p: np.ndarray,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the average precision of every class (scikit-learn; with weights, here).

    Parameters
    ----------
    y, p, mask, weights
        As for `auroc`, and so are the errors.

    Returns
    -------
    ndarray, shape (k,) or (draws, k), float64
        NaN, with an `AbsentClassWarning`, for a class without positives, or without negatives:
        there it would be 1 whatever the scores are.
    """
    y, p, mask = check(y, p, mask)
    if weights is None:
        from sklearn.metrics import average_precision_score

        values = _per_class(average_precision_score, y, p, mask)
    else:
        values = _weighted(_precision_area, y, p, mask, weights)
    _warn_absent(np.isnan(values), "positives or no negatives")
    return values


def f1(
    y: np.ndarray,
    p: np.ndarray,
    thresholds: float | np.ndarray,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the F1 score, 2 TP / (2 TP + FP + FN), of every class.

    Parameters
    ----------
    y, p, mask, weights
        As for `auroc`.
    thresholds : float or ndarray, shape (k,)
        A record is called positive where ``p >= thresholds``.

    Returns
    -------
    ndarray, shape (k,) or (draws, k), float64
        NaN, with an `AbsentClassWarning`, for a class without positives.

    Raises
    ------
    ValueError
        As `auroc`; also if `thresholds` has another shape or is not finite.
    """
    y, p, mask = check(y, p, mask)
    called = p >= _check_thresholds(thresholds, y.shape[1])
    weights = _check_weights(weights, len(y))
    hits, positives, calls = (
        weights @ each for each in (y & called & mask, y & mask, called & mask)
    )
    _warn_absent(positives == 0, "positives")
    return _divided(2.0 * hits, positives + calls, positives > 0)


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
    weights: np.ndarray | None = None,
) -> float | np.ndarray:
    """Compute the Challenge metric on the five rhythms: 1 is perfect, always-SR scores 0.

    Parameters
    ----------
    y, p, thresholds, mask, weights
        As for `f1`, with k = 5 in the order SR, AF, AFL, PAC, PVC. A masked label counts neither
        as true nor as called.

    Returns
    -------
    float, or ndarray of shape (draws,)
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

    weights = _check_weights(weights, len(y))

    def credit(called: np.ndarray) -> np.ndarray:
        called = called & mask
        union = np.maximum((true | called).sum(axis=1), 1)
        return weights @ (((true @ CHALLENGE_WEIGHTS) * called).sum(axis=1) / union)

    inactive, best = credit(always_sr), credit(true)
    defined = ~np.isclose(best, inactive, rtol=1e-12, atol=0)
    if not defined.all():
        warnings.warn(
            "the Challenge score is not defined: no rhythm but SR is present",
            AbsentClassWarning,
            stacklevel=2,
        )
    found = credit(p >= _check_thresholds(thresholds, y.shape[1]))
    score = _divided(found - inactive, best - inactive, defined)
    return score if score.ndim else float(score)


def ece(
    y: np.ndarray,
    p: np.ndarray,
    mask: np.ndarray | None = None,
    n_bins: int = 10,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the expected calibration error of every class.

    Parameters
    ----------
    y, p, mask, weights
        As for `auroc`, with probabilities in `p`.
    n_bins : int
        Number of bins of equal width over [0, 1]; bin b holds ``b <= p * n_bins < b + 1``, and
        the last one also p = 1.

    Returns
    -------
    ndarray, shape (k,) or (draws, k), float64
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
    weights = _check_weights(weights, len(y))
    bins = np.minimum((p * n_bins).astype(np.intp), n_bins - 1)
    gap = np.where(mask, y - p, 0.0)
    error = sum(np.abs(weights @ np.where(bins == number, gap, 0.0)) for number in range(n_bins))
    return _over_labels(error, mask, weights)


def brier(
    y: np.ndarray,
    p: np.ndarray,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the Brier score, the mean of (p - y)^2, of every class.

    Parameters
    ----------
    y, p, mask, weights
        As for `ece`, and so are the errors.

    Returns
    -------
    ndarray, shape (k,) or (draws, k), float64
        NaN, with an `AbsentClassWarning`, for a class without any label that counts.

    Source: G. W. Brier (1950), Monthly Weather Review 78:1-3.
    """
    y, p, mask = check(y, p, mask, probabilities=True)
    weights = _check_weights(weights, len(y))
    return _over_labels(weights @ (np.square(p - y) * mask), mask, weights)


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
        Both 0 where the mask is False.
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
    mask = np.ones(y.shape, dtype=bool) if mask is None else np.asarray(mask)
    if mask.shape != y.shape or mask.dtype != bool:
        raise ValueError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} found, {y.shape} and bool wanted"
        )
    numeric = y.dtype.kind in "biuf"
    y, p = np.where(mask, y, 0) if numeric else y, np.where(mask, p, 0.0)
    if not (numeric and np.isin(y, (0, 1)).all()):
        odd = y[~np.isin(y, (0, 1))][:1] if numeric else y.dtype
        raise ValueError(f"label {odd} found in y, 0 or 1 wanted (use mask for doubtful labels)")
    if not np.isfinite(p).all():
        row, column = np.argwhere(~np.isfinite(p))[0]
        raise ValueError(f"score {p[row, column]} found at p[{row}, {column}], finite wanted")
    if probabilities and (p.min() < 0 or p.max() > 1):
        odd = p.min() if p.min() < 0 else p.max()
        raise ValueError(f"probability {odd} found in p, 0 to 1 wanted (logits need a sigmoid)")
    return y.astype(bool), p, mask


def _check_thresholds(thresholds, n_classes):
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape not in ((), (n_classes,)) or not np.isfinite(thresholds).all():
        raise ValueError(f"thresholds {thresholds} found, a number or {n_classes} finite wanted")
    return thresholds


def _check_weights(weights, n) -> np.ndarray:
    """Return weights (n,) or (draws, n); all 1, if None."""
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights)
    if weights.ndim not in (1, 2) or weights.shape[-1] != n or weights.dtype.kind not in "biuf":
        raise ValueError(
            f"weights of shape {weights.shape} and {weights.dtype} found, ({n},) or (draws, {n}) "
            "numbers wanted"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("a weight that is negative or not finite found, 0 or more wanted")
    return weights.astype(np.float64)


def _listed(which) -> str:
    return ", ".join(str(column) for column in np.flatnonzero(which))


def _warn_absent(absent, what, then="its value is NaN") -> None:
    """Warn about the classes of which `absent`, (k,) or (draws, k), is True."""
    absent = np.atleast_2d(absent).any(axis=0)
    if absent.any():
        text = f"class in column {_listed(absent)} has no {what}: {then}"
        warnings.warn(text, AbsentClassWarning, stacklevel=3)


def _per_class(score, y, p, mask) -> np.ndarray:
    values = np.full(y.shape[1], np.nan)
    for column in range(y.shape[1]):
        truth = y[mask[:, column], column]
        if truth.any() and not truth.all():
            values[column] = score(truth, p[mask[:, column], column])
    return values


def _weighted(area, y, p, mask, weights) -> np.ndarray:
    """Compute an area under a curve of every class: (k,), or (draws, k)."""
    weights = _check_weights(weights, len(y))
    columns = zip(y.T, p.T, mask.T, strict=True)
    values = [area(*curve(*column, np.atleast_2d(weights))[1:]) for column in columns]
    return np.stack(values, axis=1).reshape(*weights.shape[:-1], y.shape[1])


def _roc_area(hits, calls) -> np.ndarray:
    """AUROC (draws,) of one class, NaN without positives or negatives."""
    alarms = calls - hits
    height = hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]
    area = (np.diff(alarms, axis=1, prepend=0) * height).sum(axis=1)
    both = hits[:, -1] * alarms[:, -1]
    return _divided(area, 2.0 * both, both > 0)


def _precision_area(hits, calls) -> np.ndarray:
    """Average precision (draws,) of one class, NaN without positives or negatives."""
    precision = _divided(hits, calls, calls > 0, otherwise=0.0)
    area = (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1)
    positives = hits[:, -1]
    return _divided(area, positives, (positives > 0) & (calls[:, -1] > positives))


def _divided(over, under, defined, otherwise=np.nan) -> np.ndarray:
    return np.where(defined, over / np.where(defined, under, 1), otherwise)


def _over_labels(total, mask, weights) -> np.ndarray:
    """Divide totals (…, k) by the weight of the labels that count."""
    n = weights @ mask
    _warn_absent(n == 0, "labels that count")
    return _divided(total, n, n > 0)


def curve(y, p, mask, weights):
    """Count calls at every cut of one class's scores, under many weights at once.

    Parameters
    ----------
    y, mask : ndarray, shape (n,), bool
    p : ndarray, shape (n,)
    weights : ndarray, shape (draws, n)
        How much each record counts.

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
    weights = weights[:, order] * mask[order]
    hits = np.cumsum(weights * y[order], axis=1)[:, ends]
    return scores[ends], hits, np.cumsum(weights, axis=1)[:, ends]
