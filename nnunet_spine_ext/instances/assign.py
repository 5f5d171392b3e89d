"""Voxels to vertebrae: posterior elements by competing fronts and votes, discs and endplates by level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import DISC, ENDPLATE
from nnunet_spine_ext.instances.fronts import make_fronts, second_start
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.votes import vote
from nnunet_spine_ext.instances.voxels import Voxels, near
from nnunet_spine_ext.measure.centreline import Centreline


@dataclass(frozen=True)
class AssignSettings:
    """How voxels find their vertebra.

    Parameters
    ----------
    prior_strength: weight of the anatomical priors; 0 is the plain geodesic distance.
    vote: let each connected part (articular process, spinous process, …) go to one vertebra as a whole.
    vote_share: a part goes as a whole if this share of it agrees (articular processes always do).
    vote_level: weight of the part's expected level against the share of its voxels.
    detour_mm: parts reached only at this much more than the length of the path (through a joint, far from home) are
        looked at again: their own body may be cut off, missing or outside the picture.
    min_part_mm3: smaller parts are not looked at again.
    min_speck_mm3: components of one class smaller than this join a vertebra only where they touch it.
    min_bodyless_mm3: a vertebra without a body needs this much of posterior elements to exist.
    """

    prior_strength: float = 1.0
    vote: bool = True
    vote_share: float = 0.75
    vote_level: float = 0.5
    detour_mm: float = 12.0
    min_part_mm3: float = 60.0
    min_speck_mm3: float = 28.0
    min_bodyless_mm3: float = 300.0

    def __post_init__(self) -> None:
        limits = {
            "prior_strength": (0.0, 1e6),
            "vote_share": (0.0, 1.0),
            "vote_level": (0.0, 1e6),
            "detour_mm": (0.0, 1e6),
            "min_part_mm3": (0.0, 1e6),
            "min_speck_mm3": (0.0, 1e6),
            "min_bodyless_mm3": (0.0, 1e6),
        }
        check_ranges(self, limits, where="instances.assign")


def assign_vertebrae(
    voxels: Voxels, body: Array, bodies: Bodies, line: Centreline, settings: AssignSettings
) -> tuple[Array, dict[str, int]]:
    """Give every voxel of a vertebra class to a body.

    Parameters
    ----------
    voxels: with arc lengths.
    body: (n,) number from 1 of the body that each voxel is part of, 0 elsewhere.
    bodies: may hold places without a body (see `slots.with_slots`).

    Returns
    -------
    (vertebra, counts): (n,) int16 numbers from 1, 0 where nothing could be reached and outside vertebrae; how many
    parts were moved because of their level, and by the vote.
    """
    vertebra = body.astype(np.int16)
    free = _to_assign(voxels, body, settings.min_speck_mm3)
    counts = {"parts_moved_by_level": 0, "parts_moved_by_vote": 0}
    if len(free) == 0:
        return vertebra, counts
    fronts = make_fronts(voxels, free, body, bodies, line, settings.prior_strength)
    reach = fronts.run()
    limits = {"detour_mm": settings.detour_mm, "min_part_mm3": settings.min_part_mm3}
    start, counts["parts_moved_by_level"] = second_start(fronts, voxels, reach, **limits)
    if counts["parts_moved_by_level"]:
        reach = fronts.rerun(start)
    owner = (reach.owner + 1).astype(np.int16)[fronts.node]
    if settings.vote:
        counts["parts_moved_by_vote"] = vote(
            voxels, free, owner, bodies, share=settings.vote_share, level=settings.vote_level
        )
    vertebra[free] = owner
    return vertebra, counts


def _to_assign(voxels: Voxels, body: Array, min_speck_mm3: float) -> Array:
    """Numbers of the voxels of vertebrae outside the bodies; specks only where they touch a larger part."""
    bony = class_lookup()[voxels.label] >= 0
    solid = voxels.solid(min_speck_mm3)
    wanted = bony & (body == 0)
    specks = np.flatnonzero(wanted & ~solid)
    if len(specks):
        wanted[specks] = near(voxels.dense(bony & solid, np.bool_), voxels.flat[specks])
    return np.flatnonzero(wanted)


def assign_levels(voxels: Voxels, body: Array, bodies: Bodies, min_speck_mm3: float) -> Array:
    """Give discs and endplates to the vertebra above them along the line of the spine.

    Parameters
    ----------
    body: (n,) number from 1 of the body that each voxel is part of, 0 elsewhere.
    min_speck_mm3: specks of discs and endplates count where they touch a body, disc or endplate.

    Returns
    -------
    (n,) int16 number of the vertebra above, 0 elsewhere and above the first vertebra.
    """
    gap = voxels.of(DISC, ENDPLATE)
    solid = voxels.solid(min_speck_mm3)[gap]
    if not solid.all():
        kept = np.zeros(voxels.frame.labels.shape, dtype=bool)
        kept.reshape(-1)[voxels.flat[gap[solid]]] = True
        kept.reshape(-1)[voxels.flat[body > 0]] = True
        solid[~solid] = near(kept, voxels.flat[gap[~solid]])
    levels = np.zeros(len(voxels), dtype=np.int16)
    levels[gap[solid]] = np.searchsorted(bodies.arc, voxels.arc[gap[solid]], side="right")
    return levels
