"""Adversarial examples in millivolts: FGSM, PGD, APGD and a smooth attack on any model.

Every attack looks for the perturbation that raises a record's loss most while no sample of any
lead moves by more than `epsilon_mv`, before the model's scaling. All run the model in evaluation
mode, also inside a training loop, and leave it as they found it: training modes, statistics of
normalization, gradients of parameters. They work under ``torch.no_grad`` as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .perturbations import AttackedRecords, Budget, evaluation_mode, gaussian_kernel

_MOMENTUM, _RISING = 0.75, 0.75  # alpha and rho of APGD


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon_mv: float = 0.025,
    mask: Tensor | None = None,
    *,
    y_mask: Tensor | None = None,
    target: int | None = None,
    lead_consistent: bool = False,
    generator: torch.Generator | None = None,
    step_mv: float | None = None,
) -> Tensor:
    """Move every sample by the whole budget in the direction in which the loss rises.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(x, mask)``, returns logits ``(batch, n_classes)``.
    x : Tensor, shape (batch, samples, leads), float
        Signal in mV, standard lead order.
    y : Tensor, shape (batch, n_classes)
        Labels from 0 to 1.
    epsilon_mv : float
        Largest change of any sample of any lead, in mV.
    mask : Tensor, shape (batch, samples), bool, optional
        True where there is signal; everywhere, if omitted. Padding is not changed.
    y_mask : Tensor, shape (batch, n_classes), bool, optional
        False where a label is doubtful: it is not attacked. A record without any other label keeps
        its start.
    target : int, optional
        The only label to attack. All of them together, if omitted.
    lead_consistent : bool
        Whether the perturbation obeys Einthoven's and Goldberger's identities, as a signal on the
        electrodes does. Every one of the 12 leads stays within `epsilon_mv`.
    generator : torch.Generator, optional
        Draws a start within the budget. The record itself is the start, if omitted.
    step_mv : float, optional
        Length of the step. The budget without a random start, 1.25 times the budget with one;
        what exceeds the budget is cut off.

    Returns
    -------
    Tensor, shape and dtype of `x`
        Adversarial signal in mV.

    Raises
    ------
    ValueError
        If a shape or value is wrong, the signal is not finite where there is signal, or the model
        returns something that is not.

    Notes
    -----
    The loss is the binary cross-entropy summed over the attacked labels of a record. No record has
    a part in another one's result, but a random start depends on the place in the batch.

    Source: Goodfellow et al. (2015), arXiv:1412.6572; Wong et al. (2020), arXiv:2001.03994 (random
    start). N-FGSM of de Jorge et al. (2022), arXiv:2202.01181, is ``fgsm`` on ``x`` plus noise.
    """
    budget = Budget(epsilon_mv, lead_consistent)
    records = AttackedRecords(model, x, y, mask, y_mask, target, budget)
    size = _step_size(step_mv, epsilon_mv, 1.0 if generator is None else 1.25)
    with evaluation_mode(model, frozen=True):
        start = records.start(generator)
        _, direction = records.ascent(start)
        return records.adversarial((start + size * direction).clamp(-1, 1))


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon_mv: float = 0.025,
    mask: Tensor | None = None,
    *,
    y_mask: Tensor | None = None,
    target: int | None = None,
    lead_consistent: bool = False,
    generator: torch.Generator | None = None,
    steps: int = 20,
    step_mv: float | None = None,
    restarts: int = 1,
) -> Tensor:
    """Take many small steps uphill, each cut back to the budget; keep the worst point seen.

    Parameters
    ----------
    model, x, y, epsilon_mv, mask, y_mask, target, lead_consistent, generator
        As for `fgsm`.
    steps : int
    step_mv : float, optional
        Length of a step; 2.5 ``epsilon_mv`` / `steps`, if omitted.
    restarts : int
        Runs from different random starts, of which each record keeps the worst. More than one
        needs a `generator`.

    Returns
    -------
    Tensor, shape and dtype of `x`
        Adversarial signal in mV: of all points on the way, starts included, the one with the
        highest loss.

    Raises
    ------
    ValueError
        As for `fgsm`; also if `steps` or `restarts` is below 1, or there is no generator for
        restarts.

    Notes
    -----
    Source: Madry et al. (2018), arXiv:1706.06083.
    """
    budget = Budget(epsilon_mv, lead_consistent)
    records = AttackedRecords(model, x, y, mask, y_mask, target, budget)
    _check_runs(steps, restarts, generator)
    size = _step_size(step_mv, epsilon_mv, 2.5 / steps)
    return _strongest(records, partial(_pgd, steps=steps, size=size), generator, restarts)


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon_mv: float = 0.025,
    mask: Tensor | None = None,
    *,
    y_mask: Tensor | None = None,
    target: int | None = None,
    lead_consistent: bool = False,
    generator: torch.Generator | None = None,
    steps: int = 50,
    restarts: int = 1,
) -> Tensor:
    """Climb with momentum and a step that finds its own length for every record.

    The step starts at twice the budget. At checkpoints that come closer and closer, it is halved
    for the records whose loss rose in fewer than three quarters of the steps since the last
    checkpoint, or whose best loss and step are still what they were then. Those records go back
    to their worst point so far.

    Parameters
    ----------
    model, x, y, epsilon_mv, mask, y_mask, target, lead_consistent, generator
        As for `fgsm`.
    steps, restarts : int
        As for `pgd`.

    Returns
    -------
    Tensor, shape and dtype of `x`
        As for `pgd`.

    Raises
    ------
    ValueError
        As for `pgd`.

    Notes
    -----
    Source: Croce and Hein (2020), arXiv:2003.01690, algorithm 1, with the cross-entropy.
    """
    budget = Budget(epsilon_mv, lead_consistent)
    records = AttackedRecords(model, x, y, mask, y_mask, target, budget)
    _check_runs(steps, restarts, generator)
    return _strongest(records, partial(_apgd, steps=steps), generator, restarts)


def smooth(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon_mv: float = 0.025,
    mask: Tensor | None = None,
    *,
    fs_hz: float,
    widths_ms: Sequence[float] = (5.0, 7.5, 10.0, 12.5, 15.0),
    y_mask: Tensor | None = None,
    target: int | None = None,
    lead_consistent: bool = False,
    generator: torch.Generator | None = None,
    steps: int = 40,
    step_mv: float | None = None,
    restarts: int = 1,
) -> Tensor:
    """Look for a slow perturbation, without the square edges of the other attacks.

    The perturbation is the mean of several Gaussian smoothings of one signal, and that signal is
    what PGD moves. Smoothing cannot lengthen a sample, so the budget holds behind it too.

    Parameters
    ----------
    model, x, y, epsilon_mv, mask, y_mask, target, lead_consistent, generator
        As for `fgsm`.
    fs_hz : float
        Sampling rate of `x`.
    widths_ms : sequence of float
        Standard deviations of the Gaussians in ms. The default passes 81 % of an amplitude at
        10 Hz, 25 % at 30 Hz and 4 % at 60 Hz; 99 % of what it leaves of white noise's energy is
        below 40 Hz.
    steps, step_mv, restarts
        As for `pgd`; the step is one of the signal before smoothing.

    Returns
    -------
    Tensor, shape and dtype of `x`
        As for `pgd`.

    Raises
    ------
    ValueError
        As for `pgd`; also if a width or `fs_hz` is not a positive number.

    Notes
    -----
    Source: Han et al. (2020), doi:10.1038/s41591-020-0791-x. Their 25 kernels, cut off at 17 to
    63 ms, pass on average 85 % at 10 Hz, 33 % at 30 Hz and 7 % at 60 Hz; five whole Gaussians come
    near that. Their search starts where PGD ends, this one at the record or at random.
    """
    budget = Budget(epsilon_mv, lead_consistent, gaussian_kernel(widths_ms, fs_hz))
    records = AttackedRecords(model, x, y, mask, y_mask, target, budget)
    _check_runs(steps, restarts, generator)
    size = _step_size(step_mv, epsilon_mv, 2.5 / steps)
    return _strongest(records, partial(_pgd, steps=steps, size=size), generator, restarts)


def random_noise(
    x: Tensor,
    epsilon_mv: float,
    mask: Tensor | None,
    generator: torch.Generator,
    *,
    lead_consistent: bool = False,
) -> Tensor:
    """Move every sample up or down by the whole budget, by chance: the control for all attacks.

    Parameters
    ----------
    x, epsilon_mv, mask, lead_consistent
        As for `fgsm`. Where the noise is lead-consistent, it is the electrodes that move by all
        they may; some limb leads do not move then.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape and dtype of `x`
        Signal in mV, as far from `x` as that of `fgsm`.

    Raises
    ------
    ValueError
        If a shape or value is wrong, or the signal is not finite where there is signal.
    """
    budget = Budget(epsilon_mv, lead_consistent)
    budget.check(x, mask)
    up = budget.start(x, generator) >= 0
    return budget.add(x, mask, 2 * up.to(x.dtype) - 1)


def _strongest(
    records: AttackedRecords, climb: Callable, generator: torch.Generator | None, restarts: int
) -> Tensor:
    with evaluation_mode(records.model, frozen=True):
        worst = _Worst(*climb(records, records.start(generator)))
        for _ in range(restarts - 1):
            worst.see(*climb(records, records.start(generator)))
        return records.adversarial(worst.variables)


class _Worst:
    """Of all points seen, the one with the highest loss, for every record."""

    def __init__(self, variables: Tensor, loss: Tensor, direction: Tensor | None = None):
        self.variables, self.loss, self.direction = variables, loss, direction

    def see(self, variables: Tensor, loss: Tensor, direction: Tensor | None = None) -> None:
        higher = loss > self.loss
        self.variables = _choose(higher, variables, self.variables)
        if direction is not None:
            self.direction = _choose(higher, direction, self.direction)
        self.loss = torch.where(higher, loss, self.loss)


def _pgd(records: AttackedRecords, point: Tensor, steps: int, size: float) -> tuple[Tensor, Tensor]:
    loss, direction = records.ascent(point)
    worst = _Worst(point, loss)
    for step in range(1, steps + 1):
        point = (point + size * direction).clamp(-1, 1)
        if step < steps:
            loss, direction = records.ascent(point)
        else:
            with torch.no_grad():
                loss = records.loss(point)
        worst.see(point, loss)
    return worst.variables, worst.loss


def _apgd(records: AttackedRecords, point: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    loss, direction = records.ascent(point)
    worst = _Worst(point, loss, direction)
    checkpoints = _checkpoints(steps)
    size = torch.full_like(loss, 2.0)
    rises, last, last_loss = torch.zeros_like(loss), 0, loss
    halved = torch.zeros_like(loss, dtype=torch.bool)
    before = point
    for step in range(1, steps + 1):
        goal = (point + size[:, None, None] * direction).clamp(-1, 1)
        if step > 1:
            goal = point + _MOMENTUM * (goal - point) + (1 - _MOMENTUM) * (point - before)
        before, point = point, goal.clamp(-1, 1)
        new_loss, direction = records.ascent(point)
        rises += new_loss > loss
        loss = new_loss
        worst.see(point, loss, direction)
        if step in checkpoints:
            idle = ~halved & (worst.loss == last_loss)
            halved = (rises < _RISING * (step - last)) | idle
            size = torch.where(halved, size / 2, size)
            point = _choose(halved, worst.variables, point)
            direction = _choose(halved, worst.direction, direction)
            loss = torch.where(halved, worst.loss, loss)
            rises, last, last_loss = torch.zeros_like(loss), step, worst.loss
    return worst.variables, worst.loss


def _checkpoints(steps: int) -> set[int]:
    percent, gap, found = 22, 22, set()
    while percent <= 100:  # in whole numbers: 0.22 + 0.19 + 0.16 is more than 0.57
        found.add(math.ceil(percent * steps / 100))
        gap = max(gap - 3, 6)
        percent += gap
    return found


def _choose(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None], yes, no)


def _step_size(step_mv: float | None, epsilon_mv: float, default: float) -> float:
    if step_mv is None:
        return default
    if not (math.isfinite(step_mv) and step_mv > 0):
        raise ValueError(f"step_mv={step_mv!r} found, a positive number of mV wanted")
    return step_mv / epsilon_mv if epsilon_mv else default


def _check_runs(steps: int, restarts: int, generator: torch.Generator | None) -> None:
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name}={value!r} found, 1 or more wanted")
    if restarts > 1 and generator is None:
        raise ValueError(
            f"restarts={restarts} without a generator found: all would be the same; pass a "
            "torch.Generator"
        )
