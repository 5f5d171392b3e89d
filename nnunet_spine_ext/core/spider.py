"""The numbering of SPIDER masks: levels counted within a mask, and what they are in the scheme ``instances``.

A published mask counts from below: vertebrae 1.. (101.. where only part of one is in the image), the disc below
vertebra n is 200+n, and 100 is the canal with all that is in it. Copies that count from above exist. The numbers say
nothing about the name of the lowest vertebra: it is L5 unless one knows better.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, get_args

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import DISC_OFFSET, VERTEBRAE, vertebra_id

LevelOrder = Literal["bottom-up", "top-down"]
LEVEL_ORDERS: tuple[str, ...] = get_args(LevelOrder)

CANAL = 100
PARTLY_OFFSET = 100
SPIDER_DISC_OFFSET = 200
MAX_LEVEL = 25
LOWEST = "L5"
USUAL_THORACIC = 12
USUAL_LUMBAR = 5

# Levels of the class list of `levels_labels`: published masks count to 9.
USUAL_LEVELS = 10

_CERVICAL = tuple(range(1, 8))
_T13 = 28
_SACRAL = (26, *range(29, 34))


def is_vertebra(number: int) -> bool:
    """Whether a SPIDER id is a vertebra, whole or partly visible."""
    return 1 <= number <= MAX_LEVEL or is_partly_visible(number)


def is_partly_visible(number: int) -> bool:
    """Whether a SPIDER id is a partly visible vertebra."""
    return PARTLY_OFFSET < number <= PARTLY_OFFSET + MAX_LEVEL


def is_disc(number: int) -> bool:
    """Whether a SPIDER id is a disc."""
    return SPIDER_DISC_OFFSET < number <= SPIDER_DISC_OFFSET + MAX_LEVEL


def is_known(number: int) -> bool:
    """Whether SPIDER has such an id (0, the background, is none)."""
    return number == CANAL or is_vertebra(number) or is_disc(number)


def level_of(number: int) -> int:
    """Return the level a vertebra or a disc is numbered by; raises ValueError for other ids."""
    if is_disc(number):
        return number - SPIDER_DISC_OFFSET
    if is_partly_visible(number):
        return number - PARTLY_OFFSET
    if is_vertebra(number):
        return number
    msg = f"{number} is neither a vertebra nor a disc of SPIDER"
    raise ValueError(msg)


def counted_from_below(ids: Iterable[int], order: LevelOrder = "bottom-up") -> dict[int, int]:
    """Map the ids of one mask to those they have when levels count from below.

    Counted from above, the largest number is the lowest level, whether counting started at the first vertebra of the
    image (1, 2, ...) or at C1 (..., 24 is L5). Ids that SPIDER does not have are left out.

    Raises UsageError for an unknown order.
    """
    check_order(order)
    known = sorted({number for number in ids if is_known(number)})
    levels = [level_of(number) for number in known if number != CANAL]
    if order == "bottom-up" or not levels:
        return {number: number for number in known}
    turn = max(levels) + 1
    return {k: k if k == CANAL else k - level_of(k) + (turn - level_of(k)) for k in known}


def check_order(order: str) -> None:
    """Raise UsageError for an order that is not one of `LEVEL_ORDERS`."""
    if order not in LEVEL_ORDERS:
        raise UsageError(
            "E-SPIDER-ORDER",
            file="--level-order",
            found=repr(order),
            expected=" or ".join(LEVEL_ORDERS),
            fix=nearest(order, LEVEL_ORDERS),
        )


def levels_upwards(lowest: str = LOWEST, *, thoracic: int = USUAL_THORACIC, lumbar: int | None = None) -> list[int]:
    """Return the vertebra ids of the scheme ``instances`` from the lowest one up to C1.

    Parameters
    ----------
    lowest: name of the lowest vertebra, such as ``L5``, ``L6`` or ``S1``.
    thoracic: thoracic vertebrae of this spine, 11 to 13.
    lumbar: lumbar vertebrae of this spine; None: five, six if L6 is the lowest.

    Raises
    ------
    UsageError: no such vertebra or count.
    """
    names = {name: number for number, name in VERTEBRAE.items() if name != "coccyx"}
    if lowest not in names:
        fix = nearest(lowest, names)
        raise UsageError(
            "E-SPIDER-LOWEST", file="--lowest", found=repr(lowest), expected="a vertebra such as L5 or L6", fix=fix
        )
    count = lumbar if lumbar is not None else 6 if lowest == "L6" else USUAL_LUMBAR
    if thoracic not in (11, 12, 13) or count not in (4, 5, 6):
        raise UsageError(
            "E-SPIDER-LOWEST",
            file="--lowest",
            found=f"{thoracic} thoracic and {count} lumbar vertebrae",
            expected="11 to 13 and 4 to 6",
            fix="correct the counts",
        )
    chest = [*range(8, 8 + min(thoracic, 12)), *([_T13] if thoracic == 13 else [])]
    column = [*_CERVICAL, *chest, *range(20, 20 + count), *_SACRAL]
    if names[lowest] not in column:
        raise UsageError(
            "E-SPIDER-LOWEST",
            file="--lowest",
            found=f"{lowest} in a spine with {thoracic} thoracic and {count} lumbar vertebrae",
            expected="a vertebra that it has",
            fix="correct the name or the counts",
        )
    return column[: column.index(names[lowest]) + 1][::-1]


def spider_table(
    ids: Collection[int],
    *,
    order: LevelOrder = "bottom-up",
    lowest: str = LOWEST,
    thoracic: int = USUAL_THORACIC,
    lumbar: int | None = None,
) -> dict[int, int]:
    """Map the SPIDER ids of one mask to the scheme ``instances``.

    A vertebra has its id whether it is wholly visible or not; the canal is no instance and becomes 0. Ids that SPIDER
    does not have, and levels above C1, are left out, so that translating a mask with the table complains about them.

    Raises UsageError: see `counted_from_below` and `levels_upwards`.
    """
    upwards = levels_upwards(lowest, thoracic=thoracic, lumbar=lumbar)
    table = {}
    for number, below in counted_from_below(ids, order).items():
        if below == CANAL:
            table[number] = 0
        elif level_of(below) <= len(upwards):
            table[number] = upwards[level_of(below) - 1] + (DISC_OFFSET if is_disc(below) else 0)
    return table


def instances_to_spider(
    ids: Collection[int], *, lowest: str | None = None, thoracic: int | None = None, lumbar: int | None = None
) -> dict[int, int]:
    """Map the ``instances`` ids of one mask to SPIDER's, counted from below.

    The lowest vertebra or disc above the sacrum gets number 1, unless `lowest` names it. Endplates, the sacrum and what
    lies below `lowest` have no id there and become 0. T13 and L6 count where the mask has them, unless the numbers of
    thoracic and lumbar vertebrae are given. Ids that ``instances`` does not have are left out.
    """
    vertebra_of = {n: n for n in VERTEBRAE} | {DISC_OFFSET + n: n for n in VERTEBRAE}
    present = {vertebra_of[number] for number in ids if number in vertebra_of}
    if thoracic is None:
        thoracic = 13 if _T13 in present else USUAL_THORACIC
    six = vertebra_id("L6") in present
    table = dict.fromkeys((number for number in ids if number in vertebra_of or 0 < number - 200 <= max(VERTEBRAE)), 0)
    if lowest is None:
        free = [n for n in levels_upwards("L6", thoracic=thoracic) if n in present]
        if not free:
            return table
        lowest = VERTEBRAE[free[0]]
    upwards = levels_upwards(lowest, thoracic=thoracic, lumbar=lumbar if lumbar is not None or not six else 6)
    level = {vertebra: number for number, vertebra in enumerate(upwards, start=1)}
    for number in table:
        if number in vertebra_of and vertebra_of[number] in level:
            table[number] = level[vertebra_of[number]] + (SPIDER_DISC_OFFSET if number > DISC_OFFSET else 0)
    return table


def levels_labels(levels: int = USUAL_LEVELS) -> dict[str, int]:
    """Return the classes of a network with one class per level: name to id, consecutive from 1."""
    names = [f"{kind}_{n}" for kind in ("vertebra", "disc") for n in range(1, levels + 1)]
    return {name: number for number, name in enumerate([*names, "canal"], start=1)}


def levels_table(levels: int = USUAL_LEVELS) -> dict[int, int]:
    """Map SPIDER ids counted from below to the classes of `levels_labels`; higher levels are left out."""
    table = {n: n for n in range(1, levels + 1)} | {PARTLY_OFFSET + n: n for n in range(1, levels + 1)}
    table |= {SPIDER_DISC_OFFSET + n: levels + n for n in range(1, levels + 1)}
    return table | {CANAL: 2 * levels + 1}


def levels_to_spider(levels: int = USUAL_LEVELS) -> dict[int, int]:
    """Map the classes of `levels_labels` back to SPIDER ids; that a vertebra was partly visible does not come back."""
    return {label: number for number, label in levels_table(levels).items() if not is_partly_visible(number)}
