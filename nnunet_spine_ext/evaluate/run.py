"""Compare a folder of predictions with a folder of references."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError, UsageError
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate import tables
from nnunet_spine_ext.evaluate.cases import (
    NO_MASKS,
    LabelSet,
    MaskFolder,
    Resample,
    find_labels,
    list_masks,
    on_grid_of,
    read_labels,
)
from nnunet_spine_ext.evaluate.matching import DEFAULT_IOU_THRESHOLD, Matching
from nnunet_spine_ext.evaluate.pairs import DEFAULT_TOLERANCE_MM
from nnunet_spine_ext.evaluate.registry import DEFAULT_METRICS, select
from nnunet_spine_ext.evaluate.scoring import (
    InstanceIds,
    Score,
    Settings,
    Status,
    score_classes,
    score_instances,
)

_MISSING = "E-EVAL-MISSING"


@dataclass
class EvaluationResult:
    """All scores, what happened to each case, and where the tables are.

    `matchings` maps case and group to the matched, missed and spurious instances; `remarks` concern the whole run.
    """

    out: Path
    inputs: dict[str, str | None]
    options: dict[str, Any]
    rows: list[Score] = field(default_factory=list)
    matchings: dict[str, dict[str, Matching]] = field(default_factory=dict)
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: every reference was compared; 3: some predictions are missing or failed; 4: none was usable."""
        return self.summary.exit_code

    @property
    def status(self) -> dict[str, str]:
        """``done``, ``missing`` or ``failed`` for every reference case."""
        words = dict.fromkeys(self.summary.done, "done")
        for case, problem in self.summary.failed.items():
            words[case] = "missing" if problem.code == _MISSING else "failed"
        return dict(sorted(words.items()))

    @property
    def notes(self) -> list[str]:
        """Remarks, failures and warnings in words."""
        found = [*self.remarks, *(f"{case}: {problem}" for case, problem in self.summary.failed.items())]
        found += [f"{case}: {problem}" for case, problems in self.summary.warnings.items() for problem in problems]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything that summary.json holds."""
        means = tables.case_means(self.rows)
        cases: dict[str, Any] = {}
        for case, word in self.status.items():
            mean = {name: tables.finite_or_none(value) for name, value in means.get(case, {}).items()}
            cases[case] = {"status": word, "mean_over_classes": mean, "instances": self._instances(case)}
        return {
            "version": 1,
            "inputs": self.inputs,
            "options": self.options,
            **tables.to_json(self.rows),
            "remarks": self.remarks,
            "cases": cases,
            "run": self.summary.to_dict(),
        }

    def _instances(self, case: str) -> dict[str, Any]:
        return {
            group: {
                "matched": {str(match.ref): match.pred for match in matching.matches},
                "missed": list(matching.missed),
                "spurious": list(matching.spurious),
            }
            for group, matching in self.matchings.get(case, {}).items()
        }

    def render(self) -> str:
        """Return the tables for the console, then failures and where the files are."""
        text = tables.markdown(self.rows, self.status, self.notes, scopes=("class", "group"))
        return f"{text}\n{self.summary.render().splitlines()[-1]}; tables in {self.out}"


@dataclass(frozen=True)
class _Job:
    """Where the files of the run are and how they are read."""

    refs: MaskFolder
    preds: MaskFolder
    ref_instances: MaskFolder
    pred_instances: MaskFolder | None
    labels: LabelSet
    instance_labels: LabelSet
    settings: Settings
    resample: Resample
    remarks: tuple[str, ...] = ()


def evaluate(
    ref: str | Path,
    pred: str | Path,
    o: str | Path,
    *,
    labels: str | Path | None = None,
    scheme: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    ref_instances: str | Path | None = None,
    pred_instances: str | Path | None = None,
    instance_ids: InstanceIds = "spineps",
    resample: Resample = None,
    nsd_tolerance: float = DEFAULT_TOLERANCE_MM,
    iou_threshold: float = DEFAULT_IOU_THRESHOLD,
) -> EvaluationResult:
    """Compare every reference with the prediction of the same case name; write metrics.csv, summary.json, summary.md.

    Parameters
    ----------
    ref, pred: folders of masks (or one file each); o: folder for the tables.
    labels: dataset.json or {name: id} file; scheme: name of a label scheme; None: dataset.json beside the masks.
    metrics: names from the registry.
    ref_instances, pred_instances: folders of instance masks; None: `instancesTr` beside `labelsTr` (or `instances`
        inside the reference folder), and `instances` inside the prediction folder, where they exist.
    instance_ids: ``spineps`` (kinds are told apart by id) or ``any`` (all instances are of one kind).
    resample: ``nearest`` brings predictions from other grids onto the reference's; None refuses them.
    nsd_tolerance: mm; iou_threshold: smallest IoU of a match, in (0, 1].

    Raises
    ------
    UsageError: wrong options, only instance metrics without instance masks, or `o` is one of the inputs.
    NoInputError: no reference mask.
    SetupError: `o` cannot be written.
    """
    ref, pred, o = Path(ref), Path(pred), Path(o)
    settings = _settings(metrics, instance_ids, nsd_tolerance, iou_threshold)
    job = _prepare(ref, pred, (labels, scheme), (ref_instances, pred_instances), settings, resample)
    _prepare_output(o, (ref, pred))
    inputs = {
        "ref": str(ref),
        "pred": str(pred),
        "labels": job.labels.source,
        "ref_instances": job.ref_instances.folder,
        "pred_instances": job.pred_instances.folder if job.pred_instances else None,
    }
    options = {
        "metrics": list(metrics),
        "instance_ids": instance_ids,
        "resample": resample,
        "nsd_tolerance_mm": nsd_tolerance,
        "iou_threshold": iou_threshold,
        "instances": job.pred_instances is not None,
    }
    result = EvaluationResult(o, inputs, options, remarks=list(job.remarks))
    _warn_extra(job, result)
    _score_all(job, result)
    tables.write_tables(o, result.rows, result.to_dict(), result.status, result.notes)
    return result


def _settings(
    metrics: Sequence[str], instance_ids: InstanceIds, nsd_tolerance: float, iou_threshold: float
) -> Settings:
    if not nsd_tolerance >= 0 or not 0 < iou_threshold <= 1:
        raise UsageError(
            "E-EVAL-RANGE",
            found=f"--nsd-tolerance {nsd_tolerance} and --iou-threshold {iou_threshold}",
            expected="a tolerance of 0 mm or more and a threshold above 0 and up to 1",
            fix="correct the option",
        )
    names = tuple(metrics)
    return Settings(
        tuple(select(names, "class")),
        tuple(select(names, "group")),
        tuple(select(names, "level")),
        nsd_tolerance,
        iou_threshold,
        instance_ids,
    )


def _prepare(
    ref: Path,
    pred: Path,
    naming: tuple[str | Path | None, str | None],
    instances: tuple[str | Path | None, str | Path | None],
    settings: Settings,
    resample: Resample,
) -> _Job:
    refs, preds = list_masks(ref), list_masks(pred)
    if ref.is_file() and pred.is_file():
        # Two files are compared whatever their names are.
        preds = MaskFolder(dict.fromkeys(refs.files, pred))
    beside = [ref / "instances", ref.parent / ref.name.replace("labels", "instances", 1)]
    ref_folder = _instance_folder(instances[0], [folder for folder in beside if folder != ref])
    pred_folder = _instance_folder(instances[1], [pred / "instances"])
    wanted = bool(settings.group_metrics or settings.level_metrics) and ref_folder and pred_folder
    known = LabelSet(SCHEMES["instances"].labels if settings.instance_ids == "spineps" else None, source="spineps ids")
    return _Job(
        refs,
        preds,
        list_masks(ref_folder) if ref_folder and wanted else NO_MASKS,
        list_masks(pred_folder) if pred_folder and wanted else None,
        find_labels(ref, pred, *naming),
        known,
        settings,
        resample,
        _about_instances(settings, ref_folder, pred_folder),
    )


def _about_instances(settings: Settings, ref: Path | None, pred: Path | None) -> tuple[str, ...]:
    """Say when one side has no instance masks; raises UsageError when nothing else was asked for."""
    if not (settings.group_metrics or settings.level_metrics) or (ref and pred):
        return ()
    sides = [name for name, folder in (("references", ref), ("predictions", pred)) if folder is None]
    without = f"no instance masks of the {' and the '.join(sides)}"
    if not settings.class_metrics:
        raise UsageError(
            "E-EVAL-INSTANCES",
            found=f"metrics of instances only, but {without}",
            expected="instancesTr beside labelsTr, and instances inside the prediction folder",
            fix="name the folders by --ref-instances and --pred-instances",
        )
    return (f"Instances are not scored: {without}.",) if len(sides) == 1 else ()


def _instance_folder(given: str | Path | None, candidates: Sequence[Path]) -> Path | None:
    if given is not None:
        return Path(given)
    return next((folder for folder in candidates if folder.is_dir()), None)


def _prepare_output(out: Path, inputs: Sequence[Path]) -> None:
    folders = {(path if path.is_dir() else path.parent).resolve() for path in inputs}
    if out.resolve() in folders:
        raise UsageError(
            "E-OUT-INPUT",
            file=out,
            found="the output folder is an input folder",
            expected="a folder of its own",
            fix="choose another -o, for example one inside it",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK | os.X_OK)
    except OSError as error:
        writable, reason = False, str(error)
    else:
        reason = "no permission to write"
    if not writable:
        raise SetupError(
            "E-OUT-READONLY",
            file=out,
            found=f"cannot be written ({reason})",
            expected="a writable folder",
            fix="choose another -o or change the permissions",
        )


def _warn_extra(job: _Job, result: EvaluationResult) -> None:
    for case in sorted(set(job.preds.cases) - set(job.refs.cases)):
        problem = Problem(
            "warning",
            "W-EVAL-EXTRA",
            str(job.preds.files[case]),
            "a prediction without a reference",
            "a reference of the same name",
            "left out",
        )
        result.summary.warn(case, problem)


def _score_all(job: _Job, result: EvaluationResult) -> None:
    from tqdm import tqdm

    for case in tqdm(job.refs.cases, desc="evaluate", unit="case", disable=None):
        try:
            rows, matchings, warnings, failure = _score_case(case, job)
        except CaseError as error:
            result.summary.fail(case, error.problem())
            continue
        result.rows += rows
        result.summary.warn(case, *warnings)
        if matchings:
            result.matchings[case] = matchings
        if failure is None:
            result.summary.done.append(case)
        else:
            result.summary.fail(case, failure)


def _score_case(case: str, job: _Job) -> tuple[list[Score], dict[str, Matching], list[Problem], Problem | None]:
    """Return rows, matchings by group, warnings and, if a prediction is missing, that failure; raises CaseError."""
    ref_path, pred_path = job.refs.get(case), job.preds.get(case)
    if ref_path is None:
        msg = f"case {case!r} is not among the references"
        raise KeyError(msg)
    ref = read_labels(ref_path, job.labels)
    pred, warnings = _read_other(ref, pred_path, job.labels, job.resample)
    failure = None if pred_path else _missing(ref_path, "prediction", "predict the case, or remove its reference")
    if job.labels.ignore is not None:
        pred = np.where(ref.array == job.labels.ignore, 0, pred)
    names = _names(job.labels, ref.array, pred)
    rows = score_classes(case, ref.array, pred, names, ref.spacing, job.settings, "missing" if failure else "done")
    matchings: dict[str, Matching] = {}
    true_path = job.ref_instances.get(case)
    if job.pred_instances is not None and true_path is None:
        warnings = [*warnings, _without_instances(case, job.ref_instances.folder or "")]
    elif job.pred_instances is not None and true_path is not None:
        true = read_labels(true_path, job.instance_labels)
        found_path = job.pred_instances.get(case)
        found, more = _read_other(true, found_path, job.instance_labels, job.resample)
        if job.labels.ignore is not None and true.same_grid(ref):
            found = np.where(ref.array == job.labels.ignore, 0, found)
        if found_path is None:
            failure = failure or _missing(true_path, "instance mask", "predict with instances, or leave them out")
        status: Status = "done" if found_path else "missing"
        more_rows, matchings = score_instances(case, true.array, found, true.spacing, job.settings, status)
        rows, warnings = rows + more_rows, warnings + more
    return rows, matchings, warnings, failure


def _read_other(ref: Volume, path: Path | None, known: LabelSet, resample: Resample) -> tuple[Array, list[Problem]]:
    """Return the prediction on the reference's grid; a missing one is an empty mask."""
    if path is None:
        return np.zeros(ref.shape, dtype=np.uint8), []
    return on_grid_of(ref, read_labels(path, known), path, resample)


def _missing(reference: Path, what: str, fix: str) -> Problem:
    return Problem(
        "error", _MISSING, str(reference), f"no {what} for it", "one for every reference", f"{fix}; scored as empty"
    )


def _without_instances(case: str, folder: str) -> Problem:
    found, fix = f"no reference instances of {case}", "its instances are not scored"
    return Problem("warning", "W-EVAL-NOREF", folder, found, "an instance mask for every reference", fix)


def _names(labels: LabelSet, ref: Array, pred: Array) -> list[tuple[int, str]]:
    if labels.names is not None:
        return list(labels.names.items())
    present = np.flatnonzero(np.bincount(ref.ravel(), minlength=1))
    present = np.union1d(present, np.flatnonzero(np.bincount(pred.ravel(), minlength=1)))
    return [(int(label), labels.name(int(label))) for label in present if label != 0]
