"""Adversarial training: the attacks are those of `attacks`, and the alarm sees a broken defence."""

import pytest
import torch
from waves import small, waves

from ecgbook import leads
from ecgbook.attacks import ALARM, AdversarialTraining, fgsm, losses, pgd
from ecgbook.data import trim

EPSILON_MV = 0.025


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    return small(dropout=0.0)


@pytest.fixture
def batch():
    return trim(waves(8).batch(range(8)))


def attacked(model, batch, **values):
    return AdversarialTraining(**values)(model, batch, seeded())["x"]


def test_each_attack_is_the_one_it_is_named_for(model, batch):
    x, y, mask = batch["x"], batch["y"], batch["mask"]
    options = {"y_mask": batch["y_mask"], "generator": seeded()}
    found = attacked(model, batch, attack="fgsm")
    assert torch.equal(found, fgsm(model, x, y, EPSILON_MV, mask, **options))
    options["generator"] = seeded()
    found = attacked(model, batch, attack="pgd", steps=4)
    assert torch.equal(found, pgd(model, x, y, EPSILON_MV, mask, steps=4, **options))
    noisy = x + 2 * EPSILON_MV * (2 * torch.rand(x.shape, generator=seeded()) - 1)
    noisy = torch.where(mask[..., None], noisy, x)
    found = attacked(model, batch, attack="n-fgsm")
    torch.testing.assert_close(found, fgsm(model, noisy, y, EPSILON_MV, mask))


@pytest.mark.parametrize(("attack", "reach"), [("fgsm", 1), ("n-fgsm", 3), ("pgd", 1)])
def test_attacks_raise_the_loss_and_keep_their_reach(model, batch, attack, reach):
    values = {"attack": attack, "epsilon_mv": EPSILON_MV}
    found = attacked(model, batch, **values)
    moved = (found - batch["x"]).abs()
    assert 0.9 * reach * EPSILON_MV < moved.max() <= reach * EPSILON_MV + 1e-6
    assert not moved[~batch["mask"]].any()
    rest = batch["y"], batch["mask"], batch["y_mask"]
    assert (losses(model, found, *rest) > losses(model, batch["x"], *rest)).all()
    kept = attacked(model, batch, **values, lead_consistent=True) - batch["x"]
    assert abs(leads.limb_residual(kept)).max() < 1e-6
    assert abs(leads.limb_residual(found - batch["x"])).max() > EPSILON_MV


def test_the_share_of_a_batch_is_attacked_and_the_rest_left_alone(model, batch):
    for share, count in ((1.0, 8), (0.5, 4), (0.01, 1)):
        moved = (attacked(model, batch, share=share) != batch["x"]).any(1).any(1)
        assert moved.tolist() == [True] * count + [False] * (8 - count)


def test_a_doubtful_label_is_not_attacked(model, batch):
    doubtful = {**batch, "y_mask": torch.zeros_like(batch["y_mask"])}
    start = AdversarialTraining()(model, doubtful, seeded())["x"]
    flipped = AdversarialTraining()(model, {**doubtful, "y": 1 - batch["y"]}, seeded())["x"]
    assert torch.equal(start, flipped)


class Folded(torch.nn.Module):
    """A model whose loss falls along its gradient's sign within half the budget, then rises."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(5))

    def forward(self, x, mask=None):
        moved = x.mean((1, 2))[:, None] / EPSILON_MV  # 1 after a whole step, where it began at 0
        wave = 2 * torch.sin(torch.pi * moved) + 0.1 * moved
        return wave * self.weight


def test_the_gap_is_small_for_a_smooth_model_and_gives_the_alarm_for_a_folded_one():
    valid = waves(16)
    smooth = AdversarialTraining(epsilon_mv=0.001).watch(small(dropout=0.0), valid)
    assert smooth["clean_loss"] < smooth["fgsm_loss"] <= smooth["pgd_loss"] + 1e-6
    assert abs(smooth["fgsm_pgd_gap"]) < 0.1
    valid.x[:], valid.n_valid[:] = 0, valid.x.shape[1]  # flat, and without padding
    folded = AdversarialTraining(epsilon_mv=EPSILON_MV).watch(Folded(), valid)
    assert folded["fgsm_pgd_gap"] > ALARM
    gap = (folded["pgd_loss"] - folded["fgsm_loss"]) / (folded["pgd_loss"] - folded["clean_loss"])
    assert folded["fgsm_pgd_gap"] == pytest.approx(gap)


def test_the_watched_records_are_the_first_and_none_turns_it_off():
    valid, model = waves(40), small(dropout=0.0)
    row = AdversarialTraining(watched=10).watch(model, valid)
    assert row == AdversarialTraining(watched=99).watch(model, valid.subset(range(10)))
    x, y, mask = (valid.batch(range(10))[k] for k in ("x", "y", "mask"))
    assert row["clean_loss"] == pytest.approx(losses(model, x, y, mask).mean().item(), rel=1e-5)
    assert AdversarialTraining(watched=0).watch(model, valid) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("attack", "cw"), ("epsilon_mv", 0), ("steps", 0), ("share", 0), ("watched", -1)],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} found, .* wanted"):
        AdversarialTraining(**{field: value})
