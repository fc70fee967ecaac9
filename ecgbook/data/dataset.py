"""Data sets: prepared records with labels and a validity mask, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..signals import Preprocessing
from .groups import join_records, signal_hash


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

    def batch(self, index: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
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
        """Return a torch loader of batches as in `batch`; the seed fixes the order.

        Its data set fetches a batch at once, which ``DataLoader(dataset, batch_size)`` does not.
        """
        return DataLoader(
            _Batches(self),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_fn=_identity,
            generator=torch.Generator().manual_seed(seed),
        )


class _Batches(Dataset):
    """A data set whose records torch's loader fetches together."""

    def __init__(self, dataset: ECGDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, index: list[int]) -> dict[str, torch.Tensor]:
        return self.dataset.batch(index)


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
        ``patient``, as `ecgbook.synthetic.iter_records` yields them. A patient that is empty or
        None is unknown; records with one signal are copies.
    preprocessing : Preprocessing
    database : str
        Name for the records' origin.

    Returns
    -------
    ECGDataset
        In memory.
    """
    x, n_valid, y, names, patients, hashes = [], [], [], [], [], []
    for record in records:
        window, mask = preprocessing(record.signal_mv, record.fs_hz)
        x.append(window)
        n_valid.append(mask.sum())
        y.append(record.labels)
        names.append(record.name)
        patients.append(record.patient)
        hashes.append(signal_hash(record.signal_mv))
    if not x:
        raise ValueError("no record found, at least one wanted")
    databases = [database] * len(x)
    copies, groups = join_records(names, patients, hashes, [""] * len(x), databases)
    return ECGDataset(
        x=np.stack(x),
        n_valid=np.array(n_valid),
        y=np.stack(y).astype(np.float32),
        y_mask=np.ones((len(y), len(y[0])), dtype=bool),
        names=np.array(names),
        databases=np.array(databases),
        groups=groups,
        copies=copies,
        preprocessing=preprocessing,
    )


def trim(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut off the padding that all records of a batch share.

    It changes no output of a model that uses the mask, and a third of the work for records of
    10 s in a window of 16 s.

    Parameters
    ----------
    batch : dict of str to Tensor
        As `ECGDataset.batch` returns it.

    Returns
    -------
    dict of str to Tensor
        The same with ``x`` and ``mask`` as long as the longest record.

    Raises
    ------
    ValueError
        If no record has any signal.
    """
    valid = batch["mask"].any(0).nonzero()
    if not len(valid):
        raise ValueError("a batch without any signal found, a mask that is true somewhere wanted")
    length = int(valid.max()) + 1
    return {**batch, "x": batch["x"][:, :length], "mask": batch["mask"][:, :length]}
