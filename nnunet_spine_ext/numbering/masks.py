"""What the numbering reads from semantic masks of any scheme: classes, levels, and what only some schemes have."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import DISC_OFFSET, convert_labels, scheme
from nnunet_spine_ext.core.volume import Array, Volume

_CLASSES = "nnunet14"
# Ids of SPINEPS that have no class of their own in nnunet14; ribs are not part of its training classes at all.
_DENS, _RIBS = 51, (63, 64)
# SPIDER's numbers count from one end: they are no levels.
_COUNTING = "spider"


def classes_of(semantic: Volume, scheme_name: str) -> Array | None:
    """Return the ``nnunet14`` classes (i, j, k) of a mask; None for a scheme that has levels instead of classes.

    Raises
    ------
    CaseError: ids that the scheme does not know.
    UsageError: an unknown scheme.
    """
    scheme(scheme_name)
    if scheme_name not in ("spineps", _CLASSES):
        return None
    array = semantic.array
    if scheme_name == "spineps":
        ribs = np.isin(array, _RIBS)
        array = np.where(ribs, 0, array) if ribs.any() else array
        return convert_labels(array, "spineps", _CLASSES, file="semantic mask")
    return array


def special_classes(semantic: Volume, scheme_name: str) -> dict[str, Array]:
    """Return masks (i, j, k) of dens and ribs where the scheme has them."""
    if scheme_name != "spineps":
        return {}
    found = {"dens": semantic.array == _DENS, "ribs": np.isin(semantic.array, _RIBS)}
    return {name: mask for name, mask in found.items() if mask.any()}


def levels_of(mask: Volume, scheme_name: str, instances: Volume, *, required: bool) -> Array | None:
    """Return ids of single vertebrae (i, j, k) on the grid of the instances, from a mask of a scheme with levels.

    Parameters
    ----------
    required: a scheme without levels is an error; else the answer is None.

    Raises
    ------
    CaseError: ids that the scheme does not know.
    UsageError: an unknown scheme, or one without levels where they are required.
    """
    row = scheme(scheme_name)
    names = set(row.labels.values())
    if row.kind != "levels" or scheme_name == _COUNTING or "L1" not in names:
        if not required:
            return None
        raise UsageError(
            "E-NUM-LEVELMAP",
            file=f"scheme {scheme_name}",
            found="numbers that are no levels",
            expected="a scheme that names vertebrae: instances, verse, totalspineseg or totalsegmentator",
            fix="convert the mask first (nnUNetv2_spine_labels)",
        )
    if not mask.same_grid(instances):
        mask = mask.resample_like(instances, order=0)
    array = mask.array
    if scheme_name != "instances":
        array = convert_labels(array, scheme_name, "instances", file="mask with levels")
    return np.where(array < DISC_OFFSET, array, 0)
