"""Trained models: how one is saved and loaded, and those that come with the book."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..models import CNNBaseline, ECGVisionMamba, EnhancedECGMamba2
from ..records import Record, check_alive
from ..signals import Preprocessing
from ..storage import book_file, read_safetensors, write_safetensors

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
    """

    model: nn.Module
    preprocessing: Preprocessing
    thresholds: np.ndarray
    card: dict = field(default_factory=dict)

    @torch.no_grad()
    def probabilities(self, record: Record) -> np.ndarray:
        """Compute the probability of each rhythm in a record, in evaluation mode.

        Parameters
        ----------
        record : Record
            As `ecgbook.records.read_record` returns it; a synthetic record does as well.

        Returns
        -------
        ndarray, shape (n_classes,), float32
            In the order of `ecgbook.labels.RHYTHMS`.

        Raises
        ------
        ValueError
            If no lead shows a signal, or the record cannot be prepared.
        """
        check_alive(record)
        x, mask = self.preprocessing(record.signal_mv, record.fs_hz)
        like, was_training = next(self.model.parameters()), self.model.training
        self.model.eval()
        try:
            logits = self.model(
                torch.from_numpy(x)[None].to(like), torch.from_numpy(mask)[None].to(like.device)
            )
        finally:
            self.model.train(was_training)
        return torch.sigmoid(logits.float())[0].cpu().numpy()


KNOWN: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (CNNBaseline, ECGVisionMamba, EnhancedECGMamba2)
}


def check_saveable(model: nn.Module) -> None:
    """Refuse a model that a file could not give back.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    ValueError
        If it is of no class of `ecgbook.models`, or no longer what its ``config`` builds.
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


def save(bundle: Bundle, path: str | Path) -> Path:
    """Write a model to one safetensors file, atomically.

    The weights are the file's tensors; class, arguments, preprocessing, thresholds and card are
    JSON in its header.

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
    check_saveable(bundle.model)
    header = {
        "model": type(bundle.model).__name__,
        "config": bundle.model.config,
        "preprocessing": bundle.preprocessing.to_dict(),
        "thresholds": np.asarray(bundle.thresholds, dtype=float).tolist(),
        "card": bundle.card,
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
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the path of a model.safetensors that training wrote wanted, "
            f"or the name of a model of the book: {', '.join(TRAINED)}"
        )
    tensors, header = read_safetensors(path)
    cls = KNOWN.get(header.get("model", ""))
    if cls is None:
        raise ValueError(f"{path}: model {header.get('model')!r} found, a model of ecgbook wanted")
    try:
        model = cls(**header["config"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path}: weights or settings of another {cls.__name__} found, those of this version "
            f"of ecgbook wanted ({first}); train it again, or use the version that wrote it"
        ) from error
    return Bundle(
        model=model.eval(),
        preprocessing=Preprocessing.from_dict(header["preprocessing"]),
        thresholds=np.array(header["thresholds"]),
        card=header["card"],
    )
