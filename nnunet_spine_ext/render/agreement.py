"""Agreement as drawings: violins, one measurement against another, and differences against means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.drawing import Box, Dots, Drawing, Line, Outline, Shape, Text
from nnunet_spine_ext.render.plots import WIDTH, Group, swarm
from nnunet_spine_ext.render.scales import Axis, Scale, figure, quantile, scale_of

_ROW = 46.0
_TITLE, _FOOT, _EDGE = 24.0, 38.0, 14.0
_LETTER = 6.4
_LABELS = 170.0
# Fewer values make no density worth a shape.
_FEWEST = 5
_HALF = 17.0
_STEPS = 81
_PANEL, _GAP, _AXIS = 190.0, 16.0, 46.0
_COLUMNS = 3


@dataclass(frozen=True)
class Points:
    """One panel: pairs of values (n,), with names of both axes; values that are not finite are left out.

    Without a `y_name` the title has to say it.
    """

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_name: str
    y_name: str


@dataclass(frozen=True)
class Fitted:
    """A line y = slope x + intercept for a panel; NaN: none is drawn. `note` is written below the title."""

    slope: float = math.nan
    intercept: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Bands:
    """Bias and limits of agreement of a panel with their intervals; NaN: not drawn."""

    bias: float
    low: float
    high: float
    bias_interval: tuple[float, float]
    low_interval: tuple[float, float]
    high_interval: tuple[float, float]
    note: str = ""


def violins(groups: Sequence[Group], axis: Axis, title: str) -> Drawing:
    """Draw one row per group: the density of its values, quartiles as a box, every value a dot.

    The density is a sum of normal curves (Scott's width), cut at the extremes: it claims nothing beyond the data.
    Groups with fewer than five values have dots only.
    """
    clean = [Group(g.label, tuple((c, v) for c, v in g.values if math.isfinite(v))) for g in groups]
    bottom = _TITLE + _ROW * len(clean)
    longest = max((len(g.label) for g in clean), default=0)
    left = 10.0 + min(max(longest * _LETTER, 40.0), _LABELS)
    scale = scale_of([v for g in clean for _, v in g.values], axis, left, WIDTH - _EDGE, keep_all=True)
    shapes: list[Shape] = [Text("title", 8.0, 11.0, title)]
    for tick in scale.ticks():
        shapes.append(Line("grid", scale.x(tick), _TITLE, scale.x(tick), bottom))
        shapes.append(Text("tick", scale.x(tick), bottom + 9.0, figure(tick), "middle"))
    unit = f" ({axis.unit})" if axis.unit else ""
    shapes.append(Text("tick", (scale.left + scale.right) / 2, bottom + 25.0, f"{axis.title}{unit}", "middle"))
    for number, group in enumerate(clean):
        middle = _TITLE + _ROW * (number + 0.5)
        shapes.append(Text("label", left - 8.0, middle, group.label[: int(_LABELS / _LETTER)], "end"))
        shapes += _violin(group, scale, middle)
    return Drawing(WIDTH, bottom + _FOOT, tuple(shapes), f"{title}: {len(clean)} rows, one dot per image")


def _violin(group: Group, scale: Scale, middle: float) -> list[Shape]:
    inside = sorted((v, c) for c, v in group.values)
    values = [v for v, _ in inside]
    shapes: list[Shape] = []
    if len(values) >= _FEWEST and values[0] < values[-1]:
        places, heights = density(values)
        upper = [(scale.x(p), middle - _HALF * h) for p, h in zip(places, heights, strict=True)]
        lower = [(scale.x(p), middle + _HALF * h) for p, h in zip(places, heights, strict=True)]
        shapes.append(Outline("violin", (*upper, *reversed(lower))))
        low, half, high = (scale.x(quantile(values, q)) for q in (0.25, 0.5, 0.75))
        shapes.append(Box("box", low, middle - 4.0, max(high - low, 0.5), 8.0))
        shapes.append(Line("median", half, middle - 6.0, half, middle + 6.0))
    if values:
        tags = {"cases": " ".join(str(c) for _, c in inside), "values": " ".join(figure(v) for v in values)}
        shapes.append(Dots("dots", swarm([scale.x(v) for v in values], middle, 1.7), 1.7, tags))
    return shapes


def density(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return places from the lowest to the highest value and the density there, the largest one 1 (Scott 1992)."""
    data = np.asarray(values, dtype=np.float64)
    width = float(data.std(ddof=1)) * len(data) ** -0.2
    places = np.linspace(data.min(), data.max(), _STEPS)
    heights: Array = np.exp(-0.5 * ((places[:, None] - data[None]) / width) ** 2).sum(axis=1)
    return places.tolist(), (heights / heights.max()).tolist()


def scatter(panels: Sequence[tuple[Points, Fitted]], unit: str, title: str) -> Drawing:
    """Draw one square panel per pair of measurements: dots, the line of equality (grey) and the fitted one.

    All panels have one scale, so that they can be compared.
    """
    values = [v for points, _ in panels for side in (points.x, points.y) for v in side]
    shared = scale_of(values, Axis(title, unit), 0.0, _PANEL, keep_all=True)
    spots = list(_grid(len(panels)))
    shapes: list[Shape] = [Text("title", 8.0, 11.0, title)]
    for (points, fit), (left, top) in zip(panels, spots, strict=True):
        x, y = _moved(shared, left), Scale(shared.low, shared.high, top + _PANEL, top)
        shapes += _frame(x, y, points, unit, fit.note)
        shapes.append(Line("frame", x.left, y.left, x.right, y.right))
        shapes += _straight(fit, x, y)
        shapes += _dots(points, x, y)
    return Drawing(*_size(len(panels)), tuple(shapes), f"{title}: {len(panels)} panels, one dot per subject")


def bland_altman(panels: Sequence[tuple[Points, Bands]], unit: str, title: str) -> Drawing:
    """Draw one panel per comparison: differences over means, bias and limits of agreement with their intervals.

    `Points.x` are the means, `Points.y` the differences. All panels have one scale.
    """
    across = scale_of([v for p, _ in panels for v in p.x], Axis(title, unit), 0.0, _PANEL, keep_all=True)
    edges = [v for p, b in panels for v in (*p.y, b.low, b.high, *b.low_interval, *b.high_interval)]
    up = scale_of([0.0, *edges], Axis("difference", unit), 0.0, _PANEL, keep_all=True)
    shapes: list[Shape] = [Text("title", 8.0, 11.0, title)]
    for (points, bands), (left, top) in zip(panels, _grid(len(panels)), strict=True):
        x, y = _moved(across, left), Scale(up.low, up.high, top + _PANEL, top)
        shapes += _bands(bands, x, y)
        shapes += _frame(x, y, points, unit, bands.note)
        shapes.append(Line("frame", x.left, y.x(0.0), x.right, y.x(0.0)))
        for style, value in (("limit", bands.low), ("bias", bands.bias), ("limit", bands.high)):
            if math.isfinite(value):
                shapes.append(Line(style, x.left, y.x(value), x.right, y.x(value)))
        shapes += _dots(points, x, y)
    return Drawing(*_size(len(panels)), tuple(shapes), f"{title}: {len(panels)} panels, one dot per pair")


def _grid(count: int) -> Iterable[tuple[float, float]]:
    """Left and top of each panel."""
    for number in range(count):
        row, column = divmod(number, _COLUMNS)
        yield 8.0 + _AXIS + column * (_PANEL + _AXIS + _GAP), _TITLE + 32.0 + row * (_PANEL + 32.0 + _FOOT)


def _size(count: int) -> tuple[float, float]:
    columns, rows = min(max(count, 1), _COLUMNS), math.ceil(max(count, 1) / _COLUMNS)
    return 16.0 + columns * (_PANEL + _AXIS + _GAP), _TITLE + 8.0 + rows * (_PANEL + 32.0 + _FOOT)


def _moved(scale: Scale, left: float) -> Scale:
    return Scale(scale.low, scale.high, left + scale.left, left + scale.right)


def _frame(x: Scale, y: Scale, points: Points, unit: str, note: str) -> list[Shape]:
    bottom, top = y.left, y.right
    shapes: list[Shape] = [
        Text("label", x.left, top - 24.0, _short(points.title, points.y_name)),
        Text("tick", x.left, top - 9.0, note),
        Line("frame", x.left, bottom, x.right, bottom),
        Line("frame", x.left, bottom, x.left, top),
        Text("tick", (x.left + x.right) / 2, bottom + 24.0, f"{points.x_name} ({unit})", "middle"),
        Text("tick", x.right, top - 24.0, f"↑ {points.y_name}" if points.y_name else "", "end"),
    ]
    shapes += [Text("tick", x.x(tick), bottom + 9.0, figure(tick), "middle") for tick in x.ticks()[:: _every(x)]]
    shapes += [Text("tick", x.left - 6.0, y.x(tick), figure(tick), "end") for tick in y.ticks()]
    return shapes


def _short(title: str, beside: str) -> str:
    most = int(_PANEL / _LETTER) - len(beside)
    return title if len(title) <= most else f"{title[: most - 1]}…"


def _every(scale: Scale) -> int:
    return 2 if len(scale.ticks()) > 6 else 1


def _straight(fit: Fitted, x: Scale, y: Scale) -> list[Shape]:
    """The part of the fitted line that lies inside the panel."""
    if not math.isfinite(fit.slope):
        return []
    ends = [x.low, x.high]
    if fit.slope != 0:
        crossing = [(bound - fit.intercept) / fit.slope for bound in (y.low, y.high)]
        ends = [max(x.low, min(crossing)), min(x.high, max(crossing))]
    if ends[0] >= ends[1]:
        return []
    places = [(x.x(v), y.x(fit.slope * v + fit.intercept)) for v in ends]
    return [Line("fit", *places[0], *places[1])]


def _bands(bands: Bands, x: Scale, y: Scale) -> list[Shape]:
    shapes: list[Shape] = []
    for style, (low, high) in (
        ("band", bands.low_interval), ("band", bands.high_interval), ("bias-band", bands.bias_interval),
    ):  # fmt: skip
        if math.isfinite(low) and math.isfinite(high):
            shapes.append(Box(style, x.left, y.x(high), x.right - x.left, y.x(low) - y.x(high)))
    return shapes


def _dots(points: Points, x: Scale, y: Scale) -> list[Shape]:
    kept = [(a, b) for a, b in zip(points.x, points.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not kept:
        return []
    tags = {"values": " ".join(f"{figure(a)},{figure(b)}" for a, b in kept)}
    return [Dots("dots", tuple((x.x(a), y.x(b)) for a, b in kept), 2.4, tags)]
