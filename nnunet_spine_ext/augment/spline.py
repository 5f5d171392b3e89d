"""Smooth fields from few coefficients: uniform cubic B-splines, one small matrix per axis.

The host evaluates what a field is at the knots; the device spreads it over the volume with one product per axis, of
which only the last touches the volume. Coefficients that are all positive give a field that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Packer, Slot

INTERVALS = 8

Array = NDArray[np.float64]


def intervals(context: Context) -> tuple[int, ...]:
    """Return the number of spline intervals per axis: at most 8, and no more than the grid resolves."""
    return tuple(max(1, min(INTERVALS, math.ceil(n / 2))) for n in context.shape)


def knots(context: Context) -> tuple[Array, ...]:
    """Return the places of the knots in mm about the centre of the patch, one array per axis (intervals + 3 each)."""
    places = []
    for extent, count in zip(context.extent, intervals(context), strict=True):
        places.append((np.arange(-1, count + 2) / count - 0.5) * extent)
    return tuple(places)


def knot_grid(context: Context) -> Array:
    """Return the knots as one array (..., dim) in mm about the centre."""
    return np.stack(np.meshgrid(*knots(context), indexing="ij"), axis=-1)


def weights(size: int, count: int) -> Array:
    """Return the (size, count + 3) weights of the knots at the voxel centres of an axis; rows sum to one."""
    position = (np.arange(size) + 0.5) / size * count
    span = np.minimum(position.astype(int), count - 1)
    t = position - span
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    matrix = np.zeros((size, count + 3))
    np.put_along_axis(matrix, span[:, None] + np.arange(4), basis, axis=1)
    return matrix


def pack_weights(packer: Packer, context: Context) -> tuple[Slot, ...]:
    """Pack the weights of all axes of a context."""
    return tuple(packer.floats(weights(n, c)) for n, c in zip(context.shape, intervals(context), strict=True))


def spread_over(coefficients: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Evaluate splines on the grid: (K, a, b, c) and (Z, a), (Y, b), (X, c) -> (K, Z, Y, X); likewise in 2-D."""
    field = coefficients
    last = len(matrices)
    # From the last axis to the first, so that only the product along the first one is as large as the volume.
    for axis in range(last, 1, -1):
        field = torch.matmul(field.movedim(axis, -1), matrices[axis - 1].T).movedim(-1, axis)
    shape = field.shape
    return torch.matmul(matrices[0], field.reshape(shape[0], shape[1], -1)).view(shape[0], -1, *shape[2:])
