"""The experiment on robustness: its conditions, its records, and what its results file holds."""

import json
import sys

import numpy as np
import pytest
import torch
from waves import small, waves

from ecgbook import data, ladder, metrics, synthetic
from ecgbook.training import Bundle
from scripts import EXPERIMENTS, imported

RESULT = EXPERIMENTS / "results" / "robust.json"


@pytest.fixture(scope="module")
def robust():
    """The script as a module; its folder is searched only while it is imported."""
    names = ("run_robust", "disturbances", "run_ladder", "provenance")
    with imported(EXPERIMENTS, *names) as scripts:
        yield scripts.run_robust


@pytest.fixture
def disturbances(robust):
    return sys.modules["disturbances"]


@pytest.fixture
def bundle():
    return Bundle(small(dropout=0.0).eval(), waves(1).preprocessing, np.full(5, 0.5), {})


def test_all_seeds_meet_every_attack_at_every_budget_and_seed_0_the_strongest(robust):
    def plan(seed, source):
        return [each for step in robust.attack_plan(seed, source) for each in step]

    every = {("clean", 0)} | {
        (name, uv) for name in ("random noise", *robust.ATTACKS) for uv in robust.EPSILON_UV
    }
    for seed, source in ((1, "synthetic"), (0, "real"), (2, "real")):
        assert len(plan(seed, source)) == len(every) and set(plan(seed, source)) == every
    assert set(plan(0, "synthetic")) - every == {
        ("pgd, 50 steps, 5 starts", 25),
        ("pgd, label by label", 25),
    }


def test_attacks_are_stored_one_by_one_and_not_repeated(
    robust, disturbances, bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(robust, "RUNS", tmp_path)
    monkeypatch.setattr(robust, "attack_plan", lambda seed, source: [[("clean", 0)], PLAN])
    bundle.card.update(recipe={}, epochs=[])
    PLAN = [("random noise", 25), ("fgsm", 25)]
    met = []

    def under_attack(name, *_):
        met.append(name)
        if len(met) == 3:
            raise KeyboardInterrupt
        return torch.zeros(4, 5)

    monkeypatch.setattr(disturbances, "under_attack", under_attack)
    models, records = {("clean", 0): bundle}, waves(4)
    with pytest.raises(KeyboardInterrupt):
        robust.attack_all(models, "synthetic", records, "sha")
    robust.attack_all(models, "synthetic", records, "sha")
    assert met == ["clean", "random noise", "fgsm", "fgsm"]
    file = robust.run_file("synthetic", "attacks", "clean", 0)
    found = robust.stored(file, robust.task(bundle, "sha"))
    assert set(found) == {"clean", "random noise/25", "fgsm/25"}
    assert robust.stored(file, robust.task(bundle, "other records")) == {}


def test_models_are_compared_under_what_all_of_them_met_with_a_seed(robust):
    runs = {
        "clean": [{"clean": 0, "pgd/25": 1}, {"clean": 2}],
        "both": [{"clean": 3, "pgd/25": 4, "fgsm/5": 5}, {}],
    }
    assert robust.in_common(runs) == {
        "clean": [{"clean": 0, "pgd/25": 1}, {}],
        "both": [{"clean": 3, "pgd/25": 4}, {}],
    }


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "smooth", "lead-consistent pgd"])
def test_attacks_in_the_plan_do_more_harm_than_noise_of_their_size(disturbances, bundle, name):
    batch = waves(16).batch(range(16))

    def loss(name):
        generator = torch.Generator().manual_seed(0)
        p = disturbances.under_attack(name, bundle, batch, 25, generator)
        return -torch.where(batch["y"] > 0, p, 1 - p).log().mean().item()

    assert loss("clean") < loss(name) and loss("random noise") < loss(name)


def test_label_by_label_each_column_is_the_worst_for_its_label(disturbances, bundle):
    batch = waves(16).batch(range(16))
    joint, single = (
        disturbances.under_attack(name, bundle, batch, 25, None)
        for name in ("pgd", "pgd, label by label")
    )
    harm = torch.where(batch["y"] > 0, joint - single, single - joint)
    assert harm.mean() > 0 and (harm > -1e-3).all()


def test_chosen_records_show_the_rhythms_evenly_and_do_not_depend_on_their_order(robust):
    records = waves(200)
    records.y[:] = 0
    records.y[np.arange(200), np.repeat(range(5), [120, 40, 20, 15, 5])] = 1
    chosen = robust.choose(records, 60)
    assert chosen.y.sum(0).tolist() == [14, 14, 14, 13, 5]
    assert robust.choose(records, 999).names.tolist() == records.names.tolist()
    assert len(set(chosen.names)) == 60


def test_noise_goes_through_the_whole_preprocessing(disturbances):
    record = synthetic.make_records(1, seed=3)[0]
    steps = disturbances.STEPS
    generator = torch.Generator().manual_seed(0)
    mains = disturbances.prepared_noise(record.signal_mv, "mains", generator)
    muscle = disturbances.prepared_noise(record.signal_mv, "muscle", generator)
    power = [float((each**2).sum()) for each in (mains, muscle, steps(record.signal_mv, 500)[0])]
    assert power[0] < 0.1 * power[2] and 0.2 * power[2] < power[1] < 0.9 * power[2]
    assert not muscle[round(10 * steps.fs_hz) :].any()  # padding


@pytest.mark.parametrize("fs_hz", [100, 257, 1000])
def test_any_rate_gets_every_kind_of_noise(robust, disturbances, monkeypatch, tmp_path, fs_hz):
    made = synthetic.make_records(2, seed=4, fs_hz=fs_hz, seconds=25)
    found = {tmp_path / f"{record.name}.hea": record for record in made}
    monkeypatch.setattr(data, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(disturbances, "read_record", found.__getitem__)
    records = data.from_records(made, disturbances.STEPS)
    raw = disturbances.raw_signals("real", records)
    for signal_mv, x in zip(raw, records.x, strict=True):
        again = disturbances.STEPS(signal_mv, disturbances.NOISE_FS_HZ)[0]
        # The band-pass ran twice, and the cut may be off by less than a sample.
        assert np.square(again).mean() == pytest.approx(np.square(x).mean(), rel=0.1)
    noisy = dict(disturbances.disturbed("noise", records, raw))
    assert len(noisy) == 25 and np.isfinite(noisy["mains/-6"].x).all()


def test_disturbed_records_are_the_same_records(robust, disturbances):
    records = data.from_records(synthetic.make_records(2, seed=1), disturbances.STEPS)
    raw = [record.signal_mv for record in synthetic.make_records(2, seed=1)]
    for part, count in (("noise", 24), ("bands", 7)):
        found = dict(robust.disturbed(part, records, raw))
        assert len(found) == 1 + count and found["clean"] is records
        for name, changed in found.items():
            assert changed.names.tolist() == records.names.tolist()
            assert name == "clean" or abs(changed.x - records.x).max() > 1e-3
    low, high = (dict(robust.disturbed("noise", records, raw))[f"muscle/{db}"] for db in (-6, 24))
    ratio = np.square(low.x - records.x).sum() / np.square(high.x - records.x).sum()
    assert 10 * np.log10(ratio) == pytest.approx(30, abs=0.01)  # the same noise, larger


def test_scores_are_means_over_the_seeds_that_met_a_condition(robust):
    records = waves(40)
    rng = np.random.default_rng(0)
    runs = [
        {"clean": rng.random((40, 5)).astype(np.float32), "pgd/25": rng.random((40, 5))},
        {"clean": rng.random((40, 5)).astype(np.float32)},
    ]
    found = robust.scored(runs, records, [np.full(5, 0.5)] * 2)
    each = [metrics.auroc(records.y, run["clean"]) for run in runs]
    assert found["clean"]["auroc"]["macro"][0] == pytest.approx(np.mean(each))
    assert found["clean"]["auroc"]["AF"][0] == pytest.approx(np.mean([e[1] for e in each]))
    assert found["clean"]["seeds"] == 2 and found["pgd/25"]["seeds"] == 1
    better = [{"clean": run["clean"] + records.y} for run in runs]
    value, low, high = robust.change([{"clean": r["clean"]} for r in runs], better, records)[
        "clean"
    ]
    assert value == pytest.approx(1 - np.mean(each)) and low < value < high


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULT.read_text(encoding="utf-8"))


SOURCES = ("synthetic", "real")
WAYS = tuple(ladder.ROBUST)


@pytest.mark.parametrize("source", SOURCES)
def test_the_committed_results_hold_three_seeds_of_four_models_and_provenance(
    robust, committed, source
):
    for part in robust.PARTS:
        found = committed[source][part]
        assert {"command", "commit", "data_sha256", "versions"} <= set(found["provenance"])
        assert tuple(found["models"]) == WAYS
        for scores in found["models"].values():
            names, budgets = ("random noise", *robust.ATTACKS), robust.EPSILON_UV
            every = [f"{name}/{uv}" for name in names for uv in budgets]
            for condition in ("clean", *(every if part == "attacks" else scores)):
                assert scores[condition]["seeds"] == len(robust.SEEDS)
            for score in scores.values():
                value, low, high = score["auroc"]["macro"]
                assert low < value < high
                assert value == pytest.approx(np.mean(score["auroc_by_seed"]))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", WAYS)
def test_no_committed_score_hides_a_weak_attack(robust, committed, source, way):
    scores = committed[source]["attacks"]["models"][way]
    macro = {name: score["auroc"]["macro"][0] for name, score in scores.items()}
    pgd = [macro[f"pgd/{uv}"] for uv in robust.EPSILON_UV]
    assert max(np.diff([macro["clean"], *pgd])) < 0.01, "a larger budget does less harm"
    for uv, under_pgd in zip(robust.EPSILON_UV, pgd, strict=True):
        assert under_pgd < macro[f"fgsm/{uv}"] + 0.01
        assert under_pgd < macro[f"random noise/{uv}"]
    if source == "synthetic":
        strongest = scores["pgd, 50 steps, 5 starts/25"]["auroc"]["macro"][0]
        more = scores["pgd/25"]["auroc_by_seed"][0] - strongest
        assert more > -0.01, "more steps and starts do less harm"
        if way in ("adversarial", "both"):  # a loss that is less curved is soon climbed
            assert more < 0.03, "20 steps are not enough"


def test_training_against_attacks_helps_against_them(committed):
    for source in SOURCES:
        models = committed[source]["attacks"]["models"]
        for way in ("adversarial", "both"):
            _, low, _ = models[way]["pgd/25"]["change"]
            assert low > 0, (source, way)
