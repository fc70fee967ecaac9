"""The plain forms equal the recurrences, and stand in where PyTorch follows a computation."""

import pytest
import torch
from scan_cases import errors, gradients, trapezoidal_case
from torch.fx.experimental.proxy_tensor import make_fx

from ecgbook import scan
from ecgbook.scan import chunked, composed


def ssd_inputs(length, groups=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 4, 3, generator=g, dtype=dtype)
    dt = torch.rand(2, length, 4, generator=g, dtype=dtype)
    A = -5 * torch.rand(4, generator=g, dtype=dtype)
    B, C = torch.randn(2, 2, length, groups, 5, generator=g, dtype=dtype)
    D, state = torch.randn(4, dtype=dtype), torch.randn(2, 4, 3, 5, generator=g, dtype=dtype)
    return (x, dt, A, B, C, D), state


def selective_inputs(length, dtype=torch.float64):
    g = torch.Generator().manual_seed(length)
    u, dt = (
        torch.randn(2, length, 6, generator=g, dtype=dtype),
        torch.rand(2, length, 6, dtype=dtype),
    )
    A = -20 * torch.rand(6, 5, generator=g, dtype=dtype)
    B, C = torch.randn(2, 2, length, 5, generator=g, dtype=dtype)
    return u, dt, A, B, C, torch.randn(6, dtype=dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
def test_the_four_steps_are_the_recurrence(length, reverse):
    inputs, state = ssd_inputs(length)
    for initial in (None, state):
        options = {"initial_state": initial, "reverse": reverse}
        wanted = scan.ssd_recurrence(*inputs, **options)
        found = scan.ssd_chunks(*inputs, chunk=16, **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 64, 100])
def test_doubling_is_the_recurrence(length, reverse):
    inputs = selective_inputs(length)
    wanted = scan.selective_scan_recurrence(*inputs, reverse=reverse)
    found = scan.selective_scan_doubling(*inputs, reverse=reverse)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strict", [False, True], ids=["inclusive", "strict"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [2, 16, 35])
def test_weights_decays_and_skips_apart_are_a_sum_over_the_steps_before(length, reverse, strict):
    case = trapezoidal_case(length, groups=2)
    w, a, skip = case["share"] - 0.5, case["dt"] * case["A"], case["share"]
    inputs = {"x": case["x"], "w": w, "a": a, "B": case["B"], "C": case["C"], "skip": skip}

    def by_sums(x, w, a, B, C, skip):
        ys = [skip[:, t, :, None] * x[:, t] for t in range(length)]
        each = x.shape[2] // B.shape[2]
        for t in range(length):
            for s in range(t, length) if reverse else range(t + 1):
                if strict and s == t:
                    continue
                between = slice(t, s) if reverse else slice(s + 1, t + 1)
                read = (C[:, t] * B[:, s]).sum(-1).repeat_interleave(each, 1)
                weight = a[:, between].sum(1).exp() * w[:, s] * read
                ys[t] = ys[t] + weight[..., None] * x[:, s]
        return torch.stack(ys, 1)

    def fast(**inputs):
        return chunked.ChunkedSSD.apply(*inputs.values(), None, 16, reverse, strict, True)

    def plain(**inputs):
        return composed.weighted_chunks(*inputs.values(), None, 16, reverse, strict)

    wanted = gradients(by_sums, inputs)
    for form in (fast, plain):
        assert max(errors(gradients(form, inputs), wanted).values()) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_shift_hands_on_what_the_token_before_in_the_mask_has(shape, reverse):
    g = torch.Generator().manual_seed(0)
    v = torch.randn(6, 9, *shape, generator=g)
    mask = torch.rand(6, 9, generator=g) > 0.4
    mask[0], mask[1] = False, True
    found = scan.shift(v, mask, reverse=reverse)
    for row in range(6):
        for t in range(9):
            others = range(t + 1, 9) if reverse else range(t)
            inside = [s for s in others if mask[row, s]]
            wanted = v[row, inside[0 if reverse else -1]] if inside else torch.zeros(shape)
            assert torch.equal(found[row, t], wanted), (row, t)
    assert torch.equal(scan.shift(v, reverse=reverse)[1], found[1])


def test_no_exponent_overflows_and_half_precision_stays_finite():
    (x, dt, A, B, C, D), _ = ssd_inputs(200, dtype=torch.float32)
    steep = scan.ssd_chunks(x, 50 * dt, 20 * A, B, C, D)
    assert steep.isfinite().all()
    low = scan.ssd_chunks(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16(), D)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), scan.ssd(x, dt, A, B, C, D), rtol=0.05, atol=0.1)


def test_both_are_refused_what_the_scans_are():
    (x, dt, A, B, C, D), _ = ssd_inputs(5)
    with pytest.raises(ValueError, match="dt of shape"):
        scan.ssd_chunks(x, dt[:, :4], A, B, C, D)
    u, dt, A, B, C, D = selective_inputs(5)
    with pytest.raises(ValueError, match="B of shape"):
        scan.selective_scan_doubling(u, dt, A, B[:, :4], C, D)


@pytest.fixture
def called(monkeypatch):
    """The plain forms that `ecgbook.scan` has run."""
    names = []
    for name in ("ssd_chunks", "weighted_chunks", "selective_scan_doubling"):
        form = getattr(composed, name)

        def noted(*args, _form=form, _name=name, **options):
            names.append(_name)
            return _form(*args, **options)

        monkeypatch.setattr(scan.scans, name, noted)
    return names


FOLLOWED = {
    "grad": lambda f, x: torch.func.grad(lambda v: f(v).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "make_fx": lambda f, x: make_fx(f)(x),
    "vmap": lambda f, x: torch.func.vmap(lambda v: f(v[None])[0])(x),
    "jit.trace": lambda f, x: torch.jit.trace(f, x, check_trace=False),
}


@pytest.mark.parametrize("way", FOLLOWED)
def test_the_plain_forms_stand_in_where_a_computation_is_followed(called, way):
    (x, *rest), _ = ssd_inputs(20)
    x, dt, A, B, C, D = (v[:1] if v.ndim > 2 else v for v in (x, *rest))
    FOLLOWED[way](lambda x: scan.ssd(x, dt, A, B, C, D), x)
    u, *others = (v[:1] if v.ndim == 3 else v for v in selective_inputs(20))
    FOLLOWED[way](lambda u: scan.selective_scan(u, *others), u)
    case = {name: v[:1] if v.ndim > 2 else v for name, v in trapezoidal_case().items()}
    x, mask = case.pop("x"), torch.arange(20)[None] % 3 > 0
    FOLLOWED[way](lambda x: scan.trapezoidal_scan(x, **case, mask=mask), x)
    assert called == ["ssd_chunks", "selective_scan_doubling", "weighted_chunks"]


def test_what_only_runs_takes_the_fast_form(called):
    (x, *rest), _ = ssd_inputs(20)
    scan.ssd(x.requires_grad_(), *rest).sum().backward()
    with torch.inference_mode():
        scan.ssd(x, *rest)
        scan.selective_scan(*selective_inputs(20))
        scan.trapezoidal_scan(**trapezoidal_case())
    assert not called


def test_tensors_without_memory_have_a_shape():
    inputs, _ = ssd_inputs(20)
    assert scan.ssd(*(v.to("meta") for v in inputs)).shape == inputs[0].shape
    inputs = selective_inputs(20)
    assert scan.selective_scan(*(v.to("meta") for v in inputs)).shape == inputs[0].shape


def test_second_derivatives_of_the_plain_forms_are_right():
    inputs = [v[:1].detach() if v.ndim > 2 else v for v in selective_inputs(6)]
    inputs = [v.requires_grad_() for v in inputs]
    assert torch.autograd.gradgradcheck(scan.selective_scan_doubling, inputs, atol=1e-6)


def test_autocast_is_known_by_device_also_where_there_is_none():
    x = torch.zeros(1)
    assert not scan.in_autocast(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert scan.in_autocast(x) and not scan.in_autocast(x.to("meta"))
        with scan.without_autocast(x):
            assert not scan.in_autocast(x)
    with scan.without_autocast(x.to("meta")):
        pass
