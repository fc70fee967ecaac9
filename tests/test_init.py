"""The public face: every name is there, nothing heavy loads before it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import ecgbook


def test_every_public_name_exists():
    for name in ecgbook.__all__:
        assert getattr(ecgbook, name) is not None
    assert set(ecgbook.__all__) <= set(dir(ecgbook))


def test_every_module_is_public():
    files = {path.stem for path in Path(ecgbook.__file__).parent.glob("*.py")}
    inner = {"__init__", "__main__", "rhythms", "morphology", "noise"}  # parts of synthetic
    assert files - inner == set(ecgbook._MODULES)


def test_import_is_light():
    code = "import sys, ecgbook; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'mamba3'"):
        ecgbook.mamba3  # noqa: B018
