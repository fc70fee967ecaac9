"""Comment lines, both dialects and LUDB's, and limits: what is wrong is named."""

import pickle
from pathlib import Path

import pytest

from ecgbook.leads import LEADS
from ecgbook.records import RecordError
from ecgbook.records.header import parse_comments, parse_header

HEADER = Path("x.hea")


@pytest.mark.parametrize(
    ("comments", "codes", "age", "sex"),
    [
        (["Age: 85", "Sex: Male", "Dx: 164889003,59118001"], ("164889003", "59118001"), 85, "M"),
        (["Age: 0", "Sex: F"], (), 0, "F"),
        (["Age: 130"], (), 130, None),
        (["Dx: 426783006", "Sex: F", "Age: NaN"], ("426783006",), None, "F"),
        (["Dx: 426783006,,426783006, 164884008,"], ("426783006", "164884008"), None, None),
        (["Dx: 426783006", "Dx: 164889003"], ("426783006", "164889003"), None, None),
        (["Age: >89", "Sex: Unknown", "Dx: NORM"], (), 89, None),
        (
            ["<age>: 51", "<sex>: F", "<diagnoses>:", "Rhythm: Sinus rhythm."],
            ("426783006",),
            51,
            "F",
        ),
        (["Rhythm: Sinus rhythm."], (), None, None),
        (["Rx: Unknown", "Hx: Unknown"], (), None, None),
        ([], (), None, None),
    ],
)
def test_what_is_written_is_read(comments, codes, age, sex):
    assert parse_comments(HEADER, comments)[:3] == (codes, age, sex)


@pytest.mark.parametrize(
    ("dx", "words"),
    [
        ("164889003,NORM", ("norm",)),
        ("Atrial fibrillation", ("atrial", "fibrillation")),
        ("Unknown", ()),
        ("", ()),
    ],
)
def test_diagnoses_in_words_are_kept_apart(dx, words):
    assert parse_comments(HEADER, [f"Dx: {dx}"])[3] == words


@pytest.mark.parametrize(
    ("comments", "field", "found"),
    [
        (["Age: old"], "age", "old"),
        (["Age: -3"], "age", "-3"),
        (["Age: 131"], "age", "131"),
        (["Age: 50", "Age: 60"], "age", "50 and 60"),
        (["Sex: X"], "sex", "x"),
        (["Dx: 1648890O3"], "codes", "1648890o3"),
        (["Dx: 123"], "codes", "123"),
    ],
)
def test_what_is_wrong_is_named(comments, field, found):
    with pytest.raises(RecordError) as caught:
        parse_comments(HEADER, comments)
    error = caught.value
    assert (error.path, error.field, error.found) == (HEADER, field, found)
    assert f"x.hea: {field}: found {found}, wanted {error.wanted}" in str(error)


def test_the_error_survives_a_worker_process():
    error = RecordError(HEADER, "gain", "abc", "a number", "fetch it again")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "x.hea: gain: found abc, wanted a number (fetch it again)"


def lines(rate="500", gain="1000", baseline="0"):
    signals = [f"x.dat 16 {gain}({baseline})/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    return [f"x 12 {rate} 5000", *signals]


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("rate", ("20", "20000"), ("19.9", "20000.1")),
        ("gain", ("10", "100000"), ("9.9", "100000.1")),
        ("baseline", ("-32768", "32768"), ("-32769", "32769")),
    ],
)
def test_a_limit_is_inside(field, inside, outside):
    for value in inside:
        parse_header(HEADER, lines(**{field: value}))
    for value in outside:
        with pytest.raises(RecordError) as caught:
            parse_header(HEADER, lines(**{field: value}))
        assert caught.value.field == field
