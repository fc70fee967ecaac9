"""The mistakes made on purpose: their table is not stale, and one that survives is reported."""

from collections import Counter

import mutate
import pytest
from mutate import Mutant

MUTANTS = mutate.read(mutate.TABLE.read_text("utf-8"))
LEAST = {
    "training/loop.py": 14,
    "training/checkpoints.py": 5,
    "training/evaluation.py": 4,
    "training/bundles.py": 2,
    "records/": 8,
    "explain/": 9,
    "attacks/": 8,
    "augment.py": 7,
    "scan/": 7,
    "data/": 4,
}


def test_every_mistake_can_still_be_made_and_has_its_tests():
    assert mutate.stale(mutate.ROOT, MUTANTS) == []


@pytest.mark.parametrize(("where", "least"), LEAST.items())
def test_there_are_many_in_every_part(where, least):
    files = Counter(mutant.file for mutant in MUTANTS)
    assert sum(n for file, n in files.items() if file.startswith(where)) >= least


def test_a_table_is_read_as_its_head_says():
    table = "# a comment\n= a.py\n@ test_a.py test_b.py::test_c\n\n* one\n-  x = 1\n+  x = 2\n"
    table += "* two\n- y\n+ z\n= b.py\n@ test_b.py\n* three\n- q\n+ r\n"
    tests = ("test_a.py", "test_b.py::test_c")
    assert mutate.read(table) == [
        Mutant("a.py", tests, "one", " x = 1", " x = 2"),
        Mutant("a.py", tests, "two", "y", "z"),
        Mutant("b.py", ("test_b.py",), "three", "q", "r"),
    ]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("= a.py\n@ test_a.py\n* one\nx\n", "line 4 'x' found"),
        ("= a.py\n@ test_a.py\n- x\n+ y\n", "line 4: no line with a [*] before it"),
        ("= a.py\n* one\n- x\n+ y\n", "line 4: no line with a @ before it"),
        ("= a.py\n@ t.py\n* one\n- x\n* two\n- y\n+ z\n", "line 5: one without a [+] before it"),
        ("= a.py\n@ t.py\n* one\n- x\n", "line the last: one without a [+] before it"),
    ],
)
def test_a_table_with_a_gap_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        mutate.read(table)


@pytest.fixture
def tree(tmp_path):
    """Write a small package with a test that notices one mistake of two."""
    for name, text in {
        "ecgbook/__init__.py": "def larger(a, b):\n    return b if a < b else a\n",
        "tests/test_all.py": "from ecgbook import larger\n\n\ndef test_larger():\n"
        "    assert larger(1, 2) == 2\n\n\ndef test_wrong():\n    assert larger(1, 2) == 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


WEAK = ("test_all.py::test_larger",)
NOTICED = Mutant("__init__.py", WEAK, "the smaller", "a < b", "b < a")
UNNOTICED = Mutant("__init__.py", WEAK, "always the second", "b if a < b else a", "b")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mistake_that_no_test_notices_is_reported(tree, capsys, jobs):
    before = {path: path.read_bytes() for path in tree.rglob("*.py")}
    assert mutate.survivors(tree, [UNNOTICED, NOTICED], jobs) == ["always the second"]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "the tests pass without any change"
    assert sorted(line.split()[0] for line in lines) == ["SURVIVED", "killed"]
    assert {path: path.read_bytes() for path in tree.rglob("*.py")} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old": "a > b"}, "'a > b' found 0 times in __init__.py, 1 wanted"),
        ({"old": "b"}, "'b' found 3 times"),
        ({"file": "gone.py"}, "found 0 times in gone.py"),
        ({"new": "a < b"}, "a change that changes nothing"),
        ({"tests": ("test_all.py::test_gone",)}, "no test test_all.py::test_gone"),
        ({"tests": ("test_all.py::test_large",)}, "no test test_all.py::test_large"),
        ({"tests": ("test_gone.py",)}, "no test test_gone.py"),
        ({"tests": ()}, "no tests"),
        ({"tests": ("test_all.py::test_wrong",)}, "failed without any change"),
        ({"new": "a <"}, "pytest could not run"),
    ],
)
def test_a_table_that_tests_nothing_is_an_error(tree, change, said):
    with pytest.raises(ValueError, match=said):
        mutate.survivors(tree, [NOTICED._replace(**change)])


def test_a_name_twice_is_an_error(tree):
    with pytest.raises(ValueError, match="the smaller: a name twice"):
        mutate.survivors(tree, [NOTICED, NOTICED])


def test_the_status_says_whether_all_were_noticed(tree, monkeypatch, capsys):
    monkeypatch.setattr(mutate, "ROOT", tree)
    monkeypatch.setattr(mutate, "TABLE", tree / "mutants.txt")
    both = [NOTICED, UNNOTICED]
    rows = [f"= {m.file}\n@ {m.tests[0]}\n* {m.name}\n- {m.old}\n+ {m.new}\n" for m in both]
    (tree / "mutants.txt").write_text("".join(rows))
    assert mutate.main([]) == 1
    assert "killed 1 of 2; survivors: always the second" in capsys.readouterr().out
    assert mutate.main(["--only", "smaller"]) == 0
    assert "killed 1 of 1; survivors: none" in capsys.readouterr().out
    (tree / "ecgbook" / "__init__.py").write_text("")
    assert mutate.main([]) == 2
    assert "stale" in capsys.readouterr().err
