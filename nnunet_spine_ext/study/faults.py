"""What is said of configurations that cannot be done, by studies of every kind."""

from __future__ import annotations

from collections.abc import Iterable

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError


def wrong(where: str, found: str, expected: str, fix: str) -> UsageError:
    """Return the error for a configuration that cannot be done."""
    return UsageError("E-STUDY-CONFIG", file=where, found=found, expected=expected, fix=fix)


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise UsageError for a name that is not known, with the nearest one."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UsageError(
                "E-STUDY-CONFIG",
                file=where,
                found=f"unknown {name!r}",
                expected="a known name",
                fix=nearest(name, known),
            )
