"""What a few steps of `fit` do, seen from the optimizer and from the model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from waves import small, waves

from ecgbook.augment import LeadMask
from ecgbook.models import MAMBA2_PRESETS, PRESETS, ECGVisionMamba, EnhancedECGMamba2
from ecgbook.training import Recipe, fit


class Known(nn.Module):
    """Logits are five samples of the record and a bias: every gradient can be written down."""

    def __init__(self, bias=0.0, slope=1.0):
        super().__init__()
        self.bias, self.slope = nn.Parameter(torch.full((5,), bias)), slope
        self.seen, self.drawn, self.leads = [], [], []  # in training mode

    def forward(self, x, mask=None):
        if self.training:
            self.seen += x[:, 0, 11].int().tolist()
            self.drawn.append(torch.rand(1).item())  # as dropout does
            self.leads.append((x[:, 0, 5:11] != 0).tolist())
        return x[:, 0, :5] + self.slope * self.bias


def numbered(n, first_group=0):
    """Make records that hold their number in the last lead, and random logits in the first five."""
    dataset = waves(n, first_group, length=8)
    x = np.ones_like(dataset.x)
    x[:, :, :5] = np.random.default_rng(first_group).normal(size=(n, 1, 5))
    x[:, :, 11] = np.arange(n)[:, None]
    return replace(dataset, x=x, n_valid=np.full(n, 8))


def run(model, train, recipe, valid=None):
    return fit(model, train, numbered(16, 1000) if valid is None else valid, recipe, progress=False)


@pytest.fixture
def steps():
    """Every optimizer step: rates, decays, gradients and values, before it is taken."""
    found = []

    def note(optimizer, *_):
        groups = optimizer.param_groups
        found.append(
            {
                "rates": [group["lr"] for group in groups],
                "decay": {
                    id(p): group["weight_decay"] for group in groups for p in group["params"]
                },
                "gradients": [p.grad.clone() for group in groups for p in group["params"]],
                "values": [p.detach().clone() for group in groups for p in group["params"]],
            }
        )

    handle = register_optimizer_step_pre_hook(note)
    yield found
    handle.remove()


def test_the_optimizer_takes_the_rates_of_the_schedule(steps):
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.3, warmup=1 / 3)
    run(Known(), numbered(16), recipe)
    # Two steps an epoch: two rise, and four fall along half a cosine.
    wanted = [0.5, 1.0, *(0.5 + 0.5 * math.cos(math.pi * k / 4) for k in range(4))]
    assert len(steps) == 6
    for step, share in zip(steps, wanted, strict=True):
        assert step["rates"] == pytest.approx([0.3 * share] * len(step["rates"]))


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_the_optimizer_takes_the_clipped_gradient_of_this_step_alone(steps, clip_norm):
    train = numbered(16)
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.1, clip_norm=clip_norm)
    run(Known(bias=0.5, slope=20.0), train, recipe)
    assert len(steps) == 3
    for step in steps:
        [bias], [found] = step["values"], step["gradients"]
        p = 1 / (1 + np.exp(-(train.x[:, 0, :5] + 20 * bias.double().numpy())))
        whole = 20 * (p - train.y).sum(0) / train.y.size
        norm = np.linalg.norm(whole)
        assert norm > 0.05
        assert found.norm() <= clip_norm * (1 + 1e-6)
        np.testing.assert_allclose(found, whole * min(1, clip_norm / norm), rtol=1e-4, atol=1e-6)


def test_every_epoch_has_every_record_in_an_order_of_its_own():
    def orders(seed):
        model = Known()
        run(model, numbered(24), Recipe(epochs=3, batch_size=8, seed=seed))
        return [tuple(part) for part in np.reshape(model.seen, (3, 24)).tolist()]

    first, again, other = orders(0), orders(0), orders(1)
    assert first == again
    assert len({*first, *other, tuple(range(24))}) == 7
    for order in first + other:
        assert sorted(order) == list(range(24))


def test_chance_is_another_one_in_every_epoch():
    model = Known()
    run(model, numbered(8), Recipe(epochs=3, batch_size=8, augment=(LeadMask(p=0.5),)))
    assert len(set(map(str, model.leads))) == 3
    assert len(set(model.drawn)) == 3


class Stopped(Exception):
    pass


class Single(Known):
    """Stops the training after one batch, before any process would wait for another."""

    def forward(self, x, mask=None):
        logits = super().forward(x, mask)
        if self.training:
            raise Stopped
        return logits


def test_processes_share_the_order_and_not_the_dropout(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    models = [Single(), Single()]
    recipe = Recipe(epochs=1, batch_size=24, augment=(LeadMask(p=0.5),))
    for number, model in enumerate(models):
        monkeypatch.setattr(Accelerator, "process_index", number)
        with pytest.raises(Stopped):
            run(model, replace(numbered(24), x=numbered(24).x + 1), recipe)
    one, two = models
    unmasked = [number for model in models for number in model.seen if number]  # a masked one is 0
    assert len(one.seen) == len(two.seen) == 12
    assert len(set(unmasked)) == len(unmasked) > 6, "both train on the same records"
    assert one.drawn != two.drawn
    assert one.leads != two.leads


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_positive_labels_have_the_weight_of_the_recipe(power):
    train = numbered(16)
    positives = (2, 4, 8, 12, 16)
    y = (np.arange(16)[:, None] < positives).astype(np.float32)
    train = replace(train, y=y)
    bundle = run(Known(bias=0.5), train, Recipe(epochs=1, batch_size=16, positive_weight=power))
    weight = np.array([(16 - n) / n if n < 16 else 1 for n in positives]) ** power
    p = 1 / (1 + np.exp(-(train.x[:, 0, :5] + 0.5)))
    terms = np.where(y > 0, -weight * np.log(p), -np.log(1 - p))
    assert bundle.card["epochs"][0]["train_loss"] == pytest.approx(terms.mean(), rel=1e-5)


@pytest.mark.parametrize("side", ["train", "valid"])
def test_what_a_doubtful_label_says_changes_nothing(side):
    sets = {"train": numbered(32), "valid": numbered(32, 1000)}
    recipe = Recipe(epochs=2, batch_size=32, positive_weight=1.0)
    doubtful = np.random.default_rng(1).random((32, 5)) < 0.4
    results = []
    for flip in (False, True):
        y = sets[side].y.copy()
        y[doubtful & flip] = 1 - y[doubtful & flip]
        chosen = sets | {side: replace(sets[side], y=y, y_mask=~doubtful)}
        model = Known()
        bundle = run(model, chosen["train"], recipe, chosen["valid"])
        rows = [{**row, "seconds": 0} for row in bundle.card["epochs"]]
        results.append([rows, model.bias.tolist(), bundle.thresholds.tolist()])
    assert results[0] == results[1]


MODELS = {
    "cnn": (small, set()),
    "mamba 1": (lambda: ECGVisionMamba(**PRESETS["tutorial"], n_layers=1), {2}),
    "mamba 2": (lambda: EnhancedECGMamba2(**MAMBA2_PRESETS["tutorial"], n_layers=1), {1}),
}


STATE = ("A_log", "A_b_log", "D", "D_b", "dt_bias")


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_and_what_governs_the_state_does_not(steps, name):
    build, dimensions = MODELS[name]
    torch.manual_seed(0)
    model, recipe = build(), Recipe(epochs=1, batch_size=2, weight_decay=0.3)
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    fit(model, waves(2), waves(16, 1000), recipe, progress=False)
    decay = {names[number]: value for number, value in steps[0]["decay"].items()}
    assert decay.keys() == set(names.values())
    shapes = {path: parameter.ndim for path, parameter in model.named_parameters()}
    state = {path for path in decay if path.split(".")[-1] in STATE}
    assert {shapes[path] for path in state if path.endswith("log")} == dimensions
    kept = {path for path, value in decay.items() if value == 0}
    assert kept == state | {path for path in decay if shapes[path] < 2}
    assert {decay[path] for path in decay.keys() - kept} == {0.3}
