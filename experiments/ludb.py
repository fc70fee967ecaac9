"""LUDB's marked waves: where the relevance of real ECGs lies.

Cardiologists marked onset, peak and offset of the P waves, QRS complexes and T waves in every lead
of LUDB by itself, but not those at the ends of a record. So each lead counts from its first onset
to its last offset. A lead in which marks are missing or nested is left out, not guessed at.

Source: Kalyakulina et al. (2020), doi:10.1109/ACCESS.2020.3029211.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from ecgbook.data import read_manifest
from ecgbook.explain import interval_shares
from ecgbook.labels import RHYTHMS, multi_hot
from ecgbook.leads import LEADS
from ecgbook.records import parse_codes, read_record

FOLDER = "ludb"
LABELS = ("SR", "AF")
INTERVALS = ("P", "QRS", "T", "rest")
BEFORE_S = 0.2
SCHEMES = ("marked", "before QRS")
"""What "P" is: the P waves that were marked, or the last 0.2 s before every QRS complex.

The second is there in atrial fibrillation too, which has no P waves. It takes what it overlaps of
a T wave."""

_NAMES = {"p": "P", "N": "QRS", "t": "T"}
_DTYPE = np.dtype([("onset_s", "f8"), ("offset_s", "f8"), ("wave", "U3")])
_WHOLE_WAVES = re.compile(r"(\([pNt]\))*")


@dataclass(frozen=True, eq=False)
class Marked:
    """A record with the marks of each lead.

    Attributes
    ----------
    name, patient : str
    signal_mv : ndarray, shape (samples, 12), float32
    fs_hz : float
    labels : ndarray, shape (5,), float32
    waves : tuple of ndarray
        For each lead, with the fields ``onset_s``, ``offset_s`` and ``wave``; empty for a lead
        that is left out.
    """

    name: str
    patient: str
    signal_mv: np.ndarray
    fs_hz: float
    labels: np.ndarray
    waves: tuple[np.ndarray, ...]


def read(folder: Path) -> list[Marked]:
    """Read the records of LUDB that show sinus rhythm or atrial fibrillation and no other label.

    Parameters
    ----------
    folder : Path
        The folder of ``ECGBOOK_DATA``.

    Returns
    -------
    list of Marked
        In the order of the manifest; records without a single lead of whole marks are left out.
    """
    found = []
    for row in read_manifest(folder):
        labels = multi_hot(parse_codes(row["snomed"], row["record"]))
        shown = [r for r, y in zip(RHYTHMS, labels, strict=True) if y]
        if row["folder"] != FOLDER or len(shown) != 1 or shown[0] not in LABELS:
            continue
        path = Path(folder) / FOLDER / row["record"]
        record = read_record(path)
        waves = tuple(read_waves(path, lead, record.fs_hz) for lead in LEADS)
        if any(map(len, waves)):
            name = f"{FOLDER}/{row['record']}"  # each record is one of another patient
            found.append(Marked(name, name, record.signal_mv, record.fs_hz, labels, waves))
    return found


def read_waves(path: Path, lead: str, fs_hz: float) -> np.ndarray:
    """Read the marks of one lead.

    Parameters
    ----------
    path : Path
        The record without suffix; its marks are in files named for the leads.
    lead : str
        Of `ecgbook.leads.LEADS`.
    fs_hz : float
        Rate of the record.

    Returns
    -------
    ndarray, shape (waves,)
        Empty if not every wave has an onset, a peak and an offset.
    """
    marks = wfdb.rdann(str(path), lead.lower())
    if not _WHOLE_WAVES.fullmatch("".join(marks.symbol)):
        return np.empty(0, _DTYPE)
    waves = np.empty(len(marks.symbol) // 3, _DTYPE)
    waves["onset_s"], waves["offset_s"] = marks.sample[::3] / fs_hz, marks.sample[2::3] / fs_hz
    waves["wave"] = [_NAMES[symbol] for symbol in marks.symbol[1::3]]
    return waves


def amounts(
    relevance: np.ndarray,
    record: Marked,
    fs_hz: float,
    mask: np.ndarray,
    start_s: float,
    scheme: str,
) -> np.ndarray:
    """Add up the relevance in every kind of interval, each lead by its own marks.

    Parameters
    ----------
    relevance : ndarray, shape (length, 12)
    record : Marked
    fs_hz : float
        Rate of the map.
    mask : ndarray, shape (length,), bool
        True where there is signal.
    start_s : float
        Time of the map's first sample in the record.
    scheme : str
        Of `SCHEMES`.

    Returns
    -------
    ndarray, shape (2, 4), float64
        Sum of the positive relevance and, as a positive number, of the negative, in `INTERVALS`.
    """
    time_s = start_s + np.arange(len(relevance)) / fs_hz
    found = np.zeros((2, len(INTERVALS)))
    for values, waves in zip(np.asarray(relevance, np.float64).T, record.waves, strict=True):
        if not len(waves):
            continue
        first, last = waves["onset_s"].min(), waves["offset_s"].max()
        counted = mask & (time_s >= first) & (time_s <= last)
        waves = waves if scheme == "marked" else _before_qrs(waves)
        for row, signed in zip(found, (values, -values), strict=True):
            total = np.maximum(signed, 0)[counted].sum()
            if total > 0:
                shares = interval_shares(
                    signed, waves, fs_hz, counted, absolute=False, start_s=start_s
                )
                row += total * np.array([shares[name] for name in INTERVALS])
    return found


def _before_qrs(waves: np.ndarray) -> np.ndarray:
    """Return the waves with the stretch before each QRS complex in place of the P waves."""
    before = waves[waves["wave"] == "QRS"].copy()
    before["offset_s"], before["wave"] = before["onset_s"], "P"
    before["onset_s"] -= BEFORE_S
    return np.concatenate([waves[waves["wave"] != "P"], before])
