"""Trained models: files that give them back, and the one of the book scored again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from waves import small, waves

import ecgbook
from ecgbook import metrics, models, storage, synthetic, training
from ecgbook.data import from_records
from ecgbook.labels import RHYTHMS
from ecgbook.models import MAMBA2_PRESETS, PREPROCESSING, PRESETS
from ecgbook.records import DoubtfulRecordWarning, Record
from ecgbook.training import Bundle


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.CNNBaseline(**PRESETS["tutorial"], n_layers=2),
        lambda: models.ECGVisionMamba(**PRESETS["tutorial"], n_layers=1, direction="v1"),
        lambda: models.EnhancedECGMamba2(**MAMBA2_PRESETS["tutorial"], n_layers=1),
        lambda: models.EnhancedECGMamba2(
            **MAMBA2_PRESETS["tutorial"], n_layers=1, use_multi_branch=False, bidirectional=False
        ),
    ],
    ids=["cnn", "vision mamba", "enhanced", "enhanced, one direction"],
)
def test_a_saved_model_comes_back_with_all_it_needs(tmp_path, build):
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 512, 12)
    with torch.no_grad():
        model(x)  # running statistics as training leaves them, not 0 and 1
    thresholds = np.linspace(0.1, 0.9, 5)
    bundle = Bundle(model.eval(), PREPROCESSING["tutorial"], thresholds, {"data": "x"})
    again = training.load(training.save(bundle, tmp_path / "m.safetensors"))
    assert type(again.model) is type(model) and torch.equal(again.model(x), model(x))
    assert not again.model.training and again.model.config == model.config
    assert again.preprocessing == bundle.preprocessing and again.card == bundle.card
    np.testing.assert_array_equal(again.thresholds, bundle.thresholds)


def test_the_probabilities_of_a_record_are_those_of_its_data_set():
    torch.manual_seed(0)
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    bundle = Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5))
    records = synthetic.make_records(3, seed=1, fs_hz=250, seconds=6)
    wanted = training.predict(model, from_records(records, bundle.preprocessing))
    for record, probabilities in zip(records, wanted, strict=True):
        np.testing.assert_allclose(bundle.predict(record), probabilities, atol=1e-6)


def test_what_is_no_model_is_refused(tmp_path):
    path = storage.write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="model None found, a model of ecgbook wanted"):
        training.load(path)
    with pytest.raises(
        FileNotFoundError, match="tutoral: no such file; .* the book: tutorial, robust"
    ):
        training.load("tutoral")


def test_each_model_of_the_book_is_small_and_says_how_it_was_made():
    for name in training.TRAINED:
        weights = storage.book_file(f"weights/{name}.safetensors")
        card = json.loads(storage.book_file(f"weights/{name}.json").read_text(encoding="utf-8"))
        assert weights.stat().st_size < 5e6
        assert training.load(name).card == card
        assert {"command", "commit", "device", "versions"} <= set(card["provenance"])


RUNS = Path(__file__).resolve().parents[2] / "experiments" / "results" / "ladder_predictions"
OF_MODEL = {"tutorial": "self-attention-synthetic-0", "robust": "frequency-masking-synthetic-0"}


@pytest.mark.parametrize(("name", "least"), [("tutorial", 0.97), ("robust", 0.92)])
def test_a_model_of_the_book_scores_what_its_card_says(name, least):
    """The card's scores follow from kept predictions, and the model predicts just these."""
    bundle = training.load(name)
    kept = storage.read_safetensors(RUNS / f"{OF_MODEL[name]}.safetensors")[0]["probabilities"]
    labels, _ = storage.read_safetensors(RUNS / "labels-synthetic.safetensors")
    y, y_mask = labels["y"].numpy(), labels["y_mask"].numpy()
    for metric in ("auroc", "auprc", "f1"):
        options = {"thresholds": bundle.thresholds} if metric == "f1" else {}
        values = getattr(metrics, metric)(y, kept.numpy(), mask=y_mask, **options)
        wanted = bundle.card["scores"][metric]
        assert values.mean() == pytest.approx(wanted["macro"][0], abs=2e-3), metric
        for rhythm, value in zip(RHYTHMS, values, strict=True):
            assert value == pytest.approx(wanted[rhythm][0], abs=2e-3), (metric, rhythm)
    assert bundle.card["scores"]["auroc"]["macro"][0] > least
    records = synthetic.make_records(48, seed=bundle.card["data"]["test"]["seed"])
    dataset = from_records(records, bundle.preprocessing)
    np.testing.assert_array_equal(dataset.y, y[:48])
    np.testing.assert_allclose(training.predict(bundle.model, dataset), kept[:48], atol=1e-3)


def test_a_model_that_a_file_cannot_give_back_is_refused_before_it_is_written(tmp_path):
    changed = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1)
    changed.head = torch.nn.Linear(64, 9)
    own = torch.nn.Linear(12, 5)
    for model, message in (
        (changed, r"head.weight of shape \(9, 64\) found, \(5, 64\) wanted.*n_classes"),
        (own, "a model of class Linear found, one of CNNBaseline, .* wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            training.save(Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5)), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["another size", "an argument of another version"])
def test_weights_of_another_version_are_named_in_one_sentence(tmp_path, damage):
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    path = tmp_path / "m.safetensors"
    training.save(Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5)), path)
    tensors, header = storage.read_safetensors(path)
    if damage == "another size":
        header["config"]["embed_dim"] = 32
    else:
        header["config"]["n_moons"] = 2
    storage.write_safetensors(path, tensors, header)
    with pytest.raises(ValueError, match=r"m.safetensors: weights or settings of another CNN") as e:
        training.load(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_probabilities_come_in_evaluation_mode_and_any_dtype(dtype):
    torch.manual_seed(0)
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1, dropout=0.5).eval()
    bundle = Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5))
    [record] = synthetic.make_records(1, seed=1)
    wanted = bundle.predict(record)
    model.train()
    np.testing.assert_array_equal(bundle.predict(record), wanted)
    assert model.training, "left as it was"
    found = Bundle(model.to(dtype), bundle.preprocessing, bundle.thresholds).predict(record)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_records_arrays_and_data_sets_are_predicted_alike(tmp_path):
    torch.manual_seed(0)
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    bundle = Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5))
    records = synthetic.make_records(5, seed=1, fs_hz=250, seconds=6)
    dataset = from_records(records, bundle.preprocessing)
    wanted = bundle.predict(dataset)
    np.testing.assert_array_equal(wanted, training.predict(model, dataset))
    for found in (bundle.predict(records), bundle.predict(iter(records), batch_size=2)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert bundle.predict(records[0]).shape == (5,) and bundle.predict([]).shape == (0, 5)
    other = from_records(records, replace(bundle.preprocessing, band_hz=None))
    with pytest.raises(ValueError, match="a data set with preprocessing .*None.* found, .* wanted"):
        bundle.predict(other)


@pytest.mark.parametrize("odd", ["a.hea", Path("a.hea"), np.zeros((5000, 12)), None, [1, 2], 3])
def test_what_is_no_record_is_refused_with_the_way_to_make_one(odd):
    bundle = training.load("tutorial")
    with pytest.raises(TypeError, match=r"found, .* wanted; .*read_record"):
        bundle.predict(odd)


@pytest.mark.parametrize("thresholds", [[0.5], np.full(6, 0.5), np.full(5, np.nan), [2.0] * 5])
def test_thresholds_are_one_a_class(thresholds):
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    with pytest.raises(ValueError, match="thresholds .* found, one from 0 to 1 for each of SR, AF"):
        Bundle(model, PREPROCESSING["tutorial"], thresholds)


def test_notes_of_a_record_are_warned_of_and_a_window_is_said():
    [long] = synthetic.make_records(1, seed=1, seconds=40)
    bundle = training.load("tutorial")
    with pytest.warns(DoubtfulRecordWarning, match="the model sees 11.8 to 28.2 s of 40.0 s"):
        bundle.predict(long)
    record = Record("mine", 1000 * long.signal_mv[:5000], long.fs_hz)
    assert bundle.notes(record) == record.notes
    with pytest.warns(DoubtfulRecordWarning, match="mine: .*is the unit or the gain right"):
        bundle.predict(record)


def test_a_folder_means_its_model_and_a_checkpoint_is_none(tmp_path):
    run = tmp_path / "run"
    sets, recipe = (waves(32), waves(16, 1000)), training.Recipe(epochs=1)
    bundle = training.fit(small(), *sets, recipe, run, progress=False)
    assert training.load(run).card == bundle.card
    with pytest.raises(ValueError, match="this is a checkpoint: .* load model.safetensors"):
        training.load(run / "last.safetensors")


def test_broken_weights_and_settings_are_named(tmp_path):
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    path = tmp_path / "m.safetensors"
    training.save(Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5)), path)
    tensors, header = storage.read_safetensors(path)
    assert header["ecgbook"] == ecgbook.__version__
    for change, message in (
        ({"thresholds": None}, "thresholds"),
        ({"preprocessing": {**header["preprocessing"], "notch_hz": 50}}, "notch_hz=50 found"),
        ({"classes": ["A", "B"]}, "for each of A, B"),
    ):
        storage.write_safetensors(path, tensors, header | change)
        with pytest.raises(ValueError, match=f"m.safetensors: weights or settings .*{message}"):
            training.load(path)
    tensors["head.bias"][0] = torch.nan
    storage.write_safetensors(path, tensors, header)
    with pytest.raises(ValueError, match="head.bias is not finite"):
        training.load(path)
