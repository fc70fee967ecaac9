"""From records to batches: the cache, and data sets with a validity mask."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pooch
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .groups import join_records, signal_hash
from .labels import label_mask, multi_hot
from .leads import LEADS
from .preprocessing import Preprocessing
from .records import read_record

CACHE_FORMAT = 1
_COLUMNS = ("record", "folder", "database", "patient", "snomed", "same_ecg_as")


@dataclass(frozen=True, eq=False)
class ECGDataset(Dataset):
    """Prepared records with labels, ready for batches.

    Attributes
    ----------
    x : ndarray, shape (n, n_samples, 12), float32
        Signals in mV; may be a memory map.
    n_valid : ndarray, shape (n,), int
        Samples of each record that are signal; the rest is padding.
    y : ndarray, shape (n, 5), float32
        Multi-label targets in the order of `ecgbook.labels.RHYTHMS`.
    y_mask : ndarray, shape (n, 5), bool
        True where the label can be trusted.
    names, databases, groups : ndarray, shape (n,), str, str and int
        Group numbers join the records of one patient, exact copies and re-sampled copies:
        what must never be on both sides of a split.
    copies : ndarray, shape (n,), int
        Equal numbers mark the same recording, stored twice or at another rate.
    preprocessing : Preprocessing
    """

    x: np.ndarray
    n_valid: np.ndarray
    y: np.ndarray
    y_mask: np.ndarray
    names: np.ndarray
    databases: np.ndarray
    groups: np.ndarray
    copies: np.ndarray
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """Count the records."""
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        """Return record `i` as tensors ``x``, ``mask``, ``y``, ``y_mask``."""
        return {name: values[0] for name, values in self.batch([i]).items()}

    def batch(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return several records as tensors.

        Returns
        -------
        dict of str to Tensor
            ``x (batch, n_samples, 12)`` float32 in mV, ``mask (batch, n_samples)`` bool,
            ``y (batch, 5)`` float32, ``y_mask (batch, 5)`` bool.
        """
        index = np.asarray(index)
        mask = np.arange(self.x.shape[1]) < self.n_valid[index][:, None]
        return {
            "x": torch.from_numpy(np.array(self.x[index])),
            "mask": torch.from_numpy(mask),
            "y": torch.from_numpy(self.y[index]),
            "y_mask": torch.from_numpy(self.y_mask[index]),
        }

    def __getitems__(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """Fetch a whole batch at once, as torch's loader asks for it."""
        return self.batch(index)

    def subset(self, index: Sequence[int] | np.ndarray) -> ECGDataset:
        """Return the records at `index` (integers or a boolean mask) as a data set.

        Signals of a memory map stay one: their rows are read when a batch wants them.

        Raises
        ------
        TypeError, ValueError
            If `index` holds something else than integers, or the mask has another length.
        """
        index = np.asarray(index)
        if index.dtype != bool and index.size and index.dtype.kind not in "iu":
            raise TypeError(f"index of {index.dtype} found, integers or a boolean mask wanted")
        if index.dtype == bool and index.shape != (len(self),):
            raise ValueError(f"mask of shape {index.shape} found, ({len(self)},) wanted")
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(int)
        rows = {
            name: getattr(self, name)[index]
            for name in ("n_valid", "y", "y_mask", "names", "databases", "groups", "copies")
        }
        return replace(self, x=_Rows(self.x, index), **rows)

    def distinct(self) -> ECGDataset:
        """Return the data set with each recording once, the first of its copies."""
        return self.subset(np.sort(np.unique(self.copies, return_index=True)[1]))

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> DataLoader:
        """Return a torch loader of batches as in `batch`; the seed fixes the order."""
        return DataLoader(
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_fn=_identity,
            generator=torch.Generator().manual_seed(seed),
        )


def _identity(batch: dict) -> dict:
    return batch


class _Rows:
    """Rows of an array by index, read on demand: a view where NumPy would make a copy."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        if isinstance(array, _Rows):
            array, index = array.array, array.index[index]
        self.array, self.index = array, np.asarray(index)
        self.shape = (len(index), *array.shape[1:])
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i) -> np.ndarray:
        if isinstance(i, tuple):  # more than rows is asked for: as NumPy would
            return np.asarray(self)[i]
        return self.array[self.index[i]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.array[self.index], dtype=dtype)


def from_records(
    records: Iterable, preprocessing: Preprocessing, database: str = "synthetic"
) -> ECGDataset:
    """Prepare records that carry their own labels, such as synthetic ones.

    Parameters
    ----------
    records : iterable
        Objects with ``signal_mv (samples, 12)`` in mV, ``fs_hz``, ``labels (5,)``, ``name`` and
        ``patient``, as `ecgbook.synthetic.iter_records` yields them.
    preprocessing : Preprocessing
    database : str
        Name for the records' origin.

    Returns
    -------
    ECGDataset
        In memory.
    """
    x, n_valid, y, names, patients = [], [], [], [], []
    for record in records:
        window, mask = preprocessing(record.signal_mv, record.fs_hz)
        x.append(window)
        n_valid.append(mask.sum())
        y.append(record.labels)
        names.append(record.name)
        patients.append(record.patient)
    if not x:
        raise ValueError("no record found, at least one wanted")
    return ECGDataset(
        x=np.stack(x),
        n_valid=np.array(n_valid),
        y=np.stack(y).astype(np.float32),
        y_mask=np.ones((len(y), len(y[0])), dtype=bool),
        names=np.array(names),
        databases=np.full(len(x), database),
        groups=np.unique(patients, return_inverse=True)[1],
        copies=np.arange(len(x)),
        preprocessing=preprocessing,
    )


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
    """
    with (Path(folder) / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    folder = data_folder(folder)
    rows = read_manifest(folder)
    _check_manifest(folder / "manifest.csv", rows)
    files = [_signal_files(folder, row) for row in rows]
    cached = _cache(files, preprocessing, cache_dir, progress)
    identifiers = [f"{row['folder']}/{row['record']}" for row in rows]
    copies, groups = join_records(
        identifiers,
        patients=[row["patient"] for row in rows],
        hashes=json.loads((cached / "hashes.json").read_text()),
        same_ecg_as=[row["same_ecg_as"] for row in rows],
    )
    codes = [tuple(filter(None, row["snomed"].split(";"))) for row in rows]
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


def _check_manifest(path: Path, rows: list[dict[str, str]]) -> None:
    if not rows:
        raise ValueError(f"{path}: no records found, at least one row wanted")
    for number, row in enumerate(rows, start=2):
        if missing := [name for name in _COLUMNS if row.get(name) is None]:
            raise ValueError(
                f"{path}: no {missing[0]} found in line {number}, columns {', '.join(_COLUMNS)} "
                "wanted; a value may be empty"
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
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="making-", dir=target.parent))
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
