"""What a soft label file may hold, and how it is read: every room that opens one has the same rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import nifti_content
from nnunet_spine_ext.core.volume import Array, Volume

IGNORE = -1.0
"""What a soft label holds on disk where it is not known."""
LARGEST = 1.5
"""What a soft label may hold: splines and networks overshoot by a few percent (masks up to 1.06 are in circulation).
More is percent, grey values or label ids."""
_ROUNDING = 1e-3


class SoftRangeError(ValueError):
    """Values that no soft label has; the message says which and how many."""


def split(soft: Array) -> tuple[Array, Array]:
    """Return the values (K, …) in [0, 1] and the validity (…), 0 or 1, of a soft label (K, …); both float32.

    A voxel that is -1 in one class is not known in any. Values above 1 become 1: masks that were resampled with
    splines overshoot, and a target above 1 explodes the adaptive wing loss.

    Raises
    ------
    SoftRangeError: values that are not finite, between -1 and 0 (a -1 that was interpolated), or above 1.5 (percent, or
    label ids: cut at 1 they would become a hard label that nobody has asked for).
    """
    if not np.isfinite(soft).all():
        msg = f"{int((~np.isfinite(soft)).sum())} values that are not finite"
        raise SoftRangeError(msg)
    if soft.max(initial=0.0) > LARGEST:
        msg = f"values up to {soft.max():.4g}"
        raise SoftRangeError(msg)
    unknown = np.abs(soft - IGNORE) <= _ROUNDING
    between = (soft < -_ROUNDING) & ~unknown
    if between.any():
        msg = f"{int(between.sum())} values below 0 that are not -1, from {soft[between].min():.3g}"
        raise SoftRangeError(msg)
    valid = np.asarray(~unknown.any(axis=0), dtype=np.float32)
    values = np.clip(soft, 0.0, 1.0).astype(np.float32) * valid
    return values, valid


def overshoot(soft: Array) -> float:
    """Return by how much the largest value exceeds 1; 0 if none does."""
    return max(0.0, float(soft.max(initial=0.0)) - 1.0)


def read_classes(path: Path) -> tuple[Array, Array]:
    """Return the classes (K, i, j, k) of a soft label as float32, and its affine to RAS+ millimetres.

    The file is 3-D for one class, 4-D (i, j, k, class) for several.

    Raises
    ------
    CaseError: a file with other dimensions, or that cannot be read.
    """
    try:
        stored, affine = nifti_content(path)
        array = np.asarray(stored, dtype=np.float32)
        Volume(np.empty((1, 1, 1)), affine)
    # An affine that is none, and voxels that are no numbers, raise ValueError or TypeError.
    except (CaseError, ValueError, TypeError) as error:
        found = error.found if isinstance(error, CaseError) else f"a file that cannot be read ({error})"
        raise CaseError(
            "E-SOFT-READ",
            file=path,
            found=found,
            expected="a NIfTI file with an invertible affine",
            fix="make it again with nnUNetv2_spine_soft_gt, or copy it again",
        ) from error
    if array.ndim not in (3, 4):
        raise CaseError(
            "E-SOFT-CLASSES",
            file=path,
            found=f"{array.ndim} dimensions",
            expected="3, or 4 with the classes last",
            fix="store one volume, or one per class along the fourth axis",
        )
    return (array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)), affine


def checked(stored: Array, path: Path, classes: int) -> tuple[Array, Array]:
    """Return the values (K, …) and the validity (…) of what `read_classes` returned; see `split`.

    Raises
    ------
    CaseError: another number of classes than `classes`, or values that no soft label has.
    """
    if stored.shape[0] != classes:
        raise CaseError(
            "E-SOFT-CLASSES",
            file=path,
            found=f"{stored.shape[0]} classes",
            expected=f"{classes}, one per foreground label of dataset.json, in ascending order of their ids",
            fix="write one volume per class along the fourth axis, or take the surplus labels out of dataset.json",
        )
    try:
        return split(stored)
    except SoftRangeError as error:
        raise CaseError(
            "E-SOFT-RANGE",
            file=path,
            found=str(error),
            expected="values from 0 to 1, and -1 where the label is not known",
            fix="divide by the value of a full voxel; resample value and validity on their own "
            "(nnunet_spine_ext.soft.values), not a label that holds -1",
        ) from error


def fractions(values: Array, valid: Array) -> float:
    """Return the share of the foreground voxels (values (K, …), validity (…)) that lies between 0 and 1."""
    foreground = valid.astype(bool) & (values > 0).any(axis=0)
    between = ((values > 0) & (values < 1)).any(axis=0) & foreground
    return float(between.sum() / max(1, foreground.sum()))
