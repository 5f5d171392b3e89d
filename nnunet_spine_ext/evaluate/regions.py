"""Cervical, thoracic, lumbar and sacral parts of a case, by the instances of the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from nnunet_spine_ext.core.labels import DISC_OFFSET, VERTEBRAE
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.pairs import MaskPair, PairPart

Spacing = tuple[float, float, float]
REGIONS = ("cervical", "thoracic", "lumbar", "sacral")
_LETTERS = {"C": "cervical", "T": "thoracic", "L": "lumbar", "S": "sacral", "c": "sacral"}
# Where no instance is, the nearest one is looked up on a grid of about this size.
_COARSE_MM = 2.0


def region_of(instance: int) -> str | None:
    """Return the region of an instance id (vertebra n, disc 100+n, endplate 200+n); None for other ids."""
    # The coccyx is the only name in small letters: C is cervical, c is not.
    name = VERTEBRAE.get(instance % DISC_OFFSET)
    return None if name is None else _LETTERS[name[0]]


def members(ids: Iterable[int]) -> dict[str, frozenset[int]]:
    """Return the ids of every region that has any, from head to tail."""
    sorted_ids: dict[str, set[int]] = {region: set() for region in REGIONS}
    for label in ids:
        region = region_of(label)
        if region is not None:
            sorted_ids[region].add(label)
    return {region: frozenset(found) for region, found in sorted_ids.items() if found}


def region_map(instances: Array, spacing: Spacing) -> Array | None:
    """Return the region of every voxel: 1 + its position in `REGIONS`, uint8, shape of `instances` (i, j, k).

    A voxel belongs to the region of the instance that is there, else to that of the nearest one. None: there is no
    instance that belongs to a region.
    """
    from scipy.ndimage import distance_transform_edt

    table = np.zeros(int(instances.max(initial=0)) + 1, dtype=np.uint8)
    for label in range(1, len(table)):
        region = region_of(label)
        table[label] = 0 if region is None else 1 + REGIONS.index(region)
    own = table[instances]
    if not own.any():
        return None
    steps = [max(1, math.floor(_COARSE_MM / size + 0.5)) for size in spacing]
    coarse = own[tuple(slice(None, None, step) for step in steps)]
    if not coarse.any():
        steps, coarse = [1, 1, 1], own
    sampling = [step * size for step, size in zip(steps, spacing, strict=True)]
    nearest = distance_transform_edt(coarse == 0, sampling=sampling, return_distances=False, return_indices=True)
    full = coarse[tuple(nearest)]
    for axis, step in enumerate(steps):
        # The nearest sample: sample k stands at voxel k * step.
        index = np.minimum((np.arange(own.shape[axis]) + step // 2) // step, full.shape[axis] - 1)
        full = full.take(index, axis=axis)
    return np.where(own > 0, own, full)


def regions_by_place(instances: Array, regions: Array) -> dict[int, str]:
    """Return the region that holds most voxels of each instance; `regions` is the map of the same grid (i, j, k)."""
    here = instances > 0
    counts = np.zeros((int(instances.max(initial=0)) + 1, len(REGIONS) + 1), dtype=np.int64)
    np.add.at(counts, (instances[here], regions[here]), 1)
    return {label: REGIONS[counts[label].argmax() - 1] for label in np.flatnonzero(counts.any(axis=1)).tolist()}


def _nearest_used(counts: Array) -> Array:
    """Return for each region number the one to count it as: the nearest with a count, from head to tail."""
    used = np.flatnonzero(counts)
    numbers = np.arange(len(counts), dtype=np.uint8)
    return numbers if len(used) == 0 else used[np.abs(used[None] - numbers[:, None]).argmin(axis=1)].astype(np.uint8)


def region_parts(pair: MaskPair, regions: Array) -> Iterator[tuple[str, PairPart]]:
    """Yield what of a structure lies in each region that holds any of its reference, or without one, of its prediction.

    `regions` is the map of the whole volume. Where the prediction leaves the regions of the reference, it counts in the
    nearest one of them: a voxel of the sacrum beyond the last disc is no lumbar sacrum with a Dice of 0.
    """
    box = tuple(slice(start, start + size) for start, size in zip(pair.origin, pair.ref.shape, strict=True))
    inside = _nearest_used(np.bincount(regions[box][pair.ref], minlength=len(REGIONS) + 1))[regions[box]]
    counts = [
        np.bincount(inside[mask], minlength=len(REGIONS) + 1) for mask in (pair.ref, pair.pred, pair.ref & pair.pred)
    ]
    for number, region in enumerate(REGIONS, start=1):
        ref, pred, both = (int(count[number]) for count in counts)
        if ref or pred:
            yield region, PairPart(pair, inside, number, ref, pred, both)
