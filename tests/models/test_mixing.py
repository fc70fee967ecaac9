"""What the mixers share: modules are taken together only where none can tell."""

import pytest
import torch
from torch import nn

from ecgbook.models import DepthwiseConv, Gate, RMSNorm
from ecgbook.models.mixing import activated, exact, is_bare, project, stand_still


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(name):
    linear = nn.Linear(3, 4, bias=False)
    getattr(linear, name)(lambda *_: None)
    return linear


def test_a_module_is_bare_unless_somebody_waits_for_its_call():
    linear = nn.Linear(3, 4)
    assert is_bare(linear, nn.Linear)
    assert not is_bare(Doubled(3, 4), nn.Linear)
    linear.forward = lambda x: x
    assert not is_bare(linear, nn.Linear)


@pytest.mark.parametrize(
    "name",
    [
        "register_forward_pre_hook",
        "register_forward_hook",
        "register_full_backward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_a_hook_is_seen(name):
    assert not is_bare(hooked(name), nn.Linear)


@pytest.mark.parametrize("linear", [nn.Linear(3, 6), nn.Linear(3, 6, bias=False), Doubled(3, 6)])
def test_a_projection_is_what_the_layer_puts_out_in_parts(linear):
    h = torch.randn(2, 5, 3)
    parts = project(linear, h, [1, 2, 3])
    assert [part.shape[-1] for part in parts] == [1, 2, 3]
    torch.testing.assert_close(torch.cat(parts, -1), linear(h))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("act", [nn.SiLU(), nn.Tanh()])
def test_what_follows_a_convolution_is_applied_together_or_not(act, reverse):
    conv, x = DepthwiseConv(3, 4), torch.randn(2, 9, 3)
    torch.testing.assert_close(activated(conv, act, x, reverse), act(conv(x, reverse=reverse)))


def test_a_gate_that_the_normalization_takes_along_is_the_gate():
    norm, gate, (y, z) = RMSNorm(8), Gate(), torch.randn(2, 3, 8)
    torch.testing.assert_close(norm(y, z), norm(gate(y, z)))


def test_small_numbers_are_exact_and_steps_outside_a_mask_are_zero():
    assert exact(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert exact(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    mask = torch.tensor([[True, False, True]])
    assert stand_still(torch.ones(1, 3, 2), mask)[0, :, 1].tolist() == [1, 0, 1]
    assert stand_still(torch.ones(1, 3), mask)[0].tolist() == [1, 0, 1]
