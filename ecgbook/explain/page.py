"""An explanation on ECG paper: relevance under the traces, its sums by lead and by beat beside."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ..plots import AGAINST, FOR, INK, MM_PER_S, PAGE_MM, ecg_paper

_HEAD_MM, _PANEL_MM, _BEATS_MM = 16.0, 62.0, 30.0  # above the paper, to its right, below it
_BAR_MM, _BEAT_BAR_MM, _LABEL_MM = 13.0, 8.0, 9.0  # longest bars; room for the sum of a beat
_ROW_MM = 7.0
_QUIET = "#8a8a94"


def explanation_page(
    explanation,
    r_peaks_s: Sequence[float] | None = None,
    start_s: float | None = None,
    limit: float | None = None,
    title: str | None = None,
) -> Axes:
    """Draw ten seconds of an explained record, with all that sums to the logit.

    The paper of `ecgbook.plots.ecg_paper` with relevance as color; to its right a bar for the sum
    of each lead and one for the biases, which together make the logit; below it, if R peaks are
    given, a bar for the sum of each beat, labeled where there is room. The sums are over all that
    the model saw, not only over what the page shows.

    Parameters
    ----------
    explanation : ecgbook.explain.Explanation
        With a sampling rate.
    r_peaks_s : sequence of float, optional
        Times of the R peaks in s from the start of the record, as for `Explanation.per_beat`.
    start_s : float, optional
        Where the page begins, in s from the start of the record; by default where the model's
        window begins.
    limit : float, optional
        Relevance of full color, as for `ecgbook.plots.ecg_paper`.
    title : str, optional
        By default what was explained.

    Returns
    -------
    matplotlib Axes
        Its unit is the millimeter on both axes, as for `ecgbook.plots.ecg_paper`.

    Raises
    ------
    ValueError
        If the sampling rate is not known, or the page begins outside the model's window; and as
        `ecgbook.plots.ecg_paper` and `Explanation.per_beat` do.
    """
    if explanation.fs_hz is None:
        raise ValueError("fs_hz=None found; give explain(..., fs_hz=...) the sampling rate")
    begin_s = explanation.start_s
    end_s = begin_s + len(explanation.mask) / explanation.fs_hz
    start_s = begin_s if start_s is None else start_s
    if not begin_s <= start_s < end_s:
        raise ValueError(
            f"start_s={start_s} found, {begin_s:g} to {end_s:g} s (the model's window) wanted"
        )
    beats = None if r_peaks_s is None else explanation.per_beat(r_peaks_s)
    left, right, low, high = PAGE_MM
    right, high = right + _PANEL_MM, high + _HEAD_MM
    low = low - (0 if beats is None else _BEATS_MM)
    size = (right - left) / 25.4, (high - low) / 25.4
    ax = plt.figure(figsize=size, layout="none").add_axes((0, 0, 1, 1))
    signal_mv = np.where(explanation.mask[:, None], explanation.signal_mv, np.nan)
    shown = {"relevance": explanation.relevance, "limit": limit, "leads": explanation.leads}
    ecg_paper(signal_mv, explanation.fs_hz, start_s - begin_s, ax=ax, **shown)
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.add_patch(plt.Rectangle((left, low), right - left, high - low, color="white", zorder=-1))
    title = _minus(f"What the model used for {explanation.target}") if title is None else title
    style = {"color": INK, "va": "center"}
    ax.text(left + 3, high - 5, title, fontsize=13, fontweight="bold", **style)
    ax.text(left + 3, high - 11.5, _minus(explanation.balance()), fontsize=11, **style)
    _lead_bars(ax, explanation)
    if beats is not None:
        _beat_bars(ax, beats, np.asarray(r_peaks_s, dtype=float), start_s, begin_s, end_s)
    return ax


def _lead_bars(ax: Axes, explanation) -> None:
    rows = [
        *zip(explanation.leads, explanation.per_lead(), strict=True),
        ("biases", explanation.bias),
    ]
    longest = max(abs(value) for _, value in rows) or 1.0
    x, top = PAGE_MM[1] + 34, PAGE_MM[3] - 7
    style = {"color": INK, "fontsize": 10, "va": "center"}
    heading = f"logit units, sum of all {explanation.mask.sum() / explanation.fs_hz:.3g} s"
    ax.text(PAGE_MM[1] + 4, PAGE_MM[3] + 4.5, heading, **style)
    for row, (name, value) in enumerate(rows):
        y = top - _ROW_MM * row
        ax.text(PAGE_MM[1] + 4, y, name, fontweight="bold", **style)
        length = value / longest * _BAR_MM
        bar = plt.Rectangle((x, y - 2), length, 4, color=FOR if value > 0 else AGAINST)
        ax.add_patch(bar).set_gid(f"lead {name}")
        ax.text(PAGE_MM[1] + _PANEL_MM - 2, y, _signed(value), ha="right", **style)
    end = top - _ROW_MM * (len(rows) - 0.5)
    ax.plot([x, x], [top + 3, end + 1], color=_QUIET, linewidth=0.8)
    ax.plot([PAGE_MM[1] + 4, PAGE_MM[1] + _PANEL_MM - 2], [end, end], color=INK, linewidth=0.8)
    style |= {"y": end - 3.5, "fontweight": "bold"}
    ax.text(x=PAGE_MM[1] + 4, s=explanation.kind, **style)
    total = _signed(explanation.logit)
    ax.text(x=PAGE_MM[1] + _PANEL_MM - 2, s=total, ha="right", **style)


def _beat_bars(ax: Axes, beats, r_peaks_s, start_s, begin_s, end_s) -> None:
    longest = np.abs(beats).max() or 1.0
    zero = PAGE_MM[2] - _BEATS_MM / 2
    borders_s = np.concatenate([[begin_s], (r_peaks_s[1:] + r_peaks_s[:-1]) / 2, [end_s]])
    borders = ((borders_s - start_s) * MM_PER_S).clip(0, 10 * MM_PER_S)
    for number, value in enumerate(beats):
        start, end = borders[number : number + 2]
        if end - start <= 1:
            continue  # not on this page
        height = value / longest * _BEAT_BAR_MM
        color = FOR if value > 0 else AGAINST
        bar = plt.Rectangle((start + 0.5, zero), end - start - 1, height, color=color)
        ax.add_patch(bar).set_gid(f"beat {number}")
        peak = np.clip((r_peaks_s[number] - start_s) * MM_PER_S, start, end)
        side, va = (1, "bottom") if value >= 0 else (-1, "top")
        style = {"ha": "center", "va": va, "color": INK, "fontsize": 8.5}
        if end - start >= _LABEL_MM:
            ax.text(peak, zero + height + side * 0.8, _signed(value), **style)
    ax.plot([0, 10 * MM_PER_S], [zero, zero], color=_QUIET, linewidth=0.8)
    ax.text(PAGE_MM[0] + 3, zero, "sum\nby\nbeat", color=INK, fontsize=9, va="center")


def _signed(value: float) -> str:
    return _minus(f"{value:+.2f}")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
