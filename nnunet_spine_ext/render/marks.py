"""What charts have in common: markers of several shapes, intervals, legends, axes along the bottom and the side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_spine_ext.render.drawing import SERIES, Line, Outline, Shape, Text
from nnunet_spine_ext.render.scales import Axis, Scale, figure

# Mean width of the letters of names on ticks, and of those of labels, which have more capitals.
LETTER, WIDE_LETTER = 6.3, 7.2
# Of the charts that are as wide as a page.
WIDTH = 640.0
TITLE = 26.0
LEGEND = 18.0
# Corners and turn of each marker: circle, square, triangle, diamond, triangle downwards, pentagon; the last, of a mean,
# is a larger diamond.
_SHAPES = ((16, 0.0), (4, 45.0), (3, -90.0), (4, 0.0), (3, 90.0), (5, -90.0), (4, 0.0))


def style_of(series: int) -> str:
    """Return the style of a series; there are as many as colours, then they repeat."""
    return f"series-{series % len(SERIES)}"


def marker(series: int, x: float, y: float, radius: float = 3.4) -> Outline:
    """Return the mark of a series: shape and colour both tell it apart."""
    corners, turn = _SHAPES[series % len(_SHAPES)]
    size = radius * (1.25 if corners < 16 else 1.0) * (1.15 if series % len(_SHAPES) == len(_SHAPES) - 1 else 1.0)
    points = []
    for corner in range(corners):
        angle = math.radians(turn + 360.0 * corner / corners)
        points.append((x + size * math.cos(angle), y + size * math.sin(angle)))
    return Outline(style_of(series), tuple(points))


def across(style: str, scale: Scale, y: float, low: float, high: float, cap: float = 0.0) -> list[Shape]:
    """Return a horizontal interval, cut at the ends of the scale; nothing for NaN."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    left, right = (scale.x(min(max(v, scale.low), scale.high)) for v in (low, high))
    caps = [Line(style, x, y - cap, x, y + cap) for x in (left, right)] if cap else []
    return [Line(style, left, y, right, y), *caps]


def upright(style: str, scale: Scale, x: float, low: float, high: float, cap: float = 0.0) -> list[Shape]:
    """Return a vertical interval; `scale` maps values to heights; nothing for NaN."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    bottom, top = (scale.x(min(max(v, scale.low), scale.high)) for v in (low, high))
    caps = [Line(style, x - cap, y, x + cap, y) for y in (bottom, top)] if cap else []
    return [Line(style, x, bottom, x, top), *caps]


def legend(
    entries: Sequence[tuple[int | str, str]], left: float, top: float, width: float
) -> tuple[list[Shape], float]:
    """Return marks with their names in rows, and the height they take.

    An entry's first part is the number of a series, or a style whose line is shown, upright after a ``|``.
    """
    shapes: list[Shape] = []
    x, y = left, top + LEGEND / 2
    for kind, name in entries:
        wide = 22.0 + LETTER * len(name)
        if x > left and x + wide > left + width:
            x, y = left, y + LEGEND
        if isinstance(kind, int):
            shapes.append(marker(kind, x + 5.0, y))
        elif kind.startswith("|"):
            shapes.append(Line(kind[1:], x + 5.0, y - 6.0, x + 5.0, y + 6.0))
        else:
            shapes.append(Line(kind, x, y, x + 11.0, y))
        shapes.append(Text("tick", x + 15.0, y, name))
        x += wide
    return shapes, (y + LEGEND / 2 - top if entries else 0.0)


def head(
    title: str, entries: Sequence[tuple[int | str, str]], *, titled: bool, gap: float = 6.0
) -> tuple[list[Shape], float]:
    """Return the title of a wide chart if it is `titled`, its legend, and where the plot begins, after a `gap`."""
    shapes: list[Shape] = [Text("title", 8.0, 13.0, title)] if titled else []
    top = TITLE if titled else 4.0
    shown, high = legend(entries, 12.0, top, WIDTH - 24.0)
    return [*shapes, *shown], top + high + gap


def bottom_axis(scale: Scale, axis: Axis, top: float, bottom: float) -> list[Shape]:
    """Return grid lines, figures and the title with its unit below them."""
    shapes: list[Shape] = []
    for tick in scale.ticks():
        x = scale.x(tick)
        shapes += [Line("grid", x, top, x, bottom), Text("tick", x, bottom + 10.0, figure(tick + 0.0), "middle")]
    middle = (scale.left + scale.right) / 2
    return [*shapes, Text("tick", middle, bottom + 26.0, named(axis), "middle")]


def side_axis(scale: Scale, axis: Axis, left: float, right: float) -> list[Shape]:
    """Return grid lines and figures, with the title above them; `scale` maps values to heights."""
    shapes: list[Shape] = []
    for tick in scale.ticks():
        y = scale.x(tick)
        shapes += [Line("grid", left, y, right, y), Text("tick", left - 6.0, y, figure(tick + 0.0), "end")]
    return [*shapes, Text("tick", left - 26.0, scale.right - 13.0, f"↑ {named(axis)}")]


def named(axis: Axis) -> str:
    """Return the title of an axis with its unit."""
    return f"{axis.title} ({axis.unit})" if axis.unit else axis.title


def room_for(labels: Sequence[str], least: float = 40.0, most: float = 190.0) -> float:
    """Return the width that labels take."""
    return 12.0 + min(max(least, WIDE_LETTER * max((len(label) for label in labels), default=0)), most)
