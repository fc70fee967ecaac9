"""Predictions of a model on a data set, and their scores with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .. import metrics
from ..attacks import evaluation_mode
from ..data import ECGDataset, trim
from ..labels import RHYTHMS


def predict(model: nn.Module, dataset: ECGDataset, batch_size: int = 64) -> np.ndarray:
    """Compute the probabilities of all labels for every record of a data set.

    Of a bundle, `Bundle.predict` does the same, and takes records too.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; its training mode is restored afterwards.
    dataset : ECGDataset
    batch_size : int

    Returns
    -------
    ndarray, shape (n, n_classes), float32
    """
    by_length = np.argsort(dataset.n_valid, kind="stable")  # short records need no long padding
    found = predict_batches(model, dataset.subset(by_length).loader(batch_size))
    if not len(found):
        return np.zeros((0, len(dataset.classes)), np.float32)
    return found[np.argsort(by_length)]


def predict_batches(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> np.ndarray:
    """Compute the probabilities of all labels for the records of several batches.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode meanwhile.
    batches : iterable of dict of str to Tensor
        Each with ``x`` and ``mask``, as `ECGDataset.batch` returns it; moved to the device and
        dtype of the model.

    Returns
    -------
    ndarray, shape (n, n_classes), float32
        Of shape (0,) if there is no batch.
    """
    like = next(model.parameters())
    with evaluation_mode(model), torch.no_grad():
        parts = [
            torch.sigmoid(model(b["x"].to(like), b["mask"].to(like.device)).float()).cpu()
            for b in map(trim, batches)
        ]
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def evaluate(
    dataset: ECGDataset,
    probabilities: np.ndarray,
    thresholds: np.ndarray | None,
    n_draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Score predictions, with 95 % intervals over patients and seeds, as `bootstrap` does.

    Parameters
    ----------
    dataset : ECGDataset
        The records that were predicted.
    probabilities : ndarray, shape (n, n_classes) or (seeds, n, n_classes)
        As `predict` returns them; of one model, or of one trained with several seeds.
    thresholds : ndarray, shape (n_classes,), (n, n_classes) or (seeds, n, n_classes), or None
        Chosen on other data; one row a record where several models made the predictions. None,
        where they were not kept: then nothing that needs calls is scored.
    n_draws : int
        Bootstrap draws.
    seed : int

    Returns
    -------
    dict
        ``records``, ``positives`` by class, and for each of ``auroc``, ``auprc``, ``f1``, ``ece``
        and ``brier``: ``macro`` and every class as ``[value, low, high]``; ``challenge`` likewise,
        where the classes are the rhythms of the book. Values that cannot be computed are NaN.

    Raises
    ------
    ValueError
        If a shape does not fit the data set.
    """
    scores: dict = {
        "records": len(dataset),
        "positives": {
            name: int(count)
            for name, count in zip(
                dataset.classes, (dataset.y * dataset.y_mask).sum(0), strict=True
            )
        },
    }
    draw = partial(
        metrics.bootstrap,
        y=dataset.y,
        mask=dataset.y_mask,
        groups=dataset.groups,
        n_draws=n_draws,
        seed=seed,
    )
    for name in ("auroc", "auprc", "ece", "brier"):
        drawn = draw(getattr(metrics, name), p=probabilities)
        scores[name] = macro_and_classes(drawn, dataset.classes)
    if thresholds is not None:
        calls = (probabilities >= np.asarray(thresholds)).astype(float)
        drawn = draw(partial(metrics.f1, thresholds=0.5), p=calls)
        scores["f1"] = macro_and_classes(drawn, dataset.classes)
        if dataset.classes == RHYTHMS:  # its table of costs knows no others
            challenge = draw(partial(metrics.challenge_score, thresholds=0.5), p=calls)
            scores["challenge"] = challenge.as_list()
    return scores


def macro_and_classes(
    drawn: metrics.Interval, classes: Sequence[str] = RHYTHMS
) -> dict[str, list[float]]:
    """Write a score of all classes as plain numbers.

    Parameters
    ----------
    drawn : ecgbook.metrics.Interval
        What `ecgbook.metrics.bootstrap` returns for a metric of each class.
    classes : sequence of str
        Their names.

    Returns
    -------
    dict
        ``macro``, the mean over the classes, and every class as ``[value, low, high]``.
    """
    rows = zip(classes, drawn.value, drawn.low, drawn.high, strict=True)
    return {"macro": drawn.average().as_list()} | {
        name: [float(v) for v in row] for name, *row in rows
    }
