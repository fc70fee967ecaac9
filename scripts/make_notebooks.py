"""Write the output-free notebook beside each page with code; with ``--run``, run notebooks too.

usage: make_notebooks.py [--to FOLDER] [--run [PAGE.md ...]] [--work]

The notebooks in book/ are made, not written: nobody works there. ``--work`` puts copies into work/
for a reader to write in, and never touches one that is there. What somebody has written into a
notebook of book/ all the same is moved to work/ before the notebook is made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from book_config import ROOT, Book, read_book
from myst_to_notebook import Converter
from nbclient import NotebookClient

INSTALL = """\
# On Colab this installs the book's package. Where it is installed, it does nothing.
import importlib.util

if importlib.util.find_spec("ecgbook") is None:
    %pip install -q "git+{repository}\""""


def make_notebook(converter: Converter, page: str) -> nbformat.NotebookNode:
    """Make the notebook of a page: same source, same notebook, byte for byte.

    Parameters
    ----------
    converter : Converter
        The converter of the whole book.
    page : str
        The page's name, such as ``"book/ch01_ecg_is_a_tensor"``.
    """
    book = converter.book
    head = (
        f"*This is the notebook of [a page of the ECG book]({book.site}/{page}.html), made from "
        f"`{page}.md`: edit that file. For teaching, not for diagnosis.*"
    )
    cells = [
        nbformat.v4.new_markdown_cell(head),
        nbformat.v4.new_code_cell(INSTALL.format(repository=book.repository)),
        *converter.cells(page),
    ]
    # An id follows from a cell's text, so that an edit changes the ids of the edited cells only.
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    metadata = {
        "colab": {"provenance": []},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    notebook.metadata["made"] = content_hash(notebook)
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return notebook


def content_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash what a reader would change in a notebook: text, code and outputs.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    """
    parts = [[c.cell_type, c.source, c.get("outputs", [])] for c in notebook.cells]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def is_as_made(path: Path) -> bool:
    """Say whether nobody has written into a notebook since it was made.

    Parameters
    ----------
    path : Path
    """
    try:
        notebook = nbformat.read(path, 4)
    except Exception:  # whatever it is, it is none of ours
        return False
    return notebook.metadata.get("made") == content_hash(notebook)


def rescue(path: Path, work: Path) -> Path:
    """Move what somebody has written into a notebook to the folder of their own work.

    Parameters
    ----------
    path : Path
    work : Path

    Returns
    -------
    Path
        A new file: what is there is never overwritten.
    """
    work.mkdir(parents=True, exist_ok=True)
    number = 0
    while (target := work / f"{path.stem}{f'-{number}' if number else ''}{path.suffix}").exists():
        number += 1
    shutil.move(path, target)
    print(f"{path}: somebody's work found; it is now {target}")
    return target


def write_notebooks(book: Book, folder: Path, work: Path | None = None) -> list[Path]:
    """Write the notebooks of all pages with code to `folder` and return their paths.

    Parameters
    ----------
    book : Book
        The book.
    folder : Path
        Where the notebooks go; made if absent.
    work : Path, optional
        Where what somebody has written into one of them is moved; work/ beside the book's folder
        by default.
    """
    converter, paths = Converter(book), []
    folder.mkdir(parents=True, exist_ok=True)
    for page in book.notebook_pages():
        path = folder / f"{Path(page).name}.ipynb"
        text = nbformat.writes(make_notebook(converter, page)) + "\n"
        if path.is_file() and path.read_text("utf8") != text and not is_as_made(path):
            rescue(path, work or book.root / "work")
        if not path.is_file() or path.read_text("utf8") != text:
            path.write_text(text, "utf8")
        paths.append(path)
    return paths


def write_copies(book: Book, work: Path) -> list[Path]:
    """Put a copy of each notebook where a reader may write; leave those that are there.

    Parameters
    ----------
    book : Book
    work : Path

    Returns
    -------
    list of Path
        The new ones.
    """
    converter, new = Converter(book), []
    work.mkdir(parents=True, exist_ok=True)
    for page in book.notebook_pages():
        path = work / f"{Path(page).name}.ipynb"
        if not path.exists():
            path.write_text(nbformat.writes(make_notebook(converter, page)) + "\n", "utf8")
            new.append(path)
    return new


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel from an empty folder and return it with its outputs.

    The cells that wait for the reader's answer (tagged ``skip-execution``) run too, and are
    allowed to raise: whether they do is for the caller to look at.

    Parameters
    ----------
    path : Path
        The notebook.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If any other cell raises.
    """
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if "skip-execution" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["raises-exception"]
    # The book's folder is on the path, as an installed package would be; the folder is empty.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, kernel_name="python3")
        return client.execute(cwd=folder, env={**os.environ, "PYTHONPATH": path})


def main(arguments: list[str]) -> None:
    """Write all notebooks, and run those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "book", help="where they are written")
    parser.add_argument("--run", nargs="*", type=Path, help="run these pages (none named: all)")
    parser.add_argument("--work", action="store_true", help="put copies to write in into work/")
    options = parser.parse_args(arguments)
    book = read_book()
    if book.missing:
        print(f"Pages of _toc.yml without a file, left out: {', '.join(book.missing)}")
    if options.work:
        new = write_copies(book, ROOT / "work")
        print(f"{len(new)} notebooks put into {ROOT / 'work'}, which is yours; the rest was there")
        return
    paths = write_notebooks(book, options.to)
    print(f"{len(paths)} notebooks in {options.to}")
    if options.run is None:
        return
    stems = {page.stem for page in options.run}
    if unknown := stems - {path.stem for path in paths}:
        sys.exit(f"no page with code cells in _toc.yml: {', '.join(sorted(unknown))}")
    for path in paths:
        if not stems or path.stem in stems:
            start = time.perf_counter()
            run_notebook(path)
            print(f"{time.perf_counter() - start:6.1f} s  {path.name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
