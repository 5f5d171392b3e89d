"""Borders between vertebrae where the mask shows them better than the answers about cutouts can.

Where one class ends and another begins is known to a voxel of the mask. Where one vertebra ends, answers tell to a few
voxels of the network's grid, and neighbouring cutouts may err alike, so that their votes do not help. A border that
runs a little beside the end of a part, through it, is moved there.
"""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.geodesic import make_graph, propagate
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.voxels import Voxels, coordinates

_ROUNDING_MM = 1e-3


def settle_borders(voxels: Voxels, vertebra: Array, free: Array, *, share: float, reach_mm: float) -> int:
    """Give thin slices of parts back to the vertebra that has the rest, in place; returns how many voxels changed.

    A part is one component of one class: a process, an arch, a body. It goes to one vertebra where three things hold:
    the assignment without a network gives all of it to this vertebra, the answers give at least `share` of it to the
    same one, and what they gave to a neighbour lies within `reach_mm` of the rest. Where parts of several vertebrae
    have grown together, the piece of one is mostly thicker than that, and what the answers say stays; a thinner one is
    lost. Along an axis whose voxels are longer than `reach_mm` nothing is moved.

    Parameters
    ----------
    vertebra: (n,) number from head to tail of each voxel, by the answers; 0 for none.
    free: (n,) the same without a network.
    """
    moved = 0
    for nodes in _undecided(voxels, vertebra, free):
        home, own = int(free[nodes[0]]), vertebra[nodes]
        if (own == home).mean() < share:
            continue
        near = _near(voxels, nodes, own == home, reach_mm)
        for other in (home - 1, home + 1):
            piece = own == other
            if piece.any() and near[piece].all():
                vertebra[nodes[piece]] = home
                moved += int(piece.sum())
    return moved


def _undecided(voxels: Voxels, vertebra: Array, free: Array) -> list[Array]:
    """Numbers of the voxels of each part that one vertebra has without the network, and several have with it."""
    bony = np.flatnonzero(class_lookup()[voxels.label] >= 0)
    part = voxels.part[bony]
    low, high, changed = (np.zeros(len(voxels.part_label), dtype=kind) for kind in (free.dtype, free.dtype, np.bool_))
    low[part] = high[part] = free[bony]
    np.minimum.at(low, part, free[bony])
    np.maximum.at(high, part, free[bony])
    changed[part[vertebra[bony] != free[bony]]] = True
    wanted = (changed & (low == high) & (low > 0))[part]
    nodes, part = bony[wanted], part[wanted]
    order = np.argsort(part, kind="stable")
    return np.split(nodes[order], np.flatnonzero(np.diff(part[order])) + 1) if len(nodes) else []


def _near(voxels: Voxels, nodes: Array, kept: Array, reach_mm: float) -> Array:
    """Which voxels of a part (ascending numbers) are within a way inside it of those that are kept."""
    place = np.stack(coordinates(voxels.flat[nodes], voxels.frame.labels.shape))
    low = place.min(axis=1)
    mask = np.zeros(place.max(axis=1) - low + 1, dtype=bool)
    mask[tuple(place - low[:, None])] = True
    graph = make_graph(mask, voxels.frame.spacing)
    # A sum of edges is a little more or less than what they are together: 1.1 + 1.1 + 1.1 > 3.3.
    reach = reach_mm + _ROUNDING_MM
    # Voxels are listed in the order of the graph's nodes.
    cost = propagate(graph, np.where(kept, 0, -1), limit=reach).cost
    near: Array = cost <= reach
    return near
