"""Reading back what an evaluation wrote."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.statistic import finite_mean

OVERALL = "overall"
# Of an evaluation of areas, and of `nnUNetv2_spine_csa`.
_AREA_COLUMNS = frozenset(("csa", "area"))


class Key(NamedTuple):
    """What a list of values is about; scope ``overall`` is the mean over classes."""

    scope: str
    label_id: int | None
    label: str
    region: str | None
    metric: str


@dataclass(frozen=True)
class Scored:
    """One evaluation folder.

    `values`: by key and case. `cases`: those that were scored (a missing prediction is). `options`, `inputs`: as
    recorded. `subject_of`, `facts`: by case. `status`: ``done``, ``missing`` or ``failed`` for every case; `failed`,
    `warnings`: what was wrong or odd, by case; `remarks`: what the evaluation said about itself.
    """

    folder: Path
    values: Mapping[Key, Mapping[str, float]]
    cases: frozenset[str]
    options: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    subject_of: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unknown_metrics: tuple[str, ...] = ()
    status: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, Problem] = field(default_factory=dict)
    warnings: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def read_scored(folder: str | Path) -> Scored:
    """Read metrics.csv and summary.json.

    Raises
    ------
    UsageError: the folder holds no finished evaluation, or not in our format.
    """
    folder = Path(folder)
    try:
        content = read_json(folder / "summary.json")
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
        values: dict[Key, dict[str, float]] = {}
        for line in lines:
            if line["metric"] in METRICS:
                values.setdefault(_key(line), {})[line["case"]] = float(line["value"])
        entries: dict[str, dict[str, Any]] = content["cases"]
        run: dict[str, Any] = content.get("run", {})
        return Scored(
            folder,
            values | _overall(values),
            frozenset(case for case, entry in entries.items() if entry["status"] != "failed"),
            content["options"],
            content["inputs"],
            {case: str(entry["subject"]) for case, entry in entries.items() if "subject" in entry},
            {case: entry.get("facts", {}) for case, entry in entries.items()},
            tuple(sorted({line["metric"] for line in lines} - METRICS.keys())),
            {case: str(entry["status"]) for case, entry in entries.items()},
            {case: Problem(**found) for case, found in run.get("failed", {}).items()},
            {case: tuple(Problem(**one) for one in found) for case, found in run.get("warnings", {}).items()},
            tuple(map(str, content.get("remarks", ()))),
        )
    except (CaseError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        if _has_areas(folder):
            raise UsageError(
                "E-COMPARE-AREAS",
                file=folder,
                found="areas of the cord, which are not compared here",
                expected="metrics.csv and summary.json as nnUNetv2_spine_evaluate writes them without --csa",
                fix="compare the predictions themselves: nnUNetv2_spine_csa_drift -a DIR -b DIR -o REPORT",
            ) from error
        raise UsageError(
            "E-COMPARE-FOLDER",
            file=folder,
            found=f"no finished evaluation ({type(error).__name__}: {error})",
            expected="metrics.csv and summary.json as nnUNetv2_spine_evaluate writes them",
            fix="name its output folder, or run it again",
        ) from error


def _has_areas(path: Path) -> bool:
    """Whether a folder is one of ``nnUNetv2_spine_evaluate --csa``, or a file a table of areas."""
    if not path.is_file():
        return (path / "csa.csv").is_file()
    if path.suffix.lower() != ".csv":
        return False
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        head = next(csv.reader(stream), [])
    return not _AREA_COLUMNS.isdisjoint(head)


def _key(line: Mapping[str, str]) -> Key:
    label_id = int(line["label_id"]) if line["label_id"] else None
    return Key(line["scope"], label_id, line["label"], line.get("region") or None, line["metric"])


def _overall(values: Mapping[Key, Mapping[str, float]]) -> dict[Key, dict[str, float]]:
    """Return the mean over classes of every scored case, as the evaluation has it."""
    found: dict[str, dict[str, list[float]]] = {}
    for key, by_case in values.items():
        if key.scope == "class":
            for case, value in by_case.items():
                found.setdefault(key.metric, {}).setdefault(case, []).append(value)
    return {
        Key(OVERALL, None, "all classes", None, metric): {case: finite_mean(all_) for case, all_ in by_case.items()}
        for metric, by_case in found.items()
    }
