"""One way to change a sampling rate, for records, noise and the search for beats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import scipy.signal


def rate_ratio(fs_hz: float, to_hz: float) -> Fraction:
    """Return the new rate over the old one, as whole numbers up to 1000 can say it.

    Parameters
    ----------
    fs_hz, to_hz : float
        Old and new rate in Hz.

    Returns
    -------
    Fraction
        A signal of n samples has ``ceil(n * ratio)`` afterwards.
    """
    return Fraction(to_hz / fs_hz).limit_denominator(1000)


def resample(x: np.ndarray, fs_hz: float, to_hz: float) -> np.ndarray:
    """Change the sampling rate with SciPy's polyphase filter.

    Parameters
    ----------
    x : ndarray, shape (samples, …)
    fs_hz, to_hz : float
        Old and new rate in Hz.

    Returns
    -------
    ndarray
        `x` itself where the rates are the same.
    """
    ratio = rate_ratio(fs_hz, to_hz)
    if ratio == 1:
        return x
    return scipy.signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=0)
