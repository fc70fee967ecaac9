"""Evaluation: predictions ignore batching and padding; the scores are the metrics'."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ecgbook import metrics, training
from ecgbook.data import ECGDataset, from_records
from ecgbook.labels import RHYTHMS
from ecgbook.models import PREPROCESSING, PRESETS, CNNBaseline
from ecgbook.synthetic import make_records


@pytest.fixture(scope="module")
def dataset():
    return from_records(make_records(60, seed=1), PREPROCESSING["tutorial"])


def test_predictions_do_not_depend_on_the_batch_and_leave_the_mode(dataset):
    torch.manual_seed(0)
    model = CNNBaseline(**PRESETS["tutorial"], n_layers=1).train()
    whole = training.predict(model, dataset, batch_size=60)
    assert model.training
    batch = dataset.batch(range(5))
    with torch.no_grad():
        each_alone = 1 / (1 + np.exp(-model.eval()(batch["x"], batch["mask"]).numpy()))
    np.testing.assert_allclose(
        whole[:5], each_alone, atol=1e-5, err_msg="a class excludes no other"
    )
    single = training.predict(model, dataset.subset([7, 3]), batch_size=1)
    np.testing.assert_allclose(single, whole[[7, 3]], atol=1e-6)
    assert whole.shape == (60, 5) and ((whole > 0) & (whole < 1)).all()
    assert training.predict(model, dataset.subset([])).shape == (0, 5)


def test_predictions_stay_in_the_order_of_the_records():
    made = [make_records(1, seed=s, seconds=3 + s % 4)[0] for s in range(9)]
    mixed = from_records(made, PREPROCESSING["tutorial"])
    torch.manual_seed(0)
    model = CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    found = training.predict(model, mixed, batch_size=2)
    for i in range(len(mixed)):
        alone = training.predict(model, mixed.subset([i]))
        np.testing.assert_allclose(found[i], alone[0], atol=1e-6)


def test_scores_are_scikit_learns_and_lie_in_their_intervals(dataset):
    rng = np.random.default_rng(0)
    p = np.clip(0.3 * dataset.y + 0.7 * rng.random(dataset.y.shape), 0, 1)
    thresholds = np.full(5, 0.5)
    scores = training.evaluate(dataset, p, thresholds, n_draws=200)
    assert scores["records"] == 60
    for k, rhythm in enumerate(RHYTHMS):
        y = dataset.y[:, k]
        assert scores["positives"][rhythm] == y.sum()
        assert scores["auroc"][rhythm][0] == pytest.approx(roc_auc_score(y, p[:, k]))
        assert scores["auprc"][rhythm][0] == pytest.approx(average_precision_score(y, p[:, k]))
        assert scores["f1"][rhythm][0] == pytest.approx(f1_score(y, p[:, k] >= 0.5))
    by_record = np.where(np.arange(60)[:, None] < 30, 0.4, 0.6)
    scores["mixed"] = training.evaluate(dataset, p, by_record * np.ones(5), n_draws=20)["f1"]
    for k, rhythm in enumerate(RHYTHMS):
        wanted = f1_score(dataset.y[:, k], p[:, k] >= by_record[:, 0])
        assert scores["mixed"][rhythm][0] == pytest.approx(wanted)
    for name in ("auroc", "auprc", "f1", "ece", "brier"):
        values = [scores[name][rhythm][0] for rhythm in RHYTHMS]
        assert scores[name]["macro"][0] == pytest.approx(np.mean(values))
        value, low, high = scores[name]["macro"]
        assert low < high
        if name != "ece":  # a calibration error of resampled records is biased upward
            assert low <= value <= high
    value, low, high = scores["challenge"]
    assert low <= value <= high


def test_a_probability_at_its_threshold_is_a_call(dataset):
    p = np.where(dataset.y > 0, 0.5, 0.25)
    scores = training.evaluate(dataset, p, np.full(5, 0.5), n_draws=2)
    assert [scores["f1"][rhythm][0] for rhythm in RHYTHMS] == [1.0] * 5


def test_intervals_are_over_groups_of_records(dataset):
    p = np.random.default_rng(0).random(dataset.y.shape)
    grouped = replace(dataset, groups=np.arange(60) // 6)
    found = training.evaluate(grouped, p, None, n_draws=50, seed=3)["auroc"]
    options = {"y": dataset.y, "mask": dataset.y_mask, "n_draws": 50, "seed": 3}
    drawn = [
        metrics.bootstrap(metrics.auroc, p=p, groups=groups, **options).average().as_list()
        for groups in (grouped.groups, np.arange(60))
    ]
    assert found["macro"] == drawn[0] != drawn[1]


def test_a_doubtful_label_is_in_no_score(dataset):
    p = np.random.default_rng(0).random(dataset.y.shape)
    mask = np.ones_like(dataset.y_mask)
    mask[:20, 1] = False
    doubtful = ECGDataset(**{**vars(dataset), "y_mask": mask})
    flipped = dataset.y.copy()
    flipped[:20, 1] = 1 - flipped[:20, 1]
    other = ECGDataset(**{**vars(doubtful), "y": flipped})
    scores = [training.evaluate(d, p, np.full(5, 0.5), n_draws=20) for d in (doubtful, other)]
    assert scores[0]["auroc"] == scores[1]["auroc"] and scores[0]["f1"] == scores[1]["f1"]
    assert scores[0]["positives"] == scores[1]["positives"]
