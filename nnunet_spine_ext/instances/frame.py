"""The working frame: labels in RAS order, cut to the foreground, in millimetres without origin.

Working in one axis order makes the result the same for any orientation of the input: the arrays are then equal, bit by
bit, whatever order the file had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import apply_table, mapping
from nnunet_spine_ext.core.volume import Array, Volume

SACRUM, ARCUS, SPINOUS, CORPUS, CORD, CANAL, ENDPLATE, DISC = 1, 2, 3, 10, 11, 12, 13, 14
COSTAL, SUPERIOR, INFERIOR = (4, 5), (6, 7), (8, 9)
_LAST = 14
_LARGEST = 4096
_UNKNOWN = 255
ORIENTATION = "RAS"


@dataclass(frozen=True)
class Frame:
    """Semantic labels of the foreground.

    Parameters
    ----------
    labels: (x, y, z) uint8 ids of the scheme ``nnunet14``, x to the right, y to the front, z up.
    spacing: voxel size in mm along x, y, z.
    box: where `labels` was cut out of the whole volume in RAS order.
    shape: shape of the whole volume in RAS order.
    beyond_canal_mm3: of whole vertebrae that lie so far beyond canal and cord that their bodies are a guess (`whole`).
    """

    labels: Array
    spacing: tuple[float, float, float]
    box: tuple[slice, slice, slice]
    shape: tuple[int, int, int]
    beyond_canal_mm3: float = 0.0

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    def volume(self) -> Volume:
        """Return the labels as a Volume whose world is index times spacing."""
        return Volume(self.labels, np.diag([*self.spacing, 1.0]))

    def positions(self, flat: Array) -> Array:
        """Return the positions (n, 3) in mm of flat indices into `labels`."""
        return np.stack(np.unravel_index(flat, self.labels.shape), axis=1) * np.asarray(self.spacing)


def make_frame(semantic: Volume, scheme: str) -> Frame | None:
    """Cut the foreground out in RAS order and translate it to ``nnunet14``; None when the mask is empty.

    Whole vertebrae are parted into body and arch (`instances.whole`).

    Raises
    ------
    CaseError: whole vertebrae without a canal; an id that the scheme does not know (listed with counts); values that
        are no numbers.
    UsageError: an unknown scheme, or one that does not map to ``nnunet14``.
    """
    if semantic.array.dtype.kind not in "buif":
        raise CaseError(
            "E-INST-TYPE",
            file="semantic mask",
            found=f"values of type {semantic.array.dtype}",
            expected="whole numbers, the ids of classes",
            fix="store the mask as integers",
        )
    # That module makes frames.
    from nnunet_spine_ext.instances.whole import TABLES, with_arches

    array = _integers(semantic.array)
    whole = scheme in TABLES
    if whole:
        table = TABLES[scheme]
    else:
        table = {k: k for k in range(1, _LAST + 1)} if scheme == "nnunet14" else dict(mapping(scheme, "nnunet14").table)
    canonical = Volume(array, semantic.affine).turned(ORIENTATION)
    box = bounding_box(canonical.array)
    if box is None:
        return None
    labels = np.ascontiguousarray(_translate(canonical.array[box], table))
    sizes = canonical.spacing
    frame = Frame(labels, (round(sizes[0], 6), round(sizes[1], 6), round(sizes[2], 6)), box, canonical.shape)
    return with_arches(frame) if whole else frame


def bounding_box(mask: Array, margin: int = 0) -> tuple[slice, slice, slice] | None:
    """Return the slices of the smallest box around the set voxels, plus a margin; None if there are none."""
    slices = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(mask.any(axis=other))
        if len(used) == 0:
            return None
        slices.append(slice(max(0, int(used[0]) - margin), min(mask.shape[axis], int(used[-1]) + 1 + margin)))
    return slices[0], slices[1], slices[2]


def grown(mask: Array, axes: tuple[int, ...] = (0, 1, 2)) -> Array:
    """Dilate a mask by one voxel along each axis in turn (all three: the 26 neighbours)."""
    for axis in axes:
        result = mask.copy()
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        result[tuple(ahead)] |= mask[tuple(behind)]
        result[tuple(behind)] |= mask[tuple(ahead)]
        mask = result
    return mask


def _integers(array: Array) -> Array:
    """Masks stored as floating point hold whole numbers; anything else is caught as an unknown id later."""
    if array.dtype == np.uint8 or not np.issubdtype(array.dtype, np.floating):
        return array
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int32)
    return whole if np.array_equal(whole, array) else array


def _translate(array: Array, table: dict[int, int]) -> Array:
    """Look ids up plane by plane; the careful way, with its message, is for what does not fit the table."""
    small = array.dtype == np.uint8
    if not small and (array.dtype.kind not in "ui" or int(array.min()) < 0 or int(array.max()) > _LARGEST):
        return apply_table(array, table, file="semantic mask").astype(np.uint8)
    lookup = np.full(256 if small else _LARGEST + 1, _UNKNOWN, dtype=np.uint8)
    lookup[0] = 0
    for source, target in table.items():
        if source < len(lookup):
            lookup[source] = target
    result = np.empty(array.shape, dtype=np.uint8)
    for index, plane in enumerate(array):
        result[index] = lookup[plane]
        if int(result[index].max()) == _UNKNOWN:
            return apply_table(array, table, file="semantic mask").astype(np.uint8)
    return result
