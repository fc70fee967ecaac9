"""Lead names, their standard order and groups, and the identities that tie the limb leads together.

Source: W. Einthoven, G. Fahr, A. de Waart (1913), doi:10.1007/BF01697566 (II = I + III);
E. Goldberger (1942), doi:10.1016/S0002-8703(42)90821-4 (augmented leads).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEADS: tuple[str, ...] = (
    "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
)  # fmt: skip
"""The 12 leads in the standard order, the order of every array in this package."""

LEAD_GROUPS: dict[str, tuple[str, ...]] = {
    "limb": LEADS[0:3],
    "augmented": LEADS[3:6],
    "anterior": LEADS[6:9],
    "lateral": LEADS[9:12],
}
"""The four groups of three neighbouring leads that the model's lead branches read."""

INDEPENDENT: tuple[str, ...] = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight leads that are measured; the other four follow from I and II."""

_BY_NAME = {name.upper(): name for name in LEADS}


def standard_name(name: str) -> str:
    """Return the standard spelling of a lead name, such as ``"aVR"`` for ``"avr"``.

    Parameters
    ----------
    name : str
        A lead name in any mixture of upper and lower case.

    Raises
    ------
    ValueError
        If the name is not one of the 12 standard leads.
    """
    try:
        return _BY_NAME[name.strip().upper()]
    except (KeyError, AttributeError):
        raise ValueError(f"lead name {name!r} found, one of {', '.join(LEADS)} wanted") from None


def column_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check what the columns of a signal are called, and spell standard leads as the standard does.

    Parameters
    ----------
    names : sequence of str
        Any names, each once; not only those of standard leads.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If there is no name, one is empty, or one stands there twice.
    """
    wanted = "one name a column wanted, such as ['II', 'V1']"
    if isinstance(names, str) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"leads={names!r} found, {wanted}")
    found = tuple(_BY_NAME.get(name.strip().upper(), name.strip()) for name in names)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"leads={names!r} found, {wanted}, each once")
    return found


def group_columns(names: Sequence[str]) -> dict[str, list[int]]:
    """Find the leads of each group among the columns of a signal.

    Parameters
    ----------
    names : sequence of str
        As for `column_names`.

    Returns
    -------
    dict of str to list of int
        For each of `LEAD_GROUPS` that has leads there, their columns, in the order of the group.
    """
    names = column_names(names)
    columns = {
        group: [names.index(lead) for lead in members if lead in names]
        for group, members in LEAD_GROUPS.items()
    }
    return {group: found for group, found in columns.items() if found}


def index(names: Sequence[str] | str) -> list[int]:
    """Return the columns of the named leads in a ``(samples, 12)`` array.

    Parameters
    ----------
    names : str or sequence of str
        Lead names, or the name of one of `LEAD_GROUPS`.

    Returns
    -------
    list of int
        Column numbers, in the order of `names`.
    """
    if isinstance(names, str):
        names = LEAD_GROUPS.get(names, (names,))
    return [LEADS.index(standard_name(name)) for name in names]


def derive(lead_i: np.ndarray, lead_ii: np.ndarray) -> np.ndarray:
    """Compute the six limb leads from leads I and II.

    Parameters
    ----------
    lead_i, lead_ii : ndarray, shape (...,)
        Leads I and II in one unit (mV in this package).

    Returns
    -------
    ndarray, shape (..., 6)
        I, II, III, aVR, aVL, aVF, in the unit and dtype of the input.

    Notes
    -----
    III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.
    """
    lead_i, lead_ii = np.asarray(lead_i), np.asarray(lead_ii)
    return np.stack(
        [
            lead_i,
            lead_ii,
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_i - lead_ii / 2,
            lead_ii - lead_i / 2,
        ],
        axis=-1,
    )


def limb_residual(signal_mv: np.ndarray) -> np.ndarray:
    """Measure how far the limb leads are from the identities that bind them.

    Parameters
    ----------
    signal_mv : ndarray, shape (..., samples, 12)
        A 12-lead signal in mV, standard order. NaN marks missing samples.

    Returns
    -------
    ndarray, shape (..., samples, 4)
        Residuals in mV of III, aVR, aVL and aVF against their values derived from I and II.
        Zero but for rounding in a sound record; large where leads are swapped or mislabelled.
    """
    signal_mv = np.asarray(signal_mv)
    if signal_mv.shape[-1] != len(LEADS):
        raise ValueError(f"last axis of length {signal_mv.shape[-1]} found, 12 leads wanted")
    derived = derive(signal_mv[..., 0], signal_mv[..., 1])
    return signal_mv[..., 2:6] - derived[..., 2:]
