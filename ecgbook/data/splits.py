"""Splits that keep patients, and copies of a recording, on one side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from .dataset import ECGDataset


def patient_folds(
    dataset: ECGDataset, n_folds: int = 5, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut a data set into folds that keep groups whole and spread the rarest rhythm evenly.

    Parameters
    ----------
    dataset : ECGDataset
    n_folds : int
    seed : int

    Returns
    -------
    list of (train, test)
        Index arrays; the test parts together hold every record once.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.
    """
    groups, first, group = np.unique(dataset.groups, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[group]  # in the order of the records, not of their names
    if not 2 <= n_folds <= len(groups):
        raise ValueError(
            f"n_folds={n_folds} found, 2 to {len(groups)} (the number of groups) wanted"
        )
    trusted = dataset.y * dataset.y_mask
    stratum = np.full(len(groups), -1)  # of a group: the rarest rhythm that any record of it has
    for label in np.argsort(-trusted.sum(0)):
        stratum[group[trusted[:, label] > 0]] = label
    if np.unique(stratum, return_counts=True)[1].max() < n_folds:
        stratum[:] = 0  # too few groups of anything to spread them
    from sklearn.model_selection import StratifiedKFold  # it loads pandas, where installed

    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a rhythm with fewer groups than folds is no error here
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        folds = list(splitter.split(np.zeros(len(groups)), stratum))
    return [
        (np.flatnonzero(np.isin(group, train)), np.flatnonzero(np.isin(group, test)))
        for train, test in folds
    ]


def split_by_patient(
    dataset: ECGDataset, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> tuple[ECGDataset, ...]:
    """Split a data set into parts that share no patient and no copy of a recording.

    Parameters
    ----------
    dataset : ECGDataset
    fractions : sequence of float
        Share of each part, adding up to 1. From the last part to the first, each takes one fold
        of what is left, cut into the whole number of folds that comes nearest to its share: 0.15
        becomes 1/7, and then 1/6 of the rest.
    seed : int

    Returns
    -------
    tuple of ECGDataset
        One for each fraction.

    Raises
    ------
    ValueError
        If the fractions do not add up to 1, there are too few groups, or a part other than the
        first wants more than two thirds of what the parts before it leave over.
    """
    fractions = [float(fraction) for fraction in fractions]
    if len(fractions) < 2 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions {fractions} found, positive ones that add up to 1 wanted")
    rest, parts, left = np.arange(len(dataset)), [], 1.0
    for fraction in fractions[:0:-1]:
        n_folds = round(left / fraction)
        if n_folds < 2:
            raise ValueError(
                f"fractions {fractions} found: {fraction:g} cannot be one fold of {left:g}; "
                "put the largest part first"
            )
        folds = patient_folds(dataset.subset(rest), n_folds, seed)
        others, part = folds[0]
        parts.append(dataset.subset(rest[part]))
        rest, left = rest[others], left - fraction
    return dataset.subset(rest), *reversed(parts)


def leave_one_database_out(
    dataset: ECGDataset,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each database's name with the indices of all others and of its own records.

    A record outside the database whose group has a record in it is in neither part.

    Parameters
    ----------
    dataset : ECGDataset

    Yields
    ------
    database : str
    train, test : ndarray of int
        Indices of the records to train on and to test on.
    """
    for database in np.unique(dataset.databases):
        test = dataset.databases == database
        crossing = np.isin(dataset.groups, dataset.groups[test])
        yield str(database), np.flatnonzero(~test & ~crossing), np.flatnonzero(test)
