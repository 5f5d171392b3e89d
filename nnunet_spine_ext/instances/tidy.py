"""Clean-up of the semantic mask and of the instances together: what one of them changes the other one follows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.frame import CANAL, CORD, ORIENTATION
from nnunet_spine_ext.instances.holes import Holes, find_holes
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.voxels import Voxels, coordinates, neighbours, read_voxels

# No class of ``nnunet14``: marks noise while its neighbours vote.
_NOISE = 15


@dataclass(frozen=True)
class TidySettings:
    """Which steps change the semantic mask; the instances follow.

    Parameters
    ----------
    relabel_voxels: in a noisy mask, components of one class of at most this many voxels take the class that most of
        their neighbours have, background included; 0 switches it off.
    noisy_share: a mask is noisy when more than this share of its foreground is in such components. Drawn and predicted
        masks have a few of them, at thin tips, and those are no noise.
    remove_specks: delete components of one class smaller than `InstanceSettings.min_speck_mm3`, as SPINEPS does.
    canal_range_mm: delete what lies farther than this from canal and cord; 0 switches it off (SPINEPS: 64).
    fill_holes: fill holes of an instance, in both masks. A hole is enclosed by one instance and holds nothing but
        background and specks.
    max_hole_mm3: larger holes stay.
    remove_unassigned: delete voxels of vertebrae that belong to no instance; they are kept by default.
    split_endplates: write the ids of superior and inferior endplates (52, 53) where the scheme is ``spineps``.
    own_endplates: number an endplate after its own vertebra (226: the sacrum's); by default, as in SPINEPS, after the
        disc that it borders, which is the one below the upper vertebra.
    """

    relabel_voxels: int = 1
    noisy_share: float = 0.005
    remove_specks: bool = False
    canal_range_mm: float = 0.0
    fill_holes: bool = True
    max_hole_mm3: float = 300.0
    remove_unassigned: bool = False
    split_endplates: bool = True
    own_endplates: bool = False

    def __post_init__(self) -> None:
        limits = {
            "relabel_voxels": (0, 1e6),
            "noisy_share": (0.0, 1.0),
            "canal_range_mm": (0.0, 1e6),
            "max_hole_mm3": (0.0, 1e6),
        }
        check_ranges(self, limits, where="instances.tidy")


@dataclass
class Edits:
    """Changes of the semantic mask that have been decided on, in the order of their making.

    `places` hold flat indices into the frame, `values` ids of the input's scheme.
    """

    places: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    def add(self, flat: Array, value: Array | int) -> None:
        """Note new ids (one, or one per voxel) of voxels."""
        if len(flat):
            self.places.append(flat)
            self.values.append(np.broadcast_to(np.asarray(value), flat.shape))

    def apply(self, voxels: Voxels, semantic: Volume) -> Volume:
        """Return the mask with all changes; the mask itself if there are none."""
        if not self.places:
            return semantic
        changed = semantic.with_array(semantic.array.copy())
        for flat, value in zip(self.places, self.values, strict=True):
            voxels.write(changed, flat, value)
        return changed


def drop_before(
    voxels: Voxels, semantic: Volume, settings: TidySettings, min_speck_mm3: float, edits: Edits
) -> tuple[Voxels, dict[str, int]]:
    """Give the noise of a noisy mask the class of its surroundings; leave out specks and what is far from the canal.

    Returns (voxels that remain, facts for the QC).
    """
    facts: dict[str, int] = {}
    if settings.relabel_voxels > 0:
        voxels, facts["voxels_relabelled"] = _relabel(voxels, semantic, settings, edits)
    gone = np.zeros(len(voxels), dtype=bool)
    if settings.remove_specks:
        gone = ~voxels.solid(min_speck_mm3)
        facts["specks_removed_voxels"] = int(gone.sum())
    if settings.canal_range_mm > 0:
        far = _far_from_canal(voxels, settings.canal_range_mm)
        facts["beyond_canal_removed_voxels"] = int((far & ~gone).sum())
        gone |= far
    if gone.any():
        edits.add(voxels.flat[gone], 0)
        voxels = voxels.without(gone)
    return voxels, facts


def _relabel(voxels: Voxels, semantic: Volume, settings: TidySettings, edits: Edits) -> tuple[Voxels, int]:
    """Give noise the class of most of its 26 neighbours; what is noise itself has no say.

    Returns (voxels of the frame with its new labels, how many voxels were noise).
    """
    few = np.bincount(voxels.part, minlength=len(voxels.part_label)) <= settings.relabel_voxels
    noise = voxels.flat[few[voxels.part]]
    # A mask of nothing else has no surroundings.
    if len(noise) <= settings.noisy_share * len(voxels) or len(noise) == len(voxels):
        return voxels, 0
    labels = voxels.frame.labels.copy()
    flat = labels.reshape(-1)
    flat[noise] = _NOISE
    votes = np.zeros((len(noise), _NOISE + 1), dtype=np.uint8)
    rows = np.arange(len(noise))
    for place in neighbours(noise, labels.shape):
        votes[rows, flat[place]] += 1
    winner = votes[:, :_NOISE].argmax(axis=1).astype(np.uint8)
    # The mask has ids of its own scheme: each takes that of a neighbour of the class.
    like = noise.copy()
    for place in neighbours(noise, labels.shape):
        like = np.where(flat[place] == winner, place, like)
    flat[noise] = winner
    view = semantic.turned(ORIENTATION).array[voxels.frame.box]
    edits.add(noise, view[coordinates(like, labels.shape)])
    return read_voxels(replace(voxels.frame, labels=labels)), len(noise)


def _far_from_canal(voxels: Voxels, reach_mm: float) -> Array:
    """Which voxels lie farther from canal and cord than this, to the accuracy of a cell; none if there is no canal."""
    from scipy.spatial import cKDTree

    canal = np.unique(voxels.cell[voxels.of(CORD, CANAL)])
    if len(canal) == 0:
        return np.zeros(len(voxels), dtype=bool)
    cells, inverse = np.unique(voxels.cell, return_inverse=True)
    size = np.asarray(voxels.cells.spacing)
    tree, points = (np.stack(coordinates(k, voxels.cells.shape), axis=1) * size for k in (canal, cells))
    distance = cKDTree(tree).query(points, distance_upper_bound=reach_mm)[0]
    far: Array = np.isinf(distance)[inverse]
    return far


def fill_holes(
    voxels: Voxels, ids: Array, semantic: Volume, settings: TidySettings, min_speck_mm3: float, edits: Edits
) -> tuple[Holes | None, dict[str, Any]]:
    """Fill holes in the ids, in place where a voxel is listed; returns (what was filled, facts for the QC)."""
    if not settings.fill_holes:
        return None, {}
    holes = find_holes(voxels, ids, max_hole_mm3=settings.max_hole_mm3, min_speck_mm3=min_speck_mm3)
    facts: dict[str, Any] = {
        "holes_filled": holes.count,
        "holes_filled_mm3": round(len(holes.flat) * voxels.frame.voxel_volume, 1),
    }
    if len(holes.flat):
        view = semantic.turned(ORIENTATION).array[voxels.frame.box]
        edits.add(holes.flat, view[coordinates(voxels.flat[holes.like], voxels.frame.labels.shape)])
        listed = np.minimum(np.searchsorted(voxels.flat, holes.flat), len(voxels) - 1)
        here = voxels.flat[listed] == holes.flat
        ids[listed[here]] = holes.ids[here]
    return holes, facts


def drop_unassigned(voxels: Voxels, ids: Array, settings: TidySettings, edits: Edits) -> dict[str, int]:
    """Take voxels of vertebrae that belong to no instance out of the semantic mask, where that is asked for."""
    if not settings.remove_unassigned:
        return {}
    loose = (class_lookup()[voxels.label] >= 0) & (ids == 0)
    edits.add(voxels.flat[loose], 0)
    return {"unassigned_removed_voxels": int(loose.sum())}
