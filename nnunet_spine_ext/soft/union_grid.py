"""The common grid of several scans of one subject: perpendicular axes, reaching as far as any of them.

Frame millimetres (x to the right, y to the front, z up) are measured along the axes of the reference from its first
voxel in RAS order. A lattice point has integer coordinates times the reference's voxel sizes, so the reference's own
voxel centres are lattice points, and the lattice goes on where the reference ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume


@dataclass(frozen=True)
class Frame:
    """Perpendicular axes in the body.

    Parameters
    ----------
    axes: (3, 3), columns are unit vectors (RAS+) along x, y and z.
    origin: (3,) RAS+ mm of the point 0.
    spacing: mm between lattice points along x, y and z.
    """

    axes: Array
    origin: Array
    spacing: Array

    @classmethod
    def of(cls, volume: Volume) -> Frame:
        """Return the frame of a volume; axes that are not perpendicular are replaced by the nearest ones that are."""
        ras = volume.to("RAS")
        spacing = np.asarray(ras.spacing)
        left, _, right = np.linalg.svd(ras.affine[:3, :3] / spacing)
        return cls(left @ right, ras.affine[:3, 3].copy(), spacing)

    def of_index(self, affine: Array) -> tuple[Array, Array]:
        """Return (3, 3) and (3,) that map indices under an affine to frame millimetres."""
        return self.axes.T @ affine[:3, :3], self.axes.T @ (affine[:3, 3] - self.origin)

    def to_index(self, affine: Array) -> tuple[Array, Array]:
        """Return (3, 3) and (3,) that map frame millimetres to indices under an affine."""
        matrix, offset = self.of_index(affine)
        inverse = np.linalg.inv(matrix)
        return inverse, -inverse @ offset

    def volume(self, array: Array, box: Box) -> Volume:
        """Return an array on the lattice points of a box as a volume."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes * self.spacing
        affine[:3, 3] = self.origin + self.axes @ (np.asarray(box.low) * self.spacing)
        return Volume(array, affine)


@dataclass(frozen=True)
class Box:
    """Lattice points from `low` to `high`, both inclusive."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of lattice points along x, y and z."""
        counts = [high - low + 1 for low, high in zip(self.low, self.high, strict=True)]
        return counts[0], counts[1], counts[2]

    def along(self, axis: int, frame: Frame) -> Array:
        """Frame millimetres of the lattice points along an axis."""
        return np.arange(self.low[axis], self.high[axis] + 1) * frame.spacing[axis]

    def with_levels(self, low: int, high: int) -> Box:
        """Return the box with another range along z."""
        return Box((self.low[0], self.low[1], low), (self.high[0], self.high[1], high))


def box_around(points: Array, frame: Frame, margin_mm: float = 0.0) -> Box:
    """Return the lattice points around frame points (n, 3), with a margin in x and y."""
    margin = np.array([margin_mm, margin_mm, 0.0])
    low = np.floor((points.min(axis=0) - margin) / frame.spacing).astype(int)
    high = np.ceil((points.max(axis=0) + margin) / frame.spacing).astype(int)
    # Levels whose centres are within; a thousandth of a voxel, so that rounding loses none.
    low[2] = np.ceil(points[:, 2].min() / frame.spacing[2] - 1e-3)
    high[2] = max(low[2], np.floor(points[:, 2].max() / frame.spacing[2] + 1e-3))
    return Box((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))


def union(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all boxes."""
    low = np.min([box.low for box in boxes], axis=0)
    high = np.max([box.high for box in boxes], axis=0)
    return Box((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))


def corners(low: Sequence[float], high: Sequence[float]) -> Array:
    """Return the 8 corners (8, 3) of a box of indices."""
    return np.array(list(itertools.product(*zip(low, high, strict=True))), dtype=np.float64)


def repeats(coarse: Sequence[float], step: Array) -> tuple[int, int, int]:
    """Return into how many parts a voxel of one grid is cut to see all voxels of another, per axis.

    Parameters
    ----------
    coarse: voxel sizes (mm) of the grid whose voxels are filled.
    step: (3, 3), displacement in mm per index of the grid that is read, one column per axis.
    """
    sizes = np.linalg.norm(step, axis=0)
    directions = step / sizes
    found = []
    for axis, size in enumerate(coarse):
        # The axis that is read is the one most parallel to this one.
        finest = sizes[int(np.abs(directions[axis]).argmax())]
        found.append(max(1, round(float(size / finest))))
    return found[0], found[1], found[2]


def parts(counts: Sequence[int]) -> Iterator[tuple[float, float, float]]:
    """Yield the centres of the equal parts of a voxel as offsets from its centre, in voxels."""
    for cut in itertools.product(*[[(k + 0.5) / n - 0.5 for k in range(n)] for n in counts]):
        yield cut[0], cut[1], cut[2]
