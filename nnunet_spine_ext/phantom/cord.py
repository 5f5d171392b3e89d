"""Spinal cord and dural sac as tubes with superelliptic sections along curves, with exact areas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gamma

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_spine_ext.phantom.model import CordParameters
from nnunet_spine_ext.phantom.pose import Pose
from nnunet_spine_ext.phantom.shapes import Box, Field, Grid
from nnunet_spine_ext.phantom.tables import (
    CORD_AREA,
    CORD_EXPONENT,
    CORD_LEVEL,
    CORD_RATIO,
    CORD_TIP_LEVEL,
    SAC_AREA,
    SAC_EXPONENT,
    SAC_LEVEL,
    SAC_RATIO,
)

STEP = 0.25
"""Distance of the samples of a tube's curve (mm)."""
TOP_LEVEL = 0.3
"""Level of the foramen magnum, where the labels of cord and canal begin."""
CHUNK = 16.0
"""Length of the stretches in which a tube is painted (mm)."""
ARRAY = NDArray[np.float64]


def section_factor(exponent: float) -> float:
    """Return the area of |x/a|^n + |y/b|^n <= 1 divided by 4ab."""
    return gamma(1 + 1 / exponent) ** 2 / gamma(1 + 2 / exponent)


@dataclass(frozen=True)
class Tube:
    """Tube along a sampled curve.

    `points` (N, 3) world mm, `tangents` upwards, `front` and `right` unit vectors of the section; `half_right` and
    `half_front` half axes in mm, `level` the continuous vertebral level; `arc` mm from the upper end.
    """

    points: ARRAY
    tangents: ARRAY
    front: ARRAY
    right: ARRAY
    half_right: ARRAY
    half_front: ARRAY
    level: ARRAY
    arc: ARRAY
    exponent: float

    @property
    def area(self) -> ARRAY:
        """Analytic area of each section in mm²."""
        return 4 * self.half_right * self.half_front * section_factor(self.exponent)

    def cut(self, keep: NDArray[np.bool_]) -> Tube:
        """Return the tube without the samples that are not kept (kept ones must be contiguous)."""
        names = ("points", "tangents", "front", "right", "half_right", "half_front", "level", "arc")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def at_level(self, level: float | ARRAY, values: ARRAY) -> ARRAY:
        """Interpolate per-sample `values` at continuous levels (0 outside the tube)."""
        return np.asarray(np.interp(level, self.level, values, left=0.0, right=0.0))

    def point(self, level: float) -> ARRAY:
        """Return the world point of the axis at a level."""
        return np.array([np.interp(level, self.level, self.points[:, i]) for i in range(3)])

    def chunks(self, grid: Grid, margin: float) -> Iterator[tuple[Box, int, int]]:
        """Yield index boxes that together hold every voxel within `margin` mm of the tube, with their samples."""
        count = max(1, int(np.ceil((self.arc[-1] - self.arc[0]) / CHUNK)))
        borders = np.linspace(0, len(self.arc) - 1, count + 1).round().astype(int)
        world = Pose(np.eye(3), np.zeros(3))
        for first, last in pairwise(borders):
            part = slice(first, last + 1)
            reach = max(self.half_right[part].max(), self.half_front[part].max()) + margin
            box = grid.box(world, self.points[part].min(0), self.points[part].max(0), reach)
            if box is not None:
                yield box, int(first), int(last)

    def coordinates(self, xyz: tuple[Field, Field, Field], first: int, last: int) -> tuple[Field, Field, Field]:
        """Return (sample index, right, front) in mm of world points nearest to samples `first` … `last`.

        The index is fractional; points whose section lies outside the stretch get an index outside it.
        """
        tables = self._tables()
        middle = (first + last) // 2
        index = np.full(xyz[0].shape, middle, np.int32)
        exact = np.zeros(xyz[0].shape, np.float32)
        for _ in range(3):
            gap = sum((xyz[i] - tables[0][i][index]) * tables[1][i][index] for i in range(3))
            exact = index - gap * np.float32(1.0 / STEP)
            index = np.clip(np.rint(exact), max(first - 8, 0), min(last + 8, len(self.arc) - 1)).astype(np.int32)
        offset = [xyz[i] - tables[0][i][index] for i in range(3)]
        right = sum(offset[i] * tables[2][i][index] for i in range(3))
        front = sum(offset[i] * tables[3][i][index] for i in range(3))
        return exact, right, front  # type: ignore[return-value]

    def _tables(self) -> list[NDArray[np.float32]]:
        sources = (self.points, self.tangents, self.right, self.front)
        return [np.ascontiguousarray(source.T, dtype=np.float32) for source in sources]

    def radius(self, exact: Field, right: Field, front: Field, grow: float = 0.0) -> tuple[Field, Field]:
        """Return the relative radius (1 on the border) and the approximate signed distance in mm."""
        samples = np.arange(len(self.arc), dtype=np.float32)
        a = np.interp(exact, samples, self.half_right).astype(np.float32) + np.float32(grow)
        b = np.interp(exact, samples, self.half_front).astype(np.float32) + np.float32(grow)
        n = np.float32(self.exponent)
        sx, sy = np.abs(right) / np.maximum(a, 0.05), np.abs(front) / np.maximum(b, 0.05)
        powered = sx**n + sy**n
        rho = np.maximum(powered, np.float32(1e-9)) ** np.float32(1 / self.exponent)
        # First-order distance: value over gradient length is much closer than the distance along the ray.
        slope = np.hypot(sx ** (n - 1) / np.maximum(a, 0.05), sy ** (n - 1) / np.maximum(b, 0.05))
        slope = slope / np.maximum(rho, np.float32(1e-3)) ** (n - 1)
        return rho, (rho - 1) / np.maximum(slope, np.float32(1e-3))


def _curve(knots: ARRAY, fronts: ARRAY, levels: ARRAY) -> dict[str, ARRAY]:
    """Sample a smooth curve through knots (top first) at equal arc steps, with its frame and levels."""
    from scipy.interpolate import CubicSpline, PchipInterpolator

    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    spline = CubicSpline(chord, knots)
    fine = np.linspace(0, chord[-1], int(chord[-1] / 0.05) + 2)
    dense = spline(fine)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    arc = np.arange(0.0, length[-1], STEP)
    position = np.interp(arc, length, fine)
    points = spline(position)
    tangents = -spline(position, 1)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    front = np.stack([np.interp(position, chord, fronts[:, i]) for i in range(3)], axis=1)
    front -= tangents * np.sum(front * tangents, axis=1, keepdims=True)
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    return {
        "points": points,
        "tangents": tangents,
        "front": front,
        "right": np.cross(front, tangents),
        "level": PchipInterpolator(chord, levels)(position),
        "arc": arc,
    }


def cord_area(parameters: CordParameters, level: ArrayLike) -> tuple[ARRAY, ARRAY]:
    """Return the cord's area (mm²) and AP/RL ratio at continuous levels; 0 below the conus tip.

    Below T9 the table is stretched so that its tip meets the drawn conus.
    """
    lvl = np.asarray(level, float)
    stretch = (CORD_TIP_LEVEL - 16.0) / (parameters.conus_level - 16.0)
    looked = np.where(lvl > 16.0, 16.0 + (lvl - 16.0) * stretch, lvl)
    noise = np.interp(lvl, np.arange(1, len(parameters.residual) + 1), parameters.residual)
    area = parameters.factor * np.exp(noise) * np.interp(looked, CORD_LEVEL, CORD_AREA)
    return np.where(lvl <= parameters.conus_level, area, 0.0), np.interp(looked, CORD_LEVEL, CORD_RATIO)


def sac_area(parameters: CordParameters, level: ArrayLike) -> tuple[ARRAY, ARRAY]:
    """Return the dural sac's area (mm², cord included) and AP/RL ratio; discs narrow it, stenoses more."""
    lvl = np.asarray(level, float)
    noise = np.interp(lvl, np.arange(1, len(parameters.sac_residual) + 1), parameters.sac_residual)
    at_discs = np.interp(lvl, (2, 3, 7, 8, 19, 21, 25), (0, 0.08, 0.08, 0.02, 0.02, 0.08, 0.08))
    waist = 0.5 * (1 - np.cos(2 * np.pi * lvl)) * at_discs
    factor = parameters.sac_factor * np.exp(noise) * (1 - waist)
    ratio = np.interp(lvl, SAC_LEVEL, SAC_RATIO) * (1 - 0.5 * waist)
    for where, amount in parameters.narrowing:
        dent = 1 - (1 - amount) * np.exp(-(((lvl - where) / 0.16) ** 2))
        factor, ratio = factor * dent, ratio * dent**0.5
    return factor * np.interp(lvl, SAC_LEVEL, SAC_AREA), ratio


def cord_half_axes(parameters: CordParameters, level: ArrayLike) -> tuple[ARRAY, ARRAY]:
    """Return the cord's half width and half depth in mm at continuous levels."""
    area, ratio = cord_area(parameters, level)
    half = np.sqrt(area / (4 * section_factor(CORD_EXPONENT) * ratio))
    return half, ratio * half


def sac_half_axes(parameters: CordParameters, level: ArrayLike) -> tuple[ARRAY, ARRAY]:
    """Return the sac's half width and half depth in mm; it gives way wherever the cord would touch its wall."""
    area, ratio = sac_area(parameters, level)
    right = np.sqrt(area / (4 * section_factor(SAC_EXPONENT) * ratio))
    cord_right, cord_front = cord_half_axes(parameters, level)
    inside = np.asarray(level) < parameters.conus_level
    return (
        np.maximum(right, np.where(inside, cord_right + 1.3, 0.0)),
        np.maximum(ratio * right, np.where(inside, cord_front + 1.1, 0.0)),
    )


def sac_gap(level: float) -> float:
    """Return the distance between the posterior body wall and the sac in mm; fat widens it at L5 and S1."""
    return float(np.interp(level, (2, 20, 23, 24, 25), (1.6, 1.4, 1.5, 2.4, 3.6)))


def build_tubes(
    parameters: CordParameters, knots: ARRAY, fronts: ARRAY, levels: ARRAY, end_level: float
) -> tuple[Tube, Tube]:
    """Return (cord, sac) from knots of the canal's axis, top first, with front directions and levels.

    The cord hangs inside the sac: in front in the thorax, a little behind where it ends.
    """
    curve = _curve(knots, fronts, levels)
    lvl = curve["level"]
    area, ratio = cord_area(parameters, lvl)
    area = _smooth(area) * (lvl <= parameters.conus_level)
    half_front = np.sqrt(area * ratio / (4 * section_factor(CORD_EXPONENT)))
    sac_right, sac_front = sac_half_axes(parameters, lvl)
    taper = np.sqrt(np.clip((end_level - lvl) / 0.35, 0.0, 1.0))
    sac_right, sac_front = sac_right * taper, sac_front * taper
    has_cord = area > 0
    offset = np.interp(lvl, (1, 5, 6.5, 8, 10, 16, 18, 19, 20), (0.3, 0.2, -0.2, 0.2, 1.2, 1.2, 0.2, -0.3, -0.8))
    room = np.maximum(sac_front - half_front - 0.9, 0.0)
    offset = _smooth(np.clip(offset, -room, room))
    shown = (lvl <= end_level) & (lvl >= TOP_LEVEL)
    sac = Tube(**curve, half_right=sac_right, half_front=sac_front, exponent=SAC_EXPONENT).cut(shown)
    top = np.flatnonzero(has_cord & (lvl >= TOP_LEVEL))
    moved = curve["points"] + offset[:, None] * curve["front"]
    keep = np.append(np.arange(top[0], top[-1], 8), top[-1])
    own = _curve(moved[keep], curve["front"][keep], lvl[keep])
    at = own["level"]
    area = np.interp(at, lvl, area)
    ratio = np.interp(at, lvl, ratio)
    half_right = np.sqrt(area / (4 * section_factor(CORD_EXPONENT) * ratio))
    return Tube(**own, half_right=half_right, half_front=ratio * half_right, exponent=CORD_EXPONENT), sac


def _smooth(values: ARRAY, width: int = 24) -> ARRAY:
    """Running mean over `width` samples (6 mm) that keeps the ends."""
    kernel = np.ones(width) / width
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, kernel, mode="valid")
