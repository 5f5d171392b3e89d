"""The rows of one case: every class, every group of instances, every level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.labels import VERTEBRA_ORDER, instance_name
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.matching import SPINEPS_GROUPS, Matching, match, overlap_table
from nnunet_spine_ext.evaluate.pairs import MaskPair, boxes_of, label_pairs, score, union_box
from nnunet_spine_ext.evaluate.panoptic import score_group
from nnunet_spine_ext.evaluate.registry import Metric, Scope

InstanceIds = Literal["spineps", "any"]
Status = Literal["done", "missing"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Score:
    """One value: a row of metrics.csv. `label_id` is None for groups; `status` says whether a prediction existed."""

    case: str
    label_id: int | None
    label: str
    metric: str
    value: float
    scope: Scope
    status: Status = "done"


@dataclass(frozen=True)
class Settings:
    """What is computed and how; distances in mm."""

    class_metrics: tuple[Metric, ...]
    group_metrics: tuple[Metric, ...]
    level_metrics: tuple[Metric, ...]
    tolerance_mm: float
    iou_threshold: float
    instance_ids: InstanceIds


def score_classes(
    case: str,
    ref: Array,
    pred: Array,
    names: Iterable[tuple[int, str]],
    spacing: Spacing,
    settings: Settings,
    status: Status = "done",
) -> list[Score]:
    """Return a row per label and class metric; `ref` and `pred` are label arrays (i, j, k) of one shape."""
    named = dict(names)
    return [
        Score(case, label, named[label], metric.name, score(metric, pair), "class", status)
        for label, pair in label_pairs(ref, pred, named, spacing, tolerance_mm=settings.tolerance_mm)
        for metric in settings.class_metrics
    ]


def score_instances(
    case: str, ref: Array, pred: Array, spacing: Spacing, settings: Settings, status: Status = "done"
) -> tuple[list[Score], dict[str, Matching]]:
    """Return rows per group and per reference instance, and the matching of each group that has instances."""
    table = overlap_table(ref, pred)
    present = {*table.ref_ids.tolist(), *table.pred_ids.tolist()}
    groups = SPINEPS_GROUPS if settings.instance_ids == "spineps" else {"instance": frozenset(present)}
    rows: list[Score] = []
    matchings = {}
    for name, ids in groups.items():
        if not present & ids:
            continue
        matching = matchings[name] = match(table, ids, threshold=settings.iou_threshold)
        rows += [
            Score(case, None, name, metric.name, score_group(metric, matching), "group", status)
            for metric in settings.group_metrics
        ]
    if settings.level_metrics:
        partner = {own: other for matching in matchings.values() for own, other in matching.partner.items()}
        rows += _score_levels(case, ref, pred, partner, spacing, settings, status)
    return rows, matchings


def _score_levels(
    case: str, ref: Array, pred: Array, partner: dict[int, int], spacing: Spacing, settings: Settings, status: Status
) -> list[Score]:
    ref_boxes, pred_boxes = boxes_of(ref), boxes_of(pred)
    rows: list[Score] = []
    for label in sorted(ref_boxes, key=level_order):
        matched = partner.get(label)
        box = union_box(ref_boxes[label], None if matched is None else pred_boxes[matched])
        found = np.zeros(ref[box].shape, dtype=bool) if matched is None else pred[box] == matched
        pair = MaskPair(ref[box] == label, found, spacing, settings.tolerance_mm)
        name = instance_name(label) if settings.instance_ids == "spineps" else f"instance {label}"
        rows += [
            Score(case, label, name, metric.name, score(metric, pair), "level", status)
            for metric in settings.level_metrics
        ]
    return rows


def level_order(label: int) -> tuple[int, int]:
    """Sort key: vertebrae, discs, endplates; each from head to tail (T13 has id 28, the coccyx 27)."""
    kind, level = divmod(label, 100)
    return kind, VERTEBRA_ORDER.index(level) if level in VERTEBRA_ORDER else level
