"""From parameters to geometry: poses of all vertebrae, sacrum, facet joints, canal axis, cord, landmarks, views."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.body import Body
from nnunet_spine_ext.phantom.cord import Tube, build_tubes, sac_gap, sac_half_axes
from nnunet_spine_ext.phantom.model import SpineParameters, VertebraParameters
from nnunet_spine_ext.phantom.pose import (
    Joint,
    Pose,
    body_frames,
    chain,
    compose,
    mean_rotation,
    rim_heights,
    rotation,
)
from nnunet_spine_ext.phantom.sacrum import Sacrum, build_sacrum
from nnunet_spine_ext.phantom.upper_cervical import atlanto_axial, atlas_parts, atlas_pose, axis_parts, dens_point
from nnunet_spine_ext.phantom.vertebra import Facet, Landmarks, Part, arch_parts, facet_in_joint, moved

SIDES = (-1, 1)
ARRAY = NDArray[np.float64]
BRAINSTEM = 42.0
"""How far the canal's axis is continued above the middle of C1 (mm)."""


@dataclass(frozen=True)
class Spine:
    """One spine in world space (RAS+ mm; the middle of the S1 endplate is the origin).

    `poses` by vertebra name, 'S1' included; `bodies` (C2 … S1); `joints` by the vertebra above; `facets` by the
    vertebra below, in world coordinates of the joint's frame; `cord` and `sac` tubes.
    """

    parameters: SpineParameters
    poses: dict[str, Pose]
    bodies: dict[str, Body]
    joints: dict[str, Joint]
    facets: dict[str, dict[int, Facet]]
    sacrum: Sacrum
    cord: Tube
    sac: Tube
    marks: dict[str, ARRAY] = field(default_factory=dict)

    def landmark(self, name: str) -> ARRAY:
        """Return a point in world mm (RAS+).

        Names: a vertebra ('L3': body centre; 'C1': middle of the ring), 'S1', a disc ('L4/L5'), 'dens_tip', 'conus',
        'sac_end', 'sacrum_tip', '<v>_spinous_tip', '<v>_costal_L|R', '<v>_facet_L|R' (superior joint), '<v>_canal'.
        Raises UsageError for any other name.
        """
        if name not in self.marks:
            raise UsageError(
                "E-PHANTOM-LANDMARK", found=f"landmark {name!r}", expected=", ".join(self.marks), fix="correct the name"
            )
        return self.marks[name].copy()

    def parts(self, name: str) -> list[Part]:
        """Return the labelled solids of one vertebra besides its body, in its own frame."""
        v = self.parameters.vertebra(name)
        pose = self.poses[name]
        names = self.parameters.names
        lower = [*names, "S1"][names.index(name) + 1]
        below = {s: self._facet(lower, s, pose) for s in SIDES}
        if name == "C1":
            return atlas_parts(v, below)
        above = {s: self._facet(name, s, pose) for s in SIDES}
        return axis_parts(v, above, below) if name == "C2" else arch_parts(v, above, below)

    def _facet(self, below: str, side: int, pose: Pose) -> Facet:
        """Return the superior joint of the vertebra `below` in the frame `pose`."""
        facet = self.facets[below][side]
        frame = self.poses["C2"] if below == "C2" else self._joint_of(below).pose
        return moved(facet, frame, pose)

    def _joint_of(self, below: str) -> Joint:
        return next(joint for joint in self.joints.values() if joint.below == below)

    def sacral_facets(self) -> dict[int, Facet]:
        """Return the L5/S1 joints in the frame of S1."""
        return {side: self._facet("S1", side, self.poses["S1"]) for side in SIDES}

    def field_of_view(self, region: str | tuple[str, str] = "whole", *, half_width: float | None = None) -> ARRAY:
        """Return the box ((x0, y0, z0), (x1, y1, z1)) in world mm that a scan of a region covers.

        `region`: 'whole', 'cervical' (skull base - T3), 'thoracic' (C6 - L1), 'lumbar' (T11 - S3), or a pair of
        vertebra names (top, bottom), both whole. `half_width` limits the box left and right of the spine (default: all
        of the vertebrae). Raises UsageError for unknown names.
        """
        top, bottom = self._extent(region)
        points = [self.marks[key] for key in self.marks if bottom - 1 <= self.marks[key][2] <= top + 1]
        cloud = np.array(points)
        spine = np.array([pose.origin for pose in self.poses.values() if bottom - 20 <= pose.origin[2] <= top + 20])
        centre = 0.5 * (spine[:, 0].min() + spine[:, 0].max())
        reach = np.abs(cloud[:, 0] - centre).max() + 8.0 if half_width is None else half_width
        back = cloud[:, 1].min() - self.parameters.body.fat_back - 20.0
        front = spine[:, 1].max() + 75.0
        return np.array([[centre - reach, back, bottom], [centre + reach, front, top]])

    def _extent(self, region: str | tuple[str, str]) -> tuple[float, float]:
        """Return the top and bottom z of a region."""
        names = self.parameters.names
        thoracic = [name for name in names if name[0] == "T"]
        head, tail = self.marks["dens_tip"][2] + 32.0, self.marks["sacrum_tip"][2] - 18.0
        edges = {
            "whole": (head, tail),
            "cervical": (head, self.poses["T3"].origin[2] - 12.0),
            "thoracic": (self.poses["C6"].origin[2], self.poses["L1"].origin[2] - 18.0),
            "lumbar": (self.poses[thoracic[-2]].origin[2] + 14.0, self.sacrum.poses[2].origin[2] - 12.0),
        }
        if isinstance(region, str):
            if region in edges:
                return edges[region]
            found, expected = f"region {region!r}", ", ".join(edges)
        else:
            known = (*names, "S1")
            if all(name in known for name in region):
                high, low = (self.poses[name].origin[2] for name in region)
                return high + 22.0, low - 22.0
            found, expected = f"levels {region!r}", ", ".join(known)
        raise UsageError("E-PHANTOM-REGION", found=found, expected=expected, fix="name one of these")


def build_spine(parameters: SpineParameters) -> Spine:
    """Build the geometry of one spine; deterministic in the parameters."""
    endplate, poses, chained = chain(parameters)
    poses["C1"] = atlas_pose(parameters.vertebra("C2"), poses["C2"])
    joints = {joint.above: joint for joint in chained}
    last = parameters.vertebrae[-1]
    sacrum = build_sacrum(parameters.sacrum, endplate, last)
    poses["S1"] = sacrum.poses[0]
    bodies = {v.name: Body(v) for v in parameters.vertebrae[1:]}
    bodies["S1"] = sacrum.body
    facets = _facets(parameters, joints, sacrum)
    cord, sac = _tubes(parameters, poses, joints, sacrum)
    spine = Spine(parameters, poses, bodies, joints, facets, sacrum, cord, sac)
    spine.marks.update(_landmarks(spine))
    return spine


def _facets(parameters: SpineParameters, joints: dict[str, Joint], sacrum: Sacrum) -> dict[str, dict[int, Facet]]:
    """Facet joints by the vertebra below: C2 in its own frame, all others in the frame of their joint."""
    axis = parameters.vertebra("C2")
    facets = {"C2": {side: atlanto_axial(axis, side) for side in SIDES}}
    for joint in joints.values():
        above = parameters.vertebra(joint.above)
        below = sacrum.first if joint.below == "S1" else parameters.vertebra(joint.below)
        wall = -0.25 * (above.depth_inf + below.depth_sup)
        facets[joint.below] = {side: facet_in_joint(below, side, wall) for side in SIDES}
    return facets


def canal_level(v: VertebraParameters) -> float:
    """Return the level that places a vertebra on the tables of cord and sac; a sixth lumbar one lies half-way to S1."""
    return 24.5 if v.name == "L6" else v.level


def _tubes(
    parameters: SpineParameters, poses: dict[str, Pose], joints: dict[str, Joint], sacrum: Sacrum
) -> tuple[Tube, Tube]:
    """Cord and sac along knots behind every body and disc, from the brainstem to the end of the sacral canal."""
    knots: list[ARRAY] = []
    fronts: list[ARRAY] = []
    levels: list[float] = []

    def add(point: ARRAY, pose: Pose, level: float) -> None:
        knots.append(point)
        fronts.append(pose.direction((0.0, 1.0, 0.0)))
        levels.append(level)

    atlas, axis = poses["C1"], parameters.vertebra("C2")
    # The brainstem stands upright and leans a little forward, however the atlas is tilted.
    stem = Pose(mean_rotation(atlas.rotation, rotation(8.0)), atlas.world((0.0, -7.6, 0.0)))
    add(stem.world((0.0, 2.0, BRAINSTEM)), stem, 1.0 - BRAINSTEM / 20.0)
    add(stem.world((0.0, 0.6, 0.5 * BRAINSTEM)), stem, 1.0 - BRAINSTEM / 40.0)
    add(atlas.world((0.0, -7.6, 0.0)), atlas, 1.0)
    for v in parameters.vertebrae[1:]:
        level = canal_level(v)
        add(poses[v.name].world((0.0, -0.5 * v.depth - _sac_offset(parameters, level), 0.0)), poses[v.name], level)
        joint = joints[v.name]
        below = sacrum.first if joint.below == "S1" else parameters.vertebra(joint.below)
        wall = -0.25 * (v.depth_inf + below.depth_sup)
        between = 0.5 * (level + (25.0 if joint.below == "S1" else canal_level(below)))
        add(joint.pose.world((0.0, wall - _sac_offset(parameters, between), 0.0)), joint.pose, between)
    for index, pose in enumerate(sacrum.poses[:4]):
        add(sacrum.canal_point(index), pose, 25.0 + index)
    if axis.dens_height <= 0:
        raise UsageError("E-PHANTOM-DENS", found="C2 without dens", expected="dens_height > 0", fix="give C2 a dens")
    end = 25.55 + parameters.cord.sac_end
    return build_tubes(parameters.cord, np.array(knots), np.array(fronts), np.array(levels), end)


def _sac_offset(parameters: SpineParameters, level: float) -> float:
    """Return how far the sac's axis lies behind the posterior wall (mm)."""
    return float(sac_half_axes(parameters.cord, level)[1]) + sac_gap(level)


def _landmarks(spine: Spine) -> dict[str, ARRAY]:
    """Named points in world mm."""
    p = spine.parameters
    marks: dict[str, ARRAY] = {name: spine.poses[name].origin for name in (*p.names, "S1")}
    for joint in spine.joints.values():
        marks[f"{joint.above}/{joint.below}"] = joint.pose.origin
    for v in p.vertebrae:
        pose, anchor = spine.poses[v.name], Landmarks(v)
        marks[f"{v.name}_canal"] = spine.sac.point(canal_level(v))
        for side, letter in zip(SIDES, "LR", strict=True):
            tip = np.array([side * 0.5 * v.tp_span[0 if side < 0 else 1], -2.0, 0.0])
            marks[f"{v.name}_costal_{letter}"] = pose.world(tip if v.name == "C1" else anchor.costal_tip(side))
            if v.name != "C1":
                frame = pose if v.name == "C2" else spine._joint_of(v.name).pose
                marks[f"{v.name}_facet_{letter}"] = frame.world(spine.facets[v.name][side].centre)
        if v.name == "C1":
            marks["C1_spinous_tip"] = pose.world((0.0, -21.0, 0.0))
        else:
            marks[f"{v.name}_spinous_tip"] = pose.world(anchor.spinous_tip())
    marks["dens_tip"] = spine.poses["C2"].world(dens_point(p.vertebra("C2"), 1.0))
    marks["conus"] = spine.cord.points[-1]
    marks["sac_end"] = spine.sac.points[-1]
    marks["sacrum_tip"] = spine.sacrum.poses[4].world((0.0, 0.0, -0.5 * p.sacrum.heights[4]))
    return marks


def endplate_gap(spine: Spine, above: str) -> float:
    """Return the smallest distance between the rims that face each other across a disc (mm)."""
    joint = spine.joints[above]
    upper, lower = spine.bodies[above].v, spine.bodies[joint.below].v
    frame = compose(spine.poses[joint.below], body_frames(lower)[0])
    inf = compose(spine.poses[above], body_frames(upper)[1])
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = np.stack([0.5 * upper.width_inf * np.sin(angle), 0.5 * upper.depth_inf * np.cos(angle), 0 * angle], axis=1)
    return float(frame.local(inf.world(rim))[:, 2].min())


def body_height(v: VertebraParameters) -> tuple[float, float, float]:
    """Return the anterior, middle (between hollows) and posterior height of a body in mm."""
    anterior = v.height_post - v.depth * float(np.tan(np.deg2rad(v.wedge)))
    return anterior, rim_heights(v) - v.concavity_sup - v.concavity_inf, v.height_post
