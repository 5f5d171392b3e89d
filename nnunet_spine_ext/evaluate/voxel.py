"""Metrics that count voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.pairs import Pair

_MM3_PER_ML = 1000.0


def dice(pair: Pair) -> float:
    """Return 2 |R and P| / (|R| + |P|), in [0, 1]; not defined for two empty masks."""
    return 2.0 * pair.overlap / (pair.ref_voxels + pair.pred_voxels)


def iou(pair: Pair) -> float:
    """Return |R and P| / |R or P|, in [0, 1]; not defined for two empty masks."""
    return pair.overlap / (pair.ref_voxels + pair.pred_voxels - pair.overlap)


def precision(pair: Pair) -> float:
    """Return |R and P| / |P|, in [0, 1]; not defined for an empty prediction."""
    return pair.overlap / pair.pred_voxels


def recall(pair: Pair) -> float:
    """Return |R and P| / |R|, in [0, 1]; not defined for an empty reference."""
    return pair.overlap / pair.ref_voxels


def volume_error(pair: Pair) -> float:
    """Return the volume of the prediction minus that of the reference in mL."""
    return (pair.pred_voxels - pair.ref_voxels) * pair.voxel_volume / _MM3_PER_ML


def relative_volume_error(pair: Pair) -> float:
    """Return 100 (|P| - |R|) / |R| in per cent; not defined for an empty reference."""
    return 100.0 * (pair.pred_voxels - pair.ref_voxels) / pair.ref_voxels
