"""What is exported: the committed table of every size, and the smallest size anew."""

import inspect
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import export_parity  # noqa: E402

from ecgbook import results  # noqa: E402
from ecgbook.signals import Preprocessing  # noqa: E402

SMALLEST = {"embed_dim": 16, "stem_width": 8, "n_layers": 1, "d_state": 8, "head_dim": 8}
SMALLEST |= {"use_multi_branch": False, "bidirectional": False}
needs_exporter = pytest.mark.skipif(
    "optimize" not in inspect.signature(torch.onnx.export).parameters,
    reason="torch 2.6 writes ONNX first",
)


def check(name, row):
    """Compare a row with the bounds, and the file with the size of its weights."""
    ways = ["torch.export", "onnx"]
    if name == export_parity.EXPLAINED:
        ways.append("onnx, explanation")
    assert [key for key in row if key != "provenance"] == ["parameters", *ways]
    for way in ways:
        assert row[way]["seconds"] > 0
        wanted = {"logits", "relevance"} if "explanation" in way else {"logits"}
        assert set(row[way]["error"]) == wanted
        for what, error in row[way]["error"].items():
            assert 0 <= error <= export_parity.ALLOWED, (name, way, what)
        if way != "torch.export":
            weights = 4 * row["parameters"] / 2**20
            assert 0.9 * weights < row[way]["mib"], "the file holds the weights"
            assert row[way]["mib"] < 3 * weights + 10, "and them once"


def test_every_model_of_every_size_is_in_the_table_and_exact():
    found = results("export")
    assert {"command", "commit", "export_versions"} <= set(found["provenance"])
    assert set(found["rows"]) == set(export_parity.SIZES)
    for size, rows in found["rows"].items():
        assert set(rows) == set(export_parity.MODELS), size
        for name, row in rows.items():
            check(name, row)
    assert found["rows"]["full"]["EnhancedECGMamba2"]["parameters"] == 29_238_597


@needs_exporter
def test_the_smallest_size_says_the_same(monkeypatch):
    short = Preprocessing(fs_hz=125, n_samples=256)
    monkeypatch.setitem(export_parity.PREPROCESSING, "tutorial", short)
    name = export_parity.EXPLAINED
    check(name, export_parity.row(name, "tutorial", **SMALLEST))


def test_another_function_is_told_apart():
    bundle = export_parity.build(export_parity.EXPLAINED, "tutorial", **SMALLEST)
    assert export_parity.worst(bundle.model, bundle) == 0
    assert export_parity.worst(lambda x, mask: bundle.model(x), bundle) > export_parity.ALLOWED
