"""Several masks of one scan laid on top of each other, and what lies between vertebral bodies and discs.

The rules are those of SPINEPS (Moeller et al. 2024, sec. 2.2): "we exclude voxels already segmented as a different
structure", "we incorporated the spinal cord pixels", "filled holes between corpus and IVD regions and relabeled the
transition pixels as endplates".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume

# Ids of the scheme nnunet14.
CORPUS, CORD, CANAL, ENDPLATE, DISC = 10, 11, 12, 13, 14
# The cord lies in the canal: a voxel of both is cord.
INSIDE: Mapping[int, int] = {CORD: CANAL}
# A voxel lies between two structures when their nearest points are seen under more than 120 degrees.
_BETWEEN_COSINE = -0.5


@dataclass(frozen=True)
class Conflict:
    """Voxels that two sources label differently.

    Parameters
    ----------
    kept, lost: labels that stay and that give way.
    kept_source, lost_source: numbers of the sources, from 0.
    voxels: how many.
    rule: ``earlier`` source, or ``inside``: a structure that lies inside another.
    """

    kept: int
    kept_source: int
    lost: int
    lost_source: int
    voxels: int
    rule: str


@dataclass(frozen=True)
class Merged:
    """Masks laid on top of each other: ids, which source each voxel is from (0 none, then from 1), conflicts."""

    array: Array
    origin: Array
    conflicts: tuple[Conflict, ...]

    def voxels(self) -> dict[tuple[int, int], int]:
        """Return the number of voxels per source (from 0) and label."""
        counts = np.bincount(_pairs(self.origin, self.array), minlength=1)
        return {(int(k >> 8) - 1, int(k & 255)): int(counts[k]) for k in np.flatnonzero(counts) if k >> 8}


def merge_layers(layers: Sequence[Array], classes: Sequence[Collection[int]]) -> Merged:
    """Lay masks on top of each other: what an earlier one labels stays.

    A structure that lies inside another one (`INSIDE`) replaces it, whatever the order, if it comes from the first
    source that has this structure at all.

    Parameters
    ----------
    layers: ids below 256, of equal shape, in the order of their priority.
    classes: the ids that each source can have.
    """
    array = np.zeros(layers[0].shape, dtype=np.uint8)
    origin = np.zeros(layers[0].shape, dtype=np.uint8)
    conflicts: list[Conflict] = []
    for number, layer in enumerate(layers):
        layer = layer.astype(np.uint8, copy=False)
        seen = set().union(*classes[:number])
        replaces = np.zeros(layer.shape, dtype=bool)
        for inner, outer in INSIDE.items():
            if inner not in seen:
                replaces |= (layer == inner) & (array == outer)
        differs = (layer > 0) & (array > 0) & (layer != array)
        conflicts += _counted(layer, array, origin, number, replaces, "inside")
        conflicts += _counted(layer, array, origin, number, differs & ~replaces, "earlier")
        chosen = replaces | ((layer > 0) & (array == 0))
        array[chosen] = layer[chosen]
        origin[chosen] = number + 1
    return Merged(array, origin, tuple(conflicts))


def fill_endplates(mask: Volume, gap_mm: float) -> tuple[Volume, int]:
    """Label the gaps between bodies and discs as endplates; return the mask and how many voxels were filled.

    A voxel is filled when it has no label, lies between a body and a disc (the directions to the nearest voxels of both
    differ by more than 120 degrees), and the gap, from border to border, is `gap_mm` or less.

    Parameters
    ----------
    mask: ids of nnunet14. `gap_mm`: 0 fills nothing.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    array = mask.array
    wanted = np.isin(array, (CORPUS, DISC))
    if gap_mm <= 0 or not (array == CORPUS).any() or not (array == DISC).any():
        return mask, 0
    margin = [int(np.ceil(gap_mm / size)) + 1 for size in mask.spacing]
    found = find_objects(wanted.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margin, strict=True))
    inner = array[box]
    reach, nearest = [], []
    for label in (CORPUS, DISC):
        distances, indices = distance_transform_edt(inner != label, sampling=mask.spacing, return_indices=True)
        reach.append(distances)
        nearest.append(indices)
    # Centres lie one voxel farther apart than borders; gaps run along the body.
    axis = next(k for k, letter in enumerate(mask.orientation) if letter in "IS")
    near = np.argwhere((inner == 0) & (reach[0] + reach[1] <= gap_mm + mask.spacing[axis] + 1e-6))
    ways = [(found[(slice(None), *near.T)].T - near) * np.asarray(mask.spacing) for found in nearest]
    lengths = [np.linalg.norm(way, axis=1) for way in ways]
    filled = near[(ways[0] * ways[1]).sum(axis=1) < _BETWEEN_COSINE * lengths[0] * lengths[1]]
    result = array.copy()
    result[box][tuple(filled.T)] = ENDPLATE
    return mask.with_array(result), len(filled)


def _counted(layer: Array, array: Array, origin: Array, number: int, where: Array, rule: str) -> list[Conflict]:
    """Count the voxels per pair of labels and source of the label that was there."""
    there, new, source = array[where], layer[where], origin[where]
    codes, counts = np.unique((there.astype(np.int64) << 16) | (new.astype(np.int64) << 8) | source, return_counts=True)
    found = []
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        old, other, before = code >> 16, (code >> 8) & 255, (code & 255) - 1
        if rule == "inside":
            found.append(Conflict(other, number, old, before, count, rule))
        else:
            found.append(Conflict(old, before, other, number, count, rule))
    return found


def _pairs(high: Array, low: Array) -> Array:
    return ((high.astype(np.int64) << 8) | low).ravel()
