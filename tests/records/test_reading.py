"""Every sound record is read exactly, every damaged one is refused with one kind of error."""

import csv
import os
import pickle
import shutil
import tempfile
import time
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgbook.labels import RHYTHMS, multi_hot
from ecgbook.leads import LEADS, derive
from ecgbook.records import Record, RecordError, read_record
from ecgbook.records.header import MAX_HEADER_BYTES

N = 400
DIALECTS = {
    # name: (signal file, format, scale, first line, comments)
    "old": ("X1.mat", "16+24", "1000/mV", "X1 12 500 400 12-May-2020 12:33:59",
            "#Age: 74\n#Sex: Male\n#Dx: 164889003,427172004\n#Rx: Unknown\n"),
    "new": ("X1.mat", "16x1+24", "1000.0(0)/mV", "X1 12 500 400",
            "# Age: 74\n# Sex: Male\n# Dx: 164889003,427172004\n# Rx: Unknown\n"),
    "plain": ("X1.dat", "16", "1000.0(0)/mV", "X1 12 500 400 08:27:38 16/01/1985 ",
              "#Age: 74\n#Sex: Male\n#Dx: NORM\n#Dx: 164889003,427172004\n"),
}  # fmt: skip


def make_counts(gain=1000.0) -> np.ndarray:
    """Return (N, 12) int16 samples of a beating signal that keeps the identities."""
    t = np.arange(N) / 500
    rng = np.random.default_rng(7)
    beat = np.exp(-(((t % 0.4) - 0.15) ** 2) / 2e-4)[:, None] * rng.uniform(0.4, 1.2, 8)
    wave = 0.1 * np.sin(2 * np.pi * t[:, None] * rng.uniform(1, 3, 8) + rng.uniform(0, 6, 8))
    measured = beat + wave + rng.normal(0, 0.01, (N, 8)) + 0.05
    limb = derive(measured[:, 0], measured[:, 1])
    return np.rint(np.concatenate([limb, measured[:, 2:]], axis=1) * gain).astype(np.int16)


def body_of(counts: np.ndarray, dialect: str) -> bytes:
    matlab = np.array([30, 12, len(counts), 0, 4], "<i4").tobytes() + b"val\0"
    return (b"" if dialect == "plain" else matlab) + counts.astype("<i2").tobytes()


def header_of(counts: np.ndarray, dialect: str, scales=None, leads=LEADS) -> str:
    file, layout, scale, first, comments = DIALECTS[dialect]
    sums = counts.sum(axis=0, dtype=np.int64).astype(np.int16)
    lines = [
        f"{file} {layout} {scale if scales is None else scales[k]} 16 0 {counts[0, k]} {sums[k]} 0"
        f" {leads[k]}"
        for k in range(12)
    ]
    return "\n".join([first, *lines, comments])


def write(folder: Path, header: str | bytes, body: bytes, dialect: str) -> Path:
    path = folder / "X1.hea"
    path.write_bytes(header if isinstance(header, bytes) else header.encode())
    (folder / DIALECTS[dialect][0]).write_bytes(body)
    return path


def standard_order(names) -> list[int]:
    return [[name.upper() for name in names].index(lead.upper()) for lead in LEADS]


def assert_same(record: Record, signal_mv: np.ndarray) -> None:
    assert record.signal_mv.dtype == np.float32
    np.testing.assert_array_equal(record.signal_mv, signal_mv.astype(np.float32))


# --- sound records -------------------------------------------------------------------------


def test_every_real_record_is_read_exactly_and_none_is_refused(ecgdata):
    with (ecgdata / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 1340
    for row in rows:
        path = ecgdata / row["folder"] / row["record"]
        record, oracle = read_record(path), wfdb.rdrecord(str(path))
        assert_same(record, oracle.p_signal[:, standard_order(oracle.sig_name)])
        assert record.signal_mv.shape == (int(row["n_samples"]), 12)
        assert (record.name, record.fs_hz) == (row["record"], float(row["fs"]))
        assert record.age == (float(row["age"]) if row["age"] else None), path
        assert record.sex == (row["sex"] or None), path
        assert set(record.codes) == set(row["snomed"].split(";")) - {""}, path
        for policy, column in (("extended", "classes_ext"), ("official", "classes_strict")):
            wanted = [rhythm in row[column].split(";") for rhythm in RHYTHMS]
            np.testing.assert_array_equal(multi_hot(record.codes, policy), wanted, str(path))
        assert record.rescaled == (row["database"] == "LUDB"), path


def test_any_two_limb_leads_swapped_in_a_real_header_are_noticed(ecgdata, tmp_path):
    for real in ("challenge2021/A0001", "ptbxl100/00001_lr", "ptbxl500/00016_hr", "ludb/1",
                 "ludb/41", "cpsc2018_converted/A1980"):  # fmt: skip
        for file in (ecgdata / real).parent.glob(Path(real).name + ".*"):
            if file.suffix in (".hea", ".mat", ".dat"):
                shutil.copyfile(file, tmp_path / file.name)
        path = tmp_path / f"{Path(real).name}.hea"
        lines = path.read_text().splitlines()
        for i, j in combinations(range(1, 7), 2):
            swapped = list(lines)
            (left, a), (right, b) = lines[i].rsplit(" ", 1), lines[j].rsplit(" ", 1)
            swapped[i], swapped[j] = f"{left} {b}", f"{right} {a}"
            path.write_text("\n".join(swapped))
            with pytest.raises(RecordError) as caught:
                read_record(path)
            assert caught.value.field == "limb leads", (real, i, j)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_is_read_in_full(tmp_path, dialect):
    counts = make_counts()
    path = write(tmp_path, header_of(counts, dialect), body_of(counts, dialect), dialect)
    for way in (path, str(path), str(path)[:-4]):
        record = read_record(way)
        assert_same(record, counts / 1000)
        assert (record.name, record.fs_hz, record.age, record.sex) == ("X1", 500.0, 74.0, "M")
        assert record.codes == ("164889003", "427172004")
        assert (record.leads, record.duration_s, record.rescaled) == (LEADS, N / 500, False)
    with pytest.raises(ValueError, match="read-only"):
        record.signal_mv[0, 0] = 1


@pytest.mark.parametrize(
    ("comments", "age", "sex", "codes"),
    [
        ("#Age: NaN\n#Sex: Unknown\n#Dx: Unknown", None, None, ()),
        ("# Age: Unknown\n# Sex: NaN\n# Dx: ", None, None, ()),
        ("#Rx: Unknown", None, None, ()),
        ("#Age: 300\n#Sex: female", 300.0, "F", ()),
        ("#<age>: >89", 89.0, None, ()),
        ("#age: 5.5\n#sex: m\n#dx: 426783006", 5.5, "M", ("426783006",)),
        ("#Sex: F\n#Sex: F", None, "F", ()),
        ("#Dx: ,426783006,,164889003, ,426783006,", None, None, ("426783006", "164889003")),
        ("#Dx: NORM\n#Dx: 284470004\n#Dx: 426783006", None, None, ("284470004", "426783006")),
        ("#<age>: 51\n#<sex>: F\n#<diagnoses>:\n#Rhythm: Atrial flutter, typical.\n"
         "#Ventricular extrasystole, type: couplet. \n#Atrial extrasystole: undefined. \n"
         "#Ventricular extrasystole, localisation: LV, undefined. ",
         51.0, "F", ("164890007", "427172004", "284470004")),
        ("#Rhythm: Atrial fibrillation.", None, None, ()),  # only LUDB spells findings out
    ],
)  # fmt: skip
def test_age_sex_and_codes_are_understood(tmp_path, comments, age, sex, codes):
    counts = make_counts()
    header = header_of(counts, "old").split("#")[0] + comments
    record = read_record(write(tmp_path, header, body_of(counts, "old"), "old"))
    assert (record.age, record.sex, record.codes) == (age, sex, codes)


def test_shuffled_leads_come_back_in_standard_order(tmp_path):
    counts = make_counts()
    gains = np.array([900, 1000, 1100, 800, 850, 950, 990, 1010, 1020, 1030, 1040, 1050]) + 0.7
    counts = np.rint(counts / 1000.0 * gains).astype(np.int16) + np.arange(12, dtype=np.int16)
    order = np.random.default_rng(1).permutation(12)
    names = [LEADS[k].lower() for k in order]
    scales = [f"{gains[k]}({k})/mV" for k in order]
    shuffled = counts[:, order]
    header = header_of(shuffled, "new", scales, names)
    record = read_record(write(tmp_path, header, body_of(shuffled, "new"), "new"))
    assert_same(record, (counts - np.arange(12)) / gains)


def test_missing_samples_are_nan_and_only_they(tmp_path):
    counts = make_counts()
    counts[3:9, 4] = counts[0, 7] = -32768
    counts[:, 9] = -32768
    path = write(tmp_path, header_of(counts, "old"), body_of(counts, "old"), "old")
    assert_same(read_record(path), np.where(counts == -32768, np.nan, counts / 1000))


def test_a_record_of_which_almost_nothing_is_there_is_named(tmp_path):
    counts = make_counts()
    counts[10:] = -32768
    path = write(tmp_path, header_of(counts, "old"), body_of(counts, "old"), "old")
    with pytest.raises(RecordError, match="signal: found 0.02 s that are not missing, wanted 1 s"):
        read_record(path)


@pytest.mark.parametrize("flat", [(0,), (1, 2), (4,), (6, 7, 8, 9, 10, 11), tuple(range(12))])
def test_flat_leads_are_read_not_refused(tmp_path, flat):
    counts = make_counts()
    counts[:, flat] = 0
    path = write(tmp_path, header_of(counts, "new"), body_of(counts, "new"), "new")
    assert_same(read_record(path), counts / 1000)


def test_coarse_steps_do_not_count_as_broken_identities(tmp_path):
    counts = make_counts(gain=40)
    header = header_of(counts, "new", ["40(0)/mV"] * 12)
    assert_same(read_record(write(tmp_path, header, body_of(counts, "new"), "new")), counts / 40)


def test_leads_rescaled_one_by_one_are_marked_and_still_checked_for_swaps(tmp_path):
    counts = make_counts()
    scales = [f"{np.ptp(counts[:, k])}(0)/mV" for k in range(12)]
    body, header = body_of(counts, "plain"), header_of(counts, "plain", scales)
    record = read_record(write(tmp_path, header, body, "plain"))
    assert record.rescaled
    np.testing.assert_allclose(np.ptp(record.signal_mv, axis=0), 1, rtol=1e-6)
    header = header_of(counts, "plain", scales, ("II", "I", *LEADS[2:]))
    with pytest.raises(RecordError, match="limb leads"):
        read_record(write(tmp_path, header, body, "plain"))


# --- damaged records -----------------------------------------------------------------------
# A case is (field of the error, or None if the damage is harmless; header and body -> the same).


def token(line, k, new):
    """Replace word k of a header line."""

    def change(header, body):
        lines = header.split("\n")
        words = lines[line].split(" ")
        assert words[k] != new
        words[k] = new
        lines[line] = " ".join(word for word in words if word)
        return "\n".join(lines), body

    return change


def lines(edit):
    """Change the list of header lines."""
    return lambda header, body: ("\n".join(edit(header.split("\n"))), body)


def body(edit):
    """Change the signal file."""
    return lambda header, body: (header, edit(body))


def each(k, new):
    """Replace word k of every signal line."""

    def change(header, body):
        for line in range(1, 13):
            header, body = token(line, k, new)(header, body)
        return header, body

    return change


def comment(text):
    return lambda header, body: (header + text, body)


def nudge(*samples):
    """Add to single samples: pairs of (index from the end, amount)."""

    def edit(body):
        values = np.frombuffer(body, "<i2").copy()
        for index, amount in samples:
            values[index] += amount
        return values.tobytes()

    return edit


def noise(body):
    count = 24 * N
    return body[:-count] + np.random.default_rng(0).bytes(count)


def swap_rows(body):
    samples = np.frombuffer(body[-24 * N :], "<i2").reshape(N, 12)
    return body[: -24 * N] + samples[:, [6, 7, *range(2, 6), 0, 1, *range(8, 12)]].tobytes()


FIRST = -12 * N  # index of the first sample, from the end
CASES = {
    # files
    "header empty": ("header", lambda h, b: (b"", b)),
    "header only comments": ("record line", lambda h, b: ("#Age: 3\n", b)),
    "header binary": ("header", lambda h, b: (np.random.default_rng(3).bytes(2000), b)),
    "header zeros": ("header", lambda h, b: (b"\0" * 500, b)),
    "header Latin-1": ("header", lambda h, b: ((h + "#Hx: caf\xe9").encode("latin-1"), b)),
    "header UTF-16": ("header", lambda h, b: (h.encode("utf-16"), b)),
    "header with form feed": ("header", comment("#Hx: a\x0cX1 12 500 7")),
    "header huge": ("header", comment("#" + "x" * MAX_HEADER_BYTES)),
    "header is an HTML page": ("record line", lambda h, b: ("<html>404</html>", b)),
    "header cut in first line": ("record line", lambda h, b: (h[:9], b)),
    "header cut in a signal line": ("lead count", lambda h, b: (h[:200], b)),
    "byte order mark": ("record name", lambda h, b: ("\ufeff" + h, b)),
    "body empty": ("file size", body(lambda b: b"")),
    "body a byte short": ("file size", body(lambda b: b[:-1])),
    "body a sample short": ("file size", body(lambda b: b[:-24])),
    "body a byte long": ("file size", body(lambda b: b + b"\0")),
    "body doubled": ("file size", body(lambda b: b + b)),
    "body is an HTML page": ("file size", body(lambda b: b"<html>404</html>")),
    "body noise": ("initial value", body(noise)),
    "body one bit off": ("checksum", body(nudge((-100, 1)))),
    "body one sample off by 512": ("checksum", body(nudge((-5, 512)))),
    "body first sample off, sum kept": ("initial value", body(nudge((FIRST, 1), (-12, -1)))),
    "body leads exchanged": ("initial value", body(swap_rows)),
    "body big-endian": (
        "initial value",
        body(lambda b: b[: -24 * N] + np.frombuffer(b[-24 * N :], "<i2").byteswap().tobytes()),
    ),
    # record line
    "name of another record": ("record name", token(0, 0, "X2")),
    "name with .mat (early Georgia)": ("record name", token(0, 0, "X1.mat")),
    "name climbs": ("segments", token(0, 0, "../X1")),
    "several segments": ("segments", token(0, 0, "X1/3")),
    "lead count 0": ("lead count", token(0, 1, "0")),
    "lead count 11": ("lead count", token(0, 1, "11")),
    "lead count -12": ("lead count", token(0, 1, "-12")),
    "lead count 1e9": ("lead count", token(0, 1, "1000000000")),
    "lead count 12.0": ("lead count", token(0, 1, "12.0")),
    "lead count in other digits": ("lead count", token(0, 1, "\u0661\u0662")),
    "rate 0": ("rate", token(0, 2, "0")),
    "rate negative": ("rate", token(0, 2, "-500")),
    "rate NaN": ("rate", token(0, 2, "nan")),
    "rate infinite": ("rate", token(0, 2, "inf")),
    "rate 5e2": ("rate", token(0, 2, "5e2")),
    "rate 5": ("rate", token(0, 2, "5")),
    "rate 1e8": ("rate", token(0, 2, "100000000")),
    "rate with unit": ("rate", token(0, 2, "500Hz")),
    "rate and samples missing": ("record line", lines(lambda x: ["X1 12", *x[1:]])),
    "samples missing": ("record line", lines(lambda x: ["X1 12 500", *x[1:]])),
    "samples 0": ("sample count", token(0, 3, "0")),
    "samples -5": ("sample count", token(0, 3, "-5")),
    "samples 40x": ("sample count", token(0, 3, "40x")),
    "samples one fewer": ("file size", token(0, 3, str(N - 1))),
    "samples one more": ("file size", token(0, 3, str(N + 1))),
    "samples 999999999": ("file size", token(0, 3, "999999999")),
    "samples 1e9": ("sample count", token(0, 3, "1000000000")),
    "samples with 5000 digits": ("sample count", token(0, 3, "9" * 5000)),
    "time impossible": ("wfdb", lines(lambda x: ["X1 12 500 400 99:99:99", *x[1:]])),
    # signal lines
    "no signal lines": ("lead count", lines(lambda x: x[:1] + x[13:])),
    "a signal line missing": ("lead count", lines(lambda x: x[:5] + x[6:])),
    "eleven leads, told so": (
        "lead count",
        lines(lambda x: [x[0].replace(" 12 ", " 11 "), *x[1:12], *x[13:]]),
    ),
    "a signal line twice": ("lead count", lines(lambda x: x[:5] + x[4:])),
    "a signal line for another": ("lead names", lines(lambda x: [*x[:5], x[4], *x[6:]])),
    "two signal lines exchanged": ("initial value", lines(lambda x: [x[0], *x[2:0:-1], *x[3:]])),
    "signal line cut": ("signal line", lines(lambda x: [*x[:4], x[4].split(" 16 ")[0], *x[5:]])),
    "file climbs": ("signal file", each(0, "../X1.mat")),
    "file in a folder": ("signal file", each(0, "a/X1.mat")),
    "file with backslash": ("signal file", each(0, "a\\X1.mat")),
    "file absolute": ("signal file", each(0, "/etc/passwd")),
    "file remote": ("signal file", each(0, "http://x.org/X1.mat")),
    "file standard input": ("signal file", each(0, "-")),
    "file absent": ("signal file", each(0, "X9.mat")),
    "file differs between leads": ("signal file", token(7, 0, "X2.mat")),
    "format 212": ("format", each(1, "212")),
    "format 8": ("format", each(1, "8")),
    "format 61": ("format", each(1, "61")),
    "format text": ("format", each(1, "int16")),
    "format two samples a frame": ("format", each(1, "16x2+24")),
    "format with skew": ("format", token(3, 1, "16:4+24")),
    "format differs between leads": ("format", token(3, 1, "16:0+1")),
    "offset 23": ("format", each(1, "16+23")),
    "offset 10^9": ("format", each(1, "16+999999999")),
    "offset -24": ("format", each(1, "16-24")),
    "gain 0": ("gain", each(2, "0/mV")),
    "gain 0 in one lead": ("gain", token(8, 2, "0(0)/mV")),
    "gain negative": ("gain", each(2, "-1000/mV")),
    "gain text": ("gain", each(2, "abc/mV")),
    "gain NaN": ("gain", each(2, "nan/mV")),
    "gain infinite": ("gain", each(2, "inf/mV")),
    "gain 1e308": ("gain", each(2, "1e308/mV")),
    "gain tiny": ("gain", each(2, "0.001/mV")),
    "gain huge": ("gain", each(2, "999999999/mV")),
    "gain 1E3": ("gain", each(2, "1E3/mV")),
    "gain missing": ("gain", each(2, "/mV")),
    "gain wrong in a limb lead": ("limb leads", token(2, 2, "500/mV")),
    "baseline text": ("gain", each(2, "1000(x)/mV")),
    "baseline unclosed": ("gain", each(2, "1000(0/mV")),
    "baseline huge": ("baseline", each(2, "1000(99999)/mV")),
    "baseline wrong in a limb lead": ("limb leads", token(3, 2, "1000(300)/mV")),
    "unit V": ("unit", each(2, "1000/V")),
    "unit nV": ("unit", each(2, "1000/nV")),
    "unit mmHg": ("unit", token(12, 2, "1000/mmHg")),
    "unit a slash": ("unit", each(2, "1000/mV/s")),
    "unit uV with the gain of mV": ("gain", each(2, "1000/uV")),
    "resolution text": ("resolution", token(1, 3, "x")),
    "zero text": ("zero", token(1, 4, "x")),
    "initial value wrong": ("initial value", token(4, 5, "1234")),
    "initial value text": ("initial value", token(4, 5, "nan")),
    "checksum wrong": ("checksum", token(12, 6, "77")),
    "checksum text": ("checksum", token(12, 6, "0x1")),
    "block size text": ("block size", token(1, 7, "x")),
    "block size negative": ("block size", token(1, 7, "-1")),
    "resolution negative": ("resolution", token(1, 3, "-16")),
    "lead name missing": ("lead names", token(6, 8, "")),
    "lead names missing": ("lead names", each(8, "")),
    "lead name doubled": ("lead names", token(6, 8, "aVL")),
    "lead name doubled, other case": ("lead names", token(6, 8, "avl")),
    "lead name unknown": ("lead names", token(7, 8, "V7")),
    "lead name in other letters": ("lead names", token(1, 8, "\u0399")),
    # comments
    "age negative": ("age", lambda h, b: (h.replace("Age: 74", "Age: -4"), b)),
    "age text": ("age", lambda h, b: (h.replace("Age: 74", "Age: old"), b)),
    "age infinite": ("age", lambda h, b: (h.replace("Age: 74", "Age: inf"), b)),
    "ages disagree": ("age", comment("#Age: 12\n")),
    "sex text": ("sex", lambda h, b: (h.replace("Male", "Mole"), b)),
    "sexes disagree": ("sex", comment("#Sex: F\n")),
    "code with a letter": ("codes", comment("#Dx: 42678x006")),
    "code too short": ("codes", comment("#Dx: 426")),
    # harmless
    "CRLF": (None, lambda h, b: (h.replace("\n", "\r\n"), b)),
    "CR": (None, lambda h, b: (h.replace("\n", "\r"), b)),
    "blank lines and spaces": (None, lambda h, b: (" " + h.replace("\n", " \n\n  "), b)),
    "tabs": (None, lambda h, b: (h.replace(" 16 0 ", "\t16\t0\t"), b)),
    "UTF-8 comment": (None, comment("#Hx: Parkinson\u2013White \u2028 X1 12 500 7")),
    "no last newline": (None, lambda h, b: (h.rstrip("\n"), b)),
    "rate with a counter": (None, token(0, 2, "500/1000(0)")),
    "rate 500.0": (None, token(0, 2, "500.0")),
    "lower-case leads": (None, lambda h, b: (h.replace(" aV", " av").replace(" V", " v"), b)),
    "unit mv": (None, each(2, "1000/mv")),
    "unit uV": (None, each(2, "1/uV")),
    "unit µV": (None, each(2, "1.0(0)/\u00b5V")),
    "unit µV, Greek": (None, each(2, "1.0(0)/\u03bcV")),
    "unit left out": (None, each(2, "1000")),
    "checksum unsigned": (None, lambda h, b: (_unsigned(h), b)),
    "stray commas and doubles": (None, lambda h, b: (h.replace("003,42", "003,,164889003, 42"), b)),
}  # fmt: skip
MATLAB_CASES = {  # only where the samples lie inside a MATLAB file
    "MATLAB v5 body": (
        "MATLAB header",
        body(lambda b: b"MATLAB 5.0 MAT-file, Pl".ljust(24) + b[24:]),
    ),
    "MATLAB v4 transposed": ("MATLAB header", body(lambda b: b[:4] + b[8:12] + b[4:8] + b[12:])),
    "MATLAB v4 of doubles": ("MATLAB header", body(lambda b: b"\0" + b[1:])),
    "MATLAB v4 big-endian": ("MATLAB header", body(lambda b: (1030).to_bytes(4, "little") + b[4:])),
    "MATLAB v4 complex": ("MATLAB header", body(lambda b: b[:12] + b"\1" + b[13:])),
    "MATLAB header of zeros": ("MATLAB header", body(lambda b: bytes(24) + b[24:])),
    "offset left out": ("file size", each(1, "16")),
    "offset 0": ("file size", each(1, "16+0")),
    "offset in one lead only": ("format", token(3, 1, "16")),
}


def _unsigned(header):
    def fix(line):
        words = line.split(" ")
        return " ".join([*words[:6], str(int(words[6]) % 65536), *words[7:]])

    rows = header.split("\n")
    assert any(int(row.split(" ")[6]) < 0 for row in rows[1:13])
    return "\n".join([rows[0], *map(fix, rows[1:13]), *rows[13:]])


ALL_CASES = [
    (dialect, name, *case)
    for dialect in DIALECTS
    for name, case in (CASES if dialect == "plain" else CASES | MATLAB_CASES).items()
]


@pytest.mark.parametrize(
    ("dialect", "name", "field", "damage"), ALL_CASES, ids=[f"{c[0]}-{c[1]}" for c in ALL_CASES]
)
def test_damage_is_refused_with_its_field_or_does_no_harm(tmp_path, dialect, name, field, damage):
    counts = make_counts()
    sound = header_of(counts, dialect), body_of(counts, dialect)
    damaged = damage(*sound)
    assert damaged != sound
    path = write(tmp_path, *damaged, dialect)
    tracemalloc.start()
    start = time.process_time()
    try:
        if field is None:
            record = read_record(path)
        else:
            with pytest.raises(RecordError) as caught:
                read_record(path)
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 50e6
    if field is None:
        assert_same(record, counts / 1000)
        assert (record.age, record.sex, record.fs_hz) == (74, "M", 500)
        assert record.codes == ("164889003", "427172004")
    else:
        assert caught.value.field == field, str(caught.value)


def test_the_damages_are_many_in_each_dialect():
    for dialect in ("old", "new"):
        assert sum(c[0] == dialect and c[2] is not None for c in ALL_CASES) >= 60


@pytest.mark.parametrize("pair", [(0, 6), (6, 7), (10, 11)])
def test_a_lead_stored_twice_is_refused(tmp_path, pair):
    counts = make_counts()
    counts[:, pair[1]] = counts[:, pair[0]]
    path = write(tmp_path, header_of(counts, "old"), body_of(counts, "old"), "old")
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert caught.value.field == "doubled leads"
    assert LEADS[pair[0]] in caught.value.found and LEADS[pair[1]] in caught.value.found


@pytest.mark.parametrize("pair", list(combinations(range(6), 2)))
def test_swapped_limb_leads_are_refused(tmp_path, pair):
    counts = make_counts()
    names = list(LEADS)
    names[pair[0]], names[pair[1]] = names[pair[1]], names[pair[0]]
    header = header_of(counts, "new", leads=names)
    with pytest.raises(RecordError) as caught:
        read_record(write(tmp_path, header, body_of(counts, "new"), "new"))
    assert caught.value.field == "limb leads"


def test_paths_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "folder.hea").mkdir()
    os.mkfifo(tmp_path / "pipe.hea")
    bad = ["missing", "folder", "folder.hea", "pipe", "", ".", "..", "a\0b", "x" * 5000, "s3://a/b"]
    for name in bad:
        with pytest.raises(RecordError) as caught:
            read_record(f"{tmp_path}/{name}" if name not in ("", ".", "..", "s3://a/b") else name)
        assert caught.value.field == "header"


def test_a_signal_file_that_is_a_folder_or_a_pipe_is_refused(tmp_path):
    counts = make_counts()
    path = write(tmp_path, header_of(counts, "old"), b"", "old")
    for make in (os.mkdir, os.mkfifo):
        shutil.rmtree(tmp_path / "X1.mat", ignore_errors=True)
        (tmp_path / "X1.mat").unlink(missing_ok=True)
        make(tmp_path / "X1.mat")
        with pytest.raises(RecordError) as caught:
            read_record(path)
        assert caught.value.field == "signal file"


def test_the_error_names_file_field_found_wanted_and_fix_and_travels_between_processes(tmp_path):
    counts = make_counts()
    body = body_of(counts, "old")
    path = write(tmp_path, header_of(counts, "old"), body[:-24], "old")
    with pytest.raises(ValueError) as caught:
        read_record(path)
    error = caught.value
    assert isinstance(error, RecordError)
    assert (error.path, error.field) == (tmp_path / "X1.mat", "file size")
    assert (error.found, error.wanted) == (f"{len(body) - 24} bytes", f"{len(body)} bytes")
    assert str(error) == (
        f"{tmp_path / 'X1.mat'}: file size: found {len(body) - 24} bytes, wanted {len(body)} bytes"
        " (fetch the record again, header and signal file together)"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and copy.field == error.field
    assert len(RecordError("x.hea", "gain", "9" * 5000, "1").found) == 80


# --- random damage -------------------------------------------------------------------------

SPOT = st.floats(0, 1, exclude_max=True)
WEIRD = st.sampled_from(
    ["0", "-1", "1", "1e3", "1e308", "nan", "inf", "", "-", "+", ".", "999999999", "0x10", "65536",
     "-32768", "1000", "200", "12", "24", "16", "X1", "X1.mat", "..", "/", "#", "(5)", "aVR",
     "\u0663"]
)  # fmt: skip
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("delete"), SPOT, st.integers(1, 6)),
        st.tuples(st.just("insert"), SPOT, st.text("01259.-+/()#:x \t\neVI\u00b5", max_size=3)),
        st.tuples(st.just("replace"), SPOT, st.characters(codec="utf-8")),
        st.tuples(st.just("word"), SPOT, WEIRD),
        st.tuples(st.just("swap lines"), SPOT, SPOT),
        st.tuples(st.just("copy line"), SPOT, SPOT),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def apply(text: str, change) -> str:
    kind, spot, value = change
    at = int(spot * len(text))
    if kind == "delete":
        return text[:at] + text[at + value :]
    if kind == "insert":
        return text[:at] + value + text[at:]
    if kind == "replace":
        return text[:at] + value + text[at + 1 :]
    rows = text.split("\n")
    if kind == "word":
        row = int(spot * len(rows))
        words = rows[row].split(" ")
        words[int(spot * 7919) % len(words)] = value
        rows[row] = " ".join(words)
        return "\n".join(rows)
    i, j = int(spot * len(rows)), int(value * len(rows))
    rows[i], rows[j] = (rows[j], rows[i]) if kind == "swap lines" else (rows[i], rows[i])
    return "\n".join(rows)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(dialect=st.sampled_from(list(DIALECTS)), changes=CHANGES)
def test_a_randomly_changed_header_is_refused_or_read_for_what_it_says(dialect, changes):
    counts = make_counts()
    header = header_of(counts, dialect)
    for change in changes:
        header = apply(header, change)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), header, body_of(counts, dialect), dialect)
        try:
            record = read_record(path)
        except RecordError:
            return
        oracle = wfdb.rdrecord(str(path)[:-4])
    assert record.signal_mv.shape == (N, 12)
    assert np.isfinite(record.signal_mv).all() and abs(record.signal_mv).max() < 7000
    assert 20 <= record.fs_hz <= 20_000 and record.fs_hz == oracle.fs
    assert record.age is None or 0 <= record.age <= 300
    assert record.sex in (None, "F", "M") and all(code.isdigit() for code in record.codes)
    order = standard_order(oracle.sig_name)
    scale = [1 if oracle.units[k].lower() == "mv" else 1e-3 for k in order]
    np.testing.assert_allclose(record.signal_mv, oracle.p_signal[:, order] * scale, rtol=1e-6)
