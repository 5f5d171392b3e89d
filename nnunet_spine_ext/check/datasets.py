"""Is an nnU-Net raw dataset whole and consistent? Names, tables, splits, and every file by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.soft_labels import FOLDERS, foreground_labels, inspect_soft_labels
from nnunet_spine_ext.core.cases import READER, check_same_grid
from nnunet_spine_ext.core.dataset import CASES_FILE, SPLITS_FILE
from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.splits import shorten, split_faults
from nnunet_spine_ext.core.volume import Volume

_REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class DatasetFacts:
    """What `inspect_dataset` found.

    Parameters
    ----------
    folder: the raw dataset.
    training, test: case ids with an image in imagesTr and imagesTs, sorted.
    subjects: number of subjects according to cases.json, 0 without it.
    folds: number of folds in splits_final.json, 0 without it.
    problems: errors and warnings, those of the whole dataset first.
    """

    folder: Path
    training: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    subjects: int = 0
    folds: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(problem.severity == "error" for problem in self.problems)


def inspect_dataset(folder: str | Path) -> DatasetFacts:
    """Check a raw dataset folder.

    dataset.json has what nnU-Net needs and names the reader that keeps orientations apart; every case has all its
    channels and a mask; every file passes `check.images.inspect`; image and mask lie on one grid; case ids differ in
    more than letter case; cases.json describes exactly these cases; no subject is on two sides of a split or in
    training and test.

    Returns facts with the problems; raises UsageError when the folder is no raw dataset.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").is_file():
        raise UsageError(
            "E-DATASET-FOLDER",
            file=folder,
            found="no dataset.json",
            expected="a raw dataset such as nnUNet_raw/Dataset501_Name",
            fix="check the path",
        )
    try:
        description = read_json(folder / "dataset.json")
    except CaseError as error:
        return DatasetFacts(folder, problems=[error.problem()])
    missing = [key for key in _REQUIRED if key not in description]
    if missing:
        fix = "nnU-Net's documentation of dataset formats names them"
        found = f"no {', '.join(missing)}"
        return DatasetFacts(
            folder, problems=[_error("E-DATASET-JSON", folder / "dataset.json", found, ", ".join(_REQUIRED), fix)]
        )
    return _Inspection(folder, description).run()


class _Inspection:
    """One pass over a dataset; gathers problems in the order in which a reader wants them."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = description
        self.ending = str(description["file_ending"])
        self.channels = len(description["channel_names"])
        self.images = {kind: self._channels_of(f"images{kind}") for kind in ("Tr", "Ts")}

    def run(self) -> DatasetFacts:
        problems = [*self._description(), *self._names()]
        records, found = self._cases()
        problems += found
        folds, found = self._splits(records)
        problems += [*found, *self._test_leak(records), *self._files(), *self._soft_labels()]
        subjects = {row.get("subject") for row in records.values()}
        training, test = (tuple(sorted(self.images[kind])) for kind in ("Tr", "Ts"))
        return DatasetFacts(self.folder, training, test, len(subjects), folds, problems)

    def _channels_of(self, name: str) -> dict[str, dict[int, Path]]:
        """Channel files of each case in a folder."""
        cases: dict[str, dict[int, Path]] = {}
        for path in sorted((self.folder / name).glob(f"*{self.ending}")):
            matched = _CHANNEL.fullmatch(path.name.removesuffix(self.ending))
            if matched is not None and not path.name.startswith("."):
                cases.setdefault(matched.group(1), {})[int(matched.group(2))] = path
        return cases

    def _description(self) -> Iterator[Problem]:
        path = self.folder / "dataset.json"
        count = len(self.images["Tr"])
        if self.description["numTraining"] != count:
            found = f"numTraining {self.description['numTraining']}, but {count} cases in imagesTr"
            yield _error("E-DATASET-COUNT", path, found, "the number of cases", "restore the files or correct it")
        if self.description.get("overwrite_image_reader_writer") != READER:
            found = f"reader {self.description.get('overwrite_image_reader_writer', 'not given')}"
            yield _warning(
                "W-DATASET-READER",
                path,
                found,
                f"{READER}, without which the same anatomy reaches the network in as many orientations as it is stored",
                f'set "overwrite_image_reader_writer": "{READER}" and plan again',
            )
        if "spine_ext" not in self.description:
            yield _warning(
                "W-DATASET-SIDES",
                path,
                "no spine_ext",
                "the label scheme and the left/right pairs",
                "without them labels are taken to have no sides; convert again, or add it by hand",
            )

    def _names(self) -> Iterator[Problem]:
        seen: dict[str, str] = {}
        for case in sorted({*self.images["Tr"], *self.images["Ts"]}):
            twin = seen.setdefault(case.lower(), case)
            if twin != case:
                found = f"the case ids {twin} and {case}"
                yield _error("E-CASE-TWICE", self.folder, found, "ids that differ in more than letter case", "rename")
        for case in sorted(set(self.images["Tr"]) & set(self.images["Ts"])):
            yield _error("E-CASE-TWICE", self.folder, f"{case} in imagesTr and imagesTs", "one of them", "remove one")

    def _cases(self) -> tuple[dict[str, Any], list[Problem]]:
        path = self.folder / CASES_FILE
        if not path.is_file():
            fix = "convert again, or write it: without subjects nobody can tell whether splits leak"
            return {}, [_warning("W-DATASET-CASES", path, "no such file", "the subject of every case", fix)]
        try:
            records = dict(read_json(path)["cases"])
        except (CaseError, KeyError, TypeError, ValueError) as error:
            return {}, [_error("E-DATASET-CASES", path, f"unreadable ({error})", "a table of cases", "convert again")]
        present = {*self.images["Tr"], *self.images["Ts"]}
        problems = []
        for what, names in (("not described", present - set(records)), ("without files", set(records) - present)):
            if names:
                found = f"cases {what}: {shorten(sorted(names))}"
                problems.append(
                    _error("E-DATASET-CASES", path, found, "exactly the cases with images", "convert again")
                )
        nameless = sorted(case for case, row in records.items() if not row.get("subject"))
        if nameless:
            found = f"no subject for {shorten(nameless)}"
            problems.append(_error("E-DATASET-CASES", path, found, "a subject for every case", "add it"))
        return records, problems

    def _splits(self, records: Mapping[str, Any]) -> tuple[int, list[Problem]]:
        path = self.folder / SPLITS_FILE
        if not path.is_file():
            fix = "nnU-Net would split at random, subjects on both sides included: convert again"
            return 0, [_warning("W-DATASET-SPLITS", path, "no such file", "splits grouped by subject", fix)]
        try:
            splits = read_json(path)
            subject_of = {case: str(records.get(case, {}).get("subject", case)) for case in self.images["Tr"]}
            faults = list(split_faults(splits, subject_of))
        except (CaseError, KeyError, TypeError, AttributeError) as error:
            return 0, [_error("E-SPLIT-WRONG", path, f"unreadable ({error})", "nnU-Net's list of folds", "write again")]
        expected = "known cases, each subject on one side"
        return len(splits), [_error("E-SPLIT-WRONG", path, fault, expected, "correct the fold") for fault in faults]

    def _test_leak(self, records: Mapping[str, Any]) -> Iterator[Problem]:
        sides = [
            {records[case].get("subject") for case in self.images[kind] if case in records} for kind in ("Tr", "Ts")
        ]
        leaking = sorted(str(subject) for subject in sides[0] & sides[1])
        if leaking:
            found = f"subjects with training and test cases: {shorten(leaking)}"
            yield _error("E-SPLIT-TEST", self.folder, found, "all cases of a subject on one side", "move their cases")

    def _files(self) -> Iterator[Problem]:
        for kind, cases in self.images.items():
            masks = {path.name.removesuffix(self.ending): path for path in self._masks(kind)}
            for case, channels in sorted(cases.items()):
                yield from self._case(case, channels, masks.get(case), needs_mask=kind == "Tr")
            for case in sorted(set(masks) - set(cases)):
                yield _error("E-PAIR-NOIMAGE", masks[case], "a mask without an image", "both", "add or remove one")

    def _soft_labels(self) -> Iterator[Problem]:
        classes = foreground_labels(self.description)
        for folder, kind in zip(FOLDERS, ("Tr", "Ts"), strict=True):
            images = {case: channels[min(channels)] for case, channels in self.images[kind].items()}
            yield from inspect_soft_labels(self.folder / folder, images, classes)

    def _masks(self, kind: str) -> list[Path]:
        return sorted(p for p in (self.folder / f"labels{kind}").glob(f"*{self.ending}") if not p.name.startswith("."))

    def _case(
        self, case: str, channels: Mapping[int, Path], mask: Path | None, *, needs_mask: bool
    ) -> Iterator[Problem]:
        if sorted(channels) != list(range(self.channels)):
            found = f"channels {', '.join(f'{k:04d}' for k in sorted(channels))} of {case}"
            expected = ", ".join(f"{k:04d}" for k in range(self.channels))
            yield _error("E-CASE-CHANNELS", next(iter(channels.values())), found, expected, "add or remove files")
            return
        if mask is None and needs_mask:
            expected = f"labelsTr/{case}{self.ending}"
            yield _error("E-PAIR-NOMASK", channels[0], "an image without a mask", expected, "add the mask")
        yield from _grids([channels[k] for k in sorted(channels)], mask)


def _grids(images: list[Path], mask: Path | None) -> Iterator[Problem]:
    """Yield what the gatekeeper says about the files of one case, and whether they share the first one's grid."""
    from nnunet_spine_ext.check.images import inspect

    first: Volume | None = None
    for path in [*images] + ([mask] if mask is not None else []):
        facts = inspect(path, role="label" if path == mask else "training")
        yield from facts.problems
        if not facts.ok:
            continue
        if first is None:
            first = facts.grid()
            continue
        try:
            check_same_grid(first, facts.grid(), file=str(path), what=path.name)
        except CaseError as error:
            yield error.problem()


def _error(code: str, path: Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("error", code, str(path), found, expected, fix)


def _warning(code: str, path: Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, str(path), found, expected, fix)
