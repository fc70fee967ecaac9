"""Transforms: what they change and what not, chances, reproducibility, plain data, mixed labels."""

import numpy as np
import pytest
import torch
from padded import FS_HZ, LENGTHS, others_replaced, padded, seeded, slow_db
from scipy import stats

from ecgbook.augment import FrequencyMask, LeadMask, Mixup, Noise, apply
from ecgbook.leads import LEAD_GROUPS, LEADS, limb_residual
from ecgbook.signals import NOISE_KINDS, add_noise, remove_band

TRANSFORMS = [
    FrequencyMask(FS_HZ, p=1.0),
    FrequencyMask(FS_HZ, n_bands=3, p=0.5),
    Noise(FS_HZ, p=1.0),
    Noise(FS_HZ, p=0.5),
    LeadMask(0.3),
    LeadMask(0.4, whole_groups=True),
]
KEEP_EINTHOVEN = TRANSFORMS[:4]


def name(transform):
    return f"{transform.transform}-{transform.p}"


def labelled(n=8, samples=200):
    """A batch whose records, labels and lengths tell who they are."""
    lengths = 60 + 15 * torch.arange(n)
    mask = torch.arange(samples) < lengths[:, None]
    x = torch.zeros(n, samples, 12)
    y = torch.zeros(n, n)
    for i in range(n):
        x[i, :, i] = 1
        y[i, i] = 1
    y_mask = torch.rand(n, n, generator=seeded(9)) < 0.7
    return {"x": x * mask[..., None], "mask": mask, "y": y, "y_mask": y_mask}


# --- every transform of signals


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_generator_repeats_it_and_the_input_is_left_alone(transform, dtype):
    x, mask = padded(dtype=dtype)
    original = x.clone()
    y = transform(x, mask, seeded(1))
    assert y.dtype == dtype and y.shape == x.shape
    assert torch.equal(x, original)
    assert not torch.equal(y, x)
    assert torch.equal(y, transform(x, mask, seeded(1)))
    assert not torch.equal(y, transform(x, mask, seeded(2)))
    torch.manual_seed(3)
    z = transform(x, mask)
    torch.manual_seed(3)
    assert torch.equal(z, transform(x, mask))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
def test_padding_stays_zero_and_neither_it_nor_the_other_records_matter(transform):
    x, mask = padded()
    first, second = seeded(), seeded()
    y = transform(x, mask, first)
    assert (y[~mask] == 0).all()
    longer, longer_mask = padded(2500)
    z = transform(longer, longer_mask, second)
    torch.testing.assert_close(z[:, :1300], y, atol=2e-6, rtol=0)
    assert torch.equal(first.get_state(), second.get_state())
    for i in range(len(LENGTHS)):
        other, other_mask = others_replaced(x, mask, i)
        z = transform(other, other_mask, seeded())
        torch.testing.assert_close(z[i], y[i], atol=2e-6, rtol=0)


@pytest.mark.parametrize("transform", KEEP_EINTHOVEN, ids=name)
def test_einthovens_law_survives(transform):
    x, mask = padded()
    before, after = (limb_residual(v.numpy()) for v in (x, transform(x, mask, seeded())))
    assert np.abs(after - before).max() < 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
def test_the_gradient_is_that_of_the_linear_map(transform):
    """A step along any direction changes the result by the map's own image of it."""
    x, mask = padded(dtype=torch.float64)
    step = torch.randn(x.shape, dtype=x.dtype, generator=seeded(5)) * mask[..., None]
    w = torch.randn(x.shape, dtype=x.dtype, generator=seeded(6))
    x.requires_grad_()
    (transform(x, mask, seeded()) * w).sum().backward()
    image = step if isinstance(transform, Noise) else transform(step, mask, seeded())
    torch.testing.assert_close((x.grad * step).sum(), (image * w).sum())


# --- frequency masks


def lost(x, y, n):
    """Which lines of the spectrum are gone, (lines, leads)."""
    old, new = (np.fft.rfft(v[:n].double().numpy(), axis=0) for v in (x, y))
    return np.abs(new) < 1e-6 * np.abs(old).max()


def test_a_mask_is_one_for_all_leads_of_a_record_and_another_for_every_record():
    x = torch.randn(40, 1250, 12, generator=seeded(), dtype=torch.float64)
    y = FrequencyMask(FS_HZ, width_hz=(2, 8), range_hz=(3, 30), p=1.0)(x, generator=seeded())
    hz = np.fft.rfftfreq(1250, 1 / FS_HZ)
    starts, widths = [], []
    for before, after in zip(x, y, strict=True):
        gone = lost(before, after, 1250)
        assert (gone == gone[:, :1]).all()
        at = hz[gone[:, 0]]
        assert len(at) == round((at[-1] - at[0]) * 10) + 1  # without a gap
        assert at[0] >= 3 and at[-1] < 30
        starts.append(at[0])
        widths.append(at[-1] - at[0] + 0.1)
    assert 1.85 < min(widths) < 3.5 and 6.5 < max(widths) < 8.15
    assert min(starts) < 6 and max(starts) > 20
    assert len(set(starts)) > 30


def test_a_masked_record_is_one_with_that_band_removed():
    x, mask = padded()
    y = FrequencyMask(FS_HZ, width_hz=(4, 4), range_hz=(6, 10), p=1.0)(x, mask, seeded())
    torch.testing.assert_close(y, remove_band(x, FS_HZ, 6, 10, mask))


def test_the_share_of_masked_records_and_the_number_of_bands_are_those_asked_for():
    x = torch.randn(400, 250, 12, generator=seeded())
    for p in (0.0, 0.3, 1.0):
        y = FrequencyMask(FS_HZ, p=p)(x, generator=seeded(7))
        share = (y != x).flatten(1).any(1).double().mean().item()
        assert abs(share - p) < 0.08 * (0 < p < 1) + 1e-12
    x = torch.randn(60, 1250, 12, generator=seeded(), dtype=torch.float64)
    transform = FrequencyMask(FS_HZ, 3, width_hz=(1, 1), range_hz=(0.5, 60), p=1.0)
    y = transform(x, generator=seeded())
    bands = [np.diff(lost(a, b, 1250)[:, 0].astype(int)).clip(0).sum() for a, b in zip(x, y)]  # noqa: B905
    assert max(bands) == 3 and np.mean(bands) > 2.5


# --- noise


def test_noise_comes_at_ratios_of_its_range_in_all_of_its_kinds():
    x, _ = padded(1250, (1250,))
    x = x.expand(80, -1, -1)
    y = Noise(FS_HZ, snr_db=(3, 15), p=0.75)(x, generator=seeded())
    noisy = (y != x).flatten(1).any(1)
    assert 48 <= noisy.sum() <= 72
    found = [slow_db(x[0], record, 1250) for record in y[noisy]]
    assert 3 - 1e-3 < min(found) < 5 and 13 < max(found) < 15 + 1e-3
    hz = np.fft.rfftfreq(1250, 1 / FS_HZ)
    power = np.abs(np.fft.rfft((y - x)[noisy].double().numpy(), axis=1)).sum(2) ** 2
    middle = (power.cumsum(1) < 0.5 * power.sum(1, keepdims=True)).sum(1)
    slow, fast, hum = hz[middle] < 2, (hz[middle] > 8) & (hz[middle] < 45), hz[middle] > 45
    for kind in (slow, fast, hum):  # baseline wander and electrode motion are both slow
        assert kind.sum() >= 6
        assert np.ptp(np.array(found)[kind]) > 6, "a kind has a part of the ratios"


def test_one_kind_for_all_is_add_noise():
    x, mask = padded()
    y = Noise(FS_HZ, kinds=("muscle",), snr_db=(4, 4), p=1.0)(x, mask, seeded())
    generator = seeded()
    torch.rand(len(x), 3, generator=generator)
    torch.testing.assert_close(y, add_noise(x, "muscle", 4.0, FS_HZ, mask, generator))


# --- masked leads


@pytest.mark.parametrize("groups", [False, True])
def test_leads_are_silent_or_bit_for_bit_as_they_were(groups):
    x, mask = padded(1250, (1250,) * 5)
    x = x.repeat(60, 1, 1)
    y = LeadMask(0.3, whole_groups=groups)(x, generator=seeded())
    kept = (y == x).all(1)
    assert (y == 0).all(1).logical_or(kept).all()
    parts = kept.unflatten(1, (4, 3)) if groups else kept[..., None]
    assert (parts == parts[..., :1]).all()
    assert list(LEADS) == [lead for group in LEAD_GROUPS.values() for lead in group]
    assert abs(parts[..., 0].double().mean().item() - 0.7) < 0.06
    assert len(torch.unique(kept, dim=0)) > (10 if groups else 100)


@pytest.mark.parametrize(("groups", "left"), [(False, 1), (True, 3)])
def test_a_record_never_loses_everything(groups, left):
    x = torch.ones(200, 10, 12)
    kept = LeadMask(1.0, whole_groups=groups)(x, generator=seeded())[:, 0]
    assert (kept.sum(1) == left).all()
    assert (kept.sum(0) > 0).all()
    assert torch.equal(LeadMask(0.0, whole_groups=groups)(x, generator=seeded()), x)


# --- mixed records


def test_mixed_records_equal_a_slow_mixture():
    batch = labelled()
    mixed = Mixup(alpha=1.0)(batch, seeded(2))
    x, mask, y_mask = (batch[k] for k in ("x", "mask", "y_mask"))
    pairs = 0
    for i, row in enumerate(mixed["y"]):
        weight = row[i].item()
        other = [j for j in row.nonzero()[:, 0].tolist() if j != i]
        assert row.sum().item() == pytest.approx(1)
        j = other[0] if other else i
        pairs += bool(other)
        expected = weight * x[i] + (row[j].item() if other else 0) * x[j]
        torch.testing.assert_close(mixed["x"][i], expected)
        assert torch.equal(mixed["mask"][i], mask[i] | mask[j])
        assert torch.equal(mixed["y_mask"][i], y_mask[i] & y_mask[j])
    assert pairs >= 5
    assert (mixed["x"][~mixed["mask"]] == 0).all()
    assert {k: v.dtype for k, v in mixed.items()} == {k: v.dtype for k, v in batch.items()}


def test_no_evidence_of_a_mixed_label_is_cut_off():
    """A beat in the longer record's tail is in the mixture, where its mask says signal."""
    batch = labelled(2)
    batch["x"][1, 70, 5] = 3.0  # behind the end of record 0
    for seed in range(20):
        mixed = Mixup(alpha=1.0)(batch, seeded(seed))
        share = mixed["y"][0, 1].item()
        assert mixed["x"][0, 70, 5].item() == pytest.approx(3 * share)
        assert bool(mixed["mask"][0, 70]) == (share > 0)
        if share > 0:
            break
    else:
        pytest.fail("record 0 was never mixed with record 1")


def test_what_lies_outside_the_mask_is_not_mixed_in():
    batch = labelled()
    dirty = {**batch, "x": torch.where(batch["mask"][..., None], batch["x"], 7.0)}
    assert torch.equal(Mixup()(dirty, seeded())["x"], Mixup()(batch, seeded())["x"])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha):
    n = 600
    batch = {
        "x": torch.zeros(n, 4, 12),
        "mask": torch.ones(n, 4, dtype=torch.bool),
        "y": torch.eye(n),
        "y_mask": torch.ones(n, n, dtype=torch.bool),
    }
    y = Mixup(alpha)(batch, seeded(4))["y"]
    moved = y.diagonal()[(y > 0).sum(1) == 2].double().numpy()
    assert len(moved) > 0.9 * n * (1 if alpha > 0.5 else 0.5)
    if alpha > 0.5:  # else weights so near to 0 or 1 occur that one label vanishes
        assert stats.kstest(moved, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    near = ((y.diagonal() < 0.1) | (y.diagonal() > 0.9)).double().mean().item()
    assert near == pytest.approx(2 * stats.beta(alpha, alpha).cdf(0.1), abs=0.06)


def test_the_share_of_mixed_records_grows_by_the_epoch_and_the_rest_stays_bit_for_bit():
    n = 400
    batch = {
        "x": torch.randn(n, 20, 12, generator=seeded()),
        "mask": torch.ones(n, 20, dtype=torch.bool),
        "y": torch.eye(n)[:, :5],
        "y_mask": torch.rand(n, 5, generator=seeded(1)) < 0.5,
    }
    transform = Mixup(alpha=1.0, shares=(0.0, 0.2, 0.8))
    for epoch, share in ((0, 0.0), (1, 0.2), (2, 0.8), (9, 0.8)):
        mixed = transform(batch, seeded(epoch), epoch)
        same = (mixed["x"] == batch["x"]).flatten(1).all(1)
        assert abs((~same).double().mean().item() - share) < 0.07
        for key in batch:
            assert torch.equal(mixed[key][same], batch[key][same])


def test_plain_mixup_repeats_with_a_generator_and_lets_gradients_through():
    batch = labelled()
    a, b = Mixup()(batch, seeded(1)), Mixup()(batch, seeded(1))
    assert all(torch.equal(a[k], b[k]) for k in batch)
    assert not torch.equal(a["x"], Mixup()(batch, seeded(2))["x"])
    batch["x"].requires_grad_()
    mixed = Mixup(1.0)(batch, seeded(1))
    mixed["x"][:, 0].sum().backward()
    weights = torch.autograd.grad(Mixup(1.0)(batch, seeded(1))["x"][:, 0].sum(), batch["x"])[0]
    assert weights.sum().item() == pytest.approx(8 * 12, rel=1e-5)


# --- several, and as plain data


ALL = (*TRANSFORMS, Mixup(0.4, shares=(0.5, 1.0)))


def test_transforms_run_in_their_order_with_one_generator():
    x, mask = padded(1250, (1250,) * 5)
    batch = {"x": x, "mask": mask, "y": torch.eye(5), "y_mask": torch.ones(5, 5).bool()}
    found = apply((ALL[0], ALL[4], ALL[6]), batch, seeded(1), epoch=1)
    generator = seeded(1)
    step = ALL[4](ALL[0](x, mask, generator), mask, generator)
    expected = ALL[6]({**batch, "x": step}, generator, 1)
    assert all(torch.equal(found[k], expected[k]) for k in batch)
    assert batch["x"] is x
    assert apply((), batch, seeded()) == batch
    plain = apply(ALL[:1], {"x": x, "mask": mask}, seeded())
    assert torch.equal(plain["x"], ALL[0](x, mask, seeded()))


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrequencyMask(0), "fs_hz=0 found"),
        (lambda: FrequencyMask(NAN), "fs_hz=nan found"),
        (lambda: FrequencyMask(125, n_bands=0), "n_bands=0 found"),
        (lambda: FrequencyMask(125, n_bands=1.5), "n_bands=1.5 found"),
        (lambda: FrequencyMask(125, width_hz=3), "width_hz=3 found, a tuple"),
        (lambda: FrequencyMask(125, width_hz=(0, 1)), r"width_hz=\(0, 1\) found"),
        (lambda: FrequencyMask(125, width_hz=(3, 2)), r"width_hz=\(3, 2\) found"),
        (lambda: FrequencyMask(125, width_hz=(1, 50)), "greatest <= 39.5 Hz"),
        (lambda: FrequencyMask(125, range_hz=(-1, 9)), r"range_hz=\(-1, 9\) found"),
        (lambda: FrequencyMask(125, range_hz=(1, 63)), "<= 62.5 Hz wanted"),
        (lambda: FrequencyMask(125, range_hz=(NAN, 30)), "range_hz=.nan, 30. found"),
        (lambda: FrequencyMask(125, p=1.1), "p=1.1 found, 0 to 1 wanted"),
        (lambda: Noise(0), "fs_hz=0 found"),
        (lambda: Noise(125, kinds=()), "kinds=.. found"),
        (lambda: Noise(125, kinds="muscle"), "kinds='muscle' found, a tuple"),
        (lambda: Noise(125, kinds=("hum",)), "kind='hum' found"),
        (lambda: Noise(125, kinds=(3,)), "kind=3 found"),
        (lambda: Noise(100), "112 Hz or more wanted for the mains"),
        (lambda: Noise(125, snr_db=(5, 0)), r"snr_db=\(5, 0\) found"),
        (lambda: Noise(125, snr_db=(0, float("inf"))), r"snr_db=\(0, inf\) found"),
        (lambda: Noise(125, p=NAN), "p=nan found"),
        (lambda: LeadMask(-0.1), "p=-0.1 found"),
        (lambda: LeadMask(whole_groups="limb"), "groups='limb' found"),
        (lambda: Mixup(0), "alpha=0 found"),
        (lambda: Mixup(float("inf")), "alpha=inf found"),
        (lambda: Mixup(shares=()), "shares=.. found"),
        (lambda: Mixup(shares=(0.5, 1.5)), r"shares=\(0.5, 1.5\) found"),
        (lambda: Mixup(shares=0.5), "shares=0.5 found, a tuple"),
        (lambda: Mixup()({"x": torch.zeros(1, 2, 12)}), "a batch without 'mask' found"),
        (lambda: Mixup()(labelled(), epoch=-1), "epoch=-1 found"),
        (lambda: LeadMask()(torch.zeros(2, 12, 50)), r"\(2, 12, 50\) found"),
        (lambda: LeadMask()(torch.zeros(2, 50, 12).half()), "torch.float16 found"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_kinds_are_drawn_unless_told_otherwise():
    assert Noise(250).kinds == NOISE_KINDS
