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
    from nnunet_spine_ext.evaluate.pairs import MaskPair

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
    """Distances in mm from every surfel to the other surface, with the surfels' areas in mm2; shapes (n,)."""

    ref_to_pred: Array
    ref_areas: Array
    pred_to_ref: Array
    pred_areas: Array


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


def _distances(own: Array, other: Array, other_points: Array, spacing: Spacing) -> Array:
    """Distance of every own surface cube to the other surface; cubes that hold both surfaces are at 0."""
    points = np.argwhere(own)
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
    return SurfaceDistances(
        _distances(ref_surface, pred_surface, np.argwhere(pred_surface), spacing),
        areas[ref_codes[ref_surface]],
        _distances(pred_surface, ref_surface, np.argwhere(ref_surface), spacing),
        areas[pred_codes[pred_surface]],
    )


def assd(pair: MaskPair) -> float:
    """Return the average symmetric surface distance in mm: the mean of both directed, area-weighted means."""
    found = pair.surfaces
    there = float((found.ref_to_pred * found.ref_areas).sum() / found.ref_areas.sum())
    back = float((found.pred_to_ref * found.pred_areas).sum() / found.pred_areas.sum())
    return (there + back) / 2


def hd95(pair: MaskPair) -> float:
    """Return the larger one of both directed, area-weighted 95th percentiles of the surface distance in mm."""
    found = pair.surfaces
    return max(_quantile(found.ref_to_pred, found.ref_areas), _quantile(found.pred_to_ref, found.pred_areas))


def _quantile(distances: Array, areas: Array) -> float:
    """Smallest distance within which 95 % of the area lies."""
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas[order].sum()
    return float(distances[order][min(int(np.searchsorted(share, _HD_QUANTILE)), len(order) - 1)])


def nsd(pair: MaskPair) -> float:
    """Return the share, in [0, 1], of the area of both surfaces that is within `pair.tolerance_mm` of the other."""
    found = pair.surfaces
    near = found.ref_areas[found.ref_to_pred <= pair.tolerance_mm].sum()
    near += found.pred_areas[found.pred_to_ref <= pair.tolerance_mm].sum()
    return float(near / (found.ref_areas.sum() + found.pred_areas.sum()))


def assd_voxel(pair: MaskPair) -> float:
    """Return the mean of both directed mean distances in mm between the centres of boundary voxels.

    A boundary voxel has one of its six neighbours outside; every boundary voxel counts the same.
    """
    ref, pred = _boundary(pair.ref), _boundary(pair.pred)
    there = _distances(ref, pred, np.argwhere(pred), pair.spacing).mean()
    back = _distances(pred, ref, np.argwhere(ref), pair.spacing).mean()
    return float(there + back) / 2


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
