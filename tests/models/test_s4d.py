"""S4D against its recurrence in complex numbers; masks, directions, start, published shapes."""

import math

import pytest
import torch
from mixers import (
    check_gradients,
    check_low_precision,
    check_padding,
    check_same,
    reaches,
    scramble,
    tokens,
    under,
)
from torch.fx.experimental.proxy_tensor import make_fx

from ecgbook.models import S4D, LongConv, S4DKernel

PUBLISHED = {
    "D": (384,),
    "kernel.log_dt": (384,),
    "kernel.log_A_real": (384, 32),
    "kernel.A_imag": (384, 32),
    "kernel.C": (384, 32, 2),
    "output_linear.0.weight": (768, 384),  # (768, 384, 1) in the published code
    "output_linear.0.bias": (768,),
}
BOTH = [False, True]
GAPS = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1, 0, 0]]).bool()


def start(**sizes):
    torch.manual_seed(0)
    return S4D(16, **({"d_state": 6} | sizes))


def mixer(**sizes):
    return scramble(start(**sizes))


def slow_states(p, u, C):
    """Let the states of one direction run, and read what they hold after each token."""
    dt, A = p["kernel.log_dt"].exp()[:, None], torch.complex(
        -p["kernel.log_A_real"].exp(), p["kernel.A_imag"]
    )  # fmt: skip
    held = (torch.exp(dt * A) - 1) / A
    state, rows = torch.zeros(len(u), *A.shape, dtype=torch.complex128), []
    for t in range(u.shape[1]):
        state = torch.exp(dt * A) * state + held * u[:, t, :, None]
        rows.append(2 * (torch.view_as_complex(C) * state).sum(-1).real)
    return torch.stack(rows, 1)


def slow_s4d(p, u):
    C = p["kernel.C"]
    y = p["D"] * u + slow_states(p, u, C if C.ndim == 3 else C[0])
    if C.ndim == 4:  # from what follows alone
        future = slow_states(p, u.flip(1), C[1]).flip(1)
        y = y + torch.cat([future[:, 1:], torch.zeros_like(y[:, :1])], 1)
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    y = y @ p["output_linear.0.weight"].T + p["output_linear.0.bias"]
    value, gate = y.chunk(2, -1)
    return value / (1 + torch.exp(-gate))


@pytest.mark.parametrize("reverse", BOTH)
@pytest.mark.parametrize("bidirectional", BOTH)
def test_s4d_equals_its_recurrence(bidirectional, reverse):
    layer, h = mixer(bidirectional=bidirectional), tokens()
    slow = slow_s4d(under(layer), h.flip(1) if reverse else h)
    check_same(layer, layer(h, reverse=reverse), slow.flip(1) if reverse else slow)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("bidirectional", BOTH)
def test_chunks_of_a_kernel_do_not_show(bidirectional, length):
    layer, h = mixer(bidirectional=bidirectional), tokens(length, batch=1)
    check_same(layer, layer(h), slow_s4d(under(layer), h))


def test_a_kernel_of_small_steps_is_exact_in_single_precision():
    """Where dt A is small, exp(dt A) - 1 would have lost half of its digits."""
    torch.manual_seed(0)
    kernel = S4DKernel(64, 2, False, "lin")
    torch.nn.init.constant_(kernel.log_dt, math.log(1e-4))
    found, wanted = kernel(40), kernel.double()(40)
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_a_long_convolution_is_its_sum():
    u, kernel = tokens(5, 3), tokens(9, 3, batch=1, seed=2)[0].T
    y = torch.zeros_like(u)
    for t in range(5):
        for s in range(5):
            y[:, t] += kernel[:, 4 + t - s] * u[:, s]
    torch.testing.assert_close(LongConv()(u, kernel), y)


def test_state_dict_is_the_published_one_but_for_an_axis():
    layer = S4D(384)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == PUBLISHED
    wanted = 384 * (1 + 1 + 4 * 32) + 768 * 385
    assert sum(p.numel() for p in layer.parameters()) == wanted == 345_600
    second = sum(p.numel() for p in S4D(384, bidirectional=True).parameters()) - wanted
    assert second == 2 * 384 * 32


def test_parameters_start_as_published():
    layer = S4D(4096, d_state=8)
    kernel = layer.kernel
    place = (kernel.log_dt.detach().sort().values - math.log(0.001)) / math.log(100)
    assert (place - (torch.arange(4096) + 0.5) / 4096).abs().max() < 1.63 / 64  # 1 % of draws
    torch.testing.assert_close(kernel.log_A_real.exp(), torch.full((4096, 4), 0.5))
    torch.testing.assert_close(kernel.A_imag[5], math.pi * torch.arange(4.0))
    assert kernel.C.detach().std() == pytest.approx(0.5**0.5, rel=0.05)
    assert layer.D.detach().std() == pytest.approx(1, rel=0.05)
    inverse = S4D(2, d_state=8, start="inv").kernel.A_imag[1]
    wanted = [8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]
    torch.testing.assert_close(inverse, torch.tensor(wanted))
    marked = {n for n, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"D", "kernel.log_dt", "kernel.log_A_real", "kernel.A_imag"}


@pytest.mark.parametrize("bidirectional", BOTH)
def test_padding_changes_no_token_that_sees_signal(bidirectional):
    check_padding(mixer(bidirectional=bidirectional))


@pytest.mark.parametrize("bidirectional", BOTH)
def test_masked_tokens_say_nothing_but_time_passes(bidirectional):
    layer, h = mixer(bidirectional=bidirectional), tokens()
    found = layer(h, GAPS)
    check_same(layer, found, slow_s4d(under(layer), h * GAPS[..., None]))
    for other in (-5.0, torch.nan):
        filled = torch.where(GAPS[..., None], h, other)
        torch.testing.assert_close(layer(filled, GAPS)[GAPS], found[GAPS])
    without = layer(h[:1, GAPS[0]])
    assert (found[:1, GAPS[0]] - without).abs().max() > 1e-3


def test_a_first_output_feels_the_last_token_in_both_directions_only():
    assert [reaches(mixer(bidirectional=both)) for both in BOTH] == ["ahead", "both"]


@pytest.mark.parametrize("bidirectional", BOTH)
def test_every_parameter_learns(bidirectional):
    check_gradients(mixer(bidirectional=bidirectional))


@pytest.mark.parametrize("bidirectional", BOTH)
def test_half_precision_gradients_stay_close(bidirectional):
    check_low_precision(start(bidirectional=bidirectional))


def test_half_precision_parameters_keep_kernel_and_convolution_in_single():
    layer, seen = start(), []
    layer.conv.register_forward_hook(lambda _, inputs, y: seen.extend([inputs[1], y]))
    y = layer.bfloat16()(tokens(20).bfloat16())
    assert [v.dtype for v in (*seen, y)] == [torch.float32, torch.float32, torch.bfloat16]
    assert y.isfinite().all()


@pytest.mark.parametrize("reverse", BOTH)
def test_a_graph_for_other_programs_has_no_fourier_transform(reverse):
    layer, h = mixer(bidirectional=True), tokens(70)
    graph = make_fx(lambda h: layer(h, reverse=reverse))(torch.zeros_like(h))
    called = " ".join(str(node.target) for node in graph.graph.nodes)
    assert "conv" in called and "fft" not in called and "complex" not in called
    torch.testing.assert_close(graph(h), layer(h, reverse=reverse))


def test_wrong_sizes_and_starts_are_refused():
    for d_state in (0, 7, -2):
        with pytest.raises(ValueError, match=f"d_state={d_state} found, an even number wanted"):
            S4D(16, d_state)
    with pytest.raises(ValueError, match="start='legs' found, one of lin, inv wanted"):
        S4D(16, start="legs")
