"""The rows of one case: every class, every group of instances, every level, and all of them by region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.labels import VERTEBRA_ORDER, instance_name
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.identification import Location, locate
from nnunet_spine_ext.evaluate.matching import (
    SPINEPS_GROUPS,
    Matching,
    OverlapTable,
    match,
    match_overlap,
    overlap_table,
)
from nnunet_spine_ext.evaluate.metric import Metric, Scope
from nnunet_spine_ext.evaluate.pairs import Box, MaskPair, boxes_of, pair_in_box, score, structure_pairs, union_box
from nnunet_spine_ext.evaluate.panoptic import Group, score_group
from nnunet_spine_ext.evaluate.regions import (
    REGIONS,
    members,
    region_map,
    region_of,
    region_parts,
    regions_by_place,
)
from nnunet_spine_ext.evaluate.statistic import finite_mean
from nnunet_spine_ext.evaluate.structures import Structure
from nnunet_spine_ext.measure.centroids import centroids

InstanceIds = Literal["spineps", "any"]
Rule = Literal["iou", "overlap"]
Status = Literal["done", "missing"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Score:
    """One value: a row of metrics.csv.

    `label_id` is None for groups and for structures of several labels; `status` says whether a prediction existed;
    `region` is set in rows of scope region.
    """

    case: str
    label_id: int | None
    label: str
    metric: str
    value: float
    scope: Scope
    status: Status = "done"
    region: str | None = None


@dataclass(frozen=True)
class Settings:
    """What is computed and how; distances in mm."""

    class_metrics: tuple[Metric, ...]
    group_metrics: tuple[Metric, ...]
    level_metrics: tuple[Metric, ...]
    tolerance_mm: float
    iou_threshold: float
    instance_ids: InstanceIds
    matching: Rule = "iou"
    missing_distance: float | None = None
    regions: bool = False

    @property
    def needs_centres(self) -> bool:
        """Whether any metric asks where instances are."""
        return any(metric.needs_centres for metric in (*self.group_metrics, *self.level_metrics))


@dataclass(frozen=True, eq=False)
class Instances:
    """Instance masks of one case on one grid, (i, j, k); spacing in mm."""

    ref: Array
    pred: Array
    spacing: Spacing


class LevelPairs(Mapping[int, MaskPair]):
    """The masks of each reference instance and of the one matched to it, by reference id, cut out when asked for."""

    def __init__(self, instances: Instances, partner: Mapping[int, int], tolerance_mm: float) -> None:
        self._instances, self._partner, self._tolerance = instances, partner, tolerance_mm
        self._made: dict[int, MaskPair] = {}

    @cached_property
    def _boxes(self) -> tuple[dict[int, Box], dict[int, Box]]:
        return boxes_of(self._instances.ref), boxes_of(self._instances.pred)

    def __getitem__(self, label: int) -> MaskPair:
        if label not in self._made:
            matched = self._partner.get(label)
            box = union_box(self._boxes[0][label], None if matched is None else self._boxes[1][matched])
            found = self._instances
            self._made[label] = pair_in_box(
                found.ref, found.pred, (label, matched), box, found.spacing, self._tolerance
            )
        return self._made[label]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._boxes[0], key=level_order))

    def __len__(self) -> int:
        return len(self._boxes[0])


def score_classes(
    case: str,
    ref: Array,
    pred: Array,
    structures: Iterable[Structure],
    spacing: Spacing,
    settings: Settings,
    status: Status = "done",
    instances: Array | None = None,
) -> list[Score]:
    """Return a row per structure and class metric; `ref` and `pred` are label arrays (i, j, k) of one shape.

    With `settings.regions` and the reference's `instances` on the same grid, rows of the regions follow.
    """
    regions = region_map(instances, spacing) if settings.regions and instances is not None else None
    rows: list[Score] = []
    parts: list[Score] = []
    for one, pair in structure_pairs(ref, pred, structures, spacing, tolerance_mm=settings.tolerance_mm):
        label, name = one.label_id, one.name
        rows += [
            Score(case, label, name, metric.name, score(metric, pair), "class", status)
            for metric in settings.class_metrics
        ]
        if regions is not None:
            parts += [
                Score(case, label, f"{region} {name}", metric.name, score(metric, part), "region", status, region)
                for region, part in region_parts(pair, regions)
                for metric in settings.class_metrics
            ]
    return rows + parts


def score_instances(
    case: str,
    ref: Array,
    pred: Array,
    spacing: Spacing,
    settings: Settings,
    status: Status = "done",
    *,
    numbered: bool = True,
) -> tuple[list[Score], dict[str, Matching]]:
    """Return rows per group, per reference instance and per region, and the matching of each group with instances.

    Without `numbered` the ids in `pred` count from the top and are no levels: what is about right numbers is NaN.
    """
    instances = Instances(ref, pred, spacing)
    groups = _groups(instances, settings, numbered=numbered)
    rows: list[Score] = []
    for name, group in groups.items():
        rows += _group_rows(case, name, group, settings, status)
    levels = _level_rows(case, groups, settings, status) if settings.level_metrics else []
    rows += levels
    if settings.regions and settings.instance_ids == "spineps":
        regions = _regions_of_pred(instances, numbered=numbered)
        for name, group in groups.items():
            rows += _region_rows(case, name, group, levels, regions, settings, status)
    return rows, {name: group.matching for name, group in groups.items()}


def _groups(instances: Instances, settings: Settings, *, numbered: bool) -> dict[str, Group]:
    """Match the instances of each kind that is present."""
    table = overlap_table(instances.ref, instances.pred)
    present = {*table.ref_ids.tolist(), *table.pred_ids.tolist()}
    kinds = SPINEPS_GROUPS if settings.instance_ids == "spineps" else {"instance": frozenset(present)}
    kinds = {name: ids for name, ids in kinds.items() if present & ids}
    matchings = {name: _match(table, ids, settings) for name, ids in kinds.items()}
    partner = {own: other for matching in matchings.values() for own, other in matching.partner.items()}
    pairs = LevelPairs(instances, partner, settings.tolerance_mm)
    locations = _locations(instances, kinds) if settings.needs_centres else {}
    return {
        # The sacrum has one id whether vertebrae are numbered or counted.
        name: Group(matching, pairs, locations, settings.missing_distance, numbered or name == "sacrum")
        for name, matching in matchings.items()
    }


def _match(table: OverlapTable, ids: frozenset[int], settings: Settings) -> Matching:
    if settings.matching == "overlap":
        return match_overlap(table, ids)
    return match(table, ids, threshold=settings.iou_threshold)


def _locations(instances: Instances, kinds: Mapping[str, frozenset[int]]) -> dict[int, Location]:
    affine = np.diag([*instances.spacing, 1.0])
    ref, pred = (
        {label: tuple(np.multiply(point, instances.spacing).tolist()) for label, point in centroids(volume).items()}
        for volume in (Volume(instances.ref, affine), Volume(instances.pred, affine))
    )
    found: dict[int, Location] = {}
    for ids in kinds.values():
        found |= locate(*({label: side[label] for label in ids & side.keys()} for side in (ref, pred)))
    return found


def _regions_of_pred(instances: Instances, *, numbered: bool) -> Mapping[int, str | None]:
    """Region of every predicted instance: by its number, or by its place where it has none."""
    if numbered:
        return {label: region_of(label) for label in boxes_of(instances.pred)}
    places = region_map(instances.ref, instances.spacing)
    return {} if places is None else regions_by_place(instances.pred, places)


def _group_rows(case: str, name: str, group: Group, settings: Settings, status: Status) -> list[Score]:
    return [
        Score(case, None, name, metric.name, score_group(metric, group), "group", status)
        for metric in settings.group_metrics
    ]


def _level_rows(case: str, groups: Mapping[str, Group], settings: Settings, status: Status) -> list[Score]:
    of = {label: group for group in groups.values() for label in group.refs}
    rows: list[Score] = []
    for label in sorted(of, key=level_order):
        name = instance_name(label) if settings.instance_ids == "spineps" else f"instance {label}"
        rows += [
            Score(case, label, name, metric.name, _level_value(metric, label, of[label]), "level", status)
            for metric in settings.level_metrics
        ]
    return rows


def _level_value(metric: Metric, label: int, group: Group) -> float:
    if metric.needs_centres:
        if not group.numbered:
            return math.nan
        return float(metric.resolve()(group.locations[label]))
    return score(metric, group.pairs[label])


def _region_rows(
    case: str,
    name: str,
    group: Group,
    levels: Iterable[Score],
    regions: Mapping[int, str | None],
    settings: Settings,
    status: Status,
) -> list[Score]:
    """Rows of one kind by region: the group metrics of its instances there, and the means of their levels."""
    rows: list[Score] = []
    refs = members(group.refs)
    for region in REGIONS:
        spurious = [label for label in group.matching.spurious if regions.get(label) == region]
        if region not in refs and not spurious:
            continue
        part = replace(group, matching=group.matching.restrict(refs.get(region, ()), spurious))
        label = f"{region} {name}"
        rows += [
            Score(case, None, label, metric.name, score_group(metric, part), "region", status, region)
            for metric in settings.group_metrics
        ]
        values: dict[str, list[float]] = {}
        for row in levels:
            if row.label_id in part.refs:
                values.setdefault(row.metric, []).append(row.value)
        rows += [
            Score(case, None, label, metric, finite_mean(found), "region", status, region)
            for metric, found in values.items()
        ]
    return rows


def level_order(label: int) -> tuple[int, int]:
    """Sort key: vertebrae, discs, endplates; each from head to tail (T13 has id 28, the coccyx 27)."""
    kind, level = divmod(label, 100)
    return kind, VERTEBRA_ORDER.index(level) if level in VERTEBRA_ORDER else level
