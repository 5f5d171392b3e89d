"""Sacrum and coccyx: five bodies along the sacral curve, wings, foramina, canal, crest and the joints towards L5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnunet_spine_ext.phantom.body import Body
from nnunet_spine_ext.phantom.model import SacrumParameters, VertebraParameters
from nnunet_spine_ext.phantom.pose import Pose, body_frames, compose, invert, rotation
from nnunet_spine_ext.phantom.shapes import Bar, Solid, plane_through
from nnunet_spine_ext.phantom.tables import ARCH, SACRUM_BEND, SACRUM_CANAL_DEPTH
from nnunet_spine_ext.phantom.vertebra import JOINT_GAP, Facet

SIDES = (-1, 1)
UP = (0.0, 0.0, 1.0)
ACROSS = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Placed:
    """A solid with the pose of the frame it is given in; `hole` cuts instead of adding."""

    pose: Pose
    solid: Solid
    hole: bool = False


@dataclass(frozen=True)
class Sacrum:
    """World frames of S1-S5 (origin in the middle of each body), the S1 body, and what lies around it."""

    parameters: SacrumParameters
    first: VertebraParameters
    body: Body
    poses: tuple[Pose, ...]
    coccyx: tuple[Placed, ...]

    def canal_point(self, index: int) -> np.ndarray:
        """Return the world point in the middle of the sacral canal behind segment `index` (0 = S1)."""
        p = self.parameters
        depth = p.depths[0] * 0.8 if index == 0 else p.depths[index]
        return self.poses[index].world((0.0, -0.5 * depth - 0.5 * SACRUM_CANAL_DEPTH[index] - 1.0, 0.0))


def first_vertebra(p: SacrumParameters, last: VertebraParameters) -> VertebraParameters:
    """Return S1 as a vertebra: its body and its joints towards the last lumbar vertebra `last`."""
    arch = ARCH["S1"]
    ratio = float(np.mean(last.facet_half)) / ARCH[last.name if last.name in ARCH else "L5"].facet_half
    return replace(
        last,
        name="S1",
        level=last.level + 1.0,
        width_sup=p.widths[0],
        width_inf=0.5 * (p.widths[0] + p.widths[1]),
        depth_sup=p.depths[0],
        depth_inf=0.6 * p.depths[0],
        height_post=0.86 * p.heights[0],
        wedge=-7.0,
        coronal_wedge=0.0,
        concavity_sup=1.0,
        concavity_inf=0.3,
        waist_width=1.0,
        waist_depth=1.0,
        notch=0.5,
        facet_half=(arch.facet_half * ratio, arch.facet_half * ratio),
        facet_turn=(arch.facet_turn, arch.facet_turn),
        facet_incline=arch.facet_incline,
        canal_width=29.0,
        canal_depth=SACRUM_CANAL_DEPTH[0],
        facet_hypertrophy=0.0,
        osteophyte_inf=0.0,
        osteophyte_sup=last.osteophyte_inf,
        schmorl_sup=0.0,
        schmorl_inf=0.0,
        modic_sup=last.modic_inf,
        modic_inf="",
        lesions=(),
    )


def build_sacrum(p: SacrumParameters, endplate: Pose, last: VertebraParameters) -> Sacrum:
    """Place S1-S5 and the coccyx below the S1 endplate frame."""
    first = first_vertebra(p, last)
    sup, inf = body_frames(first)
    pose = compose(endplate, invert(sup))
    poses = [pose]
    end = compose(pose, inf)
    for index in range(1, 5):
        turn = rotation(0.5 * -p.kyphosis * SACRUM_BEND[index - 1])
        top = end.moved((0.0, 0.0, 0.0), turn)
        poses.append(top.moved((0.0, 0.0, -0.5 * p.heights[index]), turn))
        end = poses[-1].moved((0.0, 0.0, -0.5 * p.heights[index]))
    return Sacrum(p, first, Body(first), tuple(poses), tuple(_coccyx(p, end)))


def _coccyx(p: SacrumParameters, end: Pose) -> list[Placed]:
    """Three to five small segments that curve further forward."""
    placed = []
    for index in range(p.coccyx):
        pose = end.moved((0.0, 0.0, -1.5), rotation(-12.0))
        half = 7.0 * 0.8**index
        low = (0.0, 0.0, -9.0 + index)
        bar = Bar((0.0, 0.0, -2.0), low, ACROSS, (half, 0.6 * half), (0.8 * half, 0.5 * half), cap=0.6)
        placed.append(Placed(pose, bar))
        end = pose.moved(low)
    return placed


def sacrum_solids(sacrum: Sacrum, facets: Mapping[int, Facet]) -> list[Placed]:
    """Return everything of the sacrum besides the S1 body; `facets` are the L5/S1 joints in the S1 frame."""
    p = sacrum.parameters
    placed: list[Placed] = []
    holes: list[Placed] = []
    for index, pose in enumerate(sacrum.poses):
        placed += _body(p, index, pose)
        for side in SIDES:
            placed += _wing(p, index, pose, side)
            if index < 4:
                holes.append(_foramen(p, index, pose, side))
        if index < 4:
            placed += _roof(p, index, pose)
        holes.append(_canal(p, index, pose))
    for side, facet in facets.items():
        cut = (plane_through(facet.centre, -facet.normal, 0.5 * JOINT_GAP),)
        top = facet.centre + facet.normal * (0.5 * JOINT_GAP + 2.4) + facet.up * 4.0
        root = np.array([side * 22.0, -0.5 * p.depths[0] - 4.0, -2.0])
        bar = Bar(tuple(root), tuple(top), tuple(np.cross(facet.up, facet.normal)), (8.0, 5.0), (6.0, 3.2), planes=cut)
        placed.append(Placed(sacrum.poses[0], bar))
    return placed + holes


def _body(p: SacrumParameters, index: int, pose: Pose) -> list[Placed]:
    """Body of one segment below S1, reaching a little into its neighbours."""
    if index == 0:
        return []
    below = min(index + 1, 4)
    start, end = (0.0, 0.0, 0.5 * p.heights[index]), (0.0, 0.0, -0.5 * p.heights[index])
    top = (0.5 * p.widths[index], 0.5 * p.depths[index])
    low = (0.25 * (p.widths[index] + p.widths[below]), 0.25 * (p.depths[index] + p.depths[below]))
    return [Placed(pose, Bar(start, end, ACROSS, top, low, exponent=2.4, cap=0.25))]


def _wing(p: SacrumParameters, index: int, pose: Pose, side: int) -> list[Placed]:
    """Lateral mass of one segment."""
    span, depth, height = p.half_spans[index], p.depths[index], p.heights[index]
    back = -0.35 * p.depths[0] if index == 0 else -0.45 * depth
    root = (side * 0.25 * p.widths[index], back * 0.3, -1.0)
    thick = (0.36 * depth if index == 0 else 0.52 * depth) + 1.5
    tip_half = (0.52 * height + 2.0, 0.75 * thick)
    # The bar's rounded end reaches beyond its last point by its smaller half axis.
    tip = (side * (span - min(tip_half)), back * 1.3, 0.12 * height if index == 0 else 0.05 * height)
    bar = Bar(root, tip, UP, (0.52 * height + 1.5, thick), tip_half, exponent=3.2, cap=1.0)
    return [Placed(pose, bar)]


def _foramen(p: SacrumParameters, index: int, pose: Pose, side: int) -> Placed:
    """Sacral foramen between a segment and the next: wide in front, narrower behind."""
    x = side * (0.25 * (p.widths[index] + p.widths[index + 1]) + 7.0 - index)
    z = -0.5 * p.heights[index]
    radius = 6.3 - 0.6 * index
    front, back = (x, 0.5 * p.depths[index] + 6.0, z), (x * 0.95, -p.depths[index] - 10.0, z)
    return Placed(pose, Bar(front, back, UP, (radius, radius), (0.65 * radius, 0.65 * radius)), hole=True)


def _roof(p: SacrumParameters, index: int, pose: Pose) -> list[Placed]:
    """Laminae behind the canal and the median crest."""
    depth = (0.8 if index == 0 else 1.0) * p.depths[index]
    wall, canal = -0.5 * depth, SACRUM_CANAL_DEPTH[index]
    half = 0.5 * p.heights[index] + 1.5
    middle = (0.0, wall - canal - 4.0, -1.0)
    placed = []
    for side in SIDES:
        start = (side * (15.0 - 2.0 * index), wall - 0.45 * canal, -1.0)
        placed.append(Placed(pose, Bar(start, middle, UP, (half, 3.6), (half, 2.6), exponent=2.5, cap=0.8)))
    tip = (0.0, wall - canal - 4.0 - p.crest * (1.0 - 0.15 * index), -2.0)
    placed.append(Placed(pose, Bar(middle, tip, UP, (0.62 * half, 2.6), (0.5 * half, 2.8))))
    return placed


def _canal(p: SacrumParameters, index: int, pose: Pose) -> Placed:
    """Sacral canal, a flat tunnel behind the body."""
    depth = (0.8 if index == 0 else 1.0) * p.depths[index]
    canal = SACRUM_CANAL_DEPTH[index]
    y = -0.5 * depth - 0.5 * canal - 1.0
    width = 13.0 - 2.0 * index
    half = (width, 0.5 * canal)
    z = 0.5 * p.heights[index] + 1.0
    top = (0.0, y, z + (8.0 if index == 0 else 0.0))
    return Placed(pose, Bar(top, (0.0, y, -z), ACROSS, half, half, exponent=2.2, cap=0.3), hole=True)
