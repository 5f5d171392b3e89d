"""Metrics of detected and segmented instances (Kirillov et al. 2019, Panoptic Segmentation)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from nnunet_spine_ext.evaluate.matching import Matching
from nnunet_spine_ext.evaluate.metric import Metric
from nnunet_spine_ext.evaluate.surface import assd, assd_in_voxels, assd_voxel

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.identification import Location
    from nnunet_spine_ext.evaluate.pairs import MaskPair


@dataclass(frozen=True)
class Group:
    """All instances of one kind in one case, or those of one region.

    Parameters
    ----------
    matching: who stands for whom.
    pairs: masks of a reference instance and the instance matched to it, by reference id; needed for distances.
    locations: where the instance of the same number was found, by reference id; needed for identification.
    missing_distance: mm that an instance that is not identified counts in the localisation distance; None: left out.
    numbered: whether the numbers of predicted instances mean something; without, identification is not defined.
    """

    matching: Matching
    pairs: Mapping[int, MaskPair] = field(default_factory=dict)
    locations: Mapping[int, Location] = field(default_factory=dict)
    missing_distance: float | None = None
    numbered: bool = True

    @cached_property
    def refs(self) -> tuple[int, ...]:
        """Ids of the reference instances."""
        return tuple(sorted([match.ref for match in self.matching.matches] + list(self.matching.missed)))


def rq(group: Group) -> float:
    """Return TP / (TP + FP/2 + FN/2), in [0, 1]; not defined without instances."""
    matching = group.matching
    return 2 * len(matching.matches) / (matching.n_ref + matching.n_pred)


def sq(group: Group) -> float:
    """Return the mean IoU of the matches, in [0, 1]; 0 without a match."""
    matches = group.matching.matches
    return fmean(match.iou for match in matches) if matches else 0.0


def pq(group: Group) -> float:
    """Return RQ times SQ."""
    return rq(group) * sq(group)


def instance_dice(group: Group) -> float:
    """Return the mean Dice of the matches, in [0, 1]; 0 without a match."""
    matches = group.matching.matches
    return fmean(match.dice for match in matches) if matches else 0.0


def instance_precision(group: Group) -> float:
    """Return the share of predicted instances that stand for a reference instance; not defined without any."""
    matching = group.matching
    return (matching.n_pred - len(matching.spurious)) / matching.n_pred


def instance_recall(group: Group) -> float:
    """Return the share of reference instances that are matched; not defined without any."""
    return len(group.matching.matches) / group.matching.n_ref


def instance_assd(group: Group) -> float:
    """Return the mean over the matches of the average symmetric surface distance in mm; infinite without a match."""
    matches = group.matching.matches
    return fmean(assd(group.pairs[match.ref]) for match in matches) if matches else float("inf")


def instance_assd_voxel(group: Group) -> float:
    """Return the mean over the matches of the distance in mm between boundary voxels; infinite without a match."""
    matches = group.matching.matches
    return fmean(assd_voxel(group.pairs[match.ref]) for match in matches) if matches else float("inf")


def instance_assd_in_voxels(group: Group) -> float:
    """Return the mean over the matches of the distance in voxels between boundary voxels; infinite without a match."""
    matches = group.matching.matches
    return fmean(assd_in_voxels(group.pairs[match.ref]) for match in matches) if matches else float("inf")


def score_group(metric: Metric, group: Group) -> float:
    """Return one metric of one group; groups without instances give the values that the registry declares.

    NaN for metrics about right numbers where the prediction has none.
    """
    if metric.needs_centres and not group.numbered:
        return math.nan
    matching = group.matching
    declared = metric.edge_case(ref_empty=matching.n_ref == 0, pred_empty=matching.n_pred == 0)
    return float(metric.resolve()(group)) if declared is None else declared
