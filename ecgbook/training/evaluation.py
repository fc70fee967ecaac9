"""Predictions of a model on a data set, and their scores with intervals."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from .. import metrics
from ..data import ECGDataset, trim
from ..labels import RHYTHMS


@torch.no_grad()
def predict(model: nn.Module, dataset: ECGDataset, batch_size: int = 64) -> np.ndarray:
    """Compute the probabilities of all labels for every record.

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
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    by_length = np.argsort(dataset.n_valid, kind="stable")  # short records need no long padding
    try:
        parts = [
            torch.sigmoid(model(batch["x"].to(device), batch["mask"].to(device)).float()).cpu()
            for batch in map(trim, dataset.subset(by_length).loader(batch_size))
        ]
    finally:
        model.train(was_training)
    if not parts:
        return np.zeros((0, len(RHYTHMS)), np.float32)
    return torch.cat(parts).numpy()[np.argsort(by_length)]


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
    probabilities : ndarray, shape (n, 5) or (seeds, n, 5)
        As `predict` returns them; of one model, or of one trained with several seeds.
    thresholds : ndarray, shape (5,), (n, 5) or (seeds, n, 5), or None
        Chosen on other data; one row a record where several models made the predictions. None,
        where they were not kept: then nothing that needs calls is scored.
    n_draws : int
        Bootstrap draws.
    seed : int

    Returns
    -------
    dict
        ``records``, ``positives`` by rhythm, and for each of ``auroc``, ``auprc``, ``f1``, ``ece``
        and ``brier``: ``macro`` and every rhythm as ``[value, low, high]``; ``challenge`` likewise.
        Values that cannot be computed are NaN.
    """
    scores: dict = {
        "records": len(dataset),
        "positives": {
            rhythm: int(count)
            for rhythm, count in zip(RHYTHMS, (dataset.y * dataset.y_mask).sum(0), strict=True)
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
        scores[name] = macro_and_rhythms(draw(getattr(metrics, name), p=probabilities))
    if thresholds is not None:
        calls = (probabilities >= np.asarray(thresholds)).astype(float)
        scores["f1"] = macro_and_rhythms(draw(partial(metrics.f1, thresholds=0.5), p=calls))
        challenge = draw(partial(metrics.challenge_score, thresholds=0.5), p=calls)
        scores["challenge"] = challenge.as_list()
    return scores


def macro_and_rhythms(drawn: metrics.Interval) -> dict[str, list[float]]:
    """Write a score of all rhythms as plain numbers.

    Parameters
    ----------
    drawn : ecgbook.metrics.Interval
        What `ecgbook.metrics.bootstrap` returns for a metric of each class.

    Returns
    -------
    dict
        ``macro``, the mean over the classes, and every rhythm as ``[value, low, high]``.
    """
    rows = zip(RHYTHMS, drawn.value, drawn.low, drawn.high, strict=True)
    return {"macro": drawn.average().as_list()} | {
        rhythm: [float(v) for v in row] for rhythm, *row in rows
    }
