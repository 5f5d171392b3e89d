"""One structure in the reference and in the prediction, cut out of the volume, and parts of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.metric import Metric
from nnunet_spine_ext.evaluate.structures import Structure
from nnunet_spine_ext.evaluate.surface import SurfaceDistances, boundary_distances, surface_distances

DEFAULT_TOLERANCE_MM = 1.0
Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class MaskPair:
    """Two masks on one grid.

    Parameters
    ----------
    ref, pred: bool arrays (i, j, k) of one shape; usually only the box around both structures.
    spacing: voxel size in mm along (i, j, k).
    tolerance_mm: distance that the normalised surface Dice forgives.
    origin: index of the first voxel in the volume that the arrays were cut from.
    """

    ref: Array
    pred: Array
    spacing: Spacing
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    origin: tuple[int, int, int] = (0, 0, 0)

    @cached_property
    def ref_voxels(self) -> int:
        """Number of voxels of the reference."""
        return int(np.count_nonzero(self.ref))

    @cached_property
    def pred_voxels(self) -> int:
        """Number of voxels of the prediction."""
        return int(np.count_nonzero(self.pred))

    @cached_property
    def overlap(self) -> int:
        """Number of voxels in both."""
        return int(np.count_nonzero(self.ref & self.pred))

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm3."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    @cached_property
    def surfaces(self) -> SurfaceDistances:
        """Distances between both surfaces, computed once for all metrics that need them."""
        return surface_distances(self.ref, self.pred, self.spacing)

    @cached_property
    def boundaries(self) -> SurfaceDistances:
        """Distances between boundary voxels, computed once."""
        return boundary_distances(self.ref, self.pred, self.spacing)

    @cached_property
    def counted_boundaries(self) -> SurfaceDistances:
        """Distances between boundary voxels in voxels: every edge of a voxel counts as 1."""
        return boundary_distances(self.ref, self.pred, (1.0, 1.0, 1.0))


@dataclass(frozen=True, eq=False)
class PairPart:
    """What of two masks lies in one part of space; distances stay those to the whole other surface.

    Parameters
    ----------
    whole: both masks.
    parts: number of the part for every voxel of `whole`, shape (i, j, k).
    number: the part meant.
    ref_voxels, pred_voxels, overlap: numbers of voxels in the part.
    """

    whole: MaskPair
    parts: Array
    number: int
    ref_voxels: int
    pred_voxels: int
    overlap: int

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm3."""
        return self.whole.voxel_volume

    @property
    def tolerance_mm(self) -> float:
        """Distance that the normalised surface Dice forgives."""
        return self.whole.tolerance_mm

    @cached_property
    def surfaces(self) -> SurfaceDistances:
        """Distances from the surfels in this part."""
        found = self.whole.surfaces
        # A surfel's cube lies between voxel c - 1 and voxel c on every axis.
        return found.part(*(self._inside(np.maximum(c - 1, 0)) for c in (found.ref_points, found.pred_points)))

    @cached_property
    def boundaries(self) -> SurfaceDistances:
        """Distances from the boundary voxels in this part."""
        return self._boundaries_of(self.whole.boundaries)

    @cached_property
    def counted_boundaries(self) -> SurfaceDistances:
        """The same in voxels."""
        return self._boundaries_of(self.whole.counted_boundaries)

    def _boundaries_of(self, found: SurfaceDistances) -> SurfaceDistances:
        return found.part(self._inside(found.ref_points), self._inside(found.pred_points))

    def _inside(self, points: Array) -> Array:
        inside: Array = self.parts[tuple(points.T)] == self.number
        return inside


Pair = MaskPair | PairPart


def score(metric: Metric, pair: Pair) -> float:
    """Return one metric of one pair; empty masks give the values that the registry declares."""
    ref_empty, pred_empty = pair.ref_voxels == 0, pair.pred_voxels == 0
    declared = metric.edge_case(ref_empty=ref_empty, pred_empty=pred_empty)
    return float(metric.resolve()(pair)) if declared is None else declared


def boxes_of(labels: Array) -> dict[int, Box]:
    """Return the bounding box of every non-zero id of an integer array (one pass over it)."""
    from scipy.ndimage import find_objects

    return {index + 1: box for index, box in enumerate(find_objects(labels)) if box is not None}


def union_box(*boxes: Box | None) -> Box:
    """Return the smallest box around all; a box of nothing when all are None."""
    known = [box for box in boxes if box is not None]
    if not known:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    spans = [(min(b[axis].start for b in known), max(b[axis].stop for b in known)) for axis in range(3)]
    return (slice(*spans[0]), slice(*spans[1]), slice(*spans[2]))


def structure_pairs(
    ref: Array, pred: Array, structures: Iterable[Structure], spacing: Spacing, *, tolerance_mm: float
) -> Iterator[tuple[Structure, MaskPair]]:
    """Yield (structure, pair) for every structure, which may be several labels; pairs hold the box around both sides.

    `ref` and `pred` are arrays (i, j, k) of unsigned integers, of one shape.
    """
    ref_boxes, pred_boxes = boxes_of(ref), boxes_of(pred)
    for one in structures:
        box = union_box(*map(ref_boxes.get, one.ref_ids), *map(pred_boxes.get, one.pred_ids))
        own, found = (_members(side[box], ids) for side, ids in ((ref, one.ref_ids), (pred, one.pred_ids)))
        yield one, MaskPair(own, found, spacing, tolerance_mm, (box[0].start, box[1].start, box[2].start))


def _members(labels: Array, ids: Sequence[int]) -> Array:
    """Return where an array of unsigned integers has one of the ids."""
    if len(ids) == 1:
        return np.asarray(labels == ids[0])
    table = np.zeros(max(int(labels.max(initial=0)), *ids) + 1, dtype=bool)
    table[list(ids)] = True
    return np.asarray(table[labels])


def pair_in_box(
    ref: Array, pred: Array, labels: tuple[int, int | None], box: Box, spacing: Spacing, tolerance_mm: float
) -> MaskPair:
    """Cut one structure out of two label arrays: `labels` are its ids in `ref` and `pred` (None: it is not there)."""
    own, other = labels
    found = np.zeros(ref[box].shape, dtype=bool) if other is None else pred[box] == other
    return MaskPair(ref[box] == own, found, spacing, tolerance_mm, (box[0].start, box[1].start, box[2].start))


def label_pairs(
    ref: Array,
    pred: Array,
    labels: Iterable[int],
    spacing: Spacing,
    *,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Iterator[tuple[int, MaskPair]]:
    """Yield (label, pair) for every label; each pair holds only the box around both structures.

    `ref` and `pred` are integer arrays (i, j, k) of one shape.
    """
    structures = (Structure.of_label(label, "") for label in labels)
    for one, pair in structure_pairs(ref, pred, structures, spacing, tolerance_mm=tolerance_mm):
        yield one.ref_ids[0], pair
