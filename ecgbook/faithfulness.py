"""How faithful a relevance map is to its model: take the relevant away, or the training away.

The perturbation curves follow a logit while windows of the record are removed in the order of
their relevance. The randomization tests ask if a map changes with the model and with the class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from .attributions import Model, check_arguments, target_logits

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
        As for `ecgbook.attributions.target_logits`, and so are the errors.
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
    relevance = torch.as_tensor(relevance, device=x.device).detach().double()
    inside = _mask(x, mask)
    _check_choices(x, relevance, inside, window, replacement, order, steps)
    sizes = relevance if order == "signed" else relevance.abs()
    sizes = _window_sums(sizes, inside, window, per_lead)
    valid = _window_sums(torch.ones_like(x, dtype=torch.double), inside, window, per_lead) > 0
    n_windows = valid.sum(1, keepdim=True)
    by_size = sizes.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = by_size.argsort(1)  # 0 for the most relevant; windows of padding come last

    def logits(gone: Tensor) -> Tensor:
        """Run the model without the windows (batch, windows) that are gone."""
        gone = gone.unflatten(1, (-1, x.shape[2] if per_lead else 1))
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
    fraction, most, least = (torch.stack(c, 1).double() for c in (removed, most, least))
    area = torch.trapezoid(least, fraction) - torch.trapezoid(most, fraction)
    return Curves(*(c.cpu().numpy() for c in (fraction, most, least, area)))


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


def similarity(
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    mask: Tensor | np.ndarray | None = None,
    *,
    absolute: bool,
) -> np.ndarray:
    """Compute Spearman's rank correlation of two relevance maps of every record (SciPy).

    Parameters
    ----------
    a, b : Tensor or ndarray, shape (batch, length, leads)
    mask : Tensor or ndarray, shape (batch, length), bool, optional
        True where there is signal; the rest does not count.
    absolute : bool
        Whether to compare absolute values: if not, a map and its negative have a correlation
        of -1.

    Returns
    -------
    ndarray, shape (batch,), float64
        NaN, with SciPy's warning, for a map that is constant.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = (torch.as_tensor(r).detach().double().cpu() for r in (a, b))
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)} found, twice the same "
            "(batch, length, leads) wanted"
        )
    if absolute:
        a, b = a.abs(), b.abs()
    inside = _mask(a, None if mask is None else torch.as_tensor(mask).cpu())[..., 0]
    pairs = zip(a, b, inside, strict=True)
    return np.array([spearmanr(p[i].flatten(), q[i].flatten()).statistic for p, q, i in pairs])


def cascading_randomization(
    model: nn.Module,
    untrained: nn.Module,
    method: Callable[..., Tensor],
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    stages: Sequence[str],
    absolute: bool,
) -> dict[str, np.ndarray]:
    """Compare the map with those of the model as one part after the other loses its training.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; a copy is changed.
    untrained : torch.nn.Module
        The same architecture with fresh parameters, such as ``type(model)(**model.config)``.
    method : callable
        ``method(model, x, target, mask)``, such as `ecgbook.attributions.gradient_times_input`.
    x, target, mask
        As for `ecgbook.attributions.target_logits`.
    stages : sequence of str
        Names of submodules from the output to the input, such as
        ``["head", "attention", "blocks.1", "blocks.0", "stem"]``.
    absolute : bool
        As for `similarity`.

    Returns
    -------
    dict of str to ndarray, shape (batch,)
        For each stage, the similarity of the map of the trained model to that of the model in
        which this stage and all before it have the parameters and buffers of `untrained`.

    Raises
    ------
    ValueError
        If a stage is no submodule of the model.

    Notes
    -----
    A map that depends on what the model learned comes close to 0 at the last stage. How fast it
    falls says little: residual connections keep the order of magnitude of the signal, and so part
    of the map (Binder et al., 2023, arXiv:2211.12486).

    Source: Adebayo et al. (2018), arXiv:1810.03292.
    """
    for stage in stages:
        if not stage or stage not in dict(model.named_modules()):
            raise ValueError(
                f"stage {stage!r} found, a submodule of {type(model).__name__} wanted: "
                f"{', '.join(name for name, _ in model.named_children())}, or a part of one"
            )
    reference = method(model, x, target, mask)
    altered, found = copy.deepcopy(model), {}
    for stage in stages:
        fresh = untrained.get_submodule(stage).state_dict()
        altered.get_submodule(stage).load_state_dict(fresh)
        changed = method(altered, x, target, mask)
        found[stage] = similarity(reference, changed, mask, absolute=absolute)
    return found


def random_logit(
    model: Model,
    method: Callable[..., Tensor],
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    absolute: bool,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Compare the map of the target with that of another class, drawn for each record.

    Parameters
    ----------
    model, x, target, mask
        As for `ecgbook.attributions.target_logits`, and so are the errors.
    method : callable
        As for `cascading_randomization`.
    absolute : bool
        As for `similarity`.
    generator : torch.Generator, optional
        Source of chance, on the CPU; PyTorch's own, if omitted.

    Returns
    -------
    ndarray, shape (batch,), float64
        1 for a map that does not depend on the class.

    Source: Sixt et al. (2020), arXiv:1912.09818.
    """
    reference = method(model, x, target, mask)
    with torch.no_grad():
        n_classes = model(x[:1], None if mask is None else mask[:1]).shape[1]
    if n_classes < 2:
        raise ValueError(f"{n_classes} class found, 2 or more wanted to draw another one")
    away = torch.randint(1, n_classes, (len(x),), generator=generator).to(x.device)
    other = (torch.as_tensor(target, device=x.device) + away) % n_classes
    return similarity(reference, method(model, x, other, mask), mask, absolute=absolute)


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
