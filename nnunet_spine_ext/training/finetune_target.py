"""The dataset that a model is fine-tuned on: its description and its cases, before anything is planned for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.dataset_names import dataset_pattern
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json, read_volume
from nnunet_spine_ext.inference.folder import ModelFolder
from nnunet_spine_ext.inference.model import sided_axis
from nnunet_spine_ext.training.finetune_select import Row
from nnunet_spine_ext.training.planned import dataset_folder, folders_of
from nnunet_spine_ext.training.settings import data_facts

# What nnU-Net's readers open.
_NIFTI = (".nii.gz", ".nii")
_ENDINGS = {"NibabelIO": _NIFTI, "NibabelIOWithReorient": _NIFTI}


@dataclass
class Target:
    """A target dataset.

    Parameters
    ----------
    folder: in nnUNet_preprocessed. raw: in nnUNet_raw; need not be there.
    rows: its cases.json. unknown, ignored: cases left out: without a file, or with nothing but the ignore label.
    """

    folder: Path
    raw: Path
    dataset_json: dict[str, Any]
    rows: dict[str, Row]
    unknown: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def channels(self) -> list[str]:
        """Names of the channels in order."""
        names = self.dataset_json.get("channel_names", self.dataset_json.get("modality", {}))
        return [str(names[key]) for key in sorted(names, key=int)]


def open_target(dataset: str) -> Target:
    """Return a dataset by id or name.

    Raises SetupError when it is not there, or has neither dataset.json nor cases.json.
    """
    folder = _folder(dataset)
    raw = Path(os.environ.get("nnUNet_raw", "")) / folder.name
    # Tables of the raw dataset replace those of an older conversion: see `plan.restore_tables`.
    table = _table((raw, folder), CASES_FILE, "E-SPLIT-CASES", "a table that says which subject each case belongs to")
    description = _table((folder, raw), "dataset.json", "E-PLAN-DATASET", "the description of the dataset")
    return Target(folder, raw, description, table["cases"])


def _folder(dataset: str) -> Path:
    """Return the preprocessed folder of a dataset, which need not be there yet if the raw dataset is."""
    try:
        return dataset_folder(dataset)
    except SetupError as error:
        raw, preprocessed = (os.environ.get(name) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
        if error.code != "E-PLAN-DATASET" or not raw or not preprocessed:
            raise
        found = folders_of(raw, dataset)
        if len(found) == 1 and not folders_of(preprocessed, dataset):
            return Path(preprocessed) / found[0].name
        if len(found) == 1:
            raise
        known = ", ".join(place.name for place in sorted(Path(raw).glob("Dataset*"))) or "none"
        raise SetupError(
            "E-FINETUNE-DATASET",
            file=raw,
            found=f"{len(found)} folders {dataset_pattern(dataset)}",
            expected=f"one raw dataset to fine-tune on (there: {known})",
            fix="correct -d, or convert the scans first",
        ) from error


def with_labels(target: Target) -> dict[str, Row]:
    """Return the cases that have a mask with something in it, and record in the target what was left out.

    A mask is opened only where cases.json does not say whether the case is labelled, and labels may be ignored.
    """
    places = [p for p in (target.raw / "labelsTr", target.folder / "gt_segmentations") if p.is_dir()]
    ending = str(target.dataset_json.get("file_ending", ".nii.gz"))
    ignore = target.dataset_json["labels"].get("ignore")
    rows: dict[str, Row] = {}
    for case, row in sorted(target.rows.items()):
        mask = next((p / f"{case}{ending}" for p in places if (p / f"{case}{ending}").is_file()), None)
        if places and mask is None and not row.get("test"):
            target.unknown.append(case)
        elif mask is not None and ignore is not None and "labelled" not in row and _all_ignored(mask, int(ignore)):
            target.ignored.append(case)
        else:
            rows[case] = row
    return rows


def refuse_other_data(model: ModelFolder, target: Target) -> None:
    """Raise SetupError when a model cannot take the images of the target."""
    if len(model.channels) != len(target.channels):
        raise SetupError(
            "E-FINETUNE-CHANNELS",
            file=target.folder / "dataset.json",
            found=f"channels {', '.join(target.channels)}",
            expected=f"as many as the source model has ({', '.join(model.channels)})",
            fix="fine-tune on images of the same channels",
        )
    reader, ending = str(model.plans["image_reader_writer"]), str(target.dataset_json.get("file_ending", ".nii.gz"))
    if ending not in _ENDINGS.get(reader, (ending,)):
        raise SetupError(
            "E-FINETUNE-READER",
            file=target.folder / "dataset.json",
            found=f"{ending} files, which the model's reader {reader} cannot open",
            expected=" or ".join(_ENDINGS[reader]),
            fix="convert the images: another reader may turn them another way than the network learned",
        )
    if data_facts(target.dataset_json).sided_labels:
        sided_axis(model.plans, 3)


def _table(places: tuple[Path, Path], name: str, code: str, expected: str) -> dict[str, Any]:
    """Return the content of a file of a dataset from the first place that has it."""
    for place in places:
        if (place / name).is_file():
            return dict(read_json(place / name))
    raise SetupError(
        code,
        file=places[0] / name,
        found=f"no such file, nor in {places[1]}",
        expected=expected,
        fix="copy it from the raw dataset, or convert the dataset again"
        + (
            '; for a dataset from elsewhere write {"cases": {CASE: {"subject": NAME}, …}}' if name == CASES_FILE else ""
        ),
    )


def _all_ignored(mask: Path, ignore: int) -> bool:
    return bool(np.all(read_volume(mask).array == ignore))
