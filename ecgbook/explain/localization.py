"""Where relevance lies: on the true beats, in the waves, in the input at all.

The metrics take one record a row. Relevance (batch, length) or (batch, length, leads) is judged
sample by sample, over all leads together; sum it over the leads first to judge a time course.
Truth (batch, length) holds for all leads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.ndimage import maximum_filter1d
from torch import Tensor

from ..signals import Preprocessing
from ..synthetic import BEAT_KINDS

Array = np.ndarray | Tensor


def relevance_mass(relevance: Array, truth: Array, mask: Array | None = None) -> np.ndarray:
    """Compute the share of the positive relevance that lies on the truth (RMA).

    Parameters
    ----------
    relevance : ndarray or Tensor, shape (batch, length) or (batch, length, leads)
        The map; only its positive part counts.
    truth : ndarray or Tensor, shape (batch, length), bool
        True where the relevance should lie, such as on ectopic beats (`beat_mask`).
    mask : ndarray or Tensor, shape (batch, length), bool, optional
        True where there is signal; the rest does not count.

    Returns
    -------
    ndarray, shape (batch,), float64
        0 to 1; 0 for a map without positive relevance. A map without any relation to the truth
        has the value of `chance`.

    Raises
    ------
    ValueError
        If the shapes do not match, a value inside the mask is not finite, or a record has no true
        sample.

    Source: Arras et al. (2022), arXiv:2003.07258.
    """
    relevance, truth, mask = _check(relevance, truth, mask)
    positive = np.where(mask, np.maximum(relevance, 0), 0)
    on_truth = (positive * truth).sum((1, 2))
    total = positive.sum((1, 2))
    return np.divide(on_truth, total, out=np.zeros(len(total)), where=total > 0)


def relevance_rank(relevance: Array, truth: Array, mask: Array | None = None) -> np.ndarray:
    """Compute the share of the truth among the K most relevant samples (RRA).

    K is the number of true samples, so a perfect map has 1.

    Parameters
    ----------
    relevance, truth, mask
        As for `relevance_mass`, and so are the errors; negative relevance ranks lowest.

    Returns
    -------
    ndarray, shape (batch,), float64
        0 to 1. Of samples with equal relevance at the border all have the same chance to count,
        so a constant map has the value of `chance`.

    Source: Arras et al. (2022), arXiv:2003.07258.
    """
    relevance, truth, mask = _check(relevance, truth, mask)
    found = np.empty(len(relevance))
    for row, (values, true, valid) in enumerate(zip(relevance, truth, mask, strict=True)):
        values, true = values[valid], true[valid]
        k = np.count_nonzero(true)
        border = np.partition(values, -k)[-k]
        above, level = values > border, values == border
        room = k - np.count_nonzero(above)
        found[row] = (true[above].sum() + room * true[level].mean()) / k
    return found


def pointing_game(
    relevance: Array, truth: Array, mask: Array | None = None, *, tolerance: int
) -> np.ndarray:
    """Say if the most relevant sample lies on the truth, or close to it.

    Parameters
    ----------
    relevance, truth, mask
        As for `relevance_mass`, and so are the errors.
    tolerance : int
        Samples by which it may miss the truth: 0.1 s are ``round(0.1 * fs_hz)`` samples.

    Returns
    -------
    ndarray, shape (batch,), float64
        1 for a hit, 0 for a miss; among equal maxima, the share of hits. The value of chance is
        ``chance(truth, mask, tolerance=tolerance)``.

    Source: Zhang et al. (2018), arXiv:1608.00507.
    """
    relevance, truth, mask = _check(relevance, truth, mask)
    near = _widen(truth, tolerance)
    highest = np.where(mask, relevance, -np.inf).max((1, 2), keepdims=True)
    top = mask & (relevance == highest)
    return (top & near).sum((1, 2)) / top.sum((1, 2))


def chance(truth: Array, mask: Array | None = None, *, tolerance: int = 0) -> np.ndarray:
    """Compute what a map without relation to the truth reaches: the share of time of the truth.

    Parameters
    ----------
    truth, mask
        As for `relevance_mass`, and so are the errors.
    tolerance : int
        Samples by which the truth is widened on both sides; as for `pointing_game`, and 0 for
        `relevance_mass` and `relevance_rank`.

    Returns
    -------
    ndarray, shape (batch,), float64
    """
    _, truth, mask = _check(np.zeros(tuple(truth.shape)), truth, mask)
    return (_widen(truth, tolerance) & mask).sum((1, 2)) / mask.sum((1, 2))


def beat_mask(record, kinds: Iterable[str], fs_hz: float, n_samples: int) -> np.ndarray:
    """Mark the true beats of some kinds, as a model sees the record.

    Parameters
    ----------
    record : ecgbook.synthetic.SyntheticRecord
        A record with its true beats and waves.
    kinds : iterable of str
        Keys of `ecgbook.synthetic.BEAT_KINDS`, such as ``"V"`` or ``("A", "V")``.
    fs_hz, n_samples : float and int
        Rate and length of the model's input. A longer record loses both ends equally and a
        shorter one is padded behind, as by `ecgbook.signals.Preprocessing`.

    Returns
    -------
    ndarray, shape (n_samples,), bool
        True from the onset of the first to the offset of the last wave of such a beat: P to T, or
        QRS to T where no P wave leads to it. A premature P wave that is not conducted belongs to
        no beat and is not marked.

    Raises
    ------
    ValueError
        If a kind is unknown.
    """
    kinds = list(kinds)
    if unknown := [kind for kind in kinds if kind not in BEAT_KINDS]:
        raise ValueError(f"kind {unknown[0]!r} found, {', '.join(BEAT_KINDS)} wanted")
    window = Preprocessing(fs_hz, n_samples, band_hz=None)
    start_s, _ = window.window_s(record.signal_mv, record.fs_hz)
    marked = np.zeros(n_samples, dtype=bool)
    for beat in np.flatnonzero(np.isin(record.beats["kind"], kinds)):
        waves = record.waves[record.waves["beat"] == beat]
        marked |= _within(
            waves["onset_s"].min(), waves["offset_s"].max(), fs_hz, n_samples, start_s
        )
    return marked


def interval_shares(
    relevance: Array,
    waves: np.ndarray,
    fs_hz: float,
    mask: Array | None = None,
    *,
    absolute: bool,
    start_s: float = 0.0,
) -> dict[str, float]:
    """Compute how the relevance of one record is shared out among its waves.

    Parameters
    ----------
    relevance : ndarray or Tensor, shape (length,) or (length, leads)
        The map of one record. A map of ones gives the shares of time, to compare with.
    waves : ndarray
        Structured, with the fields ``onset_s``, ``offset_s`` and ``wave`` ("P", "QRS" or "T"), as
        `ecgbook.synthetic.SyntheticRecord.waves`.
    fs_hz : float
        Sampling rate of the map.
    mask : ndarray or Tensor, shape (length,), bool, optional
        True where there is signal; the rest does not count.
    absolute : bool
        Whether the absolute value of the relevance is shared out, or its positive part.
    start_s : float
        Time of the first sample of the map in the record, above 0 where the record was cropped.

    Returns
    -------
    dict of str to float
        Shares of "P", "QRS", "T" and "rest", with a sum of 1. A sample in two waves belongs to the
        first of QRS, P, T. NaN for a map without any relevance.

    Raises
    ------
    ValueError
        If the shapes do not match, or a wave has another name.
    """
    relevance = _array(relevance)
    values = np.abs(relevance) if absolute else np.maximum(relevance, 0)
    n = len(values)
    mask = np.ones(n, dtype=bool) if mask is None else _array(mask)
    if mask.shape != (n,) or mask.dtype != bool:
        raise ValueError(f"mask of shape {mask.shape}, {mask.dtype} found, ({n},), bool wanted")
    if odd := set(np.unique(waves["wave"]).tolist()) - {"P", "QRS", "T"}:
        raise ValueError(f"wave {min(odd)!r} found, 'P', 'QRS' or 'T' wanted")
    over_time = np.where(mask, values.reshape(n, -1).sum(1), 0)
    total, free, shares = over_time.sum(), np.ones(n, dtype=bool), {}
    for name in ("QRS", "P", "T"):
        inside = np.zeros(n, dtype=bool)
        for wave in waves[waves["wave"] == name]:
            inside |= _within(wave["onset_s"], wave["offset_s"], fs_hz, n, start_s)
        shares[name] = over_time[inside & free].sum()
        free &= ~inside
    shares["rest"] = over_time[free].sum()
    return {
        name: float(shares[name] / total) if total > 0 else math.nan
        for name in ("P", "QRS", "T", "rest")
    }


def _within(onset_s, offset_s, fs_hz, n_samples, start_s) -> np.ndarray:
    """Mark the samples from an onset to an offset, both included."""
    time_s = start_s + np.arange(n_samples) / fs_hz
    return (time_s >= onset_s) & (time_s <= offset_s)


def _widen(truth: np.ndarray, tolerance: int) -> np.ndarray:
    """Widen truth (batch, length, leads) by some samples on both sides."""
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} found, 0 samples or more wanted")
    size = 2 * int(tolerance) + 1
    return maximum_filter1d(truth.astype(np.uint8), size, axis=1, mode="constant").astype(bool)


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check(relevance, truth, mask):
    """Return relevance, truth and mask as arrays of one shape (batch, length, leads)."""
    relevance, truth = _array(relevance).astype(np.float64), _array(truth)
    mask = np.ones(truth.shape, dtype=bool) if mask is None else _array(mask)
    if relevance.ndim not in (2, 3):
        raise ValueError(
            f"relevance of shape {relevance.shape} found, (batch, length) or (batch, length, leads)"
            " wanted"
        )
    for name, values in (("truth", truth), ("mask", mask)):
        if values.shape != relevance.shape[:2] or values.dtype != bool:
            raise ValueError(
                f"{name} of shape {values.shape}, {values.dtype} found, "
                f"{relevance.shape[:2]}, bool wanted"
            )
    if not (truth & mask).any(1).all():
        row = np.flatnonzero(~(truth & mask).any(1))[0]
        raise ValueError(f"record {row} without a true sample found: leave it out")
    relevance = relevance.reshape(*truth.shape, -1)
    if not np.isfinite(relevance[mask]).all():
        raise ValueError("relevance that is not finite found inside the mask, numbers wanted")
    truth, mask = (np.broadcast_to(v[..., None], relevance.shape) for v in (truth & mask, mask))
    return relevance, truth, mask
