"""The check of settings."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgbook.augment import FrequencyMask, LeadMask, Mixup, Noise
from ecgbook.checks import check_batch, check_fields, valid_lengths
from ecgbook.signals import Preprocessing
from ecgbook.training import Recipe

SETTINGS = SimpleNamespace(epochs=0, share="half")


def test_the_first_wrong_field_is_named_with_its_value_and_what_is_wanted():
    checks = {"epochs": (False, "1 or more"), "share": (False, "0 to 1")}
    with pytest.raises(ValueError, match=r"^epochs=0 found, 1 or more wanted$"):
        check_fields(SETTINGS, checks)
    checks["epochs"] = (True, "1 or more")
    with pytest.raises(ValueError, match=r"^Mixup: share='half' found, 0 to 1 wanted$"):
        check_fields(SETTINGS, checks, "Mixup")


def test_right_values_pass():
    check_fields(SETTINGS, {"epochs": (True, "anything"), "share": (True, "anything")})


def test_valid_lengths_are_those_of_the_mask_or_the_whole():
    x = torch.zeros(3, 50, 12)
    mask = torch.arange(50) < torch.tensor([[50], [7], [0]])
    assert valid_lengths(x, mask).tolist() == [50, 7, 0]
    assert valid_lengths(x.double()).tolist() == [50, 50, 50]


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(50, 12), None, r"input of shape \(50, 12\) found.*x\[None\]"),
        (torch.zeros(2, 12, 50), None, r"input of shape \(2, 12, 50\) found.*transpose"),
        (torch.zeros(2, 50, 12).int(), None, "input of torch.int32 found"),
        (torch.zeros(2, 50, 12), torch.ones(2, 49).bool(), r"mask of shape \(2, 49\)"),
        (torch.zeros(2, 50, 12), torch.ones(2, 50), "torch.float32 found"),
        (torch.zeros(2, 50, 12), torch.arange(50).expand(2, 50) > 0, "behind padding found"),
    ],
)
def test_a_batch_of_another_shape_is_refused(x, mask, message):
    with pytest.raises(ValueError, match=message):
        valid_lengths(x, mask)


@pytest.mark.parametrize(
    "made",
    [
        lambda n, f: Preprocessing(f(125), n(2048), (f(0.5), f(40)), n(3)),
        lambda n, f: Recipe(epochs=n(3), batch_size=n(8), learning_rate=f(0.5), warmup=f(0.25)),
        lambda n, f: FrequencyMask(f(125), n(2), (f(1), f(6)), [f(0.5), f(40)], f(0.5)),
        lambda n, f: Noise(f(125), snr_db=(f(0), f(24)), p=f(0.5)),
        lambda n, f: LeadMask(f(0.5)),
        lambda n, f: Mixup(f(0.5), (f(0.25), f(1))),
    ],
)
def test_settings_made_of_numpy_s_numbers_are_those_of_python_s(made):
    plain, numpy = made(int, float), made(np.int64, np.float32)
    assert numpy == plain
    assert json.dumps(asdict(numpy)) == json.dumps(asdict(plain))


@pytest.mark.parametrize("field", ["epochs", "batch_size", "patience"])
@pytest.mark.parametrize("value", [1.5, True, 0])
def test_a_count_is_a_whole_number(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} found, a whole number of 1 or more"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (np.zeros((2, 50, 12)), None, "input of numpy.ndarray found, torch.Tensor wanted"),
        (torch.zeros(2, 50, 12), np.ones((2, 50), bool), "mask of numpy.ndarray found"),
    ],
)
def test_what_is_no_tensor_is_named(x, mask, message):
    with pytest.raises(TypeError, match=message):
        check_batch(x, mask)
