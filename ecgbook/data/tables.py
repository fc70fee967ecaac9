"""Tables as people keep them: CSV from an editor or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path


def read_table(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a line of column names.

    Parameters
    ----------
    path : str or Path
        UTF-8, with or without a byte-order mark, separated by commas, or all by semicolons.
    columns : sequence of str
        Those that it must have.

    Returns
    -------
    list of dict
        A row each; all values are strings, without blanks around them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty or not UTF-8, a column is missing, or a row has more or fewer values than
        there are columns.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a mark in front
        comma = "," in text.lstrip().partition("\n")[0]
        file = io.StringIO(text, newline="")
        reader = csv.reader(file, delimiter="," if comma else ";", skipinitialspace=True)
        table = [[value.strip() for value in line] for line in reader if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: {error}; a table in UTF-8 wanted: save it as 'CSV UTF-8'"
        ) from error
    if not table:
        raise ValueError(f"{path}: empty file found, a line of column names and records wanted")
    names, *lines = table
    if missing := [name for name in columns if name not in names]:
        raise ValueError(
            f"{path}: columns {', '.join(missing)} missing, only {', '.join(names)} found; a value "
            "may be empty, a column must be there"
        )
    for number, line in enumerate(lines, start=1):
        if len(line) != len(names):
            raise ValueError(
                f"{path}: {len(line)} values found in row {number}, {len(names)} wanted, as many "
                "as columns; put a value that holds the separator in quotes"
            )
    return [dict(zip(names, line, strict=True)) for line in lines]
