"""Fronts that travel from the bodies into the posterior elements, on coarse cells of the mask.

Borders between vertebrae are joints, where the class changes, or contacts, which no one can place to a fraction of a
millimetre. So the fronts travel on cells of 1.65 mm at most: a cell has the class that most of its voxels have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import grown
from nnunet_spine_ext.instances.geodesic import Graph, Reach, make_graph, propagate
from nnunet_spine_ext.instances.priors import ARCH, BODY, EXPECTED, LOWER, UPPER, PriorCost, class_lookup, entry_toll
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import Voxels
from nnunet_spine_ext.measure.centreline import Centreline

# Parts without a body of their own start where an arch starts, about this far from the body's surface.
_ARCH_MM = 15.0
# A part this many tolerances away from its expected level is looked at again; it moves where it is this close to it.
_MISFIT, _FIT = 1.5, 1.3
# An articular process is never longer than this many pitches.
SINGLE = 1.1
# Ids of the posterior elements and of bodies are smaller than this.
_CLASSES = 11
# Directions of so many cells at once.
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Fronts:
    """The graph that the fronts travel on, where they start and what their steps cost.

    Parameters
    ----------
    graph: N cells that hold voxels of posterior elements, or of a body's surface.
    owner: (N,) number from 0 of the body that starts in a cell, -1 elsewhere; `start` (N,) mm, cost that it has there.
    size: (N,) voxels of the cell that are to be assigned; `label` (N,) uint8 id of most of them.
    node: (m,) cell of each voxel that is to be assigned.
    """

    graph: Graph
    cost: PriorCost
    owner: Array
    start: Array
    size: Array
    label: Array
    node: Array

    def run(self) -> Reach:
        """Let all bodies start at once."""
        return propagate(self.graph, self.owner, start=self.start, cost=self.cost)

    def rerun(self, owner: Array) -> Reach:
        """Start again, with more starting cells than the bodies'."""
        start = np.where(self.owner >= 0, self.start, _ARCH_MM)
        return propagate(self.graph, owner, start=start, cost=self.cost)


def make_fronts(voxels: Voxels, free: Array, body: Array, bodies: Bodies, line: Centreline, strength: float) -> Fronts:
    """Build the cells that the fronts travel on.

    Parameters
    ----------
    free: (m,) numbers of the voxels to be assigned.
    body: (n,) number from 1 of the body that each voxel of the foreground is part of, 0 elsewhere.
    strength: weight of the priors.
    """
    cells = voxels.cells
    cell = voxels.cell[free]
    present = np.zeros(cells.shape, dtype=bool)
    present.reshape(-1)[cell] = True
    bony = np.flatnonzero(body)
    body_of = np.zeros(cells.shape, dtype=np.int16)
    body_of.reshape(-1)[voxels.cell[bony]] = body[bony]
    del bony
    around = grown(present)
    around &= body_of > 0
    around |= present
    del present
    graph = make_graph(around, cells.spacing)
    del around
    owner = body_of.reshape(-1)[graph.flat].astype(np.int32) - 1
    del body_of
    node = graph.nodes_at(cell, cells.shape)
    count = len(graph)
    size, label = _majority(node, voxels.label[free], count)
    kind_of = np.where(size > 0, class_lookup()[label], BODY)
    start = np.where((owner >= 0) & (size > 0), strength * entry_toll()[kind_of], 0.0)
    arc = np.bincount(node, voxels.arc[free], minlength=count) / np.maximum(size, 1)
    # Fronts start in the cells of a body and do not enter them, so the body's level will do there.
    arc = np.where(size > 0, arc, bodies.arc[owner])
    tangent = np.concatenate([line.tangent(arc[k : k + _AT_ONCE]) for k in range(0, count, _AT_ONCE)])
    cost = PriorCost(kind_of, arc, tangent, bodies.arc, bodies.pitch, strength)
    return Fronts(graph, cost, owner, start, size, label, node)


def _majority(node: Array, labels: Array, count: int) -> tuple[Array, Array]:
    """Number of voxels of each cell, and the class (uint8) that most of them have; the smaller of equal ones."""
    size, most, label = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.uint8)
    # Class by class: a table of all would be larger than everything else here.
    for k in range(_CLASSES):
        here = np.bincount(node[labels == k], minlength=count)
        size += here
        label[here > most] = k
        np.maximum(most, here, out=most)
    return size, label


def second_start(
    fronts: Fronts, voxels: Voxels, reach: Reach, *, detour_mm: float, min_part_mm3: float
) -> tuple[Array, int]:
    """Find parts that belong to another vertebra than the one that reached them, and start again with them.

    Articular processes tell their vertebra by their level. An arch is only asked for its level where it was reached by
    a detour.

    Returns (owner of the starting cells, number of parts that changed their vertebra).
    """
    import cc3d

    if fronts.cost.strength <= 0:
        return fronts.owner, 0
    kind = fronts.cost.kind
    with np.errstate(invalid="ignore"):
        detour = ~(reach.cost - reach.length <= detour_mm)
    nodes = np.flatnonzero((kind == UPPER) | (kind == LOWER) | ((kind == ARCH) & detour))
    if len(nodes) == 0:
        return fronts.owner, 0
    part_of = np.zeros(voxels.cells.shape, dtype=np.uint8)
    part_of.reshape(-1)[fronts.graph.flat[nodes]] = fronts.label[nodes]
    parts = cc3d.connected_components(part_of, connectivity=18)
    name = parts.reshape(-1)[fronts.graph.flat[nodes]].astype(np.intp)
    size = np.bincount(name, fronts.size[nodes]) * voxels.frame.voxel_volume
    start, moved = fronts.owner.copy(), 0
    order = np.argsort(name, kind="stable")
    bounds = np.searchsorted(name[order], np.arange(len(size) + 1))
    for part in np.flatnonzero(size >= min_part_mm3):
        members = nodes[order[bounds[part] : bounds[part + 1]]]
        better = _better_places(members, fronts.cost, reach.owner[members], detour[members])
        if (better >= 0).any():
            start[members] = np.where(better >= 0, better, start[members])
            moved += 1
    return start, moved


def _better_places(members: Array, cost: PriorCost, owner: Array, detour: Array) -> Array:
    """The vertebra at whose level a part lies, per cell; -1 where the present owner will do."""
    arc = cost.arc[members]
    level, tolerance = EXPECTED[int(cost.kind[members[0]])]
    middle = float(arc.mean())
    nearest = int(np.argmin(np.abs(cost.centre - middle)))
    if np.ptp(arc) >= SINGLE * cost.pitch[nearest]:
        # Several levels in one piece: every cell that was reached by a detour for itself.
        distance = np.abs((arc[:, None] - cost.centre) / cost.pitch - level) / tolerance
        best = distance.argmin(axis=1)
        return np.where((distance.min(axis=1) <= 1.0) & detour & (best != owner), best, -1)
    fit = np.abs((middle - cost.centre) / cost.pitch - level) / tolerance
    votes = np.bincount(owner[owner >= 0], minlength=len(fit))
    best = int(np.argmin(fit))
    now = int(votes.argmax()) if votes.any() else -1
    content = now == best or (now >= 0 and fit[now] <= _MISFIT and float(detour.mean()) < 0.5)
    return np.full(len(members), -1 if content or fit[best] > _FIT else best)
