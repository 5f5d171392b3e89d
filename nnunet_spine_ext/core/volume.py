"""A 3-D array that never travels without its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Two grids are one grid when no corner is farther apart than this: headers are stored in single precision.
GRID_TOLERANCE_MM = 1e-3
_AXIS_LETTERS = ("LR", "PA", "IS")


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D array with the affine that places it in the body.

    Parameters
    ----------
    array: shape (i, j, k) as stored in NIfTI (nibabel's order), any dtype.
    affine: (4, 4) float64, maps (i, j, k, 1) to millimetres in RAS+ (x to the right of the patient, y to
        the front, z up), whatever the file format.

    Raises
    ------
    ValueError: the array is not 3-D or the affine is not a finite, invertible 4x4 matrix.
    """

    array: Array
    affine: Array

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        object.__setattr__(self, "affine", affine)
        if self.array.ndim != 3:
            msg = f"a Volume needs a 3-D array, got shape {self.array.shape}"
            raise ValueError(msg)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            msg = f"a Volume needs a finite, invertible 4x4 affine, got {affine.tolist()}"
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (i, j, k)."""
        return self.array.shape  # type: ignore[return-value]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres along (i, j, k)."""
        sizes = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(sizes[0]), float(sizes[1]), float(sizes[2])

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Anatomical direction towards which each array axis grows, for example ``"PIR"``."""
        axes, signs = _axes_of(self.affine)
        return "".join(_AXIS_LETTERS[axis][int(sign > 0)] for axis, sign in zip(axes, signs, strict=True))

    def with_array(self, array: Array) -> Volume:
        """Return another array on the same grid; raises ValueError if its shape differs."""
        if array.shape != self.array.shape:
            msg = f"array of shape {array.shape} does not fit the grid {self.array.shape}"
            raise ValueError(msg)
        return Volume(array, self.affine)

    def world(self, index: Array | Sequence[float]) -> Array:
        """Map voxel indices (..., 3) to RAS+ millimetres (..., 3)."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, world: Array | Sequence[float]) -> Array:
        """Map RAS+ millimetres (..., 3) to fractional voxel indices (..., 3)."""
        points = np.asarray(world, dtype=np.float64) - self.affine[:3, 3]
        return points @ np.linalg.inv(self.affine[:3, :3]).T

    def corner_error(self, other: Volume) -> float:
        """Largest distance in millimetres between equal corners of both grids; infinite if the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1).reshape(-1, 3)
        return float(np.linalg.norm(self.world(corners) - other.world(corners), axis=1).max())

    def same_grid(self, other: Volume, tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Whether both volumes have the same shape and no corner differs by more than the tolerance."""
        return self.corner_error(other) <= tolerance_mm

    def to(self, orientation: str) -> Volume:
        """Permute and flip the axes (no interpolation) until they grow towards the given directions.

        Oblique volumes keep their obliquity: the closest anatomical direction names an axis.
        """
        turned = self.turned(orientation)
        return Volume(np.ascontiguousarray(turned.array), turned.affine)

    def turned(self, orientation: str) -> Volume:
        """Return what `to` returns without copying: the array is a view, writing into it writes into this volume."""
        source_axes, source_signs = _axes_of(self.affine)
        target_axes, target_signs = _parse(orientation)
        order = [source_axes.index(axis) for axis in target_axes]
        flips = [source_signs[k] != sign for k, sign in zip(order, target_signs, strict=True)]
        array = self.array.transpose(order)
        affine = self.affine[:, [*order, 3]].copy()
        for axis, flip in enumerate(flips):
            if flip:
                array = np.flip(array, axis)
                affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
                affine[:3, axis] *= -1
        return Volume(array, affine)

    def to_grid_of(self, original: Volume) -> Volume:
        """Undo `original.to(...)`: return this array on the grid of `original`, with exactly its affine.

        Raises ValueError if the two are not axis permutations and flips of one grid.
        """
        back = self.to_affine(original.affine)
        if back.shape != original.shape:
            msg = f"grid {self.shape} {self.orientation} is no reorientation of {original.shape} {original.orientation}"
            raise ValueError(msg)
        return back

    def to_affine(self, affine: Array) -> Volume:
        """Permute and flip the axes until this grid has exactly the given affine, whatever its axes are called.

        At an obliquity of 45 degrees the names of axes depend on their order, so names cannot undo `to`.

        Raises ValueError if no permutation and flips of this grid have that affine.
        """
        step = np.linalg.inv(self.affine[:3, :3]) @ affine[:3, :3]
        order = [int(axis) for axis in np.abs(step).argmax(axis=0)]
        array = self.array
        if sorted(order) == [0, 1, 2]:
            flips = tuple(k for k in range(3) if step[order[k], k] < 0)
            array = np.ascontiguousarray(np.flip(self.array.transpose(order), flips))
            # Index of this grid where the first voxel of the other one lies.
            corner = np.zeros(3)
            corner[[order[k] for k in flips]] = [array.shape[k] - 1 for k in flips]
            moved = np.eye(4)
            moved[:3, :3] = np.eye(3)[:, order] * [-1 if k in flips else 1 for k in range(3)]
            moved[:3, 3] = corner
            if Volume(array, self.affine @ moved).same_grid(Volume(array, affine)):
                return Volume(array, affine)
        msg = f"grid {self.shape} {self.orientation} is no reorientation of affine {np.asarray(affine).tolist()}"
        raise ValueError(msg)

    def crop(self, slices: tuple[slice, slice, slice]) -> Volume:
        """Cut a box out and move the origin with it; raises ValueError for steps other than 1 and empty boxes."""
        ranges = [s.indices(n) for s, n in zip(slices, self.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in ranges):
            msg = f"cannot crop {slices} out of a volume of shape {self.shape}: empty, or a step other than 1"
            raise ValueError(msg)
        starts = [start for start, _, _ in ranges]
        affine = self.affine.copy()
        affine[:3, 3] = self.world(starts)
        return Volume(self.array[slices], affine)

    def resample_like(self, grid: Volume, order: int = 1, cval: float = 0.0) -> Volume:
        """Interpolate onto the grid of another volume (order 0: nearest, for labels; 1: linear; 3: cubic).

        `cval` surrounds this volume: order 0 gives it beyond half a voxel outside the outermost centres, higher
        orders fade into it over one voxel. Labels keep their type; higher orders return float32.
        """
        # scipy's "constant" takes the outermost centres for outside when rounding puts them 1e-15 beyond the border.
        return _interpolate(self, grid, order, mode="grid-constant", cval=cval)

    def resample(self, spacing: Sequence[float], order: int = 1) -> Volume:
        """Interpolate to another voxel size (mm) over the same extent; voxel centres stay inside it.

        The number of voxels is rounded, so the voxel size that results may differ a little from the one asked for.
        Raises ValueError if the spacing is not three positive numbers.
        """
        old, new = np.asarray(self.spacing), np.asarray(spacing, dtype=np.float64)
        if new.shape != (3,) or not np.isfinite(new).all() or (new <= 0).any():
            msg = f"a spacing is three positive numbers of millimetres, got {spacing}"
            raise ValueError(msg)
        shape = np.maximum(1, np.round(np.asarray(self.shape) * old / new)).astype(int)
        scale = np.asarray(self.shape) / shape
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * scale
        affine[:3, 3] = self.world((scale - 1) / 2)
        empty = np.broadcast_to(np.zeros((), dtype=self.array.dtype), tuple(shape))
        # The extent is the same, so what lies beyond the outermost centres is the outermost half voxel.
        return _interpolate(self, Volume(empty, affine), order, mode="nearest")


def _interpolate(volume: Volume, grid: Volume, order: int, *, mode: str, cval: float = 0.0) -> Volume:
    from scipy.ndimage import affine_transform

    step = np.linalg.inv(volume.affine) @ grid.affine
    source = volume.array if order == 0 else volume.array.astype(np.float32, copy=False)
    array = affine_transform(
        source, step[:3, :3], offset=step[:3, 3], output_shape=grid.shape, order=order, mode=mode, cval=cval
    )
    return Volume(array, grid.affine)


def _axes_of(affine: Array) -> tuple[list[int], list[int]]:
    """World axis (0 x, 1 y, 2 z) and sign of each array axis, each world axis used once.

    This is nibabel's rule, on purpose: nnU-Net's reorienting reader uses it, so an oblique volume is turned the same
    way here and on its way to the network.
    """
    from nibabel.orientations import io_orientation

    pairs = io_orientation(affine)
    return [int(axis) for axis in pairs[:, 0]], [int(sign) for sign in pairs[:, 1]]


def _parse(orientation: str) -> tuple[list[int], list[int]]:
    axes, signs = [], []
    for letter in orientation.upper():
        for axis, pair in enumerate(_AXIS_LETTERS):
            if letter in pair:
                axes.append(axis)
                signs.append(1 if letter == pair[1] else -1)
    if sorted(axes) != [0, 1, 2]:
        msg = f"orientation {orientation!r} must name each of L/R, P/A and I/S once, for example 'RAS' or 'PIR'"
        raise ValueError(msg)
    return axes, signs
