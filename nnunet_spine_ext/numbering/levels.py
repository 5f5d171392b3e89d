"""The levels that a vertebra can have, from head to tail, and the coarser questions asked about them.

Groups and relative positions are those of SPINEPS' labelling network (VERIDAH), so that its heads can be used as they
are.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import vertebra_id

CERVICAL, THORACIC, LUMBAR = "C", "T", "L"
REGIONS: tuple[str, ...] = (CERVICAL, THORACIC, LUMBAR)
LEVELS: tuple[str, ...] = (
    *(f"C{k}" for k in range(1, 8)),
    *(f"T{k}" for k in range(1, 14)),
    *(f"L{k}" for k in range(1, 7)),
)
INDEX: dict[str, int] = {name: k for k, name in enumerate(LEVELS)}
REGION_OF: tuple[int, ...] = tuple(REGIONS.index(name[0]) for name in LEVELS)
IDS: tuple[int, ...] = tuple(vertebra_id(name) for name in LEVELS)
GROUPS: tuple[tuple[str, ...], ...] = (
    ("C1", "C2"),
    ("C3", "C4", "C5"),
    ("C6", "C7"),
    ("T1", "T2"),
    ("T3", "T4"),
    ("T5", "T6", "T7"),
    ("T8", "T9"),
    ("T10", "T11"),
    ("T12", "T13"),
    ("L1", "L2"),
    ("L3", "L4"),
    ("L5", "L6"),
)
RELATIVE: tuple[str, ...] = ("none", "last C", "first T", "last T", "first L", "last L")
LAST_C, FIRST_T, LAST_T, FIRST_L, LAST_L = range(1, 6)


def level_index(name: str, *, option: str = "level") -> int:
    """Return the place of a level name (``L5``, ``t12``) in `LEVELS`; raises UsageError for other names."""
    index = INDEX.get(name.strip().upper())
    if index is None:
        raise UsageError(
            "E-NUM-LEVEL",
            file=option,
            found=repr(name),
            expected="a level from C1 to C7, T1 to T13 or L1 to L6",
            fix="write it like L5",
        )
    return index


def relative_targets(names: Sequence[str], *, sacrum_below: bool = True) -> list[int]:
    """Return for a whole sequence of levels, head to tail, the place in `RELATIVE` of each vertebra.

    The last vertebra of the list is ``last L`` only if the sacrum is known to be below it.
    """
    result = []
    for k, name in enumerate(names):
        following = names[k + 1] if k + 1 < len(names) else None
        if name == "C7":
            value = LAST_C
        elif name == "T1":
            value = FIRST_T
        elif name[0] == THORACIC and following == "L1":
            value = LAST_T
        elif name == "L1":
            value = FIRST_L
        elif name[0] == LUMBAR and following is None and sacrum_below:
            value = LAST_L
        else:
            value = 0
        result.append(value)
    return result
