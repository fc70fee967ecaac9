"""The ladder judged by every policy: by the labels that the codes give, of the same predictions."""

import json
import warnings

import numpy as np
import pytest

from ecgbook import ladder, metrics
from ecgbook.data import read_manifest
from ecgbook.labels import POLICIES, RHYTHMS, label_mask, multi_hot
from ecgbook.storage import read_safetensors
from scripts import EXPERIMENTS, imported


@pytest.fixture(scope="module")
def script():
    """The script as a module; its folder is searched only while it is imported."""
    names = ("ladder_policies", "run_ladder", "provenance")
    with imported(EXPERIMENTS, *names) as scripts:
        yield scripts.ladder_policies


@pytest.fixture(scope="module")
def results(script):
    return json.loads(script.TARGET.read_text(encoding="utf-8"))


def test_the_policy_of_the_training_gives_the_ladders_own_scores(script, results):
    assert results["provenance"]["trained_under"] == script.POLICY
    for source, rows in results["policies"][script.POLICY].items():
        for name, found in rows.items():
            wanted = ladder.results("ladder")["rows"][name][source]
            for score in ("auroc", "auprc", "ece", "brier"):
                assert found[score]["macro"] == pytest.approx(wanted[score]["macro"])
            assert found["positives"] == wanted["positives"] and found["seeds"] == wanted["seeds"]
            assert ("change" in found) == ("change" in wanted)


@pytest.mark.parametrize("policy", POLICIES)
def test_each_value_follows_from_the_kept_predictions_and_labels(policy, script, results):
    assert list(results["policies"]) == list(POLICIES)
    committed = ladder.results("ladder")["rows"]
    for source in script.SOURCES:
        labels = script.read_labels("real", policy)
        for rung in script.rungs_of(source):
            found = results["policies"][policy][source][rung.name]
            sha256 = committed[rung.name][source]["provenance"]["data_sha256"]
            runs = script.finished(rung, source, sha256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", metrics.AbsentClassWarning)
                each = np.mean(
                    [metrics.auroc(labels.y, r.probabilities, mask=labels.y_mask) for r in runs], 0
                )
            assert [found["auroc"][r][0] for r in RHYTHMS] == pytest.approx(each.tolist())
            assert found["auroc"]["macro"][0] == pytest.approx(each.mean())
            without = found["auroc_without_afl"]["macro"]
            assert without[0] == pytest.approx(np.delete(each, 2).mean())
            assert without[1] < without[0] < without[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_kept_labels_are_those_of_the_codes(policy, script, ecgdata):
    labels = script.read_labels("real", policy)
    names = read_safetensors(script.labels_file("real", policy))[1]["names"]
    rows = {f"{row['folder']}/{row['record']}": row for row in read_manifest(ecgdata)}
    for name, y, known in zip(names, labels.y, labels.y_mask, strict=True):
        codes = [code for code in rows[name]["snomed"].split(";") if code]
        assert y.tolist() == multi_hot(codes, policy).tolist()
        assert known.tolist() == label_mask(rows[name]["database"], policy, codes).tolist()


def test_labels_of_other_records_are_refused(script, monkeypatch, tmp_path, ecgdata):
    def fewer(*arguments, **options):
        return given(*arguments, **options).subset(range(5))

    given = script.from_folder
    monkeypatch.setattr(script, "from_folder", fewer)
    monkeypatch.setattr(script, "keep_labels", lambda *_: pytest.fail("labels were written"))
    with pytest.raises(ValueError, match="other records found than the 1318 that were predicted"):
        script.keep(ecgdata, "stated")
