"""What the filters of the local stage are made of, computed on the host: kernels, matrices, surfaces.

Lengths are in mm. Kernels extend as far along a coarse axis as along the finest one, so that a kernel of 3 is flat
where slices are thick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.spline import knot_grid

Array = NDArray[np.float64]

_SCHARR = np.array([3.0, 10.0, 3.0]) / 16
_SLOPE = np.array([-0.5, 0.0, 0.5])
# Distance over which the brightness of neighbouring tissue loses its likeness, in voxels of the finest axis.
_CORRELATION = 10.0


def extents(size: int, spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the odd number of voxels per axis that a kernel of `size` voxels of the finest axis covers."""
    finest = min(spacing)
    return tuple(2 * int(size / 2 * finest / s + 1e-6) + 1 for s in spacing)


def scharr(spacing: Sequence[float]) -> Array:
    """Return the kernels (dim, 3…) of the slope along each axis, per voxel of the finest axis.

    Smoothing across the axis is left out along axes with thick slices, whose neighbours show something else.
    """
    finest, shape = min(spacing), extents(3, spacing)
    kernels = []
    for axis, spaced in enumerate(spacing):
        factors = [_SCHARR if n == 3 else np.array([0.0, 1.0, 0.0]) for n in shape]
        factors[axis] = _SLOPE * finest / spaced
        kernels.append(_outer(factors))
    return np.stack(kernels)


def laplace(spacing: Sequence[float]) -> Array:
    """Return the kernel (1, 3…) of the summed second derivatives, per squared voxel of the finest axis."""
    finest = min(spacing)
    middle = (1,) * len(spacing)
    kernel = np.zeros((3,) * len(spacing))
    for axis, spaced in enumerate(spacing):
        weight = (finest / spaced) ** 2
        for step, factor in ((0, 1), (1, -2), (2, 1)):
            place = list(middle)
            place[axis] = step
            kernel[tuple(place)] += factor * weight
    return kernel[None]


def random_kernel(rng: np.random.Generator, size: int, spacing: Sequence[float]) -> Array:
    """Return a kernel (1, k…) of normal numbers that keeps the spread of images of tissue.

    The gain is that for images whose correlation falls with distance as exp(-d / 10 voxels); a kernel's own depends
    on the image, so that statistics are only kept exactly when they are asked to be.
    """
    shape = extents(size, spacing)
    kernel = rng.standard_normal(shape)
    flat = kernel.ravel()
    power = float(flat @ _correlations(shape, tuple(spacing)) @ flat)
    return kernel[None] / math.sqrt(max(power, 1e-12))


def random_layers(
    rng: np.random.Generator, sizes: Sequence[int], channels: int, spacing: Sequence[float]
) -> list[tuple[Array, Array]]:
    """Return kernels (out, in, k…) and shifts (out,) of a network with one channel in and out, `channels` between."""
    widths = [1, *[channels] * (len(sizes) - 1), 1]
    layers = []
    for size, (into, out) in zip(sizes, itertools.pairwise(widths), strict=True):
        shape = extents(size, spacing)
        kernels = rng.standard_normal((out, into, *shape)) / math.sqrt(into * math.prod(shape))
        layers.append((kernels, rng.standard_normal(out)))
    return layers


def gaussian_matrix(size: int, sigma: float) -> Array:
    """Return the (size, size) matrix that smooths with a standard deviation in voxels, reflecting at the ends.

    It is symmetric and its rows sum to one, so that the mean of what is smoothed stays.
    """
    reach = math.ceil(4 * sigma) + 1
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    weights /= weights.sum()
    source = (np.arange(size)[:, None] + offsets) % (2 * size)
    source = np.minimum(source, 2 * size - 1 - source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), weights)
    return matrix


def draw_bump(rng: np.random.Generator, width: float, context: Context, *, reach: float) -> dict[str, Any]:
    """Draw the parameters of a Gaussian hill with a standard deviation in mm.

    `reach`: how far its top may be from the centre, in sizes of the patch: 0.5 inside, more also beyond.
    """
    centre = rng.uniform(-reach, reach, context.dim) * np.array(context.extent)
    return {"centre": centre.tolist(), "width": width}


def bump_at_knots(params: dict[str, Any], context: Context) -> Array:
    """Return a hill at the knots of the spline: 0 at its lowest place in the patch, 1 at its highest."""
    distance = (knot_grid(context) - np.array(params["centre"])) / params["width"]
    logarithm = -0.5 * (distance**2).sum(axis=-1)
    # Seen from far away a hill is a slope: what counts is its form within the patch.
    field = np.exp(np.minimum(logarithm - logarithm[(slice(1, -1),) * context.dim].max(), 0))
    inside = field[(slice(1, -1),) * context.dim]
    low, high = inside.min(), inside.max()
    return np.clip((field - low) / max(high - low, 1e-12), 0, 1)


@lru_cache(maxsize=64)
def _correlations(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Array:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
    places = grid * np.array(spacing) / min(spacing)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return np.exp(-distance / _CORRELATION)


def _outer(factors: Sequence[Array]) -> Array:
    result = np.ones(())
    for factor in factors:
        result = np.multiply.outer(result, factor)
    return result
