"""Depthwise convolutions: PyTorch's own are the measure."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ecgbook.models import DepthwiseConv, causal_conv, centered_conv, convolution

FORMS = pytest.mark.parametrize("form", ["causal", "reverse", "centered"])


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def convolve(form, x, weight, bias=None, silu=False):
    if form == "centered":
        return centered_conv(x, weight, bias, silu=silu)
    return causal_conv(x, weight, bias, reverse=form == "reverse", silu=silu)


def plain(form, x, weight, bias=None):
    """Pad by hand and call PyTorch's convolution, which correlates."""
    if form == "reverse":
        return plain("causal", x.flip(1), weight, bias).flip(1)
    width = weight.shape[1]
    behind = width // 2 if form == "centered" else width - 1
    padded = F.pad(x.transpose(1, 2), (behind, width - 1 - behind))
    return F.conv1d(padded, weight[:, None], bias, groups=len(weight)).transpose(1, 2)


def values_and_gradients(function, form, *inputs):
    leaves = [v.detach().clone().requires_grad_() for v in inputs]
    y = function(form, *leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, normal(*y.shape, seed=1).to(y.dtype))


@FORMS
@pytest.mark.parametrize("width", [1, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 31, 32, 33, 34, 64, 100])
def test_values_and_gradients_are_those_of_conv1d_at_any_length(form, width, length):
    if form == "centered" and width % 2 == 0:
        width -= 1
    inputs = normal(3, length, 5), normal(5, width, seed=2), normal(5, seed=3)
    found = values_and_gradients(convolve, form, *inputs)
    wanted = values_and_gradients(plain, form, *inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@FORMS
@pytest.mark.parametrize("length", [1, 6, 33])
def test_silu_can_be_taken_along(form, length):
    inputs = normal(3, length, 5), normal(5, 3, seed=2), normal(5, seed=3)
    found = values_and_gradients(partial(convolve, silu=True), form, *inputs)
    wanted = values_and_gradients(lambda *v: F.silu(plain(*v)), form, *inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@FORMS
@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_what_is_computed_at_once_does_not_matter(monkeypatch, form, rows):
    inputs = normal(3, 50, 5), normal(5, 3, seed=2), normal(5, seed=3)
    wanted = values_and_gradients(convolve, form, *inputs)
    monkeypatch.setattr(convolution, "WINDOW_CELLS", 5 * rows)
    monkeypatch.setattr(convolution, "CELLS", 2 * 50 * 5 if rows > 1 else 1)  # two records, or one
    for a, b in zip(values_and_gradients(convolve, form, *inputs), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@FORMS
def test_without_bias_nothing_is_added(form):
    inputs = normal(2, 9, 4), normal(4, 3, seed=2)
    found = values_and_gradients(convolve, form, *inputs)
    for a, b in zip(found, values_and_gradients(plain, form, *inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@FORMS
def test_gradients_are_those_of_finite_differences(form):
    inputs = normal(2, 5, 2), normal(2, 3, seed=2), normal(2, seed=3)
    inputs = [v.requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(lambda *v: convolve(form, *v), inputs)


def test_reverse_is_the_convolution_of_the_flipped_signal():
    x, weight, bias = normal(2, 20, 3), normal(3, 4, seed=2), normal(3, seed=3)
    found = causal_conv(x, weight, bias, reverse=True)
    torch.testing.assert_close(found, causal_conv(x.flip(1), weight, bias).flip(1))


@pytest.mark.parametrize(
    ("form", "reached"),
    [("causal", range(10, 13)), ("reverse", range(8, 11)), ("centered", range(9, 12))],
)
def test_an_impulse_shows_the_kernel_in_the_direction_of_time(form, reached):
    x = torch.zeros(1, 20, 1)
    x[0, 10] = 1
    y = convolve(form, x, torch.tensor([[30.0, 20.0, 10.0]])).flatten()
    assert y.nonzero().flatten().tolist() == list(reached)
    ramp = [30.0, 20.0, 10.0] if form == "reverse" else [10.0, 20.0, 30.0]
    assert y[list(reached)].tolist() == ramp


@FORMS
def test_memory_layout_does_not_matter(form):
    x, weight, bias = normal(2, 40, 6), normal(6, 3, seed=2), normal(6, seed=3)
    wanted = values_and_gradients(plain, form, x, weight, bias)
    scattered = x.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    part = normal(6, 10, seed=4)[:, ::2][:, :3].copy_(weight).requires_grad_()
    y = convolve(form, scattered, part, bias)
    pull = normal(2, 40, 6, seed=1).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    found = y, *torch.autograd.grad(y, (scattered, part), pull)
    for a, b in zip(found, wanted, strict=False):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_bfloat16_signals_keep_single_precision_weights_and_sums():
    x, weight, bias = normal(4, 2000, 3).bfloat16(), normal(3, 4, seed=2), normal(3, seed=3)
    low = x, weight.float(), bias.float()
    found = values_and_gradients(convolve, "causal", *low)
    wanted = values_and_gradients(plain, "causal", *(v.double() for v in low))
    assert [v.dtype for v in found[1:]] == [v.dtype for v in low]
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).norm() / b.norm() < 1e-2


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_a_convolution_changes_nothing(form, dtype):
    inputs = normal(2, 50, 6).to(dtype), normal(6, 3, seed=2).float(), normal(6, seed=3).float()
    wanted = values_and_gradients(convolve, form, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = values_and_gradients(convolve, form, *inputs)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("conv", [causal_conv, partial(causal_conv, reverse=True), centered_conv])
def test_second_derivatives_are_right(conv):
    x, weight, bias = normal(2, 7, 3), normal(3, 3, seed=1), normal(3, seed=2)
    leaves = [v.double().requires_grad_() for v in (x, weight, bias)]
    assert torch.autograd.gradgradcheck(conv, leaves)
    assert torch.autograd.gradgradcheck(lambda x, w: conv(x, w), leaves[:2])
    assert torch.autograd.gradgradcheck(partial(conv, silu=True), leaves)


@FORMS
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 4), (4, 3), (4,)), r"x of shape \(9, 4\) found, \(batch, length, channels\), "),
        (((2, 0, 4), (4, 3), (4,)), r"x of shape \(2, 0, 4\) found, .* none of them 0, wanted"),
        (((2, 9, 4), (5, 3), (4,)), r"weight of shape \(5, 3\) found, \(4, width\) wanted"),
        (((2, 9, 4), (4, 0), (4,)), r"weight of shape \(4, 0\) found, \(4, width\) wanted"),
        (((2, 9, 4), (4, 1, 3), (4,)), r"weight of shape \(4, 1, 3\) found, \(4, width\) wanted"),
        (((2, 9, 4), (4, 3), (5,)), r"bias of shape \(5,\) found, \(4,\) wanted"),
    ],
)
def test_a_wrong_shape_is_named(form, shapes, message):
    with pytest.raises(ValueError, match=message):
        convolve(form, *(torch.ones(shape) for shape in shapes))


def test_a_centered_kernel_of_even_width_is_refused():
    with pytest.raises(ValueError, match="a kernel of width 4 found, an odd width wanted"):
        centered_conv(normal(2, 9, 4), normal(4, 4))


@FORMS
def test_the_layer_holds_what_conv1d_does_and_applies_the_function(form):
    torch.manual_seed(0)
    theirs = torch.nn.Conv1d(4, 4, 3, groups=4).state_dict()
    torch.manual_seed(0)
    layer, x = DepthwiseConv(4, 3, centered=form == "centered"), normal(2, 9, 4).float()
    torch.testing.assert_close(dict(layer.state_dict()), dict(theirs))
    wanted = convolve(form, x, layer.weight[:, 0], layer.bias)
    torch.testing.assert_close(layer(x, reverse=form == "reverse"), wanted)


@pytest.mark.parametrize("centered", [False, True])
def test_the_layer_in_reverse_is_that_of_the_flipped_signal(centered):
    layer, x = DepthwiseConv(4, 3, centered).double(), normal(2, 9, 4)
    torch.testing.assert_close(layer(x, reverse=True), layer(x.flip(1)).flip(1))
