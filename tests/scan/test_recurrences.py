"""The readable scans, against sums and convolutions worked out another way."""

import numpy as np
import pytest
import torch
from scan_cases import selective_case, ssd_case, trapezoidal_case

from ecgbook.scan import (
    segment_sum,
    selective_scan_recurrence,
    ssd_matrix,
    ssd_recurrence,
    trapezoidal_recurrence,
)

SSD_FORMS = pytest.mark.parametrize("form", [ssd_recurrence, ssd_matrix])


def close(found, wanted, atol=1e-12):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


@SSD_FORMS
def test_ssd_of_three_steps_is_what_a_hand_computes(form):
    # One number as state, A = -ln 2: a step of 1 halves it, a step of 2 quarters it.
    def row(*values):
        return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)

    x, dt, A = row(1, 2, 4), row(1, 2, 1)[..., 0], -torch.tensor([2.0]).double().log()
    B, C, D = row(1, 1, 10), row(1, 2, 3), torch.tensor([100.0]).double()
    # S: 1; 1/4 + 2 x 2 = 4.25; 4.25/2 + 4 x 10 = 42.125
    close(form(x, dt, A, B, C).flatten(), [1, 8.5, 126.375])
    close(form(x, dt, A, B, C, D).flatten(), [101, 208.5, 526.375])


@SSD_FORMS
def test_ssd_without_decay_is_a_cumulative_sum(form):
    case = ssd_case(groups=4) | {"A": torch.zeros(4, dtype=torch.float64), "D": None}
    outer = (case["dt"][..., None] * case["x"])[..., None] * case["B"][:, :, :, None]
    wanted = (outer.cumsum(1) * case["C"][:, :, :, None]).sum(-1)
    close(form(**case), wanted)


@SSD_FORMS
def test_ssd_with_constant_coefficients_is_a_convolution(form):
    case = ssd_case(batch=1, length=30, heads=1, groups=1, head_dim=1)
    for name in ("dt", "B", "C"):
        case[name] = case[name][:, :1].expand_as(case[name])
    dt, gain = case["dt"][0, 0, 0].item(), (case["B"] * case["C"])[0, 0].sum().item()
    kernel = dt * gain * np.exp(dt * case["A"].item() * np.arange(30))
    x = case["x"].flatten().numpy()
    wanted = np.convolve(x, kernel)[:30] + case["D"].item() * x
    close(form(**case).flatten(), wanted)


@SSD_FORMS
def test_heads_of_a_group_share_its_projections(form):
    case = ssd_case(heads=4, groups=2)
    apart = dict(case)
    for name in ("B", "C"):
        apart[name] = case[name][:, :, [0, 0, 1, 1]]
    close(form(**case), form(**apart))


def test_the_matrix_form_is_the_recurrence():
    case = ssd_case(length=70)
    close(ssd_matrix(**case), ssd_recurrence(**case))


def test_a_first_state_fades_and_is_read_by_C():
    case = ssd_case(groups=4)
    case["x"] = torch.zeros_like(case["x"])
    state = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    faded = torch.exp((case["dt"] * case["A"]).cumsum(1))[..., None, None] * state[:, None]
    wanted = (faded * case["C"][:, :, :, None]).sum(-1)
    close(ssd_recurrence(**case, initial_state=state), wanted)


def over_time(case):
    return {name: v.flip(1) if v.ndim > 2 else v for name, v in case.items()}


def test_the_trapezoidal_rule_over_three_steps_is_what_a_hand_computes():
    # One number as state; at rates of ln 2 and ln 4, steps of 1, 2 and 1 halve, sixteenth, halve.
    def row(*values):
        return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)

    x, dt, share = row(1, 2, 4), row(1, 2, 1)[..., 0], row(0.5, 0.75, 0)[..., 0]
    A = -row(2, 4, 2)[..., 0].log()
    B, C, D = row(1, 1, 10), row(1, 2, 3), torch.tensor([100.0]).double()
    # S: 1/2 x 1; (0.5 + 1/4 x 2 x 1)/16 + 3/4 x 2 x 2 = 3.0625; (3.0625 + 1 x 1 x 2)/2 + 0
    case = {"x": x, "dt": dt, "A": A, "share": share, "B": B, "C": C}
    close(trapezoidal_recurrence(**case).flatten(), [0.5, 6.125, 7.59375])
    close(trapezoidal_recurrence(**case, D=D).flatten(), [100.5, 206.125, 407.59375])


def test_a_share_of_one_and_a_constant_rate_are_the_rule_of_mamba_2():
    case = ssd_case()
    rates = {"A": case["A"].expand_as(case["dt"]), "share": torch.ones_like(case["dt"])}
    close(trapezoidal_recurrence(**case | rates), ssd_recurrence(**case))


@pytest.mark.parametrize(
    ("form", "case"),
    [
        (ssd_recurrence, ssd_case()),
        (trapezoidal_recurrence, trapezoidal_case()),
        (selective_scan_recurrence, selective_case()),
    ],
    ids=["ssd", "trapezoidal", "selective"],
)
def test_reverse_is_the_scan_of_the_flipped_sequence(form, case):
    close(form(**case, reverse=True), form(**over_time(case)).flip(1), atol=0)


def test_segment_sums_are_the_sums_of_segments():
    a = torch.randn(2, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums = segment_sum(a)
    assert sums.shape == (2, 3, 9, 9)
    for t in range(9):
        for s in range(9):
            wanted = a[..., s + 1 : t + 1].sum(-1) if s <= t else torch.full((2, 3), -torch.inf)
            close(sums[..., t, s], wanted.double())


def test_segment_sums_keep_what_a_difference_of_cumulative_sums_loses():
    a = torch.full((1000,), -100.0)
    a[-1] = -1e-3
    until = a.cumsum(0)
    assert until[-1] - until[-2] == 0  # -1e-3 is lost beside -1e5
    assert segment_sum(a)[-1, -2] == a[-1]


def test_selective_scan_of_three_steps_is_what_a_hand_computes():
    # Two numbers as state: a step of 1 halves the first and quarters the second.
    def row(*values):
        return torch.tensor(values, dtype=torch.float64).view(1, 3, -1)

    A, D = -torch.tensor([[2.0, 4.0]]).double().log(), torch.tensor([100.0]).double()
    u, dt = row(1, 2, 4), row(1, 2, 1)
    B, C = row([1, 2], [1, 0], [0, 1]), row([1, 0], [1, 1], [2, 4])
    # h: (1, 2); (1/4 + 4, 2/16); (4.25/2, 0.125/4 + 4)
    close(selective_scan_recurrence(u, dt, A, B, C).flatten(), [1, 4.375, 20.375])
    close(selective_scan_recurrence(u, dt, A, B, C, D).flatten(), [101, 204.375, 420.375])


def test_selective_scan_without_decay_is_a_cumulative_sum():
    case = selective_case()
    case |= {"A": torch.zeros_like(case["A"]), "D": None}
    outer = (case["dt"] * case["u"])[..., None] * case["B"][:, :, None]
    wanted = (outer.cumsum(1) * case["C"][:, :, None]).sum(-1)
    close(selective_scan_recurrence(**case), wanted)


def test_selective_scan_with_constant_coefficients_is_a_convolution():
    case = selective_case(batch=1, length=30, channels=1)
    for name in ("dt", "B", "C"):
        case[name] = case[name][:, :1].expand_as(case[name])
    dt, gains = case["dt"][0, 0, 0].item(), (case["B"] * case["C"])[0, 0].numpy()
    decays = np.exp(dt * case["A"].numpy() * np.arange(30)[:, None])
    u = case["u"].flatten().numpy()
    wanted = np.convolve(u, dt * decays @ gains)[:30] + case["D"].item() * u
    close(selective_scan_recurrence(**case).flatten(), wanted)


def test_mamba_1_with_one_decay_a_channel_is_mamba_2_with_heads_of_one_channel():
    case = selective_case()
    decays = torch.linspace(-3, -1, 6, dtype=torch.float64)
    found = selective_scan_recurrence(**case | {"A": decays[:, None].expand(6, 4)})
    as_ssd = {name: case[name][:, :, None] for name in ("B", "C")}
    wanted = ssd_recurrence(x=case["u"][..., None], dt=case["dt"], A=decays, D=case["D"], **as_ssd)
    close(found, wanted[..., 0])


@pytest.mark.parametrize(
    ("form", "make"),
    [
        (ssd_recurrence, ssd_case),
        (ssd_matrix, ssd_case),
        (trapezoidal_recurrence, trapezoidal_case),
        (selective_scan_recurrence, selective_case),
    ],
)
def test_a_wrong_shape_is_named(form, make):
    case = make()
    found, wanted = tuple(case["dt"][:, 1:].shape), tuple(case["dt"].shape)
    with pytest.raises(ValueError) as error:
        form(**case | {"dt": case["dt"][:, 1:]})
    assert str(error.value) == f"dt of shape {found} found, {wanted} wanted"
