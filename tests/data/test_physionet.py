"""Tests of ecgbook.physionet against a local server laid out as PhysioNet's."""

import csv
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ecgbook.data import DownloadError, download, physionet
from ecgbook.storage import book_file

LEADS = ["i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6"]
RECORDS = {  # "folder/record": path inside the project, as PhysioNet lays it out
    "challenge2021/A0001": "challenge-2021/1.0.3/training/cpsc_2018/g1/A0001",
    "challenge2021/E00002": "challenge-2021/1.0.3/training/georgia/g1/E00002",
    "challenge2021/HR00001": "challenge-2021/1.0.3/training/ptb-xl/g1/HR00001",
    "challenge2021/JS11438": "challenge-2021/1.0.3/training/ningbo/g2/JS11438",
    "ptbxl100/00001_lr": "ptb-xl/1.0.3/records100/00000/00001_lr",
    "ptbxl500/00016_hr": "ptb-xl/1.0.3/records500/00000/00016_hr",
    "ludb/1": "ludb/1.0.1/data/1",
}
EXTENSIONS = {
    "challenge2021": ["hea", "mat"],
    "ptbxl100": ["hea", "dat"],
    "ptbxl500": ["hea", "dat"],
    "ludb": ["hea", "dat", *LEADS],
}
HTML = b"<!DOCTYPE html><html><body>Please come back later</body></html>\n"


def names_of(record):
    return [f"{record}.{ext}" for ext in EXTENSIONS[record.split("/")[0]]]


def rows_of(records):
    rows = []
    for key in records:
        folder, record = key.split("/")
        project = "/".join(RECORDS[key].split("/")[:2])
        facts = {"database": "made up", "age": "71.0", "snomed": "426783006;427172004"}
        rows.append({"record": record, "folder": folder, "project": project, **facts})
    return rows


class Server:
    """PhysioNet in small: a dict of files, a log of requests, and a hook that may misbehave."""

    def __init__(self, content):
        """Serve `content`, bytes by "folder/record.ext"."""
        self.content = content
        self.files = {}  # URL path -> bytes
        for name, body in content.items():
            record, _, ext = name.rpartition(".")
            self.files[f"{RECORDS[record]}.{ext}"] = body
        for project in {"/".join(path.split("/")[:2]) for path in self.files}:
            self.publish(project)
        self.log, self.lock, self.now, self.most = [], threading.Lock(), 0, 0
        self.hook = lambda path, body: (200, body, len(body))
        self.headers = {}  # of every answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_GET(self):  # noqa: N802
                path = self.path.lstrip("/")
                with outer.lock:
                    outer.log.append(path)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    body = outer.files.get(path)
                    found = (404, HTML, len(HTML)) if body is None else outer.hook(path, body)
                    status, body, length = found
                    self.send_response(status)
                    self.send_header("Content-Length", str(length))
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for part in body if isinstance(body, list) else [body]:
                        self.wfile.write(part) if isinstance(part, bytes) else part()
                except OSError:  # the client was killed
                    pass
                finally:
                    with outer.lock:
                        outer.now -= 1

            def log_message(self, *args):
                pass

        class Listener(ThreadingHTTPServer):
            request_queue_size = 64

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def publish(self, project):
        """Write the project's SHA256SUMS.txt, with files that nobody asks for."""
        lines = [f"{'0' * 64} LICENSE.txt", f"{'1' * 64} notes (1)/read me.txt"]
        for path, body in self.files.items():
            if path.startswith(project) and not path.endswith("SHA256SUMS.txt"):
                digest = hashlib.sha256(body).hexdigest()
                lines.append(f"{digest} {path.removeprefix(project + '/')}")
        self.files[f"{project}/SHA256SUMS.txt"] = "".join(f"{x}\n" for x in lines).encode()

    def asked(self):
        """Return the requests for files other than lists of hashes, and forget them."""
        asked = [path for path in self.log if not path.endswith("SHA256SUMS.txt")]
        self.log.clear()
        return asked

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    rng = np.random.default_rng(0)
    names = [name for record in RECORDS for name in names_of(record)]
    found = Server({name: rng.bytes(int(rng.integers(500, 200_000))) for name in names})
    yield found
    found.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(physionet, "_PAUSES_S", (0.0, 0.0))


def wait_for(condition, process):
    """Wait as long as the process lives, however busy the machine is."""
    while not condition():
        assert process.poll() is None, "it ended before"
        time.sleep(0.01)


def fetch(server, folder, records=tuple(RECORDS), **options):
    options = {"base_urls": [server.url], "progress": False, **options}
    return download(folder, rows_of(records), **options)


def on_disk(folder):
    """Return bytes by name of everything but .cache and the manifest."""
    names = [path.relative_to(folder).as_posix() for path in Path(folder).glob("[!.]*/*")]
    return {name: (Path(folder) / name).read_bytes() for name in names}


def manifest_of(folder):
    with (Path(folder) / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_download_equals_the_source_and_the_manifest_carries_the_facts(server, tmp_path):
    path = fetch(server, tmp_path)
    assert on_disk(tmp_path) == server.content
    assert path == tmp_path / "manifest.csv"
    rows = manifest_of(tmp_path)
    assert [f"{row['folder']}/{row['record']}" for row in rows] == list(RECORDS)
    for row, key in zip(rows, RECORDS, strict=True):
        assert (row["age"], row["snomed"]) == ("71.0", "426783006;427172004")
        source = f"{row['source_repo']}/{row['source_path']}"
        assert source == f"physionet.org/{RECORDS[key]}"
        assert "project" not in row
    assert sorted(server.asked()) == sorted(set(server.files) - sums(server))
    assert not (tmp_path / ".cache" / "incoming").exists()


def sums(server):
    return {path for path in server.files if path.endswith("SHA256SUMS.txt")}


def test_second_download_makes_no_request_at_all(server, tmp_path):
    fetch(server, tmp_path)
    server.log.clear()
    fetch(server, tmp_path)
    assert server.log == []
    assert len(manifest_of(tmp_path)) == len(RECORDS)


def test_a_damaged_file_is_replaced_and_only_that_one(server, tmp_path):
    fetch(server, tmp_path)
    server.log.clear()
    damaged = tmp_path / "ludb" / "1.v3"
    damaged.write_bytes(b"damaged")
    with damaged.open("rb") as still_open:
        fetch(server, tmp_path)
        assert still_open.read() == b"damaged"  # replaced in one step, not written over
    assert server.log == ["ludb/1.0.1/data/1.v3"]
    assert on_disk(tmp_path) == server.content


def test_connections_that_break_leave_no_partial_file_and_the_next_run_resumes(server, tmp_path):
    started = []

    def breaks_after_nine(path, body):
        if not path.endswith("SHA256SUMS.txt"):
            started.append(path)
            if len(started) > 9:
                return 200, body[: len(body) // 2], len(body)
        return 200, body, len(body)

    server.hook = breaks_after_nine
    with pytest.raises(DownloadError, match="again to resume") as error:
        fetch(server, tmp_path, jobs=2)
    kept = on_disk(tmp_path)
    assert len(kept) == 9
    assert all(server.content[name] == body for name, body in kept.items())
    assert sorted(error.value.failed) == sorted(set(server.content) - set(kept))
    assert server.url in next(iter(error.value.failed.values()))
    whole = [record for record in RECORDS if set(names_of(record)) <= set(kept)]
    listed = [f"{row['folder']}/{row['record']}" for row in manifest_of(tmp_path)]
    assert listed == whole and 0 < len(whole) < len(RECORDS)

    server.asked()
    server.hook = lambda path, body: (200, body, len(body))
    fetch(server, tmp_path)
    assert len(server.asked()) == len(server.content) - 9
    assert on_disk(tmp_path) == server.content
    assert len(manifest_of(tmp_path)) == len(RECORDS)


def test_a_killed_run_leaves_only_whole_files_and_the_next_run_resumes(server, tmp_path):
    reached, killed = threading.Event(), threading.Event()
    answered = []

    def stalls_halfway(path, body):
        if path.endswith("SHA256SUMS.txt"):
            return 200, body, len(body)
        answered.append(path)
        if len(answered) <= 5:
            return 200, body, len(body)
        reached.set()
        middle = len(body) // 2
        return 200, [body[:middle], killed.wait, body[middle:]], len(body)

    server.hook = stalls_halfway
    program = (
        "import sys; sys.path.insert(0, sys.argv[4])\n"
        "from ecgbook.data import download, read_list\n"
        "download(sys.argv[2], read_list(sys.argv[1]), base_urls=[sys.argv[3]], jobs=3)\n"
    )
    rows = rows_of(RECORDS)
    listing = tmp_path / "list.csv"
    with listing.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    folder = tmp_path / "data"
    repository = str(Path(physionet.__file__).parents[2])
    arguments = [sys.executable, "-c", program, str(listing), str(folder), server.url, repository]
    run = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(reached.is_set, run)
        incoming = folder / ".cache" / "incoming"
        wait_for(lambda: len(on_disk(folder)) == 5, run)
        wait_for(lambda: any(path.stat().st_size for path in incoming.iterdir()), run)
    finally:
        run.kill()
        run.wait()
        killed.set()
    kept = on_disk(folder)
    assert len(kept) == 5
    assert all(server.content[name] == body for name, body in kept.items())
    assert not (folder / "manifest.csv").exists()

    server.hook = lambda path, body: (200, body, len(body))
    server.asked()
    fetch(server, folder)
    # As a set: the server may hear the killed run's last requests only now.
    asked = {Path(path).name for path in server.asked()}
    assert asked == {Path(name).name for name in server.content.keys() - kept.keys()}
    assert on_disk(folder) == server.content
    assert not incoming.exists()


def test_the_manifest_comes_last_and_replaces_the_old_one_whole(server, tmp_path):
    seen = []

    def looks(path, body):
        seen.append((tmp_path / "manifest.csv").exists())
        return 200, body, len(body)

    server.hook = looks
    fetch(server, tmp_path)
    assert len(seen) > 20 and not any(seen)
    old = os.stat(tmp_path / "manifest.csv").st_ino
    with (tmp_path / "manifest.csv").open() as still_open:
        fetch(server, tmp_path, ["ludb/1"])
        assert len(still_open.readlines()) == 1 + len(RECORDS)  # a reader sees the old one whole
    assert os.stat(tmp_path / "manifest.csv").st_ino != old
    assert len(manifest_of(tmp_path)) == 1


@pytest.mark.parametrize("wrong", [lambda body: HTML, lambda body: body[:-1] + b"\x00\x01"])
def test_a_page_or_a_corrupt_file_never_becomes_a_record(server, tmp_path, wrong):
    def spoils(path, body):
        body = wrong(body) if path.endswith("HR00001.mat") else body
        return 200, body, len(body)

    server.hook = spoils
    with pytest.raises(DownloadError, match="HR00001.mat: .*SHA-256 differs") as error:
        fetch(server, tmp_path)
    assert list(error.value.failed) == ["challenge2021/HR00001.mat"]
    assert on_disk(tmp_path).keys() == server.content.keys() - {"challenge2021/HR00001.mat"}
    assert "HR00001" not in [row["record"] for row in manifest_of(tmp_path)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda body: HTML, "line 1 .* found, '<sha256> <path>' wanted"),
        (lambda body: body[:-5], "a last line without its end"),
        (lambda body: b"", "a last line without its end"),
    ],
)
def test_a_page_instead_of_the_hashes_stops_and_is_not_kept(server, tmp_path, spoil, message):
    def spoils(path, body):
        body = spoil(body) if path == "ludb/1.0.1/SHA256SUMS.txt" else body
        return 200, body, len(body)

    server.hook = spoils
    with pytest.raises(DownloadError, match=message):
        fetch(server, tmp_path)
    assert on_disk(tmp_path) == {} and not (tmp_path / "manifest.csv").exists()
    server.hook = lambda path, body: (200, body, len(body))
    fetch(server, tmp_path)
    assert on_disk(tmp_path) == server.content


def test_a_broken_cached_list_is_named_and_fetched_afresh(server, tmp_path):
    fetch(server, tmp_path)
    (cached,) = (tmp_path / ".cache").glob("ludb*SHA256SUMS.txt")
    cached.write_bytes(HTML)
    with pytest.raises(DownloadError, match="ludb-1.0.1-SHA256SUMS.txt: line 1"):
        fetch(server, tmp_path)
    assert len(manifest_of(tmp_path)) == len(RECORDS)
    fetch(server, tmp_path)


def test_a_record_without_a_published_hash_is_reported_and_looked_up_again(server, tmp_path):
    path = "ludb/1.0.1/SHA256SUMS.txt"
    whole = server.files[path]
    lines = whole.splitlines(keepends=True)
    server.files[path] = b"".join(line for line in lines if not line.endswith(b"data/1.dat\n"))
    with pytest.raises(DownloadError, match="ludb/1.dat: 0 published hashes") as error:
        fetch(server, tmp_path)
    assert list(error.value.failed) == ["ludb/1.dat"]
    assert "1" not in [row["record"] for row in manifest_of(tmp_path)]
    server.files[path] = whole + b"2" * 64 + b" data/again/1.dat\n"
    with pytest.raises(DownloadError, match="ludb/1.dat: 2 published hashes"):
        fetch(server, tmp_path)
    server.files[path] = whole + b"2" * 64 + b" elsewhere/1.dat\n"
    fetch(server, tmp_path)
    assert on_disk(tmp_path) == server.content


@pytest.mark.parametrize(
    "path", ["data/../../1.dat", "/data/1.dat", "data/a b/1.dat", "data/%2e%2e/1.dat", "../1.dat"]
)
def test_unsafe_published_paths_are_refused(server, tmp_path, path):
    server.files["ludb/1.0.1/SHA256SUMS.txt"] += f"{'2' * 64} {path}\n".encode()
    with pytest.raises(DownloadError, match="unsafe path"):
        fetch(server, tmp_path)
    assert server.asked() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": "../A0001"}, "record name '../A0001' found"),
        ({"record": "/etc/passwd"}, "record name"),
        ({"record": "A0001\n"}, "record name"),
        ({"record": ""}, "record name '' found"),
        ({"record": "Ａ0001"}, "record name"),
        ({"folder": "../ludb"}, "folder '../ludb' found, one of"),
        ({"folder": "cpsc2018_converted"}, "folder 'cpsc2018_converted' found"),
        ({"project": "../1.0.1"}, "project '../1.0.1' found"),
        ({"project": "ludb/1.0.1/.."}, "project"),
        ({"project": "ludb/.."}, "project"),
        ({"record": "E00002"}, "challenge2021/E00002 found twice"),
    ],
)
def test_unsafe_or_doubled_rows_of_a_list_are_refused(server, tmp_path, change, message):
    rows = rows_of(["challenge2021/A0001", "challenge2021/E00002"])
    rows[0].update(change)
    with pytest.raises(ValueError, match=message):
        download(tmp_path, rows, base_urls=[server.url], progress=False)
    assert server.log == [] and list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(server, tmp_path):
    for jobs in (0, 33):
        with pytest.raises(ValueError, match=f"jobs {jobs} found, 1 to 32"):
            fetch(server, tmp_path, jobs=jobs)
    for urls in (server.url, []):
        with pytest.raises(ValueError, match="base_urls"):
            fetch(server, tmp_path, base_urls=urls)
    with pytest.raises(ValueError, match="no records"):
        download(tmp_path, [], base_urls=[server.url])
    listing = tmp_path / "list.csv"
    listing.write_text("record,folder\nA0001,challenge2021\n")
    with pytest.raises(ValueError, match="columns project missing, only record, folder found"):
        physionet.read_list(listing)


TABLE = "record,folder,project,snomed\nA0001,challenge2021,challenge-2021/1.0.3,1;2\n"
ROW = {
    "record": "A0001",
    "folder": "challenge2021",
    "project": "challenge-2021/1.0.3",
    "snomed": "1;2",
}


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.replace(",", ", ").replace("A0001", " A0001 ").encode(),
        TABLE.replace("1;2", '"1;2"').replace(",", ";").replace("\n", "\r\n").encode(),
        b"\n" + TABLE.encode() + b"\n,,,\n",
    ],
    ids=["plain", "mark", "blanks", "semicolons", "empty lines"],
)
def test_a_list_is_read_as_spreadsheets_write_it(tmp_path, content):
    listing = tmp_path / "list.csv"
    listing.write_bytes(content)
    assert physionet.read_list(listing) == [ROW]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file found"),
        (b"\n,\n", "empty file found"),
        (TABLE.encode("utf-16"), "UTF-8 wanted"),
        (TABLE.encode("utf-16-le"), "UTF-8 wanted|columns .* missing"),
        (TABLE.replace("1;2", "Müller").encode("latin-1"), "UTF-8 wanted"),
        (TABLE.replace(",", "\t").encode(), "columns .* missing, only record\tfolder"),
        (TABLE.replace("1;2", "1,2").encode(), "5 values found in row 1, 4 wanted"),
        (TABLE.replace(",1;2", "").encode(), "3 values found in row 1, 4 wanted"),
        (TABLE.partition("\n")[0].encode(), "no records found"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, content, message):
    listing = tmp_path / "list.csv"
    listing.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(listing))}: .*{message}"):
        physionet.read_list(listing)


def test_a_second_download_into_the_folder_is_refused(server, tmp_path):
    refused = []

    def tries_another(path, body):
        try:
            fetch(server, tmp_path)
        except OSError as error:
            refused.append(str(error))
        return 200, body, len(body)

    server.hook = tries_another
    fetch(server, tmp_path)
    assert len(refused) == len(server.log)
    assert all(re.match(r".*another process \(pid \d+ on .* is writing here", x) for x in refused)
    assert on_disk(tmp_path) == server.content and len(manifest_of(tmp_path)) == len(RECORDS)
    server.hook = lambda path, body: (200, body, len(body))
    fetch(server, tmp_path)


@pytest.mark.parametrize("place", ["incoming", "target"])
def test_a_file_that_the_disk_does_not_take_is_named_and_the_others_come(
    server, tmp_path, monkeypatch, place
):
    if place == "target":
        (tmp_path / "ludb" / "1.v3").mkdir(parents=True)  # a folder has its name
    else:
        retrieve = physionet.pooch.retrieve

        def full(url, **options):
            if url.endswith("/1.v3"):
                raise OSError(28, "No space left on device")
            return retrieve(url, **options)

        monkeypatch.setattr(physionet.pooch, "retrieve", full)
    with pytest.raises(DownloadError, match=r"ludb/1\.v3: not written: \[Errno") as error:
        fetch(server, tmp_path)
    assert list(error.value.failed) == ["ludb/1.v3"]
    assert len(manifest_of(tmp_path)) == len(RECORDS) - 1
    if place == "target":
        (tmp_path / "ludb" / "1.v3").rmdir()
    assert on_disk(tmp_path).keys() == server.content.keys() - {"ludb/1.v3"}


def test_a_file_that_cannot_be_read_is_fetched_again(server, tmp_path, monkeypatch):
    fetch(server, tmp_path)
    server.log.clear()
    whole = physionet.pooch.file_hash

    def broken(path):
        if str(path) == str(tmp_path / "ludb" / "1.v3"):
            raise OSError(5, "Input/output error")
        return whole(path)

    monkeypatch.setattr(physionet.pooch, "file_hash", broken)
    fetch(server, tmp_path)
    assert server.log == ["ludb/1.0.1/data/1.v3"]


@pytest.mark.parametrize(
    ("header", "waited"),
    [("30", 30), ("3600", 60), ("0", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("²", 0), (None, 0)],
)
@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_says_how_long_to_wait(server, tmp_path, monkeypatch, status, header, waited):
    waits = []
    monkeypatch.setattr(physionet, "time", types.SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(physionet, "_PAUSES_S", (0.25, 0.5))
    server.headers = {} if header is None else {"Retry-After": header}
    server.hook = lambda path, body: (status, HTML, len(HTML))
    with pytest.raises(DownloadError, match=str(status)):
        fetch(server, tmp_path)
    assert waits == [0, max(waited, 0.25), max(waited, 0.5)]


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again(server, tmp_path, status):
    seen = set()

    def busy_once(path, body):
        if path in seen:
            return 200, body, len(body)
        seen.add(path)
        return status, HTML, len(HTML)

    server.hook = busy_once
    fetch(server, tmp_path, ["challenge2021/A0001"])
    assert len(on_disk(tmp_path)) == 2
    assert len(server.log) == 6


def test_a_server_that_stays_busy_is_given_up_after_three_tries(server, tmp_path):
    server.hook = lambda path, body: (503 if path.endswith(".hea") else 200, body, len(body))
    with pytest.raises(DownloadError, match="503"):
        fetch(server, tmp_path, ["challenge2021/A0001"])
    assert len([path for path in server.log if path.endswith(".hea")]) == 3


def test_a_missing_file_is_asked_for_once_and_the_next_server_is_tried(server, tmp_path):
    missing = "ptb-xl/1.0.3/records100/00000/00001_lr.dat"
    del server.files[missing]
    with pytest.raises(DownloadError, match="404"):
        fetch(server, tmp_path / "one", ["ptbxl100/00001_lr"])
    assert server.log.count(missing) == 1
    mirror = Server(server.content)
    try:
        urls = [server.url, mirror.url]
        fetch(server, tmp_path / "two", ["ptbxl100/00001_lr"], base_urls=urls)
        assert mirror.asked() == [missing]
        assert len(on_disk(tmp_path / "two")) == 2
        server.hook = lambda path, body: (200, HTML, len(HTML))  # of the list of hashes, too
        fetch(server, tmp_path / "three", ["ludb/1"], base_urls=urls)
        assert len(on_disk(tmp_path / "three")) == 14
    finally:
        mirror.close()


@pytest.mark.parametrize("jobs", [1, 4])
def test_as_many_connections_as_jobs(server, tmp_path, jobs):
    def waits_for_company(path, body):
        while server.most < jobs and not path.endswith("SHA256SUMS.txt"):
            time.sleep(0.005)  # there are more files than jobs: company comes
        return 200, body, len(body)

    server.hook = waits_for_company
    fetch(server, tmp_path, jobs=jobs)
    # One more can be open while the server takes leave of a client that has its file.
    assert jobs <= server.most <= jobs + (jobs > 1)


def test_the_books_list_is_valid_and_has_every_folder():
    rows = physionet.read_list(book_file("experiments/records.csv"))
    assert {row["folder"] for row in rows} == set(EXTENSIONS)
    projects = {"challenge-2021/1.0.3", "ptb-xl/1.0.3", "ludb/1.0.1"}
    assert {row["project"] for row in rows} == projects
    assert not {"source_repo", "source_path", "source_commit", "note"} & set(rows[0])


def test_the_books_list_gives_back_the_folder_of_real_records(ecgdata, tmp_path):
    rows = physionet.read_list(book_file("experiments/records.csv"))
    with (ecgdata / "manifest.csv").open(newline="") as file:
        manifest = {(row["folder"], row["record"]): row for row in csv.DictReader(file)}
    published = {key: row for key, row in manifest.items() if key[0] in EXTENSIONS}
    assert {(row["folder"], row["record"]) for row in rows} == set(published)

    wanted = [row for row in rows if f"{row['folder']}/{row['record']}" in RECORDS]
    assert len(wanted) == len(RECORDS)
    names = [name for record in RECORDS for name in names_of(record)]
    real = Server({name: (ecgdata / name).read_bytes() for name in names})
    try:
        download(tmp_path, wanted, base_urls=[real.url], progress=False)
        assert on_disk(tmp_path) == real.content
    finally:
        real.close()
    found = manifest_of(tmp_path)
    assert list(found[0]) == list(next(iter(manifest.values())))
    local = ("source_repo", "source_path", "source_commit", "note")
    for row in found:
        original = manifest[row["folder"], row["record"]]
        assert {k: v for k, v in row.items() if k not in local} == {
            k: v for k, v in original.items() if k not in local
        }
