"""The experiment on explanations: its records, its runs, its scores and its results file."""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from explained import book_model
from marked import BEAT_S, SHAPE, long_record
from scipy.integrate import trapezoid

from ecgbook import explain
from ecgbook.explain import MambaLRP, baselines
from ecgbook.labels import RHYTHMS
from ecgbook.storage import _plain
from ecgbook.training import Bundle
from scripts import EXPERIMENTS, imported

RESULT = EXPERIMENTS / "results" / "explain.json"
SCRIPTS = ("run_explain", "explain_measures", "explain_methods", "explain_scores", "ludb")


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules; their folder is searched only while they are imported."""
    with imported(EXPERIMENTS, *SCRIPTS, "run_ladder", "provenance") as modules:
        yield modules


@pytest.fixture(scope="module")
def model():
    return book_model("mamba-2", torch.float32)


@pytest.fixture
def bundle(model, scripts):
    card = {"recipe": {"epochs": 1}, "epochs": [{"valid_auroc": 0.5}]}
    return Bundle(model, scripts.run_explain.STEPS, np.full(5, 0.5), card)


@pytest.fixture(scope="module")
def chosen(scripts):
    return scripts.run_explain.choose(("AF", "PAC", "PVC"), 1)


def labels(*rhythms):
    return np.array([name in rhythms for name in RHYTHMS], dtype=np.float32)


# ---- which records, and which label of each


def test_of_several_labels_the_ectopic_and_rarer_one_is_explained(scripts):
    target_of = scripts.run_explain.target_of
    assert target_of(labels("SR", "PAC", "PVC")) == "PAC"
    assert target_of(labels("AF", "PVC")) == target_of(labels("AFL", "PVC")) == "PVC"
    assert [target_of(labels(name)) for name in RHYTHMS] == list(RHYTHMS)
    assert target_of(labels()) is None


def test_the_first_test_records_with_each_target_are_chosen(scripts):
    explain = scripts.run_explain
    chosen = explain.choose(("SR", "PVC"), 3)
    numbers = [int(name.split("-")[-1]) for name in chosen.records.names]
    assert numbers == sorted(numbers) and chosen.records.names[0].startswith("synthetic-1002-")
    assert [RHYTHMS[k] for k in chosen.target].count("PVC") == 3 == len(numbers) / 2
    assert (chosen.records.y[range(6), chosen.target] == 1).all()
    made = explain.synthetic.make_records(numbers[-1] + 1, seed=1002)
    for target in ("SR", "PVC"):
        of_target = [i for i, r in enumerate(made) if explain.target_of(r.labels) == target]
        pairs = zip(numbers, chosen.target, strict=True)
        assert of_target[:3] == [n for n, k in pairs if RHYTHMS[k] == target]


def test_too_few_records_are_no_silent_shortage(scripts, monkeypatch):
    monkeypatch.setitem(scripts.run_explain.run_ladder.N_SYNTHETIC, "test", 5)
    with pytest.raises(ValueError, match="too few"):
        scripts.run_explain.choose(("PAC",), 5)


# ---- what is measured


def test_token_relevance_lies_where_the_tokens_look(scripts, model, chosen):
    _, x, target, mask = next(scripts.explain_measures.batches(chosen))
    found = scripts.explain_methods.by_tokens(model, x, target, mask)
    tokens = MambaLRP(model).attribute_tokens(x, target, mask)
    valid = model.stem.masks(mask)[1]
    assert torch.equal(found, baselines._to_samples(tokens, valid, model.stem, x))


def test_every_rule_switched_off_changes_the_map(scripts, model, chosen):
    _, x, target, mask = next(scripts.explain_measures.batches(chosen, 1))
    ablation = scripts.explain_methods.ABLATION
    ours = ablation["MambaLRP"](model, x, target, mask)
    for name, method in ablation.items():
        far = (method(model, x, target, mask) - ours).abs().max() / ours.abs().max()
        assert far > 1e-3 or name == "MambaLRP", name
    plain = scripts.explain_methods.by_rules(
        model, x, target, mask, **scripts.explain_methods.NO_RULE["no rule"]
    )
    torch.testing.assert_close(
        plain, baselines.gradient_times_input(model, x, target, mask), rtol=1e-3, atol=1e-6
    )


def test_rows_are_those_of_each_record_alone(scripts, model, chosen, monkeypatch):
    protocol = {**scripts.run_explain.PROTOCOL, "steps": 2}
    method = scripts.explain_methods.METHODS["MambaLRP"]
    found = scripts.explain_measures.perturbed(chosen, model, method, **protocol)
    for i, target in enumerate(chosen.target):
        batch = chosen.records.batch([i])
        x, mask = batch["x"], batch["mask"]
        relevance = method(model, x, int(target), mask)
        alone = explain.deletion(model, x, relevance, int(target), mask, **protocol)
        assert found["delta_area"][i] == pytest.approx(alone.delta_area[0], rel=1e-3, abs=1e-6)
        inside = explain.insertion(model, x, relevance, int(target), mask, **protocol)
        assert inside.delta_area == alone.delta_area, "so one of the two is enough"


def test_the_truth_is_the_beats_of_the_target(scripts, model, chosen):
    rows = np.flatnonzero(chosen.target >= 3)
    few = scripts.explain_measures.Chosen(
        chosen.records.subset(rows), chosen.target[rows], [chosen.source[i] for i in rows]
    )

    def on(kinds):
        def method(model, x, target, mask):
            beats = [
                explain.beat_mask(record, kinds[k], 125, 2048)
                for record, k in zip(few.source, few.target, strict=True)
            ]
            truth = torch.from_numpy(np.stack(beats))[:, : x.shape[1], None]
            return truth.to(x).expand_as(x)

        return scripts.explain_measures.localized(few, model, method, tolerance=12)

    right = on({3: "A", 4: "V"})
    assert (right["mass"] == 1).all() and (right["rank"] == 1).all()
    assert (right["pointing"] == 1).all()
    assert (0 < right["chance"]).all() and (right["chance"] < right["chance of pointing"]).all()
    assert (on({3: "N", 4: "N"})["mass"] < 0.3).all()


def test_relevance_and_biases_of_every_rule_set_add_up(scripts, model, chosen):
    found = {
        name: scripts.explain_measures.completed(chosen, model, options)
        for name, options in (
            scripts.explain_methods.RULES | scripts.explain_methods.NO_RULE
        ).items()
    }
    for name in ("LRP-0", "MambaLRP", "MambaLRP, flat input"):
        np.testing.assert_allclose(
            found[name]["input"] + found[name]["bias"], found[name]["logit"], rtol=1e-3, atol=1e-5
        )
        assert (found[name]["error"] < 1e-5).all()
    assert (found["no rule"]["error"] > 1e-3).all()


def test_at_the_last_stage_nothing_is_left_of_the_training(scripts, model, chosen):
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names <= set(scripts.run_explain.STAGES)
    method = baselines.gradient_times_input
    torch.manual_seed(7)
    stages, bins = scripts.run_explain.STAGES, 50
    found = scripts.explain_measures.randomized(chosen, model, method, stages, bins)
    torch.manual_seed(7)
    untrained = type(model)(**model.config).eval()
    _, x, target, mask = next(scripts.explain_measures.batches(chosen))
    maps = [method(each, x, target, mask) for each in (model, untrained)]
    for kind, absolute in (("signed", False), ("absolute", True)):
        wanted = explain.similarity(*maps, mask, absolute=absolute)
        np.testing.assert_allclose(found[f"{kind}/stem"], wanted, atol=1e-6)
        assert (abs(found[f"{kind}/head"] - wanted) > 0.01).all(), "and not at once"
    before, after = (explain.complexity(each, mask, bins=bins) for each in maps)
    np.testing.assert_allclose(found["complexity/rise"], after / before - 1, atol=1e-6)
    assert set(found) == {"complexity/rise"} | {
        f"{kind}/{stage}" for kind in ("signed", "absolute") for stage in (*stages, "random logit")
    }


def test_fresh_models_are_not_those_that_training_began_with(
    scripts, bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(scripts.run_explain, "RUNS", tmp_path)
    drawn = []

    def measure(chosen, model, method):
        drawn.append(torch.rand(1).item())
        return {"none": np.zeros(1)}

    part = replace(scripts.run_explain.PARTS["completeness"], measure=measure)
    monkeypatch.setitem(scripts.run_explain.PARTS, "completeness", part)
    records = scripts.run_explain.choose(("SR",), 1)
    for seed in (0, 1):
        scripts.run_explain.run("completeness", "LRP-0", seed, bundle, records)
    torch.manual_seed(0)
    assert len({*drawn, torch.rand(1).item()}) == 3


def test_every_method_is_timed_in_every_round_but_the_first(scripts, model, chosen):
    calls = []
    methods = {"one": lambda *_: calls.append("one"), "two": lambda *_: calls.append("two")}
    found = scripts.explain_measures.timed(chosen, model, methods, batch=2, rounds=3)
    assert calls == ["one", "two"] * 4
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(
        ("forward", "one", "two"), 3
    )
    assert found["forward"].min() > found["one"].max()


def test_waves_meet_the_samples_that_the_preprocessing_left(scripts, model):
    chosen = scripts.run_explain.prepared([long_record(scripts.ludb.Marked, labels("SR"))])
    methods = scripts.run_explain.PARTS["intervals"].methods
    found = {
        name: scripts.explain_measures.shared_out(chosen, model, methods[name])["amounts"]
        for name in ("time", "energy")
    }
    assert found["energy"].shape == (1, 2, 2, 2, 4)
    energy, time = (found[name][0, 0, 0, 0] for name in ("energy", "time"))
    assert energy[1] / energy.sum() > 0.85, "most of the signal lies in the QRS complexes"
    inside = [t for t in BEAT_S if 1.808 < t - 0.2 and t + 0.4 < 18.192]
    assert time[0] / 12 / 125 == pytest.approx(0.1 * len(inside), rel=0.15)
    assert (found["time"][0, 0] == found["time"][0, 1]).all(), "whatever the logit"


# ---- scores

pytestmark = pytest.mark.filterwarnings("ignore::ecgbook.metrics.AbsentClassWarning")
"""Few records are drawn here, and then at times none of a class."""


@pytest.fixture
def rows(scripts):
    """Ten records of two targets, three to seven."""
    return scripts.explain_measures.Judged(np.repeat([1, 3], [3, 7]), np.arange(10))


def test_scores_are_means_of_classes_and_then_of_seeds(scripts, rows):
    values = [np.where(rows.target == 1, 2.0, 6.0), np.arange(10.0)]
    found = scripts.explain_scores.scored(values, rows)
    assert list(found) == ["macro", "AF", "PAC", "by_seed"]
    assert found["AF"][0] == pytest.approx((2 + 1) / 2)
    assert found["PAC"][0] == pytest.approx((6 + 6) / 2)
    assert found["macro"][0] == pytest.approx((4 + 3.5) / 2)
    assert found["by_seed"].tolist() == [4, 3.5]
    assert found["macro"][1] < 3.75 < found["macro"][2]


def test_differences_are_paired_record_by_record(scripts, rows):
    rng = np.random.default_rng(0)
    before = [rng.normal(0, 100, 10) for _ in range(2)]
    after = [before[0] + 1, before[1] + np.where(rows.target == 1, 1, 5)]
    found = scripts.explain_scores.scored(after, rows, before)
    np.testing.assert_allclose(found["AF"], [1, 1, 1])
    assert found["PAC"][0] == pytest.approx(3)
    np.testing.assert_allclose(found["by_seed"], [1, 3])
    alone = scripts.explain_scores.scored(after[:1], rows, before[:1])
    np.testing.assert_allclose(alone["PAC"], [1, 1, 1])


def test_a_patient_is_drawn_with_all_records(scripts, rows):
    values = [np.repeat([0.0, 10.0], [6, 4])]
    alone = scripts.explain_scores.scored(values, rows)["PAC"]
    joined = replace(rows, groups=np.array([0, 1, 2, 3, 3, 3, 4, 4, 4, 4]))
    joined = scripts.explain_scores.scored(values, joined)["PAC"]
    assert joined[0] == alone[0] == pytest.approx(40 / 7)
    assert alone[1] > 0 and joined[1:].tolist() == [0, 10]


def test_ratios_take_the_same_draws_above_and_below(scripts, rows):
    below = [np.arange(1.0, 11.0)]
    found = scripts.explain_scores.ratio([3 * below[0]], below, rows)
    np.testing.assert_allclose(found["macro"], [3, 3, 3])
    found = scripts.explain_scores.ratio([np.ones(10)], below, rows)
    assert found["PAC"][0] == pytest.approx(1 / 7)
    assert found["macro"][0] == pytest.approx(1 / ((2 + 7) / 2))


def test_goals_say_where_they_are_not_met(scripts):
    score = {"macro": [1.0, -0.5, 2.0], "AF": [2.0, 1.0, 3.0], "PAC": [-1.0, -2.0, 0.5]}
    found = scripts.explain_scores.goal(score | {"by_seed": [1.0]}, 0)
    assert found["met"] and not found["clearly"]
    assert found["not_met_in"] == found["not_clearly_in"] == ["PAC"]
    assert scripts.explain_scores.goal(score, 1.5)["met"] is False


# ---- runs and results


def test_runs_are_kept_one_by_one_and_not_repeated(scripts, bundle, tmp_path, monkeypatch):
    explain, met = scripts.run_explain, []

    def measure(chosen, model, method, size):
        if len(met) == 2 and method not in met:
            met.append(method)
            raise KeyboardInterrupt
        met.append(method)
        return {"delta_area": np.full(len(chosen.target), size)}

    methods = {name: lambda: None for name in ("a", "b", "c")}
    part = explain.Part(
        partial(explain.choose, ("SR",), 2), methods, measure, dict, {"size": 1.5}, (0,)
    )
    monkeypatch.setattr(explain, "RUNS", tmp_path)
    monkeypatch.setattr(explain, "PARTS", {"part": part})
    chosen = part.choose()

    def go():
        for name in methods:
            explain.run("part", name, 0, bundle, chosen)

    with pytest.raises(KeyboardInterrupt):
        go()
    go()
    assert met == [methods[name] for name in ("a", "b", "c", "c")]
    file, about = explain.run_file("part", "a", 0), explain.task("part", "a", bundle, chosen)
    arrays, minutes = explain.stored(file, about)
    assert arrays["delta_area"].tolist() == [1.5, 1.5] and minutes >= 0
    other = replace(bundle, card={**bundle.card, "recipe": {"epochs": 2}})
    for changed in (
        explain.task("part", "a", other, chosen),
        explain.task("part", "a", bundle, explain.choose(("SR",), 3)),
        explain.task("part", "a", bundle, replace(chosen, target=chosen.target + 1)),
        about | {"protocol": {"size": 2}},
        about | {"settings": {"samples": 8}},
    ):
        assert explain.stored(file, changed) is None


def test_a_method_with_another_number_is_another_task(scripts):
    settings, methods = scripts.explain_methods.settings, scripts.explain_methods.METHODS
    assert settings(methods["SmoothGrad"]) == {"samples": 16, "sigma_mv": 0.1}
    assert settings(methods)["integrated gradients"] == {"steps": 32}
    assert settings(scripts.explain_methods.RULES["MambaLRP, flat input"]) == {"flat_input": True}
    assert settings(methods["MambaLRP"]) == {}


def check_scores(content, n_seeds, where=""):
    """Every score in a part: bounds around the value, and the mean of the seeds."""
    for key, value in content.items() if isinstance(content, dict) else ():
        check_scores(value, n_seeds, f"{where}/{key}")
    if isinstance(content, dict) and {"macro", "by_seed"} <= set(content):
        classes = [v for k, v in content.items() if k != "by_seed"]
        for value, low, high in classes:
            assert low - 1e-6 <= value <= high + 1e-6, where
        assert len(content["by_seed"]) == n_seeds, where
        assert np.mean(content["by_seed"]) == pytest.approx(content["macro"][0]), where


def check_content(results, explain):
    """What the chapter leans on, in a results file of any size."""
    parts = {name: part for name, part in results.items() if name != "goals"}
    for name, part in parts.items():
        assert part["records"] == sum(part["targets"].values()) > 0
        assert set(part["seeds"]) <= set(explain.PARTS[name].seeds) and part["seeds"]
        assert {"command", "commit", "data_sha256", "versions"} <= set(part["provenance"])
        check_scores(part, len(part["seeds"]), name)
    for name in {"faithfulness", "sensitivity", "ablation"} & set(parts):
        methods = parts[name]["methods"]
        ours = methods["MambaLRP"]["delta_area"]
        assert len({n for n in parts[name]["targets"].values() if n}) == 1, "evenly chosen"
        for other, entry in methods.items():
            curve = {key: np.array(values) for key, values in entry["curve"].items()}
            assert curve["fraction"][[0, -1]] == pytest.approx([0, 1])
            between = curve["least_first"] - curve["most_first"]
            assert between[[0, -1]] == pytest.approx(0, abs=1e-9)
            area = trapezoid(between, curve["fraction"])  # of curves that are kept in halves
            assert area == pytest.approx(entry["delta_area"]["macro"][0], abs=2e-3)
            if other != "MambaLRP":
                for key, (value, *_) in entry["mamba_lrp_minus"].items():
                    if key != "by_seed":
                        wanted = ours[key][0] - entry["delta_area"][key][0]
                        assert value == pytest.approx(wanted, abs=1e-9)
    if "localization" in parts:
        part = parts["localization"]
        for entry in part["methods"].values():
            mass, ratio = entry["mass"], entry["mass_over_chance"]
            for a, b in zip(ratio["by_seed"], mass["by_seed"], strict=True):
                assert a == pytest.approx(b / part["chance"]["macro"][0])
    if "completeness" in parts:
        methods = parts["completeness"]["methods"]
        for name in ("LRP-0", "MambaLRP", "MambaLRP, flat input"):
            assert methods[name]["error"]["largest"] < 1e-4 < methods["no rule"]["error"]["median"]
            halves = [methods[name][key]["quartiles"] for key in ("input_share", "bias_share")]
            assert halves[0][1] + halves[1][1] == pytest.approx(1, abs=1e-2)
    if "intervals" in parts:
        for scheme, logits in parts["intervals"]["shares"].items():
            for methods in logits.values():
                for entry in methods.values():
                    for group in ("SR", "AF"):
                        for measure in ("positive", "absolute"):
                            total = sum(each[group][0] for each in entry[measure].values())
                            assert total == pytest.approx(1)
                    in_p = entry["positive"]["P"]["AF"]
                    assert (max(in_p) == 0) == (scheme == "marked"), "no P wave in fibrillation"
    if "cost" in parts:
        passes = parts["cost"]["forward_passes"]
        assert passes["forward"] == 1 and passes["MambaLRP"] > 1
    check_goals(results)


def check_goals(results):
    goals = results["goals"]
    if "localization" in results:
        ours = results["localization"]["methods"]["MambaLRP"]
        other = results["localization"]["methods"]["gradient x input"]
        assert goals["pointing"]["found"] == ours["pointing"]["macro"]
        assert goals["pointing"]["met"] == (ours["pointing"]["macro"][0] >= 0.9)
        difference = goals["mass minus gradient x input"]
        assert difference["found"][0] == pytest.approx(
            ours["mass"]["macro"][0] - other["mass"]["macro"][0], abs=1e-9
        )
        assert difference["met"] == (difference["found"][0] >= 0.15)
        assert goals["mass over chance"]["met"] == (goals["mass over chance"]["found"][0] >= 5)
    for part in {"faithfulness", "sensitivity"} & set(results):
        for name, goal in goals[f"{part}: area minus"].items():
            wanted = results[part]["methods"][name]["mamba_lrp_minus"]
            assert goal["found"] == wanted["macro"] and goal["met"] == (wanted["macro"][0] >= 0)
            assert goal["clearly"] == (wanted["macro"][1] >= 0)
            behind = [key for key, each in goal["by_class"].items() if each[0] < 0]
            assert goal["not_met_in"] == behind
    if "cost" in results:
        assert goals["forward passes"] == results["cost"]["forward_passes"]["MambaLRP"]


@pytest.fixture
def small_experiment(scripts, model, bundle, tmp_path, monkeypatch):
    """The whole experiment, with a few records and methods and a model that learned nothing."""
    explain = scripts.run_explain
    monkeypatch.setattr(explain, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(explain, "RESULT", tmp_path / "explain.json")
    monkeypatch.setattr(explain, "ARRAYS", tmp_path / "arrays")
    monkeypatch.setattr(explain.run_ladder, "trained_on_synthetic", lambda *_: bundle)
    monkeypatch.setattr(scripts.explain_scores, "N_DRAWS", 40)
    monkeypatch.setattr(explain, "BASELINES", dict.fromkeys(("random", "gradient x input")))
    one = long_record(scripts.ludb.Marked, labels("SR"))
    other = long_record(scripts.ludb.Marked, labels("AF"), "no P wave", SHAPE[1:])
    records = [one, replace(other, signal_mv=-other.signal_mv)]  # equal signals: one patient
    source = {
        "localization": partial(explain.choose, ("PAC", "PVC"), 1),
        "intervals": lambda: explain.prepared(records),
    }
    protocols = {
        "cost": {"batch": 2, "rounds": 2},
        "randomization": {"stages": ["head", "stem"], "bins": 20},
    }
    parts = {}
    for name, part in explain.PARTS.items():
        wanted = ("random", "gradient x input", "MambaLRP", "without gate", "time", "energy")
        methods = {key: part.methods[key] for key in part.methods if key in wanted}
        if name == "cost":
            methods = {"all in turn": {key: explain.METHODS[key] for key in wanted[:3]}}
        protocol = part.protocol | ({"steps": 2} if "steps" in part.protocol else {})
        parts[name] = replace(
            part,
            choose=source.get(name, partial(explain.choose, ("SR", "PVC"), 1)),
            methods=part.methods if name == "completeness" else methods,
            protocol=protocols.get(name, protocol),
        )
    monkeypatch.setattr(explain, "PARTS", parts)

    def start(*options):
        monkeypatch.setattr(sys, "argv", ["explain.py", *options])
        explain.main()
        return json.loads(explain.RESULT.read_text())

    threads = torch.get_num_threads()
    yield start
    torch.set_num_threads(threads)


def test_the_results_file_holds_what_the_chapter_reads(scripts, small_experiment, capsys):
    results = small_experiment("--seeds", "0", "1")
    assert set(results) == {*scripts.run_explain.PARTS, "goals"}
    assert results["faithfulness"]["seeds"] == [0, 1] and results["sensitivity"]["seeds"] == [0]
    check_content(results, scripts.run_explain)
    capsys.readouterr()
    again = small_experiment("--seeds", "0", "1")
    assert "seed 0\n" not in capsys.readouterr().out, "nothing is run twice"
    assert again == results == small_experiment("--recompute"), "nothing else is needed"


def test_a_part_is_written_with_the_seeds_that_have_all_methods(scripts, small_experiment, capsys):
    only = ("--parts", "completeness")
    results = small_experiment(*only, "--seeds", "0", "--methods", "LRP-0")
    assert set(results) == {"goals"} and "not run with MambaLRP" in capsys.readouterr().out
    results = small_experiment(*only, "--seeds", "0", "2")
    assert results["completeness"]["seeds"] == [0, 2]
    small_experiment(*only, "--seeds", "1", "--methods", "LRP-0")
    capsys.readouterr()
    results = small_experiment(*only, "--methods")
    assert "completeness, seed 1: left out" in capsys.readouterr().out
    assert results["completeness"]["seeds"] == [0, 2], "no method: nothing is run"


def test_the_results_that_come_with_the_book_hold_what_the_chapter_reads(scripts):
    check_content(json.loads(RESULT.read_text()), scripts.run_explain)


@pytest.mark.parametrize("part", ["localization", "completeness", "randomization", "cost"])
def test_the_committed_numbers_follow_from_the_committed_arrays(scripts, part):
    found = json.loads(RESULT.read_text())[part]
    again = json.loads(json.dumps(_plain(scripts.run_explain.score_part(part))))
    assert_close(found, again)
    missing = set(scripts.run_explain.PARTS) - {
        name
        for name in scripts.run_explain.PARTS
        if scripts.run_explain.arrays_file(name).is_file()
    }
    assert missing == set(), "every part has its arrays"


def assert_close(a, b, where=""):
    """Equal but for the last digits, which depend on the machine."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_close(*pair, f"{where}/{i}")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9), where
    else:
        assert a == b, where
