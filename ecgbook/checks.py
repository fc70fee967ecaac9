"""The checks that many rooms share: of settings, and of batches with their mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Real
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .leads import LEADS

Settings = TypeVar("Settings")


def check_fields(
    settings: object, checks: Mapping[str, tuple[bool, str]], owner: str | None = None
) -> None:
    """Refuse settings with a field out of its range.

    Parameters
    ----------
    settings : object
        With the fields as attributes.
    checks : mapping of str to (bool, str)
        For each field, whether its value is right, and what is wanted.
    owner : str, optional
        Named in front of the field, where several settings are given together.

    Raises
    ------
    ValueError
        Naming the first field that is wrong, its value and what is wanted.
    """
    for name, (right, wanted) in checks.items():
        if not right:
            where = "" if owner is None else f"{owner}: "
            raise ValueError(f"{where}{name}={getattr(settings, name)!r} found, {wanted} wanted")


def without_numpy(settings: object) -> None:
    """Turn the NumPy numbers among the fields of a dataclass into Python's, which JSON can hold.

    Parameters
    ----------
    settings : dataclass
        Frozen or not; numbers in its tuples are turned too.
    """
    for name, value in vars(settings).items():
        if isinstance(value, tuple):
            plain = tuple(v.item() if isinstance(v, np.generic) else v for v in value)
        else:
            plain = value.item() if isinstance(value, np.generic) else value
        object.__setattr__(settings, name, plain)


def from_fields(kind: type[Settings], fields: Mapping) -> Settings:
    """Make settings from their fields as a file holds them.

    Parameters
    ----------
    kind : type
        A dataclass.
    fields : mapping of str to object
        What `dataclasses.asdict` wrote, perhaps by another version.

    Returns
    -------
    object of `kind`

    Raises
    ------
    ValueError
        If there is a field that `kind` does not have, one that it needs is missing, or a value is
        out of its range.
    """
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    if odd := [name for name in fields if name not in known]:
        raise ValueError(
            f"{kind.__name__} with {odd[0]}={fields[odd[0]]!r} found, fields {', '.join(known)} "
            "wanted: written by another version of ecgbook?"
        )
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} from {dict(fields)} found, {error}") from error


def check_rate(fs_hz: object) -> None:
    """Refuse what is no sampling rate.

    Parameters
    ----------
    fs_hz : float
        In Hz.

    Raises
    ------
    ValueError
        If it is no positive, finite number.
    """
    if not isinstance(fs_hz, Real) or isinstance(fs_hz, bool) or not 0 < fs_hz < np.inf:
        raise ValueError(f"fs_hz={fs_hz!r} found, a positive rate in Hz wanted, such as 500.0")


def check_batch(
    x: Tensor, mask: Tensor | None = None, leads: int | None = len(LEADS), what: str = "input"
) -> None:
    """Refuse a batch of another shape or kind, or a mask that does not belong to it.

    Parameters
    ----------
    x : Tensor, shape (batch, length, leads), float
        Signals, or tokens with their channels in place of the leads.
    mask : Tensor, shape (batch, length), bool, optional
        True where there is signal.
    leads : int or None
        Size of the last axis; if None, any, though more than 12 only if there are more samples.
    what : str
        What the message calls `x`.

    Raises
    ------
    TypeError
        If `x` or `mask` is no tensor.
    ValueError
        If a shape, dtype or device does not fit, naming what was found and what is wanted.
    """
    for name, values in ((what, x), ("mask", mask)):
        if values is not None and not isinstance(values, Tensor):
            raise TypeError(
                f"{name} of {type(values).__module__}.{type(values).__name__} found, torch.Tensor "
                "wanted; convert it with torch.as_tensor"
            )
    axes = f"(batch, length, {'leads' if leads is None else leads})"
    if x.ndim != 3 or (leads is not None and x.shape[2] != leads):
        hint = ""
        if x.ndim == 3 and x.shape[1] == leads:
            hint = "; transpose the last two axes"
        elif x.ndim == 2 and leads in (None, x.shape[1]):
            hint = "; one record is a batch of one: x[None]"
        raise ValueError(f"{what} of shape {tuple(x.shape)} found, {axes} wanted{hint}")
    if leads is None and x.shape[2] > max(x.shape[1], len(LEADS)):
        raise ValueError(
            f"{what} of shape {tuple(x.shape)} found, {axes} wanted, and more samples than leads; "
            "transpose the last two axes"
        )
    if x.shape[0] == 0:  # `len` would be a constant where a graph is made
        raise ValueError("an empty batch found, at least one record wanted")
    if not x.is_floating_point():
        raise ValueError(
            f"{what} of {x.dtype} found, a floating dtype wanted; convert it with x.float()"
        )
    if mask is None:
        return
    if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        hint = "; convert it with mask.bool()" if mask.shape == x.shape[:2] else ""
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}, {mask.dtype} found, "
            f"{tuple(x.shape[:2])}, torch.bool wanted{hint}"
        )
    if mask.device != x.device:
        raise ValueError(f"mask on {mask.device} found, {x.device} wanted, where {what} is")


def check_finite(x: Tensor, mask: Tensor | None = None) -> None:
    """Refuse a batch that holds NaN or infinity where the mask says signal.

    Parameters
    ----------
    x : Tensor, shape (batch, length, leads), float
    mask : Tensor, shape (batch, length), bool, optional
        True where there is signal; everywhere, if omitted.

    Raises
    ------
    ValueError
        Naming the first record and sample.
    """
    broken = ~x.isfinite().all(-1)
    if mask is not None:
        broken &= mask
    if broken.any():
        record, sample = broken.nonzero()[0].tolist()
        raise ValueError(
            f"record {record} of the batch, sample {sample}: NaN or infinity found where the mask "
            "says signal, finite numbers wanted; fill it, or leave it out with the mask"
        )


def valid_lengths(x: Tensor, mask: Tensor | None = None, leads: int | None = len(LEADS)) -> Tensor:
    """Check a batch of signals and count the samples of each record that are signal.

    Parameters
    ----------
    x : Tensor, shape (batch, length, leads), float32 or float64
        Signals in mV, padding behind.
    mask : Tensor, shape (batch, length), bool, optional
        True where there is signal; everywhere, if omitted.
    leads : int or None
        As for `check_batch`: 12; any, if None.

    Returns
    -------
    Tensor, shape (batch,), int64
        On the device of `x`.

    Raises
    ------
    TypeError, ValueError
        As `check_batch`; also in half precision, or if signal follows padding.
    """
    check_batch(x, mask, leads)
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"input of {x.dtype} found, torch.float32 or torch.float64 in mV wanted")
    if mask is None:
        return torch.full((len(x),), x.shape[1], device=x.device)
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("a mask with signal behind padding found, padding behind signal wanted")
    return mask.sum(1)
