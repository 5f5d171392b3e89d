"""Charts of values along something: curves with intervals, and small scatter plots with a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnunet_spine_ext.render.drawing import Drawing, Line, Outline, Shape, Text
from nnunet_spine_ext.render.marks import WIDTH, across, bottom_axis, head, marker, side_axis, style_of, upright
from nnunet_spine_ext.render.scales import Axis, Scale, scale_of

__all__ = ["Axis", "Curve", "Panel", "Point", "curves", "scatters"]

NOTHING = "not measured"
_LEFT, _RIGHT, _HIGH, _FOOT = 46.0, 16.0, 230.0, 38.0
_PANEL_WIDE, _PANEL_HIGH = 262.0, 150.0


@dataclass(frozen=True)
class Point:
    """A point with intervals; NaN is left out."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    x_low: float = math.nan
    x_high: float = math.nan


@dataclass(frozen=True)
class Curve:
    """Points of a series; `joined` by lines between neighbours; `band`: (x, low, high) around a line without marks."""

    name: str
    series: int
    points: tuple[Point, ...]
    joined: bool = True
    marked: bool = True
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Panel:
    """One scatter plot: groups of points by series, and a straight line (slope, intercept) through them."""

    axis: Axis
    points: tuple[tuple[int, Point], ...]
    note: str = ""
    line: tuple[float, float] | None = None


def curves(
    shown: Sequence[Curve],
    ticks: Sequence[tuple[float, str]],
    x_axis: Axis,
    y_axis: Axis,
    title: str,
    *,
    reference: tuple[float, str] | None = None,
    titled: bool = True,
) -> Drawing:
    """Draw curves over places that `ticks` name; `reference` is a level over the whole width.

    Without any value the plot says that nothing was measured.
    """
    entries: list[tuple[int | str, str]] = [
        (curve.series if curve.marked else style_of(curve.series), curve.name) for curve in shown if curve.name
    ]
    line = reference if reference is not None and math.isfinite(reference[0]) else None
    entries += [("reference", line[1])] if line else []
    shapes, top = head(title, entries, titled=titled, gap=0.0)
    top += 22.0
    bottom = top + _HIGH
    places = [x for x, _ in ticks] or [0.0]
    # Half a step of room on both sides, so that marks do not lie on the frame.
    margin = 0.5 * min((b - a for a, b in pairwise(places)), default=1.0)
    across_scale = Scale(places[0] - margin, places[-1] + margin, _LEFT, WIDTH - _RIGHT)
    values = [v for c in shown for p in c.points for v in (p.y, p.low, p.high)]
    values += [v for c in shown for _, *ends in c.band for v in ends] + ([line[0]] if line else [])
    up = scale_of(values, y_axis, bottom, top, keep_all=True)
    for curve in shown:
        shapes += _band(curve, across_scale, up)
    shapes += side_axis(up, y_axis, _LEFT, WIDTH - _RIGHT)
    shapes += [Text("tick", across_scale.x(x), bottom + 10.0, name, "middle") for x, name in ticks]
    shapes.append(Text("tick", (_LEFT + WIDTH - _RIGHT) / 2, bottom + 26.0, x_axis.title, "middle"))
    if line:
        shapes.append(Line("reference", _LEFT, up.x(line[0]), WIDTH - _RIGHT, up.x(line[0])))
    for curve in shown:
        shapes += _curve(curve, across_scale, up)
    if not any(math.isfinite(point.y) for curve in shown for point in curve.points):
        shapes.append(Text("label", WIDTH / 2, (top + bottom) / 2 + 6.0, NOTHING, "middle"))
    return Drawing(WIDTH, bottom + _FOOT, tuple(shapes), f"{title}: {len(shown)} curves")


def _band(curve: Curve, x: Scale, y: Scale) -> list[Shape]:
    known = [one for one in curve.band if all(map(math.isfinite, one))]
    if len(known) < 2:
        return []

    def inside(value: float) -> float:
        return y.x(min(max(value, y.low), y.high))

    upper = [(x.x(place), inside(high)) for place, _, high in known]
    lower = [(x.x(place), inside(low)) for place, low, _ in reversed(known)]
    return [Outline(f"{style_of(curve.series)}-pale", (*upper, *lower))]


def _curve(curve: Curve, x: Scale, y: Scale) -> list[Shape]:
    style = style_of(curve.series)
    shapes: list[Shape] = []
    if curve.joined:
        for one, other in pairwise(curve.points):
            if math.isfinite(one.y) and math.isfinite(other.y):
                shapes.append(Line(style, x.x(one.x), y.x(one.y), x.x(other.x), y.x(other.y)))
    for point in curve.points if curve.marked else ():
        if math.isfinite(point.y):
            shapes += upright(style, y, x.x(point.x), point.low, point.high, 2.5)
            shapes.append(marker(curve.series, x.x(point.x), y.x(point.y), 3.0))
    return shapes


def scatters(
    panels: Sequence[Panel], y_axis: Axis, series: Sequence[tuple[int, str]], title: str, *, titled: bool = True
) -> Drawing:
    """Draw scatter plots two by two with one vertical scale; `series` are numbers and names for the legend."""
    entries: list[tuple[int | str, str]] = list(series)
    shapes, top = head(title, entries, titled=titled, gap=0.0)
    ends = [v for panel in panels for _, p in panel.points for v in (p.y, p.low, p.high)]
    high = _PANEL_HIGH + 72.0
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        left = _LEFT + column * (_PANEL_WIDE + 52.0)
        start = top + 34.0 + row * high
        up = scale_of(ends, y_axis, start + _PANEL_HIGH, start, keep_all=True)
        shapes += _panel(panel, y_axis, up, left)
    if not panels:
        shapes.append(Text("label", WIDTH / 2, top + 34.0 + _PANEL_HIGH / 2, NOTHING, "middle"))
    rows = max(1, (len(panels) + 1) // 2)
    return Drawing(WIDTH, top + rows * high, tuple(shapes), f"{title}: {len(panels)} panels")


def _panel(panel: Panel, y_axis: Axis, up: Scale, left: float) -> list[Shape]:
    ends = [v for _, p in panel.points for v in (p.x, p.x_low, p.x_high)]
    right = left + _PANEL_WIDE
    scale = scale_of(ends, panel.axis, left, right, keep_all=True)
    shapes = bottom_axis(scale, panel.axis, up.right, up.left)
    shapes += side_axis(up, y_axis, left, right)
    shapes.append(Text("tick", right, up.right - 13.0, panel.note, "end"))
    if panel.line is not None:
        shapes += _straight(*panel.line, scale, up)
    for number, point in panel.points:
        if math.isfinite(point.x) and math.isfinite(point.y):
            style = style_of(number)
            shapes += upright(style, up, scale.x(point.x), point.low, point.high)
            shapes += across(style, scale, up.x(point.y), point.x_low, point.x_high)
            shapes.append(marker(number, scale.x(point.x), up.x(point.y), 3.4))
    return shapes


def _straight(slope: float, intercept: float, x: Scale, y: Scale) -> list[Shape]:
    """The part of a line that lies inside the panel."""
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        return []
    low, high = x.low, x.high
    if slope != 0:
        first, last = sorted((bound - intercept) / slope for bound in (y.low, y.high))
        low, high = max(low, first), min(high, last)
    if low >= high:
        return []
    (x1, y1), (x2, y2) = ((x.x(v), y.x(slope * v + intercept)) for v in (low, high))
    return [Line("reference", x1, y1, x2, y2)]
