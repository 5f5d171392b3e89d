"""Areas by slice, and their means over the slices of a range that several maps share."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json, strip_suffix
from nnunet_spine_ext.core.labels import VERTEBRAE
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.cord.reading import PRESENT, Cord
from nnunet_spine_ext.measure import cross_sectional_area
from nnunet_spine_ext.measure.cross_section import FAINT_NOTE
from nnunet_spine_ext.measure.csa_levels import parse_levels
from nnunet_spine_ext.measure.levels import Levels

EVERYWHERE = "all slices"
# What other tables call our columns.
_RENAMED = {"mean_area": "area", "name": "range"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Range:
    """Part of the cord: the levels with these vertebra ids; None: all slices."""

    name: str
    levels: frozenset[int] | None = None


@dataclass(frozen=True, eq=False)
class SliceAreas:
    """Areas in mm² of the slices that hold cord; all arrays (n,). `levels`: vertebra id of each, NaN where unknown."""

    slices: Array
    areas: Array
    levels: Array
    notes: tuple[str, ...] = ()

    def of(self, chosen: Range, levels: SliceAreas | None = None) -> dict[int, float]:
        """Return the finite areas of a range by slice; slices belong to the levels of `levels` (None: its own)."""
        known = {int(k): v for k, v in zip((levels or self).slices, (levels or self).levels, strict=True)}
        return {
            int(k): float(area)
            for k, area in zip(self.slices, self.areas, strict=True)
            if math.isfinite(area) and (chosen.levels is None or known.get(int(k), math.nan) in chosen.levels)
        }


@dataclass(frozen=True)
class Pooled:
    """Mean areas of several maps over the slices that all of them have in one range.

    `areas` has one mean per map (NaN without a common slice), `slices` is the number of common slices, `own` that of
    each map.
    """

    areas: tuple[float, ...]
    slices: int
    own: tuple[int, ...]


def parse_ranges(texts: Sequence[str]) -> tuple[Range, ...]:
    """Return a range for each text such as ``C2:C3``, ``2:3`` or ``3,5``; without texts there is one, all slices.

    Raises UsageError for a vertebra that is none, or a range from tail to head.
    """
    return tuple({found.name: found for found in map(_range, texts)}.values()) or (Range(EVERYWHERE),)


def _range(text: str) -> Range:
    levels = parse_levels(text)
    names = [VERTEBRAE[level] for level in levels]
    whole = ":" in text and "," not in text
    return Range(f"{names[0]}:{names[-1]}" if whole and len(names) > 1 else ",".join(names), frozenset(levels))


def measure(cord: Cord, mode: str, levels: Levels | None = None) -> SliceAreas:
    """Measure the slices in which the map exceeds one half somewhere.

    Fainter slices hold no cord (mode ``sct`` scales every slice to its own maximum and would give them an area).

    Raises
    ------
    CaseError: values on another scale, or levels that do not fit.
    """
    try:
        found = cross_sectional_area(cord.volume, mode=mode, levels=levels, form=False)
    except CaseError as error:
        raise CaseError(
            error.code, file=cord.path, found=error.found, expected=error.expected, fix=error.fix
        ) from error
    axis = next(k for k, letter in enumerate(cord.volume.orientation) if letter in "IS")
    highest = cord.volume.array.max(axis=tuple(k for k in range(3) if k != axis))
    present = highest[found.index] > PRESENT
    # Of faint slices nothing is left.
    notes = tuple(note for note in found.notes if not note.endswith(FAINT_NOTE))
    return SliceAreas(found.slice[present], found.area[present], found.level[present], notes)


def union_of_levels(maps: Sequence[SliceAreas]) -> SliceAreas:
    """Return the levels of all slices that any map has, of each slice those of the first map that has it."""
    known: dict[int, float] = {}
    for one in maps:
        for number, level in zip(one.slices, one.levels, strict=True):
            known.setdefault(int(number), float(level))
    slices = sorted(known)
    nothing = np.full(len(slices), np.nan)
    return SliceAreas(np.array(slices, dtype=int), nothing, np.array([known[k] for k in slices], dtype=np.float64))


def pool(maps: Sequence[SliceAreas], chosen: Range, levels: SliceAreas | None = None) -> Pooled:
    """Average every map over the slices of a range that all maps have; `levels` says which level a slice is."""
    each = [one.of(chosen, levels) for one in maps]
    common = sorted(set.intersection(*(set(one) for one in each)))
    areas = tuple(float(np.mean([one[k] for k in common])) if common else math.nan for one in each)
    return Pooled(areas, len(common), tuple(len(one) for one in each))


@dataclass(frozen=True)
class AreaTable:
    """True areas from a table: by slice, or one per case and range (range "" stands for all of them).

    `mode`: how they were measured, where the record beside the table says so.
    """

    source: str
    mode: str | None = None
    by_slice: Mapping[str, SliceAreas] = field(default_factory=dict)
    by_range: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def cases(self) -> list[str]:
        """Case names in alphabetical order."""
        return sorted({*self.by_slice, *self.by_range})

    def mean(self, case: str, chosen: Range) -> float:
        """Return the area of a range, NaN where the table has none."""
        found = self.by_range.get(case, {})
        return found.get(chosen.name, found.get("", math.nan))


def is_table(path: Path) -> bool:
    """Whether a path is one of a table and not of images."""
    return path.suffix.lower() in _DELIMITERS


def read_areas(path: Path) -> AreaTable:
    """Read areas in mm²: columns case and area, and slice (then level is used too) or range, if there is one.

    Tables of nnUNetv2_spine_csa are such tables, per slice (counted from the lowest one) or averaged over levels, where
    the columns are called mean_area and name. An empty area or ``nan`` is one that is not known.

    Raises
    ------
    UsageError: unreadable, columns missing, areas that are no numbers from 0 up, or one value twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter=_DELIMITERS[path.suffix.lower()]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong_table(path, f"cannot be read ({error})") from error
    rows = [{_RENAMED.get(key, key): value for key, value in row.items()} for row in rows]
    lacking = {"case", "area"} - set(rows[0] if rows else ())
    if lacking:
        raise _wrong_table(path, f"no column {' and no column '.join(sorted(lacking))}" if rows else "no rows")
    for number, row in enumerate(rows, 2):
        if not row["case"]:
            raise _wrong_table(path, f"line {number}: no case")
    mode = _mode_of(path)
    if "slice" in rows[0]:
        return AreaTable(str(path), mode, by_slice=_by_slice(path, rows))
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, 2):
        name = (row.get("range") or "").strip()
        name = _range(name).name if name and name != EVERYWHERE else name
        areas = found.setdefault(strip_suffix(row["case"]), {})
        if name in areas:
            raise _wrong_table(path, f"line {number}: a second area of {row['case']}")
        areas[name] = _number(path, number, row["area"])
    return AreaTable(str(path), mode, by_range=found)


def _mode_of(path: Path) -> str | None:
    """Return the mode in the record that nnUNetv2_spine_csa writes beside its table, None without one."""
    record = path.with_suffix(".json")
    try:
        content = read_json(record) if record.is_file() else {}
    except CaseError:
        return None
    options = content.get("options") if isinstance(content, dict) else None
    mode = options.get("mode") if isinstance(options, dict) else None
    return mode if isinstance(mode, str) else None


def _by_slice(path: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, SliceAreas]:
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for number, row in enumerate(rows, 2):
        slices = found.setdefault(strip_suffix(row["case"]), {})
        if not (row["slice"] or "").strip().isdigit() or int(row["slice"]) in slices:
            raise _wrong_table(path, f"line {number}: slice {row['slice']!r}, no number or a second time")
        level = _number(path, number, row.get("level"))
        slices[int(row["slice"])] = (_number(path, number, row["area"]), level)
    return {
        case: SliceAreas(
            np.array(sorted(slices)),
            np.array([slices[k][0] for k in sorted(slices)]),
            np.array([slices[k][1] for k in sorted(slices)]),
        )
        for case, slices in found.items()
    }


def _number(path: Path, line: int, text: str | None) -> float:
    try:
        value = float(text) if text and text.strip() else math.nan
    except ValueError:
        value = -1.0
    if value < 0 or math.isinf(value):
        raise _wrong_table(path, f"line {line}: {text!r}")
    return value


def _wrong_table(path: Path, found: str) -> UsageError:
    return UsageError(
        "E-EVAL-CORD-TABLE",
        file=path,
        found=found,
        expected="columns case, area (mm², or nothing), and slice (with level) or range, if there is one",
        fix="correct the table",
    )
