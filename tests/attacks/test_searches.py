"""Attacks: the plain formulas, the budget, the order of their strength, a model left as it was.

Against the adversarial-robustness-toolbox they are held in tests/test_parity.py.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgbook import leads
from ecgbook.attacks import gaussian_kernel, searches
from ecgbook.models import MAMBA2_PRESETS, CNNBaseline, EnhancedECGMamba2

EPSILON_MV, FS_HZ = 0.025, 125.0
smooth = partial(searches.smooth, fs_hz=FS_HZ)
ATTACKS = {"fgsm": searches.fgsm, "pgd": searches.pgd, "apgd": searches.apgd, "smooth": smooth}
CLIMBERS = {name: attack for name, attack in ATTACKS.items() if name != "fgsm"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def few(name: str) -> dict:
    """Arguments that keep an attack short."""
    return {} if name == "fgsm" else {"steps": 5}


class Case:
    """A small model that has learnt five waves of 60 µV, and records with padding of its task."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = CNNBaseline(5, 8, n_layers=1, stem_width=4, stem_padding=7, dropout=0.0)
        x, y = self.records(64)
        optimizer = torch.optim.Adam(self.model.parameters(), 0.02)
        for _ in range(80):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(self.model(x), y).backward()
            optimizer.step()
        self.model.zero_grad()
        self.model.eval()
        self.x, self.y = self.records(8)
        self.mask = torch.arange(160).expand(8, -1) < torch.tensor([160, 120] * 4)[:, None]
        self.x[~self.mask] = 0

    @staticmethod
    def records(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(0, 2, (n, 5)).float()
        time_s = torch.arange(160) / FS_HZ
        waves = torch.stack([torch.sin(2 * math.pi * hz * time_s) for hz in (3, 6, 9, 13, 18)])
        sizes = torch.linspace(0.5, 1.5, 12)
        x = 0.06 * torch.einsum("nk,ks,l->nsl", y, waves, sizes)
        return x + 0.02 * torch.randn(n, 160, 12), y

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = self.model(x, self.mask)
        return F.binary_cross_entropy_with_logits(logits, self.y, reduction="none").sum(1)

    def accuracy(self, x: torch.Tensor) -> float:
        with torch.no_grad():
            return ((self.model(x, self.mask) > 0) == (self.y > 0)).float().mean().item()

    def attack(self, name: str, epsilon_mv: float = EPSILON_MV, **options) -> torch.Tensor:
        return ATTACKS[name](self.model, self.x, self.y, epsilon_mv, self.mask, **options)


@pytest.fixture(scope="module")
def case() -> Case:
    case = Case()
    assert case.accuracy(case.x) > 0.95
    return case


def fgsm_plainly(case, epsilon_mv):
    x = case.x.clone().requires_grad_()
    logits = case.model(x, case.mask)
    F.binary_cross_entropy_with_logits(logits, case.y, reduction="sum").backward()
    case.model.zero_grad()
    return (x + epsilon_mv * x.grad.sign()).detach()


def pgd_plainly(case, epsilon_mv, steps):
    seen = [case.x]
    for _ in range(steps):
        x = seen[-1].clone().requires_grad_()
        logits = case.model(x, case.mask)
        F.binary_cross_entropy_with_logits(logits, case.y, reduction="sum").backward()
        moved = x.detach() + 2.5 * epsilon_mv / steps * x.grad.sign()
        seen.append(torch.clip(moved, case.x - epsilon_mv, case.x + epsilon_mv))
    case.model.zero_grad()
    losses = torch.stack([case.loss(x) for x in seen])
    return torch.stack(seen)[losses.argmax(0), torch.arange(len(case.x))]


def apgd_plainly(loss_and_slope, x, epsilon, steps):
    """Follow algorithm 1 of Croce and Hein for one record, from the record itself."""

    def project(z):
        return np.clip(z, x - epsilon, x + epsilon)

    percents = (0, 22, 41, 57, 70, 80, 87, 93, 99)
    checkpoints = [math.ceil(percent * steps / 100) for percent in percents]
    eta, points, losses = 2 * epsilon, [x], [loss_and_slope(x)[0]]
    top, top_x = losses[0], x
    etas, tops = [eta], [top]
    rises = 0
    for k in range(steps):
        z = project(points[k] + eta * np.sign(loss_and_slope(points[k])[1]))
        if k:
            z = project(points[k] + 0.75 * (z - points[k]) + 0.25 * (points[k] - points[k - 1]))
        points.append(z)
        losses.append(loss_and_slope(z)[0])
        rises += losses[k + 1] > loss_and_slope(points[k])[0]
        if losses[-1] > top:
            top, top_x = losses[-1], z
        if k + 1 in checkpoints:
            j = checkpoints.index(k + 1)
            few_rises = rises < 0.75 * (checkpoints[j] - checkpoints[j - 1])
            same_eta = len(etas) < 2 or etas[-1] == etas[-2]
            if few_rises or (same_eta and tops[-1] == top):
                eta, points[-1] = eta / 2, top_x
            etas.append(eta)
            tops.append(top)
            rises = 0
    return top_x, etas


def test_fgsm_is_the_sign_of_the_gradient(case):
    torch.testing.assert_close(
        case.attack("fgsm"), fgsm_plainly(case, EPSILON_MV), atol=1e-7, rtol=0
    )


def test_pgd_is_signed_steps_clipped_to_the_budget(case):
    found = case.attack("pgd", steps=7)
    torch.testing.assert_close(found, pgd_plainly(case, EPSILON_MV, 7), atol=1e-6, rtol=0)
    again = case.attack("pgd", steps=7, step_mv=2.5 * EPSILON_MV / 7)
    torch.testing.assert_close(again, found, atol=1e-6, rtol=0)


class Bumpy(nn.Module):
    """Its loss has many hills, so that steps overshoot; one logit, in float64."""

    def __init__(self):
        super().__init__()
        draw = generator(3)
        self.one = torch.randn(64 * 12, 20, dtype=torch.float64, generator=draw) * 0.3
        self.two = torch.randn(20, dtype=torch.float64, generator=draw)

    def forward(self, x, mask=None):
        return (torch.sin(4 * x.flatten(1) @ self.one) @ self.two)[:, None]


@pytest.mark.parametrize(
    ("epsilon_mv", "steps", "numbers"),
    # In the second, steps rise again after a fall without reaching the best loss: it is the
    # paper's second condition that halves the step.
    [(0.1, 40, [0, 1, 2, 3, 4]), (0.01, 20, [48, 65, 142])],
)
def test_apgd_is_the_algorithm_of_its_paper(epsilon_mv, steps, numbers):
    model = Bumpy()
    x = torch.randn(200, 64, 12, dtype=torch.float64, generator=generator(1))[numbers]
    y = torch.tensor(numbers)[:, None] % 2
    found = searches.apgd(model, x, y, epsilon_mv, steps=steps)
    for record in range(len(x)):

        def loss_and_slope(z, label=y[record]):
            z = torch.from_numpy(z)[None].requires_grad_()
            logit = model(z)[0]
            loss = F.binary_cross_entropy_with_logits(logit, label.double())
            return loss.item(), torch.autograd.grad(loss, z)[0][0].numpy()

        wanted, etas = apgd_plainly(loss_and_slope, x[record].numpy(), epsilon_mv, steps)
        assert etas[-1] < etas[0]  # the schedule was at work
        np.testing.assert_allclose(found[record].numpy(), wanted, atol=1e-9)


def test_checkpoints_are_those_of_the_paper():
    assert searches._checkpoints(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    assert searches._checkpoints(10) == {3, 5, 6, 7, 8, 9, 10}


class Linear(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x, mask=None):
        return (x * self.weights).sum((1, 2))[:, None]


def test_smooth_finds_the_best_smooth_perturbation_of_a_linear_model():
    weights = torch.randn(100, 12, dtype=torch.float64, generator=generator())
    x = torch.zeros(1, 100, 12, dtype=torch.float64)
    found = smooth(Linear(-weights), x, torch.ones(1, 1), 0.1, widths_ms=(8.0, 24.0))[0]
    kernel = gaussian_kernel((8.0, 24.0), FS_HZ).numpy()
    for lead in range(12):
        uphill = np.convolve(weights[:, lead].numpy(), kernel, mode="same")
        wanted = 0.1 * np.convolve(np.sign(uphill), kernel, mode="same")
        np.testing.assert_allclose(found[:, lead], wanted, atol=1e-9)


def test_a_smooth_perturbation_has_its_energy_below_40_hz_where_that_of_pgd_has_not():
    weights = torch.randn(1000, 12, generator=generator())  # a model that likes all frequencies
    x, hz = torch.zeros(1, 1000, 12), np.fft.rfftfreq(1000, 1 / 500)
    below = {}
    for name, attack in (("smooth", partial(searches.smooth, fs_hz=500)), ("pgd", searches.pgd)):
        added = attack(Linear(weights), x, torch.ones(1, 1), 0.025, steps=5)[0]
        energy = (np.abs(np.fft.rfft(added.numpy(), axis=0)) ** 2).sum(1)
        below[name] = energy[hz < 40].sum() / energy.sum()
    assert below["smooth"] > 0.98
    assert below["pgd"] < 0.3


@pytest.mark.parametrize("lead_consistent", [False, True], ids=["12 leads", "8 leads"])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_lead_exceeds_the_budget_and_padding_is_untouched(case, name, lead_consistent):
    for draw in (None, generator()):
        found = case.attack(name, lead_consistent=lead_consistent, generator=draw, **few(name))
        assert found.shape == case.x.shape and found.dtype == case.x.dtype
        added = found - case.x
        assert added.abs().max() <= EPSILON_MV + 1e-6
        assert added.abs().max() > 0.9 * EPSILON_MV
        assert torch.equal(found[~case.mask], case.x[~case.mask])
        if lead_consistent:
            assert np.abs(leads.limb_residual(added.numpy())).max() < 1e-6
        assert (case.loss(found) > case.loss(case.x)).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_lead_consistent_attack_is_no_stronger_than_a_free_one(case, name):
    free = case.loss(case.attack(name, **few(name))).mean()
    bound = case.loss(case.attack(name, lead_consistent=True, **few(name))).mean()
    assert bound < free


def test_many_steps_are_never_weaker_than_one(case):
    for lead_consistent in (False, True):
        one = case.loss(case.attack("fgsm", lead_consistent=lead_consistent))
        for name, steps in (("pgd", 50), ("apgd", 25)):
            many = case.loss(case.attack(name, lead_consistent=lead_consistent, steps=steps))
            assert (many >= one - 1e-5).all() and (many > one + 0.01).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_loss_rises_with_the_budget_and_exceeds_that_of_noise(case, name):
    budgets = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1)
    losses = [case.loss(case.attack(name, e, **few(name))).mean().item() for e in budgets]
    assert losses[0] == case.loss(case.x).mean()
    assert all(np.diff(losses) > 0)
    for epsilon_mv, loss in zip(budgets[1:], losses[1:], strict=True):
        noisy = searches.random_noise(case.x, epsilon_mv, case.mask, generator())
        assert loss > case.loss(noisy).mean()


@pytest.mark.parametrize("name", CLIMBERS)
def test_nothing_is_left_of_the_accuracy_at_an_absurd_budget(case, name):
    # One label at a time: together, a single logit far off its label outweighs the others.
    for label in range(5):
        found = case.attack(name, 0.5, target=label, steps=20)
        with torch.no_grad():
            calls = case.model(found, case.mask)[:, label] > 0
        assert (calls != (case.y[:, label] > 0)).all()


@pytest.mark.parametrize("name", CLIMBERS)
def test_restarts_never_weaken_an_attack_and_help_some_record(name):
    model = Bumpy()
    x = torch.randn(8, 64, 12, dtype=torch.float64, generator=generator(1))
    y = torch.ones(8, 1)

    def loss(restarts):
        found = CLIMBERS[name](model, x, y, 0.1, steps=4, restarts=restarts, generator=generator())
        return F.softplus(-model(found))[:, 0]

    one, three = loss(1), loss(3)
    assert (three >= one - 1e-12).all() and (three > one + 1e-3).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_generator_makes_an_attack_repeatable_and_another_one_changes_it(case, name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = [case.attack(name, generator=generator(seed), **few(name)) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), state)  # and draws from no other


@pytest.mark.parametrize("name", ATTACKS)
def test_no_record_has_a_part_in_another_ones_result(case, name):
    together = case.attack(name, **few(name))
    for i in (0, 1, 5):
        one = slice(i, i + 1)
        n_valid = int(case.mask[i].sum())  # nor has its padding
        alone = ATTACKS[name](
            case.model,
            case.x[one, :n_valid],
            case.y[one],
            EPSILON_MV,
            case.mask[one, :n_valid],
            **few(name),
        )
        torch.testing.assert_close(alone[0], together[i, :n_valid], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_model_is_left_as_it_was_even_in_the_middle_of_a_training_step(case, name):
    model = CNNBaseline(5, 8, n_layers=1, stem_width=4, stem_padding=7)
    model.load_state_dict(case.model.state_dict())
    model.train()
    model.stem.norm1.eval()  # a frozen layer
    model.head.bias.requires_grad_(False)
    model(case.x, case.mask).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(3.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        found = ATTACKS[name](model, case.x, case.y, EPSILON_MV, case.mask, **few(name))
        assert not torch.is_grad_enabled()
    assert not found.requires_grad and not case.x.requires_grad
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    for key, parameter in model.named_parameters():
        assert parameter.grad is None if key == "head.bias" else (parameter.grad == 3).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_doubtful_labels_are_not_attacked(case, name):
    y_mask = torch.ones_like(case.y, dtype=torch.bool)
    y_mask[:, 1:] = False
    one = case.attack(name, target=0, **few(name))
    assert torch.equal(case.attack(name, y_mask=y_mask, **few(name)), one)
    assert not torch.equal(case.attack(name, target=1, **few(name)), one)
    y_mask[3] = False
    assert torch.equal(case.attack(name, y_mask=y_mask, **few(name))[3], case.x[3])


def test_attacks_work_on_the_whole_model_of_the_book():
    torch.manual_seed(0)
    small = {"embed_dim": 16, "stem_width": 8, "d_state": 8, "head_dim": 8, "n_layers": 1}
    model = EnhancedECGMamba2(**{**MAMBA2_PRESETS["tutorial"], **small}).eval()
    x, y = torch.randn(2, 128, 12) * 0.25, torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    for name, attack in ATTACKS.items():
        found = attack(model, x, y, EPSILON_MV, **few(name))
        with torch.no_grad():
            losses = [
                F.binary_cross_entropy_with_logits(model(z), y.float(), reduction="none").sum(1)
                for z in (x, found)
            ]
        assert (losses[1] > losses[0]).all()


def test_fgsm_from_a_random_start_steps_further_than_the_budget_and_is_cut_back(case):
    start = searches.fgsm(
        case.model, case.x, case.y, EPSILON_MV, case.mask, generator=generator(), step_mv=1e-9
    )
    whole = case.attack("fgsm", generator=generator())
    moved = (whole - start)[case.mask].abs()
    inside = (whole - case.x)[case.mask].abs() < EPSILON_MV - 1e-6
    inside &= moved > 0  # a sample that the model does not see stays
    assert moved[inside].numpy() == pytest.approx(1.25 * EPSILON_MV, abs=1e-6)
    assert 0.2 < inside.float().mean() < 0.5  # 3 / 8 of a uniform start stay inside


@pytest.mark.parametrize("lead_consistent", [False, True])
def test_noise_moves_every_sample_as_far_as_an_attack_and_either_way(case, lead_consistent):
    found = searches.random_noise(
        case.x, EPSILON_MV, case.mask, generator(), lead_consistent=lead_consistent
    )
    added = found - case.x
    assert torch.equal(found[~case.mask], case.x[~case.mask])
    inside = added[case.mask]
    free = inside[:, 6:] if lead_consistent else inside
    torch.testing.assert_close(free.abs(), torch.full_like(free, EPSILON_MV), atol=1e-6, rtol=0)
    assert (free > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert inside.abs().max() <= EPSILON_MV + 1e-6
    residual = np.abs(leads.limb_residual(added.numpy())).max()
    assert residual < 1e-6 if lead_consistent else residual > EPSILON_MV
    again = searches.random_noise(
        case.x, EPSILON_MV, case.mask, generator(), lead_consistent=lead_consistent
    )
    assert torch.equal(again, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 found, 1 or more"),
        ({"restarts": 0}, "restarts=0 found, 1 or more"),
        ({"restarts": 2}, "restarts=2 without a generator found"),
        ({"step_mv": 0.0}, "step_mv=0.0 found, a positive number"),
        ({"epsilon_mv": -0.1}, "epsilon_mv=-0.1 found, 0 mV or more"),
        ({"target": 5}, "target=5 found, the number of a label, 0 to 4"),
    ],
)
def test_wrong_arguments_are_named(case, options, message):
    for name in CLIMBERS:
        if name == "apgd" and "step_mv" in options:
            continue
        with pytest.raises(ValueError, match=message):
            case.attack(name, **options)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_signal_with_a_missing_sample_or_the_wrong_shape_is_refused(case, name):
    broken = case.x.clone()
    broken[2, 7, 1] = float("nan")
    with pytest.raises(ValueError, match="record 2 of the batch, sample 7"):
        ATTACKS[name](case.model, broken, case.y, EPSILON_MV, case.mask)
    with pytest.raises(ValueError, match="record 2 of the batch, sample 7"):
        searches.random_noise(broken, EPSILON_MV, case.mask, generator())
    with pytest.raises(ValueError, match="transpose the last two axes"):
        ATTACKS[name](case.model, case.x.transpose(1, 2), case.y)
    with pytest.raises(ValueError, match=r"y of shape \(8, 4\) found, \(8, 5\) wanted"):
        ATTACKS[name](case.model, case.x, case.y[:, :4], EPSILON_MV, case.mask)
