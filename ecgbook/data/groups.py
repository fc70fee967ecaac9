"""Which records belong together: copies of one recording, and records of one patient."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def signal_hash(signal_mv: np.ndarray) -> str:
    """Return a SHA-256 of a signal rounded to 1 µV: equal for exact copies of a recording.

    Parameters
    ----------
    signal_mv : ndarray, shape (samples, 12)
        Signal in mV.
    """
    microvolts = np.round(np.nan_to_num(signal_mv, nan=-32.768) * 1000).astype("<i4")
    return hashlib.sha256(np.ascontiguousarray(microvolts)).hexdigest()


def join_records(
    identifiers: Sequence[str],
    patients: Sequence[str | None],
    hashes: Sequence[str],
    same_ecg_as: Sequence[str],
    databases: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Name the recordings, and the groups that a split must keep together.

    Parameters
    ----------
    identifiers : sequence of str
        ``folder/record`` of each record.
    patients : sequence of str or None
        Patient of each record, empty or None where unknown: such a record has a group of its own.
    hashes : sequence of str
        `signal_hash` of each record.
    same_ecg_as : sequence of str
        Identifier of the same recording at another rate, or empty.
    databases : sequence of str
        Of each record: patient "1" of one database is nobody in another.

    Returns
    -------
    copies : ndarray, shape (n,), str
        Equal for records with one hash or a ``same_ecg_as`` link, directly or through others:
        named for the signal of the first of them.
    groups : ndarray, shape (n,), str
        As `copies`, and also equal for records of one patient: named for the patient, or for the
        recording if no patient is known. Names mean the same in every data set, so that a person
        or a signal on both sides of a split is found also where the sides were made apart.
    """
    n = len(identifiers)
    number = {identifier: i for i, identifier in enumerate(identifiers)}
    links = [(i, number[other]) for i, other in enumerate(same_ecg_as) if other in number]
    links += _chain(hashes)
    patients = ["" if patient is None else str(patient).strip() for patient in patients]
    patients = ["" if patient is None else str(patient).strip() for patient in patients]
    known = [
        f"{database.casefold()} patient {patient}" if patient else ""
        for database, patient in zip(databases, patients, strict=True)
    ]
    recordings = [f"recording {sha256[:16]}" for sha256 in hashes]
    copies = _named(links, [""] * n, recordings)
    return copies, _named(links + _chain(known), known, recordings)


def _named(links: list[tuple[int, int]], first_choice: list[str], second: list[str]) -> np.ndarray:
    """Name every record for the first in its component that has a name of the first choice."""
    component = connected_components(_graph(links, len(second)), directed=False)[1]
    names: dict[int, str] = {}
    for choice in (first_choice, second):
        for number, name in zip(component, choice, strict=True):
            if name:
                names.setdefault(number, name)
    return np.array([names[number] for number in component])


def _chain(keys: Sequence) -> list[tuple[int, int]]:
    """Link each record to the one before it that has the same key."""
    last, links = {}, []
    for i, key in enumerate(keys):
        if key:
            if key in last:
                links.append((last[key], i))
            last[key] = i
    return links


def _graph(links: list[tuple[int, int]], n: int) -> coo_array:
    a, b = np.array(links, dtype=int).reshape(-1, 2).T
    return coo_array((np.ones(len(a)), (a, b)), shape=(n, n))
