"""Scores as CSV, JSON and Markdown; every file is written atomically."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.evaluate.registry import METRICS, Scope
from nnunet_spine_ext.evaluate.scoring import Score, level_order

CSV_COLUMNS = ("case", "label_id", "label", "metric", "value", "scope", "status")
_TITLES: dict[Scope, str] = {"class": "Classes", "group": "Instances", "level": "Levels"}


@dataclass(frozen=True)
class Statistic:
    """Distribution of one metric over cases.

    `n` finite values enter mean, sd (n - 1), median and range; NaN (nothing to compare) and infinite values (one side
    empty) do not and are counted. Empty statistics are None.
    """

    n: int
    mean: float | None
    sd: float | None
    median: float | None
    lowest: float | None
    highest: float | None
    excluded_undefined: int
    excluded_infinite: int


def statistic(values: Iterable[float]) -> Statistic:
    """Summarise values, leaving out NaN and infinite ones and counting them."""
    everything = list(values)
    finite = [value for value in everything if math.isfinite(value)]
    undefined = sum(math.isnan(value) for value in everything)
    infinite = len(everything) - len(finite) - undefined
    if not finite:
        return Statistic(0, None, None, None, None, None, undefined, infinite)
    sd = stdev(finite) if len(finite) > 1 else None
    return Statistic(len(finite), fmean(finite), sd, median(finite), min(finite), max(finite), undefined, infinite)


@dataclass(frozen=True)
class Line:
    """One label with the statistics of its metrics over the cases."""

    label_id: int | None
    label: str
    metrics: dict[str, Statistic]

    @property
    def present(self) -> bool:
        """Whether any case had the structure in its reference or its prediction."""
        return any(found.n or found.excluded_infinite for found in self.metrics.values())


def summarise(rows: Sequence[Score], scope: Scope) -> list[Line]:
    """Return a line per label of one scope: classes by id, groups as they come, levels from head to tail."""
    values: dict[tuple[int | None, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.scope == scope:
            values.setdefault((row.label_id, row.label), {}).setdefault(row.metric, []).append(row.value)
    keys = list(values)
    if scope == "class":
        keys.sort(key=lambda key: key[0] or 0)
    elif scope == "level":
        keys.sort(key=lambda key: level_order(key[0] or 0))
    return [Line(*key, {metric: statistic(found) for metric, found in values[key].items()}) for key in keys]


def case_means(rows: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Return, per case and class metric, the mean over the classes with a finite value (NaN when there is none)."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.scope == "class":
            values.setdefault(row.case, {}).setdefault(row.metric, []).append(row.value)
    return {case: {name: _mean(found) for name, found in metrics.items()} for case, metrics in values.items()}


def _mean(values: Sequence[float]) -> float:
    mean = statistic(values).mean
    return math.nan if mean is None else mean


def overall(rows: Sequence[Score]) -> dict[str, Statistic]:
    """Return the statistics over cases of the mean over classes."""
    means = case_means(rows).values()
    names = list(dict.fromkeys(name for found in means for name in found))
    return {name: statistic(found[name] for found in means if name in found) for name in names}


def write_csv(path: str | Path, rows: Iterable[Score]) -> None:
    """Write one line per value; undefined and infinite values are ``nan`` and ``inf``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        label_id = "" if row.label_id is None else row.label_id
        writer.writerow((row.case, label_id, row.label, row.metric, repr(row.value), row.scope, row.status))
    write_text(path, stream.getvalue())


def to_json(rows: Sequence[Score]) -> dict[str, Any]:
    """Return the statistics as plain JSON (without NaN)."""
    used = dict.fromkeys(row.metric for row in rows)
    return {
        "metrics": {name: _metric_facts(name) for name in used},
        "overall": {name: asdict(found) for name, found in overall(rows).items()},
        "classes": [asdict(line) for line in summarise(rows, "class")],
        "groups": [asdict(line) for line in summarise(rows, "group")],
        "levels": [asdict(line) for line in summarise(rows, "level")],
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


def write_summary(path: str | Path, content: dict[str, Any]) -> None:
    """Write summary.json."""
    write_json(path, content)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def markdown(
    rows: Sequence[Score], status: dict[str, str], notes: Sequence[str], scopes: Sequence[Scope] = tuple(_TITLES)
) -> str:
    """Return the tables as Markdown: overall, classes, instances, levels (those in `scopes`), cases, notes.

    `status` maps every case to ``done``, ``missing`` or ``failed``; `notes` are printed as a list.
    """
    counts = {word: sum(found == word for found in status.values()) for word in ("done", "missing", "failed")}
    parts = [
        "# Evaluation",
        f"{counts['done']} cases compared, {counts['missing']} without a prediction (scored as empty), "
        f"{counts['failed']} failed (not scored).",
        "Cells: mean ± sd over the cases (n values). “(n, −k)”: k values left out because nothing was there to compare "
        "or a distance was infinite.",
    ]
    total = overall(rows)
    if total:
        parts += ["## Mean over classes", _table("", [Line(None, "all classes", total)])]
    for scope in scopes:
        lines = summarise(rows, scope)
        shown = [line for line in lines if line.present]
        if lines:
            parts.append(f"## {_TITLES[scope]}")
        if shown:
            parts.append(_table("label", shown))
        if len(shown) < len(lines):
            absent = ", ".join(line.label for line in lines if not line.present)
            parts.append(f"In no reference and in no prediction: {absent}.")
    parts += ["## Cases", _case_table(rows, status)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _table(corner: str, lines: Sequence[Line]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line.metrics))
    heads = [f"{name} [{METRICS[name].unit}]" if METRICS[name].unit else name for name in names]
    table = [f"| {' | '.join([corner, *heads])} |", f"|{'---|' * (len(names) + 1)}"]
    for line in lines:
        label = line.label if line.label_id is None else f"{line.label_id} {line.label}"
        cells = [_cell(line.metrics[name]) if name in line.metrics else "" for name in names]
        table.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(table)


def _cell(found: Statistic) -> str:
    left_out = found.excluded_undefined + found.excluded_infinite
    count = f"({found.n}, −{left_out})" if left_out else f"({found.n})"
    if found.mean is None:
        return f"– {count}"
    spread = "" if found.sd is None else f" ± {found.sd:.3f}"
    return f"{found.mean:.3f}{spread} {count}"


def _case_table(rows: Sequence[Score], status: dict[str, str]) -> str:
    means = case_means(rows)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.scope == "group":
            groups.setdefault(row.case, {})[f"{row.label} {row.metric}"] = row.value
    names = list(dict.fromkeys(name for found in means.values() for name in found))
    columns = list(dict.fromkeys(name for found in groups.values() for name in found))
    table = [f"| {' | '.join(['case', 'status', *names, *columns])} |", f"|{'---|' * (2 + len(names) + len(columns))}"]
    for case, word in status.items():
        cells = [_number(means.get(case, {}).get(name)) for name in names]
        cells += [_number(groups.get(case, {}).get(name)) for name in columns]
        table.append(f"| {' | '.join([case, word, *cells])} |")
    return "\n".join(table)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def write_tables(
    folder: str | Path, rows: Sequence[Score], summary: dict[str, Any], status: dict[str, str], notes: Sequence[str]
) -> None:
    """Write metrics.csv, summary.json and summary.md into a folder."""
    folder = Path(folder)
    write_csv(folder / "metrics.csv", rows)
    write_summary(folder / "summary.json", summary)
    write_text(folder / "summary.md", markdown(rows, status, notes))
