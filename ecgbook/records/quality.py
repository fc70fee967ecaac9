"""What a signal shows about itself: where its beats are, and what in it cannot be trusted.

Nobody reads an ECG before asking whether it is one. `quality` says in sentences what is dead,
missing, clipped, copied or out of proportion; it changes nothing and refuses nothing. Limits are
wide: a note is a reason to look, and a sound record may get one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from numbers import Real

import numpy as np
import scipy.signal

from ..leads import LEADS

BEAT_RATE_HZ = 500  # XQRS finds beats that are not there where samples are few
AMPLITUDE_MV = (0.1, 10.0)
"""Height of beats beyond which a unit or a gain is more likely wrong than a heart is unusual."""
BEATS_PER_MIN = (40.0, 250.0)
"""Rates of beats beyond which the sampling rate is more likely wrong."""
_RAILED = 0.01  # share of a lead's samples at its highest or lowest value, in runs, from which on
_RUN = 5  # samples in a row that make such a run
_STILL_S = 1.0  # from which on it is said that no lead moves
_MAINS_HZ = (50.0, 60.0)
_HUM_MV = 0.1  # amplitude of mains in the median lead from which on it is said
_WANDER_MV = 3.0  # range of the baseline in the median lead from which on it is said
_BEAT_BAND_HZ = 40.0  # below which most of the power of a heart lies
_MISSING = 0.01  # share of samples from which on it is said
_INVERTED = -0.7  # correlation of lead I, or II, with V6, below which it is said


class DoubtfulRecordWarning(UserWarning):
    """Something in a record is dead, missing or out of proportion: what, its notes say."""


def find_beats(signal_mv: np.ndarray, fs_hz: float, leads: Sequence[str] = LEADS) -> np.ndarray:
    """Find the R peaks in lead II with XQRS of the WFDB package.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV; missing samples (NaN) count as 0 mV.
    fs_hz : float
        Sampling rate in Hz; XQRS gets the signal at 500 Hz.
    leads : sequence of str
        The names of the columns; where none is II, the first is searched.

    Returns
    -------
    ndarray, shape (beats,), float64
        Times in s from the start, rising; empty if none is found. Some are missed, wide beats and
        those at the ends of the record first.

    Raises
    ------
    ValueError
        If the signal is not (samples, 12), is shorter than 1 s, or the rate is not positive.

    Source: XQRS of wfdb-python, github.com/MIT-LCP/wfdb-python.
    """
    signal_mv = np.asarray(signal_mv)
    check_signal(signal_mv, fs_hz, leads)
    if len(signal_mv) < fs_hz:
        raise ValueError(f"{len(signal_mv) / fs_hz:g} s of signal found, 1 s or more wanted")
    return _beats(signal_mv[:, _column("II", leads) or 0], fs_hz)


def quality(signal_mv: np.ndarray, fs_hz: float, leads: Sequence[str] = LEADS) -> tuple[str, ...]:
    """Say what in a record is dead, missing or doubtful.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV, before any filter; NaN where a sample is missing.
    fs_hz : float
        Sampling rate in Hz.
    leads : sequence of str
        The names of the columns.

    Returns
    -------
    tuple of str
        A sentence each; none if nothing was noticed, which is no promise that all is well:
        exchanged chest leads, for one, cannot be seen.

    Raises
    ------
    ValueError
        If the signal is not (samples, 12), or the rate is not positive.
    """
    signal_mv = np.asarray(signal_mv, dtype=np.float64)
    check_signal(signal_mv, fs_hz, leads)
    return tuple(_notes(signal_mv, fs_hz, tuple(leads)))


def height_mv(signal_mv: np.ndarray) -> float:
    """Measure how high the beats of a record are.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, leads)
        In mV; NaN where a sample is missing.

    Returns
    -------
    float
        The median over the leads of what 0.5 % of the samples lie beyond, from their median.
    """
    x = np.nan_to_num(signal_mv - np.nanmedian(signal_mv, axis=0))
    return float(np.median(np.percentile(np.abs(x), 99.5, axis=0)))


def is_dead(signal_mv: np.ndarray) -> np.ndarray:
    """Say of each lead whether it shows nothing: missing throughout, or one value all the time.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, leads)
        NaN where a sample is missing.

    Returns
    -------
    ndarray, shape (leads,), bool
    """
    signal_mv = np.asarray(signal_mv)
    known = np.isfinite(signal_mv)
    high = np.where(known, signal_mv, -np.inf).max(axis=0, initial=-np.inf)
    low = np.where(known, signal_mv, np.inf).min(axis=0, initial=np.inf)
    return ~(high > low)


def check_alive(record, leads: Sequence[str] | None = None) -> None:
    """Refuse a record of which nothing can be said, since no lead shows a signal.

    Parameters
    ----------
    record : Record
        Or anything else with ``signal_mv (samples, 12)`` and ``name``.
    leads : sequence of str, optional
        The only leads that count; all of the record's, if omitted.

    Raises
    ------
    ValueError
    """
    own = list(getattr(record, "leads", LEADS))
    columns = [own.index(lead) for lead in (own if leads is None else leads)]
    if is_dead(np.asarray(record.signal_mv)[:, columns]).all():
        raise ValueError(
            f"{record.name}: {len(record.signal_mv)} samples without a signal in any lead found, "
            "one lead at least wanted; look at the file, nothing can be said of this record"
        )


def check_signal(signal_mv: np.ndarray, fs_hz: float, leads: Sequence[str] = LEADS) -> None:
    """Refuse what is no signal of these leads, or no sampling rate.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, leads)
    fs_hz : float
        Sampling rate in Hz.
    leads : sequence of str
        The names of the columns.

    Raises
    ------
    ValueError
    """
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(leads):
        hint = "; transpose it" if signal_mv.shape[:1] == (len(leads),) else ""
        raise ValueError(
            f"signal of shape {signal_mv.shape} found, (samples, {len(leads)}) in mV wanted{hint}"
        )
    if not isinstance(fs_hz, Real) or not 0 < fs_hz < np.inf:
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive rate in Hz wanted")


def _column(lead: str, leads: Sequence[str]) -> int | None:
    return list(leads).index(lead) if lead in leads else None


def _notes(signal_mv: np.ndarray, fs_hz: float, leads: tuple[str, ...]) -> Iterator[str]:
    dead = is_dead(signal_mv)
    if dead.all():
        yield "no lead shows a signal"
        return
    if dead.any():
        yield f"dead: {_named(dead, leads)}; a model takes 0 mV for them, which no heart makes"
    live = signal_mv[:, ~dead]
    gone = ~np.isfinite(signal_mv).any(axis=1)
    if gone.mean() >= _MISSING:
        yield f"{gone.mean():.0%} of the samples are missing in all leads"
    part = np.isnan(live).mean() - gone.mean()
    if part >= _MISSING:
        yield f"{part:.0%} of the samples are missing in single leads; a straight line bridges them"
    if (railed := _railed(signal_mv) & ~dead).any():
        yield f"clipped: {_named(railed, leads)} often stay at their highest or lowest value"
    if copied := _copied(signal_mv, dead, leads):
        yield f"copied: {', '.join(f'{a} is {b}' for a, b in copied)}"
    if (still_s := _longest_still(live) / fs_hz) >= _STILL_S:
        yield f"{still_s:.1f} s in a row no lead moves: an end, or a gap, filled with one value?"
    yield from _electrodes(signal_mv, dead, leads)
    yield from _proportions(signal_mv, dead, fs_hz, leads)


def _railed(signal_mv: np.ndarray) -> np.ndarray:
    """Leads (12,) whose extremes last for many samples in a row."""
    found = np.zeros(signal_mv.shape[1], dtype=bool)
    for lead, x in enumerate(signal_mv.T):
        for extreme in (np.nanmax, np.nanmin) if np.isfinite(x).any() else ():
            there = x == extreme(x)
            runs = np.convolve(there, np.ones(_RUN), "valid") == _RUN
            found[lead] |= runs.sum() >= _RAILED * len(x)
    return found


def _copied(
    signal_mv: np.ndarray, dead: np.ndarray, leads: tuple[str, ...]
) -> list[tuple[str, str]]:
    first: dict[bytes, str] = {}
    pairs = []
    for lead, x, off in zip(leads, signal_mv.T, dead, strict=True):
        known = first.setdefault(np.ascontiguousarray(x).tobytes(), lead)
        if known != lead and not off:
            pairs.append((lead, known))
    return pairs


def _longest_still(live: np.ndarray) -> int:
    """Count the samples of the longest stretch in which no lead changes; gaps are no stretch."""
    still = np.concatenate([[False], (np.diff(live, axis=0) == 0).all(axis=1), [False]])
    edges = np.flatnonzero(np.diff(still.astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _disturbed(live: np.ndarray, fs_hz: float) -> Iterator[str]:
    """Mains, a wandering baseline, and what has its power where no heart has it."""
    if len(live) < fs_hz:
        return
    x = np.nan_to_num(live - np.nanmean(live, axis=0))
    window = np.hanning(len(x))[:, None]
    amplitude = 2 * np.abs(np.fft.rfft(window * x, axis=0)) / window.sum()
    hz = np.fft.rfftfreq(len(x), 1 / fs_hz)
    for mains_hz in _MAINS_HZ:
        near = np.abs(hz - mains_hz) <= max(0.5, fs_hz / len(x))
        hum_mv = np.median(amplitude[near].max(axis=0)) if near.any() else 0.0
        if hum_mv >= _HUM_MV:
            yield f"mains of {mains_hz:.0f} Hz with {hum_mv:.2g} mV in the median lead"
    one_s = np.ones(max(1, round(fs_hz))) / max(1, round(fs_hz))
    baseline = scipy.signal.oaconvolve(x, one_s[:, None], "valid", axes=0)
    if (range_mv := np.median(np.ptp(baseline, axis=0))) >= _WANDER_MV:
        yield f"the baseline wanders by {range_mv:.2g} mV in the median lead"
    power = amplitude[hz > 0.5] ** 2
    fast = power[hz[hz > 0.5] > _BEAT_BAND_HZ].sum(axis=0) / power.sum(axis=0).clip(min=1e-30)
    if np.median(fast) > 0.5:
        yield (
            f"{np.median(fast):.0%} of the power lies above {_BEAT_BAND_HZ:.0f} Hz, where a heart "
            "has little: is it an ECG?"
        )


def _electrodes(signal_mv: np.ndarray, dead: np.ndarray, leads: tuple[str, ...]) -> Iterator[str]:
    """Limb electrodes that are probably exchanged: the frontal plane against the chest."""
    compared = [_column(name, leads) for name in ("I", "II", "V6")]
    if None in compared or dead[compared].any():
        return
    one, two, v6 = compared
    x = np.nan_to_num(signal_mv)
    if np.corrcoef(x[:, one], x[:, v6])[0, 1] < _INVERTED:
        yield "I is V6 upside down: the electrodes of the arms are probably exchanged"
    elif np.corrcoef(x[:, two], x[:, v6])[0, 1] < _INVERTED:
        yield "II is V6 upside down: those of right arm and left leg are probably exchanged"


def _proportions(
    signal_mv: np.ndarray, dead: np.ndarray, fs_hz: float, leads: tuple[str, ...]
) -> Iterator[str]:
    """Amplitudes that suggest another unit, rates of beats that suggest another sampling rate."""
    height = height_mv(signal_mv[:, ~dead])
    low, high = AMPLITUDE_MV
    if not low <= height <= high:
        yield (
            f"beats are about {height:.2g} mV high, {low:g} to {high:g} mV are usual: is the unit "
            "or the gain right?"
        )
    else:
        yield from _disturbed(signal_mv[:, ~dead], fs_hz)
    if len(signal_mv) < 2 * fs_hz:
        yield f"{len(signal_mv) / fs_hz:.1f} s are too short to tell a rhythm"
        return
    lead = _column("II", leads)
    if lead is None or dead[lead]:
        lead = int(np.flatnonzero(~dead)[0])
    beats = _beats(signal_mv[:, lead], fs_hz)
    if len(beats) < 2:
        yield f"{len(beats)} beats found in {leads[lead]}"
        return
    per_min = 60 / float(np.median(np.diff(beats)))
    slow, fast = BEATS_PER_MIN
    if not slow <= per_min <= fast:
        yield (
            f"{per_min:.0f} beats per minute, {slow:g} to {fast:g} are usual: is the sampling rate "
            "right?"
        )


def _named(which: np.ndarray, leads: tuple[str, ...]) -> str:
    return ", ".join(lead for lead, is_one in zip(leads, which, strict=True) if is_one)


def _beats(lead_mv: np.ndarray, fs_hz: float) -> np.ndarray:
    """Find the R peaks of one lead: times in s."""
    from wfdb.processing import xqrs_detect  # with pandas, which loads with the first search

    ratio = Fraction(BEAT_RATE_HZ / fs_hz).limit_denominator(1000)
    x = np.nan_to_num(np.asarray(lead_mv, dtype=np.float64))
    x = scipy.signal.resample_poly(x, ratio.numerator, ratio.denominator)
    return np.unique(xqrs_detect(x, BEAT_RATE_HZ, verbose=False)) / BEAT_RATE_HZ
