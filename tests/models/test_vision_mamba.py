"""Vision Mamba: each variant against its equations, and against what tells it from the others."""

import pytest
import torch
from mixers import (
    check_gradients,
    check_low_precision,
    check_padding,
    check_same,
    reaches,
    scramble,
    slow_norm,
    slow_vision_mamba,
    tokens,
    under,
)

from ecgbook.models import DIRECTIONS, Mamba, VisionMamba, VisionMambaBlock

EXTRA = {
    "none": {},
    "v1": {"A_b_log": (768, 16)},
    "v2": {
        "A_b_log": (768, 16),
        "conv1d_b.weight": (768, 1, 4),
        "conv1d_b.bias": (768,),
        "x_proj_b.weight": (56, 768),
        "dt_proj_b.weight": (768, 24),
        "dt_proj_b.bias": (768,),
        "D_b": (768,),
    },
}


def block(direction):
    torch.manual_seed(0)
    return scramble(VisionMambaBlock(16, direction, d_state=4))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_block_equals_its_equations(direction):
    layer, x = block(direction), tokens()
    h = slow_norm(x, layer.norm.weight)
    slow = x + slow_vision_mamba(under(layer, "mixer."), h, direction)
    check_same(layer, layer(x), slow)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reversed_mixer_is_the_flipped_one(direction):
    mixer, h = block(direction).mixer, tokens()
    torch.testing.assert_close(mixer(h, reverse=True), mixer(h.flip(1)).flip(1))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_state_dict_is_that_of_the_published_code(direction):
    shapes = {k: tuple(v.shape) for k, v in VisionMamba(384, direction).state_dict().items()}
    mamba = {k: tuple(v.shape) for k, v in Mamba(384).state_dict().items()}
    assert shapes == mamba | EXTRA[direction]


def test_parameters_are_as_many_as_published():
    count = {d: sum(p.numel() for p in VisionMambaBlock(384, d).parameters()) for d in DIRECTIONS}
    assert count == {"none": 964_224, "v1": 976_512, "v2": 1_043_328}
    assert count["v2"] - count["none"] == 79_104


def test_backward_direction_starts_as_the_forward_one_but_drawn_on_its_own():
    mixer = VisionMamba(384)
    torch.testing.assert_close(mixer.A_b_log, mixer.A_log)
    torch.testing.assert_close(mixer.D_b, torch.ones(768))
    dt = torch.nn.functional.softplus(mixer.dt_proj_b.bias)
    assert 0.001 - 1e-6 <= dt.min() < 0.0012 and 0.09 < dt.max() <= 0.1 + 1e-6
    assert not torch.equal(mixer.dt_proj_b.bias, mixer.dt_proj.bias)
    assert not torch.equal(mixer.conv1d_b.weight, mixer.conv1d.weight)


def test_decay_rates_and_skips_of_both_directions_escape_weight_decay():
    marked = {n for n, p in VisionMamba(16).named_parameters() if hasattr(p, "_no_weight_decay")}
    assert marked == {"A_log", "D", "A_b_log", "D_b"}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_changes_no_token_that_sees_signal(direction):
    check_padding(block(direction))


def test_first_output_feels_the_last_token_in_both_directions_only():
    found = {direction: reaches(block(direction)) for direction in DIRECTIONS}
    assert found == {"none": "ahead", "v1": "both", "v2": "both"}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_parameter_learns(direction):
    check_gradients(block(direction))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_half_precision_gradients_stay_close(direction):
    torch.manual_seed(0)
    check_low_precision(VisionMambaBlock(16, direction))


def test_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="direction='v3' found, one of 'none', 'v1', 'v2' wanted"):
        VisionMambaBlock(16, "v3")
