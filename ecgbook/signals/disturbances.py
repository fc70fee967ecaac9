"""Disturbances of a 12-lead ECG, added at the electrodes so that Einthoven's law still holds.

Source: G. B. Moody, W. K. Muldrow, R. G. Mark (1984), "A noise stress test for arrhythmia
detectors", for the kinds: baseline wander, muscle activity and electrode motion; mains besides.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import signal

ELECTRODES: tuple[str, ...] = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
"""The electrodes that pick up noise, all against the right leg."""

ELECTRODES_TO_LEADS = np.zeros((8, 9))
"""Rows I, II, V1 to V6, columns `ELECTRODES`: the chest leads are against the mean of the limbs."""
ELECTRODES_TO_LEADS[0, :2] = -1, 1
ELECTRODES_TO_LEADS[1, [0, 2]] = -1, 1
ELECTRODES_TO_LEADS[2:, :3] = -1 / 3
ELECTRODES_TO_LEADS[2:, 3:] = np.eye(6)

KNOT_S = 0.25
"""Time between the knots of the baseline, in s."""

WALK_MV, WALK_MEMORY, BREATH_MV = 0.0045, 0.97, 0.012
"""A step of the slow walk in mV, the share of it that is left a knot later, and the breath."""

MAINS_HZ: tuple[float, float] = (50.0, 60.0)
"""Frequencies of the mains."""

_TO_LEADS = ELECTRODES_TO_LEADS.T.astype(np.float32)
_CATMULL_ROM = 0.5 * np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]])


def disturbance(
    samples: int, fs_hz: float, breath_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the disturbance of one record: every kind, at a level of the record's own.

    Parameters
    ----------
    samples : int
        Length.
    fs_hz : float
        Sampling rate.
    breath_hz : float
        Respiratory rate, which part of the baseline follows.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray, shape (samples, 8), float32
        Disturbance of the independent leads in mV.

    Notes
    -----
    One record in twelve is poor throughout, and one in thirty has an electrode with bad contact.
    """
    time_s = np.arange(samples) / fs_hz
    level = np.exp(0.45 * rng.standard_normal()) * (3.0 if rng.random() < 1 / 12 else 1.0)
    own = level * np.exp(0.35 * rng.standard_normal((len(ELECTRODES), 1)))
    if rng.random() < 1 / 30:
        own[rng.integers(len(ELECTRODES))] *= rng.uniform(5, 12)
    electrodes = _muscle(time_s, fs_hz, own, rng)  # (electrodes, samples) float32
    electrodes += _baseline(samples, fs_hz, breath_hz, own, rng)
    if rng.random() < 0.25:
        _motion(electrodes, time_s, fs_hz, level, rng)
    if rng.random() < 0.35:
        electrodes += _mains(time_s, fs_hz, rng)
    return electrodes.T @ _TO_LEADS


def curve_weights(step: int) -> np.ndarray:
    """Compute the weights of a smooth curve through knots (Catmull-Rom).

    Parameters
    ----------
    step : int
        Samples from one knot to the next.

    Returns
    -------
    ndarray, shape (4, step), float32
        What the four knots around a piece weigh in each of its samples.
    """
    powers = (np.arange(step) / step) ** np.arange(4)[:, None]
    return (_CATMULL_ROM @ powers).astype(np.float32)


def mains_hz(fs_hz: float) -> tuple[float, ...]:
    """Return the frequencies of the mains that a sampling rate can hold.

    Parameters
    ----------
    fs_hz : float
        Sampling rate in Hz.
    """
    return tuple(hz for hz in MAINS_HZ if hz <= 0.45 * fs_hz)


def _baseline(samples, fs_hz, breath_hz, own, rng) -> np.ndarray:
    """Breath, a slow walk, and a floor between 0.5 and 4 Hz."""
    step = round(KNOT_S * fs_hz)  # whole samples between knots: every piece has the same weights
    pieces = -(-samples // step)
    knots_s = (np.arange(pieces + 3) - 1) * (step / fs_hz)
    steps = rng.standard_normal((2, len(ELECTRODES), len(knots_s)))
    walk = WALK_MV * signal.lfilter([1.0], [1.0, -WALK_MEMORY], steps[0]) + WALK_MV * steps[1]
    phase = rng.uniform(0, 2 * np.pi) + 0.4 * rng.standard_normal((len(ELECTRODES), 1))
    swing = BREATH_MV * np.exp(0.5 * rng.standard_normal((len(ELECTRODES), 1)))
    breath = swing * np.sin(2 * np.pi * breath_hz * knots_s + phase)
    knots = (own * (walk + breath)).astype(np.float32)
    around = np.stack([knots[:, k : k + pieces] for k in range(4)], axis=-1)
    curve = around.reshape(-1, 4) @ curve_weights(step)
    return curve.reshape(len(ELECTRODES), -1)[:, :samples]


@lru_cache(maxsize=8)
def muscle_filter(fs_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Design the first-order filter that colors muscle noise: 6 to 80 Hz, where the rate allows.

    Parameters
    ----------
    fs_hz : float
        Sampling rate in Hz.

    Returns
    -------
    b, a : ndarray, float32
        Coefficients of numerator and denominator.
    """
    edges, kind = (6.0, "highpass") if fs_hz <= 180 else ((6.0, 80.0), "bandpass")
    b, a = signal.butter(1, edges, kind, fs=fs_hz)  # pyright: ignore[reportAssignmentType, reportGeneralTypeIssues]
    return b.astype(np.float32), a.astype(np.float32)


def _normals(rows, columns, rng) -> np.ndarray:
    """Draw standard normal numbers in float32, about twice as fast as the generator's own.

    Source: G. E. P. Box, M. E. Muller (1958), doi:10.1214/aoms/1177706645: a radius and an angle
    give two independent numbers.
    """
    half = (rows * columns + 1) // 2
    points = np.frombuffer(rng.bytes(8 * half), dtype=np.uint32).astype(np.float32)
    points += np.float32(0.5)
    radius = np.sqrt(-2 * np.log(points[:half] * np.float32(2.0**-32)))
    angle = points[half:] * np.float32(2 * np.pi * 2.0**-32)
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[: rows * columns].reshape(rows, columns)


def _muscle(time_s, fs_hz, own, rng) -> np.ndarray:
    """Broad noise above 8 Hz of one spectral density at any rate, swelling and ebbing."""
    white = _normals(len(ELECTRODES), len(time_s), rng)
    scale = 0.00056 * np.sqrt(fs_hz / 2) * own
    noise = signal.lfilter(*muscle_filter(fs_hz), white)
    knots_s = np.arange(0, time_s[-1] + 2, 1.0)
    swell = np.interp(time_s, knots_s, np.exp(0.3 * rng.standard_normal(len(knots_s))))
    noise *= swell.astype(np.float32)
    noise *= scale.astype(np.float32)
    return noise


def _motion(electrodes, time_s, fs_hz, level, rng) -> None:
    """Add one to three knocks on an electrode: a jump that decays, with a tremble."""
    for _ in range(rng.integers(1, 4)):
        start, lasts = rng.uniform(0, time_s[-1]), rng.uniform(0.2, 1.0)
        shown = slice(int(start * fs_hz) + 1, int((start + 9 * lasts) * fs_hz))
        since = time_s[shown] - start
        knock = np.exp(-since / lasts) * (1 - np.exp(-since / 0.05))
        tremble = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(1.5, 5) * since + rng.uniform(0, 6))
        size_mv = 0.10 * level * np.exp(0.5 * rng.standard_normal()) * rng.choice([-1, 1])
        electrodes[rng.integers(len(ELECTRODES)), shown] += size_mv * knock * tremble


def _mains(time_s, fs_hz, rng) -> np.ndarray:
    """50 or 60 Hz, unlike on every electrode; nothing where the rate is too low for it."""
    hz = float(rng.choice(MAINS_HZ))
    size = 0.0012 * np.exp(0.9 * rng.standard_normal()) * rng.uniform(0.4, 1.6, len(ELECTRODES))
    phase = rng.uniform(0, 2 * np.pi) + 0.3 * rng.standard_normal(len(ELECTRODES))
    if hz not in mains_hz(fs_hz):
        return np.zeros((len(ELECTRODES), 1), dtype=np.float32)
    cycles = hz * time_s
    angle = (2 * np.pi * (cycles - np.rint(cycles))).astype(np.float32)
    turn = np.stack([size * np.cos(phase), size * np.sin(phase)], axis=1).astype(np.float32)
    return turn @ np.stack([np.sin(angle), np.cos(angle)])
