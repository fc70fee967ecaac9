"""Layers: each against a slow float64 re-implementation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ecgbook.models import (
    SSD,
    FeedForward,
    Gate,
    MaskedBatchNorm1d,
    MaskedMean,
    RMSNorm,
    Scale,
    SelectiveScan,
    layers,
    rms_norm,
)
from ecgbook.scan import selective_scan_recurrence, ssd_recurrence


def masked_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 10, dtype=torch.float64, generator=generator) * 2 + 1
    mask = torch.arange(10) < torch.tensor([10, 7, 3, 1])[:, None]
    return x, mask


def test_scale_divides_by_its_millivolts():
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(Scale(0.5)(x), x * 2)
    with pytest.raises(ValueError, match="unit_mv=0"):
        Scale(0)


def test_batch_norm_counts_signal_only():
    x, mask = masked_case()
    norm = MaskedBatchNorm1d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    y = norm(x, mask)
    for channel in range(3):
        values = x[:, channel][mask].numpy()
        scale = norm.weight[channel].item() / np.sqrt(values.var() + norm.eps)
        wanted = (x[:, channel].numpy() - values.mean()) * scale + norm.bias[channel].item()
        np.testing.assert_allclose(y[:, channel].detach(), wanted, atol=1e-12)
        assert norm.running_mean[channel] == pytest.approx(0.1 * values.mean())
        assert norm.running_var[channel] == pytest.approx(0.9 + 0.1 * values.var(ddof=1))
    padded = torch.where(mask[:, None], x, 1e3)
    fresh = MaskedBatchNorm1d(3).double()
    fresh.load_state_dict(norm.state_dict())
    torch.testing.assert_close(fresh(padded, mask)[:, :, 0], norm(x, mask)[:, :, 0])


def test_batch_norm_without_padding_is_torchs():
    x, _ = masked_case()
    ours, theirs = MaskedBatchNorm1d(3).double(), torch.nn.BatchNorm1d(3).double()
    everywhere = torch.ones(4, 10, dtype=torch.bool)
    for _ in range(3):
        torch.testing.assert_close(ours(x, everywhere), theirs(x), atol=1e-12, rtol=0)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-12, rtol=0)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, everywhere), theirs(x), atol=1e-12, rtol=0)


def test_batch_norm_gradient():
    x, mask = masked_case()
    norm = MaskedBatchNorm1d(3).double()
    assert torch.autograd.gradcheck(lambda v: norm(v, mask), x.requires_grad_())


def test_masked_mean_is_the_mean_over_signal():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 10, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(4, 10, generator=generator) < 0.5
    mask[3] = False
    pooled = MaskedMean()(tokens, mask)
    for i in range(3):
        torch.testing.assert_close(pooled[i], tokens[i][mask[i]].mean(0))
    assert (pooled[3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_of_half_precision_sums_in_single(dtype):
    x, mask = torch.full((2, 3, 40_000), 2.0, dtype=dtype), torch.ones(2, 40_000, dtype=torch.bool)
    x[..., ::2] = 0
    norm = MaskedBatchNorm1d(3)  # 80,000 positions: more than float16 can count
    y = norm(x, mask)
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.1))
    torch.testing.assert_close(y[..., :2].float().abs(), torch.ones(2, 3, 2))


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("groups", [1, 3])
def test_rms_norm_divides_each_group_by_its_root_mean_square(groups):
    norm, x = RMSNorm(12, eps=0.1, n_groups=groups).double(), drawn(2, 5, 12)
    with torch.no_grad():
        norm.weight.copy_(drawn(12, seed=1))
    parts = x.numpy().reshape(2, 5, groups, -1)
    wanted = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 0.1)
    wanted = wanted.reshape(2, 5, 12) * norm.weight.detach().numpy()
    np.testing.assert_allclose(norm(x).detach(), wanted, atol=1e-12)
    with pytest.raises(ValueError, match="groups=5 found, a divisor of the 12 channels wanted"):
        RMSNorm(12, n_groups=5)


def test_rms_norm_of_half_precision_sums_in_single():
    x = drawn(4, 4096).bfloat16()
    wanted = (x.double() / x.double().square().mean(-1, keepdim=True).sqrt()).bfloat16()
    found = RMSNorm(4096)(x)
    assert found.dtype == torch.bfloat16
    assert (found == wanted).double().mean() > 0.99


@pytest.mark.parametrize("layer", [RMSNorm(8), RMSNorm(8, n_groups=2), FeedForward(8)])
def test_channels_in_the_wrong_place_are_named_as_the_caller_put_them(layer):
    with pytest.raises(
        ValueError, match=r"^x of shape \(2, 8, 5\) found, \(\.\.\., 8\) wanted; tra"
    ):
        layer(torch.zeros(2, 8, 5))
    with pytest.raises(ValueError, match=r"^x of shape \(2, 5, 7\) found, \(\.\.\., 8\) wanted$"):
        layer(torch.zeros(2, 5, 7))


def test_gate_is_the_product_with_silu():
    y, z = drawn(3, 4), drawn(3, 4, seed=1)
    torch.testing.assert_close(Gate()(y, z), y * z / (1 + torch.exp(-z)))


def test_feed_forward_is_two_linear_layers_on_each_token():
    block, x = FeedForward(6, factor=3, dropout=0.5).double().eval(), drawn(2, 5, 6)
    p = {k: v.detach() for k, v in block.named_parameters()}
    h = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * p["norm.weight"]
    h = h @ p["linear1.weight"].T + p["linear1.bias"]
    h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    wanted = x + h @ p["linear2.weight"].T + p["linear2.bias"]
    torch.testing.assert_close(block(x), wanted, atol=1e-12, rtol=0)
    assert not torch.equal(block.train()(x), block(x))  # dropout draws anew
    assert sum(v.numel() for v in FeedForward(384).parameters()) == 1_181_952


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_layers_are_the_recurrences(reverse):
    x, B, C, D = drawn(2, 9, 4, 3), drawn(2, 9, 2, 5, seed=1), drawn(2, 9, 2, 5, seed=2), drawn(4)
    dt, A = drawn(2, 9, 4, seed=3).exp(), -drawn(4, seed=4).exp()
    wanted = ssd_recurrence(x, dt, A, B, C, D, reverse=reverse)
    torch.testing.assert_close(SSD()(x, dt, A, B, C, D, reverse), wanted)
    u, A, B, C = x.flatten(2), -drawn(12, 5, seed=4).exp(), B[:, :, 0], C[:, :, 0]
    dt, D = drawn(2, 9, 12, seed=3).exp(), drawn(12)
    wanted = selective_scan_recurrence(u, dt, A, B, C, D, reverse=reverse)
    torch.testing.assert_close(SelectiveScan()(u, dt, A, B, C, D, reverse), wanted)


def test_selective_scan_runs_in_single_under_autocast():
    u, dt, B, C = (drawn(2, 40, n, seed=n).bfloat16() for n in (6, 6, 5, 5))
    dt, A = dt.float().exp(), -drawn(6, 5).float().exp()
    with torch.autocast("cpu", torch.bfloat16):
        found = SelectiveScan()(u, dt, A, B, C)
    wanted = selective_scan_recurrence(*(v.double() for v in (u, dt, A, B, C)))
    torch.testing.assert_close(found, wanted.bfloat16(), atol=1e-5, rtol=2**-7)


def sample(*shape, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (1 + torch.randn(shape[-1], generator=g, dtype=torch.float64)).requires_grad_()
    return x, weight


@pytest.mark.parametrize("cells", [1, 24, 10**6])  # one token, two tokens, all at once
@pytest.mark.parametrize("shape", [(12,), (1, 12), (3, 7, 12), (2, 3, 5, 12)])
def test_equals_pytorchs_own_in_value_and_gradient(monkeypatch, shape, cells):
    monkeypatch.setattr(layers, "BLOCK_CELLS", cells)
    x, weight = sample(*shape)
    pull = torch.randn(shape, dtype=torch.float64)
    wanted = F.rms_norm(x, (12,), weight, 1e-5)
    found = rms_norm(x, weight)
    assert (found - wanted).abs().max() <= 1e-12
    for a, b in zip(
        torch.autograd.grad(found, (x, weight), pull),
        torch.autograd.grad(wanted, (x, weight), pull),
        strict=True,
    ):
        assert (a - b).abs().max() <= 1e-12


def test_gradients_are_those_of_finite_differences():
    x, weight = sample(2, 3, 5)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, eps=0.1), (x, weight))


@pytest.mark.parametrize("cells", [1, 24, 10**6])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_gate_comes_before_the_normalization_of_each_group(monkeypatch, cells, groups):
    monkeypatch.setattr(layers, "BLOCK_CELLS", cells)
    (x, weight), (z, pull) = sample(3, 7, 12), (drawn(3, 7, 12, seed=i) for i in (1, 2))
    z.requires_grad_()
    parts = (x * F.silu(z)).unflatten(-1, (groups, -1))
    wanted = F.rms_norm(parts, (12 // groups,), eps=0.1).flatten(-2) * weight
    found = rms_norm(x, weight, 0.1, z=z, n_groups=groups)
    assert (found - wanted).abs().max() <= 1e-12
    for a, b in zip(
        *(torch.autograd.grad(y, (x, z, weight), pull) for y in (found, wanted)), strict=True
    ):
        assert (a - b).abs().max() <= 1e-12
    few = [v.detach()[:1, :2].requires_grad_() for v in (x, z)]
    assert torch.autograd.gradgradcheck(
        lambda a, b, w: rms_norm(a, w, 0.1, z=b, n_groups=groups), (*few, weight)
    )


def test_a_gate_in_half_precision_is_computed_in_float32():
    x, weight = sample(50, 64, dtype=torch.bfloat16)
    z = drawn(50, 64, seed=1).bfloat16().requires_grad_()
    weight = weight.detach().float()
    pull = drawn(50, 64, seed=2).bfloat16()
    found = rms_norm(x, weight, z=z)
    exact = [v.detach().double().requires_grad_() for v in (x, z)]
    wanted = rms_norm(exact[0], weight.double(), z=exact[1])
    grads = zip(
        (found, *torch.autograd.grad(found, (x, z), pull)),
        (wanted, *torch.autograd.grad(wanted, exact, pull.double())),
        strict=True,
    )
    for a, b in grads:
        assert a.dtype == torch.bfloat16
        assert (a - b).abs().max() <= 2**-7 * b.abs().max()


def test_a_gate_of_another_shape_or_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"z of shape \(2, 3\) found, that of x, \(2, 4\), wanted"):
        rms_norm(torch.zeros(2, 4), torch.ones(4), z=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="n_groups=3 found, a divisor of 4 channels wanted"):
        rms_norm(torch.zeros(2, 4), torch.ones(4), n_groups=3)


def test_takes_views_whose_tokens_are_not_side_by_side():
    x, weight = sample(4, 6, 12)
    view = x.transpose(0, 1)
    pull = torch.randn(6, 4, 12, dtype=torch.float64)
    found = torch.autograd.grad(rms_norm(view, weight), x, pull)
    wanted = torch.autograd.grad(F.rms_norm(view, (12,), weight, 1e-5), x, pull)
    assert (found[0] - wanted[0]).abs().max() <= 1e-12


def test_bfloat16_is_computed_in_float32():
    x, weight = sample(50, 64, dtype=torch.bfloat16)
    weight = weight.detach().float().requires_grad_()
    y = rms_norm(x, weight)
    assert y.dtype == torch.bfloat16
    exact = F.rms_norm(x.detach().double(), (64,), weight.detach().double(), 1e-5)
    assert (y - exact).abs().max() <= 2**-7 * exact.abs().max()
    y.float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_it_changes_nothing(dtype):
    x, weight = sample(50, 64, dtype=dtype)
    weight = weight.detach().float().requires_grad_()

    def run():
        y = rms_norm(x, weight)
        return y, *torch.autograd.grad(y, (x, weight), x.detach().cos())

    wanted = run()
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_a_token_of_zeros_stays_zero_with_a_finite_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x, torch.ones(4))
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 4)) and x.grad.isfinite().all()


def test_a_weight_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) found, \(4,\) wanted"):
        rms_norm(torch.zeros(2, 4), torch.ones(3))


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3}],
    ids=str,
)
def test_batch_norm_takes_the_options_of_pytorch_s(options):
    x, mask = masked_case()
    ours = MaskedBatchNorm1d(3, **options).double()
    theirs = torch.nn.BatchNorm1d(3, **options).double()
    for step in range(3):
        signal = x + step  # a full batch, so that the two count the same positions
        y = ours(signal, torch.ones_like(mask))
        torch.testing.assert_close(y, theirs(signal))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    if options.get("track_running_stats", True):
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_trains_in_half_precision(dtype):
    x, mask = masked_case()
    norm, exact = MaskedBatchNorm1d(3).to(dtype), MaskedBatchNorm1d(3)
    found, wanted = norm(x.to(dtype), mask), exact(x.float(), mask)
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03)
    torch.testing.assert_close(norm.running_mean.float(), exact.running_mean, rtol=0.03, atol=0.01)


def test_a_batch_without_a_valid_position_moves_no_statistics():
    norm, (x, mask) = MaskedBatchNorm1d(3).double(), masked_case()
    norm(x, mask)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(x, torch.zeros_like(mask))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
