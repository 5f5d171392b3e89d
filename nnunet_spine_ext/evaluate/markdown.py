"""Scores as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nnunet_spine_ext.evaluate.cord.metrics import EVERY_METRIC
from nnunet_spine_ext.evaluate.metric import Scope
from nnunet_spine_ext.evaluate.scoring import Score
from nnunet_spine_ext.evaluate.statistic import Resampling, Statistic
from nnunet_spine_ext.evaluate.tables import (
    Line,
    case_means,
    identification_by_region,
    overall,
    pooled_identification,
    summarise,
)

TITLES: dict[Scope, str] = {"class": "Classes", "group": "Instances", "region": "Regions", "level": "Levels"}
# Of the metrics of instances those that every case is listed with.
_LEADING = ("pq", "id_rate")
_CELLS = (
    "Cells: mean ± sd over the cases (n values). “(n, −k)”: k values left out because nothing was there to compare "
    "or a distance was infinite."
)


def markdown(
    rows: Sequence[Score],
    status: Mapping[str, str],
    notes: Sequence[str],
    scopes: Sequence[Scope] = tuple(TITLES),
    *,
    resampling: Resampling | None = None,
    by: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> str:
    """Return the tables as Markdown: overall, those of `scopes`, identification, by group of cases, cases, notes.

    `status` maps every case to ``done``, ``missing`` or ``failed``; `notes` are printed as a list; `by` maps a fact to
    its values and their cases. With `resampling` the cells have intervals.
    """
    counts = {word: sum(found == word for found in status.values()) for word in ("done", "missing", "failed")}
    parts = [
        "# Evaluation",
        f"{counts['done']} cases compared, {counts['missing']} without a prediction (scored as empty), "
        f"{counts['failed']} failed (not scored).",
        _CELLS + _about_intervals(resampling),
    ]
    total = overall(rows, resampling)
    if total:
        parts += ["## Mean over classes", table("", [Line(None, "all classes", total)])]
    for scope in scopes:
        parts += _section(TITLES[scope], summarise(rows, scope, resampling))
    parts += _identification(rows)
    for key, groups in (by or {}).items():
        parts += [f"## By {key}", by_table(key, rows, groups, resampling)]
    parts += ["## Cases", _case_table(rows, status)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _about_intervals(resampling: Resampling | None) -> str:
    if resampling is None or resampling.resamples < 1:
        return ""
    subjects = "subjects" if resampling.subject_of else "cases (no cases.json: each counts as one subject)"
    return f" In brackets: 95 % interval of the mean, {resampling.resamples} bootstrap resamples of the {subjects}."


def _section(title: str, lines: Sequence[Line]) -> list[str]:
    if not lines:
        return []
    shown = [line for line in lines if line.present]
    absent = ", ".join(line.label for line in lines if not line.present)
    parts = [f"## {title}"]
    # Instances and classes of a region have different metrics: two tables.
    kinds = [[line for line in shown if line.of_instances == whole] for whole in (True, False)]
    parts += [table("label", kind) for kind in kinds if kind]
    parts += [f"In no reference and in no prediction: {absent}."] if absent else []
    return parts


def table(corner: str, lines: Sequence[Line]) -> str:
    """Return one Markdown table with a line per label and a column per metric."""
    names = list(dict.fromkeys(name for line in lines for name in line.metrics))
    rows = [f"| {' | '.join([corner, *(head(name) for name in names)])} |", f"|{'---|' * (len(names) + 1)}"]
    for line in lines:
        label = line.label if line.label_id is None or line.region else f"{line.label_id} {line.label}"
        cells = [cell(line.metrics[name]) if name in line.metrics else "" for name in names]
        rows.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(rows)


def head(name: str) -> str:
    """Return a metric's name with its unit."""
    return f"{name} [{EVERY_METRIC[name].unit}]" if EVERY_METRIC[name].unit else name


def cell(found: Statistic) -> str:
    """Return mean, spread, interval and counts."""
    left_out = found.excluded_undefined + found.excluded_infinite
    count = f"({found.n}, −{left_out})" if left_out else f"({found.n})"
    if found.mean is None:
        return f"– {count}"
    spread = "" if found.sd is None else f" ± {found.sd:.3f}"
    interval = "" if found.ci_low is None else f" [{found.ci_low:.3f}, {found.ci_high:.3f}]"
    return f"{found.mean:.3f}{spread}{interval} {count}"


def by_table(
    key: str, rows: Sequence[Score], groups: Mapping[str, Sequence[str]], resampling: Resampling | None = None
) -> str:
    """Return a table with a column per value of a fact: means over classes, then each kind of instance."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for value, cases in groups.items():
        chosen = set(cases)
        mine = [row for row in rows if row.case in chosen]
        lines = [Line(None, "all classes", overall(mine, resampling)), *summarise(mine, "group", resampling)]
        for line in lines:
            for name, statistic in line.metrics.items():
                found.setdefault((line.label, name), {})[value] = cell(statistic)
    heads = [key, "metric", *(f"{value} (n = {len(cases)})" for value, cases in groups.items())]
    table_rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for (label, name), by_value in found.items():
        cells = [label, head(name), *(by_value.get(value, "") for value in groups)]
        table_rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(table_rows)


def _identification(rows: Sequence[Score]) -> list[str]:
    pooled = pooled_identification(rows)
    if not pooled:
        return []
    lines = ["| kind | identified | rate | mean distance [mm] | perfect sequences |", "|---|---|---|---|---|"]
    for region, kinds in identification_by_region(rows).items():
        pooled |= {f"{region} {kind}": found for kind, found in kinds.items()}
    for kind, found in pooled.items():
        lines.append(
            f"| {kind} | {found['identified']} of {found['instances']} | {found['rate']:.3f} | "
            f"{_number(found['mean_distance_mm'])} | {found['perfect_sequences']} of {found['cases']} |"
        )
    return ["## Identification over all cases", "\n".join(lines)]


def _case_table(rows: Sequence[Score], status: Mapping[str, str]) -> str:
    """Means over classes of every case, and the leading metrics of instances; all values are in metrics.csv."""
    means = case_means(rows)
    groups: dict[str, dict[str, float]] = {}
    computed = {row.metric for row in rows if row.scope == "group"}
    shown = computed & set(_LEADING) or computed
    for row in rows:
        if row.scope == "group" and row.metric in shown:
            groups.setdefault(row.case, {})[f"{row.label} {row.metric}"] = row.value
    names = list(dict.fromkeys(name for found in means.values() for name in found))
    columns = list(dict.fromkeys(name for found in groups.values() for name in found))
    lines = [f"| {' | '.join(['case', 'status', *names, *columns])} |", f"|{'---|' * (2 + len(names) + len(columns))}"]
    for case, word in status.items():
        cells = [_number(means.get(case, {}).get(name)) for name in names]
        cells += [_number(groups.get(case, {}).get(name)) for name in columns]
        lines.append(f"| {' | '.join([case, word, *cells])} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
