"""A folder of real ECGs: labels, groups, and a cache that is keyed by content and whole."""

import csv
import shutil

import numpy as np
import pytest
import wfdb

from ecgbook.data import folder, from_folder, read_manifest
from ecgbook.labels import CODES, RHYTHMS, names
from ecgbook.leads import LEADS
from ecgbook.records import RecordError
from ecgbook.signals import Preprocessing
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


def test_a_folder_gives_labels_masks_and_signals(small_folder, tmp_path):
    dataset = from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache")
    rows = read_manifest(small_folder)
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
    read_record = folder.read_record
    monkeypatch.setattr(folder, "read_record", lambda p: reads.append(p) or read_record(p))
    again = from_folder(small_folder, STEPS, cache_dir=cache)
    assert not reads and np.array_equal(first.x, again.x)
    other = from_folder(small_folder, Preprocessing(fs_hz=250, n_samples=2500), cache_dir=cache)
    assert len(reads) == 6 and other.x.shape == (6, 2500, 12)
    name = read_manifest(small_folder)[0]["record"]
    twin = read_manifest(small_folder)[1]["record"]
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

    original = folder.read_record
    monkeypatch.setattr(folder, "read_record", broken)
    with pytest.raises(KeyboardInterrupt):
        from_folder(small_folder, STEPS, cache_dir=cache)
    assert list(cache.iterdir()) == []
    assert len(from_folder(small_folder, STEPS, cache_dir=cache)) == 6


def test_a_manifest_without_rows_or_columns_is_named(small_folder, tmp_path):
    manifest = small_folder / "manifest.csv"
    lines = manifest.read_text().splitlines()
    for text, message in (
        (lines[0], "manifest.csv: no records found"),
        (f"{lines[0]}\nA0001,made", "manifest.csv: 2 values found in row 1, .* wanted"),
        (f"{lines[0].replace('patient', 'person')}\n{lines[1]}", "columns patient missing"),
    ):
        manifest.write_text(text + "\n")
        with pytest.raises(ValueError, match=message):
            from_folder(small_folder, STEPS, cache_dir=tmp_path)


def test_what_is_missing_is_named(small_folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no manifest.csv found.*download"):
        from_folder(tmp_path / "nowhere", STEPS)
    name = read_manifest(small_folder)[2]["record"]
    (small_folder / "made" / f"{name}.dat").unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.hea: listed in manifest.csv"):
        from_folder(small_folder, STEPS, cache_dir=tmp_path)
    monkeypatch.delenv("ECGBOOK_DATA", raising=False)
    assert folder.data_folder() is None


def test_an_epoch_from_the_cache_reads_filters_and_copies_nothing(
    small_folder, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    wanted = np.array(from_folder(small_folder, STEPS, cache_dir=cache).x)

    def never(*_, **__):
        raise AssertionError("called")

    monkeypatch.setattr(folder, "read_record", never)
    monkeypatch.setattr(Preprocessing, "__call__", never)
    found = from_folder(small_folder, STEPS, cache_dir=cache)
    shutil.rmtree(small_folder / "made")  # nothing but the cache is left
    assert isinstance(found.x, np.memmap) and not found.x.flags.writeable
    seen = [x for batch in found.loader(4, shuffle=True, seed=1) for x in batch["x"].numpy()]
    assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in wanted)


@pytest.mark.parametrize("separator", ["; ", ",", ", ", " ", " ; "])
def test_codes_may_be_set_apart_as_headers_do(small_folder, tmp_path, separator):
    wanted = from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache").y
    rows = read_manifest(small_folder)
    for row in rows:
        row["snomed"] = f" {separator.join([*row['snomed'].split(';'), '59118001'])} "
    write_manifest(small_folder, rows)
    found = from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache").y
    np.testing.assert_array_equal(found, wanted)
    assert wanted.any(), "some records show a rhythm"


def test_a_code_that_is_none_is_named(small_folder, tmp_path):
    rows = read_manifest(small_folder)
    for odd in ("4267830o6", "AF", "NORM", "I48.0"):
        rows[2]["snomed"] = f"426783006; {odd}"
        write_manifest(small_folder, rows)
        with pytest.raises(RecordError, match=f"manifest.csv, R2: codes: found {odd}, wanted SNO"):
            from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_is_said_with_the_way_to_name_another(small_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"found, a folder wanted where .*cache_dir=\.\.\."):
        from_folder(small_folder, STEPS, cache_dir=tmp_path / "file" / "cache")


def test_a_manifest_that_a_spreadsheet_saved_is_read(small_folder, tmp_path):
    manifest = small_folder / "manifest.csv"
    manifest.write_text(manifest.read_text(), encoding="utf-8-sig")
    assert len(from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache")) == 6


def write_manifest(folder, rows):
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
