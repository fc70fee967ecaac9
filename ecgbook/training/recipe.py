"""The recipe of a training run: plain values, stored with every model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from .. import augment
from ..attacks import AdversarialTraining
from ..augment import Transform
from ..checks import check_fields, from_fields, without_numpy


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; stored with the model.

    Attributes
    ----------
    epochs : int
        Passes over the training set, at most.
    batch_size : int
        Records a step, over all processes together.
    learning_rate : float
        Peak of the schedule: linear warm-up, then half a cosine down to zero.
    warmup : float
        Share of all steps that the warm-up takes.
    weight_decay : float
        AdamW's, on matrices and kernels only; biases and normalization weights are left alone.
    clip_norm : float
        Largest norm of a gradient.
    patience : int
        Epochs without a better validation score after which training stops.
    positive_weight : float
        Weight of the positive labels of a class is (negatives / positives) to this power:
        0 treats all labels alike, 1 gives both sides of every class the same total.
    precision : {"no", "bf16", "fp16"}
        Mixed precision of the forward pass, as accelerate names it.
    seed : int
        Fixes the order of records, the dropout, what `augment` and `adversarial` draw. The
        weights a model starts from are the caller's: ``torch.manual_seed`` before building it.
    augment : tuple of FrequencyMask, Noise, LeadMask or Mixup
        What changes every training batch, in this order; see `ecgbook.augment`.
    adversarial : AdversarialTraining, optional
        The attack on every training batch, after `augment`.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    patience: int = 6
    positive_weight: float = 0.0
    precision: str = "no"
    seed: int = 0
    augment: tuple[Transform, ...] = ()
    adversarial: AdversarialTraining | None = None

    def __post_init__(self):
        without_numpy(self)
        transforms = isinstance(self.augment, tuple) and all(
            isinstance(each, Transform) for each in self.augment
        )
        attacks = self.adversarial is None or isinstance(self.adversarial, AdversarialTraining)
        checks = {
            "epochs": (_is_count(self.epochs), "a whole number of 1 or more"),
            "batch_size": (_is_count(self.batch_size), "a whole number of 1 or more"),
            "learning_rate": (self.learning_rate > 0, "a number above 0"),
            "warmup": (0 <= self.warmup < 1, "0 or more and below 1"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "clip_norm": (self.clip_norm > 0, "a number above 0"),
            "patience": (_is_count(self.patience), "a whole number of 1 or more"),
            "positive_weight": (0 <= self.positive_weight <= 1, "0 to 1"),
            "precision": (self.precision in ("no", "bf16", "fp16"), "no, bf16 or fp16"),
            "augment": (transforms, "a tuple of ecgbook.augment's transforms"),
            "adversarial": (attacks, "None or ecgbook.attacks.AdversarialTraining"),
        }
        check_fields(self, checks)

    def to_dict(self) -> dict:
        """Return the values as JSON holds them; ``augment`` and ``adversarial`` only if in use."""
        values = json.loads(json.dumps(asdict(self)))
        unused = {"augment": [], "adversarial": None}
        return {k: v for k, v in values.items() if k not in unused or v != unused[k]}

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """Make the recipe that `to_dict` wrote: that of a bundle is ``bundle.card["recipe"]``.

        Parameters
        ----------
        values : dict
            As `to_dict` returns it, perhaps by way of JSON.

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            If a field is unknown or a value out of its range, as in a file of another version.
        """
        values = dict(values)
        if "augment" in values:
            values["augment"] = tuple(augment.from_dict(each) for each in values["augment"])
        if values.get("adversarial") is not None:
            values["adversarial"] = from_fields(AdversarialTraining, values["adversarial"])
        return from_fields(cls, values)
