"""Axes of plots: round ticks, and a range that odd values do not stretch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A value beyond a quartile by this many times the distance of the quartiles would squeeze all others together.
_FAR = 3.0


@dataclass(frozen=True)
class Axis:
    """The axis of values: what is measured, in which unit, and bounds that a value cannot pass (None: none)."""

    title: str
    unit: str = ""
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to places from `left` to `right`."""

    low: float
    high: float
    left: float
    right: float

    def x(self, value: float) -> float:
        """Return the place of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def outside(self, value: float) -> bool:
        """Whether a value is beyond the axis."""
        return value > self.high + 1e-9 or value < self.low - 1e-9

    def ticks(self) -> list[float]:
        """Return round values along the axis."""
        step = nice_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_of(values: Sequence[float], axis: Axis, left: float, right: float, *, keep_all: bool = False) -> Scale:
    """Return a scale for values: its ends are round; far values are left out unless `keep_all`."""
    finite = sorted(v for v in values if math.isfinite(v))
    low, high = (finite[0], finite[-1]) if finite else (axis.lowest or 0.0, axis.highest or 1.0)
    if axis.highest is not None:
        # Good scores crowd at the upper end: it always shows.
        high = axis.highest
    if finite and not keep_all:
        quarter, three = quantile(finite, 0.25), quantile(finite, 0.75)
        reach = _FAR * max(three - quarter, 0.01 * abs(three))
        low, high = max(low, quarter - reach), high if axis.highest is not None else min(high, three + reach)
    if axis.lowest == 0.0 and axis.highest is None:
        low = 0.0
    step = nice_step(((high - low) or abs(high) or 1.0) / 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    low = low if axis.lowest is None else max(low, axis.lowest)
    return Scale(low, high if high > low else low + step, left, right)


def nice_step(rough: float) -> float:
    """Return the next larger one of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= rough * (1 - 1e-9))


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, interpolated linearly."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def figure(value: float) -> str:
    """Return a value with three digits."""
    return "infinite" if math.isinf(value) else f"{value:.3g}"
