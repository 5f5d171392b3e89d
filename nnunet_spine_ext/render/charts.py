"""Charts of a few values with intervals: bars, rows of marks, a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_spine_ext.render.drawing import HEAT_STEPS, Box, Drawing, Line, Shape, Text
from nnunet_spine_ext.render.marks import (
    LETTER,
    WIDTH,
    across,
    bottom_axis,
    head,
    marker,
    room_for,
    style_of,
)
from nnunet_spine_ext.render.scales import Axis, Scale, scale_of

__all__ = ["Axis", "Bar", "Mark", "MarkRow", "bars", "heat_map", "mark_rows"]

# Names of rows of a heat map may take so much.
_ROW_NAMES = 270.0
_FOOT = 38.0
_BAR, _ROW = 24.0, 7.0
_CELL_HIGH = 30.0
_RIGHT = 62.0
# From this step of the heat map on, dark letters would not be read.
_DARK = 11


@dataclass(frozen=True)
class Bar:
    """A value from 0 with its interval; without one, `note` stands in its place. `mark`: a second value, as a line."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    series: int = 0
    note: str = ""
    mark: float = math.nan


@dataclass(frozen=True)
class Mark:
    """A value of one series with its interval."""

    series: int
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class MarkRow:
    """One row of marks; without any, `note` stands in their place."""

    label: str
    marks: tuple[Mark, ...]
    note: str = ""


def bars(rows: Sequence[Bar], axis: Axis, title: str, *, mark: str = "", titled: bool = True) -> Drawing:
    """Draw one horizontal bar per row with its interval and its value.

    Parameters
    ----------
    axis: of the values; it always holds 0. title: written above if `titled`.
    mark: what the second value of a bar is called.
    """
    left = room_for([row.label for row in rows])
    shapes, top = head(title, [("|error", mark)] if mark else [], titled=titled)
    bottom = top + _BAR * max(len(rows), 1)
    ends = [v for row in rows for v in (row.value, row.low, row.high, row.mark) if math.isfinite(v)]
    scale = scale_of([0.0, *ends], axis, left, WIDTH - _RIGHT, keep_all=True)
    shapes += bottom_axis(scale, axis, top, bottom)
    for number, row in enumerate(rows):
        y = top + _BAR * (number + 0.5)
        shapes.append(Text("label", left - 8.0, y, row.label, "end"))
        if not math.isfinite(row.value):
            shapes.append(Text("tick", scale.x(max(0.0, scale.low)) + 6.0, y, row.note or "not measured"))
            continue
        start, end = sorted((scale.x(0.0), scale.x(row.value)))
        tip = f"{row.label}: {row.value:.4f}"
        shapes.append(Box(f"{style_of(row.series)}-bar", start, y - 7.5, max(end - start, 0.5), 15.0, tip))
        shapes += across("error", scale, y, row.low, row.high, 3.0)
        if math.isfinite(row.mark):
            shapes.append(Line("error", scale.x(row.mark), y - 10.0, scale.x(row.mark), y + 10.0))
        furthest = max(v for v in (row.value, row.high, row.mark, 0.0) if math.isfinite(v))
        shapes.append(Text("tick", scale.x(furthest) + 7.0, y, f"{row.value:.3f}"))
    shapes.append(Line("frame", scale.x(0.0), top, scale.x(0.0), bottom))
    return Drawing(WIDTH, bottom + _FOOT, tuple(shapes), f"{title}: {len(rows)} bars")


def mark_rows(
    rows: Sequence[MarkRow],
    series: Sequence[tuple[int, str]],
    axis: Axis,
    title: str,
    *,
    reference: tuple[float, str] | None = None,
    titled: bool = True,
) -> Drawing:
    """Draw one row of marks with intervals per label; marks of a row lie below each other, in order of the series.

    `series` are numbers and names for the legend; `reference` is a line over all rows with its name.
    """
    left = room_for([row.label for row in rows])
    entries: list[tuple[int | str, str]] = list(series)
    line = reference if reference is not None and math.isfinite(reference[0]) else None
    shapes, top = head(title, [*entries, *([("|reference", line[1])] if line else [])], titled=titled)
    high = _ROW * max(len(series), 2) + 9.0
    bottom = top + high * max(len(rows), 1)
    ends = [v for row in rows for m in row.marks for v in (m.value, m.low, m.high) if math.isfinite(v)]
    scale = scale_of([*ends, *([line[0]] if line else [])], axis, left, WIDTH - 14.0, keep_all=True)
    shapes += bottom_axis(scale, axis, top, bottom)
    if line:
        shapes.append(Line("reference", scale.x(line[0]), top, scale.x(line[0]), bottom))
    place = {number: k for k, (number, _) in enumerate(series)}
    for number, row in enumerate(rows):
        start = top + high * number
        if number:
            shapes.append(Line("grid", 8.0, start, WIDTH - 14.0, start))
        shapes.append(Text("label", left - 8.0, start + high / 2, row.label, "end"))
        known = [m for m in row.marks if math.isfinite(m.value)]
        if not known:
            shapes.append(Text("tick", left + 8.0, start + high / 2, row.note or "not measured"))
        for mark in known:
            y = start + (high - _ROW * (len(series) - 1)) / 2 + _ROW * place[mark.series]
            shapes += across(style_of(mark.series), scale, y, mark.low, mark.high)
            shapes.append(marker(mark.series, scale.x(mark.value), y, 3.0))
    return Drawing(WIDTH, bottom + _FOOT, tuple(shapes), f"{title}: {len(rows)} rows, {len(series)} marks each")


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    axis: Axis,
    title: str,
    *,
    tips: Sequence[Sequence[str]] = (),
    titled: bool = True,
) -> Drawing:
    """Draw values (rows, columns) as coloured cells with their figures; NaN is an empty cell with a dash."""
    left = room_for(rows, most=_ROW_NAMES)
    shapes, top = head(title, [], titled=titled)
    wide = min(110.0, (WIDTH - left - 14.0) / max(len(columns), 1))
    # Heads that are wider than a cell take turns in two lines, or they would run into each other.
    crowded = any(LETTER * len(name) > wide - 4.0 for name in columns)
    top += 32.0 if crowded else 18.0
    known = [v for row in values for v in row if math.isfinite(v)]
    ends = Scale(min(known), max(known), 0.0, 1.0) if known and max(known) > min(known) else Scale(0.0, 1.0, 0.0, 1.0)
    for number, name in enumerate(columns):
        raised = 14.0 if crowded and number % 2 else 0.0
        shapes.append(Text("tick", left + wide * (number + 0.5), top - 9.0 - raised, name, "middle"))
    for line, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + _CELL_HIGH * line
        shapes.append(Text("label", left - 8.0, y + _CELL_HIGH / 2, name, "end"))
        for number, value in enumerate(row):
            x = left + wide * number
            place = (x + wide / 2, y + _CELL_HIGH / 2)
            if not math.isfinite(value):
                shapes.append(Box("missing", x + 1, y + 1, wide - 2, _CELL_HIGH - 2, f"{name}: not measured"))
                shapes.append(Text("tick", *place, "–", "middle"))
                continue
            step = round(min(max(ends.x(value), 0.0), 1.0) * (HEAT_STEPS - 1))
            tip = tips[line][number] if tips else f"{name}, {columns[number]}: {value:.4f}"
            shapes.append(Box(f"heat-{step}", x + 1, y + 1, wide - 2, _CELL_HIGH - 2, tip))
            shapes.append(Text("on-dark" if step >= _DARK else "label", *place, f"{value:.3f}", "middle"))
    bottom = top + _CELL_HIGH * max(len(rows), 1)
    shapes += _heat_key(axis, ends, left, bottom + 12.0) if known else []
    return Drawing(WIDTH, bottom + 46.0, tuple(shapes), f"{title}: {len(rows)} by {len(columns)} cells")


def _heat_key(axis: Axis, ends: Scale, left: float, top: float) -> list[Shape]:
    """The colours of a heat map in a row, with the values at both ends."""
    step = 8.0
    shapes: list[Shape] = [Box(f"heat-{k}", left + step * k, top, step, 9.0) for k in range(HEAT_STEPS)]
    right = left + step * HEAT_STEPS
    low, high = (
        Text("tick", left, top + 17.0, f"{ends.low:.2f}"),
        Text("tick", right, top + 17.0, f"{ends.high:.2f}", "end"),
    )
    return [*shapes, low, high, Text("tick", right + 10.0, top + 4.5, axis.title)]
