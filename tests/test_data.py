"""Data sets: the cache is fast, keyed by content and whole; batches are what was prepared."""

import csv
import shutil
import time

import numpy as np
import pytest
import torch
import wfdb

from ecgbook import data
from ecgbook.data import ECGDataset, from_folder, from_records
from ecgbook.labels import CODES, RHYTHMS, names
from ecgbook.leads import LEADS
from ecgbook.preprocessing import Preprocessing
from ecgbook.synthetic import make_records

STEPS = Preprocessing(fs_hz=125, n_samples=2048)


@pytest.fixture
def small_folder(tmp_path):
    """A data folder of six synthetic records, written by wfdb, with their manifest."""
    folder, rows = tmp_path / "ecg", []
    (folder / "made").mkdir(parents=True)
    for i, record in enumerate(make_records(6, seed=9, seconds=6)):
        codes = [CODES[rhythm][0] for rhythm in names(record.labels)]
        wfdb.wrsamp(
            f"R{i}",
            fs=record.fs_hz,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=record.signal_mv.astype(float),
            fmt=["16"] * 12,
            adc_gain=[1024] * 12,  # the steps of a synthetic record
            baseline=[0] * 12,
            comments=[f"Dx: {','.join(codes)}"],
            write_dir=str(folder / "made"),
        )
        rows.append(
            {"record": f"R{i}", "folder": "made", "database": "made", "snomed": ";".join(codes)}
            | {"patient": f"p{i}", "same_ecg_as": ""}
            | {rhythm: int(y) for rhythm, y in zip(RHYTHMS, record.labels, strict=True)}
        )
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_synthetic_records_become_what_the_steps_make_of_them():
    records = make_records(6, seed=1, records_per_patient=2)
    dataset = from_records(records, STEPS)
    for i, record in enumerate(records):
        x, mask = STEPS(record.signal_mv, record.fs_hz)
        item = dataset[i]
        np.testing.assert_array_equal(item["x"], x)
        np.testing.assert_array_equal(item["mask"], mask)
        np.testing.assert_array_equal(item["y"], record.labels)
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]
    with pytest.raises(ValueError, match="no record found"):
        from_records([], STEPS)


def test_a_subset_of_a_subset_and_its_batches():
    whole = from_records(make_records(10, seed=2), STEPS)
    part = whole.subset(np.arange(10) % 2 == 1).subset([4, 0])
    assert part.names.tolist() == whole.names[[9, 1]].tolist()
    batch = part.batch([1])
    np.testing.assert_array_equal(batch["x"][0], whole.x[1])
    assert batch["mask"].dtype == torch.bool and batch["y"].shape == (1, 5)
    np.testing.assert_array_equal(part.x[..., [2, 5]], whole.x[[9, 1]][..., [2, 5]])
    np.testing.assert_array_equal(part.x[0, 3], whole.x[9, 3])
    assert len(whole.subset([])) == 0
    with pytest.raises(ValueError, match=r"mask of shape \(9,\) found, \(10,\) wanted"):
        whole.subset(np.ones(9, dtype=bool))
    with pytest.raises(TypeError, match="index of float64 found"):
        whole.subset([0.5, 1.5])


def test_the_loader_gives_every_record_once_in_an_order_its_seed_fixes():
    dataset = from_records(make_records(11, seed=3), STEPS)

    def first_samples(**arguments):
        return [v for b in dataset.loader(4, **arguments) for v in b["x"][:, 500, 0].tolist()]

    straight = first_samples()
    assert straight == dataset.x[:, 500, 0].tolist()
    shuffled = first_samples(shuffle=True, seed=5)
    assert shuffled != straight and sorted(shuffled) == sorted(straight)
    assert shuffled == first_samples(shuffle=True, seed=5)
    assert shuffled != first_samples(shuffle=True, seed=6)
    assert len(first_samples(drop_last=True)) == 8


def test_distinct_keeps_the_first_of_each_copy():
    dataset = from_records(make_records(5, seed=4), STEPS)
    dataset = ECGDataset(**{**vars(dataset), "copies": np.array([3, 1, 3, 1, 0])})
    assert dataset.distinct().names.tolist() == dataset.names[[0, 1, 4]].tolist()


def test_a_folder_gives_labels_masks_and_signals(small_folder, tmp_path):
    dataset = from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache")
    rows = data.read_manifest(small_folder)
    assert len(dataset) == 6
    for i, row in enumerate(rows):
        raw = wfdb.rdrecord(str(small_folder / row["folder"] / row["record"]))
        x, mask = STEPS(raw.p_signal, raw.fs)
        np.testing.assert_allclose(dataset[i]["x"], x, atol=1e-6)
        assert np.abs(x).max() > 0.1
        assert dataset.n_valid[i] == mask.sum()
        wanted = [float(row[rhythm]) for rhythm in RHYTHMS]
        assert dataset.y[i].tolist() == wanted


def test_the_cache_is_found_again_and_never_stale(small_folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    reads = []
    read_record = data.read_record
    monkeypatch.setattr(data, "read_record", lambda p: reads.append(p) or read_record(p))
    again = from_folder(small_folder, STEPS, cache_dir=cache)
    assert not reads and np.array_equal(first.x, again.x)
    other = from_folder(small_folder, Preprocessing(fs_hz=250, n_samples=2500), cache_dir=cache)
    assert len(reads) == 6 and other.x.shape == (6, 2500, 12)
    name = data.read_manifest(small_folder)[0]["record"]
    twin = data.read_manifest(small_folder)[1]["record"]
    at = small_folder / "made"
    header = (at / f"{twin}.hea").read_text().replace(twin, name)
    (at / f"{name}.hea").write_text(header)
    shutil.copy(at / f"{twin}.dat", at / f"{name}.dat")
    changed = from_folder(small_folder, STEPS, cache_dir=cache)
    assert len(reads) == 12
    np.testing.assert_array_equal(changed.x[0], first.x[1])
    assert changed.copies[0] == changed.copies[1] and changed.groups[0] == changed.groups[1]
    assert first.copies[0] != first.copies[1]


def test_a_cache_that_could_not_be_finished_leaves_nothing(small_folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    calls = []

    def broken(path):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(path)

    original = data.read_record
    monkeypatch.setattr(data, "read_record", broken)
    with pytest.raises(KeyboardInterrupt):
        from_folder(small_folder, STEPS, cache_dir=cache)
    assert list(cache.iterdir()) == []
    assert len(from_folder(small_folder, STEPS, cache_dir=cache)) == 6


def test_a_manifest_without_rows_or_columns_is_named(small_folder, tmp_path):
    manifest = small_folder / "manifest.csv"
    lines = manifest.read_text().splitlines()
    for text, message in (
        (lines[0], "manifest.csv: no records found"),
        (f"{lines[0]}\nA0001,made", "no database found in line 2, columns record, folder"),
        (f"{lines[0].replace('patient', 'person')}\n{lines[1]}", "no patient found in line 2"),
    ):
        manifest.write_text(text + "\n")
        with pytest.raises(ValueError, match=message):
            from_folder(small_folder, STEPS, cache_dir=tmp_path)


def test_what_is_missing_is_named(small_folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no manifest.csv found.*download"):
        from_folder(tmp_path / "nowhere", STEPS)
    name = data.read_manifest(small_folder)[2]["record"]
    (small_folder / "made" / f"{name}.dat").unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.hea: listed in manifest.csv"):
        from_folder(small_folder, STEPS, cache_dir=tmp_path)
    monkeypatch.delenv("ECGBOOK_DATA", raising=False)
    assert data.data_folder() is None


def test_an_epoch_from_the_cache_is_20_times_faster_than_through_wfdb(ecgdata):
    dataset = from_folder(ecgdata, STEPS)
    rows = data.read_manifest(ecgdata)
    some = np.random.default_rng(0).choice(len(rows), 60, replace=False)

    def through_wfdb():
        for i in some:
            raw = wfdb.rdrecord(str(ecgdata / rows[i]["folder"] / rows[i]["record"]))
            STEPS(raw.p_signal, raw.fs)

    def from_cache():
        for _ in dataset.subset(some).loader(32, shuffle=True):
            pass

    ratios = []
    for _ in range(3):  # alternating in one run, so that load on the machine hits both
        start = time.perf_counter()
        through_wfdb()
        middle = time.perf_counter()
        from_cache()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert np.median(ratios) >= 20, ratios
