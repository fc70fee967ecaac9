"""Fetch the book's real ECGs from PhysioNet: parallel, verified, resumable.

PhysioNet publishes a ``SHA256SUMS.txt`` with every project. It says where a record's files are and
what they must hash to, so nothing unverified ever gets a record's name.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from ..storage import book_file, folder_lock, whole_file
from .tables import read_table

BASE_URLS: tuple[str, ...] = (
    "https://physionet.org/files/",
    "https://physionet-open.s3.amazonaws.com/",
)
"""Where PhysioNet's open projects are, in the order in which they are tried."""

_LEADS = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")
# Folder of the list: where its records are inside the project, and the files of a record.
_LAYOUT: dict[str, tuple[str, tuple[str, ...]]] = {
    "challenge2021": ("training/", ("hea", "mat")),
    "ptbxl100": ("records100/", ("hea", "dat")),
    "ptbxl500": ("records500/", ("hea", "dat")),
    "ludb": ("data/", ("hea", "dat", *_LEADS)),
}
_NAME = re.compile(r"[\w-]+", re.ASCII)
_PROJECT = re.compile(r"[\w-]+/[0-9]+(\.[0-9]+)*", re.ASCII)
_PATH = re.compile(r"[\w./-]+", re.ASCII)
_SUM = re.compile(r"([0-9a-f]{64}) [ *]?(.+)")
_SOURCE = ("source_repo", "source_path", "source_commit", "note")  # last columns of the manifest
_PAUSES_S = (0.5, 2.0)  # between the rounds of tries of a file
_LONGEST_PAUSE_S = 60.0  # where a server says how long to wait


class DownloadError(RuntimeError):
    """Files that could not be fetched, and why.

    Attributes
    ----------
    failed : dict of str to str
        Reason by file, such as ``{"ludb/1.dat": "https://…: 404 …"}``.
    """

    def __init__(self, failed: dict[str, str], total: int):
        self.failed = dict(failed)
        shown = [f"  {name}: {reason}" for name, reason in list(failed.items())[:10]]
        if len(failed) > len(shown):
            shown.append(f"  … and {len(failed) - len(shown)} more (.failed holds all)")
        super().__init__(
            "\n".join(
                [
                    f"{len(failed)} of {total} files failed",
                    *shown,
                    "Run the same download again to resume: whole files are kept.",
                ]
            )
        )


@dataclass(frozen=True)
class _File:
    """One file to fetch: `name` inside the folder, `path` inside the project, published hash."""

    name: str
    project: str
    path: str
    sha256: str


def read_list(path: str | Path) -> list[dict[str, str]]:
    """Read a list of records to fetch.

    Parameters
    ----------
    path : str or Path
        CSV with a row a record: ``record``, ``folder``, ``project`` (name/version at PhysioNet)
        and any facts for the manifest. UTF-8, separated by commas, or all by semicolons.

    Returns
    -------
    list of dict
        The rows; all values are strings, without blanks around them.

    Raises
    ------
    ValueError
        If the file is empty or not UTF-8, a column is missing, a row is too long, a name is not
        plain, a folder is unknown or a record comes twice.
    """
    rows = read_table(path, ("record", "folder", "project"))
    _check_rows(rows, str(path))
    return rows


def download(
    folder: str | Path,
    records: Sequence[dict[str, str]] | None = None,
    *,
    jobs: int = 8,
    base_urls: Sequence[str] = BASE_URLS,
    progress: bool = True,
) -> Path:
    """Fetch records from PhysioNet and write a manifest of those that are whole.

    Files that are there with the published hash are kept without a request, so that a broken
    download resumes; a file that differs is replaced. A second download into the folder is
    refused as long as the first runs.

    Parameters
    ----------
    folder : str or Path
        Where to put ``challenge2021/``, ``ptbxl100/``, ``ptbxl500/``, ``ludb/`` and
        ``manifest.csv``. Its ``.cache`` keeps PhysioNet's lists of hashes.
    records : sequence of dict, optional
        Rows as from `read_list`. None: the book's own list.
    jobs : int
        Parallel connections, 1 to 32.
    base_urls : sequence of str
        Servers to try, in this order.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The manifest: a row for every record of the list, replaced as a whole at the end.

    Raises
    ------
    DownloadError
        If a file could not be fetched, is not published, or does not match its hash. The
        manifest is written all the same, with the records that are whole; only without a
        project's list of hashes is nothing touched.
    OSError
        If another download into the folder is running, or the manifest or a list of hashes could
        not be written.
    ValueError
        If the list or an argument is not valid.
    """
    folder = Path(folder)
    rows = read_list(book_file("experiments/records.csv")) if records is None else list(records)
    _check_rows(rows, "records")
    if not 1 <= jobs <= 32:
        raise ValueError(f"jobs {jobs} found, 1 to 32 wanted")
    if isinstance(base_urls, str) or not base_urls:
        raise ValueError(f"base_urls {base_urls!r} found, a sequence of at least one URL wanted")

    with folder_lock(folder), _quiet_pooch():
        files, failed = _resolve(rows, folder / ".cache", base_urls)
        total = len(files) + len(failed)
        todo = [file for file in files if not _is_whole(folder / file.name, file.sha256)]
        bar = tqdm(
            total=len(files), initial=len(files) - len(todo), unit="file", disable=not progress
        )
        pool = ThreadPoolExecutor(jobs)
        try:
            running = {pool.submit(_fetch, file, folder, base_urls): file for file in todo}
            for done in as_completed(running):
                if reason := done.result():
                    failed[running[done].name] = reason
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
        shutil.rmtree(folder / ".cache" / "incoming", ignore_errors=True)
        manifest = _write_manifest(folder, rows, files, failed)
    if failed:
        raise DownloadError(failed, total)
    return manifest


def _check_rows(rows: Sequence[dict[str, str]], where: str) -> None:
    if not rows:
        raise ValueError(f"{where}: no records found, at least one wanted")
    seen = set()
    for row in rows:
        record, folder, project = (row.get(key) or "" for key in ("record", "folder", "project"))
        if not _NAME.fullmatch(record):
            raise ValueError(f"{where}: record name {record!r} found, letters, digits, _ - wanted")
        if folder not in _LAYOUT:
            raise ValueError(f"{where}: folder {folder!r} found, one of {sorted(_LAYOUT)} wanted")
        if not _PROJECT.fullmatch(project):
            raise ValueError(f"{where}: project {project!r} found, 'name/1.0.0' wanted")
        if (folder, record) in seen:
            raise ValueError(f"{where}: record {folder}/{record} found twice, once wanted")
        seen.add((folder, record))


def _file_names(row: dict[str, str]) -> list[str]:
    """Return the names of a record's files inside the folder, such as ``ludb/1.hea``."""
    return [f"{row['folder']}/{row['record']}.{ext}" for ext in _LAYOUT[row["folder"]][1]]


def _resolve(
    rows: Sequence[dict[str, str]], cache: Path, base_urls: Sequence[str]
) -> tuple[list[_File], dict[str, str]]:
    """Find path and hash of every file; return them, and the reason for each without."""
    files: list[_File] = []
    failed: dict[str, str] = {}
    for project in sorted({row["project"] for row in rows}):
        names = [name for row in rows if row["project"] == project for name in _file_names(row)]
        sums = cache / f"{project.replace('/', '-')}-SHA256SUMS.txt"
        published = _published(sums, project, {Path(name).name for name in names}, base_urls)
        unknown = {}
        for name in names:
            prefix, base = _LAYOUT[name.split("/")[0]][0], Path(name).name
            found = [entry for entry in published.get(base, ()) if entry[0].startswith(prefix)]
            if len(found) == 1:
                files.append(_File(name, project, *found[0]))
            else:
                where = f"{prefix}…/{base} of {project}"
                unknown[name] = f"{len(found)} published hashes of {where} found, 1 wanted"
        if unknown:
            failed |= unknown
            sums.unlink()  # perhaps an old or a cut copy: the next run gets a fresh one
    return files, failed


def _published(
    sums: Path, project: str, wanted: set[str], base_urls: Sequence[str]
) -> dict[str, list[tuple[str, str]]]:
    """Return the (path, sha256) published under each of the `wanted` file names."""
    if not sums.is_file():
        urls = [f"{base.rstrip('/')}/{project}/SHA256SUMS.txt" for base in base_urls]
        reason = _get(urls, None, sums, sums.parent, check=lambda path: _parse_sums(path, wanted))
        if reason:
            raise DownloadError({f"{project}/SHA256SUMS.txt": reason}, 1)
    try:
        return _parse_sums(sums, wanted)
    except ValueError as error:
        sums.unlink()
        raise DownloadError({str(sums): f"{error} (deleted)"}, 1) from error


def _parse_sums(path: Path, wanted: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Read ``<sha256> <path>`` lines; ValueError if it is something else or a path is unsafe."""
    published: dict[str, list[tuple[str, str]]] = {}
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if not text.endswith("\n"):
        raise ValueError("a last line without its end found, a whole list of hashes wanted")
    for number, line in enumerate(text.splitlines(), start=1):
        match = _SUM.fullmatch(line)
        if not match:
            raise ValueError(f"line {number} {line[:40]!r} found, '<sha256> <path>' wanted")
        sha256, file = match.groups()
        name = file.rpartition("/")[2]
        if name in wanted:
            if not _PATH.fullmatch(file) or file.startswith("/") or ".." in file.split("/"):
                raise ValueError(f"unsafe path {file!r} found in line {number}")
            published.setdefault(name, []).append((file, sha256))
    return published


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and pooch.file_hash(path) == sha256
    except OSError:  # it cannot be read: perhaps it can be replaced
        return False


def _fetch(file: _File, folder: Path, base_urls: Sequence[str]) -> str | None:
    urls = [f"{base.rstrip('/')}/{file.project}/{file.path}" for base in base_urls]
    try:
        return _get(urls, file.sha256, folder / file.name, folder / ".cache")
    except OSError as error:  # of the disk: other files may still have a place
        return f"not written: {error}"


def _get(
    urls: Sequence[str],
    sha256: str | None,
    target: Path,
    cache: Path,
    check: Callable[[Path], object] | None = None,
) -> str | None:
    """Fetch a file from the first URL that has it, then move it to `target` in one step.

    Returns None, or the reason why no URL gave it. Lost connections and servers that are busy
    are tried again after the pauses of `_PAUSES_S`, or longer where a server says so; a missing
    or wrong file is not.
    """
    incoming = cache / "incoming"
    for place in (incoming, target.parent):
        place.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    left = list(urls)
    asked_s = 0.0
    for pause_s in (0.0, *_PAUSES_S):
        time.sleep(max(pause_s, asked_s) if left else 0)
        asked_s = 0.0
        for url in list(left):
            try:
                got = Path(
                    pooch.retrieve(
                        url,
                        known_hash=sha256,
                        fname=f"{target.parent.name}-{target.name}",
                        path=incoming,
                        downloader=pooch.HTTPDownloader(chunk_size=65536),
                    )
                )
                if check:
                    check(got)
            except requests.RequestException as error:
                reasons[url] = str(error)
                answer = error.response
                if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                    left.remove(url)
                else:
                    asked_s = max(asked_s, _wanted_pause_s(answer))
            except ValueError as error:  # of pooch: the hash differs; or of check
                (incoming / f"{target.parent.name}-{target.name}").unlink(missing_ok=True)
                reasons[url] = "not the published file (SHA-256 differs)" if sha256 else str(error)
                left.remove(url)
            else:
                os.replace(got, target)
                return None
    return "; ".join(f"{url}: {reason}" for url, reason in reasons.items())


def _wanted_pause_s(answer: requests.Response | None) -> float:
    """Return how long a busy server asks to be left alone, within reason."""
    text = "" if answer is None else answer.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else 0.0


def _write_manifest(
    folder: Path, rows: Sequence[dict[str, str]], files: Sequence[_File], failed: dict[str, str]
) -> Path:
    """Write manifest.csv in one step, with the records of which no file failed."""
    sources = {file.name: (file.project, file.path.rpartition(".")[0]) for file in files}
    whole = []
    for row in rows:
        names = _file_names(row)
        if failed.keys().isdisjoint(names):
            project, path = sources[names[0]]
            whole.append(row | {"source_repo": f"physionet.org/{project}", "source_path": path})
    facts = [c for c in rows[0] if c not in ("record", "folder", "database", "project", *_SOURCE)]
    columns = ["record", "folder", "database", *facts, *_SOURCE]
    manifest = folder / "manifest.csv"
    with whole_file(manifest) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(whole)
    return manifest


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch from a line a file, which would break up the bar."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)
