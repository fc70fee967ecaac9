"""Checkpoints: the whole state of a training run in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..storage import read_safetensors, write_safetensors

_MAY_GROW = ("epochs", "patience")


class TrainingState:
    """Everything that an interruption of a training run must not lose.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    recipe : dict
        The recipe's fields; a checkpoint of another recipe is refused.
    data : str
        A hash of the records; a checkpoint of other records is refused.

    Attributes
    ----------
    rows : list of dict
        What each finished epoch measured.
    best : dict of str to Tensor
        The model's state after the best epoch, `best_epoch`.
    best_probabilities : ndarray, shape (n_valid, n_classes)
        Its predictions on the validation set.
    epochs_before : list of int
        How many epochs the recipe had when the run was begun, and at each time that it was made
        longer; empty if it was not.
    """

    def __init__(self, model: nn.Module, optimizer, recipe: dict, data: str):
        self.model, self.optimizer, self.recipe, self.data = model, optimizer, recipe, data
        self.rows: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.best_probabilities = np.zeros((0, 0))
        self.epochs_before: list[int] = []

    @property
    def epoch(self) -> int:
        """Number of finished epochs, and so of the next one."""
        return len(self.rows)

    @property
    def out_of_patience(self) -> bool:
        """True if the best epoch lies ``patience`` epochs back."""
        return bool(self.rows) and self.epoch - 1 - self.best_epoch >= self.recipe["patience"]

    def add(self, row: dict, probabilities: np.ndarray) -> None:
        """Note a finished epoch's row and validation predictions; keep the model if it is best."""
        self.rows.append(row)
        scores = [r["valid_auroc"] for r in self.rows]
        if self.best_epoch < 0 or scores[-1] > scores[self.best_epoch]:
            self.best_epoch = row["epoch"]
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self.best_probabilities = probabilities

    def store(self, path: Path, accelerator: Accelerator) -> None:
        """Write the state to one file, which is either whole or not there."""
        state = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {
            f"optimizer.{i}.{name}": torch.as_tensor(value)
            for i, slots in state.items()
            for name, value in slots.items()
        }
        tensors["best_probabilities"] = torch.from_numpy(self.best_probabilities)
        header = {
            "recipe": self.recipe,
            "data": self.data,
            "rows": self.rows,
            "best_epoch": self.best_epoch,
            "epochs_before": self.epochs_before,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
        }
        write_safetensors(path, tensors, header)

    def restore(self, path: Path, accelerator: Accelerator) -> None:
        """Read what `store` wrote, into the model and the optimizer too.

        Raises
        ------
        ValueError
            If the file is of another recipe, other records or another model, or damaged.
        """
        tensors, header = read_safetensors(path)
        mine, theirs = self.recipe, header["recipe"]
        for name in mine | theirs:
            before, now = theirs.get(name), mine.get(name)
            if before != now and not (name in _MAY_GROW and now > before):
                raise ValueError(
                    f"{path}: a run with {name}={before!r} found, {name}={now!r} wanted; resume "
                    "with the same recipe (epochs and patience may grow) or train in another folder"
                )
        if header["data"] != self.data:
            raise ValueError(f"{path}: a run on other records found; train in another folder")
        parts: dict[str, dict] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = tensor
        slots: dict[int, dict] = {}
        for name, tensor in parts["optimizer"].items():
            i, _, slot = name.partition(".")
            slots.setdefault(int(i), {})[slot] = tensor
        shapes = {name: tuple(t.shape) for name, t in parts["model"].items()}
        if shapes != {name: tuple(t.shape) for name, t in self.model.state_dict().items()}:
            raise ValueError(f"{path}: a run of another model found; train in another folder")
        self.model.load_state_dict(parts["model"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if accelerator.scaler and header["scaler"]:
            accelerator.scaler.load_state_dict(header["scaler"])
        self.best, self.best_epoch = parts["best"], header["best_epoch"]
        self.best_probabilities = tensors["best_probabilities"].numpy()
        self.rows = header["rows"]
        self.epochs_before = header.get("epochs_before", [])
        if mine["epochs"] > theirs["epochs"]:
            self.epochs_before = [*self.epochs_before, theirs["epochs"]]
