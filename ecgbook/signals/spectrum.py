"""Bands of frequencies, removed from records of different lengths in one batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_rate, valid_lengths


def remove_band(
    x: Tensor,
    fs_hz: float,
    low_hz: float,
    high_hz: float,
    mask: Tensor | None = None,
    edge_hz: float = 0.0,
) -> Tensor:
    """Remove one band of frequencies from every lead of every record.

    Parameters
    ----------
    x : Tensor, shape (batch, samples, leads), float32 or float64
        Signals in mV.
    fs_hz : float
        Sampling rate in Hz.
    low_hz, high_hz : float
        The band in Hz, from `low_hz` up to, not including, `high_hz`. A `high_hz` of half the
        sampling rate includes that frequency, so that bands that meet take the signal apart.
    mask : Tensor, shape (batch, samples), bool, optional
        True where there is signal; everywhere, if omitted.
    edge_hz : float
        Width in Hz, outside of the band, over which the gain rises from 0 to 1 as half a cosine.
        Sharp edges, of 0 Hz, let the loss of every sharp wave ring on both sides of it; soft ones
        ring less and take more.

    Returns
    -------
    Tensor, shape (batch, samples, leads)
        Of each record's valid part, and of no padding, the discrete Fourier transform is 0 in
        the band and as it was outside of its edges. The step between two frequencies is the
        inverse of the valid duration; a band narrower than that may hold none.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    check_rate(fs_hz)
    if not 0 <= low_hz < high_hz <= fs_hz / 2:
        raise ValueError(
            f"a band from {low_hz!r} to {high_hz!r} Hz found, 0 <= low < high <= {fs_hz / 2:g} Hz "
            "wanted"
        )
    if not 0 <= edge_hz < math.inf:
        raise ValueError(f"edge_hz = {edge_hz!r} found, a width of 0 Hz or more wanted")
    top = float("inf") if high_hz == fs_hz / 2 else high_hz
    band = torch.tensor([low_hz, top], dtype=torch.float64)
    bands_hz, lengths = band.expand(len(x), 1, 2), valid_lengths(x, mask, None)
    return without_bands(x, bands_hz, fs_hz, lengths, edge_hz)


def without_bands(
    x: Tensor, bands_hz: Tensor, fs_hz: float, lengths: Tensor, edge_hz: float = 0.0
) -> Tensor:
    """Remove bands of frequencies, of its own from every record.

    Parameters
    ----------
    x : Tensor, shape (batch, samples, leads), float32 or float64
        Signals in mV.
    bands_hz : Tensor, shape (batch, bands, 2)
        From the first frequency in Hz up to, not including, the second; (0, 0) is no band.
    fs_hz : float
        Sampling rate in Hz.
    lengths : Tensor, shape (batch,), int64
        Valid samples of each record, as `ecgbook.checks.valid_lengths` counts them.
    edge_hz : float
        As for `remove_band`; where edges overlap, the lower gain holds.

    Returns
    -------
    Tensor, shape (batch, samples, leads)
    """
    out, lengths = x.clone(), lengths.cpu()
    bands_hz = bands_hz.cpu().double()  # frequencies are compared exactly; Apple's devices cannot
    touched = (bands_hz[..., 0] < bands_hz[..., 1]).any(1) & (lengths > 0)
    for n in lengths[touched].unique().tolist():  # records of one length share a transform
        rows = (touched & (lengths == n)).nonzero()[:, 0]
        hz = torch.arange(n // 2 + 1, dtype=torch.float64) * fs_hz / n
        low, high = bands_hz[rows, None].unbind(-1)
        taken = _taken(hz[:, None], low, high, edge_hz).amax(-1, keepdim=True)
        rows = slice(None) if len(rows) == len(x) else rows  # a slice copies nothing
        spectrum = torch.fft.rfft(x[rows, :n], dim=1) * taken.to(x.dtype).to(x.device)
        # The band is subtracted: what is rounded off is of the band's size, not the signal's.
        out[rows, :n] -= torch.fft.irfft(spectrum, n, dim=1)
    return out


def _taken(hz: Tensor, low: Tensor, high: Tensor, edge_hz: float) -> Tensor:
    """Return the share that a band takes at each frequency: 1 inside, 0 beyond its edges."""
    inside = ((hz >= low) & (hz < high)).double()
    if not edge_hz:
        return inside
    away = torch.maximum(low - hz, hz - high).clamp(0, edge_hz) / edge_hz
    return torch.where(low < high, (1 + torch.cos(math.pi * away)) / 2, inside)
