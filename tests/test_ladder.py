"""The ladder: rungs that build, and tables that show what the results file holds."""

import json

import pytest
import torch

from ecgbook import ladder
from ecgbook.labels import RHYTHMS


def test_every_rung_builds_and_classifies():
    for rung in ladder.RUNGS:
        torch.manual_seed(0)
        assert rung.build()(torch.zeros(1, 1024, 12)).shape == (1, 5)
    assert len({rung.name for rung in ladder.RUNGS}) == len(ladder.RUNGS)


def test_the_committed_results_cover_every_rung_with_three_seeds_and_provenance():
    rows = ladder.results()["rows"]
    assert set(rows) == {rung.name for rung in ladder.RUNGS}
    for rung in ladder.RUNGS:
        row = rows[rung.name]
        assert row["parameters"] == sum(p.numel() for p in rung.build().parameters())
        for data in ("synthetic", "real"):
            scores = row[data]
            assert scores["seeds"] >= 3 and len(scores["auroc_by_seed"]) == scores["seeds"]
            mean = sum(scores["auroc_by_seed"]) / scores["seeds"]
            assert scores["auroc"]["macro"][0] == pytest.approx(mean)
            value, low, high = scores["auroc"]["macro"]
            assert 0.5 < low < value < high < 1
            assert {"commit", "command", "device", "versions"} <= set(scores["provenance"])
        assert row["real"]["provenance"]["data_sha256"]


@pytest.fixture
def made_up(monkeypatch):
    entry = {name: [0.5, 0.4, 0.6] for name in ("macro", *RHYTHMS)}
    entry["AFL"] = [None, None, None]
    scores = {"auroc": entry, "auprc": entry, "f1": {**entry, "macro": [0.1234, 0.1, 0.2]}}
    scores["positives"] = dict(zip(RHYTHMS, (900, 80, 12, 60, 20), strict=True))
    row = {"parameters": 1234567, "ms_per_record": 2.345, "real": scores}
    result = {"rows": {ladder.RUNGS[0].name: row}}
    monkeypatch.setattr(ladder, "results", lambda: json.loads(json.dumps(result)))


def test_the_table_shows_the_numbers(made_up):
    line = ladder.table("real", upto=0).splitlines()[-1]
    assert line == (
        "| 0 | CNN baseline | 1,234,567 | 2.3 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] "
        "| 0.123 [0.100, 0.200] |"
    )
    with pytest.raises(ValueError, match="data='reel' found"):
        ladder.table("reel")


def test_the_rhythm_table_marks_the_rare_and_says_what_is_not_defined(made_up):
    lines = {
        line.split("|")[1].strip(): line for line in ladder.rhythm_table(0, "real").splitlines()
    }
    assert "AFL †" in lines and "not defined" in lines["AFL †"]
    assert "PVC" in lines and "PVC †" not in lines  # 20 is enough
    assert "| 900 |" in lines["SR"]
