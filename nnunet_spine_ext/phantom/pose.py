"""Rigid poses and the chain of vertebrae from the sacrum upwards.

Frames are right-handed with x to the patient's right, y to the front and z up the spine; world is RAS+ mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_spine_ext.phantom.model import DiscParameters, SpineParameters, VertebraParameters

Matrix = NDArray[np.float64]
MIN_GAP = 1.7
"""Least distance between facing rims (mm)."""


def rotation(pitch: float = 0.0, lateral: float = 0.0, axial: float = 0.0) -> Matrix:
    """Return a 3x3 rotation from degrees: pitch > 0 leans forward, lateral > 0 leans right, axial > 0 turns left."""
    p, q, a = np.deg2rad([pitch, lateral, axial])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(q), 0, np.sin(q)], [0, 1, 0], [-np.sin(q), 0, np.cos(q)]])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def mean_rotation(first: Matrix, second: Matrix) -> Matrix:
    """Return the rotation half-way between two (nearest rotation to their mean)."""
    u, _, vt = np.linalg.svd(first + second)
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


@dataclass(frozen=True)
class Pose:
    """Rigid map from a local frame to world: ``world = rotation @ local + origin`` (mm)."""

    rotation: Matrix
    origin: Matrix

    def world(self, points: ArrayLike) -> Matrix:
        """Map points (..., 3) from local to world."""
        return np.asarray(points, float) @ self.rotation.T + self.origin

    def local(self, points: ArrayLike) -> Matrix:
        """Map points (..., 3) from world to local."""
        return (np.asarray(points, float) - self.origin) @ self.rotation

    def direction(self, vector: ArrayLike) -> Matrix:
        """Turn a local direction into a world direction."""
        return self.rotation @ np.asarray(vector, float)

    def moved(self, offset: ArrayLike, turn: Matrix | None = None) -> Pose:
        """Return the pose shifted by `offset` (local mm) and then turned by `turn`."""
        rotated = self.rotation if turn is None else self.rotation @ turn
        return Pose(rotated, self.world(offset))


@dataclass(frozen=True)
class Joint:
    """Where two vertebrae meet: frame half-way between the facing endplates, names above and below ('S1' last)."""

    above: str
    below: str
    pose: Pose


def rim_heights(v: VertebraParameters) -> float:
    """Return the height of a body between its rims at mid depth (mm)."""
    return v.height_post - 0.5 * v.depth * float(np.tan(np.deg2rad(v.wedge)))


def rim_gap(disc: DiscParameters, above: VertebraParameters, concavity_below: float) -> float:
    """Return the distance of the facing rims at mid depth (mm).

    It is the disc's central height less part of both hollows, and enough for the rims to stay `MIN_GAP` apart where a
    wedged disc is lowest.
    """
    nominal = disc.height - 0.5 * (min(above.concavity_inf, 3.0) + min(concavity_below, 3.0))
    wedged = 0.5 * above.depth_inf * np.tan(np.deg2rad(abs(disc.lordosis)))
    leaning = 0.5 * above.width_inf * np.tan(np.deg2rad(abs(disc.lateral)))
    return max(nominal, MIN_GAP + float(np.hypot(wedged, leaning)))


def body_frames(v: VertebraParameters) -> tuple[Pose, Pose]:
    """Return the upper and lower endplate frames in the vertebra's frame (origins at the rim centres).

    The posterior wall is straight: rims of unequal depth share it, so their centres differ in y.
    """
    half = 0.5 * rim_heights(v)
    sup = np.array([0.0, 0.5 * (v.depth_sup - v.depth), half])
    inf = np.array([0.0, 0.5 * (v.depth_inf - v.depth), -half])
    return (
        Pose(rotation(0.5 * v.wedge, 0.5 * v.coronal_wedge), sup),
        Pose(rotation(-0.5 * v.wedge, -0.5 * v.coronal_wedge), inf),
    )


def compose(outer: Pose, inner: Pose) -> Pose:
    """Return the world pose of a frame given inside another frame."""
    return Pose(outer.rotation @ inner.rotation, outer.world(inner.origin))


def invert(pose: Pose) -> Pose:
    """Return the inverse map as a pose."""
    return Pose(pose.rotation.T, -pose.rotation.T @ pose.origin)


def chain(parameters: SpineParameters) -> tuple[Pose, dict[str, Pose], list[Joint]]:
    """Place all vertebrae with forward kinematics from S1 upwards.

    Returns the frame of the S1 endplate (world origin, inclined by the sacral slope), the pose of every presacral
    vertebra except C1 (see `upper_cervical`), and the joints from L5/S1 up to C2/3.
    """
    sacrum = Pose(rotation(parameters.sacral_slope), np.zeros(3))
    top, depth, name, hollow = sacrum, parameters.sacrum.depths[0], "S1", 1.0
    poses: dict[str, Pose] = {}
    joints: list[Joint] = []
    discs = {d.above: d for d in parameters.discs}
    for v in reversed(parameters.vertebrae[1:]):
        disc = discs[v.name]
        turn = (-0.5 * disc.lordosis, 0.5 * disc.lateral, 0.5 * disc.axial)
        middle = Pose(top.rotation @ rotation(*turn), top.origin)
        gap = rim_gap(disc, v, hollow)
        shift = 0.5 * (v.depth_inf - depth) + disc.slip
        floor = middle.moved((0.0, shift, gap), rotation(*turn))
        joints.append(Joint(v.name, name, Pose(middle.rotation, 0.5 * (top.origin + floor.origin))))
        sup, inf = body_frames(v)
        pose = compose(floor, invert(inf))
        poses[v.name] = pose
        top, depth, name, hollow = compose(pose, sup), v.depth_sup, v.name, v.concavity_sup
    return sacrum, poses, joints
