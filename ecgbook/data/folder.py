"""A folder of real ECGs with its manifest: labels, groups, and a cache of prepared signals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pooch
from tqdm import tqdm

from ..labels import label_mask, multi_hot
from ..leads import LEADS
from ..records import RecordError, parse_codes, parse_header, read_lines, read_record
from ..signals import Preprocessing
from ..storage import folder_lock, whole_file
from .dataset import ECGDataset
from .groups import join_records, signal_hash
from .tables import read_table

CACHE_FORMAT = 3
COARSEST_TIME_NS = 2_000_000_000
"""The longest step in which a disk counts time (FAT): two edits within it may look like one."""
_COLUMNS = ("record", "folder", "database", "patient", "snomed", "same_ecg_as")


def data_folder(folder: str | Path | None = None) -> Path | None:
    """Return the folder of real ECGs: the one given, or the one that ``ECGBOOK_DATA`` names.

    Parameters
    ----------
    folder : str or Path, optional
        A folder with ``manifest.csv``; by default the environment's.

    Returns
    -------
    Path or None
        None if neither is given.

    Raises
    ------
    FileNotFoundError
        If the folder has no ``manifest.csv``.
    """
    folder = folder or os.environ.get("ECGBOOK_DATA")
    if not folder:
        return None
    path = Path(folder).expanduser()
    if not (path / "manifest.csv").is_file():
        raise FileNotFoundError(
            f"{path}: no manifest.csv found; fetch the records with "
            f"'python -m ecgbook download --folder {path}'"
        )
    return path


def read_manifest(folder: str | Path) -> list[dict[str, str]]:
    """Return the rows of a data folder's ``manifest.csv``.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of dict
        One a record; all values are strings.

    Raises
    ------
    ValueError
        If there is no row, or it cannot be read: see `ecgbook.data.tables.read_table`.
    """
    rows = read_table(Path(folder) / "manifest.csv", _COLUMNS)
    if not rows:
        raise ValueError(f"{folder}/manifest.csv: no records found, at least one row wanted")
    return rows


def from_folder(
    folder: str | Path,
    preprocessing: Preprocessing,
    policy: str = "extended",
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ECGDataset:
    """Prepare every record that a folder's manifest lists.

    The prepared signals are kept in a cache whose key is made of the files' bytes and the
    preprocessing, so a changed file or filter never meets an old signal. They are read from there
    as a memory map.

    The cache also keeps size, modification time and SHA-256 of every file. A file whose size and
    time are as they were is not read again; of any other the bytes decide, so that a touched or
    copied folder is hashed once and not prepared anew. The limit: new bytes under the old size
    and the old time to the nanosecond, as a copy that keeps times may bring them, are not
    noticed; ``touch`` the file then. A file that was younger than two seconds when it was read,
    or whose cache cannot be written, is read at the next start as well.

    Parameters
    ----------
    folder : str or Path
        Folder with ``manifest.csv`` and the records, as ``python -m ecgbook download`` makes it.
    preprocessing : Preprocessing
    policy : {"extended", "official", "stated"}
        See `ecgbook.labels.multi_hot` and `ecgbook.labels.label_mask`.
    cache_dir : str or Path, optional
        Where prepared signals are kept; by default the user's cache folder.
    progress : bool
        Show a bar while signals are prepared.

    Returns
    -------
    ECGDataset

    Raises
    ------
    FileNotFoundError
        If the manifest or a file it lists is not there.
    RecordError
        If a record is damaged, or the signal file of its header does not bear the record's name.
    ValueError
        If the manifest has no records, or lacks a column or a value.
    """
    folder = Path(folder).expanduser()
    data_folder(folder)  # refuses one without a manifest
    rows = read_manifest(folder)
    files = [_files(folder, row) for row in rows]
    cached = _cache(folder, files, preprocessing, cache_dir, progress)
    identifiers = [f"{row['folder']}/{row['record']}" for row in rows]
    copies, groups = join_records(
        identifiers,
        patients=[row["patient"] for row in rows],
        hashes=json.loads((cached / "hashes.json").read_text()),
        same_ecg_as=[row["same_ecg_as"] for row in rows],
        databases=[row["database"] for row in rows],
    )
    codes = [parse_codes(row["snomed"], f"{folder}/manifest.csv, {row['record']}") for row in rows]
    return ECGDataset(
        x=np.load(cached / "signals.npy", mmap_mode="r"),
        n_valid=np.load(cached / "n_valid.npy"),
        y=np.stack([multi_hot(c, policy) for c in codes]),
        y_mask=np.stack(
            [label_mask(row["database"], policy, c) for row, c in zip(rows, codes, strict=True)]
        ),
        names=np.array(identifiers),
        databases=np.array([row["database"] for row in rows]),
        groups=groups,
        copies=copies,
        preprocessing=preprocessing,
    )


def _files(folder: Path, row: dict[str, str]) -> list[str]:
    """Return the names inside the folder of a record's header and its signal file.

    A record that has a ``.mat`` and a ``.dat`` file has three: its header says which one is read.
    """
    header, *signals = (f"{row['folder']}/{row['record']}.{end}" for end in ("hea", "mat", "dat"))
    signals = [name for name in signals if os.path.isfile(f"{folder}/{name}")]
    if signals and os.path.isfile(f"{folder}/{header}"):
        return [header, *signals]
    raise FileNotFoundError(
        f"{folder}/{header}: listed in manifest.csv, but header or signal file is missing; "
        f"'python -m ecgbook download --folder {folder}' fetches what is not there"
    )


def _cache(
    folder: Path,
    files: list[list[str]],
    preprocessing: Preprocessing,
    cache_dir: str | Path | None,
    progress: bool,
) -> Path:
    """Return the folder of prepared signals, made now or found; a folder is whole or not there."""
    place = Path(cache_dir or pooch.os_cache("ecgbook"))
    whose = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    memory = place / f"files-{whose[:24]}.json"
    started_ns, known = time.time_ns(), _recall(memory)
    names = [name for of_record in files for name in of_record]
    found = {name: _identify(f"{folder}/{name}", known.get(name)) for name in names}
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, preprocessing.to_dict()]).encode())
    for name in names:
        key.update(bytes.fromhex(found[name][-1]))
    target = place / key.hexdigest()[:24]
    if not target.is_dir():
        _prepare(target, folder, files, preprocessing, progress)
    # A file that was young when it was read may change and keep its time: it is read again.
    settled = {n: each for n, each in found.items() if each[1] < started_ns - COARSEST_TIME_NS}
    if settled != known:
        _remember(memory, settled)
    return target


def _identify(path: str, known: list | None) -> list:
    """Return size, time in ns and SHA-256 of a file: what is known, if the first two are right."""
    about = os.stat(path)
    seen = [about.st_size, about.st_mtime_ns]
    return known if known and known[:2] == seen else [*seen, pooch.file_hash(path)]


def _recall(memory: Path) -> dict[str, list]:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is damaged: every file is read
        return {}


def _remember(memory: Path, found: dict[str, list]) -> None:
    # A folder that cannot be written, or that another process writes to, costs time and no more.
    with (
        contextlib.suppress(OSError),
        folder_lock(memory.parent, f"{memory.stem}.lock"),
        whole_file(memory) as part,
    ):
        part.write_text(json.dumps(found), encoding="utf-8")


def _prepare(
    target: Path,
    folder: Path,
    files: list[list[str]],
    preprocessing: Preprocessing,
    progress: bool,
) -> None:
    """Make the folder of prepared signals, in one step at the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="making-", dir=target.parent))
    except OSError as error:
        raise OSError(
            f"{target.parent}: {error.strerror} found, a folder wanted where prepared signals can "
            "be kept; name one: from_folder(..., cache_dir=...)"
        ) from error
    try:
        shape = (len(files), preprocessing.n_samples, len(LEADS))
        x = np.lib.format.open_memmap(part / "signals.npy", "w+", np.float32, shape)
        n_valid, hashes = np.zeros(len(files), dtype=int), []
        bar = tqdm(files, desc="preparing records", unit="record", disable=not progress)
        for i, (header, *signals) in enumerate(bar):
            record = read_record(folder / header)
            _check_file(folder / header, [Path(name).name for name in signals])
            x[i], mask = preprocessing(record.signal_mv, record.fs_hz)
            n_valid[i] = mask.sum()
            hashes.append(signal_hash(record.signal_mv))
        x.flush()
        del x  # Windows renames no folder with an open file
        np.save(part / "n_valid.npy", n_valid)
        (part / "hashes.json").write_text(json.dumps(hashes))
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process has just made it
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_file(header: Path, wanted: list[str]) -> None:
    """Refuse a header, one that `read_record` takes, if the key leaves its signal file out."""
    signal_file = parse_header(header, read_lines(header)[0]).file
    if signal_file not in wanted:
        fix = "rename the signal file, and say so in the header"
        raise RecordError(header, "signal file", signal_file, " or ".join(wanted), fix)
