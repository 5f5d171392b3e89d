"""Where the dens is: by its own class, or by the shape of a body that has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.numbering.column import Column

_CORPUS = 10
# C2 with its dens is 38 mm high (36 to 40), C3 below it 14; both are 15 mm deep. A dens is less than half as large in
# section as the body that carries it.
_MIN_HEIGHT_MM = 26.0
_MIN_OVER_DEPTH, _MIN_OVER_NEXT = 1.5, 1.5
_MAX_SECTION = 0.55
_BIN_MM = 2.0
# C1 may have a position of its own above C2.
_CANDIDATES = 2


@dataclass(frozen=True)
class ShapedDens:
    """The row of a column whose body has the shape of C2, and what was measured."""

    row: int
    saw: str


def dens_by_label(column: Column, instances: Volume, dens: Array) -> tuple[int, float]:
    """Return the row with most voxels of the class dens, and their volume in mm³; (0, 0.0) for an empty class."""
    ids = instances.array[dens]
    counts = np.bincount(ids, minlength=int(max(column.ids, default=0)) + 1)[list(column.ids)]
    if not counts.any():
        return 0, 0.0
    row = int(counts.argmax())
    return row, float(counts[row]) * instances.voxel_volume


def dens_by_shape(column: Column, instances: Volume, classes: Array) -> ShapedDens | None:
    """Look for C2 among the two uppermost vertebrae: a body twice as high as deep, thin in its upper part."""
    for row in range(min(_CANDIDATES, len(column))):
        if not np.isfinite(column.body[row]).all():
            continue
        voxels = np.argwhere((instances.array == column.ids[row]) & (classes == _CORPUS))
        along = instances.world(voxels) @ column.down[row]
        counts = np.bincount(((along - along.min()) / _BIN_MM).astype(int))
        area = counts * instances.voxel_volume / _BIN_MM
        solid = np.flatnonzero(area > 0.1 * area.max())
        height = (solid[-1] - solid[0] + 1) * _BIN_MM
        used = area[solid[0] : solid[-1] + 1]
        upper, lower = used[: max(1, len(used) // 3)].mean(), used[len(used) // 2 :].mean()
        below = column.height[row + 1] if row + 1 < len(column) else np.nan
        depth = np.sqrt(lower)
        tall = height >= _MIN_HEIGHT_MM and height >= _MIN_OVER_DEPTH * depth
        if tall and upper <= _MAX_SECTION * lower and not height < _MIN_OVER_NEXT * below:
            return ShapedDens(
                row, f"a body {height:.0f} mm high, its upper third {upper / lower:.0%} as large in section"
            )
    return None
