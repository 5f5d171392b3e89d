"""A measure along the spine as a drawing: a line with gaps, levels as columns, a mean per level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnunet_spine_ext.render.drawing import Box, Dots, Drawing, Line, Shape, Text

WIDTH, _PLOT = 560.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 44.0, 44.0
_TICKS = 5
# Narrower columns have no room for their name.
_NARROWEST = 14.0


@dataclass(frozen=True)
class Band:
    """A level: its name, and between which places of the profile it lies."""

    name: str
    start: float
    stop: float


@dataclass(frozen=True)
class _Frame:
    """Where places and values lie in the drawing; values start at 0."""

    low: float
    high: float
    step: float
    highest: float

    def x(self, place: float) -> float:
        return _LEFT + (self.high - place) / max(self.high - self.low, 1.0) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + _PLOT * (1 - value / self.highest)


def profile(
    places: Sequence[float],
    values: Sequence[float],
    *,
    title: str,
    unit: str,
    along: str,
    bands: Sequence[Band] = (),
    marked: Sequence[float] = (),
) -> Drawing:
    """Draw values over places from left (the largest place, the head) to right; NaN leaves a gap.

    Parameters
    ----------
    places: numbers of slices, rising towards the head; values: one per place.
    unit: of the values, written at the axis; along: what places are.
    bands: levels; each has its mean drawn.
    marked: places whose value is doubtful.
    """
    frame = _frame(places, values)
    shapes: list[Shape] = [Text("title", 8.0, 13.0, title)]
    for number in range(round(frame.highest / frame.step) + 1):
        height = frame.y(number * frame.step)
        shapes += [Line("grid", _LEFT, height, WIDTH - _RIGHT, height)]
        shapes += [Text("tick", _LEFT - 6.0, height, f"{number * frame.step:g}", "end")]
    for place in _ticks(frame.low, frame.high):
        shapes += [Text("tick", frame.x(place), _TOP + _PLOT + 11.0, f"{place:g}", "middle")]
    shapes.append(
        Text("tick", (_LEFT + WIDTH - _RIGHT) / 2, _TOP + _PLOT + 28.0, f"{along} (head on the left)", "middle")
    )
    shapes.append(Text("tick", 8.0, 31.0, unit))
    for band in bands:
        shapes += _band(band, places, values, frame)
    points = [(frame.x(p), frame.y(v)) for p, v in zip(places, values, strict=True)]
    for (x1, y1), (x2, y2) in pairwise(points):
        if math.isfinite(y1) and math.isfinite(y2):
            shapes.append(Line("whisker", x1, y1, x2, y2))
    radius = 2.0 if len(points) <= 120 else 1.1
    doubtful = set(marked)
    for style, chosen in (("dots", False), ("beyond", True)):
        dots = tuple(
            p for p, place in zip(points, places, strict=True) if math.isfinite(p[1]) and (place in doubtful) == chosen
        )
        if dots:
            shapes.append(Dots(style, dots, radius + chosen))
    measured = sum(map(math.isfinite, values))
    name = f"{title}: {measured} of {len(places)} slices measured"
    return Drawing(WIDTH, _TOP + _PLOT + _BOTTOM, tuple(shapes), name)


def _frame(places: Sequence[float], values: Sequence[float]) -> _Frame:
    most = max((v for v in values if math.isfinite(v)), default=0.0) or 1.0
    step = _nice(most / _TICKS)
    low, high = (min(places), max(places)) if len(places) else (0.0, 1.0)
    return _Frame(low, high, step, step * math.ceil(most / step - 1e-9))


def _band(band: Band, places: Sequence[float], values: Sequence[float], frame: _Frame) -> list[Shape]:
    left, right = frame.x(band.stop + 0.5), frame.x(band.start - 0.5)
    left, right = max(left, _LEFT), min(right, WIDTH - _RIGHT)
    shapes: list[Shape] = [Line("grid", edge, _TOP, edge, _TOP + _PLOT) for edge in (left, right)]
    inside = [v for p, v in zip(places, values, strict=True) if band.start <= p <= band.stop and math.isfinite(v)]
    if inside:
        mean = sum(inside) / len(inside)
        tip = f"{band.name}: {mean:.4g}"
        shapes.append(Box("box", left, frame.y(mean) - 1.5, max(right - left, 1.0), 3.0, tip))
    if right - left >= _NARROWEST:
        shapes.append(Text("tick", (left + right) / 2, _TOP - 8.0, band.name, "middle"))
    return shapes


def _ticks(low: float, high: float) -> list[float]:
    step = math.ceil(max(_nice((high - low) / 8), 1.0))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _nice(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= rough * (1 - 1e-9))
