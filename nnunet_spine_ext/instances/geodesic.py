"""Competing fronts: every voxel goes to the source whose path to it, inside the mask, costs least.

The cost of a step is its length in millimetres times a factor that may depend on who travels (a front far from the
level where its vertebra may reach is slow), plus a toll that may depend on what is crossed (entering an inferior
articular process from below is not how a vertebra is built). Written for masks that fill a small part of the volume:
everything is stored per voxel of the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

# (nodes travelled from, nodes travelled to, owner of each front, unit directions (n, 3)) -> (factor, toll in mm)
StepCost = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
UNREACHED = -1
# More nodes at once would need more memory than everything else, and are no quicker.
_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Reach:
    """What the fronts reached.

    Parameters
    ----------
    owner: (n,) int32 source number of each node, -1 where no front came.
    cost: (n,) mm, cost of the path to each node, infinite where no front came; `length` (n,) its plain length.
    """

    owner: Array
    cost: Array
    length: Array


@dataclass(frozen=True)
class Graph:
    """The voxels of a mask as nodes.

    Parameters
    ----------
    flat: (n,) flat indices of the nodes into the array of shape `shape`, ascending.
    node_of: (padded size,) node number per voxel of the array padded by one voxel, -1 outside.
    padded: (n,) flat indices of the nodes into the padded array.
    shifts: (26,) steps in the padded array; `lengths` (26,) in mm; `directions` (26, 3) unit vectors.
    """

    flat: Array
    node_of: Array
    padded: Array
    shifts: Array
    lengths: Array
    directions: Array

    def __len__(self) -> int:
        return len(self.flat)

    def neighbours(self, nodes: Array, k: int) -> Array:
        """Return the k-th neighbour (0..25) of each node, -1 where it is outside the mask."""
        return self.node_of[self.padded[nodes] + self.shifts[k]]

    def nodes_at(self, flat: Array, shape: tuple[int, int, int]) -> Array:
        """Return the node (int32) of flat indices into the array of `shape`, -1 where there is none."""
        row = flat // shape[2]
        x = row // shape[1]
        # The padded array has one voxel more on each side.
        return self.node_of[
            ((x + 1) * (shape[1] + 2) + row - x * shape[1] + 1) * (shape[2] + 2) + flat - row * shape[2] + 1
        ]


def make_graph(mask: Array, spacing: tuple[float, float, float]) -> Graph:
    """Build the 26-connected graph of a mask (x, y, z); spacing in mm."""
    shape = tuple(n + 2 for n in mask.shape)
    flat = np.flatnonzero(mask)
    padded = np.ravel_multi_index(tuple(axis + 1 for axis in np.unravel_index(flat, mask.shape)), shape)
    node_of = np.full(int(np.prod(shape)), UNREACHED, dtype=np.int32)
    node_of[padded] = np.arange(len(flat), dtype=np.int32)
    steps = np.array([(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) if (a, b, c) != (0, 0, 0)])
    # Nearest neighbours first: among equal costs the first one found stays.
    steps = steps[np.argsort(np.abs(steps).sum(axis=1), kind="stable")]
    vectors = steps * np.asarray(spacing)
    lengths = np.linalg.norm(vectors, axis=1)
    shifts = steps @ np.array([shape[1] * shape[2], shape[2], 1])
    return Graph(flat, node_of, padded, shifts, lengths, vectors / lengths[:, None])


def propagate(
    graph: Graph, owner: Array, start: Array | None = None, cost: StepCost | None = None, limit: float = np.inf
) -> Reach:
    """Grow the sources over the graph.

    Parameters
    ----------
    owner: (n,) int, source number >= 0 of the nodes that start a front, -1 elsewhere.
    start: (n,) mm, cost that a front has at its starting nodes; 0 if None.
    cost: what a step costs; plain length if None. No step may cost less than its length.
    limit: fronts stop at this cost.
    """
    owner = owner.astype(np.int32).copy()
    distance = np.where(owner >= 0, 0.0 if start is None else start, np.inf)
    reach = Reach(owner, distance, distance.copy())
    dirty = owner >= 0
    # Wide enough to work on many nodes at once, narrow enough that few are visited again.
    width = 4.0 * float(graph.lengths.min())
    active = np.flatnonzero(dirty)
    front = width if len(active) == 0 else float(distance[active].min()) + width
    while True:
        ready = active[dirty[active] & (distance[active] <= front)]
        if len(ready) == 0:
            active = np.unique(active[dirty[active]])
            if len(active) == 0:
                return reach
            front = float(distance[active].min()) + width
            if front - width > limit:
                return reach
            continue
        dirty[ready] = False
        pieces = [ready[k : k + _AT_ONCE] for k in range(0, len(ready), _AT_ONCE)]
        active = np.concatenate([active, *(_relax(graph, piece, reach, dirty, cost) for piece in pieces)])


def _relax(graph: Graph, ready: Array, reach: Reach, dirty: Array, cost: StepCost | None) -> Array:
    """Try all steps from the nodes `ready`; update in place and return the nodes that got a cheaper path."""
    owner, distance = reach.owner, reach.cost
    target = graph.node_of[graph.padded[ready][:, None] + graph.shifts]
    row, way = np.nonzero(target >= 0)
    source, target, length = ready[row], target[row, way], graph.lengths[way]
    # No step is cheaper than its length, so most candidates fall before the costs are worked out.
    promising = np.flatnonzero(distance[source] + length < distance[target])
    source, target, way, length = source[promising], target[promising], way[promising], length[promising]
    offer = distance[source] + length
    if cost is not None:
        factor, toll = cost(source, target, owner[source], graph.directions[way])
        offer = distance[source] + length * factor + toll
    better = np.flatnonzero(offer < distance[target])
    # The cheapest offer per node; of equal ones the nearest step, then the first source: no chance involved.
    better = better[np.lexsort((source[better], way[better], offer[better], target[better]))]
    first = np.ones(len(better), dtype=bool)
    first[1:] = target[better[1:]] != target[better[:-1]]
    better = better[first]
    source, target = source[better], target[better]
    distance[target] = offer[better]
    owner[target] = owner[source]
    reach.length[target] = reach.length[source] + length[better]
    dirty[target] = True
    return target
