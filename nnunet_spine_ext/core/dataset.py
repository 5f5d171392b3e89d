"""Writing an nnU-Net raw dataset, wholly or not at all.

The dataset grows in a hidden folder beside its final place (`core.partial`) and is renamed when it is complete.
`cases.json` and `splits_final.json` also go to the preprocessed folder, the only place where nnU-Net reads splits.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.cases import FILE_ENDING, DatasetSpec, RawCase, check_case
from nnunet_spine_ext.core.dataset_names import dataset_number
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import FileStamp, read_volume, write_bytes, write_json, write_volume, write_volumes
from nnunet_spine_ext.core.partial import Entry, Partial, case_entry, unusable_folder, unwritable
from nnunet_spine_ext.core.splits import Split, checked_splits, grouped_splits, refuse_test_leak, splits_for
from nnunet_spine_ext.core.volume import Array, Volume

__all__ = [
    "CASES_FILE",
    "SPLITS_FILE",
    "DatasetSpec",
    "DatasetWriter",
    "RawCase",
    "copy_tables",
    "dataset_writer",
    "finish_published",
    "grouped_splits",
    "refuse_existing",
    "refuse_test_leak",
    "splits_for",
    "write_raw_dataset",
]

CASES_FILE = "cases.json"
SPLITS_FILE = "splits_final.json"
CASES_VERSION = 1

_log = logging.getLogger(__name__)


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
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
    ids_known: bool = True,
) -> Iterator[DatasetWriter]:
    """Yield a `DatasetWriter`; the dataset appears under its final name when the block ends without an exception.

    Parameters
    ----------
    folds: folds of the grouped split; with fewer than two labelled subjects there is no split file.
    preprocessed_root: nnUNet_preprocessed; None leaves the copy for nnU-Net out.
    splits: use these instead of grouped ones; a leaking subject or an unknown case is refused.
    overwrite: replace a dataset of the same id and name.
    identity: JSON values that are equal for runs that do the same; a run that has one leaves what is finished when it
        ends early, and `resume` goes on there. A run without leaves nothing.
    ids_known: False: masks hold ids of their source until `DatasetWriter.settle` is called.

    Raises
    ------
    UsageError: the dataset id or a case id is taken, a subject is in training and test, the splits are wrong.
    SetupError: another process is writing this dataset.
    CaseError: a case does not fit.
    SpineExtError: a file cannot be written (disk full).
    NoInputError: no training case was added; then nothing is left in any case.
    """
    raw_root = Path(raw_root)
    preprocessed = None if preprocessed_root is None else Path(preprocessed_root)
    partial = Partial(raw_root / spec.folder_name)
    with _claimed(partial, preprocessed, spec, overwrite=overwrite):
        try:
            finished = partial.begin(identity, resume=resume)
            writer = DatasetWriter(partial, spec, finished, keeps_journal=identity is not None, ids_known=ids_known)
            yield writer
            writer.finish(folds, splits)
            refuse_existing(raw_root, preprocessed, spec, overwrite=overwrite)
            partial.publish(overwrite=overwrite)
            _follow_up(partial.final, preprocessed)
        except BaseException as error:
            if identity is None or isinstance(error, NoInputError):
                partial.discard()
            raise
        partial.discard()


def finish_published(
    raw_root: Path, spec: DatasetSpec, preprocessed_root: Path | None, identity: Mapping[str, Any]
) -> bool:
    """Do what is left after a run of this identity was killed behind the renaming; whether that was the case."""
    partial = Partial(raw_root / spec.folder_name)
    if not partial.path.is_dir():
        return False
    with partial.locked():
        if not partial.is_published(identity):
            return False
        _follow_up(partial.final, preprocessed_root)
        partial.discard()
    return True


@contextmanager
def _claimed(partial: Partial, preprocessed: Path | None, spec: DatasetSpec, *, overwrite: bool) -> Iterator[None]:
    """Make sure that the dataset may be written and that nobody else does it; creates nothing before that is sure."""
    raw_root = partial.final.parent
    with ExitStack() as stack:
        found = partial.path.is_dir()
        if found:
            stack.enter_context(partial.locked())
        refuse_existing(raw_root, preprocessed, spec, overwrite=overwrite)
        if preprocessed is not None:
            _make_writable(preprocessed)
        if not found:
            stack.enter_context(partial.locked())
        yield


class DatasetWriter:
    """Writes cases into a folder that is not yet visible under its final name; made by `dataset_writer`.

    Attributes
    ----------
    folder: the final place.
    records: the entries of cases.json so far.
    finished: what an earlier run finished, by case: entries with the ``extra`` that was given to `add`.
    splits: known after `finish`; None if there are none.
    """

    def __init__(
        self,
        partial: Partial,
        spec: DatasetSpec,
        finished: Mapping[str, Entry] | None = None,
        *,
        keeps_journal: bool = False,
        ids_known: bool = True,
    ) -> None:
        self.folder = partial.final
        self.spec = spec
        self.finished = dict(finished or {})
        self.records: dict[str, dict[str, Any]] = {case: entry["record"] for case, entry in self.finished.items()}
        self.splits: list[Split] | None = None
        self._partial = partial
        self._keeps_journal = keeps_journal
        self._ids_known = ids_known
        self._seen = {case.lower(): case for case in self.finished}
        for name in ("imagesTr", "labelsTr"):
            (partial.data / name).mkdir(exist_ok=True)

    def add(self, case: RawCase, *, stamps: Sequence[FileStamp] = (), extra: Any = None) -> None:
        """Check a case and write its files, then note in the journal that it is finished.

        `stamps` are the files it came from: when one of them changes, `resume` does the case again. `extra` (JSON) is
        for the caller of the run that resumes.

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
        check_case(case, self.spec, ids_known=self._ids_known)
        self._seen[case.case_id.lower()] = case.case_id
        kind = "Ts" if case.test else "Tr"
        grid = case.images[0]
        written = []
        for channel, image in enumerate(case.images):
            name = f"{case.case_id}_{channel:04d}{FILE_ENDING}"
            written.append(self._write(Volume(image.array, grid.affine), f"images{kind}", name))
        mask = self._mask_of(case)
        if mask is not None:
            written.append(self._write(mask, f"labels{kind}", f"{case.case_id}{FILE_ENDING}", final=self._ids_known))
        if case.instances is not None:
            instances = Volume(case.instances.array.astype(np.uint16), grid.affine)
            written.append(self._write(instances, f"instances{kind}", f"{case.case_id}{FILE_ENDING}"))
        if case.soft:
            soft = [Volume(volume.array.astype(np.float32), grid.affine) for volume in case.soft]
            written.append(self._write(soft, f"softLabels{kind}", f"{case.case_id}{FILE_ENDING}"))
        self.records[case.case_id] = case.record()
        if self._keeps_journal:
            entry = case_entry(self._partial.path, case.case_id, stamps, written, case.record(), extra)
            self._partial.journal.append(entry)

    def settle(self, spec: DatasetSpec, translate: Callable[[Array], Array]) -> None:
        """Say what the classes are, and write the masks with their ids; `translate` maps arrays of source ids."""
        self.spec = spec
        for case, row in sorted(self.records.items()):
            kind = "Ts" if row.get("test") else "Tr"
            name = f"{case}{FILE_ENDING}"
            if row["labelled"]:
                source = read_volume(self._partial.masks / f"labels{kind}" / name)
                array = translate(source.array).astype(spec.mask_dtype)
            elif kind == "Tr":
                source = read_volume(self._partial.data / "imagesTr" / f"{case}_0000{FILE_ENDING}")
                array = np.full(source.shape, spec.ignore_id, dtype=spec.mask_dtype)
            else:
                continue
            self._write(Volume(array, source.affine), f"labels{kind}", name)

    def add_json(self, name: str, content: Any) -> None:
        """Write a JSON file beside dataset.json."""
        write_json(self._partial.data / name, content)

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
        refuse_test_leak(self.records, self.folder)
        self.splits = (
            splits_for(self.records, folds) if splits is None else checked_splits(splits, training, self.folder)
        )
        data = self._partial.data
        write_json(data / "dataset.json", self.spec.dataset_json(len(training)))
        if self.splits is not None:
            write_json(data / SPLITS_FILE, self.splits)
        write_json(data / CASES_FILE, {"version": CASES_VERSION, "cases": dict(sorted(self.records.items()))})

    def _mask_of(self, case: RawCase) -> Volume | None:
        grid = case.images[0]
        dtype = self.spec.mask_dtype if self._ids_known else np.uint16
        if case.label is not None:
            return Volume(case.label.array.astype(dtype), grid.affine)
        if case.test or not self._ids_known:
            return None
        # `check_case` made sure that unlabelled training cases only exist where ignore is declared.
        return Volume(np.full(grid.shape, self.spec.ignore_id, dtype=dtype), grid.affine)

    def _write(self, content: Volume | list[Volume], folder: str, name: str, *, final: bool = True) -> Path:
        target = (self._partial.data if final else self._partial.masks) / folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Volume):
                write_volume(content, target)
            else:
                write_volumes(content, target)
        except OSError as error:
            left = "continue with --resume" if self._keeps_journal else "nothing of the dataset was left behind"
            remedy = f"free space or change the permissions; {left}"
            raise unwritable(self.folder / folder / name, error, remedy) from error
        return target


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
        raise unusable_folder(root, error) from error


def _make_writable(root: Path) -> None:
    """Create a folder if need be; raises UsageError before any work when nothing can be written into it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".try.", dir=root):
            pass
    except OSError as error:
        raise unusable_folder(root, error) from error


def copy_tables(folder: Path, preprocessed: Path) -> None:
    """Copy cases.json and the splits of a raw dataset to its preprocessed folder.

    cases.json comes last: where it is up to date, so are the splits.
    """
    splits = folder / SPLITS_FILE
    if splits.is_file():
        write_bytes(preprocessed / SPLITS_FILE, splits.read_bytes())
    else:
        (preprocessed / SPLITS_FILE).unlink(missing_ok=True)
    write_bytes(preprocessed / CASES_FILE, (folder / CASES_FILE).read_bytes())


def _follow_up(folder: Path, preprocessed: Path | None) -> None:
    if preprocessed is None:
        return
    copy_tables(folder, preprocessed / folder.name)
    if (preprocessed / folder.name / "dataset_fingerprint.json").exists():
        _log.warning(
            "%s: plans and data of the dataset that was replaced are still there; plan again with "
            "nnUNetv2_plan_and_preprocess -d %d --clean",
            preprocessed / folder.name,
            dataset_number(folder.name),
        )
