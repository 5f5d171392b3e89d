"""Masks of a source dataset, checked and brought onto the grid of their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import id_counts
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume

# Corners this close differ by the rounding of headers in single precision: not worth a word.
ROUNDING_MM = 1e-4
MAX_ID = 65535


def mask_on_image(
    stored: Volume, image: Volume, *, file: str | Path, resample: str | None = None
) -> tuple[Volume, list[Problem]]:
    """Return a mask as uint8 or uint16 on the grid of its image, and the warnings.

    A mask stored in another orientation is turned without interpolation. One within `GRID_TOLERANCE_MM` of the image
    takes the image's affine, with a warning.

    Parameters
    ----------
    file: what messages name.
    resample: ``"nearest"`` resamples a mask on another grid; None refuses it.

    Raises
    ------
    CaseError: another grid, or values that are no integers from 0 to 65535.
    """
    turned = stored.to(image.orientation)
    mask = Volume(whole_numbers(turned.array, file=file), turned.affine)
    error = mask.corner_error(image)
    if error <= ROUNDING_MM:
        return Volume(mask.array, image.affine), []
    if error <= GRID_TOLERANCE_MM:
        found = f"the mask's corners lie {error:.2g} mm off the image's"
        warning = _warning("W-GEOM-GRID", file, found, "the image's grid", "the image's geometry was used")
        return Volume(mask.array, image.affine), [warning]
    if resample != "nearest":
        raise CaseError(
            "E-GEOM-GRID",
            file=file,
            found=_difference(stored, image, error),
            expected=f"the image's grid (same shape, corners within {GRID_TOLERANCE_MM:g} mm)",
            fix="check that image and mask belong together; if they do, --resample nearest",
        )
    moved = mask.resample_like(image, order=0)
    found = _difference(stored, image, error)
    warning = _warning("W-GEOM-RESAMPLED", file, found, "the image's grid", "the mask was resampled, nearest voxel")
    return Volume(moved.array, image.affine), [warning]


def whole_numbers(array: Array, *, file: str | Path) -> Array:
    """Return a mask as uint8 or uint16; raises CaseError listing values that are no ids, with their voxel counts."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype in (np.uint8, np.uint16):
        return array if array.dtype == np.uint8 or int(array.max(initial=0)) > 255 else array.astype(np.uint8)
    wrong = np.zeros(array.shape, dtype=bool)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong |= ~(np.rint(array) == array)
    wrong |= ~((array >= 0) & (array <= MAX_ID))
    if wrong.any():
        values, counts = np.unique(array[wrong], return_counts=True)
        listing = ", ".join(f"{v:.7g} ({n} voxels)" for v, n in list(zip(values, counts, strict=True))[:8])
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        raise CaseError(
            "E-LABEL-VALUE",
            file=file,
            found=f"values {listing}{more}",
            expected=f"whole numbers from 0 to {MAX_ID}",
            fix="give a hard mask; a soft one has to be thresholded first",
        )
    return array.astype(np.uint8 if int(array.max(initial=0)) < 256 else np.uint16)


def ids_of(array: Array) -> dict[int, int]:
    """Return the voxel count of every id except 0."""
    return {int(k): n for k, n in id_counts(array).items() if k != 0}


def _difference(mask: Volume, image: Volume, error: float) -> str:
    if mask.to(image.orientation).shape != image.shape:
        return f"a mask of shape {mask.shape} {mask.orientation} for an image of {image.shape} {image.orientation}"
    return f"a mask whose corners lie up to {error:.4g} mm from the image's"


def _warning(code: str, file: str | Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, str(file), found, expected, fix)
