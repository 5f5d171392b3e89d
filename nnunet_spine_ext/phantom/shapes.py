"""Signed distances of simple solids, evaluated only inside their bounding boxes, and the voxel grid they live on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_spine_ext.phantom.pose import Pose

Field = NDArray[Any]
"""Coordinates or distances at the voxels of a box, float32."""
Box = tuple[slice, slice, slice]


_CORNERS = np.array(list(np.ndindex(2, 2, 2)), bool)


class Solid(Protocol):
    """A solid in a local frame (mm); distances are negative inside and exact along the principal axes."""

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper corner of a box that holds the solid."""

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Return the signed distance at local coordinates (three float32 arrays of one shape)."""


@dataclass(frozen=True)
class Plane:
    """Half space that keeps points with ``normal · p <= offset``."""

    normal: tuple[float, float, float]
    offset: float


def _radial(parts: Sequence[tuple[Field, float]], exponent: float) -> Field:
    """Return the distance to a superellipsoid along the ray from its centre; `parts` are (coordinate, half axis)."""
    rho = np.zeros_like(parts[0][0])
    radius = np.zeros_like(rho)
    for value, half in parts:
        scaled = np.abs(value) * np.float32(1.0 / half)
        rho += scaled * scaled if exponent == 2.0 else scaled ** np.float32(exponent)
        radius += value * value
    np.maximum(rho, np.float32(1e-6), out=rho)
    rho = np.sqrt(rho) if exponent == 2.0 else rho ** np.float32(1.0 / exponent)
    np.sqrt(radius, out=radius)
    return radius - np.maximum(radius, np.float32(1e-3)) / rho


@dataclass(frozen=True)
class Bar:
    """Straight rod from `start` to `end` with a superelliptic section and rounded ends.

    `across` gives the direction of the first half axis; `half_start` and `half_end` are the two half axes (along
    `across`, and perpendicular to it) at either end. Cut by `planes`.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    across: tuple[float, float, float]
    half_start: tuple[float, float]
    half_end: tuple[float, float]
    exponent: float = 2.0
    cap: float = 1.0
    planes: tuple[Plane, ...] = field(default=())

    @cached_property
    def _axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
        axis = np.subtract(self.end, self.start)
        length = max(float(np.linalg.norm(axis)), 1e-3)
        axis = axis / length
        first = np.asarray(self.across, float)
        first = first - axis * (first @ axis)
        first /= max(float(np.linalg.norm(first)), 1e-6)
        second = axis[[1, 2, 0]] * first[[2, 0, 1]] - axis[[2, 0, 1]] * first[[1, 2, 0]]
        return axis, first, second, length

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Solid.bounds`."""
        axis, first, second, _ = self._axes
        corners = []
        for point, half in ((self.start, self.half_start), (self.end, self.half_end)):
            reach = np.abs(first) * half[0] + np.abs(second) * half[1] + np.abs(axis) * self.cap * min(half)
            corners += [point - reach, point + reach]
        return np.min(corners, axis=0), np.max(corners, axis=0)

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """See `Solid.distance`."""
        axis, first, second, length = (np.asarray(v, np.float32) for v in self._axes)
        px, py, pz = (value - np.float32(s) for value, s in zip((x, y, z), self.start, strict=True))
        along = px * axis[0] + py * axis[1] + pz * axis[2]
        u = px * first[0] + py * first[1] + pz * first[2]
        w = px * second[0] + py * second[1] + pz * second[2]
        inside = np.clip(along, 0.0, length)
        over = along - inside
        if self.half_start == self.half_end:
            result = _radial(
                ((u, self.half_start[0]), (w, self.half_start[1]), (over, self.cap * min(self.half_start))),
                self.exponent,
            )
        else:
            # Scale the section to that at the start; the distance scales back with the mean of both axes.
            t = inside / length
            sizes = [a + t * np.float32(b - a) for a, b in zip(self.half_start, self.half_end, strict=True)]
            su, sw = self.half_start[0] / sizes[0], self.half_start[1] / sizes[1]
            shrink = np.minimum(su, sw)
            result = _radial(
                (
                    (u * su, self.half_start[0]),
                    (w * sw, self.half_start[1]),
                    (over * shrink, self.cap * min(self.half_start)),
                ),
                self.exponent,
            )
            result /= np.float32(0.5) * (su + sw)
        return _cut(result, self.planes, x, y, z)


@dataclass(frozen=True)
class Ellipsoid:
    """Superellipsoid at `centre`; the columns of `axes` are its directions."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    axes: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    exponent: float = 2.0
    planes: tuple[Plane, ...] = field(default=())

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Solid.bounds`."""
        reach = np.abs(np.asarray(self.axes)) @ np.asarray(self.half)
        return np.asarray(self.centre) - reach, np.asarray(self.centre) + reach

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """See `Solid.distance`."""
        px, py, pz = (value - np.float32(c) for value, c in zip((x, y, z), self.centre, strict=True))
        axes = np.asarray(self.axes, np.float32)
        parts = [(px * axes[0, i] + py * axes[1, i] + pz * axes[2, i], half) for i, half in enumerate(self.half)]
        return _cut(_radial(parts, self.exponent), self.planes, x, y, z)


def _cut(distance: Field, planes: Sequence[Plane], x: Field, y: Field, z: Field) -> Field:
    """Intersect with half spaces."""
    for plane in planes:
        n = np.asarray(plane.normal, np.float32)
        np.maximum(distance, x * n[0] + y * n[1] + z * n[2] - np.float32(plane.offset), out=distance)
    return distance


def plane_through(point: ArrayLike, normal: ArrayLike, gap: float = 0.0) -> Plane:
    """Return the half space on the far side of `normal` whose border lies `gap` mm before `point`."""
    direction = np.asarray(normal, float)
    offset = float(direction @ np.asarray(point, float)) - gap
    return Plane((float(direction[0]), float(direction[1]), float(direction[2])), offset)


class Grid:
    """Voxel centres of an image: `affine` maps (i, j, k, 1) to RAS+ mm."""

    def __init__(self, affine: ArrayLike, shape: Sequence[int]) -> None:
        self.affine = np.asarray(affine, float)
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.inverse = np.linalg.inv(self.affine)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size in mm along (i, j, k)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def refined(self, factor: Sequence[int]) -> Grid:
        """Return the grid of `factor` times as many voxels that covers the same volume."""
        scale = np.diag([*(1.0 / np.asarray(factor, float)), 1.0])
        scale[:3, 3] = 0.5 * np.diag(scale)[:3] - 0.5
        return Grid(self.affine @ scale, [n * f for n, f in zip(self.shape, factor, strict=True)])

    def box(self, pose: Pose, low: ArrayLike, high: ArrayLike, margin: float = 0.0) -> Box | None:
        """Return the index box of a local bounding box, or None where it misses the grid."""
        low, high = np.asarray(low, float) - margin, np.asarray(high, float) + margin
        corners = pose.world(np.where(_CORNERS, high, low))
        index = corners @ self.inverse[:3, :3].T + self.inverse[:3, 3]
        lowest, highest = np.floor(index.min(0)).tolist(), np.ceil(index.max(0)).tolist()
        out = []
        for start, stop, size in zip(lowest, highest, self.shape, strict=True):
            first, last = max(int(start), 0), min(int(stop) + 1, size)
            if last <= first:
                return None
            out.append(slice(first, last))
        return out[0], out[1], out[2]

    def local(self, pose: Pose, box: Box) -> tuple[Field, Field, Field]:
        """Return the local coordinates (x, y, z) of the voxels of a box as float32 arrays."""
        matrix = pose.rotation.T @ self.affine[:3, :3]
        offset = pose.rotation.T @ (self.affine[:3, 3] - pose.origin)
        steps = [np.arange(s.start, s.stop, dtype=np.float64) for s in box]
        out = []
        for row, start in zip(matrix, offset, strict=True):
            first = (row[0] * steps[0] + start).astype(np.float32)[:, None, None]
            rest = (row[1] * steps[1][:, None] + row[2] * steps[2][None, :]).astype(np.float32)[None]
            out.append(first + rest)
        return out[0], out[1], out[2]

    def world(self, box: Box) -> tuple[Field, Field, Field]:
        """Return world coordinates of a box; arrays have length one along axes on which a coordinate is constant."""
        steps = [np.arange(s.start, s.stop, dtype=np.float64) for s in box]
        out = []
        for row, start in zip(self.affine[:3, :3], self.affine[:3, 3], strict=True):
            total = np.full((1, 1, 1), start)
            for axis in range(3):
                if abs(row[axis]) > 1e-9:
                    total = total + (row[axis] * steps[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
            out.append(total.astype(np.float32))
        return out[0], out[1], out[2]
