"""Compare a folder of predictions with a folder of references."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.evaluate.cases import Resample
from nnunet_spine_ext.evaluate.cohort import Cohort, check_keys, read_cohort, subject_warnings
from nnunet_spine_ext.evaluate.cord.analysis import DEFAULT_DDOF, DEFAULT_MARGIN_MM2
from nnunet_spine_ext.evaluate.cord.evaluation import CordEvaluation, evaluate_areas
from nnunet_spine_ext.evaluate.cord.options import AreaOptions, Maps, refuse_mixture
from nnunet_spine_ext.evaluate.latex import Spread
from nnunet_spine_ext.evaluate.matching import DEFAULT_IOU_THRESHOLD
from nnunet_spine_ext.evaluate.paired import Correction
from nnunet_spine_ext.evaluate.pairs import DEFAULT_TOLERANCE_MM
from nnunet_spine_ext.evaluate.prepare import Job, Options, find_files, make_settings, prepare_output, writing
from nnunet_spine_ext.evaluate.registry import DEFAULT_METRICS
from nnunet_spine_ext.evaluate.result import EvaluationResult
from nnunet_spine_ext.evaluate.scoring import InstanceIds, Rule
from nnunet_spine_ext.evaluate.statistic import DEFAULT_RESAMPLES, DEFAULT_SEED, Resampling
from nnunet_spine_ext.evaluate.structures import LABELS
from nnunet_spine_ext.evaluate.work import outcomes

__all__ = ["CordEvaluation", "EvaluationResult", "evaluate"]


def evaluate(
    ref: str | Path,
    pred: str | Path,
    o: str | Path,
    *,
    labels: str | Path | None = None,
    scheme: str | None = None,
    structures: str | Path = LABELS,
    pred_labels: str | Path | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    ref_instances: str | Path | None = None,
    pred_instances: str | Path | None = None,
    instance_ids: InstanceIds = "spineps",
    matching: Rule = "iou",
    regions: bool = False,
    missing_distance: float | None = None,
    resample: Resample = None,
    nsd_tolerance: float = DEFAULT_TOLERANCE_MM,
    iou_threshold: float = DEFAULT_IOU_THRESHOLD,
    cases: str | Path | None = None,
    by: Sequence[str] = (),
    bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
    latex: Spread | None = None,
    jobs: int = 1,
    csa: bool = False,
    cord: str | None = None,
    maps: Maps = "auto",
    mode: str = "sct",
    level_range: Sequence[str] = (),
    levels: str | Path | None = None,
    discs: str | Path | None = None,
    contrast: str = "contrast",
    ddof: int = DEFAULT_DDOF,
    margin: float = DEFAULT_MARGIN_MM2,
    correction: Correction = "holm",
) -> EvaluationResult | CordEvaluation:
    """Compare every reference with the prediction of the same case name; write metrics.csv, summary.md, summary.json.

    Tables of an earlier run in `o` are removed first; summary.json is written last. With `csa` areas of the cord are
    compared instead (see `evaluate_areas`).

    Parameters
    ----------
    ref, pred: folders of masks (or one file each); o: folder for the tables.
    labels: dataset.json or {name: id} file; scheme: name of a label scheme; None: dataset.json beside the masks.
    structures: ``labels`` (each is scored); instead of them ``spineps`` (vertebra, disc, canal, cord, parts of
        vertebrae with left and right together) or a JSON file {name: [ids or label names]}.
    pred_labels: scheme or file of the predictions' labels where they differ from the references'; needs `structures`.
    metrics: names from the registry, or ``default`` and ``all``.
    ref_instances, pred_instances: folders of instance masks; None: `instancesTr` beside `labelsTr`, and `instances`
        inside the folder of references or predictions, where they exist.
    instance_ids: ``spineps`` (kinds are told apart by id) or ``any`` (all instances are of one kind).
    matching: ``iou`` (one to one, from `iou_threshold` on) or ``overlap`` (largest overlap, as SPIDER's evaluation).
    regions: score the cervical, thoracic, lumbar and sacral part too.
    missing_distance: mm that an instance which is not identified counts in the localisation distance.
    resample: ``nearest`` brings predictions from other grids onto the reference's; None refuses them.
    nsd_tolerance: mm; iou_threshold: smallest IoU of a match, in (0, 1].
    cases: cases.json with subjects and facts; None: the one beside the references or in the folder above them; by:
        facts in it (``manufacturer``) to give means for.
    bootstrap: resamples of the subjects for the intervals; 0: none. seed: of the resampling.
    latex: ``mean`` or ``median``: write summary.tex too; jobs: processes.
    csa: compare cross-sectional areas; `ref` may then be soft maps, or a table of areas (.csv, .tsv).
    cord, maps, mode, level_range, levels, discs, contrast, ddof, margin, correction: see `AreaOptions`.

    Raises
    ------
    UsageError: wrong options, only instance metrics without instance masks, or `o` is one of the inputs.
    NoInputError: no reference mask. SetupError: `o` cannot be written, or a process died.
    """
    given = dict(locals())
    ref, pred, o = (Path(given.pop(name)) for name in ("ref", "pred", "o"))
    refuse_mixture(given, {name: row.default for name, row in inspect.signature(evaluate).parameters.items()})
    if given.pop("csa"):
        shared = {name: given[name] for name in ("labels", "scheme", "latex")}
        areas: dict[str, Any] = {one.name: given.get(one.name) for one in fields(AreaOptions)} | {
            "instances": ref_instances
        }
        return evaluate_areas(ref, pred, o, AreaOptions(**areas), **shared)
    return _run(ref, pred, o, Options(**{one.name: given[one.name] for one in fields(Options)}))


def _run(ref: Path, pred: Path, out: Path, options: Options) -> EvaluationResult:
    settings, remarks = make_settings(options)
    job = find_files(ref, pred, options, settings)
    folder = ref if ref.is_dir() else ref.parent
    cohort = read_cohort(job.refs.cases, options.cases, (folder, folder.parent))
    check_keys(cohort, options.by)
    prepare_output(out, (ref, pred))
    result = EvaluationResult(
        out,
        _inputs(ref, pred, job, cohort),
        options.record() | job.record() | {"instances": job.pred_instances is not None},
        remarks=[*remarks, *job.remarks],
        cohort=cohort,
        resampling=Resampling(cohort.subject_of, options.bootstrap, options.seed),
        by=tuple(options.by),
    )
    _warn(job, cohort, result)
    _score_all(job, options.jobs, result)
    with writing(out):
        result.write(options.latex)
    return result


def _inputs(ref: Path, pred: Path, job: Job, cohort: Cohort) -> dict[str, str | None]:
    return {
        "ref": str(ref),
        "pred": str(pred),
        "labels": job.labels.source,
        "ref_instances": job.ref_instances.folder,
        "pred_instances": job.pred_instances.folder if job.pred_instances else None,
        "cases": cohort.source,
    }


def _warn(job: Job, cohort: Cohort, result: EvaluationResult) -> None:
    """Tell of predictions without a reference, and of cases whose subject is not known."""
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
    for case, problem in subject_warnings(cohort).items():
        result.summary.warn(case, problem)


def _score_all(job: Job, jobs: int, result: EvaluationResult) -> None:
    from tqdm import tqdm

    cases = job.refs.cases
    for case, outcome in tqdm(outcomes(cases, job, jobs), total=len(cases), desc="evaluate", unit="case", disable=None):
        result.rows += outcome.rows
        result.summary.warn(case, *outcome.warnings)
        if outcome.matchings:
            result.matchings[case] = outcome.matchings
        if outcome.failure is None:
            result.summary.done.append(case)
        else:
            result.summary.fail(case, outcome.failure)
