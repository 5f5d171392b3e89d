"""Atlas and axis: the ring of C1, the dens and lateral masses of C2, and the joint between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_spine_ext.phantom.model import VertebraParameters
from nnunet_spine_ext.phantom.pose import Pose, rim_heights, rotation
from nnunet_spine_ext.phantom.shapes import Bar, Ellipsoid, Plane, plane_through
from nnunet_spine_ext.phantom.vertebra import (
    ARCUS,
    CORPUS,
    COSTAL,
    INFERIOR,
    JOINT_GAP,
    SUPERIOR,
    Facet,
    Part,
    arch_parts,
)

DENS_IN_RING = 7.5
"""Distance of the dens axis in front of the middle of the atlas ring (mm)."""
RING_PITCH = -12.0
"""Inclination of the atlas ring against the axis (degrees; < 0 = tilted back)."""
SIDES = (-1, 1)


def scale(v: VertebraParameters) -> float:
    """Return the size of C1 or C2 relative to the mean adult."""
    return v.canal_width / 24.0


def dens_point(axis: VertebraParameters, fraction: float) -> np.ndarray:
    """Return a point of the dens axis in the frame of C2 (fraction 0 = base, 1 = tip)."""
    tilt = np.deg2rad(axis.dens_tilt)
    length = fraction * axis.dens_height
    return np.array([0.0, -0.5 - length * np.sin(tilt), 0.5 * rim_heights(axis) + length * np.cos(tilt)])


def atlas_pose(axis: VertebraParameters, pose: Pose) -> Pose:
    """Return the world pose of C1 (origin in the middle of the ring) from that of C2."""
    turn = rotation(RING_PITCH)
    middle = dens_point(axis, 0.62)
    return pose.moved(middle + turn @ np.array([0.0, -DENS_IN_RING, 0.0]), turn)


def atlanto_axial(axis: VertebraParameters, side: int) -> Facet:
    """Return the C1/2 joint of one side in the frame of C2: it falls off sideways by 25 degrees."""
    slope = np.deg2rad(25.0)
    looks = np.array([side * np.sin(slope), 0.0, np.cos(slope)])
    up = np.array([0.0, 1.0, 0.0])
    centre = np.array([side * 15.0 * scale(axis), 0.5, 0.5 * rim_heights(axis) + 2.0])
    return Facet(centre, -looks, up, 7.5, 8.0, 6.0)


def axis_parts(v: VertebraParameters, above: Mapping[int, Facet], below: Mapping[int, Facet]) -> list[Part]:
    """Return the solids of C2 besides its body: dens, lateral masses and the arch."""
    base, tip = dens_point(v, -0.25), dens_point(v, 1.0)
    end = tip - (tip - base) / np.linalg.norm(tip - base) * 3.5
    parts = [Part(CORPUS, Bar(tuple(base), tuple(end), (1.0, 0.0, 0.0), (5.0, 5.2), (4.6, 4.9), cap=0.8))]
    for side in SIDES:
        facet = above[side]
        cut = (plane_through(facet.centre, -facet.normal, 0.5 * JOINT_GAP),)
        root = np.array([side * 9.0, 0.0, 0.5 * rim_heights(v) - 7.0])
        top = facet.centre + facet.normal * 0.5
        parts.append(
            Part(SUPERIOR[side], Bar(tuple(root), tuple(top), (1.0, 0.0, 0.0), (6.0, 6.5), (8.2, 7.6), planes=cut))
        )
    arch = arch_parts(v, {}, below)
    bridges = []
    for side in SIDES:
        start = np.array([side * 12.0, -3.0, 0.5 * rim_heights(v) - 7.0])
        corner = np.array([side * 17.5, -0.5 * v.depth - 7.0, 0.0])
        bridges.append(Part(ARCUS, Bar(tuple(start), tuple(corner), (0.0, 0.0, 1.0), (4.5, 3.5), (5.0, 4.0))))
    return parts + arch[:2] + bridges + arch[2:]


def atlas_parts(v: VertebraParameters, below: Mapping[int, Facet]) -> list[Part]:
    """Return the solids of C1 in its frame: two arches, lateral masses cut in an upper and a lower half, processes."""
    s = scale(v)
    parts: list[Part] = []
    for side in SIDES:
        facet = below[side]
        cut = plane_through(facet.centre, facet.normal, 0.5 * JOINT_GAP)
        centre = (side * 17.0 * s, 3.0, 0.0)
        upper = Plane((0.0, 0.0, -1.0), 0.0)
        lower = Plane((0.0, 0.0, 1.0), 0.0)
        half = (7.2 * s, 10.0, 9.5)
        cup = plane_through((side * 17.0 * s, 3.0, 6.2), (-side * 0.35, 0.0, 0.94))
        parts.append(Part(SUPERIOR[side], Ellipsoid(centre, half, exponent=2.6, planes=(upper, cup))))
        parts.append(Part(INFERIOR[side], Ellipsoid(centre, half, exponent=2.6, planes=(lower, cut))))
    for side in SIDES:
        front = Bar((side * 13.0 * s, 11.5, 0.0), (0.0, 17.3, 0.0), (0.0, 0.0, 1.0), (4.6, 3.2), (5.1, 3.4))
        back = Bar((side * 18.0 * s, -4.0, 1.0), (side * 13.0 * s, -13.5, 0.5), (0.0, 0.0, 1.0), (3.6, 2.6), (4.0, 2.4))
        middle = Bar((side * 13.0 * s, -13.5, 0.5), (0.0, -18.6, 0.0), (0.0, 0.0, 1.0), (4.0, 2.4), (4.5, 2.7))
        parts += [Part(ARCUS, solid) for solid in (front, back, middle)]
    for side in SIDES:
        tip = (side * (0.5 * v.tp_span[0 if side < 0 else 1] - 4.0), -2.0, -0.5)
        parts.append(Part(COSTAL[side], Bar((side * 21.0 * s, 2.0, 0.0), tip, (0.0, 0.0, 1.0), (5.0, 4.5), (4.2, 3.6))))
    return parts
