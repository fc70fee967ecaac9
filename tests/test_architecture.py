"""The package's structure, read from its source: ranks of imports, tests, size, documentation."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

RANKS = {
    0: "leads labels metrics storage groups comments rhythms noise morphology "
    "recurrences convolution normalization chunked checks resampling",
    1: "batching records synthetic scan preprocessing bootstrap checkpoints plots beats",
    2: "physionet data layers snr spectrum relevance_plot localization",
    3: "augment frontend mamba attention classifier splits evaluation",
    4: "vision_mamba perturbations attributions",
    5: "models attacks rules faithfulness randomization",
    6: "bundles adversarial",
    7: "recipes explain",
    8: "training",
    9: "ladder",
    10: "__init__ __main__",
}
RANK = {name: rank for rank, names in RANKS.items() for name in names.split()}
OPTIONAL = {"mamba_ssm", "causal_conv1d", "triton"}
MAX_LINES = 400


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported(tree: ast.AST, package: str) -> set[str]:
    """Names of the package's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts = [a.name.split(".") for a in node.names]
            names |= {p[1] if len(p) > 1 else "__init__" for p in parts if p[0] == package}
        elif isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".") if node.module else []
            if node.level == 0:
                if path[0] != package:
                    continue
                path = path[1:]
            names |= {path[0]} if path else {a.name for a in node.names}
    return names


def rank_faults(package: Path) -> list[str]:
    faults = []
    for file in modules(package):
        rank = RANK.get(file.stem)
        if rank is None or file.parent != package:
            faults.append(f"{file.name} has no rank: give it one in the table")
            continue
        for name in sorted(imported(ast.parse(file.read_text("utf8")), package.name)):
            # A name taken from the package itself, such as __version__, lives in __init__.
            other = RANK.get(name, RANK["__init__"])
            if other >= rank:
                faults.append(f"{file.name} (rank {rank}) imports {name} (rank {other})")
    return faults


def optional_import_faults(package: Path) -> list[str]:
    faults = []
    for file in modules(package):
        # Imports inside a function are fine: the package must import without these.
        todo = list(ast.parse(file.read_text("utf8")).body)
        while todo:
            node = todo.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            todo += ast.iter_child_nodes(node)
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            faults += [f"{file.name}: {n}" for n in names if n.split(".")[0] in OPTIONAL]
    return faults


def missing_tests(package: Path, tests: Path) -> list[str]:
    wanted = [f.stem.strip("_") for f in modules(package) if f.stem != "__init__"]
    return [f"test_{name}.py" for name in wanted if not (tests / f"test_{name}.py").is_file()]


def long_files(package: Path) -> list[str]:
    lengths = {f.name: len(f.read_text("utf8").splitlines()) for f in modules(package)}
    return [f"{name}: {n} lines" for name, n in lengths.items() if n > MAX_LINES]


def takes_arguments(function: ast.FunctionDef) -> bool:
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x]
    return bool([n for n in names if n not in ("self", "cls")])


def documentation_faults(package: Path) -> list[str]:
    """Public functions and classes without a docstring, or without Parameters for arguments."""
    faults = []
    for file in modules(package):
        for node in ast.parse(file.read_text("utf8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            text = ast.get_docstring(node) or ""
            makers = [node] if isinstance(node, ast.FunctionDef) else []
            if isinstance(node, ast.ClassDef):
                members = [m for m in node.body if isinstance(m, ast.FunctionDef)]
                makers = [m for m in members if m.name == "__init__"]
                for m in members:
                    if not m.name.startswith("_") and not ast.get_docstring(m):
                        faults.append(f"{file.name}: {node.name}.{m.name}: no docstring")
            if not text:
                faults.append(f"{file.name}: {node.name}: no docstring")
                continue
            described = "Parameters\n---" in text
            if isinstance(node, ast.ClassDef):
                described |= "Attributes\n---" in text
            if any(takes_arguments(m) for m in makers) and not described:
                faults.append(f"{file.name}: {node.name}: takes arguments, has no Parameters")
    return faults


PACKAGE = ROOT / "ecgbook"


def test_files_import_only_from_lower_ranks():
    assert rank_faults(PACKAGE) == []


def test_optional_packages_are_never_imported_with_the_package():
    assert optional_import_faults(PACKAGE) == []


def test_every_module_has_its_test_file():
    assert missing_tests(PACKAGE, ROOT / "tests") == []


def test_no_module_grows_beyond_one_purpose():
    assert long_files(PACKAGE) == []


def test_public_names_are_documented_with_their_parameters():
    assert documentation_faults(PACKAGE) == []


@pytest.fixture
def tree(tmp_path):
    """Write a small package and return its folder."""

    def write(**files: str) -> Path:
        package = tmp_path / "ecgbook"
        package.mkdir()
        for name, text in files.items():
            (package / f"{name}.py").write_text(text)
        return package

    return write


@pytest.mark.parametrize(
    "files",
    [
        {"leads": "from .models import x"},
        {"leads": "from . import models"},
        {"leads": "from ecgbook.models import x"},
        {"leads": "from ecgbook import models"},
        {"leads": "import ecgbook.models"},
        {"leads": "import ecgbook"},
        {"leads": "from ecgbook import __version__"},
        {"leads": "def f():\n    from .labels import NAMES"},
        {"models": "if True:\n    from .models import x"},
        {"helpers": ""},
    ],
    ids=lambda files: next(iter(files.values())) or "unknown file",
)
def test_an_import_from_the_same_or_a_higher_rank_is_found(tree, files):
    assert len(rank_faults(tree(**files))) == 1


def test_imports_from_lower_ranks_and_other_packages_pass(tree):
    models = "import numpy\nfrom torch import nn\nfrom .layers import Scale\nfrom . import data"
    assert rank_faults(tree(models=models, __init__="from .models import M")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import mamba_ssm", 1),
        ("from causal_conv1d.x import y", 1),
        ("try:\n    import triton\nexcept ImportError:\n    pass", 1),
        ("class A:\n    import triton", 1),
        ("def f():\n    import mamba_ssm", 0),
        ("from .triton import x", 0),
    ],
)
def test_an_optional_import_at_module_level_is_found(tree, text, found):
    assert len(optional_import_faults(tree(scan=text))) == found


def test_a_module_without_test_file_is_found(tree, tmp_path):
    package = tree(leads="", __main__="", __init__="")
    assert missing_tests(package, tmp_path) == ["test_main.py", "test_leads.py"]
    (tmp_path / "test_leads.py").touch()
    assert missing_tests(package, tmp_path) == ["test_main.py"]


def test_a_file_over_the_limit_is_found(tree):
    package = tree(leads="\n" * MAX_LINES, labels="\n" * (MAX_LINES + 1))
    assert long_files(package) == [f"labels.py: {MAX_LINES + 1} lines"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(): pass", 1),
        ('def f(x):\n    "Do."', 1),
        ('def f(*, x=1):\n    "Do."', 1),
        ('def f(**x):\n    "Do."', 1),
        ('def f(x):\n    """Do.\n\n    Parameters\n    ----------\n    x : int\n    """', 0),
        ('def f():\n    "Do."', 0),
        ("def _f(x): pass", 0),
        ("class A: pass", 1),
        ('class A:\n    "Be."\n    def __init__(self, x): pass', 1),
        ('class A:\n    "Be."\n    def __init__(self): pass', 0),
        ('class A:\n    "Be."\n    def go(self, x): pass', 1),
    ],
)
def test_a_public_name_without_documentation_is_found(tree, text, found):
    assert len(documentation_faults(tree(leads=text))) == found


def test_the_rank_table_names_no_module_twice():
    names = " ".join(RANKS.values()).split()
    assert len(names) == len(set(names)) == len(RANK)
