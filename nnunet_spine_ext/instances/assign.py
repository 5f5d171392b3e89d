"""Voxels to vertebrae: posterior elements by competing fronts and votes, discs and endplates by level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import (
    ARCUS,
    COSTAL,
    DISC,
    ENDPLATE,
    INFERIOR,
    SPINOUS,
    SUPERIOR,
    Frame,
    bounding_box,
    grown,
)
from nnunet_spine_ext.instances.geodesic import Graph, Reach, make_graph, propagate
from nnunet_spine_ext.instances.priors import ARCH, EXPECTED, LOWER, UPPER, PriorCost, class_lookup, prior_cost
from nnunet_spine_ext.instances.seeds import Bodies
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
    min_bodyless_mm3: a vertebra without a body needs this much of posterior elements to exist.
    """

    prior_strength: float = 1.0
    vote: bool = True
    vote_share: float = 0.75
    vote_level: float = 0.5
    detour_mm: float = 12.0
    min_part_mm3: float = 60.0
    min_bodyless_mm3: float = 800.0


# (classes taken together, must a component stay whole?): both sides are separate components anyway.
_VOTERS: tuple[tuple[int, bool], ...] = (
    (SUPERIOR[0], True),
    (SUPERIOR[1], True),
    (INFERIOR[0], True),
    (INFERIOR[1], True),
    (COSTAL[0], True),
    (COSTAL[1], True),
    (SPINOUS, False),
    (ARCUS, False),
)


# Parts whose level tells their vertebra; spinous and costal processes follow the arch they hang on.
_ANCHORS = (ARCH, UPPER, LOWER)


@dataclass(frozen=True)
class _Fronts:
    """The graph that the fronts travel on, where they start and what their steps cost."""

    graph: Graph
    cost: PriorCost
    owner: Array


def assign_vertebrae(
    frame: Frame, bodies: Bodies, line: Centreline, settings: AssignSettings
) -> tuple[Array, dict[str, int]]:
    """Give every voxel of a vertebra class to a body.

    Parameters
    ----------
    bodies: may hold places without a body (see `slots.with_slots`).

    Returns
    -------
    (vertebrae, counts): int16 array of the frame with body numbers from 1, 0 where nothing could be reached; how many
    parts were moved because of their level, and by the vote.
    """
    kinds = class_lookup()[frame.labels]
    fronts = _fronts(frame, kinds, bodies, line, settings)
    reach = propagate(fronts.graph, fronts.owner, cost=fronts.cost)
    start, moved_by_level = _second_start(frame, fronts, reach, settings)
    if moved_by_level:
        # Parts without a body of their own start where an arch starts, about this far from the body's surface.
        cost = np.where(fronts.owner >= 0, 0.0, 15.0)
        reach = propagate(fronts.graph, start, start=cost, cost=fronts.cost)
    vertebrae = bodies.labels.copy()
    vertebrae.reshape(-1)[fronts.graph.flat] = reach.owner + 1
    moved = _vote(frame, vertebrae, fronts.graph, fronts.cost, settings) if settings.vote else 0
    return vertebrae, {"parts_moved_by_level": moved_by_level, "parts_moved_by_vote": moved}


def _fronts(frame: Frame, kinds: Array, bodies: Bodies, line: Centreline, settings: AssignSettings) -> _Fronts:
    """Nodes are all voxels outside the bodies plus the bodies' surfaces, where the fronts start."""
    free = (kinds >= 0) & (bodies.labels == 0)
    nodes = free | (grown(free) & (bodies.labels > 0))
    graph = make_graph(nodes, frame.spacing)
    owner = bodies.labels.reshape(-1)[graph.flat].astype(np.int32) - 1
    kind = kinds.reshape(-1)[graph.flat]
    positions = frame.positions(graph.flat)
    return _Fronts(graph, prior_cost(kind, positions, line, bodies.arc, bodies.pitch, settings.prior_strength), owner)


def _second_start(frame: Frame, fronts: _Fronts, reach: Reach, settings: AssignSettings) -> tuple[Array, int]:
    """Find parts that were reached only by a detour and start again with them at the vertebra of their level.

    Returns (owner of the starting nodes, number of parts that changed their vertebra).
    """
    import cc3d

    with np.errstate(invalid="ignore"):
        detour = ~(reach.cost - reach.length <= settings.detour_mm)
    nodes = np.flatnonzero(detour & np.isin(fronts.cost.kind, _ANCHORS))
    if len(nodes) == 0 or settings.prior_strength <= 0:
        return fronts.owner, 0
    part_of = np.zeros(frame.labels.shape, dtype=np.uint8)
    part_of.reshape(-1)[fronts.graph.flat[nodes]] = frame.labels.reshape(-1)[fronts.graph.flat[nodes]]
    parts = cc3d.connected_components(part_of, connectivity=18)
    name = parts.reshape(-1)[fronts.graph.flat[nodes]].astype(np.intp)
    size = np.bincount(name) * frame.voxel_volume
    start, moved = fronts.owner.copy(), 0
    order = np.argsort(name, kind="stable")
    bounds = np.searchsorted(name[order], np.arange(len(size) + 1))
    for part in np.flatnonzero(size >= settings.min_part_mm3):
        members = nodes[order[bounds[part] : bounds[part + 1]]]
        best = _slot_by_level(members, fronts.cost)
        if len(np.unique(best[best >= 0])) == 0 or np.array_equal(best, reach.owner[members]):
            continue
        start[members] = best
        moved += 1
    return start, moved


def _slot_by_level(members: Array, cost: PriorCost) -> Array:
    """The vertebra at whose level a part lies, per voxel; -1 where none fits. Parts of one level stay together."""
    arc = cost.arc[members]
    level, tolerance = EXPECTED[int(cost.kind[members[0]])]
    nearest = int(np.argmin(np.abs(cost.centre - arc.mean())))
    whole = np.ptp(arc) < 1.2 * cost.pitch[nearest]
    probe = np.array([arc.mean()]) if whole else arc
    distance = np.abs((probe[:, None] - cost.centre) / cost.pitch - level) / tolerance
    best = np.where(distance.min(axis=1) <= 1.0, distance.argmin(axis=1), -1)
    return np.broadcast_to(best, len(members)) if whole else best


def _vote(frame: Frame, vertebrae: Array, graph: Graph, cost: PriorCost, settings: AssignSettings) -> int:
    """Let connected parts of one class go to one vertebra; returns how many changed voxels."""
    import cc3d

    arcs = np.full(frame.labels.size, np.nan, dtype=np.float32)
    arcs[graph.flat] = cost.arc
    moved = 0
    for label, whole in _VOTERS:
        box = bounding_box(frame.labels == label)
        if box is None:
            continue
        parts, count = cc3d.connected_components(frame.labels[box] == label, connectivity=6, return_N=True)
        flat = np.flatnonzero(parts)
        name = parts.reshape(-1)[flat].astype(np.intp)
        arc = arcs.reshape(frame.labels.shape)[box].reshape(-1)[flat]
        view = vertebrae[box]
        owner = view.reshape(-1)[flat].astype(np.intp)
        table = np.zeros((count + 1, len(cost.centre) + 1))
        np.add.at(table, (name, owner), 1.0)
        middle = np.bincount(name, np.nan_to_num(arc), minlength=count + 1) / np.maximum(table.sum(axis=1), 1)
        winner = _winners(table, middle, int(class_lookup()[label]), whole, cost, settings)
        decided = winner[name] > 0
        moved += len(np.unique(name[decided & (winner[name] != owner)]))
        owner[decided] = winner[name][decided]
        result = view.copy()
        result.reshape(-1)[flat] = owner
        vertebrae[box] = result
    return moved


def _winners(table: Array, middle: Array, kind: int, whole: bool, cost: PriorCost, settings: AssignSettings) -> Array:
    """Winning vertebra per part (0: leave its voxels as they are). `table` counts voxels (part, vertebra)."""
    winner = np.zeros(len(table), dtype=np.intp)
    level, tolerance = EXPECTED[kind]
    for part in range(1, len(table)):
        votes = table[part, 1:]
        if votes.sum() == 0:
            continue
        share = votes / table[part].sum()
        distance = np.abs((middle[part] - cost.centre) / cost.pitch - level) / tolerance
        score = share - settings.vote_level * np.maximum(distance - 1.0, 0.0)
        best = int(np.argmax(np.where(share > 0, score, -np.inf)))
        if whole or share[best] >= settings.vote_share:
            winner[part] = best + 1
    return winner


def assign_levels(solid: Frame, frame: Frame, bodies: Bodies, line: Centreline) -> Array:
    """Give discs and endplates to the vertebra above them along the line of the spine.

    Parameters
    ----------
    solid: the frame without specks; specks of discs and endplates count where they touch a body, disc or endplate.

    Returns
    -------
    int16 array of the frame: number of the vertebra above, 0 elsewhere and above the first vertebra.
    """
    wanted = (frame.labels == DISC) | (frame.labels == ENDPLATE)
    kept = (solid.labels == DISC) | (solid.labels == ENDPLATE)
    if kept.sum() < wanted.sum():
        wanted &= grown(kept | (bodies.labels > 0))
    flat = np.flatnonzero(wanted)
    arc = line.locate(frame.positions(flat))
    levels = np.zeros(frame.labels.shape, dtype=np.int16)
    levels.reshape(-1)[flat] = np.searchsorted(bodies.arc, arc, side="right")
    return levels
