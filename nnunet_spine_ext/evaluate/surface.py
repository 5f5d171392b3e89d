"""Surface distances: area-weighted surface elements (surfels), and boundary voxels for comparison.

The surface of a mask is the marching-cubes surface whose vertices lie half way between a voxel inside and its
neighbour outside. It is evaluated on the dual grid: every cube of 2x2x2 voxels that is neither empty nor full holds
one surfel, at the cube's centre, with the area of the triangles inside the cube. Voxels beyond the array are outside.
The triangulation, hence every area, is the one of DeepMind's surface-distance package.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np

from nnunet_spine_ext.core.volume import Array

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.pairs import Pair

Spacing = tuple[float, float, float]
_HD_QUANTILE = 0.95
_FULL = 255
# The fourteen ways to occupy the corners of a cube, up to rotation, reflection and complement: the occupied corners
# (i, j, k), and the area vectors of the triangles in eighths of a voxel face.
_SHAPES: tuple[tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]], ...] = (
    ((), ()),
    (("111",), ((1, 1, 1),)),
    (("111", "110"), ((2, 2, 0), (2, 2, 0))),
    (("110", "101"), ((1, 1, 1), (1, 1, 1))),
    (("100", "011"), ((1, 1, 1), (1, 1, 1))),
    (("111", "110", "101"), ((4, 0, 0), (2, 2, 2), (1, 1, 1))),
    (("110", "101", "011"), ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    (("111", "100", "011"), ((0, 2, 2), (0, 2, 2), (1, 1, 1))),
    (("111", "110", "101", "100"), ((4, 0, 0), (4, 0, 0))),
    (("111", "110", "101", "011"), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1))),
    (("111", "110", "100", "011"), ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2))),
    (("110", "101", "100", "011"), ((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1))),
    (("101", "100", "011", "010"), ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0))),
    (("111", "100", "010", "001"), ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
)


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances in mm from every surface element to the other surface, and the elements' weights; shapes (n,).

    Surfels weigh their area in mm2, boundary voxels weigh 1. `ref_points` and `pred_points` (n, 3) say where they are:
    the index of the voxel, or of the voxel behind the surfel's cube on every axis (so 0 to the size).
    """

    ref_to_pred: Array
    ref_areas: Array
    pred_to_ref: Array
    pred_areas: Array
    ref_points: Array
    pred_points: Array

    def part(self, of_ref: Array, of_pred: Array) -> SurfaceDistances:
        """Return the elements chosen by two bool arrays (n,)."""
        return SurfaceDistances(
            self.ref_to_pred[of_ref],
            self.ref_areas[of_ref],
            self.pred_to_ref[of_pred],
            self.pred_areas[of_pred],
            self.ref_points[of_ref],
            self.pred_points[of_pred],
        )


def corner_bit(i: int, j: int, k: int) -> int:
    """Return the bit of a cube's corner: the corner farthest from the origin is bit 0."""
    return 7 - (4 * i + 2 * j + k)


@lru_cache(maxsize=1)
def _area_vectors() -> tuple[Array, ...]:
    """Area vectors (n, 3) of the triangles for each of the 256 cubes, in voxel faces, absolute values."""
    table: dict[int, Array] = {}
    for corners, triangles in _SHAPES:
        vectors = np.asarray(triangles, dtype=np.float64).reshape(-1, 3) / 8
        points = [tuple(int(c) for c in corner) for corner in corners]
        for order in permutations(range(3)):
            for flip in product((0, 1), repeat=3):
                moved = [[point[order[axis]] ^ flip[axis] for axis in range(3)] for point in points]
                code = sum(1 << corner_bit(*point) for point in moved)
                table[code] = table[_FULL - code] = vectors[:, list(order)]
    return tuple(table[code] for code in range(256))


@lru_cache(maxsize=64)
def surfel_areas(spacing: Spacing) -> Array:
    """Return the surfel's area in mm2 for each of the 256 cubes; shape (256,). Spacing in mm."""
    i, j, k = spacing
    faces = np.asarray((j * k, i * k, i * j))
    return np.asarray([np.linalg.norm(vectors * faces, axis=1).sum() for vectors in _area_vectors()])


def _codes(mask: Array) -> Array:
    """Cube codes on the dual grid, shape + 1 on each axis, uint8."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros(tuple(n + 1 for n in mask.shape), dtype=np.uint8)
    n, m, o = codes.shape
    for i, j, k in product((0, 1), repeat=3):
        codes |= padded[i : i + n, j : j + m, k : k + o] << np.uint8(corner_bit(i, j, k))
    return codes


def _nearest(points: Array, targets: Array, spacing: Spacing) -> Array:
    """Distance in mm from each index (n, 3) to the nearest target index (m, 3)."""
    from scipy.spatial import cKDTree

    if len(targets) == 0:
        return np.full(len(points), np.inf)
    scale = np.asarray(spacing)
    # Lattice points make median splits expensive (many equal coordinates): sliding midpoints are faster here.
    tree = cKDTree(targets * scale, balanced_tree=False, compact_nodes=False)
    _, found = tree.query(points * scale)
    # From integer differences, so that equal offsets give equal distances to the last bit: thresholds depend on it.
    return np.sqrt((((targets[found] - points) * scale) ** 2).sum(axis=1))


def _distances(own: Array, points: Array, other: Array, other_points: Array, spacing: Spacing) -> Array:
    """Distance of every own element (`points` are the indices of `own`) to the other ones; shared ones are at 0."""
    distances = np.zeros(len(points))
    apart = ~other[own]
    if apart.any():
        distances[apart] = _nearest(points[apart], other_points, spacing)
    return distances


def surface_distances(ref: Array, pred: Array, spacing: Spacing) -> SurfaceDistances:
    """Return the distances between the surfaces of two bool masks (i, j, k); spacing in mm.

    An empty mask has no surfels; the distances to it are infinite.
    """
    areas = surfel_areas(spacing)
    ref_codes, pred_codes = _codes(ref), _codes(pred)
    ref_surface = (ref_codes != 0) & (ref_codes != _FULL)
    pred_surface = (pred_codes != 0) & (pred_codes != _FULL)
    ref_points, pred_points = np.argwhere(ref_surface), np.argwhere(pred_surface)
    return SurfaceDistances(
        _distances(ref_surface, ref_points, pred_surface, pred_points, spacing),
        areas[ref_codes[ref_surface]],
        _distances(pred_surface, pred_points, ref_surface, ref_points, spacing),
        areas[pred_codes[pred_surface]],
        ref_points,
        pred_points,
    )


def boundary_distances(ref: Array, pred: Array, spacing: Spacing) -> SurfaceDistances:
    """Return the distances between the boundary voxels of two bool masks (i, j, k); spacing in mm.

    A boundary voxel has one of its six neighbours outside; every boundary voxel counts the same.
    """
    ref, pred = _boundary(ref), _boundary(pred)
    ref_points, pred_points = np.argwhere(ref), np.argwhere(pred)
    return SurfaceDistances(
        _distances(ref, ref_points, pred, pred_points, spacing),
        np.ones(len(ref_points)),
        _distances(pred, pred_points, ref, ref_points, spacing),
        np.ones(len(pred_points)),
        ref_points,
        pred_points,
    )


def _mean(distances: Array, areas: Array) -> float:
    """Mean weighted by area; NaN where there is no surface (a part of a structure may have none)."""
    total = areas.sum()
    return float((distances * areas).sum() / total) if total > 0 else float("nan")


def ref_to_pred(pair: Pair) -> float:
    """Return the area-weighted mean distance in mm from the reference's surface to the prediction's."""
    return _mean(pair.surfaces.ref_to_pred, pair.surfaces.ref_areas)


def pred_to_ref(pair: Pair) -> float:
    """Return the area-weighted mean distance in mm from the prediction's surface to the reference's."""
    return _mean(pair.surfaces.pred_to_ref, pair.surfaces.pred_areas)


def assd(pair: Pair) -> float:
    """Return the average symmetric surface distance in mm: the mean of both directed, area-weighted means."""
    return (ref_to_pred(pair) + pred_to_ref(pair)) / 2


def hd95(pair: Pair) -> float:
    """Return the larger one of both directed, area-weighted 95th percentiles of the surface distance in mm."""
    found = pair.surfaces
    sides = (_quantile(found.ref_to_pred, found.ref_areas), _quantile(found.pred_to_ref, found.pred_areas))
    return float(np.max(sides))


def _quantile(distances: Array, areas: Array) -> float:
    """Smallest distance within which 95 % of the area lies; NaN where there is no surface."""
    if len(distances) == 0:
        return float("nan")
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas[order].sum()
    return float(distances[order][min(int(np.searchsorted(share, _HD_QUANTILE)), len(order) - 1)])


def nsd(pair: Pair) -> float:
    """Return the share, in [0, 1], of the area of both surfaces that is within `pair.tolerance_mm` of the other."""
    found = pair.surfaces
    near = found.ref_areas[found.ref_to_pred <= pair.tolerance_mm].sum()
    near += found.pred_areas[found.pred_to_ref <= pair.tolerance_mm].sum()
    total = found.ref_areas.sum() + found.pred_areas.sum()
    return float(near / total) if total > 0 else float("nan")


def assd_voxel(pair: Pair) -> float:
    """Return the mean of both directed mean distances in mm between the centres of boundary voxels."""
    return _both_ways(pair.boundaries)


def assd_in_voxels(pair: Pair) -> float:
    """Return `assd_voxel` in voxels: every edge of a voxel counts as 1, whatever its length in mm."""
    return _both_ways(pair.counted_boundaries)


def _both_ways(found: SurfaceDistances) -> float:
    there, back = _mean(found.ref_to_pred, found.ref_areas), _mean(found.pred_to_ref, found.pred_areas)
    return (there + back) / 2


def _boundary(mask: Array) -> Array:
    """Voxels of the mask with a 6-neighbour outside the mask or outside the array."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside
