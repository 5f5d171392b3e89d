"""Compare the cord's area in predictions with references, and between the contrasts of each subject."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.evaluate.cases import LabelSet, MaskFolder, Resample, find_labels, list_masks
from nnunet_spine_ext.evaluate.cohort import Cohort, read_cohort, subject_warnings
from nnunet_spine_ext.evaluate.cord import pictures, tables
from nnunet_spine_ext.evaluate.cord.analysis import ImageRow, Plan, RangeAnalysis, analyse
from nnunet_spine_ext.evaluate.cord.areas import AreaTable, is_table, read_areas
from nnunet_spine_ext.evaluate.cord.case import CaseAreas, CordJob, guarded
from nnunet_spine_ext.evaluate.cord.options import AreaOptions, Maps
from nnunet_spine_ext.evaluate.latex import Spread
from nnunet_spine_ext.evaluate.parallel import each_case
from nnunet_spine_ext.evaluate.prepare import prepare_output, writing
from nnunet_spine_ext.evaluate.result import MISSING
from nnunet_spine_ext.evaluate.statistic import Resampling

logger = logging.getLogger(__name__)


@dataclass
class CordEvaluation:
    """All areas and what they say; the exit code is 3 when images are missing or could not be measured."""

    out: Path
    inputs: dict[str, str | None]
    options: dict[str, Any]
    has_references: bool = True
    rows: list[ImageRow] = field(default_factory=list)
    ranges: list[RangeAnalysis] = field(default_factory=list)
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: every image was measured; 3: some were not; 4: none was."""
        return self.summary.exit_code

    @property
    def notes(self) -> list[str]:
        """Remarks, failures and warnings in words."""
        return [*self.remarks, *self.summary.in_words()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything that csa.json holds."""
        return {
            "version": 1,
            "inputs": self.inputs,
            "options": self.options,
            "ranges": tables.to_json(self.ranges),
            "pictures": self.pictures,
            "remarks": self.remarks,
            "run": self.summary.to_dict(),
        }

    def render(self) -> str:
        """Return the tables for the console, then where the files are."""
        return f"{tables.markdown(self)}\n{self.summary.render().splitlines()[-1]}; tables in {self.out}"

    def write(self, spread: Spread | None = None) -> None:
        """Write the tables and pictures and, last, csa.json."""
        write_text(self.out / "csa.csv", tables.image_csv(self.rows))
        write_text(self.out / "csa_subjects.csv", tables.subject_csv(self.ranges))
        write_text(self.out / "csa_tests.csv", tables.pair_csv([pair for one in self.ranges for pair in one.pairs]))
        write_text(self.out / "csa.md", tables.markdown(self))
        if spread is not None:
            write_text(self.out / "csa.tex", tables.tex(self, spread))
        self.pictures = pictures.write(self.out / pictures.FOLDER, self.ranges, self.rows)
        write_json(self.out / "csa.json", self.to_dict())


def evaluate_areas(
    ref: Path,
    pred: Path,
    out: Path,
    options: AreaOptions,
    *,
    labels: str | Path | None = None,
    scheme: str | None = None,
    latex: Spread | None = None,
) -> CordEvaluation:
    """Measure every reference (images, or a table of areas) and the prediction of the same case name; write the tables.

    When both are one folder there are no references: only the contrasts are compared.

    Raises
    ------
    UsageError: wrong options or tables. NoInputError: no reference. SetupError: `out` cannot be written.
    """
    options.check()
    table = read_areas(ref) if is_table(ref) else None
    refs = None if table else list_masks(ref)
    preds, source = prediction_maps(pred, options.maps)
    if refs is not None and ref.is_file() and pred.is_file():
        preds = MaskFolder(dict.fromkeys(refs.files, pred), folder=str(pred))
    known = find_labels(ref, pred, labels, scheme)
    job = make_job(refs, table, (preds,), (known, known), options)
    cases = refs.cases if refs else table.cases if table else []
    folder = ref if ref.is_dir() else ref.parent
    cohort = read_cohort(cases, options.cases, (folder, folder.parent, pred))
    prepare_output(out, (ref, pred), tables.FILES)
    result = CordEvaluation(
        out,
        {"ref": str(ref), "pred": source, "labels": known.source, "cases": cohort.source},
        options.record() | {"latex": latex},
        has_references=ref.resolve() != pred.resolve(),
    )
    _tell_extra(sorted(set(preds.cases) - set(cases)), preds, result.summary)
    for case, found in measured(cases, job, cohort, options, result.summary, result.remarks):
        result.rows += image_rows(case, found, cohort, options, compared=result.has_references)
    result.ranges = analyse(result.rows, plan_of(options, cohort))
    with writing(out):
        result.write(latex)
    return result


def prediction_maps(pred: Path, maps: Maps) -> tuple[MaskFolder, str]:
    """Return the maps of a prediction folder: its folder ``soft`` (``auto``: where there is one) or its masks.

    Raises UsageError for soft maps that are not there, NoInputError for an empty folder.
    """
    soft = pred / "soft"
    if maps == "soft" and not soft.is_dir():
        raise UsageError(
            "E-EVAL-CORD-SOFT",
            file=soft,
            found="no such folder",
            expected="soft maps in the folder soft of the predictions",
            fix="predict with a soft model, name the folder of soft maps itself, or leave --maps out",
        )
    chosen = soft if maps != "hard" and soft.is_dir() else pred
    return list_masks(chosen), str(chosen)


def make_job(
    refs: MaskFolder | None,
    table: AreaTable | None,
    preds: tuple[MaskFolder, ...],
    labels: tuple[LabelSet, ...],
    options: AreaOptions,
) -> CordJob:
    """Return what every process needs; raises UsageError for ranges without a source of levels."""
    levels = options.level_files()
    own_levels = table is not None and (table.by_range or any(len(a.levels) for a in table.by_slice.values()))
    if options.level_range and levels is None and not own_levels:
        raise UsageError(
            "E-EVAL-CORD-NOLEVELS",
            found="--level-range alone",
            expected="a source of levels",
            fix="add --levels, --discs or instances, or leave --level-range out",
        )
    resample: Resample = options.resample
    return CordJob(refs, table, preds, labels, options.cord, options.mode, options.ranges, levels, resample)


def plan_of(options: AreaOptions, cohort: Cohort) -> Plan:
    """Return how values become statistics."""
    resampling = Resampling(cohort.subject_of, options.bootstrap, options.seed)
    return Plan(options.ddof, options.margin, options.correction, resampling)


def measured(
    cases: Sequence[str],
    job: CordJob,
    cohort: Cohort,
    options: AreaOptions,
    summary: RunSummary,
    remarks: list[str],
) -> list[tuple[str, CaseAreas]]:
    """Measure all cases, record what happened to each, and say what is not known about them.

    Raises NoInputError when there is no case at all.
    """
    from tqdm import tqdm

    if not cases:
        raise NoInputError(
            "E-EVAL-EMPTY", found="no case", expected="maps or areas of the same cases", fix="check the folders"
        )
    for case, problem in subject_warnings(cohort).items():
        summary.warn(case, problem)
    remarks += _about_contrasts(cases, cohort, options.contrast)
    if job.table is not None and job.table.mode not in (None, job.mode):
        remarks.append(
            f"The areas of {job.table.source} were measured in mode {job.table.mode}, those of the predictions in mode "
            f"{job.mode}: part of the difference is that of the modes (--mode {job.table.mode})."
        )
    results = []
    bar = tqdm(each_case(cases, guarded, job, options.jobs), total=len(cases), desc="areas", unit="case", disable=None)
    for case, found in bar:
        if found.details:
            logger.error("%s: unexpected error\n%s", case, found.details)
        summary.warn(case, *found.warnings)
        if found.failure is None:
            summary.done.append(case)
        else:
            summary.fail(case, found.failure)
        results.append((case, found))
    return results


def _about_contrasts(cases: Sequence[str], cohort: Cohort, key: str) -> list[str]:
    contrasts = {case: contrast_of(case, cohort, key) for case in cases}
    unknown = [case for case, contrast in contrasts.items() if not contrast]
    remarks = []
    if len(unknown) == len(cases):
        keys = _some(sorted({name for facts in cohort.facts.values() for name in facts}))
        source = (
            f"{cohort.source}, key {key}, has {keys or 'no facts'}" if cohort.source else f"no cases.json, key {key}"
        )
        return [
            f"No contrast is known ({source}): nothing is said about the spread over contrasts. Name a file with "
            "subjects and contrasts by --cases, or the key by --contrast."
        ]
    if unknown:
        remarks.append(
            f"The contrast of {len(unknown)} images is not known ({_some(unknown)}): they only count in all."
        )
    seen: dict[tuple[str, str], list[str]] = {}
    for case, contrast in contrasts.items():
        seen.setdefault((cohort.subject(case), contrast), []).append(case)
    twice = [f"{subject} {contrast}" for (subject, contrast), found in seen.items() if contrast and len(found) > 1]
    if twice:
        remarks.append(f"Several images of one subject and contrast are averaged: {_some(twice)}.")
    return remarks


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def contrast_of(case: str, cohort: Cohort, key: str) -> str:
    """Return the contrast of a case, nothing where it is not known."""
    return cohort.facts.get(case, {}).get(key, "")


def image_rows(
    case: str, found: CaseAreas, cohort: Cohort, options: AreaOptions, *, compared: bool = True
) -> list[ImageRow]:
    """Return the rows of a case, one per range; none when it could not be measured.

    Without `compared`, when the references are the predictions themselves, there are areas only.
    """
    missing = found.failure is not None and found.failure.code == MISSING
    return [
        ImageRow(
            case,
            cohort.subject(case),
            contrast_of(case, cohort, options.contrast),
            name,
            one.areas[0],
            one.reference if compared else math.nan,
            one.slices,
            one.reference_slices if compared else None,
            found.scores if compared else {},
            found.soft[0],
            "missing" if missing else "done",
        )
        for name, one in found.ranges.items()
    ]


def _tell_extra(extra: Sequence[str], preds: MaskFolder, summary: RunSummary) -> None:
    for case in extra:
        found, expected = "a prediction without a reference", "a reference of the same name"
        path = str(preds.files.get(case, case))
        summary.warn(case, Problem("warning", "W-EVAL-EXTRA", path, found, expected, "left out"))
