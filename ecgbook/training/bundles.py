"""Trained models: how one is saved and loaded, and those that come with the book."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..data import ECGDataset
from ..labels import RHYTHMS
from ..leads import LEADS, column_names
from ..models import CNNBaseline, ECGVisionMamba, EnhancedECGMamba2
from ..records import DoubtfulRecordWarning, Record, check_alive
from ..signals import Preprocessing, select
from ..storage import book_file, read_safetensors, to_json, version, write_safetensors
from .evaluation import predict, predict_batches

TRAINED: tuple[str, ...] = ("tutorial", "robust")
"""Names of the trained models that come with the book; see weights/README.md."""


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that is needed to use it on a record.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode.
    preprocessing : Preprocessing
        What turns a record into the model's input.
    thresholds : ndarray, shape (n_classes,)
        Probability from which a label counts as present, chosen on validation data.
    card : dict
        How the model was trained: data, recipe, scores.
    classes : tuple of str
        What its logits stand for.
    leads : tuple of str
        Which leads it reads, in their order.

    Raises
    ------
    ValueError
        If there is not one threshold from 0 to 1 for each class.
    """

    model: nn.Module
    preprocessing: Preprocessing
    thresholds: np.ndarray
    card: dict = field(default_factory=dict)
    classes: tuple[str, ...] = RHYTHMS
    leads: tuple[str, ...] = LEADS

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "leads", column_names(self.leads))
        thresholds = np.asarray(self.thresholds, dtype=float)
        if (
            thresholds.shape != (len(self.classes),)
            or not ((0 <= thresholds) & (thresholds <= 1)).all()
        ):
            raise ValueError(
                f"thresholds {thresholds.tolist()} found, one from 0 to 1 for each of "
                f"{', '.join(self.classes)} wanted"
            )
        object.__setattr__(self, "thresholds", thresholds)

    def predict(
        self, records: Record | Iterable[Record] | ECGDataset, batch_size: int = 64
    ) -> np.ndarray:
        """Compute the probability of each class in records, or in a data set.

        Parameters
        ----------
        records : Record, iterable of Record, or ECGDataset
            As `ecgbook.records.read_record` returns them; synthetic records do as well. Of a
            record with more leads, or in another order, those of the model are taken by name.
        batch_size : int
            Records that the model sees at once.

        Returns
        -------
        ndarray, shape (n, n_classes), or (n_classes,) for one Record, float32
            In the order of `classes`.

        Raises
        ------
        TypeError
            If something is no record.
        ValueError
            If a record has no lead that shows a signal, or cannot be prepared; if a data set was
            prepared in another way or has other leads.

        Warns
        -----
        DoubtfulRecordWarning
            With the `notes` of a record that has some.
        """
        if isinstance(records, ECGDataset):
            _check_equal("preprocessing", records.preprocessing, self.preprocessing)
            _check_equal("leads", records.leads, self.leads)
            return predict(self.model, records, batch_size)
        if isinstance(records, str | os.PathLike | np.ndarray | torch.Tensor):
            raise TypeError(
                f"a {type(records).__name__} found, records wanted; read a file with "
                "ecgbook.records.read_record, or make one: Record(name, signal_mv, fs_hz)"
            )
        one = hasattr(records, "signal_mv") or not isinstance(records, Iterable)
        found = predict_batches(
            self.model, self._batches(iter([records] if one else records), batch_size)
        )
        if one:
            return found[0]
        return found if len(found) else np.zeros((0, len(self.classes)), np.float32)

    def _batches(self, records: Iterator, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        while chunk := list(itertools.islice(records, batch_size)):
            prepared = [self.prepare(record) for record in chunk]
            x, mask = (torch.from_numpy(np.stack(each)) for each in zip(*prepared, strict=True))
            yield {"x": x, "mask": mask}

    def prepare(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """Make of a record what the model sees, and warn of what is doubtful in it.

        Parameters
        ----------
        record : Record

        Returns
        -------
        x : ndarray, shape (n_samples, n_leads), float32
            In mV.
        mask : ndarray, shape (n_samples,), bool
            True where there is signal.

        Raises
        ------
        TypeError, ValueError
            As `predict` does.

        Warns
        -----
        DoubtfulRecordWarning
        """
        prepared = self.preprocessing.prepare(record, self.leads)
        check_alive(record, self.leads)
        if notes := self.notes(record):
            text = f"{record.name}: {'; '.join(notes)}"
            warnings.warn(text, DoubtfulRecordWarning, stacklevel=2)
        return prepared

    def notes(self, record: Record) -> tuple[str, ...]:
        """Say what is doubtful in a record, and which part of a long one the model sees.

        Parameters
        ----------
        record : Record

        Returns
        -------
        tuple of str
            ``record.notes``, and a sentence more if the model does not see all of the record.
        """
        notes = tuple(getattr(record, "notes", ()))
        start_s, end_s = self.window_s(record)
        duration_s = len(record.signal_mv) / record.fs_hz
        if duration_s <= end_s - start_s + 1 / self.preprocessing.fs_hz:
            return notes
        return *notes, (
            f"the model sees {start_s:.1f} to {end_s:.1f} s of {duration_s:.1f} s, and nothing else"
        )

    def window_s(self, record: Record) -> tuple[float, float]:
        """Say which part of a record the model sees.

        Parameters
        ----------
        record : Record

        Returns
        -------
        start_s, end_s : float
            In s from the start of the record.
        """
        return self.preprocessing.window_s(select(record, self.leads), record.fs_hz)


def _check_equal(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"a data set with {what} {found} found, {wanted} wanted, as the model has")


KNOWN: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (CNNBaseline, ECGVisionMamba, EnhancedECGMamba2)
}


def check_saveable(model: nn.Module, card: dict) -> None:
    """Refuse a model, or a card, that a file could not give back.

    Parameters
    ----------
    model : torch.nn.Module
    card : dict

    Raises
    ------
    ValueError
        If the model is of no class of `ecgbook.models`, or no longer what its ``config`` builds;
        or if the card holds what JSON cannot.
    """
    name = type(model).__name__
    if type(model) is not KNOWN.get(name):
        raise ValueError(
            f"a model of class {name} found, one of {', '.join(KNOWN)} wanted, which a file can "
            "build again; train it without a folder and keep model.state_dict() yourself"
        )
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in KNOWN[name](**model.config).state_dict().items()}
    found = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    differing = [k for k in wanted | found if wanted.get(k) != found.get(k)]
    if differing:
        k = differing[0]
        raise ValueError(
            f"{k} of shape {found.get(k)} found, {wanted.get(k)} wanted, as {name} with "
            f"{model.config} has; build the model anew with other arguments, such as n_classes, "
            "instead of changing it"
        )
    for key, value in card.items():
        try:
            to_json(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{key} of class {type(value).__name__} found in the card, plain values wanted, "
                f"which JSON can hold, such as str(...) ({error})"
            ) from error


def save(bundle: Bundle, path: str | Path) -> Path:
    """Write a model to one safetensors file, atomically.

    The weights are the file's tensors; class, arguments, preprocessing, thresholds, names of
    classes and leads, card and version are JSON in its header.

    Parameters
    ----------
    bundle : Bundle
    path : str or Path
        File to write; its folder is made if need be.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the file could not give the model back, as `check_saveable` says.
    """
    check_saveable(bundle.model, bundle.card)
    header = {
        "model": type(bundle.model).__name__,
        "config": bundle.model.config,
        "preprocessing": bundle.preprocessing.to_dict(),
        "thresholds": bundle.thresholds.tolist(),
        "classes": list(bundle.classes),
        "leads": list(bundle.leads),
        "card": bundle.card,
        "ecgbook": version(),
    }
    return write_safetensors(path, bundle.model.state_dict(), header)


def load(path: str | Path) -> Bundle:
    """Read a trained model: one that `save` wrote, or one that comes with the book.

    Parameters
    ----------
    path : str or Path
        File, or a name of `TRAINED`. ``"tutorial"`` is `EnhancedECGMamba2` at tutorial size,
        trained on synthetic records; ``"robust"`` is the same, trained further on attacked and
        frequency-masked ones.

    Returns
    -------
    Bundle

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no model of this package.
    """
    if str(path) in TRAINED:
        path = book_file(f"weights/{path}.safetensors")
    path = Path(path)
    if path.is_dir() and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the path of a model.safetensors that training wrote wanted, "
            f"or the name of a model of the book: {', '.join(TRAINED)}"
        )
    tensors, header = read_safetensors(path)
    cls = KNOWN.get(header.get("model", ""))
    if cls is None:
        hint = ""
        if "optimizer" in {name.partition(".")[0] for name in tensors}:
            hint = "; this is a checkpoint: go on from it with --resume, and load model.safetensors"
        raise ValueError(
            f"{path}: model {header.get('model')!r} found, a model of ecgbook wanted{hint}"
        )
    try:
        model = cls(**header["config"])
        model.load_state_dict(tensors)
        if broken := [name for name, t in tensors.items() if not t.isfinite().all()]:
            raise ValueError(f"{broken[0]} is not finite")
        return Bundle(
            model=model.eval(),
            preprocessing=Preprocessing.from_dict(header["preprocessing"]),
            thresholds=np.array(header["thresholds"], dtype=float),
            card=header["card"],
            classes=header.get("classes", RHYTHMS),
            leads=header.get("leads", LEADS),
        )
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        theirs = header.get("ecgbook", "an earlier version")
        raise ValueError(
            f"{path}: weights or settings of another {cls.__name__} found (ecgbook {theirs}), "
            f"those of ecgbook {version()} wanted ({first}); train it again, or use the version "
            "that wrote it"
        ) from error
