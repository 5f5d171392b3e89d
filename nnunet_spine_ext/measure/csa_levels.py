"""Cross-sections averaged over vertebral levels, as the Spinal Cord Toolbox averages them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import VERTEBRA_ORDER, VERTEBRAE, vertebra_id
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.measure.cross_section import CrossSection
from nnunet_spine_ext.measure.csa_table import csv_text

# Numbers of slices, not of the cord; and the length, which is summed.
_NOT_AVERAGED = ("slice", "index", "level", "objects", "length")


@dataclass(frozen=True, eq=False)
class LevelSections:
    """Means over levels; arrays of one length, one entry per level (or one for all of them together).

    Parameters
    ----------
    level: text, a vertebra id (``3``) or several (``2:3``).
    name: the same with names of vertebrae (``C2:C3``).
    slices: number of slices that were measured.
    first, last: lowest and highest slice (NaN: none).
    mean, std: by name of the measure; mean and standard deviation over slices, every slice counting the same.
    length: mm of cord.
    ddof: what the standard deviation divides by is the number of slices minus this.
    """

    level: Array
    name: Array
    slices: Array
    first: Array
    last: Array
    mean: dict[str, Array]
    std: dict[str, Array]
    length: Array
    ddof: int

    def __len__(self) -> int:
        return len(self.level)

    def columns(self) -> dict[str, Array]:
        """Return the arrays by name, in the order of the table."""
        front = {key: getattr(self, key) for key in ("level", "name", "slices", "first", "last")}
        pairs = {
            f"{kind}_{key}": table[key] for key in self.mean for kind, table in (("mean", self.mean), ("std", self.std))
        }
        return front | pairs | {"sum_length": self.length}

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the table as CSV, and write it atomically if a path is given."""
        return csv_text([self.columns()], path)


def average_levels(
    section: CrossSection, levels: Sequence[int] | None = None, *, pooled: bool = False, ddof: int = 0
) -> LevelSections:
    """Average the slices of each level.

    Parameters
    ----------
    section: measured with levels.
    levels: vertebra ids; None for all that occur. One that does not occur has no slices, and NaN.
    pooled: put the slices of all these levels into one group (C2 to C3 as one number).
    ddof: 0 is the toolbox' standard deviation (of the population), 1 that of a sample.

    Returns
    -------
    A row per level from head to tail, or one row.
    """
    known = section.level[np.isfinite(section.level)]
    found = sorted({int(v) for v in known}, key=_rank) if levels is None else list(levels)
    groups = [found] if pooled and found else [[level] for level in found]
    members = [np.isin(section.level, group) & np.isfinite(section.area) for group in groups]
    tables: dict[str, dict[str, Array]] = {"mean": {}, "std": {}}
    for key, values in section.columns().items():
        if key in _NOT_AVERAGED:
            continue
        chosen = [values[member] for member in members]
        chosen = [part[np.isfinite(part)] for part in chosen]
        tables["mean"][key] = np.array([part.mean() if len(part) else np.nan for part in chosen])
        tables["std"][key] = np.array([part.std(ddof=ddof) if len(part) > ddof else np.nan for part in chosen])
    ends = [section.slice[member] for member in members]
    return LevelSections(
        level=np.array([_range([str(v) for v in group], group) for group in groups], dtype=object),
        name=np.array([_range([VERTEBRAE.get(v, str(v)) for v in group], group) for group in groups], dtype=object),
        slices=np.array([member.sum() for member in members], dtype=int),
        first=np.array([part.min() if len(part) else np.nan for part in ends]),
        last=np.array([part.max() if len(part) else np.nan for part in ends]),
        mean=tables["mean"],
        std=tables["std"],
        length=np.array([section.length[member].sum() for member in members]),
        ddof=ddof,
    )


def parse_levels(text: str) -> list[int]:
    """Read levels such as ``2:3``, ``C2:C4,T1`` or ``3``; ranges go along the spine (T12:L1 has no T13).

    Raises
    ------
    UsageError: no such vertebra, or a range from tail to head.
    """
    found: list[int] = []
    for part in filter(None, text.replace(" ", ",").split(",")):
        start, _, stop = part.partition(":")
        first, last = _vertebra(start, text), _vertebra(stop or start, text)
        if _rank(last) < _rank(first):
            raise _wrong(text, f"{part} runs upwards")
        # T13 and L6 belong to a range only where they are named.
        run = VERTEBRA_ORDER[_rank(first) : _rank(last) + 1]
        found += [v for v in run if v not in (28, 25) or v in (first, last)]
    if not found:
        raise _wrong(text, "nothing")
    return list(dict.fromkeys(found))


def _vertebra(word: str, text: str) -> int:
    try:
        number = int(word) if word.isdigit() else vertebra_id(word.upper())
    except KeyError:
        number = 0
    if number not in VERTEBRAE:
        raise _wrong(text, f"{word!r}, which is no vertebra")
    return number


def _rank(vertebra: int) -> int:
    return VERTEBRA_ORDER.index(vertebra) if vertebra in VERTEBRAE else len(VERTEBRA_ORDER) + vertebra


def _range(words: list[str], group: list[int]) -> str:
    """First and last with a colon if there is nothing missing between them, else all."""
    between = [v for v in VERTEBRA_ORDER[_rank(group[0]) : _rank(group[-1]) + 1] if v not in (28, 25) or v in group]
    return words[0] if len(words) == 1 else f"{words[0]}:{words[-1]}" if group == between else ",".join(words)


def _wrong(text: str, found: str) -> UsageError:
    return UsageError(
        "E-CSA-LEVELRANGE",
        file=text,
        found=found,
        expected="vertebrae such as 2:3, C2:C3 or 3,5",
        fix="1 is C1, 8 is T1, 20 is L1; the upper one comes first",
    )
