"""What lies around the spine: trunk and neck outline, skin, fat, muscles, airways, lungs, organs and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.phantom.regions import Place, paint_inside
from nnunet_spine_ext.phantom.shapes import Field, Grid
from nnunet_spine_ext.phantom.spine import Spine

ARRAY = NDArray[np.float64]
LEVELS = (-4.0, -1.0, 1.0, 3.0, 5.5, 7.0, 8.5, 10.0, 13.0, 17.0, 20.0, 23.0, 25.5, 28.0)
HALF_WIDTH = (76.0, 72.0, 66.0, 62.0, 62.0, 78.0, 135.0, 175.0, 165.0, 155.0, 150.0, 155.0, 172.0, 180.0)
DEPTH = (185.0, 170.0, 135.0, 122.0, 118.0, 128.0, 145.0, 170.0, 205.0, 215.0, 205.0, 205.0, 215.0, 220.0)
"""Half width and depth of the body by level (mm, body mass index 26)."""
FAT_BACK = (0.35, 0.35, 0.4, 0.45, 0.5, 0.6, 0.55, 0.5, 0.5, 0.55, 0.8, 1.0, 0.8, 0.8)
"""Subcutaneous fat behind the spine as a share of that at L4."""
FAT_FRONT = (0.2, 0.2, 0.2, 0.25, 0.25, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0, 1.0, 0.9)
BACK_MUSCLE = (42.0, 40.0, 40.0, 42.0, 46.0, 52.0, 58.0, 58.0, 55.0, 55.0, 62.0, 66.0, 52.0, 40.0)
"""Half width of the muscles behind the transverse processes (mm)."""


@dataclass(frozen=True)
class Profile:
    """Per millimetre of z (ascending): canal axis, body wall, skin and sizes of the trunk, all in mm."""

    z: ARRAY
    level: ARRAY
    centre_x: ARRAY
    centre_y: ARRAY
    body_front: ARRAY
    back: ARRAY
    half_width: ARRAY
    depth: ARRAY
    fat_back: ARRAY
    fat_front: ARRAY
    muscle: ARRAY


def build_profile(spine: Spine, low: float, high: float) -> Profile:
    """Return the trunk's profile between two heights (mm)."""
    p = spine.parameters
    z = np.arange(np.floor(low) - 2, np.ceil(high) + 3)
    sac = spine.sac
    bottom = np.array([spine.landmark("sacrum_tip"), spine.sacrum.canal_point(3)])
    axis_z = np.concatenate([bottom[:, 2], sac.points[::-1, 2]])
    order = np.argsort(axis_z)
    axis = np.concatenate([bottom, sac.points[::-1]])[order]
    levels = np.concatenate([[30.0, 28.0], sac.level[::-1]])[order]
    body = body_front(spine)
    tips = np.array([spine.landmark(f"{name}_spinous_tip") for name in p.names[1:]][::-1])
    sacral = np.array([pose.world((0.0, -35.0 + 4.0 * i, 0.0)) for i, pose in enumerate(spine.sacrum.poses)])
    surface = np.concatenate([sacral[::-1], tips])
    surface = surface[np.argsort(surface[:, 2])]
    level = np.interp(z, axis[:, 2], levels)
    scale = p.body.trunk_scale
    fat_back = p.body.fat_back * np.interp(level, LEVELS, FAT_BACK)
    tip_y = _smooth(np.interp(z, surface[:, 2], surface[:, 1]), 61)
    centre_y = np.interp(z, axis[:, 2], axis[:, 1])
    # Above C2 nothing points backwards: the nape runs on to the occiput.
    nape = centre_y - np.interp(level, (-3, 0, 2, 3), (75.0, 55.0, 46.0, 40.0))
    tip_y = np.where(level < 3, np.minimum(tip_y, nape), tip_y)
    return Profile(
        z=z,
        level=level,
        centre_x=np.interp(z, axis[:, 2], axis[:, 0]),
        centre_y=centre_y,
        body_front=np.interp(z, body[:, 2], body[:, 1]),
        back=_smooth(tip_y - 4.0 - fat_back - p.body.skin, 41),
        half_width=scale * np.interp(level, LEVELS, HALF_WIDTH),
        depth=scale * np.interp(level, LEVELS, DEPTH),
        fat_back=fat_back,
        fat_front=p.body.fat_back * np.interp(level, LEVELS, FAT_FRONT),
        muscle=scale * np.interp(level, LEVELS, BACK_MUSCLE),
    )


def body_front(spine: Spine) -> ARRAY:
    """Return world points on the front of the bodies, bottom first (N, 3)."""
    p = spine.parameters
    sacrum = zip(spine.sacrum.poses, p.sacrum.depths, strict=True)
    points = [pose.world((0.0, 0.5 * depth, 0.0)) for pose, depth in sacrum][::-1]
    points += [spine.poses[v.name].world((0.0, 0.5 * v.depth, 0.0)) for v in reversed(p.vertebrae[1:])]
    points.append(spine.poses["C1"].world((0.0, 20.0, 0.0)))
    cloud = np.array(points)
    return cloud[np.argsort(cloud[:, 2])]


def _smooth(values: ARRAY, width: int) -> ARRAY:
    kernel = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(values, width // 2, mode="edge"), kernel / kernel.sum(), mode="valid")


def paint_surroundings(spine: Spine, grid: Grid, tissue: NDArray[np.uint8]) -> None:
    """Fill a tissue map with everything but the spine, in slabs along its first axis."""
    corners = np.array([[i, j, k] for i in (0, grid.shape[0]) for j in (0, grid.shape[1]) for k in (0, grid.shape[2])])
    heights = (corners @ grid.affine[:3, :3].T + grid.affine[:3, 3])[:, 2]
    profile = build_profile(spine, heights.min(), heights.max())
    step = max(1, int(2e6 / (grid.shape[1] * grid.shape[2])))
    for first in range(0, grid.shape[0], step):
        box = (slice(first, min(first + step, grid.shape[0])), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
        x, y, z = grid.world(box)
        out = tissue[box]
        paint_inside(spine, measure_place(profile, x, y, z), out)


def measure_place(profile: Profile, x: Field, y: Field, z: Field) -> Place:
    """Return where points lie in the body; the arrays may have length one along axes on which they do not depend."""
    index = np.clip(np.rint(z - np.float32(profile.z[0])), 0, len(profile.z) - 1).astype(np.int32)

    def at(values: ARRAY) -> Field:
        return values.astype(np.float32)[index]

    half_depth, back = 0.5 * at(profile.depth), at(profile.back)
    centre_x, centre_y = at(profile.centre_x), at(profile.centre_y)
    u, v = x - centre_x, y - back - half_depth
    radius = np.sqrt(u * u + v * v)
    rho = np.sqrt(np.sqrt((u / at(profile.half_width)) ** 4 + (v / half_depth) ** 4 + np.float32(1e-9)))
    # Back and front are nearly flat: the distance along the ray from the middle would be too long there.
    depth = np.minimum(np.maximum(radius, 1.0) / np.maximum(rho, 1e-3) - radius, half_depth - np.abs(v))
    share = np.clip(0.5 + v / (2 * half_depth), 0, 1)
    fat = at(profile.fat_back) * (1 - share) + at(profile.fat_front) * share
    return Place(
        right=u,
        front=y - centre_y,
        level=at(profile.level),
        z=z,
        depth=depth,
        fat=fat,
        body=at(profile.body_front) - centre_y,
        muscle=at(profile.muscle),
        behind=y - back,
        scale=float(np.median(profile.half_width) / 150.0),
    )
