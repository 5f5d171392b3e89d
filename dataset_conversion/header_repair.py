"""Masks whose header is a little wrong: their voxels are those of the image, their geometry is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Volume

# A direction that was lost leaves both readings of a header about as far away as the image is large.
MUCH_CLOSER = 3.0


def onto_image(
    stored: Volume, image: Volume, *, file: str | Path, tolerance_mm: float | None = None
) -> tuple[Volume, list[Problem]]:
    """Return a mask on exactly the grid of its image, and the warnings; nothing is interpolated.

    A mask in another orientation is turned as its header says if it then lies on the image, or much closer to it than
    without. If it does not, its header is wrong (a lost direction, say), and its voxels are taken to be the image's one
    by one.

    Parameters
    ----------
    file: what messages name.
    tolerance_mm: how far apart corners of both grids may be; None: the smallest voxel edge of the image, so that no
        label moves by more than a voxel.

    Raises
    ------
    CaseError: another shape, or corners farther apart.
    """
    voxel = min(image.spacing)
    turned = stored.to(image.orientation)
    off = turned.corner_error(image)
    best = turned if off <= voxel or MUCH_CLOSER * off <= stored.corner_error(image) else stored
    if best.shape != image.shape:
        raise CaseError(
            "E-GEOM-GRID",
            file=file,
            found=f"a mask of shape {_grid(stored)} for an image of {_grid(image)}",
            expected="the image's shape",
            fix="check that image and mask belong together",
        )
    error = best.corner_error(image)
    allowed = voxel if tolerance_mm is None else tolerance_mm
    if error <= GRID_TOLERANCE_MM:
        return Volume(best.array, image.affine), []
    found = f"a mask whose corners lie up to {error:.3g} mm from the image's ({_difference(best, image)})"
    if error > allowed:
        raise CaseError(
            "E-GEOM-GRID",
            file=file,
            found=found,
            expected=f"the image's grid, corners within {allowed:.3g} mm",
            fix="check that they belong together; --header-tolerance MM takes the image's header up to that distance",
        )
    fix = "the image's header was used"
    return Volume(best.array, image.affine), [Problem("warning", "W-GEOM-GRID", str(file), found, "one grid", fix)]


def _grid(volume: Volume) -> str:
    return f"{volume.shape} {volume.orientation}"


def _difference(mask: Volume, image: Volume) -> str:
    """Say what differs: origin, voxel size, direction."""
    steps = [volume.affine[:3, :3] / volume.spacing for volume in (mask, image)]
    cosines = np.clip((steps[0] * steps[1]).sum(axis=0), -1, 1)
    angle = math.degrees(float(np.arccos(cosines.min())))
    origin = float(np.linalg.norm(mask.affine[:3, 3] - image.affine[:3, 3]))
    sizes = " and ".join("x".join(f"{size:.4g}" for size in volume.spacing) for volume in (mask, image))
    return f"origins {origin:.3g} mm apart, voxels {sizes} mm, axes turned by {angle:.3g} degrees"
