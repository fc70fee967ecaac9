"""One check for the values of settings, such as those of a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping


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
