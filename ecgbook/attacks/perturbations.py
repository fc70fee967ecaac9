"""What every attack rests on: perturbations within a budget, and the losses they cause.

A perturbation is made from variables between -1 and 1 by a linear map. Usually there are 12, the
leads themselves. Where it has to be lead-consistent there are nine: the potentials of the three
limb electrodes, each within half the budget of zero, and the six chest leads. Leads I, II and III
are the differences of two electrodes, so the largest of them is the spread of the three
potentials, at most the budget; the augmented leads are means of two of I, II, III up to their
signs, so no larger. Conversely, limb leads within the budget are those of electrodes that lie
within half of it around their middle. So every lead keeps the budget, which III = II - I would
exceed twofold if I and II moved freely, and nothing that keeps it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import leads
from ..checks import check_batch, check_finite

# Rows: what 1 mV on lead I, and on lead II, adds to the six limb leads.
_LIMB = torch.from_numpy(leads.derive(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


class Budget:
    """The perturbations that an attack may choose from.

    Parameters
    ----------
    epsilon_mv : float
        Largest change of any sample of any lead, in mV.
    lead_consistent : bool
        Whether only perturbations that obey Einthoven's and Goldberger's identities are allowed.
    kernel : Tensor, shape (taps,), optional
        Smooths the variables over time; odd in length, not negative, with the sum 1.

    Raises
    ------
    ValueError
        If `epsilon_mv` is negative or not finite.
    """

    def __init__(
        self, epsilon_mv: float, lead_consistent: bool = False, kernel: Tensor | None = None
    ):
        if not (math.isfinite(epsilon_mv) and epsilon_mv >= 0):
            raise ValueError(f"epsilon_mv={epsilon_mv!r} found, 0 mV or more wanted")
        self.epsilon_mv, self.lead_consistent, self.kernel = epsilon_mv, lead_consistent, kernel

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        """Refuse a batch that is none, or without the 12 leads that `lead_consistent` wants."""
        check_batch(x, mask, len(leads.LEADS) if self.lead_consistent else None)
        check_finite(x, mask)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return variables to start from.

        Parameters
        ----------
        x : Tensor, shape (batch, samples, leads), float
            Signal in mV.
        generator : torch.Generator, optional
            Draws them uniformly; all zero, if omitted.

        Returns
        -------
        Tensor, shape (batch, samples, variables), from -1 to 1
            One variable a lead; nine of electrodes, if `lead_consistent`.
        """
        shape = (*x.shape[:2], 9 if self.lead_consistent else x.shape[2])
        if generator is None:
            return x.new_zeros(shape)
        draw = torch.rand(shape, generator=generator, device=generator.device, dtype=x.dtype)
        return (2 * draw - 1).to(x.device)

    def add(self, x: Tensor, mask: Tensor | None, variables: Tensor) -> Tensor:
        """Perturb a signal.

        Parameters
        ----------
        x : Tensor, shape (batch, samples, leads), float
            Signal in mV.
        mask : Tensor, shape (batch, samples), bool, or None
            True where there is signal; the rest stays as it is, whatever it holds.
        variables : Tensor, shape (batch, samples, variables), from -1 to 1

        Returns
        -------
        Tensor, shape and dtype of `x`
            In mV, within `epsilon_mv` of `x` but for rounding.
        """
        inside = (torch.ones_like(x[..., 0]) if mask is None else mask)[..., None] != 0
        if self.kernel is not None:
            variables = _convolve(variables * inside, self.kernel)
        if self.lead_consistent:
            right_arm, left_arm, leg = (variables[..., :3] / 2).split(1, dim=-1)
            by_i, by_ii = _LIMB.to(x)
            limb = (left_arm - right_arm) * by_i + (leg - right_arm) * by_ii
            variables = torch.cat([limb, variables[..., 3:]], dim=-1)
        return torch.where(inside, x + self.epsilon_mv * variables, x)


def _convolve(variables: Tensor, kernel: Tensor) -> Tensor:
    rows = variables.transpose(1, 2).flatten(0, 1)[:, None]
    rows = F.conv1d(rows, kernel.to(rows)[None, None], padding=len(kernel) // 2)
    rows = rows.clamp(-1, 1)  # a GPU may round the kernel to a sum a little above 1
    return rows[:, 0].unflatten(0, (len(variables), -1)).transpose(1, 2)


def gaussian_kernel(widths_ms: Sequence[float], fs_hz: float) -> Tensor:
    """Compute the mean of several Gaussian kernels.

    Parameters
    ----------
    widths_ms : sequence of float
        Standard deviations in ms. The kernels reach four of the largest to either side.
    fs_hz : float
        Sampling rate.

    Returns
    -------
    Tensor, shape (taps,), float64
        Odd in length, symmetric, not negative, with the sum 1.

    Raises
    ------
    ValueError
        If there is no width, or a width or the rate is not a positive number.
    """
    widths = np.asarray(widths_ms, dtype=float)
    if widths.ndim != 1 or not len(widths) or not (np.isfinite(widths) & (widths > 0)).all():
        raise ValueError(f"widths_ms={widths_ms!r} found, one or more positive numbers wanted")
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive number wanted")
    reach = math.ceil(4 * widths.max() * fs_hz / 1000)
    time_ms = np.arange(-reach, reach + 1) / fs_hz * 1000
    kernels = np.exp(-((time_ms / widths[:, None]) ** 2) / 2)
    return torch.from_numpy((kernels / kernels.sum(1, keepdims=True)).mean(0))


class AttackedRecords:
    """Records with the labels under attack: from a perturbation's variables to its losses.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(x, mask)``, returns logits ``(batch, n_classes)``.
    x : Tensor, shape (batch, samples, leads), float
        Signal in mV.
    y : Tensor, shape (batch, n_classes)
        Labels from 0 to 1.
    mask : Tensor, shape (batch, samples), bool, or None
        True where there is signal; everywhere, if None.
    y_mask : Tensor, shape (batch, n_classes), bool, or None
        False where a label is doubtful, and not under attack.
    label : int or None
        The only label under attack; all, if None.
    budget : Budget

    Raises
    ------
    ValueError
        If a shape or value is wrong, or the signal is not finite where there is signal.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        y_mask: Tensor | None,
        label: int | None,
        budget: Budget,
    ):
        budget.check(x, mask)
        if y.ndim != 2 or len(y) != len(x):
            raise ValueError(f"y of shape {tuple(y.shape)} found, ({len(x)}, n_classes) wanted")
        if y_mask is not None and y_mask.shape != y.shape:
            raise ValueError(
                f"y_mask of shape {tuple(y_mask.shape)} found, {tuple(y.shape)} wanted, as y has"
            )
        attacked = torch.ones_like(y, dtype=torch.bool) if y_mask is None else y_mask != 0
        if label is not None:
            if isinstance(label, bool) or label not in range(y.shape[1]):
                raise ValueError(
                    f"target={label!r} found, the number of a label, 0 to {y.shape[1] - 1}, wanted"
                )
            attacked = attacked & (torch.arange(y.shape[1], device=y.device) == label)
        y = torch.where(attacked, y, 0).to(x.dtype)
        if not ((y >= 0) & (y <= 1)).all():
            raise ValueError("a label outside 0 to 1 found, none wanted; leave it out with y_mask")
        self.model, self.x, self.y, self.mask = model, x.detach(), y, mask
        self.attacked, self.budget = attacked, budget

    def start(self, generator: torch.Generator | None) -> Tensor:
        """Return variables to start from, as `Budget.start` does."""
        return self.budget.start(self.x, generator)

    def adversarial(self, variables: Tensor) -> Tensor:
        """Return the perturbed signal, shaped like ``x``, in mV."""
        return self.budget.add(self.x, self.mask, variables)

    def loss(self, variables: Tensor) -> Tensor:
        """Compute the cross-entropy summed over the labels under attack, shape (batch,)."""
        logits = self.model(self.adversarial(variables), self.mask)
        if logits.shape != self.y.shape:
            raise ValueError(
                f"y of shape {tuple(self.y.shape)} found, {tuple(logits.shape)} wanted, as the "
                "model's logits"
            )
        logits = logits.to(self.x.dtype)
        # 1 - sigmoid(z) rounds to 0 where a model is sure; the softplus of -z has a gradient.
        each = self.y * F.softplus(-logits) + (1 - self.y) * F.softplus(logits)
        loss = torch.where(self.attacked, each, 0).sum(1)
        return _finite("loss", loss)

    def ascent(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the losses, shape (batch,), and the signs of their gradient by `variables`."""
        variables = variables.detach().requires_grad_()
        loss = self.loss(variables)
        (gradient,) = torch.autograd.grad(loss.sum(), variables)
        return loss.detach(), _finite("gradient", gradient).sign()


def losses(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """Compute the loss of every record that an attack raises, in evaluation mode.

    Parameters
    ----------
    model, x, y, mask, y_mask
        As for `AttackedRecords`.

    Returns
    -------
    Tensor, shape (batch,)
        Binary cross-entropy summed over the labels that `y_mask` leaves.

    Raises
    ------
    ValueError
        As `AttackedRecords`.
    """
    records = AttackedRecords(model, x, y, mask, y_mask, None, Budget(0.0))
    with evaluation_mode(model), torch.no_grad():
        return records.loss(records.start(None))


@contextmanager
def evaluation_mode(model: nn.Module, frozen: bool = False) -> Iterator[None]:
    """Put a model in evaluation mode, with gradients on, and every module back afterwards.

    Parameters
    ----------
    model : torch.nn.Module
    frozen : bool
        Ask for no gradient of the parameters: that of the input then takes less time and memory.
    """
    modes = [(module, module.training) for module in model.modules()]
    learned = [p for p in model.parameters() if p.requires_grad] if frozen else []
    model.eval()
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in learned:
            parameter.requires_grad_()


def _finite(name: str, values: Tensor) -> Tensor:
    broken = ~values.isfinite().flatten(1).all(1) if values.ndim > 1 else ~values.isfinite()
    if broken.any():
        raise ValueError(
            f"a {name} that is not finite found for record {int(broken.nonzero()[0, 0])} of the "
            "batch, a finite one wanted; check the weights of the model"
        )
    return values
