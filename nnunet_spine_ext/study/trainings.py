"""Trainings of a study, by nnU-Net's own commands."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json, write_text
from nnunet_spine_ext.core.lock import waiting_lock
from nnunet_spine_ext.study.commands import VISIBLE, command
from nnunet_spine_ext.study.config import digest
from nnunet_spine_ext.study.datasets import move_plans, spec, write_dataset
from nnunet_spine_ext.study.index import read_index
from nnunet_spine_ext.training.finetune_plan import finetune_plan
from nnunet_spine_ext.training.plan import plan

BASE = "spineStudy"
SOURCE_DATASET, MIXED_DATASET, FIRST_TARGET = 901, 902, 910


@dataclass(frozen=True)
class Training:
    """A network to train.

    `mixed`: with unlabelled targets beside the labelled source. `settings`: assignments beyond those of its preset.
    """

    name: str
    trainer: str
    preset: str | None = None
    mixed: bool = False
    settings: tuple[str, ...] = ()


# These augment on the device, whatever the source is trained with.
_ON_DEVICE = ("train.augmentation=stock",)
_ALL = (
    Training("source", "nnUNetTrainerSpine"),
    Training("shift", "nnUNetTrainerSpineShift", "shift", settings=_ON_DEVICE),
    Training("gin", "nnUNetTrainerSpineShift", "gin", settings=_ON_DEVICE),
    # Two scanners of one manufacturer are two domains.
    Training("adversarial", "nnUNetTrainerSpineDANN", "dann", mixed=True, settings=("domain.key=model",)),
    Training("shift_dann", "nnUNetTrainerSpineShiftDANN", "shift-dann", settings=_ON_DEVICE),
)
TRAININGS: Mapping[str, Training] = MappingProxyType({row.name: row for row in _ALL})
"""Name -> training; fine-tuning starts from ``source`` and has a number of cases besides."""
FINETUNE = "nnUNetTrainerSpineFinetune"
# To wait while another step prepares the same data.
_PATIENCE_S = 24 * 3600.0


def dataset_name(number: int) -> str:
    """Return the name of the folder of a dataset of the study."""
    return f"Dataset{number:03d}_{_NAMES.get(number, 'StudyTarget')}"


_NAMES = {SOURCE_DATASET: "StudySource", MIXED_DATASET: "StudyMixed"}


def plans_name(training: str, seed: int) -> str:
    """Return the name of the plans of a training: one training, one results folder."""
    return f"study-{training.replace('_', '-')}-{seed}"


def model_folder(number: int, trainer: str, plans: str, configuration: str) -> str:
    """Return the folder of a model, relative to the study."""
    return f"nnUNet_results/{dataset_name(number)}/{trainer}__{plans}__{configuration}"


def plan_source(
    study: str | Path,
    *,
    folders: Sequence[str],
    validation: int,
    sides: bool,
    configuration: str,
    preset: str | None,
    settings: Sequence[str],
) -> None:
    """Write the dataset of the source, plan it, and preprocess it with the network of the study.

    Images that are there and preprocessed as the settings say stay: schedule and network do not touch them.
    """
    study = Path(study)
    number = str(SOURCE_DATASET)
    done = Preprocessed(study, SOURCE_DATASET, folders, (validation, sides, configuration, preset, _spacing(settings)))
    if not done.same:
        done.forget()
        described = spec(SOURCE_DATASET, _NAMES[SOURCE_DATASET], sides=sides)
        write_dataset(study, described, folders, (), validation)
        command(
            study, "nnUNetv2_plan_and_preprocess", "-d", number, "-c", configuration, "-npfp", 1, "--no_pp", "--clean"
        )
    plan(number, c=configuration, name=BASE, preset=preset, assignments=list(settings), overwrite=True)
    if not done.same:
        command(study, "nnUNetv2_preprocess", "-d", number, "-plans_name", BASE, "-c", configuration, "-np", 1)
        done.note()


def plan_mixed(
    study: str | Path, *, folders: Sequence[str], unlabelled: Sequence[str], validation: int, sides: bool,
    configuration: str,
) -> None:  # fmt: skip
    """Write the dataset of the source with unlabelled targets beside it, preprocessed as the source is."""
    study = Path(study)
    source, mixed = dataset_name(SOURCE_DATASET), dataset_name(MIXED_DATASET)
    facts = (validation, sides, configuration, Preprocessed(study, SOURCE_DATASET, folders).noted)
    done = Preprocessed(study, MIXED_DATASET, [*folders, *unlabelled], facts)
    if not done.same:
        done.forget()
        described = spec(MIXED_DATASET, _NAMES[MIXED_DATASET], sides=sides, ignore=True)
        write_dataset(study, described, folders, unlabelled, validation)
    move_plans(study, source, mixed, BASE)
    if not done.same:
        command(study, "nnUNetv2_preprocess", "-d", MIXED_DATASET, "-plans_name", BASE, "-c", configuration, "-np", 1)
        done.note()


class Preprocessed:
    """Whether a dataset was preprocessed from the same cases in the same way.

    `noted`: stamp of what is there, empty if nothing is. `same`: whether it is the one asked for.
    """

    def __init__(self, study: Path, number: int, folders: Sequence[str], facts: Any = None) -> None:
        self._file = study / "trainings" / f"{number}-preprocessed.txt"
        self._data = study / "nnUNet_preprocessed" / dataset_name(number)
        cases = [case.digest for folder in folders for case in read_index(study / folder)]
        self._stamp = digest(cases, facts)
        there = self._file.is_file() and self._data.is_dir()
        self.noted = self._file.read_text(encoding="utf-8") if there else ""
        self.same = self.noted == self._stamp

    def forget(self) -> None:
        """Say that what is there is about to change."""
        self._file.unlink(missing_ok=True)

    def note(self) -> None:
        """Say that it is there now."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._file, self._stamp)


def _spacing(settings: Sequence[str]) -> list[str]:
    """Return the settings that change preprocessed images."""
    return [text for text in settings if text.startswith("spacing")]


def train(
    study: str | Path, *, training: str, seed: int, configuration: str, settings: Sequence[str], device: str,
    stamp: str,
) -> str:  # fmt: skip
    """Plan a variant and train it, going on where an interrupted training stopped; return the model's folder.

    `stamp`: stands for everything that decides the training; one of another stamp is not gone on with.
    """
    study = Path(study)
    row = TRAININGS[training]
    number = MIXED_DATASET if row.mixed else SOURCE_DATASET
    plans = plans_name(training, seed)
    folder = model_folder(number, row.trainer, plans, configuration)
    assigned = [f"train.seed={seed}", *row.settings, *settings]
    plan(str(number), p=BASE, c=configuration, name=plans, preset=row.preset, assignments=assigned, overwrite=True)
    _train(study, number, row.trainer, plans, configuration, device, study / folder, stamp)
    return folder


def plan_target(study: str | Path, *, number: int, folders: Sequence[str], sides: bool) -> None:
    """Write the labelled dataset of a target scanner, to fine-tune on."""
    Preprocessed(Path(study), number, folders).forget()
    described = spec(number, "StudyTarget", sides=sides)
    write_dataset(study, described, folders, (), 1)
    # The plans come from the source model; nnU-Net wants to put the facts about the images beside them.
    command(Path(study), "nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)


def finetune(
    study: str | Path, *, number: int, model: str, n: int, seed: int, configuration: str, settings: Sequence[str],
    device: str, stamp: str, validation: str, folders: Sequence[str],
) -> str:  # fmt: skip
    """Fine-tune a model with `n` cases of a target dataset; return the new model's folder.

    `validation`: the case that is never trained on. `folders`: of the cases of the dataset.
    """
    study = Path(study)
    plans = f"study-finetune{n}-{seed}"
    folder = model_folder(number, FINETUNE, plans, configuration)
    lock = study / "trainings" / f"{number}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # All fine-tunings to one scanner train on the same preprocessed data, perhaps at the same time; to preprocess again
    # would take them away from those that already train.
    with waiting_lock(lock, what="preparing a fine-tuning", patience_s=_PATIENCE_S):
        made = finetune_plan(study / model, str(number), name=plans, n=n, seed=seed, validation=[validation],
                             assignments=list(settings), overwrite=True)  # fmt: skip
        identifier = read_json(made.path)["configurations"][configuration]["data_identifier"]
        done = Preprocessed(study, number, folders, identifier)
        if not done.same:
            done.forget()
            command(study, "nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-c", configuration, "-np", 1)
            done.note()
    _train(study, number, FINETUNE, plans, configuration, device, study / folder, stamp)
    return folder


def _train(
    study: Path, number: int, trainer: str, plans: str, configuration: str, device: str, folder: Path, stamp: str
) -> None:
    begun = study / "trainings" / f"{number}-{plans}.txt"
    same = begun.is_file() and begun.read_text(encoding="utf-8") == stamp
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        begun.parent.mkdir(parents=True, exist_ok=True)
        write_text(begun, stamp)
    kind, gpu = training_device(device, os.environ.get(VISIBLE))
    resumed = ["--c"] if (folder / "fold_0" / "checkpoint_latest.pth").is_file() else []
    command(study, "nnUNetv2_train", number, configuration, 0, "-tr", trainer, "-p", plans,
            "-device", kind, *resumed, training=True, gpu=gpu)  # fmt: skip


def training_device(name: str, visible: str | None) -> tuple[str, str | None]:
    """Return the kind of device for nnU-Net, and the GPU that alone its process may see; None: those of this one.

    nnU-Net knows neither ``auto`` nor a number: it trains on the first GPU that it sees.

    Parameters
    ----------
    visible: CUDA_VISIBLE_DEVICES of this process, which the number counts in; None: it is not set.

    Raises
    ------
    SetupError: there are not so many.
    """
    if name == "auto":
        from nnunet_spine_ext.core.device import choose_device

        return str(choose_device(name).type), None
    kind, _, number = name.partition(":")
    if not number or visible is None:
        return kind, number or None
    # CUDA sees none of those that follow an invalid one.
    listed = list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), map(str.strip, visible.split(","))))
    if int(number) >= len(listed):
        raise SetupError(
            "E-ENV-DEVICE",
            file=f"-device {name}",
            found=f"{VISIBLE}={visible}: {len(listed)} GPUs, counted from 0",
            expected="the number of one of them",
            fix=f"correct -device, or {VISIBLE}",
        )
    return kind, listed[int(number)]
