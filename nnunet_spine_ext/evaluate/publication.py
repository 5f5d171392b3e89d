"""Tables 2, 3 and 5 of Moeller et al. 2024 (SPINEPS) for any dataset and any number of prediction folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.evaluate import publication_pages as pages
from nnunet_spine_ext.evaluate.cases import Resample, list_masks
from nnunet_spine_ext.evaluate.folders import common_cases, folder_names, refuse_other_options
from nnunet_spine_ext.evaluate.matching import DEFAULT_IOU_THRESHOLD
from nnunet_spine_ext.evaluate.paired import Correction
from nnunet_spine_ext.evaluate.pairing import Unit, cohort_of
from nnunet_spine_ext.evaluate.prepare import prepare_output, reference_instances, writing
from nnunet_spine_ext.evaluate.publication_rows import (
    Column,
    Line,
    Rules,
    Table,
    by_region,
    lines_of_table2,
    lines_of_table3,
    side_by_side,
)
from nnunet_spine_ext.evaluate.run import evaluate
from nnunet_spine_ext.evaluate.scored import Scored, read_scored
from nnunet_spine_ext.evaluate.structures import LABELS, SPINEPS

Assd = Literal["assd", "assd_voxel", "assd_in_voxels"]
NUMBERS = (2, 3, 5)
# tables.json is written last: where it is, all are there.
EVALUATIONS = "evaluations"
FILES = ("tables.json", *(f"table{number}.{ending}" for number in NUMBERS for ending in ("csv", "md", "tex")))
SAME = "same"


@dataclass
class Publication:
    """The tables, and where they are."""

    out: Path
    folders: tuple[str, ...]
    facts: pages.Facts
    tables: tuple[Table, ...]
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: every case of every folder was compared; 3: some are missing, failed or in one only; 4: none usable."""
        return self.summary.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return everything that tables.json holds."""
        facts = self.facts
        return {
            "version": 1,
            "names": list(facts.names),
            "evaluations": list(self.folders),
            "cases": dict(facts.cases),
            "subjects": facts.subjects,
            "options": {
                "assd": facts.assd,
                "iou_threshold": facts.iou_threshold,
                "unit": facts.unit,
                "correction": facts.correction,
            },
            "tables": [
                {
                    "number": table.number,
                    "caption": pages.caption(table, facts),
                    "tests": table.tests,
                    "remarks": list(table.remarks),
                    "cells": pages.records(table),
                }
                for table in self.tables
            ],
            "remarks": self.remarks,
            "run": self.summary.to_dict(),
        }

    def render(self) -> str:
        """Return the tables for the console, then what was left out, and where the files are."""
        parts = []
        for table in self.tables:
            for part in table.parts:
                title = f"Table {table.number}" + (f", {part.title}" if part.title else "")
                parts.append(f"{title}\n\n{pages.markdown_table(part, self.facts)}\n")
            parts += [f"Table {table.number}: {remark}" for remark in table.remarks]
        parts += [*self.remarks, *self.summary.in_words()]
        counts = f"{len(self.summary.done)} done, {len(self.summary.failed)} missing or failed"
        return "\n".join([*parts, f"{counts}; tables in {self.out}"])

    def write(self) -> None:
        """Write a CSV, Markdown and LaTeX file for each table and, last, tables.json."""
        for table in self.tables:
            for ending, text in (
                ("csv", pages.to_csv(table)),
                ("md", pages.markdown(table, self.facts)),
                ("tex", pages.tex(table, self.facts)),
            ):
                write_text(self.out / f"table{table.number}.{ending}", text)
        write_json(self.out / "tables.json", self.to_dict())


def tables(
    pred: Sequence[str | Path],
    o: str | Path,
    *,
    ref: str | Path | None = None,
    names: Sequence[str] = (),
    labels: str | Path | None = None,
    scheme: str | None = None,
    structures: str | Path = SPINEPS,
    pred_labels: Sequence[str | Path] = (),
    ref_instances: str | Path | None = None,
    pred_instances: Sequence[str | Path] = (),
    assd: Assd = "assd_voxel",
    iou_threshold: float = DEFAULT_IOU_THRESHOLD,
    resample: Resample = None,
    cases: str | Path | None = None,
    unit: Unit = "subject",
    correction: Correction = "holm",
    jobs: int = 1,
) -> Publication:
    """Evaluate every prediction folder; write tables 2, 3 and 5 of the SPINEPS paper as CSV, Markdown and LaTeX.

    Table 2: whole structures, and vertebrae and discs one by one; table 3: whole structures and parts of vertebrae;
    table 5: the same per region. The evaluations are kept in ``evaluations`` inside `o`. Tables of an earlier run are
    removed first; tables.json is written last.

    Parameters
    ----------
    pred: folders of predictions, or of finished evaluations that have the structures; o: folder for the tables.
    ref: folder of the references; None is enough when all of `pred` are evaluations.
    names: what the folders are called; default: their folder names.
    labels, scheme, ref_instances, iou_threshold, resample, cases, jobs: see `evaluate`.
    structures: ``spineps``, or a JSON file {name: [ids or label names]}; names that the paper does not have are added.
    pred_labels: scheme or file of the labels of each folder, or one for all; ``same``: those of the references.
    pred_instances: folders of instance masks, one for each of `pred`; default: `instances` inside it.
    assd: which of the metrics is called ASSD: ``assd`` (surfaces, mm), ``assd_voxel`` (boundary voxels, mm) or
        ``assd_in_voxels`` (boundary voxels, voxels).
    unit: ``subject`` or ``case``: what is paired in tests; correction: ``holm``, ``bonferroni`` or ``none``.

    Raises
    ------
    UsageError: wrong options, folders that are neither, evaluations without what the tables need.
    NoInputError: no masks. SetupError: `o` cannot be written, or a process died.
    """
    given = [Path(folder) for folder in ([pred] if isinstance(pred, str | Path) else pred)]
    _check(assd=assd, unit=unit, correction=correction, structures=structures)
    called = folder_names(given, names, least=1, options="-pred")
    if not names:
        called = _without_numbers(given, called)
    other_labels = _for_each("--pred-labels", pred_labels, given, one_for_all=True)
    other_instances = _for_each("--pred-instances", pred_instances, given)
    ready = [is_evaluation(folder) for folder in given]
    true = _references(ref, given, ready)
    out = Path(o)
    prepare_output(out, given if true is None else [true, *given], FILES)
    located = true is not None and reference_instances(true, ref_instances) is not None
    options: dict[str, Any] = {
        "labels": labels, "scheme": scheme, "structures": structures, "metrics": _metrics(assd), "regions": located,
        "ref_instances": ref_instances, "iou_threshold": iou_threshold, "resample": resample, "cases": cases,
        "jobs": jobs,
    }  # fmt: skip
    folders = []
    for k, (folder, name) in enumerate(zip(given, called, strict=True)):
        if not ready[k] and true is not None:
            target = out / EVALUATIONS / f"{k + 1}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}"
            own: dict[str, Any] = {"pred_labels": other_labels[k], "pred_instances": other_instances[k]}
            evaluate(true, folder, target, **own, **options)
            folder = target
        folders.append(folder)
    scored = [read_scored(folder) for folder in folders]
    result = _publication(out, scored, called, _Options(assd, iou_threshold, unit, correction, cases))
    with writing(out):
        result.write()
    return result


@dataclass(frozen=True)
class _Options:
    assd: Assd
    iou_threshold: float
    unit: Unit
    correction: Correction
    cases: str | Path | None


def _metrics(assd: str) -> tuple[str, ...]:
    return ("dice", assd, "rq", "sq", "pq", "instance_dice", f"instance_{assd}")


def _without_numbers(folders: Sequence[Path], called: tuple[str, ...]) -> tuple[str, ...]:
    """Return names without the numbers that `tables` gave its own evaluations: ``evaluations/1_raw`` is raw."""
    if not all(folder.resolve().parent.name == EVALUATIONS and is_evaluation(folder) for folder in folders):
        return called
    plain = tuple(re.sub(r"^(.*/)?\d+_(?=.)", "", name) for name in called)
    return plain if len(set(plain)) == len(plain) else called


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is a finished evaluation (nnU-Net writes summary.json too, but no metrics.csv)."""
    return (folder / "summary.json").is_file() and (folder / "metrics.csv").is_file()


def _publication(out: Path, scored: Sequence[Scored], names: tuple[str, ...], options: _Options) -> Publication:
    structures = _structures(scored, names, options.assd)
    cohort = cohort_of(scored, options.cases)
    rules = Rules(cohort, options.unit, options.correction, options.assd)
    columns = [Column(name, one) for name, one in zip(names, scored, strict=True)]
    second, third = lines_of_table2(rules, structures), lines_of_table3(rules, structures)
    used = [line.key(None) for line in (*second, *third)]
    refuse_other_options(scored, names, [key for key in used if any(key in one.values for one in scored)])
    remarks = _about_evaluations(scored, names)
    shown, left = _with_instances(second, columns)
    remarks += left
    tables = [side_by_side(2, shown, columns, rules), side_by_side(3, third, columns, rules)]
    located = [column for column in columns if any(key.scope == "region" for key in column.scored.values)]
    if len(located) == len(columns):
        tables.append(by_region(5, third, columns, rules))
    else:
        gone = ", ".join(column.name for column in columns if column not in located)
        remarks.append(
            f"No table 5: {gone} has no scores by region. They need instance masks of the references that are numbered "
            "(--ref-instances), and evaluations made with --regions."
        )
    every = {case for one in scored for case in one.cases}
    facts = pages.Facts(
        names,
        {name: len(one.cases) for name, one in zip(names, scored, strict=True)},
        len({cohort.subject(case) for case in every}),
        options.assd,
        float(scored[0].options.get("iou_threshold", options.iou_threshold)),
        options.unit,
        options.correction,
    )
    folders = tuple(str(one.folder) for one in scored)
    return Publication(out, folders, facts, tuple(tables), _summary(scored, names), remarks)


def _with_instances(lines: Sequence[Line], columns: Sequence[Column]) -> tuple[list[Line], list[str]]:
    """Leave the instance-wise part of table 2 out where no folder has it; say which folders do not have it."""
    without = [c.name for c in columns if not any(line.of_instances and c.values(line) for line in lines)]
    if not without:
        return list(lines), []
    why = "instance masks of references and predictions are needed (--ref-instances, --pred-instances)"
    if len(without) == len(columns):
        return [line for line in lines if not line.of_instances], [f"Table 2 has no instance-wise part: {why}."]
    return list(lines), [f"Table 2 has no instance-wise values of {', '.join(without)}: {why}."]


def _structures(scored: Sequence[Scored], names: Sequence[str], assd: str) -> list[str]:
    """Return the structures of all folders in their order; raises UsageError for evaluations that are no good here."""
    found: dict[str, None] = {}
    for one, name in zip(scored, names, strict=True):
        have = {key.metric for key in one.values if key.scope == "class"}
        what = ""
        if one.values and one.options.get("structures", LABELS) == LABELS:
            what = "scores of single labels"
        elif one.values and not {"dice", assd} <= have:
            what = f"no {' and no '.join(sorted({'dice', assd} - have))}"
        if what:
            raise UsageError(
                "E-TABLES-EVALUATION",
                file=one.folder,
                found=f"{name}: {what}",
                expected="an evaluation with structures, dice and the ASSD of the tables",
                fix=f"evaluate again with --structures spineps --regions --metrics {' '.join(_metrics(assd))}, or give "
                "the folder of predictions",
            )
        found |= dict.fromkeys(key.label for key in one.values if key.scope == "class")
    return list(found)


def _about_evaluations(scored: Sequence[Scored], names: Sequence[str]) -> list[str]:
    """Return what the evaluations say about themselves: once where all say it, else with the folder's name."""
    said: dict[str, list[str]] = {}
    for one, name in zip(scored, names, strict=True):
        for remark in one.remarks:
            said.setdefault(remark, []).append(name)
    return [text if len(by) == len(scored) else f"{', '.join(by)}: {text}" for text, by in said.items()]


def _summary(scored: Sequence[Scored], names: Sequence[str]) -> RunSummary:
    """Return what became of every case of every folder."""
    summary = RunSummary()

    def called(case: str, name: str) -> str:
        return f"{case} ({name})" if len(scored) > 1 else case

    for one, name in zip(scored, names, strict=True):
        for case, status in sorted(one.status.items()):
            if status == "done":
                summary.done.append(called(case, name))
            else:
                unknown = Problem("error", "E-TABLES-CASE", case, status, "a scored case", "look into its evaluation")
                summary.fail(called(case, name), one.failed.get(case, unknown))
        for case, problems in one.warnings.items():
            summary.warn(called(case, name), *problems)
    _, lacking = common_cases(scored, names)
    for case, without in lacking.items():
        for name in without:
            if case not in scored[names.index(name)].status:
                found = "not among the references of this evaluation"
                problem = Problem("error", "E-TABLES-ONLY", case, found, "the same cases in all", "left out of tests")
                summary.fail(called(case, name), problem)
    return summary


def _references(ref: str | Path | None, given: Sequence[Path], ready: Sequence[bool]) -> Path | None:
    """Check that there is something to score; raises UsageError or NoInputError before anything is done."""
    if all(ready):
        return None if ref is None else Path(ref)
    missing = next(folder for folder, done in zip(given, ready, strict=True) if not done)
    if ref is None:
        raise UsageError(
            "E-TABLES-REF",
            file=missing,
            found="no finished evaluation, and no -ref",
            expected="the folder of the references, to score it",
            fix="add -ref labelsTs",
        )
    for folder in (Path(ref), *(folder for folder, done in zip(given, ready, strict=True) if not done)):
        list_masks(folder)
    return Path(ref)


def _for_each(
    option: str, values: Sequence[str | Path], given: Sequence[Path], *, one_for_all: bool = False
) -> list[str | Path | None]:
    """Return one value for each folder; nothing, and ``same``, are None."""
    several = [values] if isinstance(values, str | Path) else list(values)
    if one_for_all and len(several) == 1:
        several *= len(given)
    if several and len(several) != len(given):
        raise UsageError(
            "E-TABLES-COUNT",
            found=f"{option} with {len(several)} value{'s' * (len(several) != 1)} for {len(given)} folders",
            expected="one for each -pred" + (", or one for all" if one_for_all else ""),
            fix=f"correct {option}",
        )
    return [None if str(value) == SAME else value for value in several] or [None] * len(given)


def _check(*, assd: str, unit: str, correction: str, structures: str | Path) -> None:
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("--assd", assd, assd in get_args(Assd), ", ".join(get_args(Assd))),
        ("--unit", unit, unit in get_args(Unit), "subject or case"),
        ("--correction", correction, correction in get_args(Correction), "holm, bonferroni or none"),
        ("--structures", structures, str(structures) != LABELS, "spineps or a JSON file"),
    )
    for option, value, valid, expected in rules:
        if not valid:
            raise UsageError("E-TABLES-RANGE", found=f"{option} {value}", expected=expected, fix="correct the option")
