"""What PyTorch can do with layers and models: the committed table, and what is quick of it anew."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import compositions  # noqa: E402

from ecgbook import results  # noqa: E402

QUICK = [way for way in compositions.WAYS if "compile" not in way]


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
"""That of 2.2 follows too little of Python to make a graph of our layers."""
needs_dynamo = pytest.mark.skipif(OLD, reason="an older dynamo")


def allowed(way):
    return compositions.ALLOWED.get(way, 1e-5)


def test_the_table_holds_every_model_and_way_and_all_work():
    table = results("compositions")["errors"]
    assert {name: list(row) for name, row in table.items()} == {
        name: list(compositions.WAYS) for name in compositions.MODELS
    }
    for name, row in table.items():
        for way, error in row.items():
            assert not isinstance(error, str), f"{name}, {way}: {error}"
            assert error <= allowed(way), (name, way)


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("name", compositions.MODELS)
def test_what_the_table_says_is_so(name, way):
    if OLD and way.startswith("export"):
        pytest.skip("an older dynamo")
    error = compositions.attempt(name, way)
    assert not isinstance(error, str), error
    assert error <= allowed(way)


@needs_dynamo
@pytest.mark.parametrize("name", compositions.MODELS)
def test_a_model_is_one_graph_with_gradients(name):
    error = compositions.attempt(name, "compile", backend="aot_eager")
    assert not isinstance(error, str), error
    assert error <= 1e-5


@needs_dynamo
@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Bidirectional"])
def test_one_graph_serves_other_batches_and_lengths(name):
    error = compositions.attempt(name, "compile, dynamic", backend="aot_eager")
    assert not isinstance(error, str), error
    assert error <= 1e-5


@needs_dynamo
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_the_default_compiler_gives_values_and_gradients_of_mamba_2():
    error = compositions.attempt("Mamba2", "compile")
    assert not isinstance(error, str), error
    assert error <= 1e-5


def test_what_fails_is_a_sentence_and_not_a_number(monkeypatch):
    def broken(model, x, mask):
        raise ValueError("no such way\nand more")

    monkeypatch.setitem(compositions.WAYS, "broken", broken)
    assert compositions.attempt("Mamba", "broken") == "ValueError: no such way"
    wrong = compositions.apart(*2 * [compositions.build("Mamba")[1]])
    assert wrong == 0 and allowed("hooks") < 1e-4
