"""Training: learns, resumes bit for bit, survives kills, and splits over processes."""

import datetime
import json
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from waves import small, waves

from ecgbook import storage, training
from ecgbook.attacks import AdversarialTraining, CatastrophicOverfittingWarning
from ecgbook.augment import FrequencyMask, Mixup
from ecgbook.data import ECGDataset
from ecgbook.models import CNNBaseline
from ecgbook.signals import Preprocessing
from ecgbook.training import Recipe, fit, load, loop, multilabel_loss

HERE = str(Path(__file__).parents[1])


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_loss_is_the_masked_cross_entropy_term_by_term():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(7, 5)), rng.integers(0, 2, (7, 5))
    mask, weight = rng.random((7, 5)) < 0.7, rng.random(5) + 0.5
    total = 0.0
    for i in range(7):
        for k in range(5):
            p = 1 / (1 + np.exp(-z[i, k]))
            term = -weight[k] * np.log(p) if y[i, k] else -np.log(1 - p)
            total += term * mask[i, k]
    tensors = [torch.tensor(v) for v in (z, y.astype(float), mask, weight)]
    assert multilabel_loss(*tensors).item() == pytest.approx(total / 35, abs=1e-6)


def test_a_doubtful_label_has_no_gradient():
    z = torch.zeros(2, 5, requires_grad=True)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 2] = False
    multilabel_loss(z, torch.ones(2, 5), mask).backward()
    assert z.grad[1, 2] == 0
    assert (z.grad[mask] != 0).all()


def test_schedule_rises_to_one_and_falls_to_zero():
    values = [loop._schedule(step, 100, 0.1) for step in range(100)]
    assert values[9] == 1.0 and values[0] == pytest.approx(0.1)
    assert all(a < b for a, b in zip(values[:9], values[1:10], strict=True))
    assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False))
    assert values[-1] < 1e-3


def test_biases_and_norms_are_not_decayed():
    model = small()
    decay, keep = loop._parameter_groups(model, Recipe())
    assert {p.ndim for p in decay["params"]} == {2, 3}
    assert {p.ndim for p in keep["params"]} == {1}
    assert keep["weight_decay"] == 0 and decay["weight_decay"] > 0
    n = len(decay["params"]) + len(keep["params"])
    assert n == len(list(model.parameters()))


def test_it_learns_and_keeps_the_best_epoch(tmp_path):
    train, valid, test = waves(192), waves(64, 1000), waves(128, 2000)
    recipe = Recipe(epochs=12, batch_size=32, learning_rate=1e-2)
    bundle = fit(small(), train, valid, recipe, folder=tmp_path, progress=False)
    rows = bundle.card["epochs"]
    assert bundle.card["best_epoch"] == int(np.argmax([r["valid_auroc"] for r in rows]))
    kept = training.predict(bundle.model, valid)
    auroc = loop._macro(loop.metrics.auroc, valid, kept)
    assert auroc == pytest.approx(rows[bundle.card["best_epoch"]]["valid_auroc"], abs=1e-6)
    fresh = loop._macro(loop.metrics.auroc, test, training.predict(bundle.model, test))
    untrained = loop._macro(loop.metrics.auroc, test, training.predict(small(), test))
    assert fresh > 0.9 > untrained
    again = load(tmp_path / "model.safetensors")
    assert states_equal(again.model, bundle.model)
    assert again.preprocessing == train.preprocessing
    np.testing.assert_array_equal(again.thresholds, bundle.thresholds)
    assert json.loads((tmp_path / "training.json").read_text())["best_epoch"] >= 0


def test_early_stopping_looks_at_validation_only():
    train, valid = waves(64), waves(32, 1000)
    rng = np.random.default_rng(0)
    noise = ECGDataset(**{**vars(valid), "y": rng.permuted(valid.y, axis=0)})
    recipe = Recipe(epochs=40, batch_size=32, learning_rate=1e-2, patience=2)
    bundle = fit(small(), train, noise, recipe, progress=False)
    assert len(bundle.card["epochs"]) == bundle.card["best_epoch"] + 3 < 40


class Stopped(Exception):
    pass


def stop_after(n):
    def on_epoch(row):
        if row["epoch"] == n - 1:
            raise Stopped

    return on_epoch


def test_a_run_of_another_model_or_other_labels_or_signals_is_not_resumed(tmp_path):
    train, valid, recipe = waves(32), waves(16, 1000), Recipe(epochs=1)

    def resume(model, train):
        fit(model, train, valid, recipe, tmp_path, resume=True, progress=False)

    resume(small(), train)
    with pytest.raises(ValueError, match="a run of another model found"):
        resume(CNNBaseline(embed_dim=16, stem_width=8, stem_padding=7, n_layers=1), train)
    masked = replace(train, y_mask=train.y_mask & (np.arange(5) != 1))
    louder = replace(train, x=2 * train.x)
    for other in (masked, louder):
        with pytest.raises(ValueError, match="a run on other records found"):
            resume(small(), other)
    resume(small(), train)


def test_mixed_precision_gives_the_model_that_is_stored(tmp_path):
    train, valid = waves(32), waves(16, 1000)
    for number, precision in enumerate(("no", "bf16", "no")):  # in one process
        folder, recipe = tmp_path / str(number), Recipe(epochs=1, precision=precision)
        bundle = fit(small(), train, valid, recipe, folder, progress=False)
        stored = load(folder / "model.safetensors").model
        of_both = [training.predict(model, valid) for model in (bundle.model, stored)]
        np.testing.assert_array_equal(*of_both)


def test_a_folder_that_cannot_be_is_said_before_training(tmp_path):
    (tmp_path / "file").touch()
    untouched, before = small(), small().state_dict()
    with pytest.raises(FileExistsError):
        fit(untouched, waves(32), waves(16, 1000), Recipe(epochs=1), tmp_path / "file")
    assert all(torch.equal(v, before[name]) for name, v in untouched.state_dict().items())


def test_a_class_with_one_kind_of_label_has_weight_one():
    train = waves(32)
    train.y[:, 1], train.y[:, 2] = 0, 1
    weight = loop._positive_weight(train, 0.5)
    assert weight[1] == weight[2] == 1 and weight[0] != 1


PLAIN = Recipe(epochs=4, batch_size=16, learning_rate=5e-3)
ROBUST = replace(
    PLAIN,
    augment=(FrequencyMask(fs_hz=125), Mixup(shares=(0.2, 0.8))),
    adversarial=AdversarialTraining(share=0.5, watched=0),
)


@pytest.mark.parametrize(
    ("recipe", "stop"),
    [(PLAIN, 1), (PLAIN, 2), (PLAIN, 3), (ROBUST, 2)],
    ids=["plain-1", "plain-2", "plain-3", "robust-2"],
)
def test_an_interrupted_run_equals_a_straight_one_bit_for_bit(tmp_path, recipe, stop):
    train, valid = waves(96), waves(48, 1000)
    straight = fit(small(), train, valid, recipe, progress=False)
    with pytest.raises(Stopped):
        fit(small(), train, valid, recipe, tmp_path, progress=False, on_epoch=stop_after(stop))
    torch.manual_seed(99)  # whatever the generator holds by now must not matter
    resumed = fit(small(7), train, valid, recipe, tmp_path, resume=True, progress=False)
    assert len(resumed.card["epochs"]) == 4
    assert states_equal(straight.model, resumed.model)
    losses = [[r["train_loss"] for r in b.card["epochs"]] for b in (straight, resumed)]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(straight.thresholds, resumed.thresholds)


@pytest.mark.parametrize("change", ["augment", "adversarial"])
def test_what_a_recipe_does_to_its_batches_is_trained_on_and_stored(change):
    recipe = replace(PLAIN, epochs=1, **{change: getattr(ROBUST, change)})
    plain, changed = (
        fit(small(), waves(32), waves(16, 1000), r, progress=False)
        for r in (replace(PLAIN, epochs=1), recipe)
    )
    assert not states_equal(plain.model, changed.model)
    assert plain.card["recipe"] | {change: recipe.to_dict()[change]} == changed.card["recipe"]


def test_a_run_without_an_attack_is_not_resumed_with_one(tmp_path):
    sets = waves(32), waves(16, 1000)
    fit(small(), *sets, replace(PLAIN, epochs=1), tmp_path, progress=False)
    attacked = replace(PLAIN, epochs=1, adversarial=ROBUST.adversarial)
    with pytest.raises(ValueError, match="a run with adversarial=None found"):
        fit(small(), *sets, attacked, tmp_path, resume=True, progress=False)
    other = tmp_path / "attacked"
    fit(small(), *sets, attacked, other, progress=False)
    with pytest.raises(ValueError, match="adversarial=None wanted"):
        fit(small(), *sets, replace(PLAIN, epochs=1), other, resume=True, progress=False)


def test_a_gap_between_fgsm_and_pgd_gives_the_alarm(monkeypatch):
    recipe = replace(PLAIN, epochs=2, adversarial=AdversarialTraining(watched=8))
    gaps = iter([0.49, 0.51])
    monkeypatch.setattr(
        AdversarialTraining, "watch", lambda *_: {"fgsm_pgd_gap": next(gaps), "pgd_loss": 1.0}
    )
    with pytest.warns(CatastrophicOverfittingWarning) as said:
        bundle = fit(small(), waves(32), waves(16, 1000), recipe, progress=False)
    assert [str(w.message)[:40] for w in said] == ["epoch 1: FGSM finds 49% of the rise of t"]
    assert [row["fgsm_pgd_gap"] for row in bundle.card["epochs"]] == [0.49, 0.51]


def test_training_leaves_the_global_generator_alone():
    model = small(5)
    state = torch.get_rng_state()
    fit(model, waves(32), waves(16, 1000), Recipe(epochs=1), progress=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_sets_are_refused_by_name():
    train, valid = waves(32), waves(16, 1000)
    with pytest.raises(ValueError, match="on both sides"):
        fit(small(), train, waves(16, 20), Recipe(epochs=1), progress=False)
    other = ECGDataset(**{**vars(valid), "preprocessing": Preprocessing(250, 256)})
    with pytest.raises(ValueError, match="prepare both in the same way"):
        fit(small(), train, other, Recipe(epochs=1), progress=False)
    with pytest.raises(ValueError, match="training set of 0 records"):
        fit(small(), train.subset([]), valid, Recipe(epochs=1), progress=False)
    silent = ECGDataset(**{**vars(valid), "y": np.zeros_like(valid.y)})
    with pytest.raises(ValueError, match="no class with both"):
        fit(small(), train, silent, Recipe(epochs=1), progress=False)


def test_a_rhythm_that_validation_lacks_is_said_once():
    valid = waves(16, 1000)
    valid.y[:, 2] = 0
    with pytest.warns(loop.metrics.AbsentClassWarning) as said:
        bundle = fit(small(), waves(32), valid, Recipe(epochs=2), progress=False)
    assert len(said) == 1 and "AFL: no positives" in str(said[0].message)
    assert bundle.thresholds[2] == 0.5
    assert all(0 <= row["valid_auroc"] <= 1 for row in bundle.card["epochs"])


def test_a_diverging_run_is_stopped_and_said():
    train = waves(32)
    train.x[0, 10, 3] = np.inf
    with pytest.raises(ValueError, match="training loss nan and probabilities"):
        fit(small(), train, waves(16, 1000), Recipe(epochs=1), progress=False)


DISTRIBUTED = textwrap.dedent(
    """
    import torch
    from waves import small, waves
    import json, sys
    from accelerate import Accelerator
    from ecgbook.training import Recipe, fit
    torch.set_num_threads(1)
    train, valid = waves(64), waves(31, 1000)
    model = small(dropout=0.0)
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=5e-3)
    bundle = fit(model, train, valid, recipe, progress=False)
    if Accelerator().is_main_process:
        json.dump([Accelerator().num_processes, bundle.card["epochs"]], open(sys.argv[1], "w"))
    """
)


def test_two_gloo_processes_give_the_loss_of_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": HERE,
    }
    rows = {}
    for n in (1, 2):
        out = tmp_path / f"{n}.json"
        command = [sys.executable]
        if n > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        subprocess.run([*command, script, out], env=environment, check=True)
        processes, rows[n] = json.loads(out.read_text())
        assert processes == n
    assert len(rows[1]) == 3
    for one, two in zip(rows[1], rows[2], strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
        assert two["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_an_interrupted_fit_leaves_no_autocast_behind(precision):
    model, recipe = small(), Recipe(epochs=3, precision=precision)

    def interrupted(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, waves(32), waves(16, 1000), recipe, progress=False, on_epoch=interrupted)
    assert "forward" not in vars(model)
    assert model.eval()(torch.zeros(1, 256, 12)).dtype == torch.float32


class Own(torch.nn.Module):
    """A reader's module."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(12, 5)

    def forward(self, x, mask=None):
        return self.linear(x.mean(1))


def test_an_own_module_trains_and_is_refused_where_it_could_not_be_saved(tmp_path):
    epochs = []
    sets, recipe = (waves(32), waves(16, 1000)), Recipe(epochs=2)
    with pytest.raises(ValueError, match="a model of class Own found.*train it without a folder"):
        fit(Own(), *sets, recipe, tmp_path / "run", progress=False, on_epoch=epochs.append)
    assert not epochs and not (tmp_path / "run").exists()
    bundle = fit(Own(), *sets, recipe, progress=False)
    assert bundle.card["best_epoch"] in (0, 1)


def test_fp16_on_a_cpu_is_refused_and_not_silently_float32():
    if torch.cuda.is_available():
        pytest.skip("this machine can train in fp16")
    with pytest.raises(
        ValueError, match="precision='fp16' found on a CPU, .* use precision='bf16'"
    ):
        fit(small(), waves(32), waves(16, 1000), Recipe(precision="fp16"), progress=False)


@pytest.mark.parametrize("about", [{"when": datetime.date(2026, 1, 1)}, {"loss": float("inf")}])
def test_a_card_that_json_cannot_hold_is_refused_before_the_first_epoch(tmp_path, about):
    epochs, (key,) = [], about
    with pytest.raises(ValueError, match=f"{key} of class .* found in the card, plain values"):
        fit(
            small(), waves(32), waves(16, 1000), Recipe(), tmp_path / "run",
            progress=False, on_epoch=epochs.append, about=about,
        )  # fmt: skip
    assert not epochs and not (tmp_path / "run").exists()
    about = {"mean": np.float32(0.5), "shape": (2, 3), "rows": np.arange(3)}
    bundle = fit(
        small(), waves(32), waves(16, 1000), Recipe(epochs=1), tmp_path / "run",
        progress=False, about=about,
    )  # fmt: skip
    assert load(tmp_path / "run").card["rows"] == [0, 1, 2] and bundle.card["shape"] == (2, 3)


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_one_whole(tmp_path):
    sets, said = (waves(32), waves(16, 1000)), []

    def meanwhile(row):
        with pytest.raises(OSError, match="another process .* is writing here"):
            fit(small(1), *sets, Recipe(epochs=1), tmp_path, resume=True, progress=False)
        said.append(row)

    first = fit(small(), *sets, Recipe(epochs=2), tmp_path, progress=False, on_epoch=meanwhile)
    assert len(said) == 2 and states_equal(load(tmp_path).model, first.model)
    assert load(tmp_path).card == json.loads((tmp_path / "training.json").read_text())


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_model_without_its_checkpoint_is_not_overwritten(tmp_path, resume):
    sets = waves(32), waves(16, 1000)
    fit(small(), *sets, Recipe(epochs=1), tmp_path, progress=False)
    (tmp_path / "last.safetensors").unlink()
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="model.safetensors: a model found without the checkpoint"):
        fit(small(1), *sets, Recipe(epochs=1), tmp_path, resume, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_run_may_be_made_longer_and_its_card_says_so(tmp_path):
    sets, short = (waves(96), waves(48, 1000)), replace(PLAIN, epochs=2)
    fit(small(), *sets, short, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"epochs=2 found, epochs=1 wanted; .* may grow"):
        fit(small(), *sets, replace(PLAIN, epochs=1), tmp_path, resume=True, progress=False)
    rates = []
    longer = replace(PLAIN, epochs=4, patience=9)
    with torch_steps(rates):
        bundle = fit(small(7), *sets, longer, tmp_path, resume=True, progress=False)
    n_steps = 96 // PLAIN.batch_size
    wanted = [
        loop._schedule(step, 4 * n_steps, PLAIN.warmup) * PLAIN.learning_rate
        for step in range(2 * n_steps, 4 * n_steps)
    ]
    np.testing.assert_allclose(rates, wanted, err_msg="the schedule is that of the longer run")
    assert [row["epoch"] for row in bundle.card["epochs"]] == [0, 1, 2, 3]
    assert bundle.card["epochs_before"] == [2] and bundle.card["recipe"]["epochs"] == 4
    longest = fit(small(), *sets, replace(longer, epochs=5), tmp_path, resume=True, progress=False)
    assert longest.card["epochs_before"] == [2, 4] and len(longest.card["epochs"]) == 5
    assert "epochs_before" not in fit(small(), *sets, short, progress=False).card


@contextmanager
def torch_steps(rates):
    """Note the learning rate of every step of AdamW."""
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noted)
        yield


def test_a_disk_without_room_is_said_before_the_first_epoch(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    epochs = []
    with pytest.raises(OSError, match="No space left on device found, room for 0.. MB of checkpoi"):
        fit(
            small(), waves(32), waves(16, 1000), Recipe(epochs=1), tmp_path,
            progress=False, on_epoch=epochs.append,
        )  # fmt: skip
    assert not epochs and not [p for p in tmp_path.iterdir() if p.name[0] != "."]


def test_a_stored_recipe_trains_the_same_model_again(tmp_path):
    sets = waves(64), waves(48, 1000)
    first = fit(small(), *sets, replace(ROBUST, epochs=2), tmp_path, progress=False)
    recipe = Recipe.from_dict(load(tmp_path).card["recipe"])
    assert recipe == replace(ROBUST, epochs=2)
    assert states_equal(first.model, fit(small(), *sets, recipe, progress=False).model)


def test_a_learning_rate_that_breaks_the_model_is_named():
    recipe = Recipe(epochs=3, learning_rate=1e30, warmup=0.0)
    with pytest.raises(ValueError, match=r"lower learning_rate=1e\+30 or check the records"):
        fit(small(), waves(64), waves(16, 1000), recipe, progress=False)
