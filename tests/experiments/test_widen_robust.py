"""The intervals of robust.json: what the seeds vary by is in them, and nothing is made up."""

import json

import numpy as np
import pytest

from ecgbook.metrics import auroc, paired_bootstrap
from scripts import EXPERIMENTS, imported

RESULT = EXPERIMENTS / "results" / "robust.json"


@pytest.fixture(scope="module")
def widen():
    names = ("widen_robust", "run_robust", "disturbances", "run_ladder", "provenance")
    with imported(EXPERIMENTS, *names) as scripts:
        yield scripts.widen_robust


def test_seeds_that_agree_and_a_single_one_add_nothing(widen):
    assert widen.widened([0.8, 0.7, 0.85], [0.8]) == [0.8, 0.7, 0.85]
    assert widen.widened([0.8, 0.7, 0.85], [0.8, 0.8, 0.8]) == [0.8, 0.7, 0.85]


def test_it_comes_near_the_bootstrap_that_has_the_predictions(widen):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (150, 1))
    hard = rng.normal(size=(150, 1))
    a = hard + 0.3 * rng.normal(size=(3, 150, 1)) + y
    b = hard + 0.3 * rng.normal(size=(3, 150, 1)) + np.array([0.9, 1.3, 1.7])[:, None, None] * y
    wanted = paired_bootstrap(auroc, y, a, b, average=True)
    each = [paired_bootstrap(auroc, y, *pair, average=True) for pair in zip(a, b, strict=True)]
    mean = np.mean([one.as_list() for one in each], axis=0).tolist()
    found = widen.widened(mean, wanted.by_seed.tolist())
    width, narrow = found[2] - found[1], mean[2] - mean[1]
    assert narrow < 0.7 * (wanted.high - wanted.low)
    assert width == pytest.approx(wanted.high - wanted.low, rel=0.15)


def test_the_committed_intervals_say_what_they_are_or_follow_from_kept_predictions(widen):
    results = json.loads(RESULT.read_text())
    for source in ("synthetic", "real"):
        for part in widen.PARTS:
            about = results[source][part]
            file = widen.predictions_file(source, part)
            assert file.is_file() or about["intervals"] == widen.SAYS
            for conditions in about["models"].values():
                for entry in conditions.values():
                    value, low, high = entry["auroc"]["macro"]
                    assert low < value < high or low == value == high
                    if not file.is_file():
                        assert entry["auroc"]["AF"][1:] == [None, None]
