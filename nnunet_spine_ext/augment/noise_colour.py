"""The colour of noise: what an acquisition leaves of white noise along each axis, as matrices made on the host.

Noise enters with the samples of k-space. So it is not blurred with the object nor averaged over the profile of a
slice, but it is cut off, windowed, zero-filled and interpolated with the image: noise of a zero-filled image is
correlated between neighbours, noise of thick slices is one value per slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.axis_matrices import CACHED, AxisWork, Slices, axis_matrix, grid, interpolation
from nnunet_spine_ext.augment.axis_products import PackedBand, pack_band
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Packer

Array = NDArray[np.float64]
Colour = tuple[AxisWork, ...]

_EQUAL = 1e-6


@lru_cache(maxsize=CACHED)
def noise_matrix(work: AxisWork, size: int, spacing: float) -> Array | None:
    """Return the (size, size) matrix that makes the noise of an axis from white noise, or None where it stays white.

    The mean variance stays 1; between thick slices that are interpolated linearly it is smaller than on them.
    """
    if size == 1:
        return None
    samples = None
    for slices in work.slices:
        if slices.thickness + slices.gap > spacing * (1 + _EQUAL):
            samples = _per_slice(slices, size, spacing)
    acquired = axis_matrix(replace(work, sigma=0.0, slices=()), size, spacing)
    factors = [factor for factor in (acquired, samples) if factor is not None]
    if not factors:
        return None
    matrix = factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    variance = float(np.square(matrix).sum(axis=1).mean())
    return matrix / math.sqrt(variance) if variance > 0 else None


def pack_colour(packer: Packer, context: Context, colour: Sequence[AxisWork]) -> tuple[PackedBand | None, ...]:
    """Pack the matrices of all axes; None for those along which noise stays white."""
    bands: list[PackedBand | None] = []
    for work, size, spacing in zip(colour, context.shape, context.spacing, strict=True):
        matrix = None if work == AxisWork() else noise_matrix(work, size, spacing)
        bands.append(None if matrix is None else pack_band(packer, matrix))
    return tuple(bands)


def join(first: Sequence[AxisWork] | None, second: Sequence[AxisWork] | None) -> Colour | None:
    """Combine the work of two acquisitions, None being one that does nothing."""
    if first is None or second is None:
        return tuple(first or second or ()) or None
    return tuple(a.and_then(b) for a, b in zip(first, second, strict=True))


def _per_slice(slices: Slices, size: int, spacing: float) -> Array:
    """Return the matrix of slices with one random number each, interpolated to the voxels.

    The number of a slice is that of the voxel nearest to it, so that the matrix stays a band. Slices beyond the ends
    share the voxel at the end.
    """
    places = grid(size, (slices.thickness + slices.gap) / spacing, slices.phase)
    weights = interpolation(size, places, slices.interpolation)
    nearest = np.clip(np.floor(places + 0.5).astype(np.int64), 0, size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix.T, nearest, weights.T)
    return matrix
