"""From the vertebrae that answers of cutouts agree on to those of the mask: numbers, what nobody claimed, the QC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.borders import settle_borders
from nnunet_spine_ext.instances.cutouts import ModelGrid
from nnunet_spine_ext.instances.frame import CORPUS, grown
from nnunet_spine_ext.instances.fusion import Candidates, Vertebra, Voter
from nnunet_spine_ext.instances.geodesic import make_graph, propagate
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.sites import Sites
from nnunet_spine_ext.instances.voxels import CHUNK, Voxels, coordinates


@dataclass(frozen=True)
class Fused:
    """The state after a round of fusion: `place` (n,) mm along the spine of each candidate, `unused` answers."""

    voters: list[Voter]
    candidates: Candidates
    place: Array
    vertebrae: list[Vertebra]
    unused: list[int]


@dataclass(frozen=True)
class NetworkAssignment:
    """Vertebrae found with the help of a network.

    Parameters
    ----------
    vertebra: (n,) int16 per voxel of the foreground, numbers into `bodies` from 1, from head to tail; 0 elsewhere.
    bodies: places from head to tail, some of them without a body.
    real: (places,) bool, which places have a body.
    agreement: place number to mean Dice of the answers used for it with the result; 0 if no cutout saw it.
    answers: place number to how many cutouts' answers were used.
    steps: counts for the QC.
    warnings: findings that a user should look at.
    """

    vertebra: Array
    bodies: Bodies
    real: Array
    agreement: dict[int, float]
    answers: dict[int, int]
    steps: dict[str, Any]
    warnings: list[Problem]


def assemble(
    voxels: Voxels,
    grid: ModelGrid,
    sites: Sites,
    fused: Fused,
    names: Array,
    free: Array,
    bodies: Bodies,
    real: Array,
    *,
    fill_mm: float,
    min_body_mm3: float,
    border_share: float,
    border_mm: float,
) -> NetworkAssignment:
    """Number the vertebrae from head to tail together with the places that stay empty, and bring them to the voxels.

    Parameters
    ----------
    names: (sites,) vertebra of each site, a number from 1 into `fused.vertebrae`; 0 for none.
    free: (n,) the assignment without a network, which is the first voter; `bodies`, `real`: its places.
    fill_mm: voxels that nobody claimed join the vertebra that is nearest through the mask, up to this distance.
    min_body_mm3: less of a body than this is none.
    border_share, border_mm: see `borders.settle_borders`.
    """
    free_of = [_free_member(fused, vertebra) for vertebra in fused.vertebrae]
    empty = [k for k in range(1, len(bodies) + 1) if not real[k - 1] and k not in free_of]
    arcs = [
        float(bodies.arc[place - 1]) if place else float(fused.place[vertebra.candidate])
        for place, vertebra in zip(free_of, fused.vertebrae, strict=True)
    ]
    arcs += [float(bodies.arc[k - 1]) for k in empty]
    order = np.argsort(np.array(arcs), kind="stable")
    number = np.zeros(len(arcs) + 1, dtype=np.int16)
    number[order + 1] = np.arange(1, len(arcs) + 1)
    place_of = np.zeros(len(bodies) + 1, dtype=np.int16)
    for position, k in enumerate(empty, start=len(fused.vertebrae) + 1):
        place_of[k] = number[position]
    # What only an empty place claims stays with it: whether it is a vertebra is decided later.
    numbered = np.where(names > 0, number[names], place_of[fused.voters[0].labels])
    vertebra = _at_voxels(voxels, grid, sites, numbered)
    filled = _fill(voxels, vertebra, fill_mm)
    free_number = {place: int(number[k]) for k, place in enumerate(free_of, start=1) if place}
    for place, known in free_number.items():
        place_of[place] = known
    moved = settle_borders(voxels, vertebra, place_of[free], share=border_share, reach_mm=border_mm)
    arc = np.array(arcs)[order]
    notes = {key: sorted(free_number[k] for k in found if k in free_number) for key, found in bodies.notes.items()}
    body = np.where(voxels.label == CORPUS, vertebra, np.int16(0))
    found = Bodies(body, arc, np.interp(arc, bodies.arc, bodies.pitch), notes)
    found, is_real = _real_bodies(voxels, found, min_body_mm3)
    agreement, answers = _agreement(fused, names)
    steps = {"answers_unused": len(fused.unused), "voxels_filled": filled, "voxels_moved_at_borders": moved}
    return NetworkAssignment(
        vertebra,
        found,
        is_real,
        {int(number[k]): value for k, value in agreement.items()},
        {int(number[k]): n for k, n in answers.items()},
        steps,
        [],
    )


def _free_member(fused: Fused, vertebra: Vertebra) -> int:
    """Number that a vertebra has in the assignment without a network, 0 if it is not in it."""
    for k in vertebra.members:
        if fused.candidates.voter[k] == 0:
            return int(fused.candidates.label[k])
    return 0


def _at_voxels(voxels: Voxels, grid: ModelGrid, sites: Sites, values: Array) -> Array:
    """Bring values (int16) of the sites to the voxels of vertebrae of the frame, nearest neighbour; 0 elsewhere."""
    whole = sites.put(values)
    vertebra = np.zeros(len(voxels), dtype=np.int16)
    for begin in range(0, len(voxels), CHUNK):
        piece = slice(begin, begin + CHUNK)
        bony = np.flatnonzero(class_lookup()[voxels.label[piece]] >= 0)
        x, y, z = coordinates(voxels.flat[piece][bony], voxels.frame.labels.shape)
        vertebra[piece][bony] = whole[grid.place[0][y], grid.place[1][z], grid.place[2][x]]
    return vertebra


def _fill(voxels: Voxels, vertebra: Array, limit: float) -> int:
    """Give voxels that nobody claimed to the vertebra nearest through the mask, in place; returns how many."""
    open_ = np.flatnonzero((class_lookup()[voxels.label] >= 0) & (vertebra == 0))
    if len(open_) == 0:
        return 0
    shape = voxels.frame.labels.shape
    # The rest of the frame has no part in it.
    place = coordinates(voxels.flat[open_], shape)
    box = tuple(slice(max(0, int(axis.min()) - 1), int(axis.max()) + 2) for axis in place)
    inside = [axis - part.start for axis, part in zip(place, box, strict=True)]
    mask = np.zeros([min(part.stop, n) - part.start for part, n in zip(box, shape, strict=True)], dtype=bool)
    mask[tuple(inside)] = True
    claimed = voxels.dense(vertebra > 0, np.bool_)[box]
    mask |= grown(mask) & claimed
    del claimed
    graph = make_graph(mask, voxels.frame.spacing)
    x, y, z = (axis + part.start for axis, part in zip(coordinates(graph.flat, mask.shape), box, strict=True))
    number = np.searchsorted(voxels.flat, ((x * shape[1] + y) * shape[2] + z).astype(voxels.flat.dtype))
    del mask, x, y, z
    reach = propagate(graph, vertebra[number].astype(np.int32) - 1, limit=limit)
    vertebra[number] = reach.owner + 1
    return int((vertebra[open_] > 0).sum())


def _agreement(fused: Fused, names: Array) -> tuple[dict[int, float], dict[int, int]]:
    """Mean Dice of the answers used for each vertebra with the result, and their number."""
    agreement: dict[int, float] = {}
    answers: dict[int, int] = {}
    sizes = np.bincount(names, minlength=len(fused.vertebrae) + 1)
    for number, vertebra in enumerate(fused.vertebrae, start=1):
        values = []
        for k in vertebra.members:
            voter = fused.voters[fused.candidates.voter[k]]
            if voter.network:
                own = voter.labels == fused.candidates.label[k]
                shared = int((names[voter.low : voter.high][own] == number).sum())
                values.append(2.0 * shared / max(float(fused.candidates.size[k]) + float(sizes[number]), 1.0))
        agreement[number] = round(float(np.mean(values)), 4) if values else 0.0
        answers[number] = len(values)
    return agreement, answers


def _real_bodies(voxels: Voxels, bodies: Bodies, min_body_mm3: float) -> tuple[Bodies, Array]:
    """Take bodies that are no more than a fragment for absent."""
    size = np.bincount(bodies.labels, minlength=len(bodies) + 1) * voxels.frame.voxel_volume
    real = size[1:] >= min_body_mm3
    keep = np.concatenate([[0], np.where(real, np.arange(1, len(bodies) + 1), 0)]).astype(np.int16)
    return replace(bodies, labels=keep[bodies.labels]), real


def findings_of(steps: dict[str, Any], uncovered_mm3: float) -> list[Problem]:
    """Return what the answers of the network as a whole give reason to look at."""
    found = []
    if steps["answers_unused"]:
        found.append(
            Problem(
                "warning",
                "W-INST-COUPLE",
                "",
                f"{steps['answers_unused']} answers of cutouts agree with no vertebra and were not used",
                "answers that agree with those of neighbouring cutouts",
                "look at the borders between vertebrae",
            )
        )
    if steps["cutouts_without_answer"]:
        found.append(
            Problem(
                "warning",
                "W-INST-CUTOUT",
                "",
                f"{steps['cutouts_without_answer']} of {steps['cutouts']} cutouts without an answer",
                "an answer for every cutout",
                "check whether the model was trained for masks like this one",
            )
        )
    if uncovered_mm3 > 0:
        found.append(
            Problem(
                "warning",
                "W-INST-UNCOVERED",
                "",
                f"{uncovered_mm3:.0f} mm³ of vertebral bodies in no answer of the network",
                "every body in one",
                "those voxels were assigned without the network; look at them",
            )
        )
    return found
