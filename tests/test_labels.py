"""Labels: codes to rhythms under each policy, and which of them anybody has stated."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from ecgbook import labels, metrics
from ecgbook.data import from_records, patient_folds
from ecgbook.signals import Preprocessing
from ecgbook.training import evaluate


@pytest.mark.parametrize(
    ("codes", "official", "extended"),
    [
        ([], [], []),
        (["426783006"], ["SR"], ["SR"]),
        (["164889003", "164890007"], ["AF", "AFL"], ["AF", "AFL"]),
        (["284470004"], ["PAC"], ["PAC"]),
        (["63593006"], ["PAC"], ["PAC"]),
        (["427172004"], ["PVC"], ["PVC"]),
        (["17338001", "427172004"], ["PVC"], ["PVC"]),
        (["164884008"], [], ["PVC"]),
        (["426177001", "59118001"], [], []),
        (["426783006", "164884008"], ["SR"], ["SR", "PVC"]),
    ],
)
def test_codes_become_rhythms(codes, official, extended):
    for policy, wanted in (("official", official), ("extended", extended)):
        target = labels.multi_hot(codes, policy)
        assert target.dtype == np.float32
        assert labels.names(target) == wanted


def test_every_real_record_gets_the_manifest_classes(ecgdata):
    with (ecgdata / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1340
    for row in rows:
        codes = [c for c in row["snomed"].split(";") if c]
        for policy, column in (("extended", "classes_ext"), ("official", "classes_strict")):
            wanted = sorted(c for c in row[column].split(";") if c)
            assert sorted(labels.names(labels.multi_hot(codes, policy))) == wanted, row["record"]


def test_ningbos_af_and_afl_are_doubtful_only_under_the_extended_policy():
    doubtful = {
        database: [
            r for r, ok in zip(labels.RHYTHMS, labels.label_mask(database), strict=True) if not ok
        ]
        for database in ("Ningbo", "Chapman-Shaoxing", "PTB-XL")
    }
    assert doubtful == {"Ningbo": ["AF", "AFL"], "Chapman-Shaoxing": [], "PTB-XL": []}
    assert labels.label_mask("Ningbo", "official").all()
    assert labels.label_mask("ningbo").tolist() == labels.label_mask("Ningbo").tolist()


def known(codes, database="Georgia", policy="stated"):
    """Return what is said of each rhythm: 1, 0 or None."""
    target = labels.multi_hot(codes, policy)
    mask = labels.label_mask(database, policy, codes)
    rows = zip(labels.RHYTHMS, target, mask, strict=True)
    return {rhythm: int(one) if trusted else None for rhythm, one, trusted in rows}


@pytest.mark.parametrize("code", ["426783006", "426177001", "427084000", "427393009"])
def test_sinus_rhythm_is_stated_under_each_of_its_names(code):
    assert known([code])["SR"] == 1
    assert known([code, "164889003"])["SR"] == 1, "what is written stays written"
    assert labels.multi_hot([code], "extended")[0] == (code == "426783006")
    assert set(labels.SINUS) == {"426783006", "426177001", "427084000", "427393009"}


# Atrial, junctional and ventricular rhythms, pacing: every one in the Challenge's two tables.
ELSEWHERE = (
    "164889003 314208002 426749004 195080001 164890007 106068003 233892002 713422000 426761007 "
    "251166008 233897008 29320008 426664006 426648003 49260003 61277005 81898007 164895002 "
    "111288001 164896001 10370003 251268003 251266004"
).split()


@pytest.mark.parametrize("code", ELSEWHERE)
def test_another_rhythm_is_a_stated_zero_of_sr(code):
    assert known([code])["SR"] == 0
    assert known([code, "59118001"])["SR"] == 0
    assert set(ELSEWHERE) == set(labels.NOT_SINUS)


@pytest.mark.parametrize(
    "codes",
    [
        [],
        ["59118001"],  # right bundle branch block
        ["270492004"],  # first-degree AV block
        ["27885002"],  # complete heart block: the sinus node may lead the atria
        ["429622005", "39732003"],  # ST depression, left axis deviation
        ["284470004"],  # PAC
        ["164884008", "17338001"],  # ectopy
        ["426627000"],  # bradycardia, of no node
        ["195101003"],  # wandering atrial pacemaker
        ["425856008"],  # paroxysmal ventricular tachycardia
        ["5609005"],  # sinus arrest
    ],
)
def test_where_no_code_says_who_leads_sr_is_unknown(codes):
    assert known(codes)["SR"] is None
    for policy in ("extended", "official"):
        assert labels.label_mask("Georgia", policy, codes)[0], "those take it for a zero"
    others = known(codes)
    assert [others[r] for r in ("AF", "AFL")] == [0, 0], "these were looked for"


@pytest.mark.parametrize(
    ("code", "rhythm"),
    [
        ("282825002", "AF"),
        ("314208002", "AF"),
        ("426749004", "AF"),
        ("195080001", "AF"),
        ("195080001", "AFL"),
        ("251168009", "PAC"),
        ("251170000", "PAC"),
        ("251173003", "PAC"),
        ("11157007", "PVC"),
        ("251180001", "PVC"),
        ("251182009", "PVC"),
    ],
)
def test_a_rhythm_that_a_code_hints_at_is_no_zero(code, rhythm):
    assert known([code])[rhythm] is None
    assert known([code, labels.CODES[rhythm][0]])[rhythm] == 1
    assert known(["426783006"])[rhythm] == 0
    assert known([code], policy="extended")[rhythm] == 0
    assert sum(len(hints) for hints in labels.UNSETTLED.values()) == 11


def test_a_database_that_does_not_label_a_rhythm_has_no_zeros_of_it():
    unknown = {
        database: [r for r, value in known(["426783006"], database).items() if value is None]
        for database in ("CPSC2018", "PTB", "Ningbo", "CPSC-Extra", "PTB-XL", "LUDB", "Georgia")
    }
    wanted = {"CPSC2018": ["AFL"], "PTB": ["PVC"], "Ningbo": ["AF", "AFL"]}
    assert {name: found for name, found in unknown.items() if found} == wanted


def test_unknown_labels_travel_into_data_sets_folds_and_scores():
    rng = np.random.default_rng(0)
    said = [["426177001"], ["164889003"], ["59118001"], ["164884008"], ["284470004", "426783006"]]
    said.append(["164890007"])
    records = [
        SimpleNamespace(
            name=str(i), fs_hz=100, codes=said[i % 6], signal_mv=rng.normal(size=(200, 12))
        )
        for i in range(60)
    ]
    stated, extended = (
        from_records(records, Preprocessing(fs_hz=100, n_samples=200), "Georgia", policy)
        for policy in ("stated", "extended")
    )
    assert stated.y[:5, 0].tolist() == [1, 0, 0, 0, 1]
    assert stated.y_mask[:5, 0].tolist() == [True, True, False, False, True]
    assert extended.y[:5, 0].tolist() == [0, 0, 0, 0, 1] and extended.y_mask.all()
    assert (stated.y[:, 1:] == extended.y[:, 1:]).all() and stated.y_mask[:, 1:].all()
    assert len(patient_folds(stated, 5)) == 5

    p = rng.random((60, 5))
    other = np.where(stated.y_mask, p, 1 - p)  # only unknown labels are predicted otherwise
    scores, same = (evaluate(stated, each, np.full(5, 0.5), n_draws=20) for each in (p, other))
    np.testing.assert_equal(same, scores)
    assert scores["positives"]["SR"] == 20
    chosen = [metrics.best_thresholds(stated.y, each, stated.y_mask) for each in (p, other)]
    np.testing.assert_array_equal(*chosen)
    taken, wrong = (evaluate(extended, each, np.full(5, 0.5), n_draws=2) for each in (p, other))
    for name in ("auroc", "auprc", "ece", "brier"):
        assert taken[name]["SR"][0] != wrong[name]["SR"][0], "as zeros they would have counted"
    assert taken["challenge"] != wrong["challenge"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'strict' found, one of extended, official"):
        labels.multi_hot([], "strict")
    with pytest.raises(ValueError, match="'strict' found, one of extended, official, stated"):
        labels.label_mask("PTB-XL", "strict")
    for read in (labels.multi_hot, lambda codes: labels.label_mask("PTB-XL", "stated", codes)):
        with pytest.raises(TypeError, match="a string '426783006' found"):
            read("426783006")
    with pytest.raises(TypeError, match="code 426783006 found"):
        labels.multi_hot([426783006])
    with pytest.raises(ValueError, match=r"\(4,\) found, \(5,\) wanted"):
        labels.names(np.zeros(4))
