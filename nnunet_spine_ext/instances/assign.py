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
)
from nnunet_spine_ext.instances.geodesic import Graph, make_graph, propagate
from nnunet_spine_ext.instances.priors import EXPECTED, PriorCost, class_lookup, prior_cost
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
    """

    prior_strength: float = 1.0
    vote: bool = True
    vote_share: float = 0.75
    vote_level: float = 0.5


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


def assign_vertebrae(
    frame: Frame, bodies: Bodies, line: Centreline, settings: AssignSettings
) -> tuple[Array, dict[str, int]]:
    """Give every voxel of a vertebra class to a body.

    Returns
    -------
    (vertebrae, counts): int16 array of the frame with body numbers from 1, 0 where nothing could be reached; how many
    parts were moved by the vote.
    """
    kinds = class_lookup()[frame.labels]
    graph, cost, owner = _fronts(frame, kinds, bodies, line, settings)
    owner, _ = propagate(graph, owner, cost=cost)
    vertebrae = bodies.labels.copy()
    vertebrae.reshape(-1)[graph.flat] = owner + 1
    moved = _vote(frame, vertebrae, graph, cost, settings) if settings.vote else 0
    return vertebrae, {"parts_moved_by_vote": moved}


def _fronts(
    frame: Frame, kinds: Array, bodies: Bodies, line: Centreline, settings: AssignSettings
) -> tuple[Graph, PriorCost, Array]:
    """Nodes are all voxels outside the bodies plus the bodies' surfaces, where the fronts start."""
    free = (kinds >= 0) & (bodies.labels == 0)
    nodes = free | (_grown(free) & (bodies.labels > 0))
    graph = make_graph(nodes, frame.spacing)
    owner = bodies.labels.reshape(-1)[graph.flat].astype(np.int32) - 1
    cost = prior_cost(
        kinds.reshape(-1)[graph.flat],
        frame.positions(graph.flat),
        line,
        bodies.arc,
        bodies.pitch,
        settings.prior_strength,
    )
    return graph, cost, owner


def _grown(mask: Array) -> Array:
    """Dilate a mask by one voxel in all 26 directions, one axis at a time."""
    for axis in range(3):
        grown = mask.copy()
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        grown[tuple(ahead)] |= mask[tuple(behind)]
        grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


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
        table = np.zeros((count + 1, int(vertebrae.max()) + 1))
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


def assign_levels(frame: Frame, bodies: Bodies, line: Centreline) -> Array:
    """Give discs and endplates to the vertebra above them along the line of the spine.

    Returns
    -------
    int16 array of the frame: number of the vertebra above plus 1 (1 means above the first body), 0 elsewhere.
    """
    flat = np.flatnonzero((frame.labels == DISC) | (frame.labels == ENDPLATE))
    arc = line.locate(frame.positions(flat))
    levels = np.zeros(frame.labels.shape, dtype=np.int16)
    levels.reshape(-1)[flat] = np.searchsorted(bodies.arc, arc, side="right") + 1
    return levels
