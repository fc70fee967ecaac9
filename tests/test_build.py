"""`make book` executes a page again exactly when something that its outputs need has changed."""

import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from book_config import read_book
from build_book import data_identity, drop_stale, fingerprints, make_absolute, run_times
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from pages import HEADER
from run_pages import executed_file

ROOT = Path(__file__).resolve().parents[1]
PAGE = HEADER + "# {title}\n\nProse.\n\n```{{code-cell}} ipython3\n{code}\n```\n"


@pytest.fixture
def book(tmp_path):
    """A small copy of the book: the real package and configuration, two pages with code."""
    root = tmp_path / "book of two pages"
    shutil.copytree(ROOT / "ecgbook", root / "ecgbook")
    for name in ("_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, root / name)
    for folder in ("book", "experiments/results", "weights"):
        (root / folder).mkdir(parents=True)
    (root / "experiments/results/one.json").write_text("{}")
    (root / "weights/tutorial.safetensors").write_bytes(b"weights")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- numbered: true\n  chapters:\n"
        "  - file: book/one\n  - file: book/two\n"
    )
    (root / "book/intro.md").write_text("# Intro\n")
    (root / "book/one.md").write_text(PAGE.format(title="One", code="1 + 1"))
    (root / "book/two.md").write_text(PAGE.format(title="Two", code="2 + 2"))
    return read_book(root)


def changed(book, change, data=(None, None)) -> set[str]:
    before = fingerprints(book, data[0])
    change(book.root)
    after = fingerprints(book, data[1])
    assert set(before) == set(after) == {"book/one", "book/two"}
    return {page for page in after if after[page] != before[page]}


def append(name, text):
    return lambda root: (root / name).write_text((root / name).read_text("utf8") + text)


BOTH = {"book/one", "book/two"}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        pytest.param(append("ecgbook/leads.py", "\n"), BOTH, id="package edited"),
        pytest.param(lambda r: (r / "ecgbook/new.py").touch(), BOTH, id="package file added"),
        pytest.param(lambda r: (r / "ecgbook/leads.py").unlink(), BOTH, id="package file removed"),
        pytest.param(
            lambda r: (r / "ecgbook/leads.py").rename(r / "ecgbook/leads2.py"), BOTH, id="renamed"
        ),
        pytest.param(append("experiments/results/one.json", " "), BOTH, id="result edited"),
        pytest.param(
            lambda r: (r / "experiments/results/two.json").write_text("{}"), BOTH, id="new result"
        ),
        pytest.param(
            lambda r: (r / "weights/tutorial.safetensors").write_bytes(b"other"), BOTH, id="weights"
        ),
        pytest.param(append("requirements.txt", "\nextra==1.0\n"), BOTH, id="requirements"),
        pytest.param(
            append("book/one.md", "\n```{code-cell} ipython3\n3\n```\n"), {"book/one"}, id="cell"
        ),
        pytest.param(
            lambda r: (r / "book/one.md").write_text(
                (r / "book/one.md").read_text().replace("1 + 1", ":tags: [skip-execution]\n1 + 1")
            ),
            {"book/one"},
            id="tag of a cell",
        ),
        pytest.param(append("book/one.md", "\nMore prose.\n"), set(), id="prose only"),
        pytest.param(lambda r: (r / "README.md").write_text("x"), set(), id="file of no concern"),
        pytest.param(lambda r: None, set(), id="nothing"),
    ],
)
def test_a_page_is_stale_exactly_when_an_input_changed(book, change, stale):
    assert changed(book, change) == stale


def test_real_data_make_every_page_stale_when_set_or_changed(book, tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    manifest = folder / "manifest.csv"
    manifest.write_text("record\na\n")
    one = str(folder)
    assert changed(book, lambda r: None, data=(None, one)) == BOTH
    assert changed(book, lambda r: None, data=(one, one)) == set()
    assert changed(book, lambda r: manifest.write_text("record\nb\n"), data=(one, one)) == BOTH
    # The same records in another place are the same data.
    other = shutil.copytree(folder, tmp_path / "moved")
    assert changed(book, lambda r: None, data=(one, str(other))) == set()


def test_a_data_folder_without_manifest_stops_the_build(tmp_path):
    assert data_identity(None) == data_identity("") == "unset"
    with pytest.raises(SystemExit, match=r"no manifest\.csv"):
        data_identity(str(tmp_path))


def cached(build, root, page, source, seconds):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3"}
    bundle = CacheBundleIn(notebook, str(root / f"{page}.md"), data={"execution_seconds": seconds})
    get_cache(build / ".jupyter_cache").cache_notebook_bundle(bundle, check_validity=False)
    doctree = build / ".doctrees" / f"{page}.doctree"
    doctree.parent.mkdir(parents=True, exist_ok=True)
    doctree.touch()
    return doctree


def ran(build, page, fingerprint):
    file = executed_file(build, page)
    file.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(metadata={"fingerprint": fingerprint})
    file.write_text(nbformat.writes(notebook))
    return file


def test_dropping_forgets_outputs_of_stale_and_removed_pages_only(tmp_path):
    build = tmp_path / "_build"
    kept = cached(build, tmp_path, "book/kept", "1", 1.5), ran(build, "book/kept", "a")
    stale = cached(build, tmp_path, "book/stale", "2", 2.5), ran(build, "book/stale", "b")
    cached(build, tmp_path, "book/removed", "3", 3.5)
    new = {"book/kept": "a", "book/stale": "B", "book/new": "d"}
    assert drop_stale(build, new, tmp_path) == ["book/stale", "book/new"]
    assert run_times(build, tmp_path) == {"book/kept": 1.5}
    assert all(file.exists() for file in kept) and not any(file.exists() for file in stale)


def test_without_an_earlier_build_everything_is_dropped(tmp_path):
    build = tmp_path / "_build"
    cached(build, tmp_path, "book/one", "1", 1.0)
    assert drop_stale(build, {"book/one": "a"}, tmp_path) == ["book/one"]
    assert run_times(build, tmp_path) == {}


def make(*arguments) -> str:
    command = ["make", "-C", str(ROOT), "--no-print-directory", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_make_alone_lists_every_target():
    listed = [line.split()[1] for line in make().splitlines() if line.startswith("make ")]
    phony = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith(".PHONY"))
    assert sorted(listed) == sorted(phony.split()[1:])
    assert {"setup", "book", "test", "lint", "notebooks", "lab", "serve", "clean"} <= set(listed)


def test_book_and_test_set_themselves_up(tmp_path):
    for target in ("book", "test"):
        steps = make("-n", target, f"VENV={tmp_path / 'venv'}")
        positions = [
            steps.index(step)
            for step in ("-m venv", "-r requirements.txt", "--no-deps -e .", "ipykernel install")
        ]
        assert positions == sorted(positions), steps
        assert steps.count("pip install") == 2, "one for the pins, one for the package"


def test_ci_script_fails_when_a_step_fails():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert not any("|| true" in line or "; true" in line for line in lines)
    steps = [line for line in lines if line.startswith("make ")]
    assert steps == ["make clean", "make lint", "make book", "make test"]


def test_the_pages_get_an_absolute_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"ECGBOOK_DATA": "ecgdata", "HOME": "x"}
    make_absolute(environment)
    assert environment == {"ECGBOOK_DATA": str(tmp_path / "ecgdata"), "HOME": "x"}
    for unset in ({}, {"ECGBOOK_DATA": ""}):
        before = dict(unset)
        make_absolute(unset)
        assert unset == before
