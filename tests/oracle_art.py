"""Compare FGSM and PGD with those of the adversarial-robustness-toolbox; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with the toolbox on the path. The toolbox
knows no multi-label loss: a classifier of two classes, made from one logit, has a cross-entropy
that is the binary one of that label.
"""

import json
import os
import tempfile

os.environ["HOME"] = tempfile.mkdtemp()  # importing the toolbox writes a folder there

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from ecgbook import attacks
from ecgbook.models import CNNBaseline

EPSILON_MV, STEPS, SAMPLES, VALID = 0.05, 8, 256, 200


class OneLabel(nn.Module):
    """Two logits, 0 and that of one label, of records with padding behind them."""

    def __init__(self, model: nn.Module, label: int):
        super().__init__()
        self.model, self.label = model, label
        self.register_buffer("mask", torch.arange(SAMPLES) < VALID)

    def forward(self, x):
        logit = self.model(x, self.mask.expand(len(x), -1))[:, self.label]
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def apart(label: int) -> dict[str, float]:
    """Largest difference in mV between adversarial signals of the toolbox and the package."""
    model = CNNBaseline(5, 16, n_layers=1, stem_width=8, stem_padding=7).eval()
    x = torch.randn(8, SAMPLES, 12) * 0.25
    y = torch.randint(0, 2, (8, 5))
    mask = torch.arange(SAMPLES).expand(8, -1) < VALID
    two = OneLabel(model, label).eval()
    theirs = PyTorchClassifier(
        two, nn.CrossEntropyLoss(), input_shape=(SAMPLES, 12), nb_classes=2, device_type="cpu"
    )
    signal, truth = x.numpy(), y[:, label].numpy()
    valid = mask[0, :, None].numpy().repeat(12, 1)

    def loss(found: np.ndarray) -> np.ndarray:
        return theirs.compute_loss(found, truth, reduction="none")

    wanted = FastGradientMethod(theirs, eps=EPSILON_MV).generate(signal, truth, mask=valid)
    found = attacks.fgsm(model, x, y, EPSILON_MV, mask, target=label)
    errors = {"fgsm": float(np.abs(found.numpy() - wanted).max())}
    # The toolbox returns the last point, the package the worst one on the way.
    worst = signal
    for steps in range(1, STEPS + 1):
        wanted = ProjectedGradientDescentPyTorch(
            theirs, eps=EPSILON_MV, eps_step=2.5 * EPSILON_MV / STEPS, max_iter=steps, verbose=False
        ).generate(signal, truth, mask=valid)
        higher = loss(wanted) > loss(worst)
        worst = np.where(higher[:, None, None], wanted, worst)
    found = attacks.pgd(model, x, y, EPSILON_MV, mask, target=label, steps=STEPS)
    errors["pgd"] = float(np.abs(found.numpy() - worst).max())
    errors["moved"] = float(np.abs(found.numpy() - signal).max())
    errors["rise"] = float((loss(found.numpy()) - loss(signal)).min())
    return errors


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"epsilon_mv": EPSILON_MV, "labels": [apart(0), apart(3)]}))
