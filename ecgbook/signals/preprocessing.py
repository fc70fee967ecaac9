"""What happens to a signal before a model sees it: gaps, filter, rate, window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral

import numpy as np
import scipy.signal

from ..checks import check_rate, from_fields, without_numpy
from ..leads import LEADS
from .resampling import rate_ratio, resample


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a record before a model sees it; stored with every trained model.

    Missing samples are bridged by a straight line, a zero-phase Butterworth band-pass removes
    baseline and muscle noise, a polyphase filter changes the rate, and the window is cropped or
    padded. All steps are linear and the same for every lead, so Einthoven's law survives them.

    Parameters
    ----------
    fs_hz : float
        Sampling rate that comes out, in Hz.
    n_samples : int
        Length of the window that comes out. Longer records lose both ends equally; shorter ones
        are padded with zeros behind.
    band_hz : (float, float) or None
        Corner frequencies of the band-pass in Hz; None leaves the spectrum alone.
    order : int
        Order of the Butterworth filter, before it runs both ways.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    fs_hz: float = 500.0
    n_samples: int = 8192
    band_hz: tuple[float, float] | None = (0.5, 40.0)
    order: int = 3

    def __post_init__(self):
        check_rate(self.fs_hz)
        for name in ("n_samples", "order"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r} found, a whole number of 1 or more wanted")
        if self.band_hz is not None:
            low, high = self.band_hz
            object.__setattr__(self, "band_hz", (low, high))  # a list would equal no tuple
            if not 0 < low < high < self.fs_hz / 2:
                raise ValueError(
                    f"band_hz={self.band_hz} found, 0 < low < high < {self.fs_hz / 2:g} Hz wanted"
                )
        without_numpy(self)

    def __call__(self, signal_mv: np.ndarray, fs_hz: float) -> tuple[np.ndarray, np.ndarray]:
        """Prepare one record.

        Parameters
        ----------
        signal_mv : ndarray, shape (samples, leads)
            Signal in mV; NaN marks missing samples. A lead that is missing throughout becomes 0.
            What is missing in all leads at either end is cut off, and a second or more of it in
            between cuts the record: the longest piece is taken.
        fs_hz : float
            Its sampling rate in Hz.

        Returns
        -------
        x : ndarray, shape (n_samples, leads), float32
            Prepared signal in mV.
        mask : ndarray, shape (n_samples,), bool
            True where `x` is signal, False where it is padding.

        Raises
        ------
        ValueError
            If the signal has another shape, is shorter than a second, or its rate is too low for
            the band.
        """
        signal_mv = np.asarray(signal_mv, dtype=np.float64)
        if signal_mv.ndim != 2 or not signal_mv.shape[1]:
            raise ValueError(f"signal of shape {signal_mv.shape} found, (samples, leads) wanted")
        if signal_mv.shape[1] > len(signal_mv):
            raise ValueError(
                f"signal of shape {signal_mv.shape} found, (samples, leads) wanted; transpose it"
            )
        check_rate(fs_hz)
        first, last = _longest_piece(signal_mv, fs_hz)
        if (seconds := (last - first) / fs_hz) < 1:
            raise ValueError(f"{seconds:.2f} s of signal found, 1 s or more wanted")
        x = _bridge_gaps(signal_mv[first:last])
        if self.band_hz is not None:
            if self.band_hz[1] >= fs_hz / 2:
                raise ValueError(
                    f"a record at {fs_hz:g} Hz found, more than {2 * self.band_hz[1]:g} Hz wanted "
                    f"for the band {self.band_hz} Hz"
                )
            sos = scipy.signal.butter(self.order, self.band_hz, "bandpass", fs=fs_hz, output="sos")
            x = scipy.signal.sosfiltfilt(sos, x, axis=0)
        x = resample(x, fs_hz, self.fs_hz)
        start = self._start(len(x))
        x = x[start : start + self.n_samples]
        window = np.zeros((self.n_samples, x.shape[1]), dtype=np.float32)
        window[: len(x)] = x
        return window, np.arange(self.n_samples) < len(x)

    def prepare(self, record, leads: Sequence[str] = LEADS) -> tuple[np.ndarray, np.ndarray]:
        """Prepare those leads of a record that a model reads.

        Parameters
        ----------
        record : Record
            Or anything else with ``signal_mv``, ``fs_hz``, ``name``, and ``leads`` if they are
            others than the twelve of `ecgbook.leads.LEADS`.
        leads : sequence of str
            Which leads, by their names, in the order that is wanted.

        Returns
        -------
        x, mask
            As when called with a signal.

        Raises
        ------
        TypeError
            If `record` is no record.
        ValueError
            If a lead is not there, or the signal cannot be prepared: named for the record.
        """
        signal_mv = select(record, leads)
        try:
            return self(signal_mv, record.fs_hz)
        except ValueError as error:
            raise ValueError(f"{record.name}: {error}") from error

    def window_s(self, signal_mv: np.ndarray, fs_hz: float) -> tuple[float, float]:
        """Say which part of a record the window holds.

        Parameters
        ----------
        signal_mv : ndarray, shape (samples, leads)
            The record.
        fs_hz : float
            Its sampling rate in Hz.

        Returns
        -------
        start_s, end_s : float
            In s from the start of the record.
        """
        first, last = _longest_piece(np.asarray(signal_mv), fs_hz)
        samples = math.ceil((last - first) * rate_ratio(fs_hz, self.fs_hz))
        start_s = first / fs_hz + self._start(samples) / self.fs_hz
        return start_s, start_s + min(samples, self.n_samples) / self.fs_hz

    def _start(self, samples: int) -> int:
        return max(0, (samples - self.n_samples) // 2)

    def to_dict(self) -> dict:
        """Return the fields as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> Preprocessing:
        """Make a `Preprocessing` from what `to_dict` returned; ValueError for anything else."""
        return from_fields(cls, fields)


def select(record, leads: Sequence[str] = LEADS) -> np.ndarray:
    """Take leads of a record by their names.

    Parameters
    ----------
    record : Record
        As for `Preprocessing.prepare`, and so are the errors.
    leads : sequence of str

    Returns
    -------
    ndarray, shape (samples, leads)
        In mV, in the order of `leads`.

    Raises
    ------
    TypeError, ValueError
    """
    if not hasattr(record, "signal_mv") or not hasattr(record, "fs_hz"):
        raise TypeError(
            f"a {type(record).__name__} found, a Record wanted; read a file with "
            "ecgbook.records.read_record, or make one: Record(name, signal_mv, fs_hz)"
        )
    own, signal_mv = tuple(getattr(record, "leads", LEADS)), np.asarray(record.signal_mv)
    if missing := [lead for lead in leads if lead not in own]:
        raise ValueError(
            f"{record.name}: no lead {', '.join(missing)} found among {', '.join(own)}, "
            f"{', '.join(leads)} wanted"
        )
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(own):
        raise ValueError(
            f"{record.name}: signal of shape {signal_mv.shape} found, (samples, {len(own)}) in mV "
            "wanted"
        )
    return signal_mv[:, [own.index(lead) for lead in leads]]


def _longest_piece(signal_mv: np.ndarray, fs_hz: float) -> tuple[int, int]:
    """Return the ends of the longest piece without a second that is missing in all leads."""
    known = np.flatnonzero(np.isfinite(signal_mv).any(axis=1))
    if not len(known):
        return 0, len(signal_mv)
    gaps = np.flatnonzero(np.diff(known) > fs_hz)
    firsts, lasts = known[np.append(0, gaps + 1)], known[np.append(gaps, -1)] + 1
    longest = np.argmax(lasts - firsts)
    return int(firsts[longest]), int(lasts[longest])


def _bridge_gaps(signal_mv: np.ndarray) -> np.ndarray:
    missing = ~np.isfinite(signal_mv)
    if not missing.any():
        return signal_mv
    x = signal_mv.copy()
    at = np.arange(len(x))
    for lead in np.flatnonzero(missing.any(axis=0)):
        known = ~missing[:, lead]
        x[:, lead] = np.interp(at, at[known], x[known, lead]) if known.any() else 0.0
    return x
