"""What the page says, put together from the cases, the scores and the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nnunet_spine_ext.report.cards import hex_colour, names, row
from nnunet_spine_ext.report.collect import Folder
from nnunet_spine_ext.report.facts import run_date, run_facts
from nnunet_spine_ext.report.figures import Section
from nnunet_spine_ext.report.measures import Measure, Shown, default_measure, score_table
from nnunet_spine_ext.report.naming import Naming
from nnunet_spine_ext.report.privacy import Redactor
from nnunet_spine_ext.report.scores import Head, Scores, head, leading, number


@dataclass(frozen=True)
class Subject:
    """Everything a page is about; `shown` and the values of `measures` are in the first order of the table."""

    folder: Folder
    shown: Sequence[Shown]
    measures: Sequence[Measure]
    scores: Scores | None
    naming: Naming
    redactor: Redactor
    plots: Sequence[Section]
    title: str

    @property
    def report_id(self) -> str:
        """Marks are kept under it: the same run and cases give the same one, whatever else the page shows."""
        said = json.dumps([self.folder.run, sorted(case.name for case in self.folder.cases)], sort_keys=True)
        return sha256(said.encode("utf-8")).hexdigest()[:16]


def page_data(subject: Subject) -> dict[str, Any]:
    """Return what the page's script needs about all cases."""
    return {
        "id": subject.report_id,
        "title": subject.title,
        "sort": default_measure(subject.measures).key,
        "cases": [[one.case.name, one.case.status, len(one.case.warnings)] for one in subject.shown],
        "measures": [measure.to_dict() for measure in subject.measures],
        "names": names(subject.shown, subject.naming),
        "scores": score_table(subject.shown, subject.scores),
    }


def page_context(subject: Subject) -> dict[str, Any]:
    """Return the variables of the template."""
    folder, shown, redactor = subject.folder, subject.shown, subject.redactor
    columns = [measure for measure in subject.measures if measure.column]
    statuses = ("done", "failed", "missing", "skipped")
    groups: dict[str, list[Measure]] = {}
    for measure in subject.measures:
        groups.setdefault(measure.group, []).append(measure)
    return {
        "title": subject.title,
        "date": run_date(folder.run),
        "facts": run_facts(folder.run, redactor),
        "has_run": bool(folder.run),
        "folder_notes": [redactor.text(note) for note in folder.notes],
        "counts": {status: sum(one.case.status == status for one in shown) for status in statuses},
        "warnings": sum(len(one.case.warnings) for one in shown),
        "warned": sum(bool(one.case.warnings) for one in shown),
        "columns": columns,
        "groups": groups,
        "sort": default_measure(subject.measures),
        "rows": [row(number_, one, columns) for number_, one in enumerate(shown)],
        "plots": subject.plots,
        "compared": any(one.drawn.change is not None for one in shown),
        "colour_of": {subject.naming.name(n): hex_colour(subject.naming.colour(n)) for n in subject.naming.labels},
        "any_instances": any(one.drawn.instances_ml for one in shown),
    } | _score_context(subject)


def _score_context(subject: Subject) -> dict[str, Any]:
    scores, redactor = subject.scores, subject.redactor
    if scores is None:
        empty: Mapping[str, Any] = {"overall": [], "quality": [], "tables": (), "unscored": [], "missing": []}
        return {**empty, "scored": False, "not_compared": [], "remarks": []}
    excused = {name for name, _ in scores.failed}
    cases = [one.case for one in subject.shown]
    return {
        "scored": True,
        "overall": _tiles(scores),
        "quality": _group_means(scores),
        "tables": scores.tables,
        "unscored": [
            c.name for c in cases if c.name not in scores.by_case and c.status != "failed" and c.name not in excused
        ],
        "missing": [name for name, status in scores.status.items() if status == "missing"],
        "not_compared": [(name, redactor.text(found)) for name, found in scores.failed],
        "remarks": [redactor.text(remark) for remark in scores.remarks],
    }


def _tiles(scores: Scores) -> list[tuple[Head, str, str, str]]:
    """Mean over classes, then over cases, of the leading metrics: (metric, mean, spread, interval)."""
    tiles = []
    for name in leading(scores.overall):
        found = scores.overall[name]
        spread = "" if found.sd is None else f"± {number(name, found.sd)}"
        limits = scores.intervals.get(name)
        interval = f"95 % {number(name, limits[0])} to {number(name, limits[1])}" if limits else ""
        tiles.append((head(name), number(name, found.mean), spread, interval))
    return tiles


def _group_means(scores: Scores) -> list[tuple[str, str]]:
    """Mean panoptic quality per kind of instance, for the tiles at the top."""
    tiles = []
    for table in scores.tables:
        metrics = [h.name for h in table.heads]
        if table.scope == "group" and "pq" in metrics:
            tiles += [(f"PQ {row.label}", row.cells[metrics.index("pq")].text) for row in table.rows]
    return tiles
