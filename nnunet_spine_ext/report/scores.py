"""The scores of an evaluation folder, arranged for the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.evaluate.registry import METRICS, Metric, Scope
from nnunet_spine_ext.evaluate.scoring import Score, Status
from nnunet_spine_ext.evaluate.tables import Line, Statistic, case_means, overall, summarise

_ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
_WORDS = {"higher": "higher is better", "lower": "lower is better", "zero": "the closer to 0 the better"}
_TITLES: tuple[tuple[Scope, str], ...] = (("class", "Classes"), ("group", "Instances"), ("level", "Levels"))
# Column heads; the long name is in the tooltip.
_SHORT = {
    "dice": "Dice", "iou": "IoU", "assd": "ASSD", "hd95": "HD95", "nsd": "NSD", "rq": "RQ", "sq": "SQ", "pq": "PQ",
    "assd_voxel": "ASSD (voxels)", "relative_volume_error": "Relative volume", "volume_error": "Volume",
    "instance_dice": "Instance Dice", "level_dice": "Dice", "level_assd": "ASSD",
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
class Dot:
    """One case in a strip, `x` in percent."""

    x: float
    title: str


@dataclass(frozen=True)
class Row:
    """A label with its cells and the distribution of the first metric over the cases."""

    label_id: int | None
    label: str
    cells: tuple[Cell, ...]
    dots: tuple[Dot, ...]
    span: tuple[float, float, float] | None


@dataclass(frozen=True)
class Table:
    """One scope: classes, instances or levels; `strip` names the metric of the strips."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    strip: Head | None


@dataclass(frozen=True)
class Scores:
    """All rows of metrics.csv, by case and in tables.

    `failed` are (case, reason) of those that were not compared, `remarks` what the evaluation says about itself.
    """

    tables: tuple[Table, ...]
    overall: Mapping[str, Statistic]
    means: Mapping[str, Mapping[str, float]]
    by_case: Mapping[str, tuple[Score, ...]]
    status: Mapping[str, str]
    failed: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


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
    tables = tuple(table for scope, title in _TITLES if (table := _table(rows, scope, title)) is not None)
    frozen = {case: tuple(found) for case, found in by_case.items()}
    status = {case: found[0].status for case, found in frozen.items()}
    failed, remarks = _said(Path(folder) / "summary.json")
    return Scores(tables, overall(rows), case_means(rows), frozen, status, failed, remarks)


def _said(path: Path) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return what summary.json says about cases that failed and about the run; nothing when it is not there."""
    try:
        content = read_json(path)
        run = content["run"]["failed"]
        failed = tuple((case, str(problem["found"])) for case, problem in run.items() if problem["code"] != _MISSING)
        return failed, tuple(str(remark) for remark in content.get("remarks", ()))
    except (CaseError, KeyError, TypeError, AttributeError):
        return (), ()


def _score(line: Mapping[str, str]) -> Score:
    name = line["metric"]
    scope = line.get("scope") or (METRICS[name].scope if name in METRICS else "class")
    label_id = int(line["label_id"]) if line["label_id"] else None
    status = cast("Status", line.get("status") or "done")
    return Score(line["case"], label_id, line["label"], name, float(line["value"]), cast("Scope", scope), status)


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


def _table(rows: Sequence[Score], scope: Scope, title: str) -> Table | None:
    lines = summarise(rows, scope)
    if not lines:
        return None
    names = list(dict.fromkeys(name for line in lines for name in line.metrics))
    longest = {name: _longest(lines, name) for name in names}
    strip = next((name for name in names if _unit_interval(METRICS.get(name))), None)
    values: dict[tuple[int | None, str], list[tuple[str, float]]] = {}
    for row in rows:
        if row.scope == scope and row.metric == strip:
            values.setdefault((row.label_id, row.label), []).append((row.case, row.value))
    made = []
    for line in lines:
        cells = tuple(_cell(name, line.metrics.get(name), longest[name]) for name in names)
        found = [(case, value) for case, value in values.get((line.label_id, line.label), []) if math.isfinite(value)]
        made.append(Row(line.label_id, line.label, cells, _dots(found), _span(found)))
    return Table(title, tuple(head(name) for name in names), tuple(made), head(strip) if strip else None)


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
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    row = METRICS.get(name)
    if row is not None and row.unit == "%":
        return f"{value:.1f}"
    return f"{value:.2f}" if row is not None and row.unit else f"{value:.3f}"


def _dots(found: Sequence[tuple[str, float]]) -> tuple[Dot, ...]:
    if len(found) > _MOST_DOTS:
        return ()
    return tuple(Dot(round(100 * value, 1), f"{case}: {value:.3f}") for case, value in found)


def _span(found: Sequence[tuple[str, float]]) -> tuple[float, float, float] | None:
    """Return quartiles in percent for the strips of large cohorts."""
    if len(found) < 4:
        return None
    values = sorted(value for _, value in found)
    low, middle, high = (values[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
    return round(100 * low, 1), round(100 * middle, 1), round(100 * high, 1)


def case_cells(scores: Scores, case: str) -> tuple[tuple[str, tuple[Head, ...], tuple[Row, ...]], ...]:
    """Return the tables of one case: (title, columns, rows)."""
    found = scores.by_case.get(case, ())
    tables = []
    for scope, title in _TITLES:
        mine = [row for row in found if row.scope == scope]
        if not mine:
            continue
        names = list(dict.fromkeys(row.metric for row in mine))
        lines: dict[tuple[int | None, str], dict[str, float]] = {}
        for row in mine:
            lines.setdefault((row.label_id, row.label), {})[row.metric] = row.value
        # A class that neither side has is no information about this case.
        told = {key: values for key, values in lines.items() if not all(map(math.isnan, values.values()))}
        rows = tuple(
            Row(*key, tuple(_value(name, values.get(name)) for name in names), (), None) for key, values in told.items()
        )
        if rows:
            tables.append((title, tuple(head(name) for name in names), rows))
    return tuple(tables)


def _value(name: str, value: float | None) -> Cell:
    bar = None
    if value is not None and math.isfinite(value) and _unit_interval(METRICS.get(name)):
        bar = round(100 * value, 1)
    return Cell(number(name, value), "", bar)


@dataclass(frozen=True)
class Matrix:
    """Cases (worst first) by classes for one metric; `rows` hold (case, mean, ((text, shade), …)), shade 0-100."""

    head: Head
    labels: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, float | None], ...]], ...]


def matrix(scores: Scores) -> Matrix | None:
    """Return the table of the first class metric between 0 and 1, shaded by how far a value is from 1."""
    names = dict.fromkeys(row.metric for found in scores.by_case.values() for row in found if row.scope == "class")
    name = next((n for n in names if _unit_interval(METRICS.get(n))), None)
    if name is None:
        return None
    table = next(t for t in scores.tables if t.title == "Classes")
    labels = tuple(row.label for row in table.rows)
    order = sorted(scores.by_case, key=lambda case: (_sortable(scores.means.get(case, {}).get(name)), case))
    rows = []
    for case in order:
        values = {r.label: r.value for r in scores.by_case[case] if r.scope == "class" and r.metric == name}
        cells = tuple(_shaded(name, values.get(label)) for label in labels)
        rows.append((case, number(name, scores.means.get(case, {}).get(name)), cells))
    return Matrix(head(name), labels, tuple(rows))


def _sortable(value: float | None) -> float:
    return -1.0 if value is None or math.isnan(value) else value


def _shaded(name: str, value: float | None) -> tuple[str, float | None]:
    if value is None or not math.isfinite(value):
        return number(name, value), None
    return number(name, value), round(100 * (1 - min(max(value, 0.0), 1.0)), 0)
