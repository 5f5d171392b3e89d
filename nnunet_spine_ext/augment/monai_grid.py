"""What MONAI's metadata say about a grid: spacing, the axis between left and right, whether two grids are one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.core.errors import UsageError

# Parts of a voxel by which a corner of one grid may lie beside that of another.
_TOLERANCE = 0.1
# An axis that runs more than 60 degrees off from left to right is not the one between both sides.
_ALONG = 0.5


def spacing_of(image: Tensor, dim: int, count: int, *, where: str) -> list[tuple[float, ...]]:
    """Return mm per array axis for each of `count` samples, from the affine.

    Raises
    ------
    UsageError: no affine, or the one that MONAI gives to arrays it knows nothing of.
    """
    affines = affines_of(image, dim, count)
    if affines is None:
        found = "an image without spacing"
        if getattr(image, "affine", None) is not None:
            found = "an affine that is the identity (as MONAI gives it to arrays of unknown spacing) or not finite"
        fix = "give pixdim=(…), mm per array axis"
        raise UsageError("E-AUG-SPACING", file=where, found=found, expected="an affine, or pixdim", fix=fix)
    return [tuple(np.linalg.norm(affine[:-1, :dim], axis=0).tolist()) for affine in affines]


def left_right_axis_of(image: Tensor, dim: int, count: int, *, where: str) -> list[int | None]:
    """Return the array axis that runs from left to right, for each sample; None: it is not among these axes.

    Raises
    ------
    UsageError: no affine.
    """
    affines = affines_of(image, dim, count)
    if affines is None:
        fix = "give left_right_axis, or images with an affine"
        raise UsageError(
            "E-AUG-CONTEXT", file=where, found="sided_pairs, but no affine", expected="the left-right axis", fix=fix
        )
    axes: list[int | None] = []
    for affine in affines:
        directions = affine[:-1, :dim] / np.linalg.norm(affine[:-1, :dim], axis=0)
        axis = int(np.abs(directions[0]).argmax())
        axes.append(axis if abs(directions[0, axis]) > _ALONG else None)
    return axes


def same_grid(image: Tensor, other: Tensor, dim: int, *, where: str) -> None:
    """Refuse another array shape, and an affine that puts a corner elsewhere than that of the image.

    Raises
    ------
    UsageError: the two are not on one grid.
    """
    grid, found = tuple(image.shape[-dim:]), tuple(other.shape[-dim:])
    fix = "resample it to the image (ResampleToMatchd)"
    if grid != found or image.dim() != other.dim():
        expected = f"the grid of the first image, {grid}"
        raise UsageError("E-AUG-GRID", file=where, found=f"shape {tuple(other.shape)}", expected=expected, fix=fix)
    count = int(image.shape[0])
    one, two = affines_of(image, dim, count), affines_of(other, dim, count)
    if one is None or two is None:
        return
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in grid], indexing="ij"), axis=-1).reshape(-1, dim)
    for first, second in zip(one, two, strict=False):
        if first.shape != second.shape:
            continue
        off = first - second
        apart = np.linalg.norm(corners @ off[:-1, :dim].T + off[:-1, -1], axis=1).max()
        smallest = np.linalg.norm(first[:-1, :dim], axis=0).min()
        if not apart <= _TOLERANCE * smallest:
            expected = "the grid of the first image"
            raise UsageError(
                "E-AUG-GRID", file=where, found=f"an affine that lies {apart:.3g} mm beside", expected=expected, fix=fix
            )


def affines_of(image: Any, dim: int, count: int) -> Sequence[NDArray[np.float64]] | None:
    """Return the affine of each sample, (dim + 1, dim + 1) or larger; None where the image has none that counts."""
    affine = getattr(image, "affine", None)
    if affine is None:
        return None
    matrices = np.asarray(affine.detach().cpu(), dtype=np.float64)
    if matrices.ndim == 2:
        matrices = np.broadcast_to(matrices, (count, *matrices.shape))
    rows, columns = matrices.shape[-2:]
    if rows <= dim or columns <= dim or not np.isfinite(matrices).all():
        return None
    # MONAI gives the identity to whatever has no affine; an image from a file also knows its original one.
    if "original_affine" not in image.meta and (matrices == np.eye(rows, columns)).all():
        return None
    return list(matrices)
