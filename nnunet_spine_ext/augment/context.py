"""What a transform may know about the samples it is drawn for: grid, spacing, channels, labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from nnunet_spine_ext.core.errors import UsageError


@dataclass(frozen=True)
class Context:
    """The common facts of all samples of a pipeline.

    `shape`: (Z, Y, X) or (Y, X) of the result. `spacing`: mm per array axis. `source_shape`: what the worker delivers
    before the warp, at least `shape`; None: the same. `channels`: of the image. `labels`: ids that occur, 0 among
    them. `sided_pairs`: left and right ids that a flip of `left_right_axis` (an array axis of `shape`) exchanges.
    `tissues`: (label id, class of `augment.tissues`) of the labels whose tissue is known; None: nobody has looked.
    `strength`: 1 as configured, 0 without effect; a schedule sets it.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    source_shape: tuple[int, ...] | None = None
    channels: int = 1
    labels: tuple[int, ...] = (0,)
    sided_pairs: tuple[tuple[int, int], ...] = ()
    left_right_axis: int | None = None
    tissues: tuple[tuple[int, str], ...] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Bring everything to plain tuples and refuse what cannot be meant."""
        shape = _whole(self.shape, "a shape")
        source = shape if self.source_shape is None else _whole(self.source_shape, "a source shape")
        pairs = _items(self.sided_pairs, "left and right labels")
        for name, value in (
            ("shape", shape),
            ("spacing", _numbers(self.spacing, "a spacing")),
            ("source_shape", source),
            ("channels", _whole([self.channels], "channels")[0]),
            ("labels", tuple(sorted({0, *_whole(self.labels, "labels")}))),
            ("sided_pairs", tuple(_whole(pair, "a pair of left and right labels") for pair in pairs)),
        ):
            object.__setattr__(self, name, value)
        if self.left_right_axis is not None:
            object.__setattr__(self, "left_right_axis", _whole([self.left_right_axis], "a left-right axis")[0])
        if self.tissues is not None:
            known = tuple((int(label), str(name)) for label, name in _items(self.tissues, "tissues"))
            object.__setattr__(self, "tissues", known)
        self._check(source)

    def _check(self, source: tuple[int, ...]) -> None:
        dim = len(self.shape)
        if dim not in (2, 3) or min(self.shape) < 1:
            raise _refuse(f"a shape of {self.shape}", "(Z, Y, X) or (Y, X), each at least 1")
        if len(self.spacing) != dim or not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise _refuse(f"a spacing of {self.spacing} mm", f"{dim} positive lengths, one per axis of the shape")
        if len(source) != dim or any(a < b for a, b in zip(source, self.shape, strict=True)):
            raise _refuse(f"a source shape of {source}", f"at least {self.shape} on every axis")
        if self.channels < 1:
            raise _refuse(f"{self.channels} channels", "at least 1")
        if self.labels[0] < 0:
            raise _refuse(f"label {self.labels[0]}", "labels from 0 (-1 is outside)")
        if self.left_right_axis is not None and not 0 <= self.left_right_axis < dim:
            raise _refuse(f"left-right axis {self.left_right_axis}", f"an array axis from 0 to {dim - 1}")
        sides = [label for pair in self.sided_pairs for label in pair]
        if any(len(pair) != 2 for pair in self.sided_pairs) or len(set(sides)) < len(sides):
            found = f"left and right labels {list(self.sided_pairs)}"
            raise _refuse(found, "pairs of two ids, each id in one of them")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise _refuse(f"a strength of {self.strength}", "0 or more")

    @property
    def dim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Size of the result in mm per axis."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def source(self) -> tuple[int, ...]:
        """Shape before the warp; never None."""
        return self.shape if self.source_shape is None else self.source_shape

    @property
    def foreground(self) -> tuple[int, ...]:
        """The labels without 0."""
        return self.labels[1:]

    def rows(self, labels: Iterable[int]) -> list[int]:
        """Return the positions of label ids in `labels`; ids that do not occur are left out."""
        position = {label: row for row, label in enumerate(self.labels)}
        return [position[label] for label in labels if label in position]

    def at_strength(self, strength: float) -> Context:
        """Return the same facts with another strength."""
        return self if strength == self.strength else replace(self, strength=strength)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "source_shape": list(self.source),
            "channels": self.channels,
            "labels": list(self.labels),
            "sided_pairs": [list(pair) for pair in self.sided_pairs],
            "left_right_axis": self.left_right_axis,
            # Left out where nobody has looked: records from before there were any stay as they are.
            **({} if self.tissues is None else {"tissues": [list(pair) for pair in self.tissues]}),
        }


def _items(values: Any, what: str) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise _refuse(f"{what}: {values!r}", "a list")
    try:
        return tuple(values)
    except TypeError as error:
        raise _refuse(f"{what}: {values!r}", "a list") from error


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in _items(values, what))
    except (TypeError, ValueError) as error:
        raise _refuse(f"{what}: {values!r}", "numbers") from error


def _whole(values: Any, what: str) -> tuple[int, ...]:
    numbers = _numbers(values, what)
    if not all(number.is_integer() for number in numbers):
        raise _refuse(f"{what}: {values!r}", "whole numbers")
    return tuple(int(number) for number in numbers)


def _refuse(found: str, expected: str) -> UsageError:
    return UsageError(
        "E-AUG-CONTEXT", file="augmentation", found=found, expected=expected, fix="correct what describes the patches"
    )
