"""One scan's mask as the averaging sees it: values anywhere in the body, and where the mask says anything at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import map_coordinates

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.soft.motion import Motion
from nnunet_spine_ext.soft.union_grid import Box, Frame, box_around, corners, parts, repeats

Extent = Literal["seg", "fov"]

# A slice whose edge falls on the edge of the extent, up to rounding, is inside.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Span:
    """Which slices of a mask count, along its own axis from the feet to the head.

    Parameters
    ----------
    first, last: the outermost slices with the structure.
    low, high: the part that counts, in slices (a slice reaches from its number - 0.5 to + 0.5).
    counts: (n,) bool, false for slices within that are empty although their neighbours are not.
    """

    first: int
    last: int
    low: float
    high: float
    counts: Array

    def holds(self, level: Array) -> Array:
        """Whether places along the axis, in slices, are inside."""
        nearest = np.clip(np.floor(level + 0.5), 0, len(self.counts) - 1).astype(np.intp)
        return (level >= self.low - _ROUNDING) & (level <= self.high + _ROUNDING) & self.counts[nearest]


def span_of(array: Array, spacing: float, *, name: str, extent: Extent, trim_mm: float) -> Span:
    """Return which slices of a mask (RAS order) count.

    Parameters
    ----------
    spacing: mm between slices.
    extent: ``seg``: from the first to the last slice that is not empty; ``fov``: all slices, empty ones too.
    trim_mm: this much is left out at both ends, because outermost slices are often drawn in part.

    Raises
    ------
    CaseError: an empty mask, or nothing is left after trimming.
    """
    occupied: Array = np.any(array, axis=(0, 1))
    if not occupied.any():
        raise CaseError(
            "E-SOFT-EMPTY",
            file=name,
            found="an empty mask",
            expected="the structure in at least one slice",
            fix="leave this mask out",
        )
    first, last = (int(k) for k in np.flatnonzero(occupied)[[0, -1]])
    whole = extent == "fov"
    low, high = (-0.5, len(occupied) - 0.5) if whole else (first - 0.5, last + 0.5)
    low, high = low + trim_mm / spacing, high - trim_mm / spacing
    if high - low < 1e-3:
        raise CaseError(
            "E-SOFT-TRIM",
            file=name,
            found=f"nothing left of {(last - first + 1) * spacing:.4g} mm after trimming {trim_mm:g} mm at both ends",
            expected="some slices",
            fix="trim less (--trim-mm)",
        )
    return Span(first, last, low, high, np.ones_like(occupied) if whole else occupied)


class Scan:
    """A mask that can be read anywhere.

    Parameters
    ----------
    name: of the contrast.
    mask: values 0 to 1 on the scan's own grid, any orientation.
    extent, trim_mm: see `span_of`.

    Raises
    ------
    CaseError: see `span_of`.
    """

    def __init__(self, name: str, mask: Volume, *, extent: Extent = "seg", trim_mm: float = 0.0) -> None:
        self.name = name
        self.mask = mask
        self.ras = mask.to("RAS")
        array = np.asarray(self.ras.array, dtype=np.float32)
        self.span = span_of(array, self.ras.spacing[2], name=name, extent=extent, trim_mm=trim_mm)
        rows, columns = np.flatnonzero(np.any(array, axis=(1, 2))), np.flatnonzero(np.any(array, axis=(0, 2)))
        self._low = (int(rows[0]), int(columns[0]))
        self._high = (int(rows[-1]), int(columns[-1]))
        cut: Array = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Beside an empty slice the nearest drawn one goes on: fading into nothing would be a thinner cord.
        self._values = cut if extent == "fov" else cut[:, :, _nearest(np.any(array, axis=(0, 1)))]
        self._ends = (0, array.shape[2] - 1) if extent == "fov" else (self.span.first, self.span.last)

    def box(self, frame: Frame, margin_mm: float) -> Box:
        """Return the lattice box around the part that counts."""
        matrix, offset = frame.of_index(self.ras.affine)
        points = corners((*self._low, self.span.low), (*self._high, self.span.high)) @ matrix.T + offset
        return box_around(points, frame, margin_mm)

    def read(self, frame: Frame, box: Box, motion: Motion | None = None) -> tuple[Array, Array, Array]:
        """Read the mask at the lattice points of a box, linearly; finer voxels than the lattice's are averaged.

        Returns, each (x, y, z) float32: values 0 to 1, also in slices that do not count (the outermost goes on there);
        which share of the point's surroundings lies in slices that count; which share lies in the field of view too.
        """
        matrix, offset = frame.to_index(self.ras.affine)
        cuts = repeats(frame.spacing.tolist(), frame.of_index(self.ras.affine)[0])
        values, level, inside = (np.zeros(box.shape, dtype=np.float32) for _ in range(3))
        axes = [box.along(axis, frame) for axis in range(3)]
        for part in parts(cuts):
            x, y, z = (points + shift * size for points, shift, size in zip(axes, part, frame.spacing, strict=True))
            x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
            x, y = motion.to_scan(x, y, z) if motion is not None else (x, y)
            i, j, k = (row[0] * x + row[1] * y + row[2] * z + add for row, add in zip(matrix, offset, strict=True))
            i, j, k = np.broadcast_arrays(i, j, k)
            place = np.stack([i - self._low[0], j - self._low[1], np.clip(k, *self._ends)])
            values += map_coordinates(self._values, place, order=1, mode="grid-constant", cval=0.0, output=np.float32)
            counts = self.span.holds(k)
            level += counts
            inside += counts & self._in_view(i, 0) & self._in_view(j, 1)
        total = np.float32(np.prod(cuts))
        return np.clip(values / total, 0.0, 1.0), level / total, inside / total

    def _in_view(self, index: Array, axis: int) -> Array:
        return (index >= -0.5 - _ROUNDING) & (index <= self.ras.shape[axis] - 0.5 + _ROUNDING)


def _nearest(occupied: Array) -> Array:
    """Return for each slice the nearest one that is not empty, the lower of two."""
    there = np.flatnonzero(occupied)
    distance = np.abs(np.arange(len(occupied))[:, None] - there[None, :])
    return np.asarray(there[distance.argmin(axis=1)])
