"""Smooth random deformations on coarse lattices: stationary velocity fields, integrated by scaling and squaring.

Three lattices, all on the host. White noise lives on control points `spacing` apart and is smoothed to a velocity on
integration nodes half as far apart; there the velocity is integrated, and the displacement is interpolated by cubic
B-splines to display nodes about `NODE_VOXELS` voxels apart. Between these everything is linear, so that differences
between neighbouring nodes bound the derivatives and `unfold` can exclude folding with certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[np.float64]

NODE_VOXELS = 4
_SUPPORT = 2
_STEP = 1 / 16
_MOST_SQUARINGS = 10
_ROOM = 0.05


def node_counts(shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many display nodes each axis of a grid has; the first and the last voxel carry one each."""
    return tuple(1 if n == 1 else math.ceil((n - 1) / NODE_VOXELS) + 1 for n in shape)


def node_positions(shape: Sequence[int]) -> list[Array]:
    """Return the display nodes per axis in voxels from the first voxel."""
    return [np.linspace(0, n - 1, count) for n, count in zip(shape, node_counts(shape), strict=True)]


@cache
def between_nodes(size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return for each voxel of an axis the display node below it and how far it is on the way to the next one."""
    count = node_counts((size,))[0]
    position = np.arange(size) * ((count - 1) / max(1, size - 1))
    below = np.clip(np.floor(position), 0, max(0, count - 2))
    return below.astype(np.int32), (position - below).astype(np.float32)


def cubic_weights(positions: Array, first: float, step: float, count: int) -> Array:
    """Return (positions, count): cubic B-splines on control points first, first + step, …; linear functions persist."""
    distance = np.abs((np.asarray(positions)[:, None] - first) / step - np.arange(count))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.maximum(0, 2 - distance) ** 3 / 6
    return np.where(distance < 1, inner, outer)


def displacement(
    seed: int, std: float, spacing: float, shape: Sequence[int], voxel: Sequence[float], still: Sequence[int] = ()
) -> Array:
    """Return a random displacement in mm on the display nodes, (D, *nodes); free of folds.

    Parameters
    ----------
    seed: of the noise.
    std: standard deviation of each component of the velocity in mm; that of the displacement is nearly the same.
    spacing: distance of the control points in mm, about the size of what moves together; no less than that of the
        display nodes along the coarsest axis that moves.
    shape, voxel: of the grid that is deformed, in voxels and mm per voxel.
    still: axes along which nothing moves; the field is the same at every position along them.
    """
    spacing = max([spacing, *(NODE_VOXELS * size for axis, size in enumerate(voxel) if axis not in still)])
    first, second, counts = [], [], []
    for axis, (positions, size) in enumerate(zip(node_positions(shape), voxel, strict=True)):
        noise_to_node, node_to_display = _axis(positions * size, spacing, axis in still)
        first.append(noise_to_node)
        second.append(node_to_display)
        counts.append(noise_to_node.shape[1])
    rng = np.random.Generator(np.random.Philox(seed))
    noise = rng.standard_normal((len(shape), *counts))
    # Smoothing takes most of the variance of the noise; what is left is known exactly.
    left = math.prod(float(((b @ a) ** 2).sum(axis=1).mean()) for a, b in zip(first, second, strict=True))
    velocity = upsample(noise, first) * (std / math.sqrt(left))
    velocity[list(still)] = 0
    return unfold(upsample(exponential(velocity, spacing / 2), second), shape, voxel)


def upsample(values: Array, weights: Sequence[Array]) -> Array:
    """Apply one matrix per axis to (D, *lattice)."""
    # What only repeats comes last: equal rows of a product may differ in their last bit.
    for axis, matrix in sorted(enumerate(weights, start=1), key=lambda item: item[1].shape[1] == 1):
        values = np.moveaxis(np.tensordot(values, matrix, axes=(axis, 1)), -1, axis)
    return values


def exponential(velocity: Array, step: float) -> Array:
    """Integrate a stationary velocity over unit time by scaling and squaring on its own lattice.

    Parameters
    ----------
    velocity: (D, *nodes) in mm; zero derivative beyond the lattice.
    step: distance of the nodes in mm; axes with one node do not move.

    Returns
    -------
    The displacement in mm at the nodes.
    """
    largest = float(np.abs(velocity).max(initial=0)) / step
    if largest == 0:
        return velocity
    squarings = int(np.clip(math.ceil(math.log2(largest / _STEP)), 0, _MOST_SQUARINGS))
    nodes = velocity.shape[1:]
    axes = [torch.arange(n, dtype=torch.float64) for n in nodes]
    own = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    flow = torch.from_numpy(np.ascontiguousarray(velocity))[None] / 2**squarings
    size = torch.tensor(nodes, dtype=torch.float64)
    for _ in range(squarings):
        target = own + flow[0].movedim(0, -1) / step
        grid = ((2 * target + 1) / size - 1).flip(-1)[None]
        flow = flow + functional.grid_sample(flow, grid, padding_mode="border", align_corners=False)
    return flow[0].numpy()


def unfold(field: Array, shape: Sequence[int], voxel: Sequence[float]) -> Array:
    """Weaken a displacement (D, *display nodes) in mm as far as needed to be certain that it folds nowhere.

    In a cell every derivative is a mean of the differences along the cell's edges. So if, row by row, the smallest
    diagonal entry of the Jacobian exceeds the sum of the largest other entries, then no Jacobian, nor any mean of
    Jacobians, is singular: the map is one-to-one.
    """
    worst = shortfall(field, shape, voxel)
    return field if worst <= 1 - _ROOM else field * ((1 - _ROOM) / worst)


def shortfall(field: Array, shape: Sequence[int], voxel: Sequence[float]) -> float:
    """Return how much of the identity's diagonal a displacement uses up at worst; below 1 nothing folds."""
    nodes = field.shape[1:]
    pitch = [(n - 1) * size / max(1, count - 1) for n, size, count in zip(shape, voxel, nodes, strict=True)]
    worst = 0.0
    for row in range(len(nodes)):
        used: Array | float = 0.0
        for axis in range(len(nodes)):
            if nodes[axis] == 1:
                continue
            slope = np.diff(field[row], axis=axis) / pitch[axis]
            used = used + _over_cells(-slope if axis == row else np.abs(slope), axis)
        worst = max(worst, float(np.max(used)))
    return worst


def _over_cells(slope: Array, along: int) -> Array:
    """Return for each cell the largest value on its edges along one axis."""
    for axis in range(slope.ndim):
        if axis != along and slope.shape[axis] > 1:
            low, high = [slice(None)] * slope.ndim, [slice(None)] * slope.ndim
            low[axis], high[axis] = slice(None, -1), slice(1, None)
            slope = np.maximum(slope[tuple(low)], slope[tuple(high)])
    return slope


def _axis(display: Array, spacing: float, still: bool) -> tuple[Array, Array]:
    """Return the weights from control points to integration nodes, and from there to display positions (mm)."""
    if still:
        return np.ones((1, 1)), np.ones((len(display), 1))
    step = spacing / 2
    # Nodes reach beyond the grid as far as B-splines and displacements do.
    nodes = step * np.arange(-_SUPPORT, math.ceil(display[-1] / step) + _SUPPORT + 1)
    first = spacing * (math.floor(nodes[0] / spacing) - 1)
    count = math.ceil((nodes[-1] - first) / spacing) + 2
    return cubic_weights(nodes, first, spacing, count), cubic_weights(display, nodes[0], step, len(nodes))
