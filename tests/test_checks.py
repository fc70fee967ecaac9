"""The check of settings."""

from types import SimpleNamespace

import pytest
import torch

from ecgbook.checks import check_fields, valid_lengths

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
