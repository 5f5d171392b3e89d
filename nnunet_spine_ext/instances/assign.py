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
from nnunet_spine_ext.instances.priors import ARCH, EXPECTED, LOWER, SPINE, UPPER, PriorCost, class_lookup, prior_cost
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
    min_bodyless_mm3: float = 300.0


# (classes taken together, must a component stay whole?): both sides are separate components anyway.
_VOTERS: tuple[tuple[int, bool], ...] = (
    (SUPERIOR[0], True),
    (SUPERIOR[1], True),
    (INFERIOR[0], True),
    (INFERIOR[1], True),
    (COSTAL[0], True),
    (COSTAL[1], True),
    (SPINOUS, True),
    (ARCUS, False),
)


# A part this many tolerances away from its expected level is looked at again; it moves where it is this close to it.
_MISFIT, _FIT = 1.5, 1.3
# An articular process is never longer than this many pitches; spinous processes, by pitch in mm: cervical ones are
# short, thoracic ones hang down, lumbar ones are plates.
_SINGLE = 1.1
_SINGLE_SPINOUS = ((20.0, 1.15), (29.0, 1.95), (np.inf, 1.25))
_ROOT_SHARE = 0.3


@dataclass(frozen=True)
class _Parts:
    """Connected parts of a class: `table` (part, vertebra) counts votes, column 0 is nobody's; `middle` and `extent`
    are mean arc length and length along the line in mm."""

    table: Array
    middle: Array
    extent: Array


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
    """Find parts that belong to another vertebra than the one that reached them, and start again with them.

    Articular processes tell their vertebra by their level. An arch is only asked for its level where it was reached by
    a detour.

    Returns (owner of the starting nodes, number of parts that changed their vertebra).
    """
    import cc3d

    if settings.prior_strength <= 0:
        return fronts.owner, 0
    kind = fronts.cost.kind
    with np.errstate(invalid="ignore"):
        detour = ~(reach.cost - reach.length <= settings.detour_mm)
    nodes = np.flatnonzero((kind == UPPER) | (kind == LOWER) | ((kind == ARCH) & detour))
    if len(nodes) == 0:
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
        better = _better_slots(members, fronts.cost, reach.owner[members], detour[members])
        if (better >= 0).any():
            start[members] = np.where(better >= 0, better, start[members])
            moved += 1
    return start, moved


def _better_slots(members: Array, cost: PriorCost, owner: Array, detour: Array) -> Array:
    """The vertebra at whose level a part lies, per voxel; -1 where the present owner will do."""
    arc = cost.arc[members]
    level, tolerance = EXPECTED[int(cost.kind[members[0]])]
    middle = float(arc.mean())
    nearest = int(np.argmin(np.abs(cost.centre - middle)))
    if np.ptp(arc) >= _SINGLE * cost.pitch[nearest]:
        # Several levels in one piece: every voxel that was reached by a detour for itself.
        distance = np.abs((arc[:, None] - cost.centre) / cost.pitch - level) / tolerance
        best = distance.argmin(axis=1)
        return np.where((distance.min(axis=1) <= 1.0) & detour & (best != owner), best, -1)
    fit = np.abs((middle - cost.centre) / cost.pitch - level) / tolerance
    votes = np.bincount(owner[owner >= 0], minlength=len(fit))
    best = int(np.argmin(fit))
    now = int(votes.argmax()) if votes.any() else -1
    content = now == best or (now >= 0 and fit[now] <= _MISFIT and float(detour.mean()) < 0.5)
    return np.full(len(members), -1 if content or fit[best] > _FIT else best)


def _vote(frame: Frame, vertebrae: Array, graph: Graph, cost: PriorCost, settings: AssignSettings) -> int:
    """Let connected parts of one class go to one vertebra; returns how many changed voxels."""
    import cc3d

    arcs = np.zeros(frame.labels.size, dtype=np.float32)
    arcs[graph.flat] = cost.arc
    moved = 0
    for label, whole in _VOTERS:
        box = bounding_box(frame.labels == label)
        if box is None:
            continue
        parts, count = cc3d.connected_components(frame.labels[box] == label, connectivity=6, return_N=True)
        flat = np.flatnonzero(parts)
        name = parts.reshape(-1)[flat].astype(np.intp)
        view = vertebrae[box]
        owner = view.reshape(-1)[flat].astype(np.intp)
        arc = arcs.reshape(frame.labels.shape)[box].reshape(-1)[flat]
        low, high = np.full(count + 1, np.inf), np.full(count + 1, -np.inf)
        np.minimum.at(low, name, arc)
        np.maximum.at(high, name, arc)
        low[0] = high[0] = 0.0
        # A spinous process hangs from its upper end; further down it may lie on the arch below.
        voter = arc <= (low + _ROOT_SHARE * (high - low))[name] if label == SPINOUS else np.ones(len(arc), dtype=bool)
        table = np.zeros((count + 1, len(cost.centre) + 1))
        np.add.at(table, (name[voter], owner[voter]), 1.0)
        size = np.maximum(np.bincount(name, minlength=count + 1), 1)
        parts_at = _Parts(table, np.bincount(name, arc, minlength=count + 1) / size, high - low)
        winner = _winners(parts_at, int(class_lookup()[label]), whole, cost, settings)
        decided = winner[name] > 0
        moved += len(np.unique(name[decided & (winner[name] != owner)]))
        owner[decided] = winner[name][decided]
        result = view.copy()
        result.reshape(-1)[flat] = owner
        vertebrae[box] = result
    return moved


def _winners(parts: _Parts, kind: int, whole: bool, cost: PriorCost, settings: AssignSettings) -> Array:
    """Winning vertebra per part (0: leave its voxels as they are)."""
    winner = np.zeros(len(parts.table), dtype=np.intp)
    level, tolerance = EXPECTED[kind]
    for part in range(1, len(parts.table)):
        votes = parts.table[part, 1:]
        if votes.sum() == 0:
            continue
        share = votes / parts.table[part].sum()
        distance = np.abs((parts.middle[part] - cost.centre) / cost.pitch - level) / tolerance
        score = share - settings.vote_level * np.maximum(distance - 1.0, 0.0)
        best = int(np.argmax(np.where(share > 0, score, -np.inf)))
        single = parts.extent[part] < _longest(kind, float(cost.pitch[best])) * cost.pitch[best]
        if (whole and single) or (not whole and share[best] >= settings.vote_share):
            winner[part] = best + 1
    return winner


def _longest(kind: int, pitch: float) -> float:
    """Length of the longest single process of a class in pitches; what is longer is several processes in contact."""
    if kind != SPINE:
        return _SINGLE
    return next(longest for below, longest in _SINGLE_SPINOUS if pitch < below)


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
