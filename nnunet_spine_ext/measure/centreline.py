"""The line of the spine: a smooth curve through the bodies and discs, led by the canal where there is one.

Positions along the spine, spacing of vertebrae and "above" and "below" are all measured along this curve, never along
an image axis, so tilted levels (sacrum, kyphosis, scoliosis) are treated like straight ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume

STEP_MM = 1.0
BIN_MM = 4.0
# The line is known beyond its ends, where it continues straight: processes hang lower than the last body.
REACH_MM = 150.0
MAX_POINTS = 60_000
_LOCATED_MM = 0.05
# A column lower than this has a straight line, along a canal of at least so much.
LOW_MM, SHORT_MM = 40.0, 12.0
# A body is wider than high, so the line through few bodies would turn sideways; the canal is a thin tube and leads.
MIN_CANAL_MM = 40.0
CANAL_COVERAGE = 0.75
_BESIDE_MM = 15.0

_COLUMN_LABELS = (10, 13, 14)
_CANAL_LABELS = (11, 12)


@dataclass(frozen=True)
class Centreline:
    """A smooth curve from head to tail in millimetres.

    Parameters
    ----------
    points: (n, 3) positions, `STEP_MM` apart, extended straight by `REACH_MM` at both ends.
    tangents: (n, 3) unit vectors towards the tail.
    length: millimetres of spine covered; arc length 0 is its head end, `length` its tail end.
    """

    points: Array
    tangents: Array
    length: float

    def at(self, arc: Array) -> Array:
        """Return the positions (..., 3) at arc lengths in millimetres."""
        return self._interpolate(np.asarray(arc))[0]

    def tangent(self, arc: Array) -> Array:
        """Return unit vectors (..., 3) towards the tail at arc lengths in millimetres."""
        vectors = self._interpolate(np.asarray(arc))[1]
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    def locate(self, points: Array, iterations: int = 8) -> Array:
        """Return the arc length (n,) at which the curve's normal plane passes through each point (n, 3)."""
        points = np.asarray(points, dtype=np.float64)
        rise = -self.points[:, 2]
        order = np.argsort(rise, kind="stable")
        arc = np.interp(-points[:, 2], rise[order], (order * STEP_MM - REACH_MM))
        for _ in range(iterations):
            position, tangent = self._interpolate(arc)
            forward = np.einsum("ij,ij->i", points - position, tangent)
            arc = np.clip(arc + np.clip(forward, -20.0, 20.0), -REACH_MM, self.length + REACH_MM)
            if len(arc) == 0 or np.abs(forward).max() < _LOCATED_MM:
                break
        return arc

    def _interpolate(self, arc: Array) -> tuple[Array, Array]:
        """Positions and (not quite normalised) tangents at arc lengths."""
        place = np.clip((arc + REACH_MM) / STEP_MM, 0, len(self.points) - 1)
        low = np.minimum(place.astype(np.intp), len(self.points) - 2)
        part = (place - low)[..., None]
        return tuple(t[low] + part * (t[low + 1] - t[low]) for t in (self.points, self.tangents))  # type: ignore[return-value]


def centreline(semantic: Volume, *, smoothing_mm: float = 20.0) -> Centreline | None:
    """Fit the line of the spine to a semantic mask.

    Parameters
    ----------
    semantic: labels of the scheme ``nnunet14`` (corpus 10, cord 11, canal 12, endplate 13, disc 14).
    smoothing_mm: standard deviation of the smoothing along the curve.

    Returns
    -------
    The curve in RAS+ millimetres of the volume, or None when there is neither a body, a disc nor a canal.
    """
    column = _points_of(semantic, _COLUMN_LABELS)
    canal = _points_of(semantic, _CANAL_LABELS)
    return fit_centreline(column, canal, smoothing_mm=smoothing_mm)


def fit_centreline(column: Array, canal: Array, *, smoothing_mm: float = 20.0) -> Centreline | None:
    """Fit the line to points (n, 3) in millimetres of the bodies and discs, and of canal and cord; either may be empty.

    The third coordinate must grow towards the head.
    """
    if len(column) == 0 and len(canal) == 0:
        return None
    if len(column) == 0:
        return _principal_curve(canal, smoothing_mm)
    height = float(np.ptp(column[:, 2]))
    beside = _beside(canal, column)
    if height < LOW_MM:
        return _curve_through(column.mean(axis=0) + np.outer([-0.5, 0.5], _direction(beside) * (height + 1e-3)))
    guide = _guide(column, beside, smoothing_mm)
    if guide is not None:
        return _curve_along(column, guide, smoothing_mm)
    if np.ptp(column[:, 2]) < 2 * MIN_CANAL_MM:
        middle = column.mean(axis=0)
        axis = np.array([[0.0, 0.0, column[:, 2].max()], [0.0, 0.0, column[:, 2].min() - 1e-3]])
        axis[:, :2] = middle[:2]
        return _curve_through(axis)
    return _principal_curve(column, smoothing_mm)


def _direction(canal: Array) -> Array:
    """Unit vector (3,) towards the tail of a short piece of canal, from its middle at each height; else straight down.

    In a picture that is lower than the spine is deep, slabs across a tilted line end at the edges of the picture, which
    tilts the next line further. Axial slabs do not.
    """
    down = np.array([0.0, 0.0, -1.0])
    if len(canal) < 20 or np.ptp(canal[:, 2]) < SHORT_MM:
        return down
    rows = np.unique(np.round(canal[:, 2] / BIN_MM), return_inverse=True)[1]
    weight = np.bincount(rows).astype(np.float64)
    middle = np.stack([np.bincount(rows, canal[:, k]) for k in range(3)], axis=1) / weight[:, None]
    offset = middle - np.average(middle, axis=0, weights=weight)
    slope = (weight[:, None] * offset * offset[:, 2:]).sum(axis=0) / (weight * offset[:, 2] ** 2).sum()
    return -slope / np.linalg.norm(slope)


def _beside(canal: Array, column: Array) -> Array:
    """The canal at the heights of the column and `_BESIDE_MM` beyond: farther off it may run in another direction."""
    top, bottom = column[:, 2].max() + _BESIDE_MM, column[:, 2].min() - _BESIDE_MM
    return canal[(canal[:, 2] <= top) & (canal[:, 2] >= bottom)]


def _guide(column: Array, beside: Array, smoothing_mm: float) -> Centreline | None:
    """The own line of the canal beside the column, if the canal accompanies enough of it."""
    if len(beside) < 20:
        return None
    extent, height = np.ptp(beside[:, 2]), np.ptp(column[:, 2])
    if extent < min(MIN_CANAL_MM, height) or extent < CANAL_COVERAGE * height:
        return None
    return _principal_curve(beside, smoothing_mm)


def _principal_curve(points: Array, smoothing_mm: float) -> Centreline:
    """Average the points over slabs across the current curve, smooth, and repeat; starts from the vertical."""
    ends = np.array([[0.0, 0.0, points[:, 2].max()], [0.0, 0.0, points[:, 2].min() - 1e-3]])
    ends[:, :2] = points[:, :2].mean(axis=0)
    curve = _curve_through(ends)
    for _ in range(3):
        curve = _curve_along(points, curve, smoothing_mm)
    return curve


def _curve_along(points: Array, guide: Centreline, smoothing_mm: float) -> Centreline:
    """Average the points over slabs across `guide`, then smooth along it by local linear regression."""
    arc = guide.locate(points)
    start = arc.min()
    bins = ((arc - start) / BIN_MM).astype(np.intp)
    weight = np.bincount(bins).astype(np.float64)
    centres = np.stack([np.bincount(bins, points[:, k]) for k in range(3)], axis=1) / np.maximum(weight, 1)[:, None]
    place = start + (np.arange(len(weight)) + 0.5) * BIN_MM
    used = weight > 0.05 * np.median(weight[weight > 0])
    targets = np.linspace(start, arc.max(), max(2, round((arc.max() - start) / BIN_MM * 2) + 1))
    smooth = _local_linear(place[used], centres[used], np.sqrt(weight[used]), targets, smoothing_mm)
    return _curve_through(smooth)


def _local_linear(x: Array, values: Array, weight: Array, targets: Array, sigma: float) -> Array:
    """Gaussian-weighted linear regression of `values` (n, 3) over `x`, evaluated at `targets`: no shrinking at ends."""
    difference = x[None, :] - targets[:, None]
    kernel = np.exp(-0.5 * (difference / sigma) ** 2) * weight[None, :] + 1e-12
    zeroth, first, second = kernel.sum(1), (kernel * difference).sum(1), (kernel * difference**2).sum(1)
    determinant = zeroth * second - first**2
    straight = determinant > 1e-6 * zeroth**2
    factor = np.where(
        straight[:, None],
        kernel * (second[:, None] - first[:, None] * difference) / np.where(straight, determinant, 1.0)[:, None],
        kernel / zeroth[:, None],
    )
    return factor @ values


def _curve_through(nodes: Array) -> Centreline:
    """Resample nodes (n, 3) to equal steps and extend both ends straight."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    count = max(2, round(arc[-1] / STEP_MM) + 1)
    where = np.minimum(np.arange(count) * STEP_MM, arc[-1])
    inner = np.stack([np.interp(where, arc, nodes[:, k]) for k in range(3)], axis=1)
    span = min(count - 1, round(15.0 / STEP_MM))
    head, tail = _unit(inner[0] - inner[span]), _unit(inner[-1] - inner[-1 - span])
    reach = np.arange(1, round(REACH_MM / STEP_MM) + 1)[:, None] * STEP_MM
    points = np.concatenate([inner[0] + (reach * head)[::-1], inner, inner[-1] + reach * tail])
    tangents = np.gradient(points, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
    return Centreline(points, tangents, float((count - 1) * STEP_MM))


def _unit(vector: Array) -> Array:
    size = float(np.linalg.norm(vector))
    return vector / size if size > 1e-9 else np.array([0.0, 0.0, -1.0])


def _points_of(semantic: Volume, labels: tuple[int, ...]) -> Array:
    """World positions (n, 3) of the voxels with these labels, thinned to at most `MAX_POINTS`."""
    lookup = np.zeros(256, dtype=bool)
    lookup[list(labels)] = True
    flat = np.flatnonzero(lookup[semantic.array])
    flat = flat[:: max(1, -(-len(flat) // MAX_POINTS))]
    return semantic.world(np.stack(np.unravel_index(flat, semantic.shape), axis=1))
