"""Where the beats of a record are, by the detector of the WFDB package."""

from __future__ import annotations

import numpy as np

from ..leads import LEADS, index
from .resampling import resample

_RATE_HZ = 500  # XQRS finds beats that are not there where samples are few


def find_beats(signal_mv: np.ndarray, fs_hz: float) -> np.ndarray:
    """Find the R peaks in lead II with XQRS of the WFDB package.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV, standard lead order; missing samples (NaN) count as 0 mV.
    fs_hz : float
        Sampling rate in Hz; XQRS gets the signal at 500 Hz.

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
    from wfdb.processing import xqrs_detect  # with pandas, which loads with the first search

    signal_mv = np.asarray(signal_mv)
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(LEADS):
        raise ValueError(f"signal of shape {signal_mv.shape} found, (samples, 12) in mV wanted")
    if not 0 < fs_hz < np.inf:
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive rate in Hz wanted")
    if len(signal_mv) < fs_hz:
        raise ValueError(f"{len(signal_mv) / fs_hz:g} s of signal found, 1 s or more wanted")
    lead = np.nan_to_num(signal_mv[:, index("II")[0]].astype(np.float64))
    lead = resample(lead, fs_hz, _RATE_HZ)
    return np.unique(xqrs_detect(lead, _RATE_HZ, verbose=False)) / _RATE_HZ
