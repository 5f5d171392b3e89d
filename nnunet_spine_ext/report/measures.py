"""The numbers that cases are sorted by: mean scores, the worst structure, instances, changes, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.evaluate.latex import digits
from nnunet_spine_ext.report.collect import Case
from nnunet_spine_ext.report.crossing import distance, lowest_stability, matched_distance
from nnunet_spine_ext.report.pictures import CasePictures
from nnunet_spine_ext.report.scores import Scores, better, figure, head, is_share, leading

STATUS = "status"
# What a failed case counts in the order by status, in warnings.
_FAILED = 1000
_SCORES, _INSTANCES, _CASE = "Scores, mean over classes", "Scores of instances", "The case"
_CROSSING = "Other scanners"


@dataclass(frozen=True)
class Shown:
    """One case as it is shown: what was collected, what was drawn, and where its image is."""

    case: Case
    drawn: CasePictures
    image: Path | None = None
    unreadable: bool = False

    @property
    def lost(self) -> bool:
        """Whether there is no usable mask."""
        return self.case.status in ("failed", "missing")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number per case. `better` is ``higher``, ``lower``, ``zero`` or empty; `column`: shown in the table.

    `values` are None where a case has none; `notes` are shown with the values, such as the name of the worst class.
    """

    key: str
    title: str
    group: str
    values: tuple[float | None, ...]
    better: str = ""
    unit: str = ""
    digits: int = 0
    column: bool = False
    notes: tuple[str, ...] = ()
    help: str = ""

    def text(self, number: int) -> str:
        """Return the value of a case as text."""
        return figure(self.values[number], self.digits)

    def rank(self, number: int, *, lost: bool) -> tuple[int, float]:
        """Return the sort key that puts the worst case first and cases without a value last.

        A case without a mask is worse than any other where one direction is better.
        """
        value = self.values[number]
        if value is None:
            return (0, 0.0) if lost and self.better else (2, 0.0)
        signed = {"higher": value, "lower": -value, "zero": -abs(value)}.get(self.better, -value)
        return 1, signed

    def to_dict(self) -> dict[str, Any]:
        """Return what the page's script needs."""
        facts = {"key": self.key, "title": self.title, "better": self.better, "unit": self.unit, "digits": self.digits}
        return facts | {"column": self.column, "values": [plain(v) for v in self.values], "notes": list(self.notes)}


def plain(value: float | None) -> float | str | None:
    """Return a number with five digits as JSON can hold it: NaN is null, infinity the text ``inf``."""
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else "inf" if value > 0 else "-inf"


def measures(shown: Sequence[Shown], scores: Scores | None) -> list[Measure]:
    """Return every measure that at least one case has, those of the table's columns first."""
    names = [one.case.name for one in shown]
    found = [*(_scored(names, scores) if scores else ()), *_instances(shown), *_crossing(shown), *_plain(shown)]
    return [m for m in found if any(value is not None for value in m.values)]


def default_measure(found: Sequence[Measure]) -> Measure:
    """Return what the page is sorted by at first: the first score, else the status."""
    return next((m for m in found if m.group == _SCORES), next(m for m in found if m.key == STATUS))


def _scored(names: Sequence[str], scores: Scores) -> list[Measure]:
    found = []
    metrics = list(scores.overall)
    chosen = leading(metrics)
    for metric in [*chosen, *(m for m in metrics if m not in chosen)]:
        values = tuple(_known(scores.means.get(name, {}).get(metric)) for name in names)
        found.append(_metric(f"mean-{metric}", metric, _SCORES, values, column=metric in chosen))
        if metric == next((m for m in metrics if is_share(m)), None):
            found.append(_worst(names, scores, metric))
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for name in names:
        for row in scores.by_case.get(name, ()):
            if row.scope == "group":
                groups.setdefault((row.label, row.metric), {})[name] = row.value
    shown = {next((key for key in groups if key[1] == wanted), None) for wanted in ("pq", "id_rate")}
    for key, table in groups.items():
        values = tuple(_known(table.get(name)) for name in names)
        label, metric = key
        found.append(_metric(f"{metric}-{label}", metric, _INSTANCES, values, column=key in shown, label=label))
    return found


def _metric(
    key: str, metric: str, group: str, values: tuple[float | None, ...], *, column: bool, label: str = ""
) -> Measure:
    row = head(metric)
    return Measure(
        key=key,
        title=f"{row.title} {label}".strip(),
        group=group,
        values=values,
        better=better(metric),
        unit=row.unit,
        digits=digits(metric),
        column=column,
        help=row.help,
    )


def _worst(names: Sequence[str], scores: Scores, metric: str) -> Measure:
    """Return the lowest value over the classes of a case, and which class it is."""
    values: list[float | None] = []
    notes = []
    for name in names:
        rows = [r for r in scores.by_case.get(name, ()) if r.scope == "class" and r.metric == metric]
        worst = min((r.value for r in rows if math.isfinite(r.value)), default=None)
        labels = [r.label for r in rows if r.value == worst]
        values.append(worst)
        notes.append(labels[0] if len(labels) == 1 else f"{len(labels)} classes" if labels else "")
    return Measure(
        key=f"worst-{metric}",
        title=f"Lowest {head(metric).title}",
        group=_SCORES,
        values=tuple(values),
        better="higher",
        digits=digits(metric),
        column=True,
        notes=tuple(notes),
        help="the structure with the lowest value",
    )


def _instances(shown: Sequence[Shown]) -> list[Measure]:
    return [
        _of("vertebrae", "Vertebrae", shown, lambda one: one.drawn.counts.get("vertebrae"), column=True),
        _of("discs", "Discs", shown, lambda one: one.drawn.counts.get("discs")),
    ]


def _crossing(shown: Sequence[Shown]) -> list[Measure]:
    rows = (
        ("distance", "Distance from training", distance, "lower", "of the intensities of the body, before matching"),
        ("matched", "Distance after matching", matched_distance, "lower", "the same, after matching"),
        ("stability", "Stability", lowest_stability, "higher", "lowest Dice of a structure among the views"),
    )
    found = []
    for key, title, value, direction, text in rows:
        told = [value(one.case) for one in shown]
        numbers, notes = tuple(number for number, _ in told), tuple(note for _, note in told)
        found.append(
            Measure(
                key=key, title=title, group=_CROSSING, values=numbers, better=direction, digits=3, column=True,
                notes=notes, help=text,
            )
        )  # fmt: skip
    return found


def _plain(shown: Sequence[Shown]) -> list[Measure]:
    def changed(one: Shown) -> float | None:
        return one.drawn.change.changed_ml if one.drawn.change else None

    def volume(one: Shown) -> float | None:
        return sum(one.drawn.volumes_ml.values()) if one.drawn.volumes_ml else None

    def status(one: Shown) -> float:
        return _FAILED * one.lost + len(one.case.warnings)

    return [
        _of("changed", "Changed", shown, changed, unit="mL", decimals=2, column=True),
        _of("volume", "Volume", shown, volume, unit="mL", decimals=0),
        _of("seconds", "Time", shown, lambda one: one.case.seconds, unit="s", decimals=1, column=True),
        _of(STATUS, "Failures and warnings", shown, status),
    ]


def _of(
    key: str,
    title: str,
    shown: Sequence[Shown],
    value: Callable[[Shown], float | None],
    *,
    unit: str = "",
    decimals: int = 0,
    column: bool = False,
) -> Measure:
    values = tuple(value(one) for one in shown)
    return Measure(key=key, title=title, group=_CASE, values=values, unit=unit, digits=decimals, column=column)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def score_table(shown: Sequence[Shown], scores: Scores | None) -> dict[str, Any]:
    """Return every value of metrics.csv for the page: metrics by name, and per scope labels, metrics and values.

    ``values[case][label][metric]`` are numbers, null or ``inf``; a case or label that was not scored is null.
    """
    if scores is None:
        return {"metrics": {}, "scopes": []}
    used: dict[str, None] = {}
    scopes = []
    for table in scores.tables:
        # Regions of every case would outweigh all else on the page: the summary has them.
        if table.scope == "region":
            continue
        metrics = [h.name for h in table.heads]
        labels = [row.label for row in table.rows]
        used.update(dict.fromkeys(metrics))
        values = [_case_values(one.case.name, scores, table.scope, labels, metrics) for one in shown]
        facts = {"scope": table.scope, "title": table.title, "corner": table.corner}
        scopes.append(facts | {"labels": labels, "metrics": metrics, "values": values})
    return {"metrics": {name: _facts(name) for name in used}, "scopes": scopes}


def _case_values(
    case: str, scores: Scores, scope: str, labels: Sequence[str], metrics: Sequence[str]
) -> list[list[float | str | None] | None] | None:
    found: dict[str, dict[str, float]] = {}
    for row in scores.by_case.get(case, ()):
        if row.scope == scope:
            found.setdefault(row.label, {})[row.metric] = row.value
    # A class that neither side has is no information about this case.
    told = {label: values for label, values in found.items() if not all(map(math.isnan, values.values()))}
    if not told:
        return None
    return [_row(told[label], metrics) if label in told else None for label in labels]


def _row(values: Mapping[str, float], metrics: Sequence[str]) -> list[float | str | None]:
    return [plain(values.get(metric)) for metric in metrics]


def _facts(name: str) -> dict[str, Any]:
    row = head(name)
    facts = {"title": row.title, "unit": row.unit, "arrow": row.arrow, "help": row.help}
    return facts | {"digits": digits(name), "share": is_share(name)}
