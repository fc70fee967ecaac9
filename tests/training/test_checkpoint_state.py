"""What a checkpoint keeps: the best epoch, when to stop, and the scale of half precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgbook.training import Recipe
from ecgbook.training.checkpoints import TrainingState


class Scaler:
    """Keeps a scale, as that of half precision does."""

    def __init__(self, scale):
        self.scale = scale

    def state_dict(self):
        return {"scale": self.scale, "_growth_tracker": 7}

    def load_state_dict(self, state):
        assert state["_growth_tracker"] == 7
        self.scale = state["scale"]


def made(patience=2):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    recipe = Recipe(patience=patience).to_dict()
    return TrainingState(model, torch.optim.AdamW(model.parameters()), recipe, "hash of the data")


def add(state, score, value):
    """Finish an epoch with a score, after a step to weights and predictions of one value."""
    with torch.no_grad():
        state.model.weight.fill_(value)
    state.add({"epoch": state.epoch, "valid_auroc": score}, np.full((3, 5), value))


def test_the_first_of_equal_epochs_is_the_best_and_stays_what_it_was():
    state = made()
    for number, score in enumerate([0.5, 0.7, 0.7, 0.6]):
        add(state, score, float(number))
    assert state.best_epoch == 1
    assert state.best["weight"].unique().tolist() == [1.0]
    assert np.unique(state.best_probabilities).tolist() == [1.0]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_stops_after_as_many_epochs_without_a_better_one(patience):
    state, stopped = made(patience), []
    assert not state.out_of_patience
    for score in (0.5, 0.6, 0.6, 0.4, 0.6):
        add(state, score, 0.0)
        stopped.append(state.out_of_patience)
    assert stopped.index(True) == 1 + patience


def test_a_checkpoint_gives_back_the_best_and_the_last_weights(tmp_path):
    state, again, plain = made(), made(), SimpleNamespace(scaler=None)
    add(state, 0.7, 1.0)
    add(state, 0.6, 2.0)
    state.store(tmp_path / "last.safetensors", plain)
    again.restore(tmp_path / "last.safetensors", plain)
    assert again.model.weight.unique().tolist() == [2.0]
    assert again.best["weight"].unique().tolist() == [1.0]
    assert np.unique(again.best_probabilities).tolist() == [1.0]
    assert (again.best_epoch, again.epoch, again.rows) == (0, 2, state.rows)


def test_the_scale_of_half_precision_goes_on_where_it_was(tmp_path):
    state, path = made(), tmp_path / "last.safetensors"
    add(state, 0.7, 1.0)
    state.store(path, SimpleNamespace(scaler=Scaler(1024.0)))
    fresh = SimpleNamespace(scaler=Scaler(65536.0))
    made().restore(path, fresh)
    assert fresh.scaler.scale == 1024.0
    made().restore(path, SimpleNamespace(scaler=None))  # where there is none, none is wanted
