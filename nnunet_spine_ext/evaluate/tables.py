"""Scores by label and over cases; as CSV and as plain JSON. Every file is written atomically."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_spine_ext.core.io import write_text
from nnunet_spine_ext.evaluate.metric import Scope
from nnunet_spine_ext.evaluate.regions import REGIONS, region_of
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.scoring import Score, level_order
from nnunet_spine_ext.evaluate.statistic import Resampling, Statistic, finite_mean, statistic

__all__ = ["Line", "Statistic", "case_means", "overall", "statistic", "summarise", "to_json", "write_csv"]

CSV_COLUMNS = ("case", "label_id", "label", "metric", "value", "scope", "status", "region")


@dataclass(frozen=True)
class Line:
    """One label with the statistics of its metrics over the cases; `region` is set in scope region."""

    label_id: int | None
    label: str
    metrics: dict[str, Statistic]
    region: str | None = None

    @property
    def present(self) -> bool:
        """Whether any case had the structure in its reference or its prediction."""
        return any(found.n or found.excluded_infinite for found in self.metrics.values())

    @property
    def of_instances(self) -> bool:
        """Whether its metrics are about instances, not about classes."""
        return any(map(_of_instances, self.metrics))


def summarise(rows: Sequence[Score], scope: Scope, resampling: Resampling | None = None) -> list[Line]:
    """Return a line per label of one scope.

    Classes by id, groups as they come, levels from head to tail, regions from head to tail and then as they come.
    """
    values: dict[tuple[int | None, str, str | None, bool], dict[str, list[Score]]] = {}
    for row in rows:
        if row.scope == scope:
            # "lumbar vertebra" may be the structure and all its instances.
            key = (row.label_id, row.label, row.region, _of_instances(row.metric))
            values.setdefault(key, {}).setdefault(row.metric, []).append(row)
    keys = list(values)
    if scope == "class":
        keys.sort(key=lambda key: key[0] or 0)
    elif scope == "level":
        keys.sort(key=lambda key: level_order(key[0] or 0))
    elif scope == "region":
        # Instances before classes: case by case they come in the other order.
        keys.sort(key=lambda key: (REGIONS.index(str(key[2])), not key[3], key[0] or 0))
    return [
        Line(key[0], key[1], {metric: _over_cases(found, resampling) for metric, found in values[key].items()}, key[2])
        for key in keys
    ]


def _of_instances(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].needs_instances


def _over_cases(rows: Sequence[Score], resampling: Resampling | None) -> Statistic:
    return statistic([row.value for row in rows], [row.case for row in rows], resampling)


def case_means(rows: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Return, per case and class metric, the mean over the classes with a finite value; see `finite_mean`."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.scope == "class":
            values.setdefault(row.case, {}).setdefault(row.metric, []).append(row.value)
    return {case: {name: finite_mean(found) for name, found in metrics.items()} for case, metrics in values.items()}


def overall(rows: Sequence[Score], resampling: Resampling | None = None) -> dict[str, Statistic]:
    """Return the statistics over cases of the mean over classes."""
    means = case_means(rows)
    names = list(dict.fromkeys(name for found in means.values() for name in found))
    return {
        name: statistic(
            [found[name] for found in means.values() if name in found],
            [case for case, found in means.items() if name in found],
            resampling,
        )
        for name in names
    }


def pooled_identification(rows: Sequence[Score], region: str | None = None) -> dict[str, dict[str, Any]]:
    """Return, per kind of instance, the identification rate over all instances of all cases, as VerSe reports it.

    Needs rows of `level_identified`; without them the result is empty. With `region`, over the reference instances of
    that region. Cases whose predicted instances are counted, not numbered, do not enter. Keys: instances, identified,
    rate, mean_distance_mm (of identified instances, where `level_distance` was computed), cases, perfect_sequences
    (cases all of whose instances are identified), perfect_rate.
    """
    distance = {(row.case, row.label_id): row.value for row in rows if row.metric == "level_distance"}
    found: dict[str, list[Score]] = {}
    for row in rows:
        here = region is None or region_of(row.label_id or 0) == region
        if here and row.metric == "level_identified" and row.scope == "level" and not math.isnan(row.value):
            found.setdefault(_kind(row.label_id or 0), []).append(row)
    return {kind: _pooled(members, distance) for kind, members in found.items()}


def identification_by_region(rows: Sequence[Score]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `pooled_identification` of every region that has instances; nothing when regions were not scored."""
    if not any(row.scope == "region" for row in rows):
        return {}
    found = {region: pooled_identification(rows, region) for region in REGIONS}
    return {region: kinds for region, kinds in found.items() if kinds}


def _kind(label: int) -> str:
    from nnunet_spine_ext.evaluate.matching import SPINEPS_GROUPS

    return next((name for name, ids in SPINEPS_GROUPS.items() if label in ids), "instance")


def _pooled(rows: Sequence[Score], distance: Mapping[tuple[str, int | None], float]) -> dict[str, Any]:
    hits = [row for row in rows if row.value == 1.0]
    places = [distance[row.case, row.label_id] for row in hits if (row.case, row.label_id) in distance]
    cases = {row.case for row in rows}
    perfect = cases - {row.case for row in rows if row.value != 1.0}
    return {
        "instances": len(rows),
        "identified": len(hits),
        "rate": len(hits) / len(rows),
        "mean_distance_mm": fmean(places) if places else None,
        "cases": len(cases),
        "perfect_sequences": len(perfect),
        "perfect_rate": len(perfect) / len(cases),
    }


def write_csv(path: str | Path, rows: Iterable[Score]) -> None:
    """Write one line per value; undefined and infinite values are ``nan`` and ``inf``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        label_id = "" if row.label_id is None else row.label_id
        writer.writerow(
            (row.case, label_id, row.label, row.metric, repr(row.value), row.scope, row.status, row.region or "")
        )
    write_text(path, stream.getvalue())


def to_json(rows: Sequence[Score], resampling: Resampling | None = None) -> dict[str, Any]:
    """Return the statistics as plain JSON (without NaN)."""
    used = dict.fromkeys(row.metric for row in rows)
    return {
        "metrics": {name: _metric_facts(name) for name in used},
        "overall": {name: asdict(found) for name, found in overall(rows, resampling).items()},
        "classes": [asdict(line) for line in summarise(rows, "class", resampling)],
        "groups": [asdict(line) for line in summarise(rows, "group", resampling)],
        "levels": [asdict(line) for line in summarise(rows, "level", resampling)],
        "regions": [asdict(line) for line in summarise(rows, "region", resampling)],
        "identification": pooled_identification(rows),
        "identification_by_region": identification_by_region(rows),
    }


def _metric_facts(name: str) -> dict[str, Any]:
    row = METRICS[name]
    return {
        "long_name": row.long_name,
        "scope": row.scope,
        "direction": row.direction,
        "unit": row.unit,
        "definition": row.definition,
    }


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
