"""How faithful a relevance map is to its model: follow the logit while the relevant is removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .baselines import Model, check_arguments, target_logits

REPLACEMENTS: tuple[str, ...] = ("zero", "mean", "interpolate")
ORDERS: tuple[str, ...] = ("signed", "absolute")


@dataclass(frozen=True, eq=False)
class Curves:
    """A logit of every record while parts of the record are removed, or put back.

    Attributes
    ----------
    fraction : ndarray, shape (batch, steps + 1), float64
        Share of the windows removed (or put back), from 0 to 1.
    most_first, least_first : ndarray, shape (batch, steps + 1), float64
        The target's logit, the most or the least relevant windows going first.
    delta_area : ndarray, shape (batch,), float64
        Area between the curves, in units of the logit; positive where the order is right.
    """

    fraction: np.ndarray
    most_first: np.ndarray
    least_first: np.ndarray
    delta_area: np.ndarray


def deletion(
    model: Model,
    x: Tensor,
    relevance: Tensor | np.ndarray,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    window: int,
    per_lead: bool,
    replacement: str,
    order: str,
    steps: int,
) -> Curves:
    """Remove windows of the record in the order of their relevance and follow the logit.

    The choices have no defaults: each moves the score, so it is said which were made.

    Parameters
    ----------
    model, x, target, mask
        As for `ecgbook.explain.target_logits`, and so are the errors.
    relevance : Tensor or ndarray, shape (batch, length, leads)
        The map to judge.
    window : int
        Samples of a window, counted from the first sample; 25 are 200 ms at 125 Hz. A window that
        is partly padding, or cut by the end, is one with fewer samples.
    per_lead : bool
        Whether one lead is removed at a time, or all leads of a window together.
    replacement : {"zero", "mean", "interpolate"}
        What removed samples become: 0 mV, the mean of the record's lead, or a straight line
        between the samples left on either side (held constant at the ends; the mean once nothing
        is left).
    order : {"signed", "absolute"}
        Whether windows are sorted by the sum of their relevance or of its absolute value. Of equal
        ones the earliest counts as the most relevant.
    steps : int
        Equal steps from nothing removed to all, to the nearest window.

    Returns
    -------
    Curves
        ``delta_area`` is ΔA^F = A(least relevant first) - A(most relevant first). Padding is never
        removed, sorted or counted.

    Raises
    ------
    ValueError
        Also if an option is unknown, or a record has no signal.

    Source: Samek et al. (2017), arXiv:1509.06321; both orders: Achtibat et al. (2024),
    arXiv:2402.05602, and Jafari et al. (2024), arXiv:2406.07592.
    """
    check_arguments(model, x, target, mask)
    relevance = torch.as_tensor(relevance).detach().cpu().double()  # Apple's devices have none
    inside = _mask(x, mask)
    signal = inside.cpu()
    _check_choices(x, relevance, signal, window, replacement, order, steps)
    sizes = relevance if order == "signed" else relevance.abs()
    sizes = _window_sums(sizes, signal, window, per_lead)
    valid = _window_sums(torch.ones_like(relevance), signal, window, per_lead) > 0
    n_windows = valid.sum(1, keepdim=True)
    by_size = sizes.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = by_size.argsort(1)  # 0 for the most relevant; windows of padding come last

    def logits(gone: Tensor) -> Tensor:
        """Run the model without the windows (batch, windows) that are gone."""
        gone = gone.to(x.device).unflatten(1, (-1, x.shape[2] if per_lead else 1))
        gone = gone.repeat_interleave(window, 1)[:, : x.shape[1]] & inside
        return target_logits(model, _replace(x, gone, inside, replacement), target, mask)

    most, least, removed = [], [], []
    with torch.no_grad():
        for step in range(steps + 1):
            count = (2 * step * n_windows + steps) // (2 * steps)  # rounded
            removed.append((count.double() / n_windows)[:, 0])
            most.append(logits(rank < count))
            ends = step in (0, steps)  # nothing or all is gone, whatever the order
            least.append(most[-1] if ends else logits(rank >= n_windows - count))
    fraction, most, least = (torch.stack(c, 1).cpu().double() for c in (removed, most, least))
    area = torch.trapezoid(least, fraction) - torch.trapezoid(most, fraction)
    return Curves(*(c.numpy() for c in (fraction, most, least, area)))


def insertion(
    model: Model,
    x: Tensor,
    relevance: Tensor | np.ndarray,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    window: int,
    per_lead: bool,
    replacement: str,
    order: str,
    steps: int,
) -> Curves:
    """Start with nothing and put windows back in the order of their relevance.

    Parameters
    ----------
    model, x, relevance, target, mask, window, per_lead, replacement, order, steps
        As for `deletion`, and so are the errors.

    Returns
    -------
    Curves
        ``delta_area`` is ΔA^I = A(most relevant first) - A(least relevant first).

    Notes
    -----
    What is left when the least relevant windows are deleted is what is there when the most
    relevant ones are inserted. So the curves are those of `deletion` read backward, and ΔA^I
    equals ΔA^F: with the same windows and the same replacement, one of the two is enough.
    """
    gone = deletion(
        model,
        x,
        relevance,
        target,
        mask,
        window=window,
        per_lead=per_lead,
        replacement=replacement,
        order=order,
        steps=steps,
    )
    backward = slice(None, None, -1)
    return Curves(
        fraction=1 - gone.fraction[:, backward],
        most_first=gone.least_first[:, backward],
        least_first=gone.most_first[:, backward],
        delta_area=gone.delta_area,
    )


def _check_choices(x, relevance, inside, window, replacement, order, steps) -> None:
    if relevance.shape != x.shape:
        raise ValueError(
            f"relevance of shape {tuple(relevance.shape)} found, that of x {tuple(x.shape)} wanted"
        )
    if not relevance.masked_fill(~inside, 0).isfinite().all():
        raise ValueError("relevance that is not finite found inside the mask, numbers wanted")
    if not inside.any(1).all():
        row = int((~inside.any(1)).nonzero()[0, 0])
        raise ValueError(f"record {row} without signal found: leave it out")
    if not 1 <= window <= x.shape[1]:
        raise ValueError(f"window={window} found, 1 to {x.shape[1]} samples wanted")
    if replacement not in REPLACEMENTS:
        raise ValueError(f"replacement={replacement!r} found, one of {REPLACEMENTS} wanted")
    if order not in ORDERS:
        raise ValueError(f"order={order!r} found, one of {ORDERS} wanted")
    if steps < 1:
        raise ValueError(f"steps={steps} found, 1 or more wanted")


def _mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask as (batch, length, 1), all True where there is none."""
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return mask[..., None]


def _window_sums(values: Tensor, inside: Tensor, window: int, per_lead: bool) -> Tensor:
    """Sum values (batch, length, leads) inside the mask over each window: (batch, windows)."""
    values = values.masked_fill(~inside, 0)
    values = F.pad(values, (0, 0, 0, -values.shape[1] % window))
    sums = values.unflatten(1, (-1, window)).sum(2)
    return (sums if per_lead else sums.sum(2, keepdim=True)).flatten(1)


def _replace(x: Tensor, gone: Tensor, inside: Tensor, replacement: str) -> Tensor:
    """Return `x` with the samples that are `gone`, (batch, length, leads or 1), replaced."""
    if replacement == "zero":
        return x.masked_fill(gone, 0)
    mean = x.masked_fill(~inside, 0).sum(1, keepdim=True) / inside.sum(1, keepdim=True)
    if replacement == "mean":
        return torch.where(gone, mean, x)
    left = (inside & ~gone).expand_as(x)
    at = torch.arange(x.shape[1], device=x.device)[None, :, None].expand_as(x)
    before = torch.where(left, at, -1).cummax(1).values
    after = torch.where(left, at, x.shape[1]).flip(1).cummin(1).values.flip(1)
    start = torch.where(before < 0, after, before)  # the one neighbor there is, at the ends
    end = torch.where(after == x.shape[1], before, after)
    last = x.shape[1] - 1
    share = (at - start).to(x.dtype) / (end - start).clamp(min=1)
    low, high = (x.gather(1, i.clamp(0, last)) for i in (start, end))
    line = low + share * (high - low)
    line = torch.where(left.any(1, keepdim=True), line, mean)
    return torch.where(gone, line, x)
