"""A folder of real ECGs with its manifest: labels, groups, and a cache of prepared signals."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pooch
from tqdm import tqdm

from ..labels import label_mask, multi_hot
from ..leads import LEADS
from ..records import parse_codes, read_record
from ..signals import Preprocessing
from .dataset import ECGDataset
from .groups import join_records, signal_hash
from .tables import read_table

CACHE_FORMAT = 3
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

    Parameters
    ----------
    folder : str or Path
        Folder with ``manifest.csv`` and the records, as ``python -m ecgbook download`` makes it.
    preprocessing : Preprocessing
    policy : {"extended", "official"}
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
        If a record is damaged.
    ValueError
        If the manifest has no records, or lacks a column or a value.
    """
    folder = Path(folder).expanduser()
    data_folder(folder)  # refuses one without a manifest
    rows = read_manifest(folder)
    files = [_signal_files(folder, row) for row in rows]
    cached = _cache(files, preprocessing, cache_dir, progress)
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
        y_mask=np.stack([label_mask(row["database"], policy) for row in rows]),
        names=np.array(identifiers),
        databases=np.array([row["database"] for row in rows]),
        groups=groups,
        copies=copies,
        preprocessing=preprocessing,
    )


def _signal_files(folder: Path, row: dict[str, str]) -> tuple[Path, Path]:
    header = folder / row["folder"] / f"{row['record']}.hea"
    for suffix in (".mat", ".dat"):
        if header.with_suffix(suffix).is_file() and header.is_file():
            return header, header.with_suffix(suffix)
    raise FileNotFoundError(
        f"{header}: listed in manifest.csv, but header or signal file is missing; "
        f"'python -m ecgbook download --folder {folder}' fetches what is not there"
    )


def _cache(
    files: list[tuple[Path, Path]],
    preprocessing: Preprocessing,
    cache_dir: str | Path | None,
    progress: bool,
) -> Path:
    """Return the folder of prepared signals, made now or found; a folder is whole or not there."""
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, preprocessing.to_dict()]).encode())
    for path in itertools.chain.from_iterable(files):
        key.update(hashlib.sha256(path.read_bytes()).digest())
    target = Path(cache_dir or pooch.os_cache("ecgbook")) / key.hexdigest()[:24]
    if target.is_dir():
        return target
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
        for i, (header, _) in enumerate(bar):
            record = read_record(header)
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
    return target
