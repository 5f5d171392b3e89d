"""What transforms of the acquisition have in common: which axis is the slice direction, lengths in mm or in voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range
from nnunet_spine_ext.augment.transform import Transform
from nnunet_spine_ext.core.errors import UsageError

T = TypeVar("T")

_COARSER = 1.25


@dataclass(frozen=True, kw_only=True)
class Acquired(Transform):
    """Base of the stages `axis` and `kspace`.

    `slice_axis`: the array axis along which slices are stacked. "auto": the coarsest, if it is a quarter coarser than
    the others, or one that has a single voxel; else any, drawn per sample; images in 2-D are slices themselves and
    have none. "random": any axis, also in 2-D.
    """

    slice_axis: Literal["auto", "random"] | int = "auto"

    def through_plane_axis(self, rng: np.random.Generator, context: Context) -> int | None:
        """Return the slice axis of a sample; draws once in any case.

        Raises
        ------
        UsageError: an axis that the patch does not have.
        """
        drawn = int(rng.integers(context.dim))
        if isinstance(self.slice_axis, int):
            if not 0 <= self.slice_axis < context.dim:
                raise UsageError(
                    "E-AUG-CONTEXT",
                    file=self.name,
                    found=f"slice_axis {self.slice_axis}",
                    expected=f"an array axis from 0 to {context.dim - 1}",
                    fix="correct slice_axis",
                )
            return self.slice_axis
        if self.slice_axis == "random":
            return drawn
        if context.dim == 2:
            return None
        single = [axis for axis, size in enumerate(context.shape) if size == 1]
        if single:
            return single[0]
        coarsest, second = sorted(range(3), key=lambda axis: -context.spacing[axis])[:2]
        return coarsest if context.spacing[coarsest] >= _COARSER * context.spacing[second] else drawn


@dataclass(frozen=True, kw_only=True)
class Measured(Acquired):
    """Base of those with lengths: `unit` "mm", or "voxel" for multiples of the voxel of each axis."""

    unit: Literal["mm", "voxel"] = "mm"

    def length(
        self, rng: np.random.Generator, field: str, spacing: float, context: Context, neutral: float = 1
    ) -> float:
        """Draw a length in mm; `neutral`: the one without effect, in voxels."""
        scale = spacing if self.unit == "voxel" else 1.0
        drawn = cast("Range", getattr(self, field))
        return scale * drawn.scaled(rng, neutral * spacing / scale, context.strength)


def in_plane(context: Context, slice_axis: int | None) -> list[int]:
    """Return the axes other than the slice axis."""
    return [axis for axis in range(context.dim) if axis != slice_axis]


def pick_one(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of several settings, each equally likely."""
    return options[int(rng.integers(len(options)))]


def require_some(name: str, field: str, options: Sequence[object]) -> None:
    """Refuse an empty list of settings.

    Raises
    ------
    UsageError: nothing to choose from.
    """
    if not options:
        raise UsageError(
            "E-CONFIG-VALUE", file=f"{name}: {field}", found="an empty list", expected="at least one", fix="name one"
        )
