"""Mamba-3's scan beyond what all scans have in common: its order, gaps in a mask, its inputs."""

import pytest
import torch
from scan_cases import errors, gradients, trapezoidal_case

from ecgbook.scan import ssd, trapezoidal_recurrence, trapezoidal_scan

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
FORMS = pytest.mark.parametrize("form", [trapezoidal_scan, trapezoidal_recurrence])


@DIRECTIONS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", [None, [[True, False, False, True, True]]], ids=["all", "gap"])
def test_gradients_are_those_of_finite_differences(reverse, groups, mask):
    case = trapezoidal_case(5, batch=1, heads=2, groups=groups, head_dim=1, d_state=2)
    mask = None if mask is None else torch.tensor(mask)

    def scan(*values):
        options = dict(zip(case, values, strict=True)) | {"mask": mask}
        y = trapezoidal_scan(**options, chunk=2, reverse=reverse)
        return y if mask is None else y[mask]

    assert torch.autograd.gradcheck(scan, [v.requires_grad_() for v in case.values()])


@DIRECTIONS
def test_it_is_the_recurrence_at_every_length_up_to_200(reverse):
    longest = trapezoidal_case(200, batch=1, heads=2, groups=1, head_dim=2, d_state=3)
    every = trapezoidal_recurrence(**longest, reverse=reverse)
    for length in range(1, 201):
        cut = slice(200 - length, None) if reverse else slice(length)
        case = {name: v[:, cut] if v.ndim > 2 else v for name, v in longest.items()}
        for chunk in (64, 7 + length % 10):
            found = trapezoidal_scan(**case, chunk=chunk, reverse=reverse)
            assert (found - every[:, cut]).abs().max() < 1e-12, (length, chunk)


def test_a_share_of_one_is_the_scan_of_mamba_2():
    case = trapezoidal_case(100)
    A = case["A"][0, 0]
    ones = {"A": A.expand_as(case["dt"]), "share": torch.ones_like(case["dt"])}
    found = trapezoidal_scan(**case | ones)
    del case["share"]
    torch.testing.assert_close(found, ssd(**case | {"A": A}), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("share", "order"), [(0.5, 2), (1.0, 1)], ids=["trapezoid", "Mamba-2"])
def test_halving_the_steps_shows_the_order_of_the_rule(share, order):
    """The state of ``S' = -S + sin(3 t)``, known in closed form, at time 2."""
    time = torch.tensor(2.0).double()
    wanted = ((3 * time).sin() - 3 * (3 * time).cos() + 3 * (-time).exp()) / 10
    apart = []
    for length in (200, 400, 800):
        dt = torch.full((1, length, 1), float(time) / length, dtype=torch.float64)
        x = (3 * dt.cumsum(1)).sin()[..., None]
        ones = torch.ones_like(x)
        y = trapezoidal_scan(x, dt, -ones[..., 0], share * ones[..., 0], ones, ones)
        apart.append((y[0, -1, 0, 0] - wanted).abs())
    for coarse, fine in zip(apart, apart[1:], strict=False):
        assert float((coarse / fine).log2()) == pytest.approx(order, abs=0.05)


@FORMS
@DIRECTIONS
@pytest.mark.parametrize("groups", [1, 4])
def test_tokens_outside_the_mask_are_as_good_as_not_there(form, reverse, groups):
    case = trapezoidal_case(40, batch=1, groups=groups)
    keep = torch.arange(40)
    # A gap of one and one over a border of chunks, both ends, and a token alone.
    keep = keep[
        (keep > 2) & (keep != 9) & ((keep < 13) | (keep > 20)) & ((keep == 35) | (keep < 33))
    ]
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[:, keep] = True
    short = {name: v[:, keep] if v.ndim > 2 else v for name, v in case.items()}
    options = {} if form is trapezoidal_recurrence else {"chunk": 16}

    def with_gaps(**case):
        return form(**case, mask=mask, reverse=reverse, **options)[:, keep]

    found = gradients(with_gaps, case)
    wanted = gradients(trapezoidal_recurrence, short, reverse=reverse)
    for name, grad in found.items():
        if grad.ndim > 2 and name != "y":
            assert (grad[~mask] == 0).all(), name
            found[name] = grad[:, keep]
    assert max(errors(found, wanted).values()) < 1e-12
    careless = gradients(lambda **case: form(**case, reverse=reverse)[:, keep], case)
    assert errors({"y": careless["y"]}, {"y": wanted["y"]})["y"] > 1e-2


def test_nothing_is_divided_by_a_step_size():
    case = trapezoidal_case(70)
    case["dt"][:, ::3] = 0
    case["dt"][:, 1::3] *= 1e-30
    wanted = gradients(trapezoidal_recurrence, case)
    assert max(errors(gradients(trapezoidal_scan, case), wanted).values()) < 1e-12
    nowhere = torch.zeros(2, 70, dtype=torch.bool)
    found = gradients(trapezoidal_scan, case, mask=nowhere)
    torch.testing.assert_close(found["y"], case["D"][:, None] * case["x"])
    assert all(v.isfinite().all() for v in found.values())


@pytest.mark.parametrize("name", ["x", "dt", "A", "share", "B", "C", "D", "mask"])
def test_the_input_whose_shape_is_wrong_is_named(name):
    case = trapezoidal_case()
    case["mask"] = torch.ones(2, 20, dtype=torch.bool)
    wrong = case[name][..., :-1] if name not in ("x", "B") else case[name][..., 0]
    found = tuple(wrong.shape)
    with pytest.raises(ValueError, match="wanted") as error:
        trapezoidal_scan(**case | {name: wrong})
    assert str(error.value).startswith(f"{name} of shape {found} found, ")
    if name in ("dt", "A", "share", "C", "D", "mask"):
        assert str(error.value).endswith(f"{tuple(case[name].shape)} wanted")


@pytest.mark.parametrize("name", ["dt", "A", "share", "B", "C", "D", "mask"])
def test_the_input_whose_dtype_or_device_is_wrong_is_named(name):
    case = trapezoidal_case() | {"mask": torch.ones(2, 20, dtype=torch.bool)}
    for wrong in (case[name].half(), case[name].to("meta")):
        with pytest.raises(ValueError, match=f"^{name} of {wrong.dtype} on {wrong.device} found,"):
            trapezoidal_scan(**case | {name: wrong})
