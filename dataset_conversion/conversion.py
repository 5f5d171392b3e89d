"""The part that all converters share: each case is opened once, checked, built and written before the next.

What is finished stays finished when the process is killed: see `core.partial` for the folder and the journal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.facts import Role
from nnunet_spine_ext.check.opening import Opened, open_image
from nnunet_spine_ext.core.cases import DatasetSpec, RawCase, check_case
from nnunet_spine_ext.core.dataset import (
    dataset_writer,
    finish_published,
    refuse_existing,
    refuse_test_leak,
    splits_for,
)
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, SpineExtError, UsageError
from nnunet_spine_ext.core.io import FileStamp
from nnunet_spine_ext.dataset_conversion.building import Builder, Built, pair_builder
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, refuse_same_ids
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap, from_ids
from nnunet_spine_ext.dataset_conversion.masks import ids_of
from nnunet_spine_ext.dataset_conversion.report import REPORT_FILE, ConversionResult, Row, names_of
from nnunet_spine_ext.dataset_conversion.target import Rules, Target, nnunet_folders

__all__ = ["Builder", "Built", "Rules", "Target", "convert", "nnunet_folders"]

_log = logging.getLogger(__name__)

# The engine says it after the label map, with voxel counts.
_SAID_LATER = ("W-LABEL-EMPTY",)
# Builders of soft labels judge values of masks themselves: fractions are no fault there.
_SOFT_ROLE = "soft"
_SAID_BY_SOFT = ("W-LABEL-EMPTY", "E-LABEL-VALUE")
# So does the builder of `pairs`.
_SAID_BY_PAIRS = (*_SAID_LATER, "E-LABEL-VALUE")


@dataclass(frozen=True)
class _Job:
    """What `convert` was asked for, settled."""

    cases: list[Candidate]
    labels: LabelMap | None
    target: Target
    ignore: bool
    rules: Rules
    build: Builder
    silenced: tuple[str, ...]

    @property
    def spec(self) -> DatasetSpec:
        return self.target.spec(self.labels, ignore=self.ignore)

    def identity(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what two runs have in common when one may continue the other."""
        from nnunet_spine_ext import __version__

        dataset = {"folds": self.target.folds, **self.spec.dataset_json(0)}
        cases = {case.case_id: _digest(case) for case in self.cases}
        return {"version": __version__, "options": dict(options), "dataset": dataset, "cases": cases}


# What is done with a case that was built: the files it came from, and its row of the report.
_Add = Callable[[RawCase, Sequence[FileStamp], Row], None]


def convert(
    cases: Iterable[Candidate],
    unpaired: Iterable[Problem],
    labels: LabelMap | None,
    target: Target,
    *,
    rules: Rules,
    options: dict[str, Any],
    build: Builder | None = None,
    notes: Sequence[str] = (),
    dry_run: bool = False,
    resume: bool = False,
) -> ConversionResult:
    """Open every case once and write those that are usable as a raw dataset.

    Parameters
    ----------
    cases: what was found; `unpaired`: what was found and is incomplete.
    labels: None takes the ids of the masks as they are, renumbered from 1. With `build` they only describe the
        classes: the builder makes masks that have them.
    options: what goes into conversion.json as the user's wishes.
    build: makes a case of its opened files; None: images as they are, the mask on their grid, `labels` applied.
    notes: what the report should say about the source as a whole.
    dry_run: open, check and build every case, write nothing.
    resume: continue a run with the same options and cases that was ended early.

    Returns the result; without a labelled training case nothing is written and its exit code is 4.

    Raises
    ------
    UsageError: the dataset exists, its folder holds an input, or a rule of `DatasetSpec` is broken.
    SetupError: another process is writing this dataset.
    NoInputError: every mask is empty.
    """
    started = time.monotonic()
    listed = list(cases)
    ignore = target.ignore or any(case.label is None and not case.test and not case.extras for case in listed)
    builder = build or pair_builder(labels, rules.resample)
    job = _Job(listed, labels, target, ignore, rules, builder, _SAID_LATER if build else _SAID_BY_PAIRS)
    result = ConversionResult(target.raw / job.spec.folder_name, options, dry_run=dry_run, roots=_roots(listed))
    _refuse_wrong_cases(listed, result.folder)
    identity = job.identity(options)
    if resume and not dry_run and finish_published(target.raw, job.spec, target.preprocessed, identity):
        result.recall(job.spec)
        result.planned = _is_planned(target, result.folder)
        result.total_seconds = time.monotonic() - started
        return result
    refuse_existing(target.raw, target.preprocessed, job.spec, overwrite=target.overwrite)
    result.skipped, result.notes = list(unpaired), list(notes)
    if dry_run:
        _try_out(job, result)
    else:
        _write(job, result, identity, resume=resume)
    result.total_seconds = time.monotonic() - started
    return result


def _roots(cases: list[Candidate]) -> frozenset[str]:
    """Return the folders below which the names of the sources lie."""
    both = {(source.path.as_posix(), f"/{source.name}") for case in cases for source in case.sources}
    return frozenset(path.removesuffix(name) for path, name in both if path.endswith(name) and path != name)


def _refuse_wrong_cases(cases: list[Candidate], folder: Path) -> None:
    """Raise UsageError for what is wrong with the list of cases, before any of them is opened."""
    refuse_same_ids(cases)
    refuse_test_leak({case.case_id: {"subject": case.subject, "test": case.test} for case in cases}, folder)
    inside = next((s.path for c in cases for s in c.sources if folder.resolve() in s.path.resolve().parents), None)
    if inside is not None:
        raise UsageError(
            "E-OUT-INPUT",
            file=inside,
            found=f"an input inside the dataset {folder.name} that would be written",
            expected="inputs elsewhere",
            fix="choose another dataset id or name",
        )


def _digest(case: Candidate) -> str:
    files = [(source.role, str(source.path.absolute()), source.name) for source in case.sources]
    facts = [case.case_id, case.subject, files, case.info, case.test, case.train_only]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _try_out(job: _Job, result: ConversionResult) -> None:
    """Do all but write."""

    def check(raw: RawCase, _stamps: Sequence[FileStamp], _row: Row) -> None:
        check_case(raw, job.spec, ids_known=job.labels is not None)

    _process(job, {}, check, result)
    if result.exit_code != NoInputError.exit_code:
        _settle(job, result)
        records = {
            row.case_id: {
                "subject": row.subject,
                "labelled": row.kind != "unlabelled",
                "test": row.kind == "test",
                "train_only": row.kind == "train only",
            }
            for row in result.rows
        }
        result.splits = splits_for(records, job.target.folds)


class _NothingUsableError(NoInputError):
    """No labelled training case: the result says why."""


def _write(job: _Job, result: ConversionResult, identity: dict[str, Any], *, resume: bool) -> None:
    target, known = job.target, job.labels is not None
    try:
        with dataset_writer(
            target.raw, job.spec, folds=target.folds, preprocessed_root=target.preprocessed,
            overwrite=target.overwrite, identity=identity, resume=resume, ids_known=known,
        ) as writer:  # fmt: skip

            def add(raw: RawCase, stamps: Sequence[FileStamp], row: Row) -> None:
                writer.add(raw, stamps=stamps, extra=row.to_dict())

            _process(job, {case: entry["extra"] for case, entry in writer.finished.items()}, add, result)
            if result.exit_code == NoInputError.exit_code:
                raise _NothingUsableError("E-DATASET-EMPTY", found="no labelled case", expected="one", fix="see above")
            labels = _settle(job, result)
            if not known:
                writer.settle(target.spec(labels, ignore=job.ignore), lambda a: labels.apply(a, file=result.folder))
            writer.add_json(REPORT_FILE, result.record())
    except _NothingUsableError:
        return
    result.written = True
    result.planned = _is_planned(target, result.folder)
    result.splits = writer.splits


def _is_planned(target: Target, folder: Path) -> bool:
    return (target.preprocessed / folder.name / "dataset_fingerprint.json").exists()


def _settle(job: _Job, result: ConversionResult) -> LabelMap:
    """Fill in what is known when all cases were seen: the classes and notes about them."""
    _refuse_all_empty(job, result)
    labels = job.labels
    if labels is None:
        labels = from_ids({number for row in result.rows for number in row.voxels})
        table = labels.table
        result.rows = [replace(row, voxels={table[k]: n for k, n in row.voxels.items()}) for row in result.rows]
    result.spec = job.target.spec(labels, ignore=job.ignore)
    result.notes += _notes(labels, result.rows)
    return labels


def _process(job: _Job, finished: Mapping[str, Mapping[str, Any]], add: _Add, result: ConversionResult) -> None:
    """Fill `rows`, `skipped` and `seconds`, one case after the other; `finished` are rows of an earlier run."""
    from tqdm import tqdm

    for case in tqdm(job.cases, desc="converting", unit="case", disable=None):
        if case.case_id in finished:
            result.rows.append(Row.from_dict(finished[case.case_id]))
            result.resumed += 1
            continue
        started = time.monotonic()
        outcome = _one(job, case, add)
        result.seconds[case.case_id] = time.monotonic() - started
        if isinstance(outcome, Row):
            result.rows.append(outcome)
        else:
            result.skipped.append(outcome)


def _one(job: _Job, case: Candidate, add: _Add) -> Row | Problem:
    """Open, build and add one case; return its row, or why it is left out."""
    try:
        raw, stamps, row = _make(job, case)
    except Exception as error:
        # One bad case is a line in the report, never the end of the others.
        return _as_problem(error, case)
    if job.rules.strict and row.warnings:
        return _hardened(row.warnings[0])
    try:
        add(raw, stamps, row)
    except CaseError as error:
        return error.problem()
    return row


def _make(job: _Job, case: Candidate) -> tuple[RawCase, list[FileStamp], Row]:
    opened: dict[str, Opened] = {}
    warnings: list[Problem] = []
    for source in case.sources:
        opened[source.role], said = _open(job, source.role, source.path)
        warnings += said
    if len(opened) < len(case.sources):
        msg = f"two files of one role: {[source.role for source in case.sources]}"
        raise ValueError(msg)
    stamps = [stamp for one in opened.values() for stamp in one.stamps]
    built = job.build(case, opened)
    voxels = {} if built.label is None else ids_of(built.label.array)
    warnings += built.warnings
    if built.label is not None and not set(voxels) - {job.spec.ignore_id if job.labels is not None else None}:
        fix = "it is used as background only; leave it out if something should be there"
        warnings.append(Problem("warning", "W-LABEL-EMPTY", _label(case), "an empty mask", "some voxels", fix))
    raw = RawCase(
        case_id=case.case_id,
        subject=case.subject,
        images=built.images,
        label=built.label,
        instances=built.instances,
        soft=built.soft,
        info=case.info | built.info,
        sources=_sources(case, opened),
        test=case.test,
        train_only=case.train_only,
    )
    return raw, stamps, _row(case, raw, voxels, warnings)


def _open(job: _Job, role: str, path: Path) -> tuple[Opened, list[Problem]]:
    """Open one file; raises CaseError for its first error, returns its warnings."""
    is_image = role.startswith(("image", "chunk"))
    kind: Role = "training" if is_image else "label"
    opened = open_image(path, role=kind, strict=job.rules.strict, prefer=job.rules.prefer)
    silenced = job.silenced if role == "label" else _SAID_BY_SOFT if role.startswith(_SOFT_ROLE) else ()
    problems = [problem for problem in opened.facts.problems if problem.code not in silenced]
    for problem in problems:
        if problem.severity == "error":
            raise problem.to_error()
    return opened, problems


def _sources(case: Candidate, opened: Mapping[str, Opened]) -> list[dict[str, str]]:
    """What cases.json says about the files; a data file beside its header comes behind it."""
    rows = []
    for source in case.sources:
        one = opened[source.role]
        rows.append({"role": source.role, "file": source.name, "sha256": one.sha256})
        for stamp in one.stamps:
            if stamp.path != source.path:
                name = Path(source.name).with_name(stamp.path.name).as_posix()
                rows.append({"role": f"{source.role}-data", "file": name, "sha256": stamp.sha256})
    return rows


def _as_problem(error: Exception, case: Candidate) -> Problem:
    if isinstance(error, SpineExtError):
        return error.problem()
    _log.debug("%s", case.case_id, exc_info=error)
    file = str(case.sources[0].path) if case.sources else case.case_id
    found = f"an unexpected error ({type(error).__name__}: {error})"
    return Problem("error", "E-CASE-INTERNAL", file, found, "a usable case", "see -v, report it")


def _hardened(warning: Problem) -> Problem:
    return Problem("error", warning.code, warning.file, warning.found, warning.expected, f"{warning.fix} (--strict)")


def _label(case: Candidate) -> str:
    return str(case.label.path) if case.label is not None else case.case_id


def _row(case: Candidate, raw: RawCase, voxels: dict[int, int], warnings: list[Problem]) -> Row:
    kind = "train only" if case.train_only else "train"
    if raw.label is None:
        kind = "unlabelled"
    if case.test:
        kind = "test"
    return Row(case.case_id, case.subject, kind, {s.role: s.name for s in case.sources}, voxels, tuple(warnings))


def _refuse_all_empty(job: _Job, result: ConversionResult) -> None:
    labelled = [row for row in result.rows if row.kind in ("train", "train only")]
    nothing = {job.spec.ignore_id} if job.labels is not None else set()
    if labelled and not any(set(row.voxels) - nothing for row in labelled):
        raise NoInputError(
            "E-LABEL-EMPTY",
            file=result.folder,
            found=f"only empty masks ({names_of(labelled)})",
            expected="voxels of at least one class",
            fix="check the masks and the label map",
        )


def _notes(labels: LabelMap, rows: list[Row]) -> list[str]:
    notes = [f"the label map loses something: {text}" for text in labels.lost]
    if labels.sided_labels:
        names = {number: name for name, number in labels.labels.items()}
        pairs = ", ".join(f"{names[left]} / {names[right]}" for left, right in labels.sided_labels)
        notes.append(f"left / right classes: {pairs}")
    seen = {number for row in rows for number in row.voxels}
    absent = [name for name, number in labels.labels.items() if number not in seen]
    return [*notes, f"classes without a voxel in any mask: {', '.join(absent)}"] if absent else notes
