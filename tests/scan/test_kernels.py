"""What is handed to the kernels of mamba-ssm, and taken from them: stand-ins that scan forward."""

import sys
from types import SimpleNamespace

import pytest
import torch
from scan_cases import errors, selective_case, ssd_case

from ecgbook import scan
from ecgbook.scan import scans


def ssd_kernel(x, dt, A, B, C, chunk_size, D=None, initial_states=None):
    return scan.ssd_recurrence(x, dt, A, B, C, D, initial_state=initial_states)


def selective_kernel(u, delta, A, B, C, D=None):
    u, delta, B, C = (v.transpose(1, 2) for v in (u, delta, B, C))  # length last
    return scan.selective_scan_recurrence(u, delta, A, B, C, D).transpose(1, 2)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    ops = "mamba_ssm.ops"
    for name, functions in {
        "mamba_ssm": {},
        ops: {},
        f"{ops}.triton": {},
        f"{ops}.triton.ssd_combined": {"mamba_chunk_scan_combined": ssd_kernel},
        f"{ops}.selective_scan_interface": {"selective_scan_fn": selective_kernel},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))
    monkeypatch.setattr(scans, "backend", lambda *_: scan.Backend("mamba-ssm", "a stand-in"))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("fast", "recurrence", "case"),
    [
        (scan.ssd, scan.ssd_recurrence, ssd_case()),
        (scan.selective_scan, scan.selective_scan_recurrence, selective_case()),
    ],
    ids=["ssd", "selective"],
)
def test_a_kernel_gives_what_the_recurrence_does(fast, recurrence, case, reverse):
    found, wanted = ({"y": each(**case, reverse=reverse)} for each in (fast, recurrence))
    assert errors(found, wanted)["y"] < 1e-12


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_kernel_starts_from_the_first_state(reverse):
    case = ssd_case()
    state = torch.ones(2, 4, 3, 5, dtype=torch.float64)
    options = {"initial_state": state, "reverse": reverse}
    found, wanted = ({"y": each(**case, **options)} for each in (scan.ssd, scan.ssd_recurrence))
    assert errors(found, wanted)["y"] < 1e-12
