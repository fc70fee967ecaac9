"""Adversarial training: how a batch is attacked before each step, and the alarm that watches it.

Training on examples of one step can fail all at once: from one epoch to the next the model learns
to mislead the step, holds against it and breaks under an attack of more steps. This is called
catastrophic overfitting; after every epoch `AdversarialTraining.watch` measures whether it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import check_fields
from ..data import ECGDataset, trim
from .perturbations import Budget, losses
from .searches import fgsm, pgd

ATTACKS: tuple[str, ...] = ("fgsm", "n-fgsm", "pgd")
"""What `AdversarialTraining.attack` may be."""

ALARM = 0.5
"""From this gap on, `CatastrophicOverfittingWarning` is given."""

_WATCH_STEPS = 10  # of the PGD that FGSM is compared with
_WATCH_BATCH = 32


class CatastrophicOverfittingWarning(UserWarning):
    """The attack of one step finds less than half of the harm that one of ten steps does."""


@dataclass(frozen=True)
class AdversarialTraining:
    """The attack that the records of a training batch suffer before each step.

    Attributes
    ----------
    attack : {"fgsm", "n-fgsm", "pgd"}
        One step of 1.25 times the budget from a random start within the budget, cut back to it;
        one step of the budget from a random start within twice the budget, not cut back, so that
        a sample may move by three times the budget; or `steps` steps from a random start, cut
        back.
    epsilon_mv : float
        The budget in mV, at most 1: more is no small change of an ECG, and probably a mistaken
        unit.
    steps : int
        Of ``"pgd"``.
    share : float
        Share of the records of every batch that is attacked, at least one.
    lead_consistent : bool
        Whether perturbations obey Einthoven's and Goldberger's identities.
    watched : int
        Validation records, the first ones, on which the alarm looks for catastrophic overfitting
        after each epoch; 0 turns it off.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Notes
    -----
    Source: Goodfellow et al. (2015), arXiv:1412.6572 (training on FGSM, a share of the batch);
    Wong et al. (2020), arXiv:2001.03994 (random start, catastrophic overfitting); de Jorge et al.
    (2022), arXiv:2202.01181 (N-FGSM); Madry et al. (2018), arXiv:1706.06083 (PGD).
    """

    attack: str = "fgsm"
    epsilon_mv: float = 0.025
    steps: int = 3
    share: float = 1.0
    lead_consistent: bool = False
    watched: int = 64

    def __post_init__(self):
        checks = {
            "attack": (self.attack in ATTACKS, f"one of {', '.join(ATTACKS)}"),
            "epsilon_mv": (0 < self.epsilon_mv <= 1, "above 0, at most 1 mV,"),
            "steps": (self.steps >= 1, "1 or more"),
            "share": (0 < self.share <= 1, "above 0, at most 1"),
            "watched": (self.watched >= 0, "0 or more"),
        }
        check_fields(self, checks)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Attack the first records of a batch, `share` of them.

        Parameters
        ----------
        model : torch.nn.Module
            Attacked in evaluation mode, and left as it was.
        batch : dict of str to Tensor
            ``x (batch, samples, leads)`` in mV, ``mask``, ``y`` and ``y_mask``, as
            `ecgbook.data.ECGDataset.batch` returns it.
        generator : torch.Generator
            Draws the starts.

        Returns
        -------
        dict of str to Tensor
            The same with another ``x``.
        """
        count = max(1, round(self.share * len(batch["x"])))
        x, y, mask, y_mask = (batch[name][:count] for name in ("x", "y", "mask", "y_mask"))
        options = {"y_mask": y_mask, "lead_consistent": self.lead_consistent}
        if self.attack == "pgd":
            options |= {"steps": self.steps, "generator": generator}
            attacked = pgd(model, x, y, self.epsilon_mv, mask, **options)
        else:
            if self.attack == "n-fgsm":
                noise = Budget(2 * self.epsilon_mv, self.lead_consistent)
                x = noise.add(x, mask, noise.start(x, generator))
            else:
                options["generator"] = generator
            attacked = fgsm(model, x, y, self.epsilon_mv, mask, **options)
        return {**batch, "x": torch.cat([attacked, batch["x"][count:]])}

    def watch(self, model: nn.Module, valid: ECGDataset) -> dict[str, float]:
        """Compare what one step and what ten steps do to the loss of the watched records.

        Parameters
        ----------
        model : torch.nn.Module
        valid : ECGDataset
            Of which the first `watched` records are attacked, without a random start.

        Returns
        -------
        dict of str to float
            ``clean_loss``, ``fgsm_loss`` and ``pgd_loss``, each the mean over the records of the
            sum over their trusted labels, and ``fgsm_pgd_gap``: the share of the rise under PGD
            that FGSM does not find, 0 where PGD finds no rise. Nothing if no record is watched.
        """
        if not self.watched:
            return {}
        device = next(model.parameters()).device
        total = torch.zeros(3, dtype=torch.float64)
        first = valid.subset(range(min(self.watched, len(valid))))
        for batch in map(trim, first.loader(_WATCH_BATCH)):
            x, y, mask, y_mask = (batch[k].to(device) for k in ("x", "y", "mask", "y_mask"))
            options = {"y_mask": y_mask, "lead_consistent": self.lead_consistent}
            one = fgsm(model, x, y, self.epsilon_mv, mask, **options)
            many = pgd(model, x, y, self.epsilon_mv, mask, steps=_WATCH_STEPS, **options)
            total += torch.stack(
                [losses(model, each, y, mask, y_mask).sum().cpu() for each in (x, one, many)]
            )
        clean, one, many = (total / len(first)).tolist()
        gap = (many - one) / (many - clean) if many > clean else 0.0
        return {"clean_loss": clean, "fgsm_loss": one, "pgd_loss": many, "fgsm_pgd_gap": gap}
