"""Drawings of a choice among many quantities: their values in order on a logarithmic axis, and how they correlate."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nnunet_spine_ext.render.drawing import HEAT_STEPS, Box, Drawing, Line, Shape, Text
from nnunet_spine_ext.render.marks import WIDTH, head, marker, named, room_for, style_of
from nnunet_spine_ext.render.scales import Axis, Scale

__all__ = ["Axis", "Ranked", "correlations", "ranking"]

_ROW, _CELL = 15.0, 22.0
_FOOT, _EDGE = 38.0, 14.0
# Names of features are long: `glrlm_GrayLevelNonUniformityNormalized`.
_LABELS = 280.0
# Steps of the map of coefficients whose colours dark letters would not be read on.
_DARK_BELOW, _DARK_ABOVE = 2, HEAT_STEPS - 4


@dataclass(frozen=True)
class Ranked:
    """One row: a value above 0, and the number of the series that it belongs to."""

    label: str
    value: float
    series: int = 0


def ranking(
    rows: Sequence[Ranked], series: Sequence[tuple[int, str]], axis: Axis, title: str, *, titled: bool = True
) -> Drawing:
    """Draw one mark per row on a logarithmic axis; values that are not above 0 are said to be missing.

    `series` are numbers and names for the legend.
    """
    shapes, top = head(title, list(series), titled=titled)
    left = room_for([row.label for row in rows], most=_LABELS)
    bottom = top + _ROW * max(len(rows), 1)
    known = [row.value for row in rows if math.isfinite(row.value) and row.value > 0]
    low, high = (math.log10(min(known)), math.log10(max(known))) if known else (0.0, 1.0)
    low, high = math.floor(low + 1e-9), max(math.ceil(high - 1e-9), math.floor(low + 1e-9) + 1)
    scale = Scale(low, high, left, WIDTH - _EDGE)
    for power in range(low, high + 1):
        x = scale.x(power)
        shapes += [Line("grid", x, top, x, bottom), Text("tick", x, bottom + 10.0, f"{10.0**power:g}", "middle")]
    shapes.append(Text("tick", (left + WIDTH - _EDGE) / 2, bottom + 26.0, named(axis), "middle"))
    for number, row in enumerate(rows):
        y = top + _ROW * (number + 0.5)
        shapes.append(Text("label", left - 8.0, y, row.label, "end"))
        if not (math.isfinite(row.value) and row.value > 0):
            shapes.append(Text("tick", left + 6.0, y, "not measured"))
            continue
        x = scale.x(math.log10(row.value))
        shapes += [Line(style_of(row.series), left, y, x, y), marker(row.series, x, y, 3.0)]
    return Drawing(WIDTH, bottom + _FOOT, tuple(shapes), f"{title}: {len(rows)} rows")


def correlations(
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    title: str,
    *,
    chosen: Collection[str] = (),
    titled: bool = True,
) -> Drawing:
    """Draw coefficients (n, n) from -1 to 1 as coloured cells with their figures; columns have the numbers of the rows.

    Names of `chosen` are bold.
    """
    shapes, top = head(title, [], titled=titled)
    labels = [f"{name}  {number}" for number, name in enumerate(names, 1)]
    left = room_for(labels, most=_LABELS)
    # Cells have room for "-.99"; many make the drawing wider, few do not fill it.
    wide = max(_CELL, min(1.4 * _CELL, (WIDTH - left - _EDGE) / max(len(names), 1)))
    width = max(WIDTH, left + wide * len(names) + _EDGE)
    top += 14.0
    for column in range(len(names)):
        shapes.append(Text("tick", left + wide * (column + 0.5), top - 7.0, str(column + 1), "middle"))
    for line, (name, row) in enumerate(zip(names, values, strict=True)):
        y = top + _CELL * line
        style = "chosen" if name in chosen else "label"
        shapes.append(Text(style, left - 8.0, y + _CELL / 2, labels[line], "end"))
        for column, value in enumerate(row):
            shapes += _cell(value, f"{name}, {names[column]}", left + wide * column, y, wide)
    bottom = top + _CELL * max(len(names), 1)
    shapes += _key(left, bottom + 10.0)
    return Drawing(width, bottom + 40.0, tuple(shapes), f"{title}: {len(names)} by {len(names)} cells")


def _cell(value: float, tip: str, x: float, y: float, wide: float) -> list[Shape]:
    place = (x + wide / 2, y + _CELL / 2)
    if not math.isfinite(value):
        box = Box("missing", x + 0.5, y + 0.5, wide - 1, _CELL - 1, f"{tip}: not measured")
        return [box, Text("in-cell", *place, "–", "middle")]
    step = round(min(max((value + 1) / 2, 0.0), 1.0) * (HEAT_STEPS - 1))
    letters = "in-dark-cell" if step <= _DARK_BELOW or step >= _DARK_ABOVE else "in-cell"
    box = Box(f"signed-{step}", x + 0.5, y + 0.5, wide - 1, _CELL - 1, f"{tip}: {value:.3f}")
    # A zero before the point is room for nothing.
    written = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.0f}"
    return [box, Text(letters, *place, written.replace("-.00", ".00"), "middle")]


def _key(left: float, top: float) -> list[Shape]:
    """The colours from -1 to 1 in a row."""
    step = 8.0
    shapes: list[Shape] = [Box(f"signed-{k}", left + step * k, top, step, 9.0) for k in range(HEAT_STEPS)]
    right = left + step * HEAT_STEPS
    middle = (left + right) / 2
    figures: list[Shape] = [
        Text("tick", left, top + 17.0, "-1"),
        Text("tick", middle, top + 17.0, "0", "middle"),
        Text("tick", right, top + 17.0, "1", "end"),
    ]
    return [*shapes, *figures, Text("tick", right + 10.0, top + 4.5, "Pearson's correlation coefficient")]
