"""Figures: an ECG on ECG paper, a learning curve, scores with intervals. Each returns its Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .leads import LEADS, index

STYLE: dict[str, object] = {
    "figure.figsize": (6.0, 3.4),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.prop_cycle": plt.cycler(color=["#1f4e79", "#c8553d", "#6a8d4f", "#8a6fa8", "#b8860b"]),
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
"""Settings for a chapter's first cell: ``plt.rcParams.update(plots.STYLE)``."""

INK, GRID, GRID_BOLD, PAPER = "#1a1a2e", "#f3c9c4", "#e39b93", "#fffaf8"
MM_PER_S, MM_PER_MV = 25.0, 10.0
_COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
_ROW_MM, _MARGIN_MM, _PULSE_MM, _WIDTH_MM = 27.0, 13.0, 5.0, 250.0


def ecg_paper(
    signal_mv: np.ndarray,
    fs_hz: float,
    start_s: float = 0.0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw ten seconds of a 12-lead ECG as a cardiograph prints them.

    Three rows of four leads, 2.5 s each, over a 10 s strip of lead II, at 25 mm/s and 10 mm/mV on
    paper ruled in 1 mm and 5 mm, with a calibration pulse of 1 mV and 0.2 s before each row.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV, standard lead order; NaN leaves a gap.
    fs_hz : float
        Sampling rate in Hz.
    start_s : float
        Where the ten seconds begin. A record that ends earlier leaves paper empty.
    title : str, optional
        Written above the traces.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure in which 1 mm is 1 mm at 100 % zoom.

    Returns
    -------
    matplotlib Axes
        Its unit is the millimetre on both axes; 0 s of the strip is at x = 0, and so second t
        at ``x = 25 t``.

    Raises
    ------
    ValueError
        If the signal is not ``(samples, 12)``, the rate is not positive, or nothing of the record
        lies after `start_s`.
    """
    signal_mv = np.asarray(signal_mv)
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(LEADS):
        raise ValueError(f"signal of shape {signal_mv.shape} found, (samples, 12) in mV wanted")
    if not fs_hz > 0:
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive rate in Hz wanted")
    if not 0 <= start_s < len(signal_mv) / fs_hz:
        raise ValueError(
            f"start_s={start_s} found, 0 to {len(signal_mv) / fs_hz:g} s (the record's end) wanted"
        )
    first = round(start_s * fs_hz)
    part = signal_mv[first : first + round(10 * fs_hz)]
    time_mm = np.arange(len(part)) / fs_hz * MM_PER_S
    low, high = -0.75 * _ROW_MM, 3.9 * _ROW_MM
    left, right = -_MARGIN_MM, _WIDTH_MM + 2
    if ax is None:
        size = (right - left) / 25.4, (high - low) / 25.4
        figure = plt.figure(figsize=size, layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
    _rule(ax, left, right, low, high)
    for row in range(4):
        base = (3 - row) * _ROW_MM
        _pulse(ax, base)
        for column, names in enumerate(_COLUMNS):
            if row == 3 and column:
                break
            name = "II" if row == 3 else names[row]
            start, end = (0, 250) if row == 3 else (62.5 * column, 62.5 * (column + 1))
            shown = (time_mm >= start) & (time_mm < end)
            trace = base + MM_PER_MV * part[shown, index(name)[0]]
            ax.plot(time_mm[shown], trace, color=INK, linewidth=0.9, solid_joinstyle="round")
            ax.text(start + 1, base + 9, name, color=INK, fontsize=9, fontweight="bold")
            if column:
                ax.plot([start, start], [base - 3, base + 3], color=INK, linewidth=0.6)
    note = "25 mm/s   10 mm/mV   for teaching, not for diagnosis"
    ax.text(left + 3, low + 2.5, note, color=INK, fontsize=8)
    if title:
        ax.text(left + 3, high - 6, title, color=INK, fontsize=10)
    return ax


def _rule(ax: Axes, left: float, right: float, low: float, high: float) -> None:
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.set_axis_off()
    ax.add_patch(plt.Rectangle((left, low), right - left, high - low, color=PAPER, zorder=0))
    for step, color, width in ((1, GRID, 0.35), (5, GRID_BOLD, 0.6)):
        xs = np.arange(np.ceil(left / step) * step, right + 1e-9, step)
        ys = np.arange(np.ceil(low / step) * step, high + 1e-9, step)
        lines = [((x, low), (x, high)) for x in xs] + [((left, y), (right, y)) for y in ys]
        ax.add_collection(LineCollection(lines, colors=color, linewidths=width, zorder=0.5))


def _pulse(ax: Axes, base: float) -> None:
    x = -_MARGIN_MM + 3
    height = MM_PER_MV
    xs = [x - 2, x, x, x + _PULSE_MM, x + _PULSE_MM, x + _PULSE_MM + 2]
    ys = [base, base, base + height, base + height, base, base]
    ax.plot(xs, ys, color=INK, linewidth=0.9, solid_joinstyle="miter")


def learning_curve(epochs: Sequence[Mapping], ax: Axes | None = None) -> Axes:
    """Draw training and validation loss by epoch, with the epoch that was kept.

    Parameters
    ----------
    epochs : sequence of mapping
        ``bundle.card["epochs"]``: rows with ``train_loss``, ``valid_loss`` and ``valid_auroc``.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = ax or plt.figure().add_subplot()
    number = np.arange(1, len(epochs) + 1)
    for key, label in (("train_loss", "training"), ("valid_loss", "validation")):
        ax.plot(number, [row[key] for row in epochs], label=label)
    kept = int(np.nanargmax([row["valid_auroc"] for row in epochs])) + 1
    ax.axvline(kept, color="0.6", linewidth=1, linestyle=":")
    ax.annotate("kept", (kept, ax.get_ylim()[1]), ha="center", va="bottom", color="0.4")
    ax.set(xlabel="epoch", ylabel="binary cross-entropy")
    ax.legend()
    return ax


def intervals(rows: Mapping[str, Sequence[float]], xlabel: str, ax: Axes | None = None) -> Axes:
    """Draw one value with its interval a row.

    Parameters
    ----------
    rows : mapping of str to (value, low, high)
        Rows from top to bottom; a row whose value is NaN is labeled so and left empty.
    xlabel : str
        What the values are, with the unit.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = ax or plt.figure(figsize=(6.0, 0.8 + 0.36 * len(rows))).add_subplot()
    names = []
    for y, (name, (value, low, high)) in enumerate(rows.items()):
        missing = value is None or np.isnan(value)
        names.append(f"{name} (not defined)" if missing else name)
        if not missing:
            ax.plot([low, high], [y, y], color="C0", linewidth=2, solid_capstyle="round")
            ax.plot(value, y, "o", color="C0", markersize=6)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    ax.grid(axis="x", color="0.9")
    return ax
