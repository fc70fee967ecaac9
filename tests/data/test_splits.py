"""Splits: for any mesh of patients and copies, nobody is on both sides and nobody is lost."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgbook import data as splits
from ecgbook.data import ECGDataset, from_folder, join_records
from ecgbook.signals import Preprocessing

STEPS = Preprocessing(fs_hz=125, n_samples=8, band_hz=None)


def dataset(patients, hashes, same, databases=None, y=None):
    n = len(patients)
    copies, groups = join_records([f"f/{i}" for i in range(n)], patients, hashes, same, ["one"] * n)
    return ECGDataset(
        x=np.zeros((n, 8, 12), np.float32),
        n_valid=np.full(n, 8),
        y=np.zeros((n, 5), np.float32) if y is None else y,
        y_mask=np.ones((n, 5), bool),
        names=np.array([f"f/{i}" for i in range(n)]),
        databases=np.array(databases or ["A"] * n),
        groups=groups,
        copies=copies,
        preprocessing=STEPS,
    )


@st.composite
def meshes(draw):
    n = draw(st.integers(25, 60))
    patients = draw(st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=n, max_size=n))
    hashes = [draw(st.sampled_from([f"h{i}", f"h{i}", f"h{i // 5}"])) for i in range(n)]
    same = [draw(st.sampled_from(["", "", "", f"f/{n - 1 - i}"])) for i in range(n)]
    databases = draw(st.lists(st.sampled_from(["A", "B", "C"]), min_size=n, max_size=n))
    y = np.array(draw(st.lists(st.integers(0, 31), min_size=n, max_size=n)))
    bits = (y[:, None] >> np.arange(5) & 1).astype(np.float32)
    return dataset(patients, hashes, same, databases, bits), patients, hashes, same


def assert_apart(parts, patients, hashes, same):
    sides = [set(np.asarray(part).tolist()) for part in parts]
    for a in range(len(sides)):
        for b in range(a):
            assert not sides[a] & sides[b]
            for key in (patients, hashes):
                assert not {key[i] for i in sides[a]} & {key[i] for i in sides[b]} - {""}
            for i in range(len(same)):
                if same[i]:
                    j = int(same[i][2:])
                    assert not (i in sides[a] and j in sides[b]), (i, j)
                    assert not (i in sides[b] and j in sides[a]), (i, j)


@settings(max_examples=40, deadline=None)
@given(meshes())
def test_no_patient_hash_or_copy_is_on_both_sides(mesh):
    data, patients, hashes, same = mesh
    n_groups = len(np.unique(data.groups))
    if n_groups >= 4:
        folds = splits.patient_folds(data, 4, seed=1)
        for train, test in folds:
            assert_apart([train, test], patients, hashes, same)
            assert len(train) + len(test) == len(data)
        assert sorted(np.concatenate([test for _, test in folds])) == [*range(len(data))]
    if n_groups >= 20:
        parts = splits.split_by_patient(data, (0.5, 0.25, 0.25), seed=1)
        index = [[int(name[2:]) for name in part.names] for part in parts]
        assert_apart(index, patients, hashes, same)
        assert sorted(sum(index, [])) == [*range(len(data))]
    for database, train, test in splits.leave_one_database_out(data):
        assert set(data.databases[test]) == {database}
        assert database not in data.databases[train]
        assert_apart([train, test], patients, hashes, same)


def test_parts_have_their_sizes_and_their_share_of_the_rarest_rhythm():
    rng = np.random.default_rng(0)
    y = (rng.random((1000, 5)) < [0.7, 0.1, 0.02, 0.1, 0.1]).astype(np.float32)
    data = dataset([f"p{i // 2}" for i in range(1000)], [f"h{i}" for i in range(1000)], [""] * 1000)
    data = ECGDataset(**{**vars(data), "y": y})
    parts = splits.split_by_patient(data, seed=3)
    assert [len(p) for p in parts] == pytest.approx([714, 143, 143], abs=10)
    share = [p.y[:, 2].mean() for p in parts]
    assert min(share) > 0.6 * y[:, 2].mean()
    again = splits.split_by_patient(data, seed=3)
    other = splits.split_by_patient(data, seed=4)
    assert [p.names.tolist() for p in again] == [p.names.tolist() for p in parts]
    assert other[2].names.tolist() != parts[2].names.tolist()


def test_a_rare_rhythm_beside_a_common_one_is_spread_evenly():
    y = np.zeros((200, 5), np.float32)
    y[:, 0] = 1  # everyone's
    y[0:20:2, 3] = 1  # in one of the two records of the first ten patients
    data = dataset([f"p{i // 2}" for i in range(200)], [f"h{i}" for i in range(200)], [""] * 200)
    data = ECGDataset(**{**vars(data), "y": y})
    for seed in range(3):
        folds = splits.patient_folds(data, 5, seed=seed)
        assert [y[test, 3].sum() for _, test in folds] == [2] * 5


def test_impossible_splits_are_named():
    data = dataset(["p"] * 30, [f"h{i}" for i in range(30)], [""] * 30)
    with pytest.raises(ValueError, match=r"n_folds=5 found, 2 to 1"):
        splits.patient_folds(data, 5)
    with pytest.raises(ValueError, match="add up to 1"):
        splits.split_by_patient(data, (0.7, 0.2))
    with pytest.raises(ValueError, match="add up to 1"):
        splits.split_by_patient(data, (1.2, -0.2))
    alone = dataset([f"p{i}" for i in range(30)], [f"h{i}" for i in range(30)], [""] * 30)
    with pytest.raises(ValueError, match="0.9 cannot be one fold of 1; put the largest part first"):
        splits.split_by_patient(alone, (0.1, 0.9))
    assert [len(part) for part in splits.split_by_patient(alone, (0.5, 0.5))] == [15, 15]


def test_the_real_records_split_without_crossing(ecgdata, tmp_path_factory):
    from ecgbook.data import read_manifest

    rows = read_manifest(ecgdata)
    names = [f"{r['folder']}/{r['record']}" for r in rows]
    # the signals' own hashes, from the cache that the data tests share
    data = from_folder(ecgdata, Preprocessing(fs_hz=125, n_samples=2048))
    assert data.names.tolist() == names
    distinct = data.distinct()
    # 20 records are 100 Hz copies; the hash of a 500 Hz record differs from its 100 Hz copy's
    linked = sum(bool(r["same_ecg_as"]) for r in rows)
    assert linked == 20 and len(distinct) <= 1340 - linked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for train, test in splits.patient_folds(data, 5):
            assert not set(data.groups[train]) & set(data.groups[test])
            assert (data.y[test].sum(0) >= 1).all()
    for row, group in zip(rows, data.groups, strict=True):
        if row["same_ecg_as"] in names:
            assert data.groups[names.index(row["same_ecg_as"])] == group
