"""The cord as numbers from 0 to 1, in one frame: what every measurement of it starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import id_ranges
from nnunet_spine_ext.core.soft_labels import IGNORE, LARGEST
from nnunet_spine_ext.core.volume import Array, Volume

# The frame of the Spinal Cord Toolbox, which it calls RPI after the ends where its axes start.
FRAME = "LAS"
# Below this a value is a rounding error of interpolation (the Spinal Cord Toolbox' bound).
NEAR_ZERO = 1e-6


@dataclass(frozen=True, eq=False)
class CordMap:
    """A cord mask or soft map in the frame LAS, cropped in the plane to what is not zero.

    Parameters
    ----------
    array: (x, y, z) float64, from 0 up, not above `LARGEST`; x to the left, y to the front, z up.
    offset: voxels cut off at the low ends of x and y.
    shape: of the whole volume in this frame.
    unknown: (z,) slices in which the map is declared unknown (-1) somewhere.
    grid: the whole volume's grid in this frame; its array is not looked at.
    axis: axis of the input's own array that runs along z.
    flipped: whether that axis runs downwards.
    notes: sentences about values that were changed.
    """

    array: Array
    offset: tuple[int, int]
    shape: tuple[int, int, int]
    unknown: Array
    grid: Volume
    axis: int
    flipped: bool
    notes: tuple[str, ...]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along x, y, z, without the digits that single precision adds to it in headers."""
        x, y, z = (float(str(np.float32(v))) for v in self.grid.spacing)
        return x, y, z

    def own_index(self, slices: Array) -> Array:
        """Return the index along the input's own array axis for slices of this frame (0 is the lowest)."""
        return self.shape[2] - 1 - slices if self.flipped else slices


def cord_map(volume: Volume, label: int | None = None) -> CordMap:
    """Take the cord out of a mask, a soft map or a label map.

    Parameters
    ----------
    volume: values 0 and any one other number (a mask), fractions from 0 to 1 (a soft map, -1 where unknown), or
        several labels.
    label: the label to measure; needed when there are several.

    Returns
    -------
    The map. NaN and infinite values count as 0, negative ones too (except -1 in a soft map); both are noted.

    Raises
    ------
    CaseError: several labels and none chosen, or values that are no shares of a voxel.
    """
    frame = volume.to(FRAME)
    axis = next(k for k, letter in enumerate(volume.orientation) if letter in "IS")
    values, unknown, notes = _shares(frame.array, label)
    box = _box(values)
    return CordMap(
        array=values[box].astype(np.float64),
        offset=(box[0].start, box[1].start),
        shape=frame.shape,
        unknown=unknown,
        grid=frame,
        axis=axis,
        flipped=volume.orientation[axis] == "I",
        notes=tuple(notes),
    )


def _shares(array: Array, label: int | None) -> tuple[Array, Array, list[str]]:
    """Values from 0 up, the slices that are unknown, and what was changed."""
    known = np.zeros(array.shape[2], dtype=bool)
    if label is not None:
        return (array == label).astype(np.float32), (array == IGNORE).any(axis=(0, 1)), []
    if array.dtype == np.bool_:
        return array.astype(np.uint8), known, []
    notes: list[str] = []
    if array.dtype.kind == "f":
        broken = ~np.isfinite(array)
        if broken.any():
            notes.append(f"{int(broken.sum())} voxels that are no number count as 0")
            array = np.where(broken, 0, array)
    found = np.unique(array)
    if _is_whole(found):
        return _mask(array, found, notes)
    return _soft(array, found, notes)


def _is_whole(found: Array) -> bool:
    return found.dtype.kind in "iu" or bool((found == np.round(found)).all())


def _mask(array: Array, found: Array, notes: list[str]) -> tuple[Array, Array, list[str]]:
    labels = [int(value) for value in found if value not in (0, IGNORE)]
    if len(labels) > 1:
        raise CaseError(
            "E-CSA-LABEL",
            found=f"labels {id_ranges(labels)}",
            expected="a mask or soft map of the cord alone",
            fix="say which label is the cord with --label (label=), or give soft maps on a scale from 0 to 1",
        )
    unknown = (array == IGNORE).any(axis=(0, 1))
    return (array == labels[0] if labels else np.zeros_like(array)).astype(np.uint8), unknown, notes


def _soft(array: Array, found: Array, notes: list[str]) -> tuple[Array, Array, list[str]]:
    if found[-1] > LARGEST:
        raise CaseError(
            "E-CSA-RANGE",
            found=f"values from {found[0]:g} to {found[-1]:g}",
            expected="shares of a voxel, from 0 to 1",
            fix="divide the map by the value of a full voxel",
        )
    missing = array == IGNORE
    unknown = missing.any(axis=(0, 1))
    negative = (array < 0) & ~missing
    if negative.any():
        notes.append(f"{int(negative.sum())} negative voxels (down to {found[found != IGNORE][0]:.3g}) count as 0")
    return np.where(array < 0, 0, array), unknown, notes


def _box(values: Array) -> tuple[slice, slice, slice]:
    """The smallest box in the plane that holds all values that are not zero; one voxel if there is none."""
    bounds = []
    for axis in (0, 1):
        used = np.flatnonzero(values.any(axis=tuple(k for k in range(3) if k != axis)))
        bounds.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return bounds[0], bounds[1], slice(None)
