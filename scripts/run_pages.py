"""Run the pages of the book, each once: what comes out serves the site and the tests.

What runs is the notebook that a reader downloads, in a fresh kernel and an empty folder, with the
cells that wait for an answer, which have to fail. Its outputs go into the cache from which the
site takes them; the notebook itself is kept in ``_build/executed``, where the tests look at it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nbformat
from book_config import Book
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from make_notebooks import run_notebook
from myst_nb.core.read import read_myst_markdown_notebook
from nbclient.exceptions import CellExecutionError

WAITING = "skip-execution"
"""The tag of a cell that waits for the reader's answer: run in the notebook, not on the page."""


def executed_file(build: Path, page: str) -> Path:
    """Return where the notebook of a page lies after it has run.

    Parameters
    ----------
    build : Path
        The folder ``_build``.
    page : str
        The page's name.
    """
    return build / "executed" / f"{Path(page).name}.ipynb"


def stored_fingerprint(build: Path, page: str) -> str | None:
    """Return the fingerprint with which a page last ran; None if it did not.

    Parameters
    ----------
    build : Path
    page : str
    """
    file = executed_file(build, page)
    if not file.is_file():
        return None
    return json.loads(file.read_text("utf8"))["metadata"].get("fingerprint")


def run_page(book: Book, build: Path, page: str, fingerprint: str) -> float:
    """Run the notebook of a page, keep it, and give its outputs to the page.

    Parameters
    ----------
    book : Book
    build : Path
    page : str
    fingerprint : str
        Of all that the outputs depend on; kept with them.

    Returns
    -------
    float
        Seconds that it took.

    Raises
    ------
    ValueError
        If page and notebook do not hold the same code.
    nbclient.exceptions.CellExecutionError
        If a cell raises that does not wait for an answer.
    """
    start = time.perf_counter()
    notebook = run_notebook(book.root / f"{page}.ipynb")
    seconds = time.perf_counter() - start
    source = book.source(page)
    shown = read_myst_markdown_notebook(book.fill(source.read_text("utf8")), path=source)
    pair = [[c for c in each.cells if c.cell_type == "code"] for each in (shown, notebook)]
    of_page, of_notebook = pair[0], pair[1][1:]  # the first cell of a notebook installs
    if [c.source for c in of_page] != [c.source for c in of_notebook]:
        raise ValueError(f"{page}: other code in the notebook found, run `make notebooks`")
    for cell, ran in zip(of_page, of_notebook, strict=True):
        if WAITING not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    bundle = CacheBundleIn(shown, str(source), data={"execution_seconds": seconds})
    cache = get_cache(build / ".jupyter_cache")
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    notebook.metadata["fingerprint"] = fingerprint
    file = executed_file(build, page)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(nbformat.writes(notebook) + "\n", "utf8")
    return seconds


def run_pages(book: Book, build: Path, pages: dict[str, str]) -> None:
    """Run pages one after the other, so that their run times mean something.

    Parameters
    ----------
    book : Book
    build : Path
    pages : dict of str to str
        The fingerprint of each.

    Raises
    ------
    SystemExit
        If a page fails, with the cell and what it raised.
    """
    for page, fingerprint in pages.items():
        try:
            seconds = run_page(book, build, page, fingerprint)
        except (CellExecutionError, ValueError) as error:
            sys.exit(f"{page} failed:\n{error}")
        print(f"{seconds:8.1f} s  {page}", flush=True)
