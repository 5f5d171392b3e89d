"""Raw datasets of a study: labelled cases of one scanner, and unlabelled ones of others beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, dataset_writer
from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.study.index import StudyCase, read_index

CHANNEL = "MR"
_FINGERPRINT = "dataset_fingerprint.json"


def spec(number: int, name: str, *, sides: bool, ignore: bool = False) -> DatasetSpec:
    """Return the description of a dataset with the 14 classes; without `sides` right processes are called left."""
    classes = scheme("nnunet14")
    return DatasetSpec(
        dataset_id=number,
        name=name,
        channel_names={0: CHANNEL},
        labels={label: key for key, label in classes.labels.items() if key != 0},
        scheme="nnunet14",
        sided_labels=tuple(classes.sided_pairs) if sides else (),
        ignore=ignore,
        description="Digital spines of a study; no person was scanned.",
        licence="CC0-1.0",
    )


def write_dataset(
    study: str | Path, described: DatasetSpec, labelled: Sequence[str], unlabelled: Sequence[str], validation: int
) -> int:
    """Write a raw dataset of the cases of index folders; return their number.

    Parameters
    ----------
    labelled, unlabelled: folders with an index, relative to the study. validation: labelled cases that are kept out of
        training, the last ones.
    """
    study = Path(study)
    known = _cases(study, labelled)
    others = _cases(study, unlabelled)
    names = [_name(case) for case in known]
    extra = [_name(case) for case in others]
    split = {"train": [*names[: len(names) - validation], *extra], "val": names[len(names) - validation :]}
    raw, preprocessed = study / "nnUNet_raw", study / "nnUNet_preprocessed"
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    # Plans and data of what is replaced.
    shutil.rmtree(preprocessed / described.folder_name, ignore_errors=True)
    with dataset_writer(raw, described, preprocessed_root=preprocessed, splits=[split], overwrite=True) as writer:
        for case in _raw(study, known, labelled=True):
            writer.add(case)
        for case in _raw(study, others, labelled=False):
            writer.add(case)
    return len(names) + len(extra)


def move_plans(study: str | Path, source: str, target: str, plans: str) -> None:
    """Give one dataset the plans of another, so that both are preprocessed alike."""
    root = Path(study) / "nnUNet_preprocessed"
    content: dict[str, Any] = read_json(root / source / f"{plans}.json")
    content["dataset_name"] = target
    (root / target).mkdir(parents=True, exist_ok=True)
    # nnU-Net puts it into the folder of the model; that of the plans says what these were made of.
    write_json(root / target / _FINGERPRINT, read_json(root / source / _FINGERPRINT))
    write_json(root / target / f"{plans}.json", content)
    write_json(root / target / "dataset.json", read_json(Path(study) / "nnUNet_raw" / target / "dataset.json"))


def _cases(study: Path, folders: Sequence[str]) -> list[StudyCase]:
    return [case for folder in folders for case in read_index(study / folder)]


def _name(case: StudyCase) -> str:
    # The condition is in front, because cases of one subject may be there under several.
    return case.case


def _raw(study: Path, cases: Sequence[StudyCase], *, labelled: bool) -> Iterator[RawCase]:
    for case in cases:
        yield RawCase(
            case_id=_name(case),
            # Groups of spines count their subjects alike.
            subject=f"{Path(case.images[0]).parts[1]}-{case.subject}",
            images=[read_volume(study / image) for image in case.images],
            label=read_volume(study / case.own_semantic) if labelled else None,
            instances=read_volume(study / case.own_instances) if labelled and case.own_instances else None,
            info=dict(case.facts),
            train_only=not labelled,
        )
