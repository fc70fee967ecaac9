"""Mamba and Mamba-2: each layer against its equations, its published shapes and its start."""

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
    slow_mamba,
    slow_mamba2,
    slow_norm,
    slow_shared_mamba2,
    tokens,
    under,
)

from ecgbook.models import (
    S4D,
    Bidirectional,
    FeedForward,
    Hydra,
    Mamba,
    Mamba2,
    RMSNorm,
    SelfAttention,
    SharedMamba2,
    Unidirectional,
    VisionMamba,
)

SMALL = {"d_state": 4, "head_dim": 8}
KINDS = ("one way", "both ways", "shared")
MAMBA = {
    "A_log": (768, 16),
    "D": (768,),
    "in_proj.weight": (1536, 384),
    "conv1d.weight": (768, 1, 4),
    "conv1d.bias": (768,),
    "x_proj.weight": (56, 768),
    "dt_proj.weight": (768, 24),
    "dt_proj.bias": (768,),
    "out_proj.weight": (384, 768),
}
MAMBA2 = {
    "dt_bias": (12,),
    "A_log": (12,),
    "D": (12,),
    "in_proj.weight": (1804, 384),
    "conv1d.weight": (1024, 1, 4),
    "conv1d.bias": (1024,),
    "norm.weight": (768,),
    "out_proj.weight": (384, 768),
}


def start(kind, **sizes):
    torch.manual_seed(0)
    if kind == "one way":
        return Unidirectional(16, **sizes)
    return Bidirectional(16, **sizes, shared=kind == "shared")


def block(kind):
    return scramble(start(kind, **SMALL))


def count(module):
    return sum(p.numel() for p in module.parameters())


def marked(module):
    return {n for n, p in module.named_parameters() if getattr(p, "_no_weight_decay", False)}


@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_equals_its_equations(reverse):
    mixer, h = scramble(Mamba(16, d_state=4, d_conv=3, expand=3, dt_rank=2)), tokens()
    slow = slow_mamba(under(mixer), h.flip(1)).flip(1) if reverse else slow_mamba(under(mixer), h)
    check_same(mixer, mixer(h, reverse=reverse), slow)


@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_mamba2_equals_its_equations(n_groups, reverse):
    mixer, h = scramble(Mamba2(16, **SMALL, n_groups=n_groups)), tokens()
    slow = slow_mamba2(under(mixer), h.flip(1) if reverse else h, n_groups)
    check_same(mixer, mixer(h, reverse=reverse), slow.flip(1) if reverse else slow)


def test_chunks_of_a_long_sequence_do_not_show():
    mixer, h = scramble(Mamba2(16, **SMALL)), tokens(150, batch=1)
    check_same(mixer, mixer(h), slow_mamba2(under(mixer), h))


def test_one_way_block_equals_its_equations():
    layer, x = block("one way"), tokens()
    h = slow_norm(x, layer.norm.weight)
    check_same(layer, layer(x), x + slow_mamba2(under(layer, "mixer."), h))


def test_both_ways_block_equals_its_equations():
    layer, x = block("both ways"), tokens()
    h = slow_norm(x, layer.norm.weight)
    ahead = slow_mamba2(under(layer, "ahead."), h)
    back = slow_mamba2(under(layer, "back."), h.flip(1)).flip(1)
    slow = x + ahead @ layer.fuse.weight[:, :16].T + back @ layer.fuse.weight[:, 16:].T
    check_same(layer, layer(x), slow + layer.fuse.bias)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_shared_block_equals_its_equations(n_groups):
    layer = scramble(Bidirectional(16, **SMALL, d_conv=5, n_groups=n_groups, shared=True))
    x = tokens()
    h = slow_norm(x, layer.norm.weight)
    slow = x + slow_shared_mamba2(under(layer, "mixer."), h, n_groups)
    check_same(layer, layer(x), slow)


@pytest.mark.parametrize(("cls", "wanted"), [(Mamba, MAMBA), (Mamba2, MAMBA2)])
def test_state_dict_is_that_of_mamba_ssm(cls, wanted):
    assert {k: tuple(v.shape) for k, v in cls(384).state_dict().items()} == wanted


def test_parameters_are_as_many_as_published():
    assert count(Mamba(384)) == 963_840
    assert count(Mamba2(384)) == 993_572
    assert count(Unidirectional(384)) == 993_572 + 384
    assert count(Bidirectional(384)) == 2_282_824
    mixer = SharedMamba2(384)  # 2 (2 B and C of 128, 12 dt) beside z and x; 7 taps and a bias
    inputs, convolved = 2 * 768 + 2 * (2 * 128 + 12), 768 + 2 * 2 * 128
    assert count(mixer) == 384 * inputs + convolved * 8 + 3 * 12 + 768 + 768 * 384
    assert count(Bidirectional(384, shared=True)) == count(mixer) + 384


def test_step_sizes_start_log_uniform():
    torch.manual_seed(0)
    for bias in (Mamba(1024).dt_proj.bias, Mamba2(2048, 1, 1).dt_bias):
        place = torch.nn.functional.softplus(bias.detach().double()).log() - math.log(0.001)
        place = place.sort().values / math.log(100)  # uniform in [0, 1]
        wanted = (torch.arange(len(place)) + 0.5) / len(place)
        assert (place - wanted).abs().max() < 1.63 / len(place) ** 0.5  # Kolmogorov-Smirnov, 1 %
        assert -1e-4 < place[0] < 0.005 and 0.995 < place[-1] < 1 + 1e-4


def test_decay_rates_and_projections_start_as_published():
    torch.manual_seed(0)
    mamba, mamba2 = Mamba(64), Mamba2(2048, 1, 1)
    torch.testing.assert_close(mamba.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert mamba.dt_rank == 4
    assert 0.49 < mamba.dt_proj.weight.abs().max() <= 0.5
    rate = mamba2.A_log.detach().exp().sort().values
    wanted = 1 + 15 * (torch.arange(4096) + 0.5) / 4096
    assert (rate - wanted).abs().max() / 15 < 1.63 / 4096**0.5
    for layer in (mamba, mamba2):
        assert (layer.D == 1).all()
    assert (mamba2.norm.weight == 1).all() and mamba2.norm.eps == 1e-5


def test_decay_rates_steps_and_skips_escape_weight_decay():
    assert marked(Mamba(16)) == {"A_log", "D"}
    assert marked(Mamba2(16, **SMALL)) == {"A_log", "D", "dt_bias"}
    assert marked(SharedMamba2(16, **SMALL)) == {"A_log", "D", "dt_bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_token_that_sees_signal(kind):
    check_padding(block(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_teaches_nothing(kind):
    layer, x = block(kind), tokens()
    padded = torch.cat([tokens(3, seed=2), x, tokens(4, seed=3)], 1)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3:12] = True
    check_same(layer, layer(padded, mask)[:, 3:12], layer(x))


def test_a_gap_is_stepped_over_without_decay():
    mixer, h = scramble(Mamba2(16, **SMALL, d_conv=1)), tokens()
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[:, 4:7] = False
    gapped = torch.cat([h[:, :4], tokens(3, seed=2), h[:, 4:]], 1)
    torch.testing.assert_close(mixer(gapped, mask)[mask], mixer(h).flatten(0, 1))


def test_first_output_feels_the_last_token_in_both_directions_only():
    found = {kind: reaches(block(kind)) for kind in KINDS}
    assert found == {"one way": "ahead", "both ways": "both", "shared": "both"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    check_gradients(block(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gradients_stay_close(kind):
    check_low_precision(start(kind, d_state=16, head_dim=8))


@pytest.mark.parametrize("cls", [Mamba, Mamba2])
def test_half_precision_parameters_keep_steps_and_decays_in_single(cls):
    torch.manual_seed(0)
    mixer, seen = cls(64), {}
    scan = mixer.scan if cls is Mamba else mixer.ssd
    scan.register_forward_pre_hook(lambda _, inputs: seen.update(enumerate(inputs)))
    y = mixer.bfloat16()(tokens(20, 64).bfloat16())
    low, single = torch.bfloat16, torch.float32
    assert [seen[i].dtype for i in range(6)] == [low, single, single, low, low, single]
    assert y.dtype == low and y.isfinite().all()


@pytest.mark.parametrize("cls", [Mamba, Mamba2])
def test_autocast_does_not_round_the_step_bias(cls):
    torch.manual_seed(0)
    mixer, seen = cls(64), []
    torch.nn.init.zeros_(mixer.conv1d.bias)
    mixer.softplus.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        mixer(torch.zeros(1, 3, 64))
    bias = mixer.dt_proj.bias if cls is Mamba else mixer.dt_bias
    assert torch.equal(seen[0].reshape(3, -1), bias.expand(3, -1))


def test_wrong_sizes_are_refused():
    for size in (24, 0, -8):
        with pytest.raises(ValueError, match=f"head_dim={size} found, a divisor of .* = 32 wanted"):
            Mamba2(16, head_dim=size)
    for n in (3, 0, -2):
        with pytest.raises(ValueError, match=f"n_groups={n} found, a divisor of the 4 heads want"):
            Mamba2(16, head_dim=8, n_groups=n)
    with pytest.raises(ValueError, match="d_conv=4 found, an odd width wanted"):
        Bidirectional(16, **SMALL, d_conv=4, shared=True)


@pytest.mark.parametrize("mixer", [Mamba(16), Mamba2(16, **SMALL), SharedMamba2(16, **SMALL)])
def test_wrong_inputs_are_refused(mixer):
    with pytest.raises(ValueError, match=r"\(2, 9, 8\) found, \(batch, length, 16\) wanted$"):
        mixer(torch.zeros(2, 9, 8))
    with pytest.raises(ValueError, match=r"\(2, 16, 9\) found, .* wanted; transpose"):
        mixer(torch.zeros(2, 16, 9))
    with pytest.raises(ValueError, match=r"mask of shape \(2, 8\), .* \(2, 9\), torch.bool wanted"):
        mixer(torch.zeros(2, 9, 16), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"torch.float32 found, \(2, 9\), torch.bool wanted"):
        mixer(torch.zeros(2, 9, 16), torch.ones(2, 9))


LAYERS = {
    "Mamba": lambda: Mamba(8, d_state=3),
    "Mamba2": lambda: Mamba2(8, d_state=4, head_dim=4, n_groups=2),
    "Mamba2, one group": lambda: Mamba2(8, d_state=4, head_dim=8),
    "SharedMamba2": lambda: SharedMamba2(8, d_state=4, head_dim=4, d_conv=3),
    "Unidirectional": lambda: Unidirectional(8, d_state=4, head_dim=4),
    "Bidirectional": lambda: Bidirectional(8, d_state=4, head_dim=4),
    "Bidirectional, shared": lambda: Bidirectional(8, d_state=4, head_dim=4, shared=True),
    "Hydra": lambda: Hydra(8, d_state=4, head_dim=4, d_conv=3),
    "S4D": lambda: S4D(8, d_state=4),
    "S4D, both": lambda: S4D(8, d_state=4, bidirectional=True),
    "VisionMamba v1": lambda: VisionMamba(8, "v1", d_state=3),
    "VisionMamba v2": lambda: VisionMamba(8, "v2", d_state=3),
    "FeedForward": lambda: FeedForward(8, dropout=0.0),
    "SelfAttention": lambda: SelfAttention(8, n_heads=2),
    "RMSNorm": lambda: RMSNorm(8),
    "RMSNorm, groups": lambda: RMSNorm(8, n_groups=2),
}


@pytest.mark.parametrize("name", [name for name in LAYERS if name[:3] not in ("RMS", "Fee")])
def test_tokens_of_another_shape_are_named_as_the_caller_made_them(name):
    layer = LAYERS[name]()
    for found in ((0, 5, 8), (2, 0, 8)):
        message = f"tokens of shape {found} found, (batch, length, 8), none of them 0, wanted"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layer(torch.zeros(found))
    with pytest.raises(ValueError, match=r"^tokens of shape \(2, 8, 5\) found, .* transpose"):
        layer(torch.zeros(2, 8, 5))
    with pytest.raises(ValueError, match=r"^mask of shape \(2, 4\)"):
        layer(torch.zeros(2, 5, 8), torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("loss", [torch.sum, lambda y: y.square().sum()], ids=["sum", "squares"])
def test_second_derivatives_are_those_of_finite_differences(name, loss):
    torch.manual_seed(0)
    layer = scramble(LAYERS[name]()).double()
    leaves = [tokens(9, 8).requires_grad_(), *layer.parameters()]
    away = [torch.randn_like(v) for v in leaves]

    def slope(step):
        """The gradient after a small step of input and parameters."""
        with torch.no_grad():
            for v, d in zip(leaves, away, strict=True):
                v += step * d
        found = torch.autograd.grad(loss(layer(leaves[0])), leaves)
        with torch.no_grad():
            for v, d in zip(leaves, away, strict=True):
                v -= step * d
        return torch.cat([v.flatten() for v in found])

    grads = torch.autograd.grad(loss(layer(leaves[0])), leaves, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(grads, away, strict=True))
    found = torch.autograd.grad(along, leaves, allow_unused=True, materialize_grads=True)
    found = torch.cat([v.flatten() for v in found])
    wanted = (slope(1e-5) - slope(-1e-5)) / 2e-5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    assert wanted.abs().max() > 1e-3


def test_a_gradient_with_a_graph_is_that_without():
    layer, x = scramble(Bidirectional(8, d_state=4, head_dim=4)).double(), tokens(9, 8)
    leaves = list(layer.parameters())
    fast = torch.autograd.grad(layer(x).square().sum(), leaves)
    slow = torch.autograd.grad(layer(x).square().sum(), leaves, create_graph=True)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
