"""Storage: what is written comes back, and a failed write leaves the old file."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from ecgbook import storage


def test_tensors_and_header_come_back(tmp_path):
    tensors = {"a.b": torch.randn(3, 4), "n": torch.tensor(5), "t": torch.randn(4, 3).T}
    header = {"name": "π", "list": [1, 2.5, None], "scores": np.array([1.0, np.nan])}
    path = storage.write_safetensors(tmp_path / "deep" / "x.safetensors", tensors, header)
    back, text = storage.read_safetensors(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert text == {"name": "π", "list": [1, 2.5, None], "scores": [1.0, None]}
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    storage.write_safetensors(path, {"a": torch.zeros(2)}, {"run": 1})

    def broken(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        storage.write_safetensors(path, {"a": torch.ones(2)}, {"run": 2})
    assert storage.read_safetensors(path)[1] == {"run": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: storage.write_safetensors(path, {"a": torch.ones(9000)}, {}),
        lambda path: storage.write_json(path, {"a": [1] * 9000}),
    ],
)
def test_a_full_disk_is_said_in_a_sentence_and_nothing_is_left(tmp_path, write):
    resource = pytest.importorskip("resource", reason="no limits on Windows")
    path = tmp_path / "x"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written .*; make room") as error:
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_has_one_writer_at_a_time_and_the_second_is_told_who(tmp_path):
    folder = tmp_path / "new" / "folder"
    told = f"{folder}: another process (pid {os.getpid()} on "
    with storage.folder_lock(folder), storage.folder_lock(folder, name=".other"):
        for _ in range(2):
            with pytest.raises(BlockingIOError) as error, storage.folder_lock(folder):
                pytest.fail("not to be reached")
            assert str(error.value).startswith(told), "also after others were refused"
        (folder / ".lock.owner").unlink()  # not written yet
        with pytest.raises(BlockingIOError, match="unknown"), storage.folder_lock(folder):
            pytest.fail("not to be reached")
    with pytest.raises(KeyError), storage.folder_lock(folder):
        raise KeyError
    with storage.folder_lock(folder):
        pass
    assert {path.name for path in folder.iterdir()} <= {".lock", ".other"}  # both empty


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from ecgbook import storage\n"
        "with storage.folder_lock(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    repository = os.path.dirname(os.path.dirname(storage.__file__))
    arguments = [sys.executable, "-c", program, str(tmp_path), repository]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes) as run:
        try:
            assert run.stdout.readline().strip() == b"locked"
            message = f"pid {run.pid} on .* is writing here; wait until it has ended, or use"
            with pytest.raises(OSError, match=message), storage.folder_lock(tmp_path):
                pytest.fail("not to be reached")
        finally:
            run.kill()
    assert (tmp_path / ".lock.owner").is_file()
    with storage.folder_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock.owner").read_text()


def test_a_disk_without_locks_gives_none(tmp_path, monkeypatch):
    def without(self):
        raise NotImplementedError("no flock")

    monkeypatch.setattr(storage.FileLock, "_acquire", without)
    with storage.folder_lock(tmp_path), storage.folder_lock(tmp_path):
        assert (tmp_path / ".lock.owner").is_file()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        storage.read_safetensors(path)
    storage.write_safetensors(path, {"a": torch.zeros(2000)}, {})
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[:-100], b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a .safetensors file of ecgbook"):
            storage.read_safetensors(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a .safetensors file of ecgbook"):
        storage.read_safetensors(path)


def test_json_is_strict_and_whole(tmp_path):
    path = storage.write_json(
        tmp_path / "a" / "x.json",
        {"nan": float("nan"), "array": np.arange(3), "number": np.float32(0.5), 5: (1, "é")},
    )
    wanted = {"nan": None, "array": [0, 1, 2], "number": 0.5, "5": [1, "é"]}
    assert json.loads(path.read_text(encoding="utf-8")) == wanted
    with pytest.raises(OSError):
        storage.write_json(tmp_path / "a", {})  # a folder has the name
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError):
        storage.write_json(path, {"x": float("inf")})
    assert json.loads(path.read_text(encoding="utf-8")) == wanted


def test_a_file_of_the_book_is_found_in_a_clone_and_beside_an_installed_package(
    tmp_path, monkeypatch
):
    assert storage.book_file("experiments/records.csv").is_file()
    package = tmp_path / "site-packages" / "ecgbook"
    (package / "experiments" / "results").mkdir(parents=True)
    monkeypatch.setattr(storage, "__file__", str(package / "storage.py"))
    with pytest.raises(FileNotFoundError, match="results/x.json: no such file beside or in"):
        storage.results("x")
    file = package / "experiments" / "results" / "x.json"
    file.write_text('{"a": [1]}')
    assert storage.results("x") == {"a": [1]}
    storage.results("x")["a"].append(2)  # what one reader changes, the next one does not see
    assert storage.results("x") == {"a": [1]}
    file.write_text('{"a": "new"}')
    os.utime(file, ns=(1, 1))
    assert storage.results("x") == {"a": "new"}
    with pytest.raises(FileNotFoundError, match="weights/x.safetensors: no such file"):
        storage.book_file("weights/x.safetensors")


def test_a_file_is_synced_through_a_handle_that_may_write(tmp_path, monkeypatch):
    handles = []
    monkeypatch.setattr(storage.os, "fsync", lambda handle: handles.append(os.write(handle, b"")))
    storage.write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    assert handles == [0]  # Windows refuses to sync a handle that may only read
