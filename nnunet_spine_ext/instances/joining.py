"""Instance masks of neighbouring scans: which number of one is which number of the other."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import DISC_OFFSET, VERTEBRAE, vertebra_name
from nnunet_spine_ext.core.volume import Array

# Two numbers mean one vertebra when their voxels in the overlap share at least this Dice.
MIN_DICE = 0.5
# Fewer voxels of a vertebra in the overlap prove nothing.
MIN_VOXELS = 20
# C1 to L6: what programs count on from the top when they do not know the level. The sacrum keeps its ids.
_COUNTED = range(1, 26)
_T13 = 28


def joined_numbers(
    upper: Array, lower: Array, upper_ids: Collection[int], lower_ids: Collection[int]
) -> dict[int, int]:
    """Return what the ids of a lower scan are in the numbering of the scan above it.

    Programs that do not know the levels number each scan from its top. Where two scans overlap, the vertebrae tell how
    far one count lags behind the other; all of them have to tell the same.

    Parameters
    ----------
    upper, lower: instance ids (scheme ``instances``) of both scans in the voxels that they share, equal shapes.
    upper_ids, lower_ids: all ids of both scans.

    Raises
    ------
    CaseError: the overlap does not tell, tells different things, or the numbers would leave C1 to L6.
    """
    pairs = _matches(upper, lower)
    told = {below: above for below, above in pairs.items() if below != above or below != _T13}
    shifts = {above - below for below, above in told.items()}
    if not told:
        above, below = (_counted(ids) for ids in (upper_ids, lower_ids))
        if above and below and max(above) >= min(below):
            found = "no vertebra that both scans hold, and numbers that both use"
            raise _unreconciled(found, "a vertebra in the overlap")
        return {number: number for number in lower_ids}
    if len(shifts) > 1 or _T13 in {*told, *told.values()}:
        listing = ", ".join(f"{vertebra_name(a)} is {vertebra_name(b)} below" for b, a in sorted(told.items()))
        raise _unreconciled(f"numbers that do not differ by one shift: {listing}", "one shift for all vertebrae")
    shift = next(iter(shifts))
    if not shift:
        return {number: number for number in lower_ids}
    if _T13 in {number % DISC_OFFSET for number in (*lower_ids, *upper_ids)}:
        raise _unreconciled("a T13 in a scan whose numbers have to be shifted", "numbers without T13")
    return {number: _shifted(number, shift) for number in lower_ids}


def _matches(upper: Array, lower: Array) -> dict[int, int]:
    """Return id below to id above for the vertebrae that the overlap shows in both."""
    above = {k: n for k, n in _sizes(upper).items() if n >= MIN_VOXELS}
    found = {}
    for number, size in _sizes(lower).items():
        inside = _sizes(upper[lower == number])
        best = max(inside, key=lambda k: inside[k], default=0)
        if size >= MIN_VOXELS and best in above and 2 * inside[best] / (size + above[best]) >= MIN_DICE:
            found[number] = best
    return found


def _sizes(array: Array) -> dict[int, int]:
    ids, counts = np.unique(array, return_counts=True)
    return {int(k): int(n) for k, n in zip(ids, counts, strict=True) if k in _COUNTED or k == _T13}


def _counted(ids: Collection[int]) -> list[int]:
    return [number for number in ids if number in _COUNTED]


def _shifted(number: int, shift: int) -> int:
    base = number % DISC_OFFSET
    if base not in _COUNTED:
        return number
    if base + shift not in _COUNTED:
        found = f"{VERTEBRAE[base]} shifted by {shift}"
        raise _unreconciled(found, "numbers from C1 to L6")
    return number + shift


def _unreconciled(found: str, expected: str) -> CaseError:
    return CaseError(
        "E-STITCH-NUMBERS", found=found, expected=expected, fix="number the vertebrae of the scans alike, from C1"
    )
