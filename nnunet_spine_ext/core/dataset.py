"""Writing an nnU-Net raw dataset, wholly or not at all.

The dataset grows in a hidden folder beside its final place and is renamed when it is complete. `cases.json` and
`splits_final.json` also go to the preprocessed folder, the only place where nnU-Net reads splits.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.cases import FILE_ENDING, DatasetSpec, RawCase, check_case
from nnunet_spine_ext.core.errors import NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import umask, write_json, write_volume
from nnunet_spine_ext.core.splits import MIN_SUBJECTS, Split, grouped_splits, shorten, split_faults
from nnunet_spine_ext.core.volume import Volume

__all__ = [
    "CASES_FILE",
    "SPLITS_FILE",
    "DatasetSpec",
    "DatasetWriter",
    "RawCase",
    "dataset_writer",
    "grouped_splits",
    "refuse_existing",
    "splits_for",
    "write_raw_dataset",
]

CASES_FILE = "cases.json"
SPLITS_FILE = "splits_final.json"
CASES_VERSION = 1

_log = logging.getLogger(__name__)

logger = logging.getLogger(__name__)


def write_raw_dataset(
    raw_root: str | Path,
    spec: DatasetSpec,
    cases: Iterable[RawCase],
    *,
    folds: int = 5,
    preprocessed_root: str | Path | None = None,
    splits: Sequence[Split] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a raw dataset and return its folder ``raw_root/Dataset<id>_<name>``.

    Cases are taken one by one, so a generator needs memory for one case only. See `dataset_writer` for the parameters
    and what is raised; an exception from the iterable leaves nothing behind.
    """
    with dataset_writer(
        raw_root, spec, folds=folds, preprocessed_root=preprocessed_root, splits=splits, overwrite=overwrite
    ) as writer:
        for case in cases:
            writer.add(case)
    return writer.folder


@contextmanager
def dataset_writer(
    raw_root: str | Path,
    spec: DatasetSpec,
    *,
    folds: int = 5,
    preprocessed_root: str | Path | None = None,
    splits: Sequence[Split] | None = None,
    overwrite: bool = False,
) -> Iterator[DatasetWriter]:
    """Yield a `DatasetWriter`; the dataset appears under its final name when the block ends without an exception.

    Parameters
    ----------
    folds: folds of the grouped split; with fewer than two labelled subjects there is no split file.
    preprocessed_root: nnUNet_preprocessed; None leaves the copy for nnU-Net out.
    splits: use these instead of grouped ones; a leaking subject or an unknown case is refused.
    overwrite: replace a dataset of the same id and name.

    Raises
    ------
    UsageError: the dataset id or a case id is taken, a subject is in training and test, the splits are wrong.
    CaseError: a case does not fit.
    SpineExtError: a file cannot be written (disk full).
    NoInputError: no training case was added.
    """
    raw_root = Path(raw_root)
    preprocessed = None if preprocessed_root is None else Path(preprocessed_root)
    refuse_existing(raw_root, preprocessed, spec, overwrite=overwrite)
    if preprocessed is not None:
        _make_writable(preprocessed)
    hidden = _hidden_sibling(raw_root, spec.folder_name)
    try:
        writer = DatasetWriter(hidden, raw_root / spec.folder_name, spec)
        yield writer
        writer.finish(folds, splits)
        _publish(hidden, writer.folder, overwrite=overwrite)
    finally:
        # After publishing there is nothing left here to remove.
        shutil.rmtree(hidden, ignore_errors=True)
    if preprocessed is not None:
        _write_tables(preprocessed / spec.folder_name, writer.records, writer.splits)
        if (preprocessed / spec.folder_name / "dataset_fingerprint.json").exists():
            logger.warning(
                "%s: plans and data of the dataset that was replaced are still there; plan again with "
                "nnUNetv2_plan_and_preprocess -d %d --clean",
                preprocessed / spec.folder_name,
                spec.dataset_id,
            )


class DatasetWriter:
    """Writes cases into a folder that is not yet visible under its final name; made by `dataset_writer`.

    `folder` is the final place, `records` the entries of cases.json so far; `splits` is known after `finish`, None if
    there are none.
    """

    def __init__(self, hidden: Path, folder: Path, spec: DatasetSpec) -> None:
        self.folder = folder
        self.spec = spec
        self.records: dict[str, dict[str, Any]] = {}
        self.splits: list[Split] | None = None
        self._hidden = hidden
        self._seen: dict[str, str] = {}
        for name in ("imagesTr", "labelsTr"):
            (hidden / name).mkdir()

    def add(self, case: RawCase) -> None:
        """Check a case and write its files.

        Raises CaseError, before anything is written, if the case does not fit, UsageError if its id is taken.
        """
        twin = self._seen.get(case.case_id.lower())
        if twin is not None:
            raise UsageError(
                "E-CASE-TWICE",
                file=case.case_id,
                found=f"the case ids {twin!r} and {case.case_id!r}",
                expected="ids that differ in more than letter case",
                fix="give the cases different ids",
            )
        check_case(case, self.spec)
        self._seen[case.case_id.lower()] = case.case_id
        kind = "Ts" if case.test else "Tr"
        grid = case.images[0]
        for channel, image in enumerate(case.images):
            name = f"{case.case_id}_{channel:04d}{FILE_ENDING}"
            self._write(Volume(image.array, grid.affine), f"images{kind}", name)
        mask = self._mask_of(case)
        if mask is not None:
            self._write(mask, f"labels{kind}", f"{case.case_id}{FILE_ENDING}")
        if case.instances is not None:
            instances = Volume(case.instances.array.astype(np.uint16), grid.affine)
            self._write(instances, f"instances{kind}", f"{case.case_id}{FILE_ENDING}")
        self.records[case.case_id] = case.record()

    def add_json(self, name: str, content: Any) -> None:
        """Write a JSON file beside dataset.json."""
        write_json(self._hidden / name, content)

    def finish(self, folds: int, splits: Sequence[Split] | None) -> None:
        """Write dataset.json, cases.json and the splits; raises UsageError or NoInputError as `dataset_writer` says."""
        training = {case: row for case, row in self.records.items() if not row.get("test")}
        if not any(row["labelled"] for row in training.values()):
            raise NoInputError(
                "E-DATASET-EMPTY",
                file=self.folder,
                found="no labelled training case",
                expected="at least one",
                fix="look at the reasons given for the cases that were skipped",
            )
        _refuse_test_leak(self.records, self.folder)
        self.splits = (
            splits_for(self.records, folds) if splits is None else _checked_splits(splits, training, self.folder)
        )
        write_json(self._hidden / "dataset.json", self.spec.dataset_json(len(training)))
        _write_tables(self._hidden, self.records, self.splits)

    def _mask_of(self, case: RawCase) -> Volume | None:
        grid = case.images[0]
        if case.label is not None:
            return Volume(case.label.array.astype(self.spec.mask_dtype), grid.affine)
        if case.test:
            return None
        # `check_case` made sure that unlabelled training cases only exist where ignore is declared.
        return Volume(np.full(grid.shape, self.spec.ignore_id, dtype=self.spec.mask_dtype), grid.affine)

    def _write(self, volume: Volume, folder: str, name: str) -> None:
        target = self._hidden / folder / name
        try:
            target.parent.mkdir(exist_ok=True)
            write_volume(volume, target)
        except OSError as error:
            raise SpineExtError(
                "E-OUT-WRITE",
                file=self.folder / folder / name,
                found=f"cannot be written ({error.strerror or error})",
                expected="room on the disk and the right to write",
                fix="free space or change the permissions; nothing of the dataset was left behind",
            ) from error


def refuse_existing(raw_root: Path, preprocessed_root: Path | None, spec: DatasetSpec, *, overwrite: bool) -> None:
    """Raise UsageError when the dataset id is taken, under whatever name, or when the root cannot be written to.

    With `overwrite` a dataset of the same id and name may exist, one of another name may not: nnU-Net refuses to work
    while two names share an id, and removing the other one is the owner's decision.
    """
    pattern = re.compile(rf"Dataset{spec.dataset_id:03d}(_.*)?", re.IGNORECASE)
    for root in [raw_root] + ([preprocessed_root] if preprocessed_root is not None else []):
        taken = sorted(path for path in _listdir(root) if pattern.fullmatch(path.name))
        for path in taken:
            if overwrite and path.name == spec.folder_name and path.is_dir():
                continue
            remedy = "--overwrite replaces it" if path.name == spec.folder_name else "remove that dataset"
            raise UsageError(
                "E-DATASET-EXISTS",
                file=path,
                found=f"dataset id {spec.dataset_id} is taken by {path.name}",
                expected=f"a free id for {spec.folder_name}",
                fix=f"choose another id, or {remedy}",
            )


def _listdir(root: Path) -> list[Path]:
    if not root.exists():
        return []
    try:
        return list(root.iterdir())
    except OSError as error:
        raise _unwritable(root, error) from error


def _hidden_sibling(raw_root: Path, name: str) -> Path:
    try:
        raw_root.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=raw_root))
        # mkdtemp makes private folders; a dataset gets the permissions any other new folder would have.
        hidden.chmod(0o777 & ~umask())
    except OSError as error:
        raise _unwritable(raw_root, error) from error
    return hidden


def _make_writable(root: Path) -> None:
    """Create a folder if need be; raises UsageError before any work when nothing can be written into it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".try.", dir=root):
            pass
    except OSError as error:
        raise _unwritable(root, error) from error


def _unwritable(root: Path, error: OSError) -> UsageError:
    return UsageError(
        "E-OUT-FOLDER",
        file=root,
        found=f"cannot be used as output folder ({error.strerror or error})",
        expected="a folder that can be written to",
        fix="choose another folder or change its permissions",
    )


def _publish(hidden: Path, folder: Path, *, overwrite: bool) -> None:
    """Rename the finished dataset to its final name; an old one steps aside first and returns if that fails."""
    if not (overwrite and folder.exists()):
        _rename(hidden, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / folder.name
    folder.rename(old)
    try:
        _rename(hidden, folder)
    except BaseException:
        old.rename(folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _rename(hidden: Path, folder: Path) -> None:
    try:
        hidden.rename(folder)
    except OSError as error:
        raise UsageError(
            "E-DATASET-EXISTS",
            file=folder,
            found=f"the folder appeared while the dataset was being written ({error.strerror or error})",
            expected="one writer per dataset",
            fix="wait for the other run, or choose another id",
        ) from error


def _refuse_test_leak(records: dict[str, dict[str, Any]], folder: Path) -> None:
    test = {row["subject"] for row in records.values() if row.get("test")}
    leaking = sorted(test & {row["subject"] for row in records.values() if not row.get("test")})
    if leaking:
        raise UsageError(
            "E-SPLIT-TEST",
            file=folder,
            found=f"subjects with training and test cases: {shorten(leaking)}",
            expected="all cases of a subject on one side",
            fix="make all cases of these subjects test cases, or none",
        )


def splits_for(records: Mapping[str, Mapping[str, Any]], folds: int) -> list[Split] | None:
    """Return grouped splits for the entries of cases.json; None when fewer than two subjects can be validated."""
    training = {case: row for case, row in records.items() if not row.get("test")}
    subject_of = {case: str(row["subject"]) for case, row in training.items()}
    unscored = _unscored(training)
    if len({subject_of[case] for case in set(subject_of) - unscored}) < MIN_SUBJECTS:
        _log.warning("fewer than two subjects to validate, so there are no splits: train with -f all")
        return None
    return grouped_splits(subject_of, folds, train_only=unscored)


def _unscored(training: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {case for case, row in training.items() if not row["labelled"] or row.get("train_only")}


def _checked_splits(splits: Sequence[Split], training: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Split]:
    faults = list(split_faults(splits, {case: str(row["subject"]) for case, row in training.items()}))
    for fold, split in enumerate(splits):
        scored = sorted(set(split.get("val", [])) & _unscored(training))
        faults += [f"fold {fold} validates cases without masks to score: {shorten(scored)}"] if scored else []
    if faults:
        raise UsageError(
            "E-SPLIT-WRONG",
            file=folder,
            found="; ".join(faults[:4]),
            expected="known cases, each subject on one side",
            fix="correct the splits or leave them out",
        )
    return [{"train": list(split["train"]), "val": list(split["val"])} for split in splits]


def _write_tables(folder: Path, records: dict[str, dict[str, Any]], splits: Sequence[Split] | None) -> None:
    write_json(folder / CASES_FILE, {"version": CASES_VERSION, "cases": dict(sorted(records.items()))})
    if splits is not None:
        write_json(folder / SPLITS_FILE, splits)
    else:
        (folder / SPLITS_FILE).unlink(missing_ok=True)
