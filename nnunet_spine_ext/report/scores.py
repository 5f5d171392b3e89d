"""The scores of an evaluation folder, arranged for the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.evaluate.latex import digits
from nnunet_spine_ext.evaluate.registry import METRICS, Metric, Scope
from nnunet_spine_ext.evaluate.scoring import Score, Status
from nnunet_spine_ext.evaluate.tables import Line, Statistic, case_means, overall, summarise

_ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
_WORDS = {"higher": "higher is better", "lower": "lower is better", "zero": "the closer to 0 the better"}
# Title and head of the first column of each scope; one that is not here is shown under its own name.
_TITLES = {
    "class": ("Classes", "Structure"),
    "group": ("Instances", "Kind"),
    "level": ("Levels", "Level"),
    "region": ("Regions", "Region"),
}
# Column heads; the long name is in the tooltip.
_SHORT = {
    "dice": "Dice", "iou": "IoU", "assd": "ASSD", "hd95": "HD95", "nsd": "NSD", "rq": "RQ", "sq": "SQ", "pq": "PQ",
    "assd_voxel": "ASSD (voxels)", "relative_volume_error": "Relative volume", "volume_error": "Volume",
    "recall": "Recall", "instance_dice": "Instance Dice", "instance_assd": "Instance ASSD", "id_rate": "ID rate",
    "localisation_distance": "Localisation", "level_dice": "Dice", "level_assd": "ASSD",
    "level_identified": "Identified", "level_distance": "Distance of centres",
}  # fmt: skip
_MISSING = "E-EVAL-MISSING"
# Above this many cases single dots of a strip would cover each other.
_MOST_DOTS = 80


@dataclass(frozen=True)
class Head:
    """A column: metric, what it is called, which way is better."""

    name: str
    title: str
    unit: str
    arrow: str
    help: str


@dataclass(frozen=True)
class Cell:
    """Mean over cases; `bar` is its length in percent, None where a bar would say nothing."""

    text: str
    detail: str
    bar: float | None


@dataclass(frozen=True)
class Row:
    """A label with its cells and the distribution of the first metric over the cases, in percent."""

    label_id: int | None
    label: str
    cells: tuple[Cell, ...]
    dots: tuple[float, ...]
    span: tuple[float, float, float] | None


@dataclass(frozen=True)
class Table:
    """One scope: classes, instances or levels; `corner` heads the labels, `strip` names the metric of the strips."""

    scope: str
    title: str
    corner: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    strip: Head | None


@dataclass(frozen=True)
class Scores:
    """All rows of metrics.csv, by case and in tables.

    `failed` are (case, reason) of those that were not compared, `remarks` what the evaluation says about itself,
    `intervals` the bounds of the overall means, `texts` everything its summary says (to find paths in it).
    """

    tables: tuple[Table, ...]
    overall: Mapping[str, Statistic]
    means: Mapping[str, Mapping[str, float]]
    by_case: Mapping[str, tuple[Score, ...]]
    status: Mapping[str, str]
    failed: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


def read_scores(folder: str | Path) -> Scores:
    """Read metrics.csv of an evaluation folder.

    Raises
    ------
    UsageError: no such folder, no metrics.csv in it, or not the columns that `nnUNetv2_spine_evaluate` writes.
    """
    path = Path(folder) / "metrics.csv"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [_score(line) for line in csv.DictReader(stream)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            "E-REPORT-SCORES",
            file=path,
            found=f"cannot be read ({type(error).__name__}: {error})",
            expected="metrics.csv as nnUNetv2_spine_evaluate writes it",
            fix="name its output folder with --evaluation, or run it again",
        ) from error
    by_case: dict[str, list[Score]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    scopes = sorted({row.scope for row in rows}, key=lambda scope: ([*_TITLES, scope].index(scope), scope))
    tables = tuple(table for scope in scopes if (table := _table(rows, scope)) is not None)
    frozen = {case: tuple(found) for case, found in by_case.items()}
    status = {case: found[0].status for case, found in frozen.items()}
    said = _said(Path(folder) / "summary.json")
    return Scores(tables, overall(rows), case_means(rows), frozen, status, **said)


def _said(path: Path) -> dict[str, Any]:
    """Return what summary.json says; nothing when it is not there or is another file."""
    try:
        content = read_json(path)
        run = content["run"]["failed"]
        failed = tuple((case, str(problem["found"])) for case, problem in run.items() if problem["code"] != _MISSING)
        remarks = tuple(str(remark) for remark in content.get("remarks", ()))
        limits = {name: (found.get("ci_low"), found.get("ci_high")) for name, found in content["overall"].items()}
    except (CaseError, KeyError, TypeError, AttributeError):
        return {}
    intervals = {name: (low, high) for name, (low, high) in limits.items() if low is not None and high is not None}
    return {"failed": failed, "remarks": remarks, "intervals": intervals, "texts": tuple(strings(content))}


def strings(table: Any) -> list[str]:
    """Return every text among the values of nested tables and lists."""
    if isinstance(table, str):
        return [table]
    if isinstance(table, Mapping):
        return [text for value in table.values() for text in strings(value)]
    return [text for value in table for text in strings(value)] if isinstance(table, list) else []


def _score(line: Mapping[str, str]) -> Score:
    name = line["metric"]
    scope = line.get("scope") or (METRICS[name].scope if name in METRICS else "class")
    label_id = int(line["label_id"]) if line["label_id"] else None
    status = cast("Status", line.get("status") or "done")
    region = line.get("region") or None
    return Score(
        line["case"], label_id, line["label"], name, float(line["value"]), cast("Scope", scope), status, region
    )


def head(name: str) -> Head:
    """Return the column of a metric; one that the registry does not know gets its bare name."""
    row = METRICS.get(name)
    if row is None:
        return Head(name, name, "", "", "")
    text = f"{row.long_name}: {row.definition}; {_WORDS[row.direction]}"
    return Head(name, _SHORT.get(name, row.long_name), row.unit, _ARROWS[row.direction], text)


def leading(names: Iterable[str]) -> list[str]:
    """Return the first metric where higher is better and the first where lower is, for places with little room."""
    chosen: dict[str, str] = {}
    for name in names:
        direction = METRICS[name].direction if name in METRICS else "unknown"
        if direction in ("higher", "lower"):
            chosen.setdefault(direction, name)
    return list(chosen.values())


def _table(rows: Sequence[Score], scope: Scope) -> Table | None:
    lines = summarise(rows, scope)
    if not lines:
        return None
    names = list(dict.fromkeys(name for line in lines for name in line.metrics))
    longest = {name: _longest(lines, name) for name in names}
    strip = next((name for name in names if _unit_interval(METRICS.get(name))), None)
    values: dict[tuple[int | None, str], list[float]] = {}
    for row in rows:
        if row.scope == scope and row.metric == strip and math.isfinite(row.value):
            values.setdefault((row.label_id, row.label), []).append(row.value)
    made = []
    for line in lines:
        cells = tuple(_cell(name, line.metrics.get(name), longest[name]) for name in names)
        found = values.get((line.label_id, line.label), [])
        # Dots of a large cohort would cover each other: a box stands for them.
        dots = tuple(round(100 * value, 1) for value in found) if len(found) <= _MOST_DOTS else ()
        made.append(Row(line.label_id, line.label, cells, dots, _span(found)))
    title, corner = _TITLES.get(scope, (scope.capitalize(), "Label"))
    return Table(scope, title, corner, tuple(head(name) for name in names), tuple(made), head(strip) if strip else None)


def _unit_interval(metric: Metric | None) -> bool:
    return metric is not None and metric.direction == "higher" and metric.bounds == (0.0, 1.0)


def _longest(lines: Sequence[Line], name: str) -> float:
    means = [abs(found.mean) for line in lines if (found := line.metrics.get(name)) and found.mean is not None]
    return 1.0 if _unit_interval(METRICS.get(name)) else max(means, default=0.0)


def _cell(name: str, found: Statistic | None, longest: float) -> Cell:
    if found is None or found.mean is None:
        left = "" if found is None else f"{found.excluded_undefined + found.excluded_infinite} not comparable"
        return Cell("–", left, None)
    spread = "" if found.sd is None else f" ± {number(name, found.sd)}"
    detail = f"n = {found.n}, median {number(name, found.median)}, "
    detail += f"{number(name, found.lowest)} to {number(name, found.highest)}"
    left_out = found.excluded_undefined + found.excluded_infinite
    detail += f", {left_out} not comparable" if left_out else ""
    row = METRICS.get(name)
    signed = row is None or row.direction == "zero"
    bar = None if signed or longest <= 0 else 100.0 * found.mean / longest
    return Cell(f"{number(name, found.mean)}{spread}", detail, None if bar is None else round(min(bar, 100.0), 1))


def number(name: str, value: float | None) -> str:
    """Return a value with the digits that its metric deserves."""
    return figure(value, digits(name))


def figure(value: float | None, decimals: int) -> str:
    """Return a value as text: a dash for none, a sign for infinity."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{decimals}f}"


def better(name: str) -> str:
    """Return which values of a metric are better: ``higher``, ``lower``, ``zero``, or nothing for an unknown one."""
    return METRICS[name].direction if name in METRICS else ""


def is_share(name: str) -> bool:
    """Whether a metric is between 0 and 1 and 1 is best."""
    return _unit_interval(METRICS.get(name))


def _span(found: Sequence[float]) -> tuple[float, float, float] | None:
    """Return quartiles in percent for the strips of large cohorts."""
    if len(found) < 4:
        return None
    values = sorted(found)
    low, middle, high = (values[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
    return round(100 * low, 1), round(100 * middle, 1), round(100 * high, 1)
