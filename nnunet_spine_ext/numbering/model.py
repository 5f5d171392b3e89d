"""Numbering models on disk: a folder with `numbering_model.json` and one `fold_<k>.safetensors` per fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.model_folders import (
    faults_of_model,
    load_weights,
    misfit,
    read_description,
    weights_file,
    without_description,
    write_weights,
)
from nnunet_spine_ext.numbering.crops import CropSpec
from nnunet_spine_ext.numbering.targets import HEADS

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.networks.level_classifier import LevelClassifier

MODEL_FILE = "numbering_model.json"
FORMAT_VERSION = 1
# For networks without a calibration. On phantoms 1.5 left 1.4 % of parts of spines with a wrong level, 1 left 4.2 %.
UNCALIBRATED = 1.5


@dataclass(frozen=True)
class NetworkShape:
    """Size of a `LevelClassifier`; see there for the parameters."""

    width: int = 16
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    stem: tuple[int, int, int] = (2, 2, 1)
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not self.blocks or min(self.width, *self.blocks, *self.stem) < 1 or not 0 <= self.dropout < 1:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="network",
                found=f"width {self.width}, blocks {list(self.blocks)}, stem {list(self.stem)}, dropout {self.dropout}",
                expected="numbers from 1 on, dropout from 0 to below 1",
                fix="correct the settings of the network",
            )

    def build(self, spec: CropSpec) -> LevelClassifier:
        """Return a new network for these patches."""
        from nnunet_spine_ext.networks.level_classifier import LevelClassifier

        return LevelClassifier(spec.channels, HEADS, self.width, self.blocks, self.stem, self.dropout)


@dataclass(frozen=True)
class NumberingModel:
    """Content of `numbering_model.json`.

    Parameters
    ----------
    crop: the patches.
    network: its size.
    folds: numbers of the folds whose weights are in the folder.
    contrasts: what `cases.json` says about the images of the training; empty: nothing.
    temperatures: by fold, how much too sure its network was on validation spines (`training.calibrate`); folds without
        a calibration have none.
    provenance: where the weights are from; free JSON.
    """

    format_version: int = FORMAT_VERSION
    crop: CropSpec = field(default_factory=CropSpec)
    network: NetworkShape = field(default_factory=NetworkShape)
    folds: tuple[int, ...] = ()
    contrasts: tuple[str, ...] = ()
    temperatures: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = {fold: value for fold, value in self.temperatures.items() if not 0.1 <= value <= 100}
        if wrong:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="temperatures",
                found=", ".join(f"fold {fold}: {value}" for fold, value in wrong.items()),
                expected="0.1 to 100",
                fix="train that fold again",
            )

    def temperature(self, folds: Sequence[int]) -> float:
        """Return the temperature for the mean of some folds' answers: the geometric mean of theirs."""
        known = [self.temperatures.get(str(fold), UNCALIBRATED) for fold in folds]
        return math.exp(sum(map(math.log, known)) / len(known)) if known else UNCALIBRATED


def write_numbering_model(
    folder: str | Path, model: NumberingModel, fold: int, state: Mapping[str, torch.Tensor]
) -> NumberingModel:
    """Write one fold of a model; folds that the folder has already stay.

    Parameters
    ----------
    model: its `folds` are those that are in the folder, with this one.
    state: state dict of the network of this fold.

    Raises
    ------
    SetupError: the folder holds a model of other patches or another size, or none that can be read.
    UsageError: a state dict that does not fit.
    """
    folder = Path(folder)
    known = check_same_model(folder, model.crop, model.network)
    if complaint := misfit(state, model.network.build(model.crop).state_dict()):
        raise UsageError(
            "E-MODEL-NUMBERING",
            file=f"fold {fold}",
            found=complaint,
            expected="the weights of a LevelClassifier of this size",
            fix="correct the settings of the network",
        )
    write_weights(folder, fold, state)
    folds = tuple(sorted({*(known.folds if known else ()), fold}))
    written = replace(model, format_version=FORMAT_VERSION, folds=folds)
    # Written last: a folder without it is no model, so a stopped run leaves nothing that looks complete.
    write_json(folder / MODEL_FILE, to_dict(written))
    return written


def check_same_model(folder: str | Path, crop: CropSpec, network: NetworkShape) -> NumberingModel | None:
    """Return the model that a folder has; None: it has none.

    Raises SetupError when it has one of other patches or another size.
    """
    known = read_numbering_model(folder) if (Path(folder) / MODEL_FILE).exists() else None
    if known is not None and (known.crop, known.network) != (crop, network):
        raise SetupError(
            "E-MODEL-NUMBERING",
            file=folder,
            found="a numbering model of other patches or another size",
            expected="folds of one model in one folder",
            fix="choose another folder",
        )
    return known


def read_numbering_model(folder: str | Path) -> NumberingModel:
    """Read the description of a model, without its weights.

    Raises
    ------
    SetupError: no such model, a file that cannot be read, an unknown version or key, an impossible value.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise unusable(
            folder, without_description(folder, MODEL_FILE), "give the folder that nnUNetv2_spine_train_numbering wrote"
        )
    content = read_description(path, FORMAT_VERSION, unusable)
    with faults_of_model(path):
        model = load_config(NumberingModel, content, where=str(path))
    if not model.folds:
        raise unusable(path, "a model without folds", "finish the training of one fold")
    if strange := sorted(set(model.temperatures) - {str(fold) for fold in model.folds}):
        found = f"temperatures of folds that are not there: {', '.join(strange)}"
        raise unusable(path, found, f"name them as the folds: {', '.join(map(str, model.folds))}")
    return model


def load_fold(folder: str | Path, model: NumberingModel, fold: int) -> LevelClassifier:
    """Return the network of a fold with its weights, on the CPU, in evaluation mode.

    Raises SetupError: no such fold, weights that are damaged or belong to another network.
    """
    if fold not in model.folds:
        raise unusable(folder, f"no fold {fold}", f"choose among {', '.join(map(str, model.folds))}")
    network = model.network.build(model.crop)
    load_weights(weights_file(folder, fold), network, MODEL_FILE, unusable)
    return network.eval()


def unusable(file: str | Path, found: str, fix: str) -> SetupError:
    """Return the error for a folder or file that is no numbering model."""
    return SetupError("E-MODEL-NUMBERING", file=file, found=found, expected="a numbering model", fix=fix)
