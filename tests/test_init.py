"""The public face: every name is there, nothing heavy loads before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ecgbook


def test_every_public_name_exists():
    for name in ecgbook.__all__:
        assert getattr(ecgbook, name) is not None
    assert set(ecgbook.__all__) <= set(dir(ecgbook))


def test_every_room_is_public_and_known_to_editors():
    package = Path(ecgbook.__file__).parent
    rooms = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    rooms |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms == set(ecgbook._ROOMS)
    assert set(ecgbook.__all__) == {*ecgbook._ROOMS, *ecgbook._HOMES}
    tree = ast.parse((package / "__init__.py").read_text("utf8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert block.test.id == "TYPE_CHECKING"
    assert {alias.name for node in block.body for alias in node.names} == set(ecgbook.__all__)
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize(
    "room", [r for r in ecgbook._ROOMS if hasattr(getattr(ecgbook, r), "__path__")]
)
def test_a_room_exports_exactly_what_its_front_door_imports(room):
    door = getattr(ecgbook, room)
    tree = ast.parse(Path(door.__file__).read_text("utf8"))
    names = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(names) == sorted(door.__all__)
    assert all(hasattr(door, name) for name in door.__all__)


def test_import_is_light():
    assert loaded("ecgbook") == "[]"
    rooms = "models", "signals", "records", "augment", "data", "metrics", "synthetic", "training"
    assert loaded(", ".join(f"ecgbook.{room}" for room in rooms)) == "['torch']"


def test_it_is_imported_where_torch_has_the_names_of_2_2():
    old = (
        "import torch, torch.fx.experimental.proxy_tensor as proxy; "
        "proxy.get_innermost_proxy_mode = proxy.get_proxy_mode; del proxy.get_proxy_mode; "
        "torch._utils.is_compiling = torch.compiler.is_compiling; "
        "del torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling; "
    )
    rooms = ", ".join(f"ecgbook.{room}" for room in ("models", "scan", "training", "explain"))
    subprocess.run([sys.executable, "-c", f"{old}import {rooms}"], check=True)


def loaded(modules: str) -> str:
    heavy = "torch", "matplotlib.pyplot", "wfdb", "pandas", "captum"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'mamba3'"):
        ecgbook.mamba3  # noqa: B018
