"""Figures: an ECG on ECG paper, a learning curve, scores with intervals. Each returns its Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize

from .leads import LEADS

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
_ROWS, _COLUMNS = 3, 4  # of leads, above the strip
_ROW_MM, _MARGIN_MM, _PULSE_MM, _WIDTH_MM = 27.0, 13.0, 5.0, 250.0
PAGE_MM: tuple[float, ...] = (-_MARGIN_MM, _WIDTH_MM + 2, -0.75 * _ROW_MM, 3.9 * _ROW_MM)
"""Left, right, lower and upper end of the paper."""

# ColorBrewer's red and blue, which color-blind eyes tell apart, without the ends that hide a trace.
_RELEVANCE = LinearSegmentedColormap.from_list(
    "relevance", plt.get_cmap("RdBu_r")(np.linspace(0.08, 0.92, 65))
)
AGAINST, FOR = _RELEVANCE(0.04), _RELEVANCE(0.96)
"""Colors of relevance that speaks against what is explained, and for it."""
_NEUTRAL = "#00000014", "#0000002b", _RELEVANCE(0.5)  # fine and bold ruling, paper
_BAND_MM = 10.0  # color reaches as far above and below the middle of a row


def ecg_paper(
    signal_mv: np.ndarray,
    fs_hz: float,
    start_s: float = 0.0,
    title: str | None = None,
    ax: Axes | None = None,
    relevance: np.ndarray | None = None,
    limit: float | None = None,
    leads: Sequence[str] = LEADS,
) -> Axes:
    """Draw ten seconds of a 12-lead ECG as a cardiograph prints them.

    Three rows of four leads, 2.5 s each, over a 10 s strip of lead II, at 25 mm/s and 10 mm/mV on
    paper ruled in 1 mm and 5 mm, with a calibration pulse of 1 mV and 0.2 s before each row.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV; NaN leaves a gap.
    fs_hz : float
        Sampling rate in Hz.
    start_s : float
        Where the ten seconds begin. A record that ends earlier leaves paper empty.
    title : str, optional
        Written above the traces.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure in which 1 mm is 1 mm at 100 % zoom.
    relevance : ndarray, shape (samples, 12), optional
        Share of each sample in a logit (`ecgbook.explain`), drawn as color under the traces: the
        sum over each millimeter of paper, which is 40 ms of one lead, so that the color does not
        depend on the sampling rate. One scale holds for all leads.
    limit : float, optional
        Relevance of a millimeter with full color; by default the largest in these ten seconds, of
        any lead, drawn or not. Give one to compare pages.
    leads : sequence of str
        The names of the columns, 12 at most; those of other ECGs fill the page in their order, and
        where none is II, the first is the strip.

    Returns
    -------
    matplotlib Axes
        Its unit is the millimetre on both axes; 0 s of the strip is at x = 0, and so second t
        at ``x = 25 t``.

    Raises
    ------
    ValueError
        If the signal is not ``(samples, 12)``, the rate is not positive, nothing of the record
        lies after `start_s`, the relevance is not finite or of another shape than the signal, or
        the limit is not positive.
    """
    signal_mv = np.asarray(signal_mv)
    leads = list(leads)
    if not 1 <= len(leads) <= _ROWS * _COLUMNS:
        raise ValueError(f"{len(leads)} leads found, 1 to {_ROWS * _COLUMNS} wanted on a page")
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(leads):
        raise ValueError(
            f"signal of shape {signal_mv.shape} found, (samples, {len(leads)}) in mV wanted"
        )
    if not fs_hz > 0:
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive rate in Hz wanted")
    if not 0 <= start_s < len(signal_mv) / fs_hz:
        raise ValueError(
            f"start_s={start_s} found, 0 to {len(signal_mv) / fs_hz:g} s (the record's end) wanted"
        )
    first = min(round(start_s * fs_hz), len(signal_mv) - 1)
    part = slice(first, first + round(10 * fs_hz))
    if relevance is not None:
        boxes, color = _boxes(relevance, signal_mv.shape, part, fs_hz, limit)
    signal_mv = signal_mv[part]
    time_mm = np.arange(len(signal_mv)) / fs_hz * MM_PER_S
    left, right, low, high = PAGE_MM
    if ax is None:
        size = (right - left) / 25.4, (high - low) / 25.4
        figure = plt.figure(figsize=size, layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
    _rule(ax, (GRID, GRID_BOLD, PAPER) if relevance is None else _NEUTRAL)
    strip = "II" if "II" in leads else leads[0]
    for row in range(_ROWS + 1):
        base = (_ROWS - row) * _ROW_MM
        _pulse(ax, base)
        for column, name in enumerate([strip] if row == _ROWS else leads[row::_ROWS]):
            lead = leads.index(name)
            start, end = (0, 250) if row == _ROWS else (62.5 * column, 62.5 * (column + 1))
            shown = (time_mm >= start) & (time_mm < end)
            trace = base + MM_PER_MV * signal_mv[shown, lead]
            ax.plot(time_mm[shown], trace, color=INK, linewidth=0.9, solid_joinstyle="round")
            ax.text(start + 1, base + 9, name, color=INK, fontsize=9, fontweight="bold")
            if column:
                ax.plot([start, start], [base - 3, base + 3], color=INK, linewidth=0.6)
            if relevance is not None:
                _band(ax, boxes[:, lead], color, start, end, base)
    note = "25 mm/s   10 mm/mV   for teaching, not for diagnosis"
    ax.text(left + 3, low + 2.5, note, color=INK, fontsize=8)
    if relevance is not None:
        _color_bar(ax, color)
    if title:
        ax.text(left + 3, high - 6, title, color=INK, fontsize=10)
    return ax


def _boxes(relevance, shape, part, fs_hz, limit) -> tuple[np.ndarray, Normalize]:
    """Return the sums over each millimeter, shape (millimeters, leads), and their scale."""
    relevance = np.asarray(relevance)
    if relevance.shape != shape:
        raise ValueError(
            f"relevance of shape {relevance.shape} found, that of the signal {shape} wanted; "
            "give one value for each sample of each lead"
        )
    if not np.isfinite(relevance).all():
        raise ValueError("relevance that is not finite found, numbers wanted; 0 at padding")
    relevance = relevance[part]
    box = np.floor(np.arange(len(relevance)) / fs_hz * MM_PER_S + 1e-6).astype(int)
    boxes = np.zeros((box[-1] + 1, shape[1]))
    np.add.at(boxes, box, relevance)
    if limit is None:
        limit = np.abs(boxes).max() or 1.0  # nothing to color
    if not 0 < limit < np.inf:
        raise ValueError(f"limit={limit!r} found, a positive relevance wanted")
    return boxes, Normalize(-limit, limit)


def _band(ax: Axes, boxes, color: Normalize, start: float, end: float, base: float) -> None:
    edges = np.arange(len(boxes) + 1.0).clip(start, end)
    shown = np.diff(edges) > 0
    if shown.any():
        edges = np.append(edges[:-1][shown], edges[1:][shown][-1])
        height = [base - _BAND_MM, base + _BAND_MM]
        style = {"norm": color, "cmap": _RELEVANCE, "zorder": 0.3}
        ax.pcolormesh(edges, height, boxes[None, shown], **style)


def _color_bar(ax: Axes, color: Normalize) -> None:
    low, end, width, height = PAGE_MM[2] + 2, _WIDTH_MM - 18, 50, 3.2
    values = np.linspace(color.vmin, color.vmax, 201)[None]
    edges = np.linspace(end - width, end, 202)
    style = {"norm": color, "cmap": _RELEVANCE, "zorder": 1}
    ax.pcolormesh(edges, [low, low + height], values, **style)
    frame = plt.Rectangle((end - width, low), width, height, fill=False, edgecolor=INK)
    ax.add_patch(frame).set(linewidth=0.5, zorder=1.1)
    text = {"color": INK, "fontsize": 9, "va": "center_baseline"}
    middle = low + height / 2
    what = f"relevance of 1 mm (40 ms of a lead), logit units:   against {color.vmin:.2g}"
    ax.text(end - width - 1.5, middle, what.replace("-", "\N{MINUS SIGN}"), ha="right", **text)
    ax.text(end + 1.5, middle, f"+{color.vmax:.2g} for", ha="left", **text)


def _rule(ax: Axes, colors: tuple[str, str, str]) -> None:
    left, right, low, high = PAGE_MM
    fine, bold, paper = colors
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.set_axis_off()
    ax.add_patch(plt.Rectangle((left, low), right - left, high - low, color=paper, zorder=0))
    for step, color, width in ((1, fine, 0.35), (5, bold, 0.6)):
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
