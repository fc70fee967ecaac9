"""Root-mean-square normalization: PyTorch's values and gradients, in any number of blocks."""

import pytest
import torch
import torch.nn.functional as F

from ecgbook import normalization
from ecgbook.normalization import rms_norm


def sample(*shape, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (1 + torch.randn(shape[-1], generator=g, dtype=torch.float64)).requires_grad_()
    return x, weight


@pytest.mark.parametrize("cells", [1, 24, 10**6])  # one token, two tokens, all at once
@pytest.mark.parametrize("shape", [(12,), (1, 12), (3, 7, 12), (2, 3, 5, 12)])
def test_equals_pytorchs_own_in_value_and_gradient(monkeypatch, shape, cells):
    monkeypatch.setattr(normalization, "BLOCK_CELLS", cells)
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
