"""The house, read from its source: floors of imports, front doors, tests, size, documentation.

``python tests/test_architecture.py`` prints it in numbers.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    1: "leads labels storage metrics scan",
    2: "checks records plots",
    3: "signals",
    4: "synthetic data models augment",
    5: "attacks",
    6: "training",
    7: "explain ladder",
    8: "export",
    9: "__init__ __main__",
}
"""The rooms of the house, ground floor first: a room imports from lower floors only."""
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
OPTIONAL = {"mamba_ssm", "causal_conv1d", "triton"}
MAX_LINES = 500
SATELLITE_LINES = 100


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def room_of(file: Path, package: Path) -> str:
    """The room that a file stands in: its own name, or that of its folder."""
    parts = file.relative_to(package).with_suffix("").parts
    return parts[0]


def imports(file: Path, package: Path) -> set[tuple[str, str]]:
    """Pairs (room, satellite) that a file of the package imports, anywhere in it.

    The satellite is empty where the room itself is imported, or a name through its front door.
    """
    inside = list(file.relative_to(package).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf8"))):
        if isinstance(node, ast.Import):
            paths = [a.name.split(".") for a in node.names]
            found |= {tuple(([*p[1:], "", ""])[:2]) for p in paths if p[0] == package.name}
        elif isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".") if node.module else []
            if node.level == 0:
                if path[0] != package.name:
                    continue
                path = path[1:]
            else:
                path = inside[: len(inside) - node.level + 1] + path
            if path:
                found.add(tuple([*path, ""][:2]))
            else:  # from the package itself: rooms, or names such as __version__
                found |= {(a.name, "") for a in node.names}
    return {(room or "__init__", satellite) for room, satellite in found}


def rank_faults(package: Path) -> list[str]:
    """Imports of a room on the same or a higher floor, or past the front door of another room."""
    faults = []
    for file in modules(package):
        room = room_of(file, package)
        floor, name = FLOOR.get(room), file.relative_to(package).as_posix()
        if floor is None or len(file.relative_to(package).parts) > 2:
            faults.append(f"{name} stands in no room: give it one in the table")
            continue
        for other, satellite in sorted(imports(file, package)):
            if other == room and file.parent != package:
                continue
            # A name taken from the package itself, such as __version__, lives in __init__.
            above = FLOOR.get(other, FLOOR["__init__"])
            if above >= floor and not typed_only(file, other):
                faults.append(f"{name} (floor {floor}) imports {other} (floor {above})")
            elif satellite and (package / other / f"{satellite}.py").is_file():
                faults.append(f"{name} imports {other}.{satellite} past its front door")
    return faults


def typed_only(file: Path, room: str) -> bool:
    """Whether the front door of the package names a room for editors only."""
    return file.name == "__init__.py" and room != "__init__" and room in FLOOR


def circles(package: Path) -> list[str]:
    """Circles of imports between the files of one room."""
    graph = {}
    for file in modules(package):
        if file.parent != package and file.stem != "__init__":
            room = file.parent.name
            others = {s for r, s in imports(file, package) if r == room and s}
            if (room, "") in imports(file, package):
                others.add("__init__")
            graph[room, file.stem] = {(room, other) for other in others}
    found, done = [], set()

    def follow(node, path):
        if node in path:
            found.append(" -> ".join(name for _, name in [*path[path.index(node) :], node]))
        elif node not in done:
            for after in sorted(graph.get(node, ())):
                follow(after, [*path, node])
            done.add(node)

    for node in sorted(graph):
        follow(node, [])
    for room, name in sorted(graph):
        if (room, "__init__") in graph[room, name]:
            found.append(f"{room}/{name} imports its own front door")
    return found


def lonely_satellites(package: Path, root: Path) -> list[str]:
    """Short files of a room with fewer than two users besides its front door and the tests."""
    lonely = []
    readers = [f for f in modules(package) if f.name != "__init__.py"]
    readers += [
        f for part in ("experiments", "benchmarks") for f in sorted((root / part).glob("*.py"))
    ]
    readers += sorted((root / "book").glob("*.md"))
    texts = {file: file.read_text("utf8") for file in readers}
    for file in modules(package):
        text = file.read_text("utf8")
        if file.parent == package or file.stem == "__init__":
            continue
        if len(text.splitlines()) >= SATELLITE_LINES:
            continue
        body = ast.parse(text).body
        names = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        names = {name for name in names if not name.startswith("_")}
        word = re.compile(rf"\b({'|'.join(sorted(names))})\b")
        users = [f.name for f, other in texts.items() if f != file and word.search(other)]
        if len(users) < 2:
            lonely.append(f"{file.relative_to(package)}: {len(text.splitlines())} lines, {users}")
    return lonely


def house(package: Path) -> str:
    """The picture in numbers: rooms, files, arrows between rooms, arrows up, circles."""
    files = [f for f in modules(package) if room_of(f, package) in FLOOR]
    arrows = {
        (room_of(f, package), other)
        for f in files
        for other, _ in imports(f, package)
        if other in FLOOR and other != room_of(f, package) and f.name != "__init__.py"
    }
    up = [f"{a} -> {b}" for a, b in sorted(arrows) if FLOOR[b] >= FLOOR[a]]
    return (
        f"{len(FLOOR) - 2} rooms, {len(files)} files, {len(arrows)} arrows between rooms, "
        f"{len(up)} of them not down, {len(circles(package))} circles inside rooms"
    )


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
    wanted = [f.relative_to(package) for f in modules(package) if f.stem != "__init__"]
    wanted = [f.with_name(f"test_{f.stem.strip('_')}.py") for f in wanted]
    return [f.as_posix() for f in wanted if not (tests / f).is_file()]


def long_files(package: Path) -> list[str]:
    lengths = {f: len(f.read_text("utf8").splitlines()) for f in modules(package)}
    return [f"{f.name}: {n} lines" for f, n in lengths.items() if n > MAX_LINES]


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


def test_rooms_import_only_from_lower_floors_and_through_front_doors():
    assert rank_faults(PACKAGE) == []


def test_no_circle_of_imports_inside_a_room():
    assert circles(PACKAGE) == []


def test_a_short_satellite_has_two_users():
    assert lonely_satellites(PACKAGE, ROOT) == []


OUTSIDE = [
    f
    for part, ending in (
        ("experiments", "py"),
        ("benchmarks", "py"),
        ("scripts", "py"),
        ("book", "md"),
    )
    for f in sorted((ROOT / part).glob(f"*.{ending}"))
]


@pytest.mark.parametrize("file", OUTSIDE, ids=lambda file: file.name)
def test_readers_come_in_by_the_front_door(file):
    past = re.findall(r"(?:from|import) ecgbook\.(\w+)\.(\w+)", file.read_text("utf8"))
    assert [pair for pair in past if (PACKAGE / pair[0] / f"{pair[1]}.py").is_file()] == []


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
    """Write a small package and return its folder; two underscores make a folder."""

    def write(**files: str) -> Path:
        package = tmp_path / "ecgbook"
        package.mkdir()
        for name, text in files.items():
            path = package / (name if name.startswith("__") else name.replace("__", "/", 1))
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".py").write_text(text)
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
        {"models__mamba": "if True:\n    from ..data import x"},
        {"scan__scans": "from ..metrics import x"},
        {"models__mamba": "from ..scan.scans import ssd", "scan__scans": ""},
        {"__main__": "import ecgbook.scan.scans", "scan__scans": ""},
        {"helpers": ""},
        {"helpers__inner": ""},
    ],
    ids=lambda files: next(iter(files.values())) or "unknown file",
)
def test_an_import_from_the_same_or_a_higher_floor_or_past_a_door_is_found(tree, files):
    assert len(rank_faults(tree(**files))) == 1


def test_imports_from_lower_floors_siblings_and_other_packages_pass(tree):
    models = "import numpy\nfrom torch import nn\nfrom .layers import Scale\nfrom .. import scan"
    package = tree(
        models__classifiers=models, models__layers="from ..scan import ssd", scan__scans=""
    )
    assert rank_faults(package) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"scan__a": "from .b import x", "scan__b": "from .a import y"}, 1),
        ({"scan__a": "from .a import x"}, 1),
        ({"scan__a": "from . import b", "scan__b": ""}, 1),  # that is the front door
        ({"scan__a": "from .b import x", "scan__b": "", "data__b": "from ..scan import y"}, 0),
    ],
)
def test_a_circle_inside_a_room_is_found(tree, files, found):
    assert len(circles(tree(**files))) == found


def test_a_short_satellite_that_one_file_uses_is_found(tree, tmp_path):
    package = tree(
        scan__short="def little():\n    pass",
        scan__long="def much():\n    pass\n" + "\n" * SATELLITE_LINES,
        models__one="from ..scan import little, much",
        scan____init__="from .short import little",
    )
    lonely = lonely_satellites(package, tmp_path)
    assert lonely == ["scan/short.py: 2 lines, ['one.py']"]
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "page.md").write_text("little()")
    assert lonely_satellites(package, tmp_path) == []


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
    package = tree(leads="", __main__="", __init__="", scan__scans="")
    wanted = ["test_main.py", "test_leads.py", "scan/test_scans.py"]
    assert missing_tests(package, tmp_path) == wanted
    (tmp_path / "test_leads.py").touch()
    assert missing_tests(package, tmp_path) == ["test_main.py", "scan/test_scans.py"]


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


def test_the_table_of_floors_names_every_room_once():
    names = " ".join(FLOORS.values()).split()
    assert len(names) == len(set(names)) == len(FLOOR)
    assert set(names) == {room_of(file, PACKAGE) for file in modules(PACKAGE)}


if __name__ == "__main__":
    print(house(PACKAGE))
