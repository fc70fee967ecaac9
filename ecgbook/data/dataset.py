"""Data sets: prepared records with labels and a validity mask, and batches of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..labels import RHYTHMS, label_mask, multi_hot
from ..leads import LEADS, column_names
from ..records import AMPLITUDE_MV, DoubtfulRecordWarning, Record, check_alive, height_mv
from ..signals import Preprocessing
from .groups import join_records, signal_hash

_OF_A_RECORD = ("n_valid", "y", "y_mask", "names", "databases", "groups", "copies")


@dataclass(frozen=True, eq=False)
class ECGDataset(Dataset):
    """Prepared records with labels, ready for batches.

    Attributes
    ----------
    x : ndarray, shape (n, n_samples, n_leads), float32
        Signals in mV; may be a memory map.
    n_valid : ndarray, shape (n,), int
        Samples of each record that are signal; the rest is padding.
    y : ndarray, shape (n, n_classes), float32
        Multi-label targets, 0 or 1, in the order of `classes`.
    y_mask : ndarray, shape (n, n_classes), bool
        True where the label can be trusted.
    names, databases : ndarray, shape (n,), str
    groups : ndarray, shape (n,), str
        Equal for records of one patient, exact copies and re-sampled copies: what must never be
        on both sides of a split. Named for the patient, or the recording where none is known.
    copies : ndarray, shape (n,), str
        Equal for the same recording, stored twice or at another rate.
    preprocessing : Preprocessing
    classes : tuple of str
        What the columns of `y` say: the rhythms of the book, unless others are given.
    leads : tuple of str
        What the last axis of `x` holds: the 12 standard leads, unless others are given.

    Raises
    ------
    ValueError
        If an array has another length than `x`, classes or leads do not name its columns each in
        its own way, or a trusted label is neither 0 nor 1.
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
    classes: tuple[str, ...] = RHYTHMS
    leads: tuple[str, ...] = LEADS

    def __post_init__(self):
        object.__setattr__(self, "classes", _class_names(self.classes))
        object.__setattr__(self, "leads", column_names(self.leads))
        shapes = {
            "x": (len(self.x), self.preprocessing.n_samples, len(self.leads)),
            "y": (len(self.x), len(self.classes)),
            "y_mask": (len(self.x), len(self.classes)),
        } | {name: (len(self.x),) for name in _OF_A_RECORD if not name.startswith("y")}
        for name, wanted in shapes.items():
            if (found := getattr(self, name).shape) != wanted:
                raise ValueError(
                    f"{name} of shape {found} found, {wanted} wanted: {len(self.x)} records, "
                    f"classes {', '.join(self.classes)}, leads {', '.join(self.leads)}"
                )
        if (odd := np.argwhere((self.y != 0) & (self.y != 1) & (self.y_mask != 0))).size:
            i, k = odd[0]
            raise ValueError(
                f"record {self.names[i]}: label {self.y[i, k]:g} of {self.classes[k]} found, 0 or "
                "1 wanted; say with y_mask (or NaN, in from_arrays) that a label is unknown"
            )

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
            ``x (batch, n_samples, n_leads)`` float32 in mV, ``mask (batch, n_samples)`` bool,
            ``y (batch, n_classes)`` float32, ``y_mask (batch, n_classes)`` bool.
        """
        index = np.asarray(index)
        mask = np.arange(self.x.shape[1]) < self.n_valid[index][:, None]
        return {
            "x": torch.from_numpy(np.asarray(self.x[index])),  # picking rows has copied them
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
        rows = {name: getattr(self, name)[index] for name in _OF_A_RECORD}
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
    records: Iterable,
    preprocessing: Preprocessing,
    database: str = "synthetic",
    policy: str = "extended",
    classes: Sequence[str] = RHYTHMS,
    leads: Sequence[str] = LEADS,
) -> ECGDataset:
    """Prepare records that carry their own labels or codes.

    Parameters
    ----------
    records : iterable of Record
        Synthetic ones, those that `ecgbook.records.read_record` returns, or anything else with
        ``signal_mv (samples, leads)`` in mV, ``fs_hz``, ``name``, and either ``labels
        (n_classes,)`` or ``codes``; ``leads``, if they are others than the 12 standard ones; and
        ``patient``, if it is known. Records with one signal are copies. A label that is NaN is
        unknown.
    preprocessing : Preprocessing
    database : str
        Name for the records' origin; it decides which labels that come from codes are trusted.
    policy : {"extended", "official", "stated"}
        How codes become labels, and which of them are known: see `ecgbook.labels.multi_hot` and
        `ecgbook.labels.label_mask`.
    classes, leads : sequence of str
        What the labels say, and which leads the data set holds.

    Returns
    -------
    ECGDataset
        In memory.

    Raises
    ------
    TypeError
        If something is no record.
    ValueError
        If there is no record, or one cannot be prepared, lacks a lead, shows no signal in any, or
        has no labels of these classes: named for the record.

    Warns
    -----
    DoubtfulRecordWarning
        If amplitudes suggest another unit than mV.
    """
    x, n_valid, y, y_mask, names, patients, hashes, heights = [], [], [], [], [], [], [], []
    classes, leads = _class_names(classes), column_names(leads)
    for record in records:
        window, mask = preprocessing.prepare(record, leads)
        check_alive(record, leads)
        labels = _labels(record, classes, database, policy)
        x.append(window)
        n_valid.append(mask.sum())
        y.append(np.nan_to_num(labels[0]))
        y_mask.append(labels[1])
        names.append(str(record.name))
        patients.append(getattr(record, "patient", None))
        hashes.append(signal_hash(record.signal_mv))
        heights.append(height_mv(window[mask]))
    if not x:
        raise ValueError("no record found, at least one wanted")
    _warn_of_unit(float(np.median(heights)))
    databases = [database] * len(x)
    copies, groups = join_records(names, patients, hashes, [""] * len(x), databases)
    return ECGDataset(
        x=np.stack(x),
        n_valid=np.array(n_valid),
        y=np.stack(y).astype(np.float32),
        y_mask=np.stack(y_mask),
        names=np.array(names),
        databases=np.array(databases),
        groups=groups,
        copies=copies,
        preprocessing=preprocessing,
        classes=classes,
        leads=leads,
    )


def from_arrays(
    x: np.ndarray | Sequence[np.ndarray],
    y: np.ndarray,
    fs_hz: float,
    patients: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] = RHYTHMS,
    leads: Sequence[str] = LEADS,
    preprocessing: Preprocessing | None = None,
    database: str = "arrays",
) -> ECGDataset:
    """Prepare signals and labels that are at hand as arrays.

    Parameters
    ----------
    x : ndarray, shape (n, samples, n_leads), or sequence of ndarray, shape (samples, n_leads)
        Signals in mV, NaN where samples are missing; a sequence, if their lengths differ.
    y : ndarray, shape (n, n_classes)
        1 where the class is present, 0 where it is not, NaN where that is unknown.
    fs_hz : float
        Sampling rate of all signals in Hz.
    patients : sequence of str, optional
        Whose signal each is, so that a split keeps a patient on one side. Without it, every
        signal counts as a patient of its own.
    names : sequence of str, optional
        By default the numbers of the signals.
    classes, leads : sequence of str
        What the columns of `y` and the last axis of `x` are.
    preprocessing : Preprocessing, optional
        What a model will see; by default the signals at their own rate, in a window as long as
        the longest, filtered to 0.5 to 40 Hz.
    database : str
        Name for their origin.

    Returns
    -------
    ECGDataset
        In memory.

    Raises
    ------
    ValueError
        If a shape, a length or a label does not fit, or a signal cannot be prepared.
    """
    signals, y = [np.asarray(each) for each in x], np.asarray(y, dtype=float)
    classes, leads = _class_names(classes), column_names(leads)
    if y.shape != (len(signals), len(classes)):
        raise ValueError(
            f"y of shape {y.shape} found, {(len(signals), len(classes))} wanted: {len(signals)} "
            f"signals, classes {', '.join(classes)}; name others with classes=(...)"
        )
    names = [str(i) for i in range(len(signals))] if names is None else names
    whose = [None] * len(signals) if patients is None else patients
    for what, values in (("names", names), ("patients", whose)):
        if len(values) != len(signals):
            raise ValueError(f"{len(values)} {what} found, {len(signals)} wanted: one a signal")
    if preprocessing is None:
        preprocessing = Preprocessing(fs_hz, max((len(each) for each in signals), default=1))
    records = (
        Record(str(name), signal, fs_hz, leads=leads, labels=labels, patient=patient)
        for name, signal, labels, patient in zip(names, signals, y, whose, strict=True)
    )
    return from_records(records, preprocessing, database, classes=classes, leads=leads)


def _labels(record, classes, database, policy) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a record and which of them are known."""
    if getattr(record, "labels", None) is not None:
        labels = np.asarray(record.labels, dtype=np.float32)
        if labels.shape != (len(classes),):
            raise ValueError(
                f"{record.name}: labels of shape {labels.shape} found, ({len(classes)},) wanted: "
                f"{', '.join(classes)}"
            )
        return labels, ~np.isnan(labels)
    if not hasattr(record, "codes") or classes != RHYTHMS:
        raise ValueError(
            f"{record.name}: no labels found, {', '.join(classes)} wanted; give the record labels, "
            "or use from_arrays (codes are read for the five rhythms of the book only)"
        )
    return multi_hot(record.codes, policy), label_mask(database, policy, record.codes)


def _warn_of_unit(height: float) -> None:
    low, high = AMPLITUDE_MV
    if not low <= height <= high:
        warnings.warn(
            f"beats of {height:.3g} mV found in the median record, {low:g} to {high:g} mV are "
            "usual: is the signal in mV?",
            DoubtfulRecordWarning,
            stacklevel=3,
        )


def _class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check the names of classes: at least one, each its own."""
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"classes={names!r} found, a sequence of names wanted")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"classes={names!r} found, one name or more wanted, each only once")
    return tuple(names)


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
