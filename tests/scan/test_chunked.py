"""The chunked scans: what the backward pass keeps, and slices of a batch that do not matter."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ecgbook import scan
from ecgbook.scan import chunked, scans
from ecgbook.scan.chunked import cuts


def ssd_inputs(batch=3, length=50, heads=4, groups=2, d_state=5):
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, dt = draw(batch, length, heads, 3), torch.rand(batch, length, heads, generator=g).double()
    B, C = draw(batch, length, groups, d_state), draw(batch, length, groups, d_state)
    return [v.requires_grad_() for v in (x, dt, -1 - torch.arange(4.0).double(), B, C, draw(heads))]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (8, 8), (9, 8), (50, 7)])
def test_cuts_cover_a_sequence_once_in_the_order_of_the_scan(length, chunk, reverse):
    parts = cuts(length, chunk, reverse)
    steps = [t for cut in parts for t in range(cut.start, cut.stop)]
    assert sorted(steps) == list(range(length))
    assert [cut.start for cut in parts] == sorted((c.start for c in parts), reverse=reverse)
    assert all(cut.stop - cut.start <= chunk for cut in parts)


@pytest.mark.parametrize("reverse", [False, True])
def test_slicing_the_batch_changes_nothing(monkeypatch, reverse):
    inputs = ssd_inputs()
    pull = torch.randn(3, 50, 4, 3, dtype=torch.float64)
    results = []
    row = 4 * 8 * 8
    for cells in (
        1,
        2 * row,
        3 * row,
        7 * row,
        10**9,
    ):  # a row, two and one, three; two chunks, all
        monkeypatch.setitem(chunked.CELLS, "cpu", cells)
        y = scan.ssd(*inputs, chunk=8, reverse=reverse)
        results.append([y, *torch.autograd.grad(y, inputs, pull)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a - b).abs().max() <= 1e-12


@pytest.mark.parametrize("reverse", [False, True])
def test_slicing_the_batch_of_a_selective_scan_changes_nothing(monkeypatch, reverse):
    g = torch.Generator().manual_seed(0)
    u, dt, B, C = (torch.rand(3, 20, n, generator=g, dtype=torch.float64) for n in (4, 4, 5, 5))
    A = -torch.rand(4, 5, generator=g, dtype=torch.float64)
    inputs = [v.requires_grad_() for v in (u, dt, A, B, C)]
    pull = torch.randn(3, 20, 4, generator=g, dtype=torch.float64)
    results = []
    for states in (1, 2 * 4 * 5, 10**9):  # one row at a time, two and one, all three
        monkeypatch.setattr(chunked, "CACHED_STATES", states)
        y = scan.selective_scan(*inputs, chunk=8, reverse=reverse)
        results.append([y, *torch.autograd.grad(y, inputs, pull)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a - b).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("length", "size", "wanted"),
    [
        (170, 32, 34),  # five of them
        (170, 33, 64),  # three of 57 would leave a rest all the same
        (729, 128, 64),
        (729, 32, 32),
        (40, 64, 40),
        (1, 64, 1),
    ],
)
def test_chunks_are_even_where_they_can_be(length, size, wanted):
    assert scans._fast_chunk(length, size) == wanted


def test_backward_keeps_the_inputs_the_log_decays_and_one_state_a_chunk():
    inputs, kept = ssd_inputs(length=50), []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scan.ssd(*inputs, chunk=8)
    made = [v for v in kept if all(v.data_ptr() != given.data_ptr() for given in inputs)]
    log_decays, *states = made
    assert log_decays.shape == (3, 50, 4)
    assert sum(len(v) for v in states) == 7
    assert {tuple(v.shape[1:]) for v in states} == {(3, 2, 5, 6)}  # batch, groups, d_state, rest


@pytest.mark.parametrize("form", ["ChunkedSSD", "ChunkedSelectiveScan"])
def test_states_are_kept_only_where_a_backward_pass_may_follow(monkeypatch, form):
    kept = []
    function = getattr(chunked, form)

    def run(*inputs):
        kept.append(inputs[-1])
        return function.apply(*inputs)

    monkeypatch.setattr(scans, form, SimpleNamespace(apply=run))
    x, dt, A, B, C, D = ssd_inputs()
    if form == "ChunkedSSD":
        call = partial(scan.ssd, x, dt)
    else:
        A, B, C, D = A[:, None] * torch.ones(5), B[:, :, 0], C[:, :, 0], D[:4]
        call = partial(scan.selective_scan, x[..., 0], dt)
    call(A, B, C, D)
    with torch.no_grad():
        call(A, B, C, D)
    scan.ssd(*[v.detach() for v in ssd_inputs()])
    assert kept[:2] == [True, False] and not any(kept[2:])


def test_a_second_call_is_not_disturbed_by_the_buffers_of_the_first():
    inputs = ssd_inputs()
    first = scan.ssd(*inputs, chunk=8)
    again = first.clone()
    scan.ssd(*[v.detach() + 1 for v in inputs[:2]], *inputs[2:], chunk=8)
    assert torch.equal(first, again)
