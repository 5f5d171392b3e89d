"""One case from its files to its rows."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.cases import LabelSet, Resample, on_grid_of, read_labels
from nnunet_spine_ext.evaluate.matching import Matching
from nnunet_spine_ext.evaluate.parallel import each_case
from nnunet_spine_ext.evaluate.prepare import Job
from nnunet_spine_ext.evaluate.result import MISSING
from nnunet_spine_ext.evaluate.scoring import Score, Status, score_classes, score_instances
from nnunet_spine_ext.evaluate.structures import Structure

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one case.

    `failure` is set for a missing prediction (rows are those of an empty one) and for a case that could not be scored
    (no rows); `details` is the traceback of an error that nobody expected.
    """

    rows: list[Score] = field(default_factory=list)
    matchings: dict[str, Matching] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    failure: Problem | None = None
    details: str = ""


def outcomes(cases: Sequence[str], job: Job, jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome of every case in the given order, from `jobs` processes.

    Raises
    ------
    SetupError: a process died, probably for want of memory.
    """
    for case, outcome in each_case(cases, _guarded, job, jobs):
        if outcome.details:
            logger.error("%s: unexpected error\n%s", case, outcome.details)
        yield case, outcome


def _guarded(case: str, job: Job) -> Outcome:
    """Score one case; whatever goes wrong is its outcome."""
    try:
        return score_case(case, job)
    except CaseError as error:
        return Outcome(failure=error.problem())
    except Exception as error:
        problem = Problem.unexpected(error, job.refs.files.get(case, case), "scores")
        return Outcome(failure=problem, details=traceback.format_exc())


def score_case(case: str, job: Job) -> Outcome:
    """Read and score one case; raises CaseError for what cannot be compared."""
    ref_path, pred_path = job.refs.get(case), job.preds.get(case)
    if ref_path is None:
        msg = f"case {case!r} is not among the references"
        raise KeyError(msg)
    ref = read_labels(ref_path, job.labels)
    pred, warnings = _read_other(ref, pred_path, job.pred_labels or job.labels, job.resample)
    outcome = Outcome(warnings=warnings)
    if pred_path is None:
        outcome.failure = _missing(ref_path, "prediction", "predict the case, or remove its reference")
    pred = _without_ignored(ref, pred, ref, job.labels)
    true = _true_instances(case, job, outcome)
    regions = _for_regions(case, job, ref, true, outcome) if job.settings.regions else None
    status: Status = "missing" if outcome.failure else "done"
    structures = job.structures or _of_labels(job.labels, ref.array, pred)
    outcome.rows += score_classes(case, ref.array, pred, structures, ref.spacing, job.settings, status, regions)
    if true is not None and job.pred_instances is not None:
        _score_instances(case, job, ref, true, outcome)
    return outcome


def _true_instances(case: str, job: Job, outcome: Outcome) -> Volume | None:
    path = job.ref_instances.get(case)
    if path is not None:
        return read_labels(path, job.instance_labels)
    if job.pred_instances is not None or job.settings.regions:
        outcome.warnings.append(_without_instances(case, job.ref_instances.folder or ""))
    return None


def _for_regions(case: str, job: Job, ref: Volume, true: Volume | None, outcome: Outcome) -> Array | None:
    """Return the instances that say which region is where; None, with a warning, when they cannot."""
    if true is None:
        return None
    if case in job.unplaced:
        found, fix = "instances counted from the top, not numbered", "it is not scored by region"
        expected = "numbers that say which vertebra it is"
    elif not ref.same_grid(true):
        found, fix = "instances on another grid than the mask", "its classes are not scored by region"
        expected = "one grid for both"
    else:
        return true.array
    path = str(job.ref_instances.get(case))
    outcome.warnings.append(Problem("warning", "W-EVAL-NOREGION", path, found, expected, fix))
    return None


def _score_instances(case: str, job: Job, ref: Volume, true: Volume, outcome: Outcome) -> None:
    if job.pred_instances is None:
        return
    path = job.pred_instances.get(case)
    found, warnings = _read_other(true, path, job.instance_labels, job.resample)
    found = _without_ignored(true, found, ref, job.labels)
    if path is None:
        where = Path(str(job.ref_instances.get(case)))
        missing = _missing(where, "instance mask", "predict with instances, or leave them out")
        outcome.failure = outcome.failure or missing
    status: Status = "done" if path else "missing"
    numbered = case not in job.counted | job.unplaced
    settings = replace(job.settings, regions=False) if case in job.unplaced else job.settings
    rows, outcome.matchings = score_instances(
        case, true.array, found, true.spacing, settings, status, numbered=numbered
    )
    outcome.rows += rows
    outcome.warnings += warnings


def _without_ignored(own: Volume, found: Array, ref: Volume, labels: LabelSet) -> Array:
    """Empty the prediction where the reference's label says that it is not scored, if both are on one grid."""
    if labels.ignore is None or not own.same_grid(ref):
        return found
    return np.where(ref.array == labels.ignore, 0, found)


def _read_other(ref: Volume, path: Path | None, known: LabelSet, resample: Resample) -> tuple[Array, list[Problem]]:
    """Return the prediction on the reference's grid; a missing one is an empty mask."""
    if path is None:
        return np.zeros(ref.shape, dtype=np.uint8), []
    return on_grid_of(ref, read_labels(path, known), path, resample)


def _missing(reference: Path, what: str, fix: str) -> Problem:
    return Problem(
        "error", MISSING, str(reference), f"no {what} for it", "one for every reference", f"{fix}; scored as empty"
    )


def _without_instances(case: str, folder: str) -> Problem:
    found, fix = f"no reference instances of {case}", "its instances are not scored"
    return Problem("warning", "W-EVAL-NOREF", folder, found, "an instance mask for every reference", fix)


def _of_labels(labels: LabelSet, ref: Array, pred: Array) -> list[Structure]:
    """Return one structure per label: those that have names, else those that are there."""
    if labels.names is not None:
        return [Structure.of_label(label, name) for label, name in labels.names.items()]
    present = np.flatnonzero(np.bincount(ref.ravel(), minlength=1))
    present = np.union1d(present, np.flatnonzero(np.bincount(pred.ravel(), minlength=1)))
    return [Structure.of_label(int(label), labels.name(int(label))) for label in present if label != 0]
