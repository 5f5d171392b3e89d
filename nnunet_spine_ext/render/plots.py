"""Distributions as drawings: one row of dots with a box per group, and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_spine_ext.render.drawing import Box, Dots, Drawing, Line, Shape, Text
from nnunet_spine_ext.render.scales import Axis, Scale, figure, quantile, scale_of

__all__ = ["Axis", "Group", "histogram", "strips", "swarm"]

WIDTH = 420.0
_ROW = 19.0
_TOP, _RIGHT, _TITLE = 8.0, 14.0, 24.0
_AXIS = 34.0
_LETTER = 6.4
_LABELS_LOW, _LABELS_HIGH = 30.0, 160.0
# Fewer values make no quartiles worth a box.
_FEWEST_FOR_BOX = 5
# Dots of one row leave its middle by at most this much.
_SPREAD = 7.0
_BINS = 20


@dataclass(frozen=True)
class Group:
    """One row of a plot: values with the number of the case each belongs to; infinite values are beyond the axis."""

    label: str
    values: tuple[tuple[int, float], ...]


def strips(groups: Sequence[Group], axis: Axis, *, titled: bool = False) -> Drawing:
    """Draw one row per group: every value a dot, quartiles as a box, whiskers to the ends inside the axis.

    Values far beyond the others, and infinite ones, are marked at the edge instead of squeezing the rest.

    Parameters
    ----------
    groups: from top to bottom; NaN is left out.
    axis: of the values.
    titled: write the axis title above the plot (a page has it in its caption).
    """
    clean = [Group(g.label, tuple((c, v) for c, v in g.values if not math.isnan(v))) for g in groups]
    top = _TITLE if titled else _TOP
    bottom = top + _ROW * len(clean)
    longest = max((len(g.label) for g in clean), default=0)
    left = 8.0 + min(max(longest * _LETTER, _LABELS_LOW), _LABELS_HIGH)
    scale = scale_of([v for g in clean for _, v in g.values], axis, left, WIDTH - _RIGHT)
    shapes = _frame(scale, axis, top, bottom)
    if titled:
        shapes.append(Text("title", 8.0, 11.0, axis.title))
    for number, group in enumerate(clean):
        middle = top + _ROW * (number + 0.5)
        shapes.append(Text("label", left - 8.0, middle, _short(group.label), "end"))
        shapes += _row(group, scale, middle)
    cases = len({c for g in clean for c, _ in g.values})
    name = f"{axis.title}: {len(clean)} rows, one dot per case, {cases} cases"
    return Drawing(WIDTH, bottom + _AXIS, tuple(shapes), name)


def histogram(values: Sequence[float], axis: Axis, *, titled: bool = False) -> Drawing:
    """Draw how many of the values fall into each of at most 20 equal bins; NaN and infinite values are left out."""
    finite = sorted(v for v in values if math.isfinite(v))
    top = _TITLE if titled else _TOP
    left, height = 38.0, 110.0
    scale = scale_of(finite, axis, left, WIDTH - _RIGHT, keep_all=True)
    width = (scale.high - scale.low) / min(_BINS, max(5, 2 * math.isqrt(max(1, len(finite)))))
    bins: dict[int, int] = {}
    for value in finite:
        number = min(int((value - scale.low) / width), round((scale.high - scale.low) / width) - 1)
        bins[number] = bins.get(number, 0) + 1
    most = max(bins.values(), default=1)
    bottom = top + height
    shapes = _frame(scale, axis, top, bottom)
    if titled:
        shapes.append(Text("title", 8.0, 11.0, axis.title))
    shapes += [
        Text("tick", left - 6.0, top + 4.0, str(most), "end"),
        Text("tick", left - 6.0, bottom - 4.0, "0", "end"),
    ]
    for number, count in sorted(bins.items()):
        low = scale.low + number * width
        x, tall = scale.x(low), height * count / most
        tip = f"{figure(low)} to {figure(low + width)}: {count} case{'' if count == 1 else 's'}"
        shapes.append(Box("column", x + 0.5, bottom - tall, scale.x(low + width) - x - 1.0, tall, tip))
    return Drawing(WIDTH, bottom + _AXIS, tuple(shapes), f"{axis.title}: distribution over {len(finite)} cases")


def _frame(scale: Scale, axis: Axis, top: float, bottom: float) -> list[Shape]:
    shapes: list[Shape] = []
    for tick in scale.ticks():
        x = scale.x(tick)
        shapes.append(Line("grid", x, top, x, bottom))
        shapes.append(Text("tick", x, bottom + 9.0, figure(tick), "middle"))
    unit = f" ({axis.unit})" if axis.unit else ""
    shapes.append(Text("tick", (scale.left + scale.right) / 2, bottom + 24.0, f"{axis.title}{unit}", "middle"))
    return shapes


def _row(group: Group, scale: Scale, middle: float) -> list[Shape]:
    inside = sorted(((v, c) for c, v in group.values if math.isfinite(v) and not scale.outside(v)))
    beyond = sorted(((c, v) for c, v in group.values if math.isinf(v) or scale.outside(v)), key=lambda one: one[1])
    shapes: list[Shape] = []
    values = [v for v, _ in inside]
    finite = sorted(v for _, v in group.values if math.isfinite(v))
    if len(finite) >= _FEWEST_FOR_BOX:
        places = [scale.x(min(max(v, scale.low), scale.high)) for v in finite]
        low, half, high = (quantile(places, q) for q in (0.25, 0.5, 0.75))
        if inside:
            shapes.append(Line("whisker", scale.x(values[0]), middle, scale.x(values[-1]), middle))
        shapes.append(Box("box", low, middle - 6.0, max(high - low, 0.5), 12.0))
        shapes.append(Line("median", half, middle - 6.5, half, middle + 6.5))
    radius = 2.2 if len(values) <= 60 else 1.5
    if inside:
        points = swarm([scale.x(v) for v in values], middle, radius)
        shapes.append(Dots("dots", points, radius, _tags([(c, v) for v, c in inside])))
    if beyond:
        edges = [scale.right if v > scale.low else scale.left for _, v in beyond]
        shapes.append(Dots("beyond", swarm(edges, middle, 2.6), 2.6, _tags(beyond)))
    return shapes


def _tags(values: Sequence[tuple[int, float]]) -> dict[str, str]:
    return {"cases": " ".join(str(c) for c, _ in values), "values": " ".join(figure(v) for _, v in values)}


def swarm(places: Sequence[float], middle: float, radius: float) -> tuple[tuple[float, float], ...]:
    """Move dots that would cover each other up and down in turn, never out of the row; places are sorted."""
    points: list[tuple[float, float]] = []
    steps = 3 if radius > 2 else 4
    start, depth = -math.inf, 0
    for x in places:
        if x - start < 1.6 * radius:
            depth += 1
        else:
            start, depth = x, 0
        shift = ((depth + 1) // 2) % (steps + 1) * (1 if depth % 2 else -1)
        points.append((x, middle + _SPREAD / steps * shift))
    return tuple(points)


def _short(label: str) -> str:
    """Leave out the middle of a long label: its end often tells left from right."""
    most = int(_LABELS_HIGH / _LETTER)
    head, tail = (most - 1) // 2, most // 2
    return label if len(label) <= most else f"{label[:head].rstrip()}…{label[-tail:].lstrip()}"
