"""What is known about where the parts of a vertebra lie, as costs for the competing fronts.

Levels are counted in pitches (distance between body centres) along the line of the spine, 0 at the centre of the body,
positive towards the tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, COSTAL, INFERIOR, SPINOUS, SUPERIOR

# Compact classes of the tables below.
BODY, ARCH, SPINE, RIB, UPPER, LOWER = range(6)
_CLASS_OF = {
    CORPUS: BODY, ARCUS: ARCH, SPINOUS: SPINE, COSTAL[0]: RIB, COSTAL[1]: RIB,
    SUPERIOR[0]: UPPER, SUPERIOR[1]: UPPER, INFERIOR[0]: LOWER, INFERIOR[1]: LOWER,
}  # fmt: skip

# Levels at which a part of a vertebra is at home; outside, its front slows down in proportion. The arch leaves the
# upper half of its body; the facet joint lies at the height of the disc, formed by the inferior process of the upper
# and the superior process of the lower vertebra; thoracic spinous processes reach below the next disc.
_HOME = {
    BODY: (-0.6, 0.6), ARCH: (-0.4, 0.55), SPINE: (-0.15, 1.9), RIB: (-0.6, 0.35), UPPER: (-0.85, 0.35),
    LOWER: (-0.25, 0.75),
}  # fmt: skip
_SLOWING = {BODY: 4.0, ARCH: 8.0, SPINE: 5.0, RIB: 8.0, UPPER: 8.0, LOWER: 8.0}

# Where the middle of a part is expected (level, tolerance), for decisions about whole parts.
EXPECTED = {ARCH: (0.0, 0.4), SPINE: (0.45, 0.5), RIB: (-0.1, 0.4), UPPER: (-0.4, 0.3), LOWER: (0.38, 0.3)}

# Tolls in mm for going from one class to another downwards, on the level, upwards. Inside one vertebra the arch goes
# up into its superior and down into its inferior processes; the reverse is a joint or a contact with a neighbour.
# Pairs that are not listed never touch inside one vertebra.
_FREE, _JOINT, _ELSE = 0.0, 15.0, 10.0
_TOLLS = {
    (BODY, SPINE): (20.0, 20.0, 20.0),
    (BODY, LOWER): (12.0, 12.0, 12.0),
    (BODY, UPPER): (4.0, 2.0, 2.0),
    (BODY, RIB): (3.0, 3.0, 3.0),
    (BODY, ARCH): (_FREE, _FREE, _FREE),
    (ARCH, UPPER): (_JOINT, 4.0, _FREE),
    (UPPER, ARCH): (2.0, 4.0, _JOINT),
    (ARCH, LOWER): (_FREE, 8.0, _JOINT),
    (LOWER, ARCH): (_JOINT, 8.0, 3.0),
    (UPPER, LOWER): (4.0, _JOINT, _JOINT),
    (LOWER, UPPER): (_JOINT, _JOINT, 6.0),
    (ARCH, RIB): (_FREE, _FREE, _FREE),
    (ARCH, SPINE): (_FREE, _FREE, 4.0),
    (SPINE, ARCH): (10.0, 8.0, 6.0),
    (SPINE, LOWER): (8.0, 8.0, 8.0),
    (LOWER, SPINE): (8.0, 8.0, 8.0),
    (SPINE, UPPER): (_JOINT, _JOINT, _JOINT),
    (UPPER, SPINE): (_JOINT, _JOINT, _JOINT),
    (RIB, ARCH): (8.0, 8.0, 8.0),
    (RIB, UPPER): (8.0, 8.0, 8.0),
    (RIB, LOWER): (10.0, 10.0, 10.0),
    (LOWER, RIB): (10.0, 10.0, 10.0),
    (UPPER, RIB): (2.0, 2.0, 2.0),
}
_STEEP = 0.5
# A spinous process runs backwards and down: a front that climbs comes from the process below.
_UPHILL = 8.0


def class_lookup() -> Array:
    """Return the table from ``nnunet14`` ids (0..255) to compact classes, -1 for what is no part of a vertebra."""
    table = np.full(256, -1, dtype=np.int8)
    for label, compact in _CLASS_OF.items():
        table[label] = compact
    return table


@dataclass(frozen=True)
class PriorCost:
    """Step cost of the fronts that carry vertebrae into their posterior elements.

    Parameters
    ----------
    kind: (n,) compact class of each node.
    arc: (n,) arc length of each node in mm; `tangent` (n, 3) direction of the tail at each node.
    centre, pitch: (m,) arc length of each vertebra's body centre and its pitch, both in mm.
    strength: scales all tolls and slowing; 0 is the plain geodesic distance.
    """

    kind: Array
    arc: Array
    tangent: Array
    centre: Array
    pitch: Array
    strength: float = 1.0

    def __call__(self, source: Array, target: Array, owner: Array, direction: Array) -> tuple[Array, Array]:
        """Return (factor, toll in mm) of the steps from `source` to `target` nodes."""
        kind = self.kind[target]
        level = (self.arc[target] - self.centre[owner]) / self.pitch[owner]
        low, high = _LOW[kind], _HIGH[kind]
        outside = np.maximum(np.maximum(low - level, level - high), 0.0)
        factor = 1.0 + self.strength * _SLOW[kind] * outside
        before = self.kind[source]
        process = np.flatnonzero((kind == SPINE) & (before == SPINE))
        if len(process):
            upwards = np.maximum(-self._along(target[process], direction[process]), 0.0)
            factor[process] += self.strength * _UPHILL * upwards
        toll = np.zeros(len(target))
        crossing = np.flatnonzero(before != kind)
        if len(crossing):
            along = self._along(target[crossing], direction[crossing])
            heading = np.where(along > _STEEP, 0, np.where(along < -_STEEP, 2, 1))
            toll[crossing] = self.strength * _TOLL_TABLE[before[crossing], kind[crossing], heading]
        return factor, toll

    def _along(self, nodes: Array, direction: Array) -> Array:
        """How much (-1..1) the directions point towards the tail."""
        return np.einsum("ij,ij->i", self.tangent[nodes], direction)


def _toll_table() -> Array:
    table = np.full((6, 6, 3), _ELSE)
    table[:, BODY] = 2 * _JOINT
    table[range(6), range(6)] = 0.0
    for (before, after), tolls in _TOLLS.items():
        table[before, after] = tolls
    return table


_TOLL_TABLE = _toll_table()
_LOW = np.array([_HOME[k][0] for k in range(6)])
_HIGH = np.array([_HOME[k][1] for k in range(6)])
_SLOW = np.array([_SLOWING[k] for k in range(6)])


def entry_toll() -> Array:
    """Return the toll in mm of the step from a body into each compact class, on the level."""
    result: Array = _TOLL_TABLE[BODY, :, 1].copy()
    result[BODY] = 0.0
    return result
