"""Where a parameter of a transform is drawn from: a number, an interval, a logarithmic interval, a normal, a choice.

0.5                      always 0.5
[0.7, 1.5]               uniform
{log: [0.5, 2]}          uniform in the logarithm: halving is as likely as doubling
{normal: [1, 0.1]}       mean and standard deviation, clipped to the limits of the parameter
{choice: [3, 5, 7]}      each equally likely
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

Kind = Literal["constant", "uniform", "log", "normal", "choice"]
Limits = tuple[float, float]

UNLIMITED: Limits = (-math.inf, math.inf)
_NAMED = ("choice", "log", "normal", "uniform")


@dataclass(frozen=True)
class Range:
    """A distribution of one number; `values` are the constant, the two bounds, mean and sd, or the choices."""

    kind: Kind
    values: tuple[float, ...]
    limits: Limits = UNLIMITED

    @classmethod
    def parse(cls, value: Any, *, limits: Limits = UNLIMITED, where: str = "range") -> Range:
        """Read one of the forms above.

        Raises
        ------
        UsageError: another form, reversed bounds, a value outside `limits`, not finite, or not positive for log.
        """
        if isinstance(value, Range):
            value = value.plain()
        kind, values = _split(value, where)
        if reason := _fault(kind, values, limits):
            raise UsageError(
                "E-CONFIG-RANGE", file=where, found=f"{value!r}: {reason}", expected=_expected(limits), fix="correct it"
            )
        return cls(kind, values, limits)

    def sample(self, rng: np.random.Generator) -> float:
        """Draw one number; it lies within the limits."""
        match self.kind:
            case "constant":
                return self.values[0]
            case "uniform":
                return float(rng.uniform(self.values[0], self.values[1]))
            case "log":
                low, high = self.values
                return float(np.clip(math.exp(rng.uniform(math.log(low), math.log(high))), low, high))
            case "normal":
                return float(np.clip(rng.normal(self.values[0], self.values[1]), *self.limits))
            case "choice":
                return self.values[int(rng.integers(len(self.values)))]

    def scaled(self, rng: np.random.Generator, neutral: float | None, strength: float) -> float:
        """Draw a number and move it towards `neutral`, the value without effect, by the strength (1: as drawn).

        In the logarithm for a log range. The result stays within the limits, also for a strength above 1.
        """
        value = self.sample(rng)
        if neutral is None or strength == 1 or not math.isfinite(neutral):
            return value
        if self.kind == "log" and neutral > 0:
            value = neutral * (value / neutral) ** strength
        else:
            value = neutral + (value - neutral) * strength
        return float(np.clip(value, *self.limits))

    def plain(self) -> Any:
        """Return the form that `parse` reads, as JSON values."""
        if self.kind == "constant":
            return self.values[0]
        return list(self.values) if self.kind == "uniform" else {self.kind: list(self.values)}


def spread(value: Any, *, limits: Limits = UNLIMITED, neutral: float | None = None) -> Any:
    """Declare a field of a transform that is a range.

    Parameters
    ----------
    value: the default, in any form of `Range.parse`.
    limits: what any setting has to stay within.
    neutral: the value at which the transform does nothing; a strength below 1 moves draws towards it.
    """
    default = Range.parse(value, limits=limits)
    return field(default=default, metadata={"limits": limits, "neutral": neutral})


def parse_field(item: dataclasses.Field[Any], value: Any, where: str) -> Range:
    """Read the value of a field made by `spread`, within its limits."""
    limits = cast("Limits", item.metadata.get("limits", UNLIMITED))
    return Range.parse(value, limits=limits, where=f"{where}: {item.name}")


def is_range(item: dataclasses.Field[Any]) -> bool:
    """Return whether a field was made by `spread`."""
    return "limits" in item.metadata


def _split(value: Any, where: str) -> tuple[Kind, tuple[float, ...]]:
    if _is_number(value):
        return "constant", (float(value),)
    name: str = "uniform"
    numbers: Any = value
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise _wrong(value, where, "one of choice, log, normal, uniform")
        name, numbers = next(iter(value.items()))
        if name not in _NAMED:
            raise _wrong(value, where, nearest(str(name), _NAMED))
    listed = isinstance(numbers, Sequence) and not isinstance(numbers, str)
    if not listed or not all(_is_number(n) for n in numbers) or not _enough(name, numbers):
        raise _wrong(value, where, "a number, [low, high], {log: [low, high]}, {normal: [mean, sd]} or {choice: […]}")
    return cast("Kind", name), tuple(float(n) for n in numbers)


def _enough(name: str, numbers: Sequence[Any]) -> bool:
    return len(numbers) > 0 if name == "choice" else len(numbers) == 2


def _fault(kind: Kind, values: tuple[float, ...], limits: Limits) -> str:
    """Return what is wrong with the numbers of a range, or an empty text."""
    low, high = limits
    checked = values[:1] if kind == "normal" else values
    if not all(math.isfinite(v) for v in values):
        return "not finite"
    if kind in ("uniform", "log") and values[0] > values[1]:
        return "the lower bound is above the upper one"
    if kind == "log" and values[0] <= 0:
        return "a logarithmic range needs positive bounds"
    if kind == "normal" and values[1] < 0:
        return "a negative standard deviation"
    if any(not low <= v <= high for v in checked):
        return "outside the limits"
    return ""


def _expected(limits: Limits) -> str:
    if limits == UNLIMITED:
        return "a range of finite numbers"
    return f"a range within {limits[0]:g} to {limits[1]:g}"


def _wrong(value: Any, where: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-RANGE", file=where, found=repr(value), expected=expected, fix="correct the range")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
