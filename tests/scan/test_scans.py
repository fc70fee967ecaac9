"""The fast scans: equal to the recurrences, exact where decay is strong, and causal."""

import sys
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    errors,
    gradients,
    pooled,
    pull_like,
    selective_case,
    ssd_case,
    trapezoidal_case,
)

from ecgbook.scan import (
    backend,
    selective_scan,
    selective_scan_recurrence,
    ssd,
    ssd_matrix,
    ssd_recurrence,
    trapezoidal_recurrence,
    trapezoidal_scan,
)
from ecgbook.scan import scans as scans

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
# (fast form, readable form, maker of inputs, name of the input signal)
SSD = (ssd, ssd_recurrence, ssd_case, "x")
SELECTIVE = (selective_scan, selective_scan_recurrence, selective_case, "u")
TRAPEZOIDAL = (trapezoidal_scan, trapezoidal_recurrence, trapezoidal_case, "x")
SCANS = pytest.mark.parametrize(
    "scan", [SSD, TRAPEZOIDAL, SELECTIVE], ids=["ssd", "trapezoidal", "selective"]
)


def first_state(case):
    """Return a random first state for the inputs of `ssd`."""
    batch, _, heads, head_dim = case["x"].shape
    shape = (batch, heads, head_dim, case["B"].shape[-1])
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def to_float(case):
    return {name: v.float() for name, v in case.items()}


def to_bfloat16(case):
    """Round what `ssd` takes in bfloat16; step sizes, rates and D stay in single precision."""
    return {n: v.bfloat16() if n in ("x", "B", "C") else v.float() for n, v in case.items()}


@DIRECTIONS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "D and first state"])
def test_gradients_of_ssd_are_those_of_finite_differences(reverse, groups, extras):
    case = ssd_case(batch=1, length=5, heads=2 * groups, groups=groups, head_dim=1, d_state=2)
    if not extras:
        del case["D"]
    inputs = list(case.values()) + [first_state(case)] * extras

    def scan(*values):
        options = dict(zip([*case, "initial_state"], values, strict=False))
        return ssd(**options, chunk=2, reverse=reverse)

    assert torch.autograd.gradcheck(scan, [v.requires_grad_() for v in inputs])


@DIRECTIONS
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "D"])
def test_gradients_of_selective_scan_are_those_of_finite_differences(reverse, skip):
    case = selective_case(batch=1, length=5, channels=2, d_state=2)
    if not skip:
        del case["D"]

    def scan(*values):
        return selective_scan(**dict(zip(case, values, strict=True)), chunk=2, reverse=reverse)

    assert torch.autograd.gradcheck(scan, [v.requires_grad_() for v in case.values()])


def steps(case, cut):
    """Keep some time steps of every input that has any."""
    return {name: v[:, cut] if v.ndim > 2 else v for name, v in case.items()}


@DIRECTIONS
def test_recurrence_chunks_and_matrix_agree_at_every_length_up_to_300(reverse):
    # The recurrence over 300 steps holds those over all shorter ones that start where it starts.
    longest = ssd_case(batch=1, length=300, heads=2, groups=1, head_dim=2, d_state=3)
    every = ssd_recurrence(**longest, reverse=reverse)
    for length in range(1, 301):
        cut = slice(300 - length, None) if reverse else slice(length)
        case = steps(longest, cut)
        for chunk in (64, 7 + length % 10):
            chunks = ssd(**case, chunk=chunk, reverse=reverse)
            assert (chunks - every[:, cut]).abs().max() < 1e-12, (length, chunk)
        if not reverse:
            assert (ssd_matrix(**case) - every[:, cut]).abs().max() < 1e-12, length


@DIRECTIONS
def test_selective_scan_is_the_recurrence_at_every_length_up_to_300(reverse):
    longest = selective_case(batch=1, length=300, channels=3)
    every = selective_scan_recurrence(**longest, reverse=reverse)
    for length in range(1, 301):
        cut = slice(300 - length, None) if reverse else slice(length)
        chunk = 3 + length % 11
        chunks = selective_scan(**steps(longest, cut), chunk=chunk, reverse=reverse)
        assert (chunks - every[:, cut]).abs().max() < 1e-12, (length, chunk)


@SCANS
@DIRECTIONS
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 65, 150])
def test_gradients_are_those_of_the_recurrence(scan, reverse, length):
    fast, readable, make, _ = scan
    case = make(length=length)
    wanted = gradients(readable, case, reverse=reverse)
    assert max(errors(gradients(fast, case, reverse=reverse), wanted).values()) < 1e-12
    assert max(errors(gradients(fast, case, reverse=reverse, chunk=16), wanted).values()) < 1e-12


@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5),
    st.integers(1, 5), st.integers(1, 50), st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_ssd_with_a_first_state_is_the_recurrence_for_any_sizes(
    batch, length, groups, heads, head_dim, d_state, chunk, reverse
):
    case = ssd_case(batch, length, groups * heads, groups, head_dim, d_state, seed=length)
    case["initial_state"] = first_state(case)
    found = gradients(ssd, case, chunk=chunk, reverse=reverse)
    wanted = gradients(ssd_recurrence, case, reverse=reverse)
    assert max(errors(found, wanted).values()) < 1e-11


@SCANS
def test_the_chunk_does_not_change_the_result(scan):
    fast, _, make, _ = scan
    case = make(length=45)
    whole = gradients(fast, case, chunk=45)
    for chunk in (1, 2, 7, 44, 46, 1000):
        assert max(errors(gradients(fast, case, chunk=chunk), whole).values()) < 1e-12


@SCANS
def test_reverse_is_the_scan_of_the_flipped_sequence(scan):
    fast, _, make, _ = scan
    case = make(length=45)
    flipped = {name: v.flip(1) if v.ndim > 2 else v for name, v in case.items()}
    found, wanted = fast(**case, reverse=True, chunk=8), fast(**flipped, chunk=8).flip(1)
    torch.testing.assert_close(found, wanted, atol=1e-13, rtol=0)


def test_the_state_behind_one_part_continues_in_the_next():
    case = ssd_case(length=50, groups=4)
    before, after = steps(case, slice(30)), steps(case, slice(30, None))
    # Reading with unit vectors C at the last step gives the state, a column at a time.
    state = torch.stack(
        [ssd(**before | {"C": unit.expand_as(before["C"]), "D": None})[:, -1]
         for unit in torch.eye(5, dtype=torch.float64)],
        dim=-1,
    )  # fmt: skip
    found = ssd(**after, initial_state=state, chunk=16)
    torch.testing.assert_close(found, ssd(**case)[:, 30:], atol=1e-12, rtol=0)


@SCANS
@DIRECTIONS
def test_no_output_and_no_gradient_crosses_to_the_other_side_of_time(scan, reverse):
    fast, _, make, _ = scan
    case, t = make(length=40), 20
    y = fast(**case, chunk=16, reverse=reverse)
    unseen = slice(None, t) if reverse else slice(t + 1, None)  # what step t must not see
    others = slice(t, None) if reverse else slice(None, t + 1)
    for name, value in case.items():
        if value.ndim < 3:
            continue
        changed = value.clone()
        changed[:, unseen] += value[:, unseen].sign()
        moved = fast(**case | {name: changed}, chunk=16, reverse=reverse)
        torch.testing.assert_close(moved[:, others], y[:, others], atol=1e-13, rtol=0)
        assert (moved[:, unseen] != y[:, unseen]).any(), name
    leaves = {name: v.requires_grad_() for name, v in case.items()}
    fast(**leaves, chunk=16, reverse=reverse)[:, t].sum().backward()
    for name, value in leaves.items():
        if value.ndim > 2:
            assert (value.grad[:, unseen] == 0).all(), name
            assert (value.grad[:, t] != 0).any(), name


DECAYS = pytest.mark.parametrize("dt_shift", [-4.0, 0.0, 3.0], ids=["weak", "medium", "strong"])


def long_cases(make, dt_shift):
    """Cases of 300 steps; a shift of 3 takes sums of log decays to thousands."""
    sizes = dict(batch=1, length=300, d_state=16, dt_shift=dt_shift)
    heads = dict(heads=8, groups=1, head_dim=16)
    sizes |= dict(channels=16) if make is selective_case else heads
    return [make(**sizes, seed=seed) for seed in range(4)]


@SCANS
@DIRECTIONS
@DECAYS
def test_gradients_in_single_precision_survive_weak_and_strong_decay(scan, reverse, dt_shift):
    fast, _, make, _ = scan
    cases = long_cases(make, dt_shift)
    wanted = pooled([gradients(fast, case, reverse=reverse) for case in cases])
    found = pooled([gradients(fast, to_float(case), reverse=reverse) for case in cases])
    assert max(errors(found, wanted).values()) < 1e-5, errors(found, wanted)


def ssd_by_quotients(x, dt, A, B, C, D):
    """Take decays from s to t as ``exp(sum to t) exp(-sum to s)``: right on paper only."""
    sums = (dt * A).cumsum(1).transpose(1, 2)
    L = (sums.exp()[..., :, None] * (-sums).exp()[..., None, :]).tril()
    M = L * (C.transpose(1, 2) @ B.transpose(1, 2).transpose(-1, -2))
    return (M @ (dt[..., None] * x).transpose(1, 2)).transpose(1, 2) + D[:, None] * x


def dA_by_subtraction(case, y, dy, dx):
    """Take the gradient of A from sums of ``y dy - x dx``: right on paper only."""
    y, dx = y - case["D"][:, None] * case["x"], dx - case["D"][:, None] * dy
    kept = (y * dy - case["x"] * dx).sum(-1)
    return (kept.flip(1).cumsum(1).flip(1) * case["dt"]).sum((0, 1))


def test_quotients_of_cumulative_products_fail_where_decay_is_strong():
    mild, strong = ssd_case(groups=1, dt_shift=-4.0), long_cases(ssd_case, 3.0)[0]
    assert max(errors(gradients(ssd_by_quotients, mild), gradients(ssd, mild)).values()) < 1e-12
    found = errors(gradients(ssd_by_quotients, to_float(strong)), gradients(ssd, strong))
    assert all(found[name] == float("inf") for name in ("y", "x", "dt", "A", "B", "C")), found


def test_subtraction_loses_the_gradient_of_A_where_decay_is_strong():
    cases = long_cases(ssd_case, 3.0)
    exact = [gradients(ssd, case) for case in cases]

    def error(dtype):
        found = []
        for case, wanted in zip(cases, exact, strict=True):
            values = {name: v.to(dtype) for name, v in case.items()}
            y, dy, dx = (v.to(dtype) for v in (wanted["y"], pull_like(wanted["y"]), wanted["x"]))
            found.append({"A": dA_by_subtraction(values, y, dy, dx)})
        return errors(pooled(found), pooled([{"A": wanted["A"]} for wanted in exact]))["A"]

    assert error(torch.float64) < 1e-9
    assert error(torch.float32) > 1e-4  # where that of ssd is below 1e-5, as tested above


@DIRECTIONS
@DECAYS
@pytest.mark.parametrize("scan", [SSD, TRAPEZOIDAL], ids=["ssd", "trapezoidal"])
def test_bfloat16_inputs_give_all_gradients_within_a_hundredth(scan, reverse, dt_shift):
    found, wanted = [], []
    fast, _, make, _ = scan
    for case in long_cases(make, dt_shift):
        low = to_bfloat16(case)
        found.append(gradients(fast, low, reverse=reverse))
        assert found[-1]["y"].dtype == torch.bfloat16
        assert all(found[-1][name].dtype == v.dtype for name, v in low.items())
        exact = {name: v.double() for name, v in low.items()}
        wanted.append(gradients(fast, exact, reverse=reverse))
    apart = errors(pooled(found), pooled(wanted))
    assert max(apart.values()) < 1e-2, apart


@pytest.mark.parametrize(
    ("fast", "case"),
    [
        pytest.param(ssd, to_float(ssd_case(length=100)), id="ssd, float32"),
        pytest.param(ssd, to_bfloat16(ssd_case(length=100)), id="ssd, bfloat16"),
        pytest.param(trapezoidal_scan, to_bfloat16(trapezoidal_case()), id="trapezoidal, bfloat16"),
        pytest.param(selective_scan, to_float(selective_case()), id="selective, float32"),
    ],
)
def test_autocast_around_a_scan_changes_nothing(fast, case):
    wanted = gradients(fast, case)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(fast, case)
    assert all(found[name].dtype == v.dtype for name, v in wanted.items())
    assert max(errors(found, wanted).values()) == 0, errors(found, wanted)


def test_a_large_batch_of_many_heads_is_scanned_like_a_small_one():
    case = ssd_case(batch=9, length=70, heads=32, groups=2, head_dim=2, d_state=2)
    wanted = gradients(ssd_recurrence, case)
    assert max(errors(gradients(ssd, case), wanted).values()) < 1e-11


@SCANS
def test_memory_layout_does_not_matter(scan):
    fast, _, make, _ = scan
    case = make(length=20)
    wanted = gradients(fast, case, chunk=8)

    def scattered(v):  # every second entry of a wider tensor whose axes are in reverse order
        wide = torch.zeros(*v.shape[::-1][:-1], 2 * v.shape[0], dtype=v.dtype)
        view = wide.permute(*range(v.ndim)[::-1])[::2]
        view.copy_(v)
        assert not view.is_contiguous()
        return view

    leaves = {name: scattered(v).requires_grad_() for name, v in case.items()}
    y = fast(**leaves, chunk=8)
    y.backward(scattered(pull_like(y)))
    found = {"y": y.detach()} | {name: v.grad for name, v in leaves.items()}
    assert max(errors(found, wanted).values()) < 1e-13


@SCANS
def test_a_gradient_that_is_one_number_for_all_outputs_passes(scan):
    fast, readable, make, _ = scan
    case = make()

    def of_the_sum(form):  # the gradient of a sum is one number, expanded
        leaves = {name: v.clone().requires_grad_() for name, v in case.items()}
        form(**leaves).sum().backward()
        return {name: v.grad for name, v in leaves.items()}

    assert max(errors(of_the_sum(fast), of_the_sum(readable)).values()) < 1e-12


@SCANS
def test_inputs_stay_and_a_second_backward_pass_gives_the_same(scan):
    fast, _, make, _ = scan
    case = make()
    leaves = {name: v.clone().requires_grad_() for name, v in case.items()}
    y = fast(**leaves, chunk=8)
    kept = y.detach().clone()
    passes = []
    for _ in range(2):
        passes.append(torch.autograd.grad(y.square().sum(), leaves.values(), retain_graph=True))
    for name, value, first, second in zip(case, case.values(), *passes, strict=True):
        assert torch.equal(leaves[name], value), name
        assert torch.equal(first, second), name
    assert torch.equal(y, kept)


@SCANS
def test_inputs_without_gradient_change_nothing(scan):
    fast, _, make, signal = scan
    case = make()
    wanted = gradients(fast, case)[signal]
    case[signal].requires_grad_()
    y = fast(**case)
    y.backward(pull_like(y))
    torch.testing.assert_close(case[signal].grad, wanted, atol=1e-13, rtol=0)


@SCANS
def test_a_second_derivative_is_that_of_the_recurrence(scan):
    fast, slow, make, signal = scan
    found = []
    for form in (fast, slow):
        case = {name: value.requires_grad_() for name, value in make().items()}
        # B depends on the signal, as in a layer: no gradient is counted on two ways.
        given = case | {"B": case["B"] * case[signal].mean()}
        grads = torch.autograd.grad(form(**given).sum(), list(case.values()), create_graph=True)
        pull = sum(grad.square().sum() for grad in grads)
        found.append(grads + torch.autograd.grad(pull, list(case.values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_backend_says_what_runs_and_why(monkeypatch):
    assert backend().name == backend("cpu").name == "plain"
    assert "cpu" in backend("cpu").reason
    assert backend("cuda", torch.float64).name == "plain"
    assert "float64" in backend("cuda", torch.float64).reason
    kernels = "mamba_ssm.ops.triton.ssd_combined", "mamba_ssm.ops.selective_scan_interface"
    for installed, wanted in ((None, "plain"), (MagicMock(), "mamba-ssm")):
        for name in kernels:
            monkeypatch.setitem(sys.modules, name, installed)  # None makes an import fail
        scans._import_error.cache_clear()
        assert backend("cuda").name == wanted
    broken = MagicMock(side_effect=OSError("no libcuda"))
    monkeypatch.setattr(scans.importlib, "import_module", broken)
    scans._import_error.cache_clear()
    assert "OSError: no libcuda" in backend("cuda").reason
    assert backend("cuda").name == "plain"
    assert broken.call_count == 1  # once, not at every scan
    scans._import_error.cache_clear()


@SCANS
def test_a_chunk_below_one_is_refused(scan):
    fast, _, make, _ = scan
    with pytest.raises(ValueError, match="chunk=0 found, 1 or more wanted"):
        fast(**make(), chunk=0)


@pytest.mark.parametrize("name", ["x", "dt", "A", "B", "C", "D", "initial_state"])
def test_ssd_names_the_input_whose_shape_is_wrong(name):
    case = ssd_case()
    case["initial_state"] = first_state(case)
    wanted = tuple(case[name].shape)
    found = (*wanted[:-1], 7) if name not in ("x", "B") else wanted[:-1]
    message = {
        "x": "(batch, length, heads, head_dim), none of them 0, wanted",
        "B": "(batch, length, groups, d_state) wanted with groups dividing the 4 heads",
    }.get(name, f"{wanted} wanted")
    with pytest.raises(ValueError) as error:
        ssd(**case | {name: torch.ones(found, dtype=torch.float64)})
    assert str(error.value) == f"{name} of shape {found} found, {message}"


@pytest.mark.parametrize("name", ["u", "dt", "A", "B", "C", "D"])
def test_selective_scan_names_the_input_whose_shape_is_wrong(name):
    case = selective_case()
    wanted = tuple(case[name].shape)
    found = (*wanted[:-1], 7) if name not in ("u", "A") else wanted[:-1]
    message = {
        "u": "(batch, length, channels), none of them 0, wanted",
        "A": "(channels, d_state) wanted",
    }.get(name, f"{wanted} wanted")
    with pytest.raises(ValueError) as error:
        selective_scan(**case | {name: torch.ones(found, dtype=torch.float64)})
    assert str(error.value) == f"{name} of shape {found} found, {message}"


@pytest.mark.parametrize("name", ["dt", "A", "B", "C", "D", "initial_state"])
def test_ssd_names_the_input_whose_dtype_or_device_is_wrong(name):
    case = to_bfloat16(ssd_case() | {"initial_state": first_state(ssd_case())})
    other = "x" if name in "BC" else "dt"
    for wrong in (case[name].half(), case[name].to("meta")):
        with pytest.raises(ValueError, match=f"^{name} of {wrong.dtype} on {wrong.device} found,"):
            ssd(**case | {name: wrong})
    if name != "dt":
        with pytest.raises(ValueError, match=rf"convert it with {name}\.to\({other}\)"):
            ssd(**case | {name: case[name].half()})


@pytest.mark.parametrize("name", ["dt", "A", "B", "C", "D"])
def test_selective_scan_names_the_input_whose_dtype_or_device_is_wrong(name):
    case = to_float(selective_case())
    for wrong in (case[name].double(), case[name].to("meta")):
        with pytest.raises(ValueError) as error:
            selective_scan(**case | {name: wrong})
        assert str(error.value) == (
            f"{name} of {wrong.dtype} on {wrong.device} found, torch.float32 on cpu as u wanted; "
            f"convert it with {name}.to(u)"
        )


@SCANS
def test_integers_are_refused(scan):
    fast, _, make, signal = scan
    with pytest.raises(ValueError, match=f"{signal} of torch.int64 found, a floating dtype wanted"):
        fast(**{name: v.long() for name, v in make().items()})


def test_steps_finer_than_the_input_are_taken():
    case = ssd_case()
    wanted = ssd(**case)
    low = {name: v.float() if name in ("x", "B", "C") else v for name, v in case.items()}
    assert ssd(**low).dtype == torch.float32
    torch.testing.assert_close(ssd(**low).double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [{"d_state": 0}, {"groups": 0}])
def test_projections_without_states_or_groups_are_refused(sizes):
    with pytest.raises(ValueError, match=r"B of shape .* groups dividing the 4 heads"):
        ssd(**ssd_case(**sizes))


def test_rates_without_states_are_refused():
    with pytest.raises(ValueError, match=r"A of shape \(6, 0\) found, \(channels, d_state\) want"):
        selective_scan(**selective_case(d_state=0))


def test_groups_that_do_not_divide_the_heads_are_refused():
    case = ssd_case(heads=4, groups=3)
    with pytest.raises(ValueError, match="groups dividing the 4 heads"):
        ssd(**case)


@SCANS
def test_an_empty_sequence_is_refused(scan):
    fast, _, make, signal = scan
    with pytest.raises(ValueError, match=rf"{signal} of shape \(2, 0, .* wanted"):
        fast(**make(length=0))
