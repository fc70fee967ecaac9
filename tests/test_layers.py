"""Layers: each against a slow float64 re-implementation."""

import numpy as np
import pytest
import torch

from ecgbook.layers import MaskedBatchNorm1d, MaskedMean, Scale


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
