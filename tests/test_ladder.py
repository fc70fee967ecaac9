"""The ladder: rungs that build, results that belong together, tables that show them."""

import importlib.util
import json
import sys
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgbook import ladder, metrics, results, training
from ecgbook.data import ECGDataset
from ecgbook.labels import RHYTHMS
from ecgbook.signals import Preprocessing
from ecgbook.storage import write_json
from ecgbook.training import Recipe

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
EVERY = [
    (rung, data) for data in ladder.ROWS for rung in (ladder.RUNGS[n] for n in ladder.ROWS[data])
]
EVERY += [(rung, "synthetic") for rung in ladder.LEFT_OUT]
NAMED = [f"{rung.name}, {data}" for rung, data in EVERY]


def test_every_rung_builds_and_classifies():
    rungs = [*ladder.RUNGS, *ladder.LEFT_OUT]
    for rung in rungs:
        torch.manual_seed(0)
        assert rung.build()(torch.zeros(1, 1024, 12)).shape == (1, 5)
    assert len({rung.name for rung in rungs}) == len(rungs)


def test_a_step_within_one_class_changes_only_what_it_is_named_for():
    configs = [rung.build().config for rung in ladder.RUNGS[2:6]]
    named = ({"bidirectional": True}, {"use_multi_branch": True}, {"use_attention": True})
    for before, after, what in zip(configs, configs[1:], named, strict=False):
        assert after == before | what and before != after
    whole = configs[-1]
    branches, direction, *_ = (rung.build().config for rung in ladder.LEFT_OUT)
    assert branches == whole | {"use_multi_branch": False}
    assert direction == whole | {"bidirectional": False}


def test_the_last_steps_change_only_how_the_whole_is_trained():
    four = ladder.ROBUST
    assert all(rung.build().config == ladder.WHOLE.build().config for rung in four.values())
    clean, adversarial, masked, both = (rung.recipe(Recipe()) for rung in four.values())
    assert all(rung.start is ladder.WHOLE for rung in four.values())
    assert adversarial == replace(clean, adversarial=both.adversarial) != clean
    assert masked == replace(clean, augment=both.augment) != clean
    assert both == replace(masked, adversarial=adversarial.adversarial)


def test_a_rung_is_compared_with_the_one_before_it_that_was_run_or_with_the_whole():
    assert ladder.reference(ladder.RUNGS[0], "synthetic") is None
    assert ladder.reference(ladder.RUNGS[5], "synthetic") is ladder.RUNGS[4]
    assert ladder.reference(ladder.RUNGS[3], "real") is ladder.RUNGS[2]
    assert ladder.reference(ladder.RUNGS[5], "real") is ladder.RUNGS[3]
    assert ladder.reference(ladder.RUNGS[5], "fine-tuned") is ladder.RUNGS[1]
    references = [ladder.reference(rung, "synthetic") for rung in ladder.LEFT_OUT]
    assert references == [ladder.WHOLE] * 2 + [ladder.RUNGS[-1]] * 2


def committed(rung, data):
    row = results("ladder")["rows"][rung.name]
    return row, row[data]


@pytest.mark.parametrize(("rung", "data"), EVERY, ids=NAMED)
def test_the_committed_results_hold_three_seeds_and_provenance(rung, data):
    row, scores = committed(rung, data)
    assert row["parameters"] == sum(p.numel() for p in rung.build().parameters())
    assert scores["seeds"] >= 3 and len(scores["auroc_by_seed"]) == scores["seeds"]
    mean = sum(scores["auroc_by_seed"]) / scores["seeds"]
    assert scores["auroc"]["macro"][0] == pytest.approx(mean)
    value, low, high = scores["auroc"]["macro"]
    assert 0.5 < low < value < high < 1
    assert {"commit", "command", "device", "versions"} <= set(scores["provenance"])
    assert scores["provenance"]["data_sha256"]


@pytest.mark.parametrize(("rung", "data"), EVERY, ids=NAMED)
def test_each_committed_change_is_that_of_two_rows_on_the_same_records(rung, data):
    _, after = committed(rung, data)
    before = ladder.reference(rung, data)
    if before is None:
        assert "change" not in after
        return
    _, before = committed(before, data)
    assert before["provenance"]["data_sha256"] == after["provenance"]["data_sha256"]
    compared = {"change": before}
    if rung is ladder.WHOLE:
        compared["change_to_baseline"] = committed(ladder.RUNGS[0], data)[1]
    for name, other in compared.items():
        for metric in ("auroc", "auprc"):
            value, low, high = after[name][metric]
            assert value == pytest.approx(after[metric]["macro"][0] - other[metric]["macro"][0])
            assert value == pytest.approx(np.mean(after[name][f"{metric}_by_seed"]))
            assert low < value < high


@pytest.fixture(scope="module")
def script():
    return load_experiment()


@pytest.mark.parametrize(("rung", "data"), EVERY, ids=NAMED)
def test_each_committed_value_follows_from_the_predictions_and_labels_beside_it(rung, data, script):
    _, scores = committed(rung, data)
    runs = script.finished(rung, data, scores["provenance"]["data_sha256"])
    test = script.read_labels(data)
    assert runs is not None and len(runs) == scores["seeds"]
    assert len(test) == scores["records"] == len(runs[0].probabilities)
    for name in ("auroc", "auprc", "ece", "brier"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", metrics.AbsentClassWarning)
            metric = getattr(metrics, name)
            each = [metric(test.y, run.probabilities, mask=test.y_mask) for run in runs]
        mean = np.mean(each, axis=0)
        assert scores[name]["macro"][0] == pytest.approx(np.nanmean(mean))
        for rhythm, value in zip(RHYTHMS, mean, strict=True):
            assert scores[name][rhythm][0] == pytest.approx(value)
    for run, auroc in zip(runs, scores["auroc_by_seed"], strict=True):
        assert run.header["scores"]["auroc"]["macro"][0] == pytest.approx(auroc)
    value, low, high = scores["seeds_together"]["auroc"]["macro"]
    assert low < value < high and value > min(scores["auroc_by_seed"])


@pytest.mark.parametrize(
    ("rung", "data"), [(ladder.RUNGS[5], "fine-tuned"), (ladder.LEFT_OUT[0], "synthetic")]
)
@pytest.mark.filterwarnings("ignore::ecgbook.metrics.AbsentClassWarning")
def test_the_committed_intervals_follow_from_them_too(rung, data, script):
    _, scores = committed(rung, data)
    sha256, test = scores["provenance"]["data_sha256"], script.read_labels(data)
    runs = script.finished(rung, data, sha256)
    p = np.stack([run.probabilities for run in runs])
    drawn = metrics.bootstrap(metrics.auroc, test.y, p, groups=test.groups, mask=test.y_mask)
    assert drawn.average().as_list() == pytest.approx(scores["auroc"]["macro"])
    before = script.finished(ladder.reference(rung, data), data, sha256)
    found = script.change(before, runs, test)
    for name in ("auroc", "auprc"):
        assert found[name] == pytest.approx(scores["change"][name])
    # F1 needs the thresholds of each run, which early ones did not keep: no interval is claimed.
    if all(run.thresholds is None for run in runs):
        assert scores["f1"]["macro"][1:] == [None, None]


def load_experiment():
    spec = importlib.util.spec_from_file_location("ladder_script", EXPERIMENTS / "run_ladder.py")
    module = sys.modules["ladder_script"] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)  # it imports its neighbour
        spec.loader.exec_module(module)
    return module


CNN, VISION = ladder.RUNGS[:2]


def guesses(y, number, seed):
    """Make up probabilities that are hard for the same records in every row, better higher up."""
    hard = np.random.default_rng(0).random(y.shape)
    own = np.random.default_rng([number, seed]).random(y.shape)
    return ((0.1 + 0.1 * number) * y + hard + 0.3 * own).astype(np.float32) / 2


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """The script, writing to a folder of the test, with predictions that no model made."""
    module = load_experiment()

    def predictions(rung, recipe, parts):
        number = [r.name for r in ladder.RUNGS].index(rung.name)
        return guesses(parts["test"].y, number, recipe.seed), np.full(5, 0.5), [1]

    monkeypatch.setattr(module, "RESULT", tmp_path / "ladder.json")
    monkeypatch.setattr(module, "PREDICTIONS", tmp_path / "predictions")
    monkeypatch.setattr(module, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(module, "ms_per_record", lambda: {r.name: 1.0 for r in ladder.RUNGS})
    monkeypatch.setitem(module.WORK, "real", predictions)
    monkeypatch.setattr(training, "evaluate", partial(training.evaluate, n_draws=50))
    monkeypatch.setattr(module, "bootstrap", partial(module.bootstrap, n_draws=50))
    return module


@pytest.fixture
def parts():
    y = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(np.float32)
    number = np.arange(len(y))
    dataset = ECGDataset(
        x=np.zeros((len(y), 64, 12), np.float32),
        n_valid=np.full(len(y), 64),
        y=y,
        y_mask=np.ones(y.shape, bool),
        names=number.astype(str),
        databases=number.astype(str),
        groups=number // 2,
        copies=number,
        preprocessing=Preprocessing(fs_hz=125, n_samples=64),
    )
    return {"test": dataset}


def rows_of(experiment):
    return json.loads(experiment.RESULT.read_text())["rows"]


def test_a_row_is_written_when_all_its_seeds_are_there(experiment, parts, capsys):
    for seed in (2, 0):
        experiment.run(CNN, "real", seed, parts, "hash")
    experiment.write_row(CNN, "real", parts["test"], "hash")
    assert not experiment.RESULT.exists() and "seeds are missing" in capsys.readouterr().out
    experiment.run(CNN, "real", 1, parts, "another hash")  # of other records: not of this row
    experiment.write_row(CNN, "real", parts["test"], "hash")
    assert not experiment.RESULT.exists()
    experiment.run(CNN, "real", 1, parts, "hash")
    experiment.write_row(CNN, "real", parts["test"], "hash")
    scores = rows_of(experiment)["CNN baseline"]["real"]
    assert scores["seeds"] == 3 and "change" not in scores
    for seed, auroc in enumerate(scores["auroc_by_seed"]):
        y = parts["test"].y
        assert auroc == pytest.approx(np.mean(metrics.auroc(y, guesses(y, 0, seed))))


def test_the_kept_labels_and_predictions_give_the_rows_again(experiment, parts, monkeypatch):
    monkeypatch.setattr(experiment, "rungs_of", lambda _: [CNN, VISION])
    labels = experiment.keep_labels("real", parts["test"])
    for rung in (CNN, VISION):
        for seed in experiment.SEEDS:
            experiment.run(rung, "real", seed, parts, "hash")
        experiment.write_row(rung, "real", labels, "hash")
    rows = rows_of(experiment)
    assert rows["Vision Mamba"]["real"]["challenge"] and rows["Vision Mamba"]["real"]["change"]
    experiment.recompute(["real"])
    assert rows_of(experiment) == rows


@pytest.mark.parametrize("order", [(CNN, VISION), (VISION, CNN)], ids=["up", "down"])
def test_the_change_is_the_difference_whichever_row_is_ready_first(experiment, parts, order):
    for rung in order:
        for seed in experiment.SEEDS:
            experiment.run(rung, "real", seed, parts, "hash")
        experiment.write_row(rung, "real", parts["test"], "hash")
    rows = rows_of(experiment)
    assert list(rows) == [rung.name for rung in ladder.RUNGS[:2]]
    before, after = (row["real"] for row in rows.values())
    for metric in ("auroc", "auprc"):
        value, low, high = after["change"][metric]
        assert value == pytest.approx(after[metric]["macro"][0] - before[metric]["macro"][0])
        assert low < value < high
    by_seed = np.subtract(after["auroc_by_seed"], before["auroc_by_seed"])
    assert after["change"]["auroc_by_seed"] == pytest.approx(by_seed)
    # paired: narrower than if the records of the two rows had nothing to do with each other
    _, low, high = after["change"]["auroc"]
    widths = [row["auroc"]["macro"][2] - row["auroc"]["macro"][1] for row in (before, after)]
    assert high - low < 0.8 * np.hypot(*widths) and "change" not in before


def test_a_change_to_runs_that_are_no_longer_there_is_dropped(experiment, parts):
    for rung in (CNN, VISION):
        for seed in experiment.SEEDS:
            experiment.run(rung, "real", seed, parts, "hash")
        experiment.write_row(rung, "real", parts["test"], "hash")
    assert "change" in rows_of(experiment)["Vision Mamba"]["real"]
    experiment.run_file(VISION, "real", 0).unlink()
    experiment.write_row(CNN, "real", parts["test"], "hash")
    row = rows_of(experiment)["Vision Mamba"]["real"]
    assert "change" not in row and row["seeds"] == 3


def test_rows_that_are_written_at_the_same_time_do_not_lose_each_other(
    experiment, parts, monkeypatch
):
    def slow(path, content):
        time.sleep(0.3)  # the other row has read the file by now, if it may
        write_json(path, content)

    monkeypatch.setattr(experiment, "write_json", slow)
    monkeypatch.setattr(experiment, "change", lambda *_: {"auroc": [0, 0, 0]})
    for rung in (CNN, VISION):
        for seed in experiment.SEEDS:
            experiment.run(rung, "real", seed, parts, "hash")
    threads = [
        threading.Thread(target=experiment.write_row, args=(r, "real", parts["test"], "hash"))
        for r in (CNN, VISION)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(experiment)
    assert set(rows) == {"CNN baseline", "Vision Mamba"}
    assert "change" in rows["Vision Mamba"]["real"]


def test_a_rung_that_starts_from_another_trains_that_ones_model_of_the_same_seed(
    experiment, parts, monkeypatch, tmp_path
):
    monkeypatch.setattr(experiment, "MODELS", tmp_path)
    recipe = {"epochs": 1, "learning_rate": 1e-3}
    further = ladder.Rung("further", 11, CNN.model, CNN.arguments, recipe, start=CNN)
    first, trained = {}, []

    def fit(model, train, valid, recipe, folder, resume, progress):
        first[folder.name] = [p.clone() for p in model.parameters()]
        trained.append((folder.name, recipe.epochs))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        card = {"recipe": recipe.to_dict(), "epochs": [{}]}
        bundle = training.Bundle(model, experiment.STEPS, np.full(5, 0.5), card)
        training.save(bundle, folder / "model.safetensors")

    monkeypatch.setattr(experiment, "fit", fit)
    parts = {"train": parts["test"], "valid": parts["test"]}
    experiment.trained_on_synthetic(further, 2, parts)
    names = [experiment.run_file(rung, "synthetic", 2).stem for rung in (CNN, further)]
    epochs = experiment.RECIPE["synthetic"].epochs
    assert trained == list(zip(names, (epochs, 1), strict=True))
    for before, after in zip(*(first[name] for name in names), strict=True):
        torch.testing.assert_close(after, before + 1)
    about = experiment.task(further, "synthetic", 2, "hash")
    assert about["pretraining"]["epochs"] == epochs and about["recipe"]["epochs"] == 1
    assert "pretraining" not in experiment.task(CNN, "synthetic", 2, "hash")


def test_a_kept_model_of_another_recipe_or_rung_is_refused(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "MODELS", tmp_path)
    recipe = replace(experiment.RECIPE["synthetic"], seed=1)
    model = CNN.build().eval()
    file = tmp_path / experiment.run_file(CNN, "synthetic", 1).stem / "model.safetensors"

    def keep(**card):
        bundle = training.Bundle(model, experiment.STEPS, np.full(5, 0.5), card)
        training.save(bundle, file)

    keep(recipe=recipe.to_dict())
    found = experiment.trained_on_synthetic(CNN, 1, {}).model
    assert found.config == model.config
    keep(recipe=replace(recipe, epochs=recipe.epochs + 1).to_dict())
    with pytest.raises(ValueError, match="CNN baseline as it is now wanted; delete its folder"):
        experiment.trained_on_synthetic(CNN, 1, {})
    keep(recipe=recipe.to_dict())
    deeper = replace(CNN, arguments={**CNN.arguments, "n_layers": 5})
    with pytest.raises(ValueError, match="another rung or recipe found"):
        experiment.trained_on_synthetic(deeper, 1, {})


@pytest.fixture
def made_up(monkeypatch):
    entry = {name: [0.5, 0.4, 0.6] for name in ("macro", *RHYTHMS)}
    entry["AFL"] = [None, None, None]
    scores = {"auroc": entry, "auprc": entry, "f1": {**entry, "macro": [0.1234, 0.1, 0.2]}}
    scores["positives"] = dict(zip(RHYTHMS, (900, 80, 12, 60, 20), strict=True))
    row = {"parameters": 1234567, "ms_per_record": 2.345, "real": scores}
    better = row | {"real": scores | {"change": {"auroc": [0.0126, -0.003, 0.028]}}}
    result = {"rows": {ladder.RUNGS[0].name: row, ladder.RUNGS[1].name: better}}
    monkeypatch.setattr(ladder, "results", lambda name: json.loads(json.dumps(result)))


def plain(text):
    """Without what keeps the bounds of an interval on one line."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_table_shows_the_numbers(made_up):
    head, _, first, second = plain(ladder.table("real", upto=1)).splitlines()
    assert first == (
        "| 0 | CNN baseline | 1,234,567 | 2.3 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] "
        "| 0.123 [0.100, 0.200] | – |"
    )
    assert second.startswith("| 1 | Vision Mamba |")
    assert second.endswith("| +0.013 [-0.003, +0.028] not shown |")
    assert head.count("|") == first.count("|") == second.count("|")
    assert plain(ladder.table("real", upto=0)).splitlines() == [head, _, first]


def test_the_whole_minus_a_part_is_compared_with_the_whole(monkeypatch):
    def row(value, **more):
        entry = {"macro": [value, value - 0.01, value + 0.01]}
        scores = {"auroc": entry, "auprc": entry, "f1": entry, **more}
        return {"parameters": 1000, "ms_per_record": 1.0, "synthetic": scores}

    rows = {
        ladder.RUNGS[4].name: row(0.95),
        ladder.WHOLE.name: row(0.96, change={"auroc": [0.01, -0.002, 0.025]}),
        ladder.LEFT_OUT[0].name: row(0.94, change={"auroc": [-0.02, -0.03, -0.01]}),
        ladder.LEFT_OUT[1].name: row(0.97, change={"auroc": [0.01, 0.0, 0.02]}),
    }
    monkeypatch.setattr(ladder, "results", lambda name: {"rows": rows})
    whole, branches, direction, attention = plain(ladder.leave_one_out()).splitlines()[2:]
    assert whole.startswith("| the whole | 1,000 | 1.0 | 0.960 ") and whole.endswith("| – |")
    assert branches.endswith("| -0.020 [-0.030, -0.010] worse |") and "without branches" in branches
    assert direction.endswith("| +0.010 [+0.000, +0.020] not shown |")
    assert attention.startswith("| without self-attention | 1,000 | 1.0 | 0.950 ")
    assert attention.endswith("| -0.010 [-0.025, +0.002] not shown |")


def test_a_table_of_what_was_not_run_says_what_to_run(made_up):
    with pytest.raises(ValueError, match="data='reel' found"):
        ladder.table("reel")
    with pytest.raises(
        ValueError, match=r"Mamba-2, one .* run python experiments/run_ladder.py --rows 2 --da"
    ):
        ladder.table("real")
    with pytest.raises(
        ValueError, match="without branches .*experiments/run_ladder.py --rows --left"
    ):
        ladder._scores(ladder.LEFT_OUT[0], "synthetic")
    with pytest.raises(ValueError, match="CNN baseline has no results on synthetic"):
        ladder.rhythm_table(0, "synthetic")


def test_the_rhythm_table_marks_the_rare_and_says_what_is_not_defined(made_up):
    lines = {
        line.split("|")[1].strip(): line for line in ladder.rhythm_table(0, "real").splitlines()
    }
    assert "AFL †" in lines and "not defined" in lines["AFL †"]
    assert "PVC" in lines and "PVC †" not in lines  # 20 is enough
    assert "| 900 |" in lines["SR"]
