"""One structure in the reference and in the prediction, cut out of the volume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.registry import Metric
from nnunet_spine_ext.evaluate.surface import SurfaceDistances, surface_distances

DEFAULT_TOLERANCE_MM = 1.0
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class MaskPair:
    """Two masks on one grid.

    Parameters
    ----------
    ref, pred: bool arrays (i, j, k) of one shape; usually only the box around both structures.
    spacing: voxel size in mm along (i, j, k).
    tolerance_mm: distance that the normalised surface Dice forgives.
    """

    ref: Array
    pred: Array
    spacing: tuple[float, float, float]
    tolerance_mm: float = DEFAULT_TOLERANCE_MM

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


def score(metric: Metric, pair: MaskPair) -> float:
    """Return one metric of one pair; empty masks give the values that the registry declares."""
    ref_empty, pred_empty = pair.ref_voxels == 0, pair.pred_voxels == 0
    declared = metric.edge_case(ref_empty=ref_empty, pred_empty=pred_empty)
    return float(metric.resolve()(pair)) if declared is None else declared


def boxes_of(labels: Array) -> dict[int, Box]:
    """Return the bounding box of every non-zero id of an integer array (one pass over it)."""
    from scipy.ndimage import find_objects

    return {index + 1: box for index, box in enumerate(find_objects(labels)) if box is not None}


def union_box(first: Box | None, second: Box | None) -> Box:
    """Return the smallest box around both; a box of nothing when both are None."""
    known = [box for box in (first, second) if box is not None]
    if not known:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    spans = [(min(b[axis].start for b in known), max(b[axis].stop for b in known)) for axis in range(3)]
    return (slice(*spans[0]), slice(*spans[1]), slice(*spans[2]))


def label_pairs(
    ref: Array,
    pred: Array,
    labels: Iterable[int],
    spacing: tuple[float, float, float],
    *,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Iterator[tuple[int, MaskPair]]:
    """Yield (label, pair) for every label; each pair holds only the box around both structures.

    `ref` and `pred` are integer arrays (i, j, k) of one shape.
    """
    ref_boxes, pred_boxes = boxes_of(ref), boxes_of(pred)
    for label in labels:
        box = union_box(ref_boxes.get(label), pred_boxes.get(label))
        yield label, MaskPair(ref[box] == label, pred[box] == label, spacing, tolerance_mm)
