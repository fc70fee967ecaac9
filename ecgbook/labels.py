"""The five rhythms of the book, and how SNOMED CT codes become a multi-label target.

Source: codes and equivalent pairs from the scorer of the PhysioNet/CinC Challenge 2021
(github.com/physionetchallenges/evaluation-2021, ``dx_mapping_scored.csv``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RHYTHMS: tuple[str, ...] = ("SR", "AF", "AFL", "PAC", "PVC")
"""The five classes in the order of every label and logit vector."""

NAMES: dict[str, str] = {
    "SR": "sinus rhythm",
    "AF": "atrial fibrillation",
    "AFL": "atrial flutter",
    "PAC": "premature atrial contraction",
    "PVC": "premature ventricular contraction",
}

CODES: dict[str, tuple[str, ...]] = {
    "SR": ("426783006",),
    "AF": ("164889003",),
    "AFL": ("164890007",),
    "PAC": ("284470004", "63593006"),
    "PVC": ("427172004", "17338001"),
}
"""SNOMED CT codes of each class; the Challenge scores the two codes of a pair as one."""

VENTRICULAR_ECTOPICS = "164884008"
"""The code with which PTB-XL and CPSC2018 mark their PVCs; the Challenge does not score it."""

POLICIES: tuple[str, ...] = ("extended", "official")
_DOUBTFUL: dict[str, tuple[str, ...]] = {"ningbo": ("AF", "AFL")}


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"label policy {policy!r} found, one of {', '.join(POLICIES)} wanted")


def multi_hot(codes: Iterable[str], policy: str = "extended") -> np.ndarray:
    """Turn the SNOMED CT codes of a record into a multi-label target.

    Parameters
    ----------
    codes : iterable of str
        SNOMED CT codes as in ``Record.codes``. Codes of other findings are ignored.
    policy : {"extended", "official"}
        ``"official"`` counts the Challenge's scored codes only. ``"extended"`` also counts
        164884008 (ventricular ectopics) as PVC, since two databases use nothing else.

    Returns
    -------
    ndarray, shape (5,), float32
        1 where the rhythm is marked, in the order of `RHYTHMS`.

    Raises
    ------
    ValueError
        If `policy` is unknown.
    TypeError
        If `codes` is one string instead of several, or holds something else than strings.
    """
    _check_policy(policy)
    if isinstance(codes, str):
        raise TypeError(f"a string {codes!r} found, a list of code strings wanted")
    found = set(codes)
    if odd := [c for c in found if not isinstance(c, str)]:
        raise TypeError(f"code {odd[0]!r} found, codes as strings wanted, such as '426783006'")
    accepted = dict(CODES)
    if policy == "extended":
        accepted["PVC"] = (*CODES["PVC"], VENTRICULAR_ECTOPICS)
    return np.array([not found.isdisjoint(accepted[r]) for r in RHYTHMS], dtype=np.float32)


def label_mask(database: str, policy: str = "extended") -> np.ndarray:
    """Say which of the five labels of a database can be trusted.

    Parameters
    ----------
    database : str
        The database's name as in the manifest, such as ``"PTB-XL"`` or ``"Ningbo"``;
        upper and lower case are alike.
    policy : {"extended", "official"}
        ``"extended"`` marks Ningbo's AF and AFL as doubtful: the Challenge's own table counts
        no AF and 7,615 AFL there (21.8 % of its records, at most 4.4 % elsewhere).
        ``"official"`` trusts every label.

    Returns
    -------
    ndarray, shape (5,), bool
        True where the label counts in losses and metrics.
    """
    _check_policy(policy)
    doubtful = _DOUBTFUL.get(database.casefold(), ()) if policy == "extended" else ()
    return np.array([rhythm not in doubtful for rhythm in RHYTHMS])


def names(target: np.ndarray) -> list[str]:
    """Return the abbreviations of the rhythms that a target marks.

    Parameters
    ----------
    target : ndarray, shape (5,)
        0 or 1 a rhythm, as `multi_hot` returns it.

    Raises
    ------
    ValueError
        If the target has another shape.
    """
    target = np.asarray(target)
    if target.shape != (len(RHYTHMS),):
        raise ValueError(f"target of shape {target.shape} found, ({len(RHYTHMS)},) wanted")
    return [rhythm for rhythm, marked in zip(RHYTHMS, target, strict=True) if marked > 0.5]
