"""Cords whose cross-section is known: blocks and ellipses turned in space, and exact partial volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import affine_transform

from nnunet_spine_ext.core.volume import Volume

_PADDING = 15


def block(radius_rl: int, radius_ap: int) -> np.ndarray:
    """Return a rectangle of odd widths, filled."""
    return np.ones((2 * radius_rl + 1, 2 * radius_ap + 1))


def disc(radius_rl: int, radius_ap: int) -> np.ndarray:
    """Return a filled ellipse; pixels on its edge belong to it when they are less than half a pixel outside."""
    x, y = np.ogrid[-radius_rl : radius_rl + 1, -radius_ap : radius_ap + 1]
    return ((x / (radius_rl + 0.5)) ** 2 + (y / (radius_ap + 0.5)) ** 2 < 1).astype(float)


def turned_cord(
    shape: tuple[int, int, int],
    section: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    about_is: float = 0.0,
    about_rl: float = 0.0,
    about_ap: float = 0.0,
    dtype: type = np.float64,
) -> Volume:
    """Return a straight cord in RAS, turned about its axes in this order (degrees), linearly interpolated.

    The cord is drawn at 1 mm and then brought to `spacing`, first voxel on first voxel.
    """
    from skimage.transform import rotate

    size = [int(n * step) for n, step in zip(shape, spacing, strict=True)]
    array = np.zeros(size)
    start = [round(size[k] / 2) - section.shape[k] // 2 for k in (0, 1)]
    array[start[0] : start[0] + section.shape[0], start[1] : start[1] + section.shape[1]] = section[:, :, None]
    padded = np.pad(array, _PADDING, "reflect")
    # `rotate` turns the first two axes: x and y as they are, z and y for right-left, x and z for front-to-back.
    for angle, order in ((about_is, (0, 1, 2)), (about_rl, (2, 1, 0)), (about_ap, (0, 2, 1))):
        padded = rotate(padded.transpose(order), angle, order=1, clip=False).transpose(np.argsort(order))
    cut = padded[_PADDING:-_PADDING, _PADDING:-_PADDING, _PADDING:-_PADDING]
    cut = np.round(cut) if np.issubdtype(dtype, np.integer) else cut
    steps = [old / new for old, new in zip(cut.shape, shape, strict=True)]
    fine = affine_transform(cut, steps, output_shape=shape, order=1, mode="nearest")
    return Volume(fine.astype(dtype), np.diag([*spacing, 1.0]))


def exact_cord(
    radii: tuple[float, float],
    spacing: tuple[float, float, float],
    tilt: tuple[float, float] = (0.0, 0.0),
    *,
    length: float = 40.0,
    samples: int = 8,
    soft: bool = True,
) -> Volume:
    """Return an elliptic cylinder in RAS whose axis is tilted, as the share of each voxel that it fills.

    Parameters
    ----------
    radii: half axes (right-left, front-to-back) in mm, across the cylinder.
    tilt: degrees that the axis leans to the right (towards +x) and to the front (+y).
    samples: points per axis and voxel.
    soft: False takes voxels whose centre is inside.
    """
    lean = np.tan(np.radians(tilt))
    reach = max(radii) + 3 + length / 2 * np.abs(lean).max()
    shape = [int(2 * reach / spacing[0]) + 1, int(2 * reach / spacing[1]) + 1, int(length / spacing[2])]
    origin = [-reach + 0.137, -reach - 0.211, -length / 2]
    axis = np.array([*lean, 1.0]) / np.sqrt(1 + (lean**2).sum())
    right = np.array([1.0, 0.0, 0.0]) - axis[0] * axis
    right /= np.linalg.norm(right)
    front = np.cross(axis, right)
    steps = (np.arange(samples) + 0.5) / samples - 0.5 if soft else np.zeros(1)
    array = np.zeros(shape, np.float32)
    grids = [origin[k] + spacing[k] * np.arange(shape[k]) for k in range(3)]
    for dx in steps:
        for dy in steps:
            for dz in steps:
                x = (grids[0] + dx * spacing[0])[:, None, None]
                y = (grids[1] + dy * spacing[1])[None, :, None]
                z = (grids[2] + dz * spacing[2])[None, None, :]
                u = x * right[0] + y * right[1] + z * right[2]
                v = x * front[0] + y * front[1] + z * front[2]
                array += (u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Volume(array / len(steps) ** 3, affine)


def straight_cord(
    shape: tuple[int, int, int] = (24, 24, 30), radius: float = 5.0, spacing: Sequence[float] = (1, 1, 1)
) -> Volume:
    """Return an upright round mask in RAS."""
    x, y = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape[:2], spacing[:2], strict=True))
    plane = x[:, None] ** 2 + y[None, :] ** 2 < radius**2
    array = np.repeat(plane[:, :, None], shape[2], axis=2).astype(np.uint8)
    return Volume(array, np.diag([*spacing, 1.0]))


def bent_cord() -> Volume:
    """Return a soft, bent, swelling cord in thick slices with an empty one, stored as PIR."""
    x, y, z = np.meshgrid(np.arange(40) * 0.7, np.arange(44) * 0.8, np.arange(24) * 3.0, indexing="ij")
    centre_x, centre_y = 14 + 2 * np.sin(z / 25), 16 + 0.0012 * (z - 36) ** 2 * np.sign(z - 36)
    size = 1 + 0.2 * np.exp(-(((z - 40) / 15) ** 2))
    radius = np.hypot((x - centre_x) / (6.5 * size), (y - centre_y) / (4.5 * size))
    array = np.clip((1.1 - radius) * 5, 0, 1).astype(np.float32)
    array[:, :, 9] = 0
    return Volume(array, np.diag([0.7, 0.8, 3.0, 1.0])).to("PIR")


# What the Spinal Cord Toolbox measured: see tests/oracles/make_cord_area.py.
ORACLE_CORDS = {
    "straight": straight_cord,
    "tilted": lambda: exact_cord((6.5, 4.5), (1, 1, 1), (14, -9), length=20, samples=4),
    "bent": bent_cord,
}
