"""Mamba-3: the layer against its equations in a loop over time, its published shapes and start."""

import math
import re

import pytest
import torch
from mixers import (
    check_gradients,
    check_low_precision,
    check_padding,
    check_same,
    reaches,
    scramble,
    slow_mamba3,
    tokens,
    under,
)
from torch import nn

from ecgbook.models import DecayRate, Mamba3, Rotation, TrapezoidShare, Unidirectional
from ecgbook.scan import trapezoidal_scan

SMALL = {"d_state": 8, "head_dim": 8}
MAMBA3 = {
    "dt_bias": (12,),
    "B_bias": (12, 1, 128),
    "C_bias": (12, 1, 128),
    "D": (12,),
    "in_proj.weight": (2 * 768 + 2 * 128 + 3 * 12 + 32, 384),
    "B_norm.weight": (128,),
    "C_norm.weight": (128,),
    "out_proj.weight": (384, 768),
}


def mixer(**sizes):
    torch.manual_seed(0)
    return scramble(Mamba3(16, **(SMALL | sizes)))


@pytest.mark.parametrize("sizes", [{}, {"n_groups": 2}, {"d_state": 7, "expand": 1}], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_it_equals_its_equations(sizes, reverse):
    layer, h = mixer(**sizes), tokens()
    slow = slow_mamba3(under(layer), h.flip(1) if reverse else h, sizes.get("n_groups", 1))
    check_same(layer, layer(h, reverse=reverse), slow.flip(1) if reverse else slow)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 150])
def test_chunks_do_not_show(length):
    layer, h = mixer(), tokens(length, batch=1)
    check_same(layer, layer(h), slow_mamba3(under(layer), h))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n_groups", [1, 4])
def test_a_record_with_tokens_outside_the_mask_is_the_record_without_them(reverse, n_groups):
    layer, h = mixer(n_groups=n_groups), tokens(70, batch=1)
    # With a bias, what is projected is not zero outside the mask either.
    layer.in_proj = scramble(nn.Linear(16, layer.in_proj.out_features))
    mask = torch.ones(1, 70, dtype=torch.bool)
    mask[:, [0, 1, 5, 20, 21, 22, 40, 42, 69]] = False
    mask[:, 60:67] = False
    full, short = (v.requires_grad_() for v in (h.clone(), h[mask][None]))
    found = layer(full, mask, reverse)[mask]
    wanted = layer(short, reverse=reverse)[0]
    check_same(layer, found[None], wanted[None])
    pull = tokens(*wanted.shape, batch=1, seed=5)[0]
    (gap,) = torch.autograd.grad((layer(full, mask, reverse)[mask] * pull).sum(), full)
    (none,) = torch.autograd.grad((layer(short, reverse=reverse)[0] * pull).sum(), short)
    torch.testing.assert_close(gap[mask], none[0], atol=1e-11, rtol=1e-9)
    assert not gap[~mask].any()
    assert (layer(full, None, reverse)[mask] - wanted).abs().max() > 1e-2


def test_padding_changes_no_token_that_sees_signal():
    check_padding(mixer())


def test_nothing_outside_the_mask_is_read():
    layer, h = mixer(), tokens()
    mask = torch.arange(9).expand(2, 9) % 4 > 0
    wild = h.masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(layer(wild, mask)[mask], layer(h, mask)[mask], atol=0, rtol=0)
    nowhere = torch.zeros(2, 9, dtype=torch.bool)
    layer(h, nowhere).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_first_output_does_not_feel_the_last_token():
    assert reaches(mixer()) == "ahead"


def test_state_dict_and_number_of_parameters_are_those_of_mamba_ssm():
    layer = Mamba3(384)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == MAMBA3
    assert sum(p.numel() for p in layer.parameters()) == sum(map(math.prod, MAMBA3.values()))
    grouped = Mamba3(384, d_state=64, n_groups=3)
    assert grouped.in_proj.weight.shape == (2 * 768 + 6 * 64 + 3 * 12 + 16, 384)


def test_it_starts_as_published():
    torch.manual_seed(0)
    layer = Mamba3(2048, d_state=4, head_dim=1)
    for ones in (layer.B_bias, layer.C_bias, layer.D, layer.B_norm.weight, layer.C_norm.weight):
        assert (ones == 1).all()
    assert layer.B_norm.eps == layer.C_norm.eps == 1e-5
    dt = nn.functional.softplus(layer.dt_bias.detach().double())
    place = ((dt / 0.001).log() / math.log(100)).sort().values  # uniform in [0, 1]
    wanted = (torch.arange(len(place)) + 0.5) / len(place)
    assert (place - wanted).abs().max() < 1.63 / len(place) ** 0.5  # Kolmogorov-Smirnov, 1 %
    bound = 2048**-0.5  # of a linear layer
    assert 0.99 * bound < layer.in_proj.weight.abs().max() <= bound


def test_steps_and_skips_escape_weight_decay():
    marked = {
        n for n, p in Mamba3(16, **SMALL).named_parameters() if hasattr(p, "_no_weight_decay")
    }
    assert marked == {"dt_bias", "D"}


def test_every_parameter_learns():
    check_gradients(mixer())


def test_half_precision_gradients_stay_close():
    torch.manual_seed(0)
    block = Unidirectional(16, **SMALL)
    block.mixer = Mamba3(16, d_state=16, head_dim=8)
    check_low_precision(block)


def test_half_precision_parameters_keep_steps_decays_and_shares_in_single():
    torch.manual_seed(0)
    layer, seen = Mamba3(64), {}
    layer.scan.register_forward_pre_hook(lambda _, inputs: seen.update(enumerate(inputs)))
    y = layer.bfloat16()(tokens(20, 64).bfloat16())
    low, single = torch.bfloat16, torch.float32
    assert [seen[i].dtype for i in range(7)] == [low, single, single, single, low, low, single]
    assert y.dtype == low and y.isfinite().all()


def test_autocast_does_not_round_the_step_bias():
    torch.manual_seed(0)
    layer, seen = Mamba3(64), []
    layer.softplus.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.zeros(1, 3, 64))
    assert torch.equal(seen[0][0], layer.dt_bias.expand(3, -1))


def test_single_precision_is_close_over_a_long_record():
    torch.manual_seed(0)
    layer, h = Mamba3(16, **SMALL), tokens(3000, batch=1)
    with torch.no_grad():
        found, wanted = layer(h.float()), layer.double()(h)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_every_step_is_a_module_of_its_own():
    layer, fired = mixer(), set()
    leaves = {name: part for name, part in layer.named_modules() if not list(part.children())}
    for name, part in leaves.items():
        part.register_forward_hook(lambda *_, name=name: fired.add(name))
    layer(tokens())
    assert fired == set(leaves) == {
        "in_proj", "softplus", "decay", "share", "B_norm", "C_norm", "rotation", "scan",
        "gate.act", "out_proj",
    }  # fmt: skip


def test_decay_rates_are_negative_smooth_and_have_a_floor():
    v = torch.tensor([-1e9, -3.0, 0.0, 2.0, 1e9]).double().requires_grad_()
    rates = DecayRate()(v)
    torch.testing.assert_close(rates, torch.tensor([-1e-4, -0.25, -1, -3, -1e9 - 1]).double())
    (slope,) = torch.autograd.grad(rates.sum(), v)
    torch.testing.assert_close(slope, torch.tensor([0, -1 / 16, -1, -1, -1]).double())
    assert "floor=0.01" in repr(DecayRate(0.01))
    assert TrapezoidShare()(torch.zeros(1)) == 0.5


@pytest.mark.parametrize("reverse", [False, True])
def test_a_rotation_is_a_product_with_complex_numbers_of_length_one(reverse):
    B, C = (tokens(12, 27, seed=seed).view(2, 12, 3, 9) for seed in (1, 2))
    dt, angles = tokens(12, 3, seed=3).exp(), tokens(12, 2, seed=4)
    for v, found in zip((B, C), Rotation()(B, C, dt, angles, reverse), strict=True):
        for t in range(12):
            past = slice(t, None) if reverse else slice(t + 1)
            speed = torch.pi * angles[:, past].tanh()
            angle = torch.einsum("bth,btk->bhk", dt[:, past], speed)
            numbers = torch.view_as_complex(v[:, t, :, :4].unflatten(-1, (2, 2)).contiguous())
            turned = torch.view_as_real(numbers * torch.exp(1j * angle)).flatten(-2)
            wanted = torch.cat([turned, v[:, t, :, 4:]], -1)
            torch.testing.assert_close(found[:, t], wanted, atol=1e-12, rtol=1e-10)


def test_a_state_that_turns_counts_parity():
    """Half a turn for a 1 and none for a 0: what the first token wrote is read with the sign."""
    ones = torch.randint(2, (3, 40), generator=torch.Generator().manual_seed(0)).double()
    dt = torch.ones(3, 40, 1, dtype=torch.float64)
    x, B = torch.zeros(3, 40, 1, 1).double(), torch.zeros(3, 40, 1, 4).double()
    x[:, 0] = B[..., 0] = 1
    B, C = Rotation()(B, B, dt, 1e3 * ones[..., None])  # tanh is 1: a turn by pi
    y = trapezoidal_scan(x, dt, -1e-9 * dt, dt, B, C)[..., 0, 0]
    wanted = 1 - 2 * (ones[:, 1:].cumsum(1) % 2)
    torch.testing.assert_close(y[:, 1:], wanted, atol=1e-6, rtol=0)


def test_wrong_sizes_are_refused():
    for size in (24, 0, -8):
        with pytest.raises(ValueError, match=f"head_dim={size} found, a divisor of .* = 32 wanted"):
            Mamba3(16, head_dim=size)
    for n in (3, 0, -2):
        with pytest.raises(ValueError, match=f"n_groups={n} found, a divisor of the 4 heads want"):
            Mamba3(16, head_dim=8, n_groups=n)
    with pytest.raises(ValueError, match="d_state=3 found, 4 or more wanted"):
        Mamba3(16, head_dim=8, d_state=3)


def test_wrong_inputs_are_refused():
    layer = Mamba3(16, **SMALL)
    for found in ((0, 9, 16), (2, 0, 16)):
        message = f"tokens of shape {found} found, (batch, length, 16), none of them 0, wanted"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layer(torch.zeros(found))
    with pytest.raises(ValueError, match=r"\(2, 16, 9\) found, .* wanted; transpose"):
        layer(torch.zeros(2, 16, 9))
    with pytest.raises(ValueError, match=r"mask of shape \(2, 8\), .* \(2, 9\), torch.bool wanted"):
        layer(torch.zeros(2, 9, 16), torch.ones(2, 8, dtype=torch.bool))


def test_second_derivatives_are_those_of_finite_differences():
    torch.manual_seed(0)
    layer = scramble(Mamba3(8, d_state=4, head_dim=4))
    h, away = tokens(9, 8).requires_grad_(), tokens(9, 8, seed=3)
    mask = torch.arange(9).expand(2, 9) % 4 > 0

    def slope(h, graph=False):
        return torch.autograd.grad(layer(h, mask)[mask].square().sum(), h, create_graph=graph)[0]

    (found,) = torch.autograd.grad((slope(h, True) * away).sum(), h)
    near = [slope((h + s * away).detach().requires_grad_()) for s in (1e-5, -1e-5)]
    wanted = (near[0] - near[1]) / 2e-5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    torch.testing.assert_close(slope(h, True).detach(), slope(h), rtol=1e-9, atol=1e-11)
    assert wanted.abs().max() > 1e-3
