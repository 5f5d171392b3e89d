"""Metrics of detected and segmented instances (Kirillov et al. 2019, Panoptic Segmentation)."""

from __future__ import annotations

from statistics import fmean

from nnunet_spine_ext.evaluate.matching import Matching
from nnunet_spine_ext.evaluate.registry import Metric


def rq(matching: Matching) -> float:
    """Return TP / (TP + FP/2 + FN/2), in [0, 1]; not defined without instances."""
    return 2 * len(matching.matches) / (matching.n_ref + matching.n_pred)


def sq(matching: Matching) -> float:
    """Return the mean IoU of the matches, in [0, 1]; 0 without a match."""
    return fmean(match.iou for match in matching.matches) if matching.matches else 0.0


def pq(matching: Matching) -> float:
    """Return RQ times SQ."""
    return rq(matching) * sq(matching)


def instance_dice(matching: Matching) -> float:
    """Return the mean Dice of the matches, in [0, 1]; 0 without a match."""
    return fmean(match.dice for match in matching.matches) if matching.matches else 0.0


def score_group(metric: Metric, matching: Matching) -> float:
    """Return one metric of one group; groups without instances give the values that the registry declares."""
    declared = metric.edge_case(ref_empty=matching.n_ref == 0, pred_empty=matching.n_pred == 0)
    return float(metric.resolve()(matching)) if declared is None else declared
