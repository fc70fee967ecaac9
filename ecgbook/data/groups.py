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
    """Give numbers to recordings and to the groups that a split must keep together.

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
    copies : ndarray, shape (n,), int
        Equal for records with one hash or a ``same_ecg_as`` link, directly or through others.
    groups : ndarray, shape (n,), int
        As `copies`, and also equal for records of one patient.
    """
    n = len(identifiers)
    number = {identifier: i for i, identifier in enumerate(identifiers)}
    links = [(i, number[other]) for i, other in enumerate(same_ecg_as) if other in number]
    links += _chain(hashes)
    copies = connected_components(_graph(links, n), directed=False)[1]
    known = [
        (database.casefold(), str(patient).strip()) if str(patient or "").strip() else None
        for database, patient in zip(databases, patients, strict=True)
    ]
    groups = connected_components(_graph(links + _chain(known), n), directed=False)[1]
    return copies, groups


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
