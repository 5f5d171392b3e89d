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
    `strength`: 1 as configured, 0 without effect; a schedule sets it.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    source_shape: tuple[int, ...] | None = None
    channels: int = 1
    labels: tuple[int, ...] = (0,)
    sided_pairs: tuple[tuple[int, int], ...] = ()
    left_right_axis: int | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Bring everything to plain tuples and refuse what cannot be meant."""
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        source = self.shape if self.source_shape is None else tuple(int(n) for n in self.source_shape)
        object.__setattr__(self, "source_shape", source)
        object.__setattr__(self, "labels", tuple(sorted({0, *map(int, self.labels)})))
        object.__setattr__(self, "sided_pairs", tuple((int(a), int(b)) for a, b in self.sided_pairs))
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
        }


def _refuse(found: str, expected: str) -> UsageError:
    return UsageError(
        "E-AUG-CONTEXT", file="augmentation", found=found, expected=expected, fix="correct what describes the patches"
    )
