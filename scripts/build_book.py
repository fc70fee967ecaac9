"""Build the book: run what is stale, write the HTML, report where it is and what ran how long.

Jupyter Book runs a page again when its own code changes, but not when the package, the results
that the page reads or the installed requirements change. This script keeps a fingerprint of all
that a page's outputs depend on, and runs every page whose fingerprint changed (`run_pages`).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from book_config import ROOT, Book, read_book, read_cells
from jupyter_cache import get_cache
from jupyter_cache.cache.main import JupyterCacheBase
from run_pages import executed_file, run_pages, stored_fingerprint

SHARED = ("ecgbook/**/*", "experiments/results/*.json", "weights/*", "requirements.txt")
"""Files, besides a page itself, on which the outputs of every page depend."""


def data_identity(folder: str | None) -> str:
    """Identify the real ECGs in use: "unset", or the hash of the folder's manifest.

    Parameters
    ----------
    folder : str or None
        The value of ECGBOOK_DATA.
    """
    if not folder:
        return "unset"
    manifest = Path(folder, "manifest.csv")
    if not manifest.is_file():
        sys.exit(f"ECGBOOK_DATA={folder} has no manifest.csv: unset it, or give the data's folder")
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def make_absolute(environment: MutableMapping[str, str]) -> None:
    """Make ECGBOOK_DATA absolute: the pages run in another folder than this script.

    Parameters
    ----------
    environment : mutable mapping
        Such as ``os.environ``.
    """
    if folder := environment.get("ECGBOOK_DATA"):
        environment["ECGBOOK_DATA"] = str(Path(folder).expanduser().resolve())


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def fingerprints(book: Book, data: str | None) -> dict[str, str]:
    """Fingerprint everything that the outputs of each page with code depend on.

    Parameters
    ----------
    book : Book
        The book whose files are read.
    data : str or None
        The value of ECGBOOK_DATA.

    Returns
    -------
    dict of str to str
        For each page: a hash over its code cells with their tags, the package, the experiment
        results, the weights, the requirements, the Python version and the real data in use.
    """
    found = {
        path.relative_to(book.root).as_posix(): path
        for pattern in SHARED
        for path in book.root.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    shared = [sys.version.encode(), data_identity(data).encode()]
    for name in sorted(found):
        shared += [name.encode(), found[name].read_bytes()]
    pages = {}
    for page in book.notebook_pages():
        cells = [c for c in read_cells(book.source(page)).cells if c.cell_type == "code"]
        own = json.dumps([[c.source, c.metadata] for c in cells], sort_keys=True)
        pages[page] = _digest([*shared, own.encode()])
    return pages


def drop_stale(build: Path, new: dict[str, str], root: Path) -> list[str]:
    """Forget the cached outputs and the parsed form of every page whose fingerprint changed.

    Parameters
    ----------
    build : Path
        The folder ``_build``.
    new : dict of str to str
        The fingerprints now.
    root : Path
        The book's folder.

    Returns
    -------
    list of str
        The pages that have to run.
    """
    stale = [page for page, digest in new.items() if stored_fingerprint(build, page) != digest]
    cache: JupyterCacheBase = get_cache(build / ".jupyter_cache")
    uris = {str(root / f"{page}.md") for page in stale}
    for record in cache.list_cache_records():
        if record.uri in uris or record.uri not in {str(root / f"{page}.md") for page in new}:
            cache.remove_cache(record.pk)
    for page in stale:
        (build / ".doctrees" / f"{page}.doctree").unlink(missing_ok=True)
        executed_file(build, page).unlink(missing_ok=True)
    return stale


def run_times(build: Path, root: Path) -> dict[str, float]:
    """Return the measured seconds that each page took to execute, from the execution cache."""
    records = get_cache(build / ".jupyter_cache").list_cache_records()
    return {
        Path(r.uri).relative_to(root).with_suffix("").as_posix(): r.data["execution_seconds"]
        for r in records
    }


def main() -> int:
    """Build the book in `ROOT` and return the exit code of the build."""
    make_absolute(os.environ)
    book, build, data = read_book(), ROOT / "_build", os.environ.get("ECGBOOK_DATA")
    if book.missing:
        sys.exit(f"_toc.yml names pages that are not there: {', '.join(book.missing)}")
    print(f"Real ECGs: {data or 'none (ECGBOOK_DATA is not set)'}", flush=True)
    subprocess.run([sys.executable, ROOT / "scripts" / "make_notebooks.py"], check=True)

    new = fingerprints(book, data)
    stale = drop_stale(build, new, ROOT)
    print(f"To run: {', '.join(stale) or 'nothing, all outputs are up to date'}", flush=True)
    # The environment's own kernel, whatever kernels the user has elsewhere.
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    run_pages(book, build, {page: new[page] for page in stale})

    result = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n", "--keep-going"],
        cwd=ROOT,
    )
    if result.returncode:
        return result.returncode
    print("\nMeasured run times")
    measured = run_times(build, ROOT)
    times = {page: measured[page] for page in book.notebook_pages()}
    for page, seconds in times.items():
        print(f"{seconds:8.1f} s  {page}")
    print(f"{sum(times.values()):8.1f} s  in all\n\n{build / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
