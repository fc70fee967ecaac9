"""The check of settings."""

from types import SimpleNamespace

import pytest

from ecgbook.checks import check_fields

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
