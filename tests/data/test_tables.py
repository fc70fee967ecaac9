"""Tables: spreadsheets' ways of writing one are read, and what cannot be is named with its file."""

import pytest

from ecgbook.data.tables import read_table

TABLE = "record,patient\nA,1\nB,2\n"
ROWS = [{"record": "A", "patient": "1"}, {"record": "B", "patient": "2"}]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.replace(",", ";").replace("\n", "\r\n").encode(),
        TABLE.replace(",", " , ").encode(),
        TABLE.rstrip().encode() + b"\n\n",
    ],
)
def test_a_table_is_read_as_it_was_saved(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert read_table(path, ["record"]) == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file found"),
        (TABLE.encode("utf-16"), "a table in UTF-8 wanted"),
        (TABLE.replace("B,2", "B,2,3").encode(), "3 values found in row 2, 2 wanted"),
        (b"a,b\n1,2\n", "columns record missing, only a, b found"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t\.csv: .*{message}"):
        read_table(path, ["record"])
