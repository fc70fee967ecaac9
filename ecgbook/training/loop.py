"""Training: one recipe, one loop, checkpoints that survive a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from .. import augment, metrics
from ..attacks import ALARM, CatastrophicOverfittingWarning
from ..data import ECGDataset, trim
from ..models import TokenClassifier
from ..storage import check_room, folder_lock, write_json
from .bundles import Bundle, check_saveable, save
from .checkpoints import TrainingState
from .evaluation import predict, predict_batches
from .recipe import Recipe


def multilabel_loss(
    logits: Tensor, y: Tensor, y_mask: Tensor, positive_weight: Tensor | None = None
) -> Tensor:
    """Compute the mean binary cross-entropy over the labels that can be trusted.

    Parameters
    ----------
    logits, y : Tensor, shape (batch, n_classes), float
    y_mask : Tensor, shape (batch, n_classes), bool
        False where a label is doubtful; it adds nothing.
    positive_weight : Tensor, shape (n_classes,), optional

    Returns
    -------
    Tensor, scalar, float32
        Sum over trusted labels divided by ``batch * n_classes``, so that the mean over equal
        parts of a batch is the loss of the whole.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits.float(), y, pos_weight=positive_weight, reduction="none"
    )
    return (loss * y_mask).sum() / y_mask.numel()


def fit(
    model: nn.Module,
    train: ECGDataset,
    valid: ECGDataset,
    recipe: Recipe,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
    about: dict | None = None,
) -> Bundle:
    """Train a model; keep the epoch that is best on the validation set.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(x, mask)``; trained in place and left with its best weights.
    train, valid : ECGDataset
        Early stopping, the choice of the epoch and the thresholds use `valid` and nothing else.
    recipe : Recipe
    folder : str or Path, optional
        Where to write ``last.safetensors`` (everything needed to go on) after every epoch, and
        ``model.safetensors`` and ``training.json`` at the end. Each file is whole or not there.
    resume : bool
        Go on from ``last.safetensors`` if there is one. On a CPU the result is, bit for bit,
        that of a run that was never interrupted. Epochs and patience may have grown since: then
        the learning rate goes on where the longer schedule has it, and the card says so
        (``"epochs_before"``).
    progress : bool
        Show a progress bar.
    on_epoch : callable, optional
        Called after each epoch, when its checkpoint is written, with the epoch's row.
    about : dict, optional
        Added to the card, such as where the records come from: values that JSON can hold.

    Returns
    -------
    Bundle
        Model in evaluation mode on the CPU, preprocessing, thresholds, and a card that holds the
        recipe and a row for every epoch.

    Raises
    ------
    ValueError
        If the two sets were prepared differently, have other classes or leads, or share a group,
        one is empty, the validation set has no class with both kinds of labels, the model takes
        or gives something else, the loss is not finite, fp16 is asked of a CPU, or `resume` finds
        a run with another recipe, other data or another model; without `resume`, if `folder`
        holds a run already, which would be lost; with `folder`, if another process trains there,
        or the model is none that `save` can write.
    OSError
        If `folder` cannot be written, or has no room for what will be written.
    """
    _check_sets(train, valid)
    AcceleratorState._reset_state()  # accelerate would keep a process to its first precision
    accelerator = Accelerator(mixed_precision=recipe.precision)
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            "precision='fp16' found on a CPU, where it would be float32 without a word; use "
            "precision='bf16' or 'no'"
        )
    _check_model(model, train)
    if recipe.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size={recipe.batch_size} found, a multiple of the "
            f"{accelerator.num_processes} processes wanted"
        )
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), lr=recipe.learning_rate)
    parallel, optimizer = accelerator.prepare(model, optimizer)
    state = TrainingState(model, optimizer, recipe.to_dict(), fingerprint(train, valid))
    if folder is not None:  # what the last step needs is tried before the first
        folder = Path(folder)
        check_saveable(model, about or {})
        folder.mkdir(parents=True, exist_ok=True)
    writes = folder is not None and accelerator.is_main_process
    with folder_lock(folder) if writes else nullcontext():
        if folder is not None:
            _open(folder, state, accelerator, resume)
        _train(parallel, state, train, valid, recipe, accelerator, progress, on_epoch, folder)
        bundle = _finish(state, train, valid, about or {})
        if writes:
            save(bundle, folder / "model.safetensors")
            write_json(folder / "training.json", bundle.card)
    return bundle


def _open(folder: Path, state: TrainingState, accelerator: Accelerator, resume: bool) -> None:
    """Go on from the run in a folder, or make sure that there is none and that one has room."""
    last, finished = folder / "last.safetensors", folder / "model.safetensors"
    if last.is_file() and resume:
        state.restore(last, accelerator)
    elif last.is_file():
        raise ValueError(
            f"{folder}: a run found, an empty folder wanted; resume that run, delete it, or train "
            "in another folder"
        )
    elif finished.is_file():
        raise ValueError(
            f"{finished}: a model found without the checkpoint of its run, an empty folder wanted; "
            "it would be lost: move it, or train in another folder"
        )
    size = sum(t.numel() * t.element_size() for t in state.model.state_dict().values())
    check_room(folder, 5 * size)  # weights now and best, two moments of Adam, the model itself


def _train(
    parallel: nn.Module,
    state: TrainingState,
    train: ECGDataset,
    valid: ECGDataset,
    recipe: Recipe,
    accelerator: Accelerator,
    progress: bool,
    on_epoch: Callable[[dict], None] | None,
    folder: Path | None,
) -> None:
    model, optimizer = state.model, state.optimizer
    batch_size = min(recipe.batch_size, len(train) - len(train) % accelerator.num_processes)
    n_steps = len(train) // batch_size
    weight = _positive_weight(train, recipe.positive_weight).to(accelerator.device)
    bar = tqdm(
        total=recipe.epochs * n_steps,
        initial=state.epoch * n_steps,
        desc="training",
        unit="step",
        disable=not (progress and accelerator.is_main_process),
    )
    with bar, torch.random.fork_rng(), _full_precision_afterwards(accelerator, parallel):
        while state.epoch < recipe.epochs and not state.out_of_patience:
            started = time.perf_counter()
            order = recipe.seed * 100_003 + state.epoch
            own = order + 1_000_003 * accelerator.process_index
            torch.manual_seed(own)  # of the dropout
            chance = torch.Generator(accelerator.device).manual_seed(own + 500_009)
            loader = prepare_data_loader(
                train.loader(batch_size, shuffle=True, seed=order, drop_last=True),
                device=accelerator.device,
                num_processes=accelerator.num_processes,
                process_index=accelerator.process_index,
                split_batches=True,
                put_on_device=True,
            )
            model.train()
            total = torch.zeros((), device=accelerator.device)
            for step, batch in enumerate(loader, start=state.epoch * n_steps):
                share = _schedule(step, recipe.epochs * n_steps, recipe.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = share * recipe.learning_rate
                batch = augment.apply(recipe.augment, trim(batch), chance, state.epoch)
                if recipe.adversarial is not None:
                    batch = recipe.adversarial(model, batch, chance)
                logits = parallel(batch["x"], batch["mask"])
                loss = multilabel_loss(logits, batch["y"], batch["y_mask"], weight)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
                bar.update()
            train_loss = (accelerator.reduce(total, "mean") / n_steps).item()
            probabilities = _predict_shared(model, valid, recipe, accelerator)
            if not (math.isfinite(train_loss) and np.isfinite(probabilities).all()):
                raise ValueError(
                    f"epoch {state.epoch}: training loss {train_loss} and probabilities that are "
                    f"not all finite found, finite ones wanted; lower "
                    f"learning_rate={recipe.learning_rate} or check the records"
                )
            row = {
                "epoch": state.epoch,
                "train_loss": train_loss,
                "valid_loss": _log_loss(valid, probabilities),
                "valid_auroc": _macro(metrics.auroc, valid, probabilities),
            }
            if recipe.adversarial is not None:
                row |= recipe.adversarial.watch(model, valid)
                _warn_of_overfitting(row)
            row["seconds"] = time.perf_counter() - started
            state.add(row, probabilities)
            bar.set_postfix(loss=f"{train_loss:.3f}", auroc=f"{row['valid_auroc']:.3f}")
            if folder is not None and accelerator.is_main_process:
                state.store(folder / "last.safetensors", accelerator)
            if on_epoch is not None:
                on_epoch(row)


@contextmanager
def _full_precision_afterwards(accelerator: Accelerator, parallel: nn.Module) -> Iterator[None]:
    """Take off what mixed precision has put around the model, also after an interruption."""
    try:
        yield
    finally:
        model = accelerator.unwrap_model(parallel, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # accelerate puts the class's own back as the object's


def _warn_of_overfitting(row: dict) -> None:
    if row.get("fgsm_pgd_gap", 0.0) > ALARM:
        warnings.warn(
            f"epoch {row['epoch']}: FGSM finds {1 - row['fgsm_pgd_gap']:.0%} of the rise of the "
            f"loss that PGD finds, {1 - ALARM:.0%} or more wanted; use N-FGSM or PGD, or a "
            "smaller epsilon_mv",
            CatastrophicOverfittingWarning,
            stacklevel=3,
        )


def _finish(state: TrainingState, train: ECGDataset, valid: ECGDataset, about: dict) -> Bundle:
    state.model.load_state_dict(state.best)
    with _absence_was_said():
        thresholds = metrics.best_thresholds(valid.y, state.best_probabilities, valid.y_mask)
    card = about | {
        "recipe": state.recipe,
        "records": {"train": len(train), "valid": len(valid)},
        "databases": sorted(set(map(str, train.databases))),
        "best_epoch": state.best_epoch,
        "epochs": state.rows,
    }
    if state.epochs_before:
        card["epochs_before"] = state.epochs_before
    model, steps = state.model.cpu().eval(), train.preprocessing
    return Bundle(model, steps, thresholds, card, train.classes, train.leads)


def _check_sets(train: ECGDataset, valid: ECGDataset) -> None:
    for name, dataset in (("training", train), ("validation", valid)):
        if not len(dataset):
            raise ValueError(f"a {name} set of 0 records found, at least one wanted")
    for name in ("preprocessing", "classes", "leads"):
        mine, theirs = getattr(train, name), getattr(valid, name)
        if mine != theirs:
            raise ValueError(
                f"training with {name} {mine}, validation with {theirs} found; prepare both in "
                "the same way"
            )
    trusted = valid.y_mask > 0
    has_both = ((valid.y > 0) & trusted).any(0) & ((valid.y == 0) & trusted).any(0)
    missing = [name for name, both in zip(valid.classes, has_both, strict=True) if not both]
    if len(missing) == len(valid.classes):
        raise ValueError(
            "the validation set has no class with both positive and negative records; give it "
            "more records"
        )
    if missing:
        warnings.warn(
            f"{', '.join(missing)}: no positives or no negatives among {len(valid)} validation "
            "records; not in the score that chooses the epoch, and its threshold is 0.5",
            metrics.AbsentClassWarning,
            stacklevel=3,
        )
    for what in ("groups", "copies"):
        shared = np.intersect1d(getattr(train, what), getattr(valid, what))
        if len(shared):
            raise ValueError(
                f"{len(shared)} patients or recordings on both sides found ({shared[0]}), none "
                "wanted; split with ecgbook.data.split_by_patient"
            )


def _check_model(model: nn.Module, train: ECGDataset) -> None:
    """Let a model see one record before it is trained on all."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("a model without a parameter to train found, one or more wanted")
    if isinstance(model, TokenClassifier) and model.leads != train.leads:
        raise ValueError(
            f"records with the leads {', '.join(train.leads)} found, {', '.join(model.leads)} "
            "wanted, as the model has; build it with leads=dataset.leads"
        )
    shape = predict_batches(model, [train.batch([0])]).shape
    if shape != (1, len(train.classes)):
        raise ValueError(
            f"logits of shape {shape} for one record found, (1, {len(train.classes)}) wanted: one "
            f"for each of {', '.join(train.classes)}; build the model with "
            f"n_classes={len(train.classes)}"
        )


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Matrices and kernels decay; biases, normalization weights and marked parameters do not."""
    decay, keep = [], []
    for parameter in model.parameters():
        exempt = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
        (keep if exempt else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": recipe.weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]


def _schedule(step: int, n_steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear up, half a cosine down."""
    rising = max(1, round(warmup * n_steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, n_steps - rising)))


def _positive_weight(train: ECGDataset, power: float) -> Tensor:
    positive = (train.y * train.y_mask).sum(0)
    negative = ((1 - train.y) * train.y_mask).sum(0)
    both = (positive > 0) & (negative > 0)
    ratio = np.where(both, negative / np.maximum(positive, 1), 1.0)
    return torch.from_numpy((ratio**power).astype(np.float32))


def fingerprint(*datasets: ECGDataset) -> str:
    """Return a SHA-256 that tells data sets apart.

    Parameters
    ----------
    *datasets : ECGDataset

    Returns
    -------
    str
        Of names, labels, label masks, preprocessing, and one sample, from the middle, of every
        signal: the signals themselves may be too many to read.
    """
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(json.dumps([str(n) for n in dataset.names]).encode())
        for labels in (dataset.y, dataset.y_mask):
            digest.update(np.ascontiguousarray(labels).tobytes())
        for i, n_valid in enumerate(dataset.n_valid):
            digest.update(dataset.x[i][n_valid // 2].tobytes())
        digest.update(json.dumps(dataset.preprocessing.to_dict()).encode())
    return digest.hexdigest()


@contextmanager
def _absence_was_said():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.AbsentClassWarning)
        yield


def _macro(metric: Callable, dataset: ECGDataset, probabilities: np.ndarray) -> float:
    with _absence_was_said():
        return float(metrics.macro(metric(dataset.y, probabilities, mask=dataset.y_mask)))


def _log_loss(dataset: ECGDataset, probabilities: np.ndarray) -> float:
    right = np.where(dataset.y > 0, probabilities, 1 - probabilities)
    return float(-(np.log(np.clip(right, 1e-12, 1)) * dataset.y_mask).mean())


def _predict_shared(
    model: nn.Module, dataset: ECGDataset, recipe: Recipe, accelerator: Accelerator
) -> np.ndarray:
    """Predict with every process doing its part; each gets the whole."""
    parts = np.array_split(np.arange(len(dataset)), accelerator.num_processes)
    mine = dataset.subset(parts[accelerator.process_index])
    with accelerator.autocast():
        probabilities = predict(model, mine, recipe.batch_size)
    return np.concatenate(gather_object([probabilities]))
