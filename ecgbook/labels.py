"""The five rhythms of the book, and how SNOMED CT codes become a multi-label target.

Source: codes, names and equivalent pairs from the scorer of the PhysioNet/CinC Challenge 2021
(github.com/physionetchallenges/evaluation-2021, ``dx_mapping_scored.csv`` and
``dx_mapping_unscored.csv``). Why a code is on which list: ``experiments/plan.md``.
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

SINUS: dict[str, str] = {
    "426783006": "sinus rhythm",
    "426177001": "sinus bradycardia",
    "427084000": "sinus tachycardia",
    "427393009": "sinus arrhythmia",
}
"""Codes that say that the sinus node leads."""

NOT_SINUS: dict[str, str] = {
    "164889003": "atrial fibrillation",
    "314208002": "rapid atrial fibrillation",
    "426749004": "chronic atrial fibrillation",
    "195080001": "atrial fibrillation and flutter",
    "164890007": "atrial flutter",
    "106068003": "atrial rhythm",
    "233892002": "accelerated atrial escape rhythm",
    "713422000": "atrial tachycardia",
    "426761007": "supraventricular tachycardia",
    "251166008": "atrioventricular node reentrant tachycardia",
    "233897008": "atrioventricular reentrant tachycardia",
    "29320008": "atrioventricular junctional rhythm",
    "426664006": "accelerated junctional rhythm",
    "426648003": "junctional tachycardia",
    "49260003": "idioventricular rhythm",
    "61277005": "accelerated idioventricular rhythm",
    "81898007": "ventricular escape rhythm",
    "164895002": "ventricular tachycardia",
    "111288001": "ventricular flutter",
    "164896001": "ventricular fibrillation",
    "10370003": "pacing rhythm",
    "251268003": "atrial pacing pattern",
    "251266004": "ventricular pacing pattern",
}
"""Codes that say that something else than the sinus node leads."""

UNSETTLED: dict[str, tuple[str, ...]] = {
    "AF": ("282825002", "314208002", "426749004", "195080001"),
    "AFL": ("195080001",),
    "PAC": ("251168009", "251170000", "251173003"),
    "PVC": ("11157007", "251180001", "251182009"),
}
"""Codes that speak of a rhythm and are not among its own, such as bigeminy: no 0 can be read from
a record that has one of them."""

POLICIES: tuple[str, ...] = ("extended", "official", "stated")
_NINGBO = {"ningbo": ("AF", "AFL")}
_DOUBTFUL: dict[str, dict[str, tuple[str, ...]]] = {
    "official": {},
    "extended": _NINGBO,
    "stated": _NINGBO | {"cpsc2018": ("AFL",), "ptb": ("PVC",)},
}


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"label policy {policy!r} found, one of {', '.join(POLICIES)} wanted")


def _check_codes(codes: Iterable[str]) -> set[str]:
    if isinstance(codes, str):
        raise TypeError(f"a string {codes!r} found, a list of code strings wanted")
    found = set(codes)
    if odd := [c for c in found if not isinstance(c, str)]:
        raise TypeError(f"code {odd[0]!r} found, codes as strings wanted, such as '426783006'")
    return found


def multi_hot(codes: Iterable[str], policy: str = "extended") -> np.ndarray:
    """Turn the SNOMED CT codes of a record into a multi-label target.

    A 0 says only that no such code is there; `label_mask` says whether that is knowledge.

    Parameters
    ----------
    codes : iterable of str
        SNOMED CT codes as in ``Record.codes``. Codes of other findings are ignored.
    policy : {"extended", "official", "stated"}
        ``"official"`` counts the Challenge's scored codes only. ``"extended"`` also counts
        164884008 (ventricular ectopics) as PVC, since two databases use nothing else.
        ``"stated"`` does so too, and counts every code of `SINUS` as SR.

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
    found = _check_codes(codes)
    accepted = dict(CODES)
    if policy != "official":
        accepted["PVC"] = (*CODES["PVC"], VENTRICULAR_ECTOPICS)
    if policy == "stated":
        accepted["SR"] = tuple(SINUS)
    return np.array([not found.isdisjoint(accepted[r]) for r in RHYTHMS], dtype=np.float32)


def label_mask(database: str, policy: str = "extended", codes: Iterable[str] = ()) -> np.ndarray:
    """Say which of the five labels of a record are known.

    Parameters
    ----------
    database : str
        The database's name as in the manifest, such as ``"PTB-XL"`` or ``"Ningbo"``;
        upper and lower case are alike.
    policy : {"extended", "official", "stated"}
        ``"official"`` trusts every label. ``"extended"`` marks Ningbo's AF and AFL as doubtful:
        the Challenge's own table counts no AF and 7,615 AFL there (21.8 % of its records, at
        most 4.4 % elsewhere). ``"stated"`` does so too, and takes no 0 for a label that nobody
        wrote: SR is known where a code of `SINUS` or `NOT_SINUS` says who leads; a rhythm is
        unknown where only a code of `UNSETTLED` speaks of it, and in a database that does not
        label it at all (AFL in CPSC2018, PVC in PTB).
    codes : iterable of str
        SNOMED CT codes of the record. Only ``"stated"`` asks for them; without any, nobody has
        said who leads.

    Returns
    -------
    ndarray, shape (5,), bool
        True where the label counts in losses and metrics.

    Raises
    ------
    ValueError, TypeError
        As for `multi_hot`.
    """
    _check_policy(policy)
    found = _check_codes(codes)
    doubtful = set(_DOUBTFUL[policy].get(database.casefold(), ()))
    if policy == "stated":
        if found.isdisjoint(SINUS) and found.isdisjoint(NOT_SINUS):
            doubtful.add("SR")
        marked = names(multi_hot(found, policy))
        doubtful.update(
            rhythm
            for rhythm, hints in UNSETTLED.items()
            if rhythm not in marked and not found.isdisjoint(hints)
        )
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
