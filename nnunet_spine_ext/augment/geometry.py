"""What geometric transforms have in common: axes, the plane that very anisotropic patches stay in, matrices in mm.

Matrices are (D+1, D+1), homogeneous, in mm about the centre of the patch, in the order of the array axes. They say
where the content goes: a scaling by 2 makes it twice as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.transform import Transform
from nnunet_spine_ext.core.errors import UsageError

Array = NDArray[np.float64]
Axes = Literal["all"] | tuple[int, ...]

ANISOTROPY = 3.0
"""A patch is cut into slices if one axis is so many times coarser, or shorter, than another (nnU-Net's threshold)."""
_SAME_SPACING = 0.1


@dataclass(frozen=True, kw_only=True)
class Geometric(Transform):
    """Base of the transforms of the warp; all channels move together.

    `axes`: array axes that it acts on.
    """

    axes: Axes = "all"

    def __post_init__(self) -> None:
        """Refuse channels: geometry is common to all."""
        super().__post_init__()
        if self.channels != "all" or self.per_channel:
            raise UsageError(
                "E-CONFIG-VALUE",
                file=self.name,
                found="channels or per_channel",
                expected="a geometric transform acts on all channels alike",
                fix="leave them out",
            )

    def chosen(self, context: Context) -> tuple[int, ...]:
        """Return the axes as numbers.

        Raises
        ------
        UsageError: an axis that the patch does not have.
        """
        if self.axes == "all":
            return tuple(range(context.dim))
        if any(not 0 <= axis < context.dim for axis in self.axes):
            raise UsageError(
                "E-AUG-CONTEXT",
                file=self.name,
                found=f"axes {list(self.axes)}",
                expected=f"array axes from 0 to {context.dim - 1}",
                fix="correct axes",
            )
        return tuple(sorted(set(self.axes)))


@dataclass(frozen=True, kw_only=True)
class Resampling(Geometric):
    """Base of those that interpolate.

    `in_plane`: "auto" leaves an axis alone that is so coarse or so short that resampling along it would do harm (dummy
    2-D); "never" resamples along all axes, "always" never along the coarsest.
    """

    in_plane: Literal["auto", "always", "never"] = "auto"

    def locked(self, context: Context) -> tuple[int, ...]:
        """Return the axes along which nothing may be resampled."""
        return locked_axes(context, self.in_plane)


def locked_axes(context: Context, in_plane: str = "auto") -> tuple[int, ...]:
    """Return the through-plane axes: single slices always, then what `in_plane` says; at least two axes stay free."""
    single = tuple(axis for axis, n in enumerate(context.shape) if n == 1)
    if context.dim == 2 or single or in_plane == "never":
        return single
    coarsest = max(range(3), key=lambda axis: (context.spacing[axis], -context.shape[axis]))
    shortest = min(range(3), key=lambda axis: (context.shape[axis], -context.spacing[axis]))
    if in_plane == "always" or context.spacing[coarsest] > ANISOTROPY * min(context.spacing):
        return (coarsest,)
    return (shortest,) if max(context.shape) > ANISOTROPY * context.shape[shortest] else ()


def square_planes(context: Context, axes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs of axes that may be exchanged: as many voxels, of the same size up to 10 %.

    Not with the left-right axis if labels have sides: side would not be defined any more.
    """
    barred = {context.left_right_axis} if context.sided_pairs else set()
    free = [axis for axis in axes if axis not in barred and context.shape[axis] > 1]
    return [
        (a, b)
        for position, a in enumerate(free)
        for b in free[position + 1 :]
        if context.shape[a] == context.shape[b]
        and abs(math.log(context.spacing[a] / context.spacing[b])) < _SAME_SPACING
    ]


def homogeneous(linear: Array, shift: Sequence[float] | None = None) -> Array:
    """Return a matrix with an optional shift in mm as (D+1, D+1)."""
    dim = len(linear)
    result = np.eye(dim + 1)
    result[:dim, :dim] = linear
    if shift is not None:
        result[:dim, dim] = shift
    return result


def rotation(degrees: Sequence[float]) -> Array:
    """Return the rotation about axis 0, then 1, then 2 by three angles, or in 2-D by the only one.

    Positive angles turn axis k+1 towards axis k+2 (cyclic), in 2-D axis 0 towards axis 1.
    """
    if len(degrees) == 1:
        return homogeneous(_turn(2, 0, 1, degrees[0]))
    result = np.eye(3)
    for axis, angle in enumerate(degrees):
        result = _turn(3, (axis + 1) % 3, (axis + 2) % 3, angle) @ result
    return homogeneous(result)


def exchange(context: Context, plane: Sequence[int], turns: int | None) -> Array:
    """Return a rotation by `turns` quarter turns in a plane, or its transposition (None), of the index grid.

    Quarter turns map the index grid onto itself; in mm that is a rotation if voxels are square in the plane.
    """
    a, b = plane
    linear = np.eye(context.dim)
    if turns is None:
        linear[[a, b]] = linear[[b, a]]
    else:
        quarter = np.eye(context.dim)
        quarter[a, a] = quarter[b, b] = 0
        quarter[b, a], quarter[a, b] = 1, -1
        linear = np.linalg.matrix_power(quarter, turns % 4)
    spacing = np.asarray(context.spacing)
    return homogeneous(spacing[:, None] * linear / spacing)


def _turn(dim: int, first: int, second: int, degrees: float) -> Array:
    result = np.eye(dim)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result[first, first] = result[second, second] = cosine
    result[second, first], result[first, second] = sine, -sine
    return result
