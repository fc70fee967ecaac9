"""Hydra against its equations, token by token and as one matrix; masks, start, published shapes."""

import pytest
import torch
from mixers import (
    check_gradients,
    check_low_precision,
    check_padding,
    check_same,
    reaches,
    scramble,
    slow_conv,
    slow_norm,
    slow_softplus,
    tokens,
    under,
)
from torch.nn.functional import silu

from ecgbook.models import Hydra, Skip

SMALL = {"d_state": 4, "head_dim": 8}
PUBLISHED = {
    "dt_bias": (12,),
    "A_log": (12,),
    "D": (12,),
    "in_proj.weight": (1816, 384),
    "conv1d.weight": (1024, 1, 7),
    "conv1d.bias": (1024,),
    "fc_D.weight": (12, 768),
    "norm.weight": (768,),
    "out_proj.weight": (384, 768),
}
GAPS = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1, 0, 0]]).bool()


def start(**sizes):
    torch.manual_seed(0)
    return Hydra(16, **sizes)


def mixer(**sizes):
    return scramble(start(**(SMALL | sizes)))


def slow_hydra(p, h, n_groups=1, mask=None):
    """Walk over the valid tokens of each record, there and back; zeros at all others."""
    mask = torch.ones(h.shape[:2], dtype=torch.bool) if mask is None else mask
    d_inner, heads = len(p["norm.weight"]), len(p["A_log"])
    gn = (len(p["conv1d.bias"]) - d_inner) // 4
    projected = h * mask[..., None] @ p["in_proj.weight"].T
    z, xbc, *steps = projected.split([d_inner, d_inner + 4 * gn, heads, heads], -1)
    width = p["conv1d.weight"].shape[-1]
    mixed = silu(slow_conv(xbc, p["conv1d.weight"], p["conv1d.bias"], ahead=width // 2))
    x, *selected = mixed.split([d_inner, gn, gn, gn, gn], -1)
    x_heads = x.unflatten(-1, (heads, -1))
    B_f, C_f, B_b, C_b = (
        v.unflatten(-1, (n_groups, -1)).repeat_interleave(heads // n_groups, 2) for v in selected
    )
    dt_f, dt_b = (slow_softplus(dt + p["dt_bias"]) for dt in steps)
    rows = []
    for i, valid in enumerate(mask):
        found = dict.fromkeys(range(h.shape[1]), torch.zeros_like(x_heads[0, 0]))
        ways = (False, dt_f, B_f, C_f), (True, dt_b, B_b, C_b)
        for back, dt, B, C in ways:
            state, last = torch.zeros(heads, d_inner // heads, B.shape[-1]).double(), 0
            for t in sorted(valid.nonzero().flatten().tolist(), reverse=back):
                found[t] = found[t] + last
                decay = torch.exp(-p["A_log"].exp() * dt[i, t])
                written = dt[i, t, :, None, None] * x_heads[i, t, :, :, None] * B[i, t, :, None]
                state = decay[:, None, None] * state + written
                last = (state * C[i, t, :, None]).sum(-1)
        rows.append(torch.stack(list(found.values())))
    y = torch.stack(rows) + (x @ p["fc_D.weight"].T + p["D"])[..., None] * x_heads
    gated = slow_norm(y.flatten(2), p["norm.weight"]) * silu(z)
    return gated @ p["out_proj.weight"].T * mask[..., None]


@pytest.mark.parametrize("sizes", [{}, {"n_groups": 2}, {"d_conv": 1, "expand": 3}])
def test_hydra_equals_its_equations(sizes):
    layer, h = mixer(**sizes), tokens()
    check_same(layer, layer(h), slow_hydra(under(layer), h, sizes.get("n_groups", 1)))


def test_masked_tokens_are_stepped_over():
    layer, h = mixer(n_groups=2), tokens()
    check_same(layer, layer(h, GAPS) * GAPS[..., None], slow_hydra(under(layer), h, 2, GAPS))


def test_one_token_has_only_itself_and_none_are_no_harm():
    layer, h = mixer(), tokens(1).requires_grad_()
    torch.testing.assert_close(layer(h), slow_hydra(under(layer), h))
    for mask in ([[1], [0]], [[0], [0]]):
        y = layer(h, torch.tensor(mask).bool())
        assert y.isfinite().all() and torch.autograd.grad(y.sum(), h)[0].isfinite().all()


@pytest.mark.parametrize("length", [2, 63, 64, 65, 130])
def test_chunks_of_a_sequence_do_not_show(length):
    layer, h = mixer(), tokens(length, batch=1)
    check_same(layer, layer(h), slow_hydra(under(layer), h))


def test_hydra_is_a_quasi_separable_matrix():
    """Below the diagonal the past, above it the future, and on it only the projected D."""
    layer, h, ways, skips, sums = mixer(), tokens(batch=1), [], [], []
    layer.ssd.register_forward_pre_hook(lambda _, inputs: ways.append(inputs))
    layer.skip.register_forward_pre_hook(lambda _, inputs: skips.append(inputs))
    layer.norm.register_forward_pre_hook(lambda _, inputs: sums.append(inputs[0]))
    layer(h)
    (x, dt, A, B, C, _, _), (_, dt_b, _, B_b, C_b, _, _) = ways
    [(_, chosen, D)], [y] = skips, sums
    M = torch.diag_embed((chosen + D)[0].T)  # (heads, t, s)
    for t in range(9):
        for s in range(t):  # written at s, decayed up to t - 1, read there
            decay = (A * dt[0, s + 1 : t].sum(0)).exp()
            M[:, t, s] = (C[0, t - 1] * B[0, s]).sum(-1) * dt[0, s] * decay
            decay = (A * dt_b[0, s + 1 : t].sum(0)).exp()  # written at t, read at s + 1
            M[:, s, t] = (C_b[0, s + 1] * B_b[0, t]).sum(-1) * dt_b[0, t] * decay
    torch.testing.assert_close(torch.einsum("hts,bshp->bthp", M, x).flatten(2), y)


def test_state_dict_and_number_of_parameters_are_those_published():
    layer = Hydra(384)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == PUBLISHED
    inputs, convolved = 2 * 768 + 2 * (2 * 64 + 12), 768 + 2 * 2 * 64
    wanted = 384 * inputs + convolved * 8 + 3 * 12 + 12 * 768 + 768 + 768 * 384
    assert sum(p.numel() for p in layer.parameters()) == wanted == 1_010_468


def test_decay_rates_start_at_one_and_steps_as_those_of_mamba_2():
    torch.manual_seed(0)
    layer = Hydra(2048, d_state=1, head_dim=1)
    assert not layer.A_log.any() and (layer.D == 1).all() and (layer.norm.weight == 1).all()
    step = torch.nn.functional.softplus(layer.dt_bias.detach())
    assert 0.00099 < step.min() < 0.0011 and 0.095 < step.max() < 0.1001
    marked = {n for n, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D", "dt_bias"}


def test_padding_changes_no_token_that_sees_signal():
    check_padding(mixer())


@pytest.mark.parametrize("fill", [-5.0, torch.nan])
def test_what_stands_outside_the_mask_is_not_read(fill):
    layer, h = mixer(), tokens()
    other = torch.where(GAPS[..., None], h, fill)
    torch.testing.assert_close(layer(other, GAPS)[GAPS], layer(h, GAPS)[GAPS])


def test_a_record_with_a_gap_gives_what_it_gives_without():
    layer, h = mixer(d_conv=1), tokens()
    parts = [h[:, :4], tokens(3, seed=2), h[:, 4:], tokens(2, seed=3)]
    mask = torch.cat([torch.full(v.shape[:2], i % 2 == 0) for i, v in enumerate(parts)], 1)
    torch.testing.assert_close(layer(torch.cat(parts, 1), mask)[mask], layer(h).flatten(0, 1))


def test_padding_teaches_nothing():
    layer, h = mixer(), tokens()
    padded = torch.cat([tokens(3, seed=2), h, tokens(4, seed=3)], 1)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3:12] = True
    check_same(layer, layer(padded, mask)[:, 3:12], layer(h))


def test_both_directions_reach_every_token_and_every_parameter_learns():
    assert reaches(mixer()) == "both"
    check_gradients(mixer())


def test_half_precision_gradients_stay_close():
    check_low_precision(start(d_state=16, head_dim=8))


def test_half_precision_parameters_keep_steps_and_decays_in_single():
    layer, seen = start(**SMALL), {}
    layer.ssd.register_forward_pre_hook(lambda _, inputs: seen.update(enumerate(inputs)))
    y = layer.bfloat16()(tokens(20).bfloat16())
    low, single = torch.bfloat16, torch.float32
    assert [seen[i].dtype for i in range(5)] == [low, single, single, low, low]
    assert y.dtype == low and y.isfinite().all()


def test_a_skip_is_a_number_a_head_and_token():
    x, chosen, D = tokens(5, 6), tokens(5, 2, seed=2), tokens(1, 2, 1, seed=3)[0, 0]
    y = Skip()(x, chosen, D)
    for head, part in enumerate(y.split(3, -1)):
        for t in range(5):
            factor = chosen[:, t, head] + D[head]
            torch.testing.assert_close(part[:, t], factor[:, None] * x[:, t].split(3, -1)[head])


def test_an_even_convolution_is_refused():
    with pytest.raises(ValueError, match="d_conv=4 found, an odd width wanted"):
        Hydra(16, **SMALL, d_conv=4)
