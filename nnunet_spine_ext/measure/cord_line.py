"""The centreline of the cord, one point and one direction per slice.

The curve is the Spinal Cord Toolbox' default ("bspline"): the centres of the slices, smoothed by a cubic spline whose
allowed residual follows an empirical rule of that software. `measure.centreline` is another line: that of the spine.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import id_ranges
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centreline import Centreline
from nnunet_spine_ext.measure.cord_map import FRAME, CordMap

# Default of sct_process_segmentation; its Python interface has 20. Its rule: residual = density² x smooth x mm / 3.
SMOOTHING = 30.0
_RULE = 3.0
_CUBIC = 3


@dataclass(frozen=True, eq=False)
class CordLine:
    """Centre and slope of the cord in each slice, in voxels of the frame LAS.

    Parameters
    ----------
    slices: (n,) slice numbers without gaps.
    centres: (n, 2) x and y.
    slopes: (n, 2) change of x and y per slice.
    """

    slices: Array
    centres: Array
    slopes: Array

    def world(self, grid: Volume) -> Array:
        """Return the centres in RAS+ millimetres, (n, 3); `grid` is the volume's grid in the frame LAS."""
        return grid.world(np.column_stack([self.centres, self.slices]))

    def at(self, slices: Array) -> Array:
        """Return the slopes (m, 2) of some of the slices."""
        return self.slopes[np.asarray(slices) - self.slices[0]]


def slice_centres(cord: CordMap, *, weighted: bool) -> tuple[Array, Array]:
    """Return the slices that hold something, (n,), and their centres (n, 2) in voxels of the whole frame.

    `weighted` counts voxels by their share; else every voxel that is not zero counts the same.
    """
    values = cord.array if weighted else (cord.array != 0).astype(np.float64)
    total = values.sum(axis=(0, 1))
    used = np.flatnonzero(total > 0)
    x = np.arange(values.shape[0]) + cord.offset[0]
    y = np.arange(values.shape[1]) + cord.offset[1]
    centres = np.stack([x @ values.sum(axis=1), y @ values.sum(axis=0)], axis=1)
    return used, centres[used] / total[used, None]


def fit_line(slices: Array, centres: Array, thickness: float, smoothing: float = SMOOTHING) -> CordLine:
    """Fit the curve through centres (n, 2) of slices (n,), which may have gaps.

    Parameters
    ----------
    thickness: distance of slices in mm.
    smoothing: the Spinal Cord Toolbox' degree of smoothing; 0 goes through every centre.

    Returns
    -------
    The curve from the first slice to the last. One slice alone is taken for perpendicular to the cord.
    """
    from scipy.interpolate import splev, splrep

    covered = np.arange(int(slices[0]), int(slices[-1]) + 1)
    if len(slices) == 1:
        return CordLine(covered, np.asarray(centres, dtype=np.float64), np.zeros((1, 2)))
    residual = (len(slices) / len(covered)) ** 2 * smoothing * thickness / _RULE
    degree = _CUBIC if len(slices) > _CUBIC else 1
    fitted = []
    with warnings.catch_warnings():
        # scipy says so when it reaches its last knot; the curve is as smooth as asked for nevertheless.
        warnings.simplefilter("ignore", RuntimeWarning)
        for values in np.asarray(centres).T:
            spline = splrep(slices, values, s=residual, k=degree)
            fitted.append([splev(covered, spline, der=k) for k in (0, 1)])
    position, slope = np.transpose(fitted, (1, 2, 0))
    return CordLine(covered, position, slope)


def line_of(
    cord: CordMap, source: Volume | Centreline | Array | None, smoothing: float, *, weighted: bool = False
) -> CordLine:
    """Return the line of a cord, fitted to itself or to another source.

    Parameters
    ----------
    source: a mask whose finite voxels that are not zero are the centreline or another cord, on any grid; points (n, 3)
        in RAS+ mm; a line of the spine; None for the cord itself.

    Raises
    ------
    CaseError: the source ends before the cord does, holds nothing, or has points that are not finite.
    """
    if source is None:
        slices, centres = slice_centres(cord, weighted=weighted)
        return fit_line(slices, centres, cord.spacing[2], smoothing)
    slices, centres = _source_centres(cord, source)
    used = np.flatnonzero(cord.array.any(axis=(0, 1)))
    missing = used[(used < slices[0]) | (used > slices[-1])].tolist() if len(slices) else used.tolist()
    if missing:
        raise CaseError(
            "E-CSA-CENTRELINE",
            found=f"a centreline that does not cover slices {id_ranges(missing)} of the cord (0 is the lowest)",
            expected="a centreline at least as long as the cord",
            fix="give a longer centreline, crop the cord, or turn the angle correction off",
        )
    return fit_line(slices, centres, cord.spacing[2], smoothing)


def _source_centres(cord: CordMap, source: Volume | Centreline | Array) -> tuple[Array, Array]:
    """Mean place of the source per slice of the cord's frame."""
    if isinstance(source, Volume):
        frame = source.to(FRAME)
        index = np.argwhere(np.nan_to_num(frame.array, posinf=0.0, neginf=0.0) != 0).astype(np.float64)
        if not frame.same_grid(cord.grid):
            index = cord.grid.index(frame.world(index)) if len(index) else index
    else:
        points = source.points if isinstance(source, Centreline) else np.asarray(source, dtype=np.float64)
        if not np.isfinite(points).all():
            raise CaseError(
                "E-CSA-CENTRELINE",
                found="points of a centreline that are no numbers",
                expected="finite positions in RAS+ mm",
                fix="leave those points out",
            )
        index = cord.grid.index(points.reshape(-1, 3))
    if not len(index):
        return np.zeros(0, dtype=int), np.zeros((0, 2))
    numbers = np.round(index[:, 2]).astype(int)
    slices, member = np.unique(numbers, return_inverse=True)
    count = np.bincount(member)
    centres = np.stack([np.bincount(member, index[:, k]) / count for k in (0, 1)], axis=1)
    return slices, centres
