"""Trained models: files that give them back, and the one of the book scored again."""

import json

import numpy as np
import pytest
import torch

from ecgbook import models, storage, synthetic, training
from ecgbook.data import from_records
from ecgbook.models import MAMBA2_PRESETS, PREPROCESSING, PRESETS
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
        np.testing.assert_allclose(bundle.probabilities(record), probabilities, atol=1e-6)


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


@pytest.mark.parametrize(("name", "least"), [("tutorial", 0.97), ("robust", 0.92)])
def test_a_model_of_the_book_scores_what_its_card_says(name, least):
    bundle = training.load(name)
    test = bundle.card["data"]["test"]
    records = synthetic.make_records(test["records"], seed=test["seed"])
    dataset = from_records(records, bundle.preprocessing)
    found = training.predict(bundle.model, dataset)
    scores = training.evaluate(dataset, found, bundle.thresholds, n_draws=10)
    for metric in ("auroc", "auprc", "f1"):
        for label, (value, *_) in bundle.card["scores"][metric].items():
            assert scores[metric][label][0] == pytest.approx(value, abs=2e-3), (metric, label)
    assert scores["auroc"]["macro"][0] > least
