"""Where trainings of instance and numbering networks put their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from nnunet_spine_ext.core.epochs import STATE_FILE
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.lock import waiting_lock
from nnunet_spine_ext.instances.training.dataset import ALL


def model_folder(dataset: Path, o: str | Path | None, name: str, wanted: Sequence[str]) -> Path:
    """Return the folder of a model: `o`, else the name in nnU-Net's results; SetupError where they are not set."""
    if o is not None:
        return Path(o)
    results = os.environ.get("nnUNet_results", "")
    if not results:
        raise SetupError(
            "E-ENV-PATH",
            file="nnUNet_results",
            found="not set",
            expected="nnU-Net's folder of trained models",
            fix="export nnUNet_results=… or say with -o where the model goes",
        )
    return Path(results) / dataset.name / (f"{name}_{ALL}" if list(wanted) == [ALL] else name)


def refuse_existing(folder: Path, wanted: Sequence[str]) -> None:
    """Raise UsageError when a fold has a state of an earlier training."""
    there = [fold for fold in wanted if (fold_folder(folder, fold) / STATE_FILE).is_file()]
    if there:
        raise UsageError(
            "E-TRAIN-EXISTS",
            file=folder,
            found=f"fold {', '.join(there)} of an earlier training",
            expected="a new folder",
            fix="--resume goes on with it, --overwrite starts anew, -o or --name chooses another folder",
        )


def fold_folder(folder: Path, fold: str) -> Path:
    """Return where the training of a fold keeps its files."""
    return folder / "training" / f"fold_{fold}"


def publishing(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder of a model while its description changes; waits for another fold that does the same."""
    (folder / "training").mkdir(parents=True, exist_ok=True)
    return waiting_lock(folder / "training" / "lock", what="writing a fold into the model")


def cache_folder(dataset: Path, folder: Path, name: str) -> Path:
    """Return where what several trainings share is kept: in nnU-Net's preprocessed folder, else beside the model."""
    preprocessed = os.environ.get("nnUNet_preprocessed", "")
    return Path(preprocessed) / dataset.name / name if preprocessed else folder / "training" / name
