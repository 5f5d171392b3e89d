"""Posterior elements of C3 to L6 (and of C2 below the dens): pedicles, laminae, processes, facets, left and right.

A facet joint is placed once, in the frame half-way between two vertebrae, and both neighbours build towards it, each
cut by its own side of the joint: so joints close at every posture and never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.phantom.model import VertebraParameters
from nnunet_spine_ext.phantom.pose import Pose, rim_heights
from nnunet_spine_ext.phantom.shapes import Bar, Plane, Solid, plane_through

ARCUS, SPINOUS, CORPUS = 2, 3, 10
COSTAL = {-1: 4, 1: 5}
SUPERIOR = {-1: 6, 1: 7}
INFERIOR = {-1: 8, 1: 9}
JOINT_GAP = 1.8
"""Facet joint space in mm: cartilage on both sides and a fluid line."""

Point = NDArray[np.float64]


@dataclass(frozen=True)
class Facet:
    """One facet joint in a vertebra's frame: centre, the direction from the upper into the lower process, and up."""

    centre: Point
    normal: Point
    up: Point
    half_width: float
    half_height: float
    thickness: float


@dataclass(frozen=True)
class Part:
    """One labelled solid of a vertebra; later parts of a list do not overwrite earlier ones of the same vertebra."""

    label: int
    solid: Solid


def facet_in_joint(v: VertebraParameters, side: int, wall: float) -> Facet:
    """Return the superior joint of `v` in the joint's own frame; `wall` is the y of the posterior body wall there."""
    index = 0 if side < 0 else 1
    region = v.name[0]
    behind = {"C": 6.5, "T": 11.5, "L": 13.0, "S": 13.0}[region]
    lift = {"C": 0.0, "T": 1.0, "L": 1.0, "S": 1.0}[region]
    if region == "T":
        behind = float(np.interp(v.level, (8, 10, 18, 19), (8.5, 11.0, 11.5, 12.5)))
    turn, incline = np.deg2rad(v.facet_turn[index]), np.deg2rad(v.facet_incline)
    looks = np.array([side * np.sin(turn) * np.sin(incline), -np.cos(turn) * np.sin(incline), np.cos(incline)])
    up = np.array([0.0, 0.0, 1.0])
    up = up - looks * (up @ looks)
    return Facet(
        centre=np.array([side * v.facet_half[index], wall - behind, lift]),
        normal=-looks,
        up=up / np.linalg.norm(up),
        half_width=0.5 * v.facet_width + 0.5 * v.facet_hypertrophy,
        half_height=0.5 * v.facet_height + 0.5 * v.facet_hypertrophy,
        thickness=(4.2 if region == "T" else 5.0) + v.facet_hypertrophy,
    )


def moved(facet: Facet, joint: Pose, vertebra: Pose) -> Facet:
    """Return a facet given in a joint's frame in a vertebra's frame."""
    turn = vertebra.rotation.T @ joint.rotation
    return Facet(
        centre=vertebra.local(joint.world(facet.centre)),
        normal=turn @ facet.normal,
        up=turn @ facet.up,
        half_width=facet.half_width,
        half_height=facet.half_height,
        thickness=facet.thickness,
    )


def _tuple(point: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])


def _bar(start: Point, end: Point, across: Point, half: tuple[float, float], **options: object) -> Bar:
    """Bar with one section at both ends unless `half_end` is given."""
    half_end = options.pop("half_end", half)
    return Bar(_tuple(start), _tuple(end), _tuple(across), half, half_end, **options)  # type: ignore[arg-type]


class Landmarks:
    """Anchor points of one vertebra's arch in its own frame (mm)."""

    def __init__(self, v: VertebraParameters) -> None:
        self.v = v
        height = rim_heights(v)
        self.height = height
        self.region = v.name[0]
        self.wall = -0.5 * v.depth
        self.lamina_line = self.wall - v.canal_depth
        cervical = self.region == "C"
        self.pedicle_z = 0.0 if cervical else float(np.interp(v.level, (8, 9, 23, 25), (0.12, 0.2, 0.2, 0.12))) * height
        drop = -0.12 if cervical else float(np.interp(v.level, (8, 19, 22), (-0.1, -0.15, -0.3)))
        self.lamina_z = drop * height

    def pedicle(self, side: int) -> tuple[Point, Point]:
        """Front and rear end of a pedicle."""
        v, index = self.v, 0 if side < 0 else 1
        medial = np.tan(np.deg2rad(v.pedicle_medial))
        inner = 0.5 * v.canal_width + 0.5 * v.pedicle_width[index]
        length = v.pedicle_length
        front = min(inner - 2.0 * medial, 0.5 * v.width - 0.2 * v.pedicle_width[index])
        rear = np.array([side * (inner + 0.5 * length * medial), self.wall - length, self.pedicle_z])
        return np.array([side * front, self.wall + 3.5, self.pedicle_z]), rear

    def corner(self, side: int) -> Point:
        """Where pedicle, lamina and processes of one side meet."""
        index = 0 if side < 0 else 1
        reach = {"C": 0.84, "T": 0.95, "L": 0.92}[self.region] * self.v.facet_half[index]
        reach = max(reach, 0.5 * self.v.canal_width + 2.5)
        behind = {"C": 8.0, "T": 9.5, "L": 11.5}[self.region]
        return np.array([side * reach, self.wall - behind, 0.35 * self.pedicle_z + 0.2 * self.lamina_z])

    def lamina_middle(self) -> Point:
        """Middle of the laminae, behind the canal."""
        return np.array([0.0, self.lamina_line - 0.5 * self.v.lamina_thickness, self.lamina_z])

    def spinous_tip(self) -> Point:
        """Tip of the spinous process."""
        slope = np.deg2rad(self.v.sp_incline)
        length = self.v.sp_length
        base = self.lamina_middle()
        return np.array([0.0, self.lamina_line - length * np.cos(slope), base[2] - length * np.sin(slope)])

    def costal_tip(self, side: int) -> Point:
        """Tip of the transverse (costal) process."""
        v = self.v
        x = side * 0.5 * v.tp_span[0 if side < 0 else 1]
        if self.region == "C":
            return np.array([x, self.wall - 1.0, -3.0])
        if self.region == "T":
            back = float(np.interp(v.level, (8, 12, 17, 19), (14.0, 22.0, 20.0, 14.0)))
            return np.array([x, self.wall - back, self.pedicle_z + (4.0 if v.level < 17 else 1.0)])
        lift = float(np.interp(v.level, (20, 22, 23, 24), (1.0, 1.0, 3.0, 3.0)))
        return np.array([x, self.wall - 11.0, self.pedicle_z + lift])


def arch_parts(v: VertebraParameters, above: Mapping[int, Facet], below: Mapping[int, Facet]) -> list[Part]:
    """Return the labelled solids behind the body of one vertebra in its own frame.

    `above` and `below` hold the facet joints of side -1 (left) and +1 (right) towards the neighbours; a missing joint
    leaves that process out. Order is priority: articular, arch, spinous, costal.
    """
    marks = Landmarks(v)
    parts: list[Part] = []
    for side in (-1, 1):
        if side in above:
            cut = plane_through(above[side].centre, -above[side].normal, 0.5 * JOINT_GAP)
            parts.append(Part(SUPERIOR[side], _superior(marks, side, above[side], (cut,))))
        if side in below:
            cut = plane_through(below[side].centre, below[side].normal, 0.5 * JOINT_GAP)
            parts.append(Part(INFERIOR[side], _inferior(marks, side, below[side], (cut,))))
    for side in (-1, 1):
        parts += [Part(ARCUS, solid) for solid in _arch(marks, side)]
    parts += [Part(SPINOUS, solid) for solid in _spinous(marks)]
    for side in (-1, 1):
        parts += [Part(COSTAL[side], solid) for solid in _costal(marks, side)]
    return parts


def _superior(marks: Landmarks, side: int, facet: Facet, cuts: tuple[Plane, ...]) -> Solid:
    """Superior articular process: from the arch's corner up to the joint (cervical: upper half of the pillar)."""
    corner = marks.corner(side)
    if marks.region == "C":
        root = np.array([facet.centre[0] * 0.99, corner[1] + 1.0, -0.5])
        top = facet.centre + facet.normal * 0.5 * JOINT_GAP
        return _bar(root, top, np.array([1.0, 0, 0]), (facet.half_width, 5.8), cap=1.2, planes=cuts)
    middle = facet.centre + facet.normal * (0.5 * JOINT_GAP + 0.45 * facet.thickness)
    top = middle + facet.up * 0.55 * facet.half_height
    root = 0.4 * corner + 0.6 * marks.pedicle(side)[1] + np.array([0.0, 0.0, 0.1 * marks.height])
    across = np.cross(facet.up, facet.normal)
    return _bar(root, top, across, (0.95 * facet.half_width, 0.72 * facet.thickness), cap=1.3, planes=cuts)


def _inferior(marks: Landmarks, side: int, facet: Facet, cuts: tuple[Plane, ...]) -> Solid:
    """Inferior articular process: from the arch's corner down to the joint (cervical: lower half of the pillar)."""
    corner = marks.corner(side)
    if marks.region == "C":
        root = np.array([facet.centre[0] * 0.99, corner[1] + 0.5, -1.0])
        low = facet.centre - facet.normal * 0.5 * JOINT_GAP
        return _bar(root, low, np.array([1.0, 0, 0]), (facet.half_width, 5.8), cap=1.2, planes=cuts)
    middle = facet.centre - facet.normal * (0.5 * JOINT_GAP + 0.45 * facet.thickness)
    low = middle - facet.up * 0.5 * facet.half_height
    root = corner + np.array([-side * 1.0, -1.5, -0.22 * marks.height])
    across = np.cross(facet.up, facet.normal)
    return _bar(root, low, across, (0.9 * facet.half_width, 0.75 * facet.thickness), cap=1.3, planes=cuts)


def _arch(marks: Landmarks, side: int) -> list[Solid]:
    """Pedicle, the bridge behind it and the lamina of one side."""
    v, up = marks.v, np.array([0.0, 0.0, 1.0])
    front, rear = marks.pedicle(side)
    corner, middle = marks.corner(side), marks.lamina_middle()
    half_width = 0.5 * v.pedicle_width[0 if side < 0 else 1]
    half_height = min(0.5 * v.pedicle_height, 0.36 * marks.height)
    pedicle = _bar(front, rear, up, (half_height, half_width), cap=0.8)
    bridge = _bar(rear, corner, up, (0.85 * half_height, max(0.8 * half_width, 2.6)), cap=0.9)
    low = corner + np.array([0.0, 0.0, 0.55 * (marks.lamina_z - corner[2])])
    lean = np.array([0.0, -0.22, 1.0]) if marks.region != "C" else np.array([0.0, -0.35, 1.0])
    lamina = _bar(
        low,
        middle,
        lean * -1.0,
        (0.42 * v.lamina_height, 0.5 * v.lamina_thickness),
        half_end=(0.5 * v.lamina_height, 0.5 * v.lamina_thickness),
        exponent=3.0,
        cap=0.9,
    )
    return [pedicle, bridge, lamina]


def _spinous(marks: Landmarks) -> list[Solid]:
    """Spinous process: bifid in C3-C6, rods in the thorax, tall plates in the lumbar spine."""
    v, up = marks.v, np.array([0.0, 0.0, 1.0])
    base, tip = marks.lamina_middle(), marks.spinous_tip()
    half = (0.5 * v.sp_height, 0.5 * v.sp_thickness)
    start = base + np.array([0.0, -0.2 * v.lamina_thickness, 0.0])
    if marks.region == "C" and v.level < 6.5:
        fork = start + 0.75 * (tip - start)
        solids: list[Solid] = [_bar(start, fork, up, half, cap=0.8)]
        for side in (-1, 1):
            end = tip + np.array([side * 4.2, -1.0, -1.0])
            solids.append(_bar(fork, end, up, (0.55 * half[0], 0.9 * half[1]), cap=1.0))
        return solids
    end = start + (tip - start) * (1 - 0.8 * half[1] / max(float(np.linalg.norm(tip - start)), 1.0))
    if marks.region == "L":
        start = start + np.array([0.0, 0.0, 0.10 * marks.height])
        flared = (half[0], 1.2 * half[1])
        return [_bar(start, end, up, (0.6 * half[0], half[1]), half_end=flared, exponent=3.0, cap=0.9)]
    return [_bar(start, end, up, half, half_end=(0.8 * half[0], 1.1 * half[1]), cap=0.9)]


def _costal(marks: Landmarks, side: int) -> list[Solid]:
    """Transverse process: two bars round the foramen (C), club towards the rib (T), thin plate (L)."""
    v, up = marks.v, np.array([0.0, 0.0, 1.0])
    tip, corner, rear = marks.costal_tip(side), marks.corner(side), marks.pedicle(side)[1]
    if marks.region == "C":
        front = np.array([side * 0.46 * v.width, marks.wall + 5.5, -1.0])
        return [
            _bar(front, tip + np.array([0.0, 4.0, 0.0]), up, (2.6, 1.9)),
            _bar(np.array([corner[0], corner[1] + 3.0, -1.5]), tip, up, (2.8, 2.2)),
            _bar(tip + np.array([0.0, 4.5, 0.0]), tip + np.array([-side * 0.5, -1.0, 0.0]), up, (2.6, 1.9)),
        ]
    if marks.region == "T":
        root = corner + np.array([side * 1.5, 1.0, 0.6 * marks.pedicle_z])
        half = float(np.interp(v.level, (8, 12, 17, 19), (4.8, 5.0, 4.5, 4.0)))
        end = tip - np.array([side * half, 0.0, 0.0])
        return [_bar(root, end, up, (half, 3.6), half_end=(half * 0.95, 4.4), cap=1.0)]
    root = rear + np.array([side * 0.0, -1.0, -0.5])
    wide = float(np.interp(v.level, (20, 23, 24), (0.0, 0.5, 3.0)))
    end = tip - np.array([side * 3.0, 0.0, 0.0])
    broad, narrow = (5.4 + wide, 3.2 + 0.6 * wide), (4.2 + 0.3 * wide, 2.5)
    return [_bar(root, end, up, broad, half_end=narrow, exponent=2.5, cap=1.0)]
