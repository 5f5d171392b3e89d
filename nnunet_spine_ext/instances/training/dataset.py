"""The cases of a raw dataset that an instance network can be trained with, and their folds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset import CASES_FILE, SPLITS_FILE
from nnunet_spine_ext.core.dataset_names import dataset_pattern
from nnunet_spine_ext.core.errors import NoInputError, Problem, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.core.splits import Split, grouped_splits, shorten, split_faults
from nnunet_spine_ext.instances.encoding import needs_substructures
from nnunet_spine_ext.instances.frame import ARCUS, CANAL, CORD, CORPUS, DISC, SACRUM

LABELS, INSTANCES = "labelsTr", "instancesTr"
FOLDS = 5
ALL = "all"
# Masks of whole vertebrae name them like this; `corpus` then stands for the vertebra (see `encoding.encode`).
_WHOLE = (
    (re.compile(r"vertebrae?([_ ].*)?"), CORPUS),
    (re.compile(r"(intervertebral_)?dis[ck]s?([_ ].*)?|ivd"), DISC),
    (re.compile(r"(spinal_)?canal"), CANAL),
    (re.compile(r"(spinal_)?cord"), CORD),
    (re.compile(r"sacrum"), SACRUM),
)


@dataclass(frozen=True)
class TrainingCase:
    """One case: masks on one grid. `subject` groups the folds."""

    name: str
    subject: str
    semantic: Path
    instances: Path


@dataclass(frozen=True)
class TrainingData:
    """A raw dataset.

    Parameters
    ----------
    folder: ``nnUNet_raw/Dataset…``.
    table: id of the semantic masks to id of ``nnunet14``; whole vertebrae become corpus, ignored voxels background.
    substructures: whether arches and processes are classes of their own.
    cases: those with both masks, by name.
    subjects: of all cases with a semantic mask; the name itself where cases.json says nothing.
    left_out: names of the cases with a semantic mask only.
    """

    folder: Path
    table: Mapping[int, int]
    substructures: bool
    cases: Mapping[str, TrainingCase]
    subjects: Mapping[str, str]
    left_out: tuple[str, ...] = ()


def dataset_folder(d: str) -> Path:
    """Return the raw dataset of an id or a name, or the folder itself.

    Raises
    ------
    SetupError: nnUNet_raw is not set, no such dataset.
    """
    if (Path(d) / "dataset.json").is_file():
        return Path(d)
    root = os.environ.get("nnUNet_raw", "")
    if not root:
        raise SetupError(
            "E-ENV-PATH",
            file="nnUNet_raw",
            found="not set",
            expected="nnU-Net's folder of raw datasets",
            fix="export nnUNet_raw=… or give the folder of the dataset with -d",
        )
    pattern = dataset_pattern(d)
    found = sorted(f for f in Path(root).glob(pattern) if (f / "dataset.json").is_file())
    if len(found) != 1:
        there = sorted(f.name for f in Path(root).glob("Dataset*"))
        raise SetupError(
            "E-DATASET-FOLDER",
            file=root,
            found=f"{len(found)} datasets {pattern}",
            expected="one raw dataset with dataset.json",
            fix=nearest(d, there) if there else "convert your data or make phantoms first",
        )
    return found[0]


def open_dataset(folder: Path, encoding: str) -> TrainingData:
    """List the cases of a raw dataset that have both masks; no mask is opened.

    Raises
    ------
    NoInputError: no instance masks.
    UsageError: classes that this training cannot use, or not with this encoding.
    CaseError: a dataset.json or cases.json that cannot be read.
    """
    description = read_json(folder / "dataset.json")
    ending = str(description.get("file_ending", ".nii.gz"))
    table, substructures = _table(folder, description)
    if needs_substructures(encoding) and not substructures:
        raise UsageError(
            "E-INST-ENCODING",
            file=folder / "dataset.json",
            found=f"masks of whole vertebrae, and the encoding {encoding} of arches and processes",
            expected="an encoding for these masks",
            fix="--set cutout.encoding=body",
        )
    labelled = [p.name.removesuffix(ending) for p in sorted((folder / LABELS).glob(f"*{ending}"))]
    labelled = [name for name in labelled if not name.startswith(".")]
    subjects = {name: name for name in labelled} | _subjects(folder)
    cases = {}
    for name in labelled:
        semantic, instances = (folder / kind / f"{name}{ending}" for kind in (LABELS, INSTANCES))
        if instances.is_file():
            cases[name] = TrainingCase(name, subjects[name], semantic, instances)
    if not cases:
        raise NoInputError(
            "E-TRAIN-INSTANCES",
            file=folder / INSTANCES,
            found="no instance masks of training cases",
            expected=f"one mask {INSTANCES}/<case>{ending} beside {LABELS}/<case>{ending}",
            fix="convert with instance masks, or make phantoms (nnUNetv2_spine_phantom)",
        )
    left_out = tuple(name for name in labelled if name not in cases)
    return TrainingData(folder, table, substructures, cases, subjects, left_out)


def left_out_warning(data: TrainingData) -> Problem | None:
    """Return what is said about cases without an instance mask; None: all have one."""
    if not data.left_out:
        return None
    count = len(data.left_out)
    return Problem(
        "warning",
        "W-TRAIN-NOINSTANCES",
        str(data.folder / INSTANCES),
        f"no instance mask of {count} case{'s' * (count != 1)}: {shorten(data.left_out)}",
        f"one beside every mask in {LABELS}",
        "the cases are left out; add their instance masks if they should be trained on",
    )


def folds_of(data: TrainingData, names: Sequence[str], wanted: Sequence[str]) -> dict[str, Split]:
    """Return training and validation cases of each fold wanted, of those `names` that are usable.

    The dataset's splits_final.json is used where there is one, else a split grouped by subject.

    Parameters
    ----------
    wanted: numbers, or ``all`` (all cases on both sides).

    Raises
    ------
    UsageError: no such fold, splits with unknown cases or a subject on both sides.
    """
    if list(wanted) == [ALL]:
        return {ALL: {"train": list(names), "val": list(names)}}
    strange = [f for f in wanted if not f.isdigit()]
    if strange:
        raise _no_fold(data.folder, f"{', '.join(strange)}", f"numbers, or {ALL} alone")
    splits = _splits(data, names)
    missing = [f for f in wanted if int(f) >= len(splits)]
    if missing or not wanted:
        raise _no_fold(data.folder, ", ".join(missing) or "none", f"0 to {len(splits) - 1}, or {ALL}")
    chosen = {}
    for fold in dict.fromkeys(wanted):
        split = splits[int(fold)]
        chosen[fold] = {side: [case for case in split[side] if case in names] for side in ("train", "val")}
        if not chosen[fold]["train"]:
            raise _no_fold(data.folder, f"{fold} without a usable training case", "a fold with training cases")
    return chosen


def sides_of(split: Split) -> dict[str, int]:
    """Return how many cases a fold is trained and validated on: ``training_cases``, ``validation_cases``."""
    return {"training_cases": len(split["train"]), "validation_cases": len(split["val"])}


def sides_in_words(fold: str, sides: Mapping[str, Any]) -> str:
    """Return the numbers of `sides_of` for the console."""
    train, validation = (f"{n} case{'s' * (n != 1)}" for n in (sides["training_cases"], sides["validation_cases"]))
    return f"trained on {train}, " + ("validated on the same" if fold == ALL else f"validated on {validation}")


def _splits(data: TrainingData, names: Sequence[str]) -> list[Split]:
    path = data.folder / SPLITS_FILE
    if path.is_file():
        splits = read_json(path)
        # Cases without instance masks are in the splits too: they only have to be known.
        faults = list(split_faults(splits, data.subjects))
        if faults:
            raise UsageError(
                "E-SPLIT-WRONG",
                file=path,
                found="; ".join(faults[:4]),
                expected="known cases, each subject on one side",
                fix="correct the splits or delete the file: a grouped split is made then",
            )
        return splits
    return grouped_splits({name: data.cases[name].subject for name in names}, FOLDS)


def _subjects(folder: Path) -> dict[str, str]:
    path = folder / CASES_FILE
    if not path.is_file():
        return {}
    return {case: str(row["subject"]) for case, row in read_json(path)["cases"].items()}


def _table(folder: Path, description: Mapping[str, Any]) -> tuple[dict[int, int], bool]:
    """Return ids of the masks to ids of nnunet14, and whether these masks have substructures."""
    facts = description.get("spine_ext", {})
    labels = {str(name).lower(): k for name, k in description.get("labels", {}).items() if isinstance(k, int)}
    ignored = {labels["ignore"]: 0} if "ignore" in labels else {}
    fourteen = {name.lower(): k for k, name in scheme("nnunet14").labels.items() if k}
    if facts.get("scheme") == "nnunet14":
        return {k: k for k in fourteen.values()} | ignored, True
    table = {}
    for name, k in labels.items():
        if name in ("background", "ignore"):
            continue
        target = fourteen.get(name)
        if target is None:
            target = next((label for pattern, label in _WHOLE if pattern.fullmatch(name)), None)
        if target is None:
            raise _unusable(folder, f"the class {name!r}")
        table[k] = target
    if CORPUS not in table.values():
        raise _unusable(folder, f"the classes {shorten(sorted(labels))}")
    return table | ignored, ARCUS in table.values()


def _unusable(folder: Path, found: str) -> UsageError:
    return UsageError(
        "E-TRAIN-CLASSES",
        file=folder / "dataset.json",
        found=found,
        expected="the scheme nnunet14, or vertebra, disc, canal and cord as in SPIDER",
        fix="convert the masks with nnUNetv2_spine_convert or nnUNetv2_spine_labels",
    )


def _no_fold(folder: Path, found: str, expected: str) -> UsageError:
    return UsageError("E-SPLIT-FOLD", file=folder, found=f"fold {found}", expected=expected, fix="correct -f")
