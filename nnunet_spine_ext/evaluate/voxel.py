"""Metrics that count voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.pairs import MaskPair

_MM3_PER_ML = 1000.0


def dice(pair: MaskPair) -> float:
    """Return 2 |R and P| / (|R| + |P|), in [0, 1]; not defined for two empty masks."""
    return 2.0 * pair.overlap / (pair.ref_voxels + pair.pred_voxels)


def iou(pair: MaskPair) -> float:
    """Return |R and P| / |R or P|, in [0, 1]; not defined for two empty masks."""
    return pair.overlap / (pair.ref_voxels + pair.pred_voxels - pair.overlap)


def volume_error(pair: MaskPair) -> float:
    """Return the volume of the prediction minus that of the reference in mL."""
    return (pair.pred_voxels - pair.ref_voxels) * pair.voxel_volume / _MM3_PER_ML


def relative_volume_error(pair: MaskPair) -> float:
    """Return 100 (|P| - |R|) / |R| in per cent; not defined for an empty reference."""
    return 100.0 * (pair.pred_voxels - pair.ref_voxels) / pair.ref_voxels
