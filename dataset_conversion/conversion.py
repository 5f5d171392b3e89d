"""The part that all converters share: check the cases found, then write the dataset, and tell what was done."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.facts import Role
from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.cases import DatasetSpec, RawCase, check_same_grid
from nnunet_spine_ext.core.dataset import DatasetWriter, dataset_writer, refuse_existing, splits_for
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, sha256
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.discovery import Candidate
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap, from_ids
from nnunet_spine_ext.dataset_conversion.masks import ids_of, mask_on_image
from nnunet_spine_ext.dataset_conversion.report import ConversionResult, Row, names_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The dataset to write.

    Parameters
    ----------
    channel_names: nnU-Net's channel names in order.
    raw, preprocessed: nnUNet_raw and nnUNet_preprocessed.
    folds: folds of the grouped split.
    """

    dataset_id: int
    name: str
    channel_names: tuple[str, ...]
    raw: Path
    preprocessed: Path
    folds: int = 5
    overwrite: bool = False
    description: str = ""
    licence: str = ""

    def spec(self, labels: LabelMap | None, *, ignore: bool) -> DatasetSpec:
        """Return the dataset's description; without labels one that only has the right names."""
        known = labels or LabelMap({"any": 1}, {})
        return DatasetSpec(
            dataset_id=self.dataset_id,
            name=self.name,
            channel_names=dict(enumerate(self.channel_names)),
            labels=known.labels,
            scheme=known.scheme,
            sided_labels=known.sided_labels,
            ignore=ignore,
            description=self.description,
            licence=self.licence,
        )


@dataclass(frozen=True)
class Rules:
    """How strictly cases are judged.

    `resample`: None or "nearest"; `strict` makes every warning an error; `prefer`: None, or "sform" or "qform" for
    files whose two geometries disagree.
    """

    resample: str | None = None
    strict: bool = False
    prefer: Prefer | None = None


@dataclass(frozen=True)
class _Checked:
    """A usable case and the affines that `Rules.prefer` chose, by file."""

    case: Candidate
    affines: dict[Path, Array]


# The mask check says the same, after the label map and with voxel counts.
_SAID_BY_MASK_CHECK = ("E-LABEL-VALUE", "W-LABEL-EMPTY")


def nnunet_folders(raw: str | Path | None, preprocessed: str | Path | None) -> tuple[Path, Path]:
    """Return the raw and the preprocessed folder: those given, else those of nnU-Net's environment variables.

    Raises SetupError when neither says where.
    """
    chosen = []
    for value, variable, option in (
        (raw, "nnUNet_raw", "--raw"),
        (preprocessed, "nnUNet_preprocessed", "--preprocessed"),
    ):
        text = str(value) if value is not None else os.environ.get(variable, "")
        if not text:
            raise SetupError(
                "E-ENV-FOLDER",
                file=variable,
                found="the variable is not set",
                expected="nnU-Net's folder",
                fix=f"export {variable}=FOLDER, or give {option} FOLDER",
            )
        chosen.append(Path(text).expanduser())
    return chosen[0], chosen[1]


def convert(
    cases: Iterable[Candidate],
    unpaired: Iterable[Problem],
    labels: LabelMap | None,
    target: Target,
    *,
    rules: Rules,
    options: dict[str, Any],
    dry_run: bool = False,
) -> ConversionResult:
    """Check every case, then write those that are usable as a raw dataset.

    Parameters
    ----------
    cases: what was found; `unpaired`: what was found and is incomplete.
    labels: None takes the ids of the masks as they are, renumbered from 1.
    options: what goes into conversion.json as the user's wishes.

    Returns the result; without a labelled training case nothing is written and its exit code is 4.

    Raises
    ------
    UsageError: the dataset exists, its folder holds an input, or a rule of `DatasetSpec` is broken.
    NoInputError: every mask is empty.
    """
    listed = list(cases)
    ignore = any(case.label is None and not case.test for case in listed)
    result = ConversionResult(target.raw / target.spec(labels, ignore=ignore).folder_name, options, dry_run=dry_run)
    refuse_existing(target.raw, target.preprocessed, target.spec(labels, ignore=ignore), overwrite=target.overwrite)
    _refuse_own_input(listed, result.folder)
    result.skipped = list(unpaired)
    checked = _check_all(listed, labels, rules, result)
    if result.exit_code == NoInputError.exit_code:
        return result
    known = labels or from_ids({number for row in result.rows for number in row.voxels})
    if labels is None:
        result.rows = [replace(row, voxels={known.table[k]: n for k, n in row.voxels.items()}) for row in result.rows]
    result.spec = target.spec(known, ignore=ignore)
    result.notes = _notes(known, result.rows)
    if dry_run:
        result.splits = splits_for({row.case_id: _record(row) for row in result.rows}, target.folds)
    else:
        _write(checked, known, target, result.spec, rules, result)
    return result


def _refuse_own_input(cases: Iterable[Candidate], folder: Path) -> None:
    inside = next((s.path for c in cases for s in c.sources if folder.resolve() in s.path.resolve().parents), None)
    if inside is not None:
        raise UsageError(
            "E-OUT-INPUT",
            file=inside,
            found=f"an input inside the dataset {folder.name} that would be written",
            expected="inputs elsewhere",
            fix="choose another dataset id or name",
        )


def _check_all(
    cases: list[Candidate], labels: LabelMap | None, rules: Rules, result: ConversionResult
) -> list[_Checked]:
    """Open every file once; fill `rows` and `skipped`; return the usable cases."""
    from tqdm import tqdm

    usable = []
    for case in tqdm(cases, desc="checking", unit="case", disable=None):
        try:
            checked, voxels, warnings = _check(case, labels, rules)
        except Exception as error:
            # One bad case is a line in the report, never the end of the others.
            result.skipped.append(_as_problem(error, case))
            continue
        if rules.strict and warnings:
            result.skipped.append(_hardened(warnings[0]))
            continue
        result.rows.append(_row(case, voxels, warnings))
        usable.append(checked)
    _refuse_all_empty(result)
    return usable


def _check(case: Candidate, labels: LabelMap | None, rules: Rules) -> tuple[_Checked, dict[int, int], list[Problem]]:
    """Return the case, the voxels per class id (per source id without a label map) and the warnings."""
    checked, warnings = _inspect(case, rules)
    _, mask, found = _open(checked, rules)
    if mask is None:
        return checked, {}, warnings + found
    voxels = ids_of(mask.array if labels is None else labels.apply(mask.array, file=_label(case)))
    if not voxels:
        fix = "it is used as background only; leave it out if something should be there"
        found.append(Problem("warning", "W-LABEL-EMPTY", _label(case), "an empty mask", "some voxels", fix))
    return checked, voxels, warnings + found


def _inspect(case: Candidate, rules: Rules) -> tuple[_Checked, list[Problem]]:
    """Pass every file through the gatekeeper; raises CaseError for the first error."""
    from nnunet_spine_ext.check.images import inspect

    affines: dict[Path, Array] = {}
    problems: list[Problem] = []
    for source in case.sources:
        role: Role = "label" if source.role == "label" else "training"
        facts = inspect(source.path, strict=rules.strict, prefer=rules.prefer, role=role)
        problems += [problem for problem in facts.problems if problem.code not in _SAID_BY_MASK_CHECK]
        if rules.prefer is not None and facts.affine is not None:
            affines[source.path] = facts.affine
    for problem in problems:
        if problem.severity == "error":
            raise problem.to_error()
    return _Checked(case, affines), problems


def _open(checked: _Checked, rules: Rules) -> tuple[list[Volume], Volume | None, list[Problem]]:
    """Read images and mask, all on the grid of the first image."""
    case = checked.case
    volumes = [_read(source.path, checked.affines) for source in case.sources]
    images, label = volumes[: len(case.images)], volumes[len(case.images) :]
    for source, image in zip(case.images[1:], images[1:], strict=True):
        check_same_grid(images[0], image, file=str(source.path), what=source.role)
    if not label:
        return images, None, []
    mask, warnings = mask_on_image(label[0], images[0], file=_label(case), resample=rules.resample)
    return images, mask, warnings


def _read(path: Path, affines: dict[Path, Array]) -> Volume:
    volume = read_volume(path)
    return Volume(volume.array, affines[path]) if path in affines else volume


def _as_problem(error: Exception, case: Candidate) -> Problem:
    if isinstance(error, SpineExtError):
        return error.problem()
    _log.debug("%s", case.case_id, exc_info=error)
    found = f"an unexpected error ({type(error).__name__}: {error})"
    return Problem("error", "E-CASE-INTERNAL", str(case.images[0].path), found, "a usable case", "see -v, report it")


def _hardened(warning: Problem) -> Problem:
    return Problem("error", warning.code, warning.file, warning.found, warning.expected, f"{warning.fix} (--strict)")


def _label(case: Candidate) -> str:
    return str(case.label.path) if case.label is not None else case.case_id


def _row(case: Candidate, voxels: dict[int, int], warnings: list[Problem]) -> Row:
    kind = "train only" if case.train_only and case.label is not None else "train"
    if case.label is None:
        kind = "unlabelled"
    if case.test:
        kind = "test"
    return Row(case.case_id, case.subject, kind, {s.role: s.name for s in case.sources}, voxels, tuple(warnings))


def _record(row: Row) -> dict[str, Any]:
    return {
        "subject": row.subject,
        "labelled": row.kind != "unlabelled",
        "test": row.kind == "test",
        "train_only": row.kind == "train only",
    }


def _refuse_all_empty(result: ConversionResult) -> None:
    labelled = [row for row in result.rows if row.kind in ("train", "train only")]
    if labelled and not any(row.voxels for row in labelled):
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


def _write(
    cases: list[_Checked],
    labels: LabelMap,
    target: Target,
    spec: DatasetSpec,
    rules: Rules,
    result: ConversionResult,
) -> None:
    from tqdm import tqdm

    with dataset_writer(
        target.raw, spec, folds=target.folds, preprocessed_root=target.preprocessed, overwrite=target.overwrite
    ) as writer:
        for case in tqdm(cases, desc="writing", unit="case", disable=None):
            _add(writer, case, labels, rules, result)
        writer.add_json("conversion.json", result.record())
    result.written = True
    result.planned = (target.preprocessed / spec.folder_name / "dataset_fingerprint.json").exists()
    result.splits = writer.splits


def _add(writer: DatasetWriter, checked: _Checked, labels: LabelMap, rules: Rules, result: ConversionResult) -> None:
    try:
        raw = _raw_case(checked, labels, rules)
    except (CaseError, OSError) as error:
        # The file changed or vanished since it was checked.
        result.skipped.append(_as_problem(error, checked.case))
        result.rows = [row for row in result.rows if row.case_id != checked.case.case_id]
        return
    writer.add(raw)


def _raw_case(checked: _Checked, labels: LabelMap, rules: Rules) -> RawCase:
    case = checked.case
    images, mask, _ = _open(checked, rules)
    label = None if mask is None else mask.with_array(labels.apply(mask.array, file=_label(case)))
    return RawCase(
        case_id=case.case_id,
        subject=case.subject,
        images=images,
        label=label,
        info=case.info,
        sources=[{"role": s.role, "file": s.name, "sha256": sha256(s.path)} for s in case.sources],
        test=case.test,
        train_only=case.train_only,
    )
