"""Perturbations: what the budget allows on 12 leads, smoothing in ms, and losses with gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import nn

from ecgbook import leads
from ecgbook.attacks import AttackedRecords, Budget, evaluation_mode, gaussian_kernel
from ecgbook.models import CNNBaseline


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def records(budget: Budget, model: nn.Module | None = None, **changes) -> AttackedRecords:
    arguments = {
        "x": torch.zeros(2, 64, 12, dtype=torch.float64),
        "y": torch.ones(2, 1),
        "mask": None,
        "y_mask": None,
        "label": None,
    }
    return AttackedRecords(model, **{**arguments, **changes}, budget=budget)


class Linear(nn.Module):
    """One logit: the signal times fixed weights."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.weights = weights

    def forward(self, x, mask=None):
        return (x * self.weights).sum((1, 2))[:, None]


def most_of(gradient: np.ndarray) -> float:
    """Largest product of 12 numbers with a perturbation that keeps 1 mV on all 12 leads."""
    eight = np.eye(8)  # I, II, V1 to V6
    onto_12 = np.concatenate([leads.derive(eight[0], eight[1]), eight[:, 2:]], axis=1)
    both = np.concatenate([onto_12.T, -onto_12.T])
    found = linprog(-onto_12 @ gradient, A_ub=both, b_ub=np.ones(24), bounds=(None, None))
    return -found.fun


def test_lead_consistent_signs_are_the_best_that_the_budget_on_12_leads_allows():
    weights = torch.randn(64, 12, dtype=torch.float64, generator=generator())
    budget = Budget(1.0, lead_consistent=True)
    attacked = records(
        budget, Linear(-weights), x=torch.zeros(1, 64, 12).double(), y=torch.ones(1, 1)
    )
    _, direction = attacked.ascent(attacked.start(None))
    found = (attacked.adversarial(direction)[0] * weights).sum(-1)
    wanted = [most_of(row) for row in weights.numpy()]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("lead_consistent", [False, True])
def test_the_budget_holds_on_every_lead_and_is_used_up(lead_consistent):
    x = torch.randn(4, 500, 12, generator=generator())
    budget = Budget(0.025, lead_consistent)
    corners = budget.start(x, generator(1)).sign()
    for variables in (corners, budget.start(x, generator(2))):
        added = (budget.add(x, None, variables) - x).abs().amax((0, 1))
        assert added.max() <= 0.025 + 1e-6
        assert added.min() > 0.02  # every lead comes near it


def test_lead_consistent_perturbations_obey_einthoven_and_goldberger():
    x = torch.randn(2, 500, 12, generator=generator())
    budget = Budget(0.1, lead_consistent=True)
    added = budget.add(x, None, budget.start(x, generator(1))) - x
    assert np.abs(leads.limb_residual(added.numpy())).max() < 1e-6
    free = Budget(0.1).add(x, None, Budget(0.1).start(x, generator(1))) - x
    assert np.abs(leads.limb_residual(free.numpy())).max() > 0.1


def test_every_pair_of_leads_i_and_ii_within_the_budget_can_be_reached():
    pairs = np.random.default_rng(0).uniform(-1, 1, (5000, 2))
    pairs = pairs[np.abs(leads.derive(*pairs.T)).max(1) <= 1]
    potentials = np.column_stack([np.zeros(len(pairs)), pairs])  # right arm, left arm, leg
    middle = (potentials.max(1) + potentials.min(1)) / 2
    variables = np.zeros((1, len(pairs), 9))
    variables[0, :, :3] = 2 * (potentials - middle[:, None])
    assert np.abs(variables).max() <= 1 + 1e-12
    x = torch.zeros(1, len(pairs), 12, dtype=torch.float64)
    found = Budget(1.0, lead_consistent=True).add(x, None, torch.from_numpy(variables))
    np.testing.assert_allclose(found[0, :, :2], pairs, atol=1e-12)


@pytest.mark.parametrize("fs_hz", [125, 250, 500])
def test_the_kernel_has_the_same_response_in_hz_at_every_rate(fs_hz):
    kernel = gaussian_kernel((10.0, 20.0), fs_hz).numpy()
    assert kernel.sum() == pytest.approx(1, abs=1e-12) and kernel.min() >= 0
    time_s = (np.arange(len(kernel)) - len(kernel) // 2) / fs_hz
    for hz in (0, 5, 10, 20, 40):
        response = (kernel * np.cos(2 * np.pi * hz * time_s)).sum()
        wanted = np.mean([np.exp(-2 * (np.pi * s * hz) ** 2) for s in (0.01, 0.02)])
        assert response == pytest.approx(wanted, abs=1e-3)


def test_the_default_widths_leave_what_their_description_says():
    kernel = gaussian_kernel((5.0, 7.5, 10.0, 12.5, 15.0), 500).numpy()
    hz = np.fft.rfftfreq(5000, 1 / 500)
    response = np.abs(np.fft.rfft(kernel, 5000))
    for at, wanted in ((10, 0.81), (30, 0.25), (60, 0.04)):
        assert response[np.argmin(np.abs(hz - at))] == pytest.approx(wanted, abs=0.005)
    energy = np.cumsum(response**2) / (response**2).sum()
    assert hz[np.searchsorted(energy, 0.99)] < 40


def test_smoothing_is_the_convolution_of_every_lead_and_sees_no_padding():
    kernel = gaussian_kernel((20.0,), 125)
    budget = Budget(1.0, kernel=kernel)
    x = torch.zeros(2, 100, 12, dtype=torch.float64)
    mask = torch.arange(100).expand(2, -1) < torch.tensor([[100], [70]])
    variables = budget.start(x, generator())
    found = budget.add(x, mask, variables)
    for record, length in ((0, 100), (1, 70)):
        for lead in range(12):
            row = variables[record, :length, lead].numpy()
            wanted = np.convolve(row, kernel.numpy(), mode="same")
            np.testing.assert_allclose(found[record, :length, lead], wanted, atol=1e-12)
    assert (found[1, 70:] == 0).all()


def test_padding_stays_as_it_is_whatever_it_holds():
    x = torch.randn(2, 100, 12, generator=generator())
    mask = torch.arange(100).expand(2, -1) < 60
    x[:, 60:80], x[:, 80:] = float("nan"), 7.0
    for lead_consistent in (False, True):
        for kernel in (None, gaussian_kernel((20.0,), 125)):
            budget = Budget(0.5, lead_consistent, kernel)
            found = budget.add(x, mask, budget.start(x, generator(1)))
            assert torch.equal(found[:, 60:].nan_to_num(9.0), x[:, 60:].nan_to_num(9.0))
            assert (found[:, :60] != x[:, :60]).any(-1).all()


def test_the_loss_is_the_cross_entropy_of_the_trusted_labels_or_of_one():
    torch.manual_seed(0)
    model = CNNBaseline(5, 8, n_layers=1, stem_width=4, stem_padding=7).eval()
    x, y = torch.randn(3, 128, 12), torch.randint(0, 2, (3, 5)).float()
    y_mask = torch.rand(3, 5) < 0.6
    each = F.binary_cross_entropy_with_logits(model(x), y, reduction="none")
    shown = dict(x=x, y=y)
    for y_mask_, label, wanted in (
        (None, None, each.sum(1)),
        (y_mask, None, (each * y_mask).sum(1)),
        (None, 2, each[:, 2]),
        (y_mask, 2, each[:, 2] * y_mask[:, 2]),
    ):
        attacked = records(Budget(0.1), model, **shown, y_mask=y_mask_, label=label)
        torch.testing.assert_close(attacked.loss(attacked.start(None)), wanted)
    doubtful = y.masked_fill(~y_mask, float("nan"))
    attacked = records(Budget(0.1), model, x=x, y=doubtful, y_mask=y_mask)
    torch.testing.assert_close(attacked.loss(attacked.start(None)), (each * y_mask).sum(1))


def test_a_very_sure_model_still_shows_where_its_loss_rises():
    weights = torch.full((64, 12), 1.0)
    attacked = records(
        Budget(0.01), Linear(weights), x=torch.full((2, 64, 12), 0.05), y=torch.ones(2, 1)
    )
    assert attacked.model(attacked.x)[0] > 35  # sigmoid is 1 in float32 from 17 on
    _, direction = attacked.ascent(attacked.start(None))
    assert (direction == -1).all()


def test_evaluation_mode_gives_every_module_its_own_mode_back_even_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3)))
    model.train()
    model[2][0].eval()  # a frozen part
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), torch.no_grad(), evaluation_mode(model):
        assert torch.is_grad_enabled() and not any(m.training for m in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_frozen_parameters_learn_again_even_after_an_error():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(KeyError), evaluation_mode(model, frozen=True):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": torch.ones(3, 1)}, r"y of shape \(3, 1\) found, \(2, n_classes\) wanted"),
        ({"y": torch.ones(2)}, r"y of shape \(2,\) found"),
        ({"y": torch.ones(2, 4)}, r"y of shape \(2, 4\) found, \(2, 1\) wanted, as the model's"),
        ({"y": torch.full((2, 1), 2.0)}, "label outside 0 to 1"),
        ({"y": torch.full((2, 1), float("nan"))}, "label outside 0 to 1"),
        ({"y_mask": torch.ones(2, 2)}, r"y_mask of shape \(2, 2\) found, \(2, 1\) wanted"),
        ({"label": 1}, "target=1 found, the number of a label, 0 to 0"),
        ({"label": -1}, "target=-1 found"),
        ({"label": False}, "target=False found"),
        (
            {"x": torch.full((2, 64, 12), float("inf"))},
            "record 0 of the batch, sample 0: NaN or inf",
        ),
        ({"x": torch.zeros(2, 12, 64)}, "transpose the last two axes"),
        ({"mask": torch.ones(2, 63, dtype=torch.bool)}, r"mask of shape \(2, 63\)"),
    ],
)
def test_wrong_records_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        attacked = records(Budget(0.1), Linear(torch.ones(64, 12)), **changes)
        attacked.loss(attacked.start(None))


def test_a_missing_sample_is_refused_inside_the_mask_and_named():
    x = torch.zeros(2, 64, 12)
    x[1, 40, 3] = float("nan")
    mask = torch.ones(2, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match="record 1 of the batch, sample 40"):
        records(Budget(0.1), x=x, mask=mask)
    mask[1, 40] = False
    records(Budget(0.1), x=x, mask=mask)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_output_is_not_finite_is_named(value):
    weights = torch.zeros(64, 12, dtype=torch.float64)
    x = torch.zeros(2, 64, 12, dtype=torch.float64)
    x[1] = 1.0
    weights[0, 0] = value
    attacked = records(Budget(0.1), Linear(weights), x=x, y=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="loss that is not finite found for record 0"):
        attacked.ascent(attacked.start(None))


def test_a_gradient_that_is_not_finite_is_named():
    class Edge(nn.Module):
        def forward(self, x, mask=None):
            return x.sum((1, 2)).sqrt()[:, None]  # at 0, value 0 and slope infinite

    x = torch.ones(2, 64, 12, dtype=torch.float64)
    x[1] = 0.0
    attacked = records(Budget(0.1), Edge(), x=x)
    with pytest.raises(ValueError, match="gradient that is not finite found for record 1"):
        attacked.ascent(attacked.start(None))


@pytest.mark.parametrize("epsilon_mv", [-0.1, float("nan"), float("inf")])
def test_a_wrong_budget_is_named(epsilon_mv):
    with pytest.raises(ValueError, match=f"epsilon_mv={epsilon_mv} found"):
        Budget(epsilon_mv)


@pytest.mark.parametrize("widths", [(), (0.0,), (5.0, float("nan")), 5.0])
def test_wrong_widths_are_named(widths):
    with pytest.raises(ValueError, match="widths_ms=.* found, one or more positive"):
        gaussian_kernel(widths, 500)
    with pytest.raises(ValueError, match="fs_hz=0 found, a positive"):
        gaussian_kernel((5.0,), 0)
