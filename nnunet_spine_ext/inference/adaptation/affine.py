"""Random affine copies of a patch, and the way back.

Coordinates are PyTorch's: -1 to 1 from edge to edge of a patch, the last axis first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from nnunet_spine_ext.core.volume import Array

# Drawn numbers are cut at so many standard deviations.
LIMIT = 2.5


def draw_affine(rng: np.random.Generator, dimensions: int, strength: float) -> Array:
    """Return a random affine map (D, D + 1) near the identity, in half patches.

    With a strength of at most 0.1 the diagonal outweighs the rest of its row: the determinant is above 0, so a left
    process never becomes a right one.
    """
    noise = rng.standard_normal((dimensions, dimensions + 1)).clip(-LIMIT, LIMIT) * strength
    return noise + np.eye(dimensions, dimensions + 1)


def margins(patch: Sequence[int], strength: float) -> tuple[int, ...]:
    """Return how many voxels around a patch its affine copies can show: one number per axis, of either side."""
    reach = LIMIT * strength * (len(patch) + 1)
    return tuple(math.ceil(reach * size / 2) + 1 for size in patch)


def forward(context: torch.Tensor, matrix: Array, patch: Sequence[int]) -> torch.Tensor:
    """Return an affine copy (B, C, *patch) of the middle of `context`.

    What moves in from outside the patch is taken from the context.

    Parameters
    ----------
    context: (B, C, *spatial), larger than the patch by the same number of voxels on either side of an axis.
    matrix: (D, D + 1), maps places of the copy to places of the patch.
    """
    # Half a patch is another part of half the context on each axis.
    ratio = np.array([p / c for p, c in zip(patch, context.shape[2:], strict=True)])[::-1]
    return _sample(context, ratio[:, None] * matrix, patch)


def backward(answer: torch.Tensor, matrix: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the answer (B, K, *patch) to an affine copy on the grid of the patch, and where it holds.

    The second is (1, 1, *patch) bool: the places that the copy shows.
    """
    inverse = np.linalg.inv(np.vstack([matrix, [*[0.0] * matrix.shape[0], 1.0]]))[:-1]
    patch = answer.shape[2:]
    grid = _grid(inverse, patch, answer)
    # Half a voxel inside the edge: beyond it, interpolation mixes in the zeros of the outside.
    edges = torch.tensor([1 - 1 / size for size in reversed(patch)], device=answer.device, dtype=answer.dtype)
    valid = (grid.abs() <= edges).all(dim=-1)[:, None]
    moved = functional.grid_sample(answer, grid.expand(len(answer), *grid.shape[1:]), align_corners=False)
    return moved, valid


def _sample(source: torch.Tensor, matrix: Array, shape: Sequence[int]) -> torch.Tensor:
    grid = _grid(matrix, shape, source)
    return functional.grid_sample(source, grid.expand(len(source), *grid.shape[1:]), align_corners=False)


def _grid(matrix: Array, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    theta = torch.as_tensor(matrix, dtype=like.dtype, device=like.device)[None]
    return functional.affine_grid(theta, [1, 1, *shape], align_corners=False)
