"""Labels: codes to rhythms under both policies, checked against the manifest's own columns."""

import csv

import numpy as np
import pytest

from ecgbook import labels


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


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'strict' found, one of extended, official"):
        labels.multi_hot([], "strict")
    with pytest.raises(TypeError, match="a string '426783006' found"):
        labels.multi_hot("426783006")
    with pytest.raises(TypeError, match="code 426783006 found"):
        labels.multi_hot([426783006])
    with pytest.raises(ValueError, match=r"\(4,\) found, \(5,\) wanted"):
        labels.names(np.zeros(4))
