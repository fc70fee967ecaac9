"""A folder of real ECGs: labels, groups, and a cache that is keyed by content and whole."""

import builtins
import csv
import hashlib
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgbook.data import folder, from_folder, read_manifest
from ecgbook.labels import CODES, RHYTHMS, names
from ecgbook.leads import LEADS
from ecgbook.records import RecordError
from ecgbook.signals import Preprocessing
from ecgbook.storage import folder_lock
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


@pytest.fixture
def reads(monkeypatch):
    """Names of the records' files that are opened, and of the headers that are prepared."""
    opened, prepared = [], []

    def watching(function):
        def watched(file, *args, **kwargs):
            if not isinstance(file, int) and Path(file).parent.name == "made":
                opened.append(Path(file).name)
            return function(file, *args, **kwargs)

        return watched

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", watching(module.open))
    read_record = folder.read_record
    monkeypatch.setattr(folder, "read_record", lambda p: prepared.append(p.name) or read_record(p))

    def since_last():
        """Return both since it was asked last."""
        found = sorted(opened), list(prepared)
        opened.clear(), prepared.clear()
        return found

    return since_last


def settle(small_folder, age_s=3600):
    """Make all files of the records as old as files that were not written just now."""
    then = time.time_ns() - age_s * 10**9
    for file in (small_folder / "made").iterdir():
        os.utime(file, ns=(then, then))


def rewrite(small_folder, name, twin, keep_time):
    """Put the signal of one record into another, in files of the same sizes."""
    at = small_folder / "made"
    for end in ("hea", "dat"):
        before = (at / f"{name}.{end}").stat()
        content = (at / f"{twin}.{end}").read_bytes()
        if end == "hea":
            content = content.replace(twin.encode(), name.encode())
            content = content.ljust(before.st_size, b"#")[: before.st_size]
        (at / f"{name}.{end}").write_bytes(content)
        if keep_time:
            os.utime(at / f"{name}.{end}", ns=(before.st_atime_ns, before.st_mtime_ns))
        after = (at / f"{name}.{end}").stat()
        assert after.st_size == before.st_size
        assert (after.st_mtime_ns == before.st_mtime_ns) == keep_time


ALL = sorted(f"R{i}.{end}" for i in range(6) for end in ("hea", "dat"))


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


def test_each_record_of_a_folder_is_asked_what_its_codes_state(small_folder, tmp_path):
    manifest = small_folder / "manifest.csv"
    lines = manifest.read_text().splitlines()
    said = ("59118001", "426177001", "164889003", "426783006", "11157007", "")
    for i, codes in enumerate(said, start=1):
        cells = lines[i].split(",")
        lines[i] = ",".join([*cells[:2], "CPSC2018" if i == 1 else "made", codes, *cells[4:]])
    manifest.write_text("\n".join(lines) + "\n")
    known = from_folder(small_folder, STEPS, "stated", cache_dir=tmp_path / "cache").y_mask
    wanted = np.ones((6, 5), bool)
    wanted[[0, 4, 5], 0] = False  # nobody says who leads
    wanted[0, 2] = False  # CPSC2018 has no name for flutter
    wanted[4, 4] = False  # bigeminy may be of PVCs
    assert known.tolist() == wanted.tolist()
    assert from_folder(small_folder, STEPS, cache_dir=tmp_path / "cache").y_mask.all()


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


def test_a_warm_start_reads_no_byte_of_the_records(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    opened, prepared = reads()
    assert set(opened) == set(ALL) and len(prepared) == 6, "the spy sees what is read"
    again = from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == ([], [])
    np.testing.assert_array_equal(again.x, first.x)
    from_folder(small_folder, Preprocessing(fs_hz=250, n_samples=2500), cache_dir=cache)
    assert len(reads()[1]) == 6, "what is known of a file says nothing of another filter"


def test_a_touched_file_is_hashed_once_and_nothing_is_prepared(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    reads()
    os.utime(small_folder / "made" / "R2.dat", (1e9, 1e9))
    again = from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == (["R2.dat"], [])
    np.testing.assert_array_equal(again.x, first.x)
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == ([], []), "the new time is known"


def test_a_copied_folder_is_hashed_once_and_nothing_is_prepared(small_folder, tmp_path, reads):
    cache, copy = tmp_path / "cache", tmp_path / "copy"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    shutil.copytree(small_folder, copy)
    reads()
    for place, wanted in ((copy, ALL), (small_folder, []), (copy, [])):
        np.testing.assert_array_equal(from_folder(place, STEPS, cache_dir=cache).x, first.x)
        assert reads() == (wanted, []), place


def test_new_bytes_of_the_same_size_are_prepared(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    reads()
    rewrite(small_folder, "R0", "R1", keep_time=False)
    changed = from_folder(small_folder, STEPS, cache_dir=cache)
    assert len(reads()[1]) == 6
    np.testing.assert_array_equal(changed.x[0], first.x[1])
    assert not np.array_equal(first.x[0], first.x[1])


def test_new_bytes_of_another_size_are_prepared_whatever_their_time(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    settle(small_folder)
    from_folder(small_folder, STEPS, cache_dir=cache)
    header = small_folder / "made" / "R0.hea"
    before = header.stat()
    header.write_text(header.read_text() + "# a remark\n")
    os.utime(header, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads()
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert len(reads()[1]) == 6


def test_the_limit_new_bytes_under_the_old_size_and_time_go_unnoticed(
    small_folder, tmp_path, reads
):
    cache = tmp_path / "cache"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    rewrite(small_folder, "R0", "R1", keep_time=True)
    reads()
    limit = from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == ([], [])
    np.testing.assert_array_equal(limit.x, first.x)
    for end in ("hea", "dat"):  # the way out that the docstring names
        (small_folder / "made" / f"R0.{end}").touch()
    mended = from_folder(small_folder, STEPS, cache_dir=cache)
    np.testing.assert_array_equal(mended.x[0], first.x[1])


@pytest.mark.parametrize("age_s", [1800, -1800])  # within a step of the clock, or ahead of it
def test_a_file_that_was_young_when_it_was_read_is_read_again(
    small_folder, tmp_path, monkeypatch, reads, age_s
):
    cache = tmp_path / "cache"
    monkeypatch.setattr(folder, "COARSEST_TIME_NS", 3600 * 10**9)  # no race with the clock here
    settle(small_folder, 7200)
    young = time.time_ns() - age_s * 10**9
    for end in ("hea", "dat"):
        os.utime(small_folder / "made" / f"R0.{end}", ns=(young, young))
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    rewrite(small_folder, "R0", "R1", keep_time=True)  # as in the same step of the clock
    reads()
    changed = from_folder(small_folder, STEPS, cache_dir=cache)
    assert {"R0.dat", "R0.hea"} <= set(reads()[0])
    np.testing.assert_array_equal(changed.x[0], first.x[1])
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == (["R0.dat", "R0.hea"], []), "of the other files all is known"


def test_a_cache_of_the_version_before_is_read(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    key = hashlib.sha256(json.dumps([3, STEPS.to_dict()]).encode())
    for row in read_manifest(small_folder):
        for end in ("hea", "dat"):
            file = small_folder / "made" / f"{row['record']}.{end}"
            key.update(hashlib.sha256(file.read_bytes()).digest())
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert (cache / key.hexdigest()[:24] / "signals.npy").is_file()
    settle(small_folder)
    for memory in cache.glob("files-*"):
        memory.unlink()  # such as that version did not keep
    reads()
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == (ALL, []), "every file is hashed, and nothing is prepared"
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert reads() == ([], [])


def test_what_is_known_of_the_files_may_be_damaged_or_impossible_to_write(
    small_folder, tmp_path, reads
):
    cache = tmp_path / "cache"
    settle(small_folder)
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    (memory,) = cache.glob("files-*.json")
    whole = memory.read_text()
    reads()
    memory.write_text(whole[: len(whole) // 2])
    for wanted in (ALL, []):
        np.testing.assert_array_equal(from_folder(small_folder, STEPS, cache_dir=cache).x, first.x)
        assert reads() == (wanted, [])
    memory.unlink()
    memory.mkdir()  # no file can be written under this name
    for _ in range(2):
        np.testing.assert_array_equal(from_folder(small_folder, STEPS, cache_dir=cache).x, first.x)
        assert reads() == (ALL, [])
    assert not list(cache.glob("*.part"))


def test_a_start_does_not_wait_for_another_that_writes(small_folder, tmp_path, reads):
    cache = tmp_path / "cache"
    settle(small_folder)
    from_folder(small_folder, STEPS, cache_dir=cache)
    (memory,) = cache.glob("files-*.json")
    before = memory.read_text()
    (small_folder / "made" / "R2.dat").touch()
    with folder_lock(cache, f"{memory.stem}.lock"):
        assert len(from_folder(small_folder, STEPS, cache_dir=cache)) == 6
    assert memory.read_text() == before
    from_folder(small_folder, STEPS, cache_dir=cache)
    assert memory.read_text() != before


def test_the_signal_file_that_the_header_names_is_the_one_that_is_watched(small_folder, tmp_path):
    cache, at = tmp_path / "cache", small_folder / "made"
    shutil.copy(at / "R0.dat", at / "R0.mat")  # not the file that is read
    first = from_folder(small_folder, STEPS, cache_dir=cache)
    rewrite(small_folder, "R0", "R1", keep_time=False)
    changed = from_folder(small_folder, STEPS, cache_dir=cache)
    np.testing.assert_array_equal(changed.x[0], first.x[1])
    header = (at / "R0.hea").read_text()
    (at / "R0.hea").write_text(header.replace("R0.dat", "R1.dat"))
    message = r"R0.hea: signal file: found R1.dat, wanted R0.mat or R0.dat \(rename"
    with pytest.raises(RecordError, match=message):
        from_folder(small_folder, STEPS, cache_dir=cache)


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
