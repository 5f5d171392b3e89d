"""From the union back to the grid of one scan: every voxel exactly where the scan has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from nnunet_spine_ext.core.soft_labels import IGNORE
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.soft.motion import Motion
from nnunet_spine_ext.soft.union_grid import Box, Frame, parts, repeats

# Values that interpolation left next to 0, 1 or one another: equal content gives equal bytes, and small files.
_DECIMALS = 5
# A voxel is labelled when at least half of it lies in slices that enough scans share.
_HALF = 0.5


@dataclass(frozen=True)
class Union:
    """The average on the lattice.

    Parameters
    ----------
    frame, box: where it lies.
    soft: (x, y, z) float32, 0 to 1.
    valid: (x, y, z) bool, where enough scans say something.
    """

    frame: Frame
    box: Box
    soft: Array
    valid: Array

    def volume(self) -> Volume:
        """Return the average as a volume, -1 where it is not valid."""
        return self.frame.volume(np.where(self.valid, self.soft, np.float32(IGNORE)).astype(np.float32), self.box)


def to_native(union: Union, grid: Volume, motion: Motion) -> Volume:
    """Carry the average to the grid of a scan, with the inverse of its motion.

    Linear interpolation among valid lattice points only; voxels larger than the lattice's are averages over their
    parts. Beside the lattice is background; above and below it, and wherever less than half of a voxel is valid, the
    result is -1.

    Returns float32 in 0..1 and -1, with exactly the shape, affine and axis order of `grid`.
    """
    ras = grid.to("RAS")
    matrix, offset = union.frame.of_index(ras.affine)
    # The lattice's steps along the scan's own axes: lengths are its voxel sizes, directions say which is which.
    steps = (np.linalg.inv(matrix) * np.asarray(ras.spacing)[:, None]) * union.frame.spacing
    cuts = repeats(ras.spacing, steps)
    reader = _Reader(union)
    result = np.empty(ras.shape, dtype=np.float32)
    for k in range(ras.shape[2]):
        total, weight, valid = (np.zeros(ras.shape[:2], dtype=np.float64) for _ in range(3))
        count = 0
        for part in parts(cuts):
            i = np.arange(ras.shape[0], dtype=np.float64)[:, None] + part[0]
            j = np.arange(ras.shape[1], dtype=np.float64)[None, :] + part[1]
            level = k + part[2]
            x, y, z = (a * i + b * j + (c * level + add) for (a, b, c), add in zip(matrix, offset, strict=True))
            reader.add(x, y, z, motion, total, weight, valid)
            count += 1
        soft = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        result[:, :, k] = np.where(valid >= _HALF * count, np.clip(soft, 0.0, 1.0), IGNORE)
    return ras.with_array(np.round(result, _DECIMALS)).to_grid_of(grid)


class _Reader:
    """Reads the lattice at places of a scan, and adds up what it finds."""

    def __init__(self, union: Union) -> None:
        self._spacing, self._low, self._shape = union.frame.spacing, union.box.low, union.box.shape
        self._valid = union.valid
        self._weight = union.valid.astype(np.float32)
        self._weighted = (union.soft * union.valid).astype(np.float32)
        # In upright scans a whole slice is valid or is not.
        self._whole: Array = np.all(union.valid, axis=(0, 1))
        self._none: Array = ~np.any(union.valid, axis=(0, 1))

    def add(self, x: Array, y: Array, z: Array, motion: Motion, total: Array, weight: Array, valid: Array) -> None:
        """Add value times weight, weight and validity at places (frame mm, broadcast to one slice of the scan)."""
        if np.ptp(z) < 1e-6 * self._spacing[2]:
            z = z.ravel()[:1]
        levels = z / self._spacing[2] - self._low[2]
        nearest = np.floor(levels + 0.5).astype(np.intp)
        inside = (nearest >= 0) & (nearest < self._shape[2])
        nearest = np.clip(nearest, 0, self._shape[2] - 1)
        if not (inside & ~self._none[nearest]).any():
            return
        x, y = motion.to_union(x, y, z)
        column, row = x / self._spacing[0] - self._low[0], y / self._spacing[1] - self._low[1]
        if (self._whole | self._none)[nearest].all():
            here = np.broadcast_to(inside & self._whole[nearest], column.shape)
        else:
            # Beside the lattice its edge goes on.
            at = [
                np.clip(np.floor(place + 0.5), 0, size - 1).astype(np.intp)
                for place, size in ((column, self._shape[0]), (row, self._shape[1]))
            ]
            here = inside & self._valid[at[0], at[1], np.broadcast_to(nearest, column.shape)]
        valid += here
        near = here & (column > -1) & (column < self._shape[0]) & (row > -1) & (row < self._shape[1])
        if not near.any():
            return
        height = np.broadcast_to(np.clip(levels, 0, self._shape[2] - 1), column.shape)
        place = np.stack([column[near], row[near], height[near]])
        total[near] += map_coordinates(self._weighted, place, order=1, mode="grid-constant", cval=0.0)
        weight[near] += map_coordinates(self._weight, place, order=1, mode="nearest")
