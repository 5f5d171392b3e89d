"""The folder of a trained model: found, complete, loaded without running code that it carries."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json, sha256

_NEEDED = ("network_weights", "trainer_name", "init_args")


@dataclass(frozen=True)
class TrainedModel:
    """A model folder in memory.

    `parameters` holds one state dict per fold; `mirror_axes` nnU-Net's test-time mirroring axes.
    `digest` is a SHA-256 over plans, dataset.json and checkpoints.
    """

    folder: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folds: tuple[str, ...]
    checkpoint: str
    trainer_name: str
    configuration: str
    mirror_axes: tuple[int, ...] | None
    parameters: list[dict[str, Any]]
    digest: str

    @property
    def channels(self) -> list[str]:
        """Names of the input channels in order."""
        names = self.dataset_json.get("channel_names", self.dataset_json.get("modality", {}))
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def labels(self) -> dict[int, str]:
        """Ids and names of the foreground classes (without background and ignore)."""
        skip = ("background", "ignore")
        return {int(v): str(k) for k, v in self.dataset_json["labels"].items() if k not in skip and isinstance(v, int)}


def find_model_folder(m: str | None, d: str | None, tr: str, p: str, c: str) -> Path:
    """Return the folder of a model given as such (`m`) or by dataset, trainer, plans and configuration.

    Raises SetupError if it is not there.
    """
    if m is not None:
        return Path(m)
    root = os.environ.get("nnUNet_results")
    if not root:
        raise SetupError(
            "E-ENV-PATH",
            file="nnUNet_results",
            found="not set",
            expected="nnU-Net's folder of trained models",
            fix="export nnUNet_results=… or give the model folder with -m",
        )
    dataset = str(d)
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    datasets = sorted(f for f in Path(root).glob(pattern) if f.is_dir())
    if len(datasets) != 1:
        known = ", ".join(f.name for f in sorted(Path(root).glob("Dataset*"))) or "none"
        raise SetupError(
            "E-MODEL-FOLDER",
            file=root,
            found=f"{len(datasets)} folders {pattern}",
            expected="one trained dataset",
            fix=f"there: {known}",
        )
    folder = datasets[0] / f"{tr}__{p}__{c}"
    if not folder.is_dir():
        fix = nearest(folder.name, [f.name for f in datasets[0].iterdir() if f.is_dir()])
        raise SetupError("E-MODEL-FOLDER", file=folder, found="no such model", expected="a trained model", fix=fix)
    return folder


def load_model(
    folder: str | Path,
    folds: tuple[str, ...] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    *,
    trust: bool = False,
) -> TrainedModel:
    """Load plans, dataset.json and the checkpoints of a model folder.

    Parameters
    ----------
    folds: names such as ``("0", "1")`` or ``("all",)``; None takes every numbered fold that has the checkpoint.

    Raises
    ------
    SetupError: missing or damaged parts, or pickled code in a checkpoint (without `trust`).
    """
    folder = Path(folder)
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise SetupError(
                "E-MODEL-FOLDER",
                file=folder,
                found=f"no {name}",
                expected="plans.json, dataset.json and fold_X/ as nnU-Net writes them",
                fix="check the path; it ends in <trainer>__<plans>__<configuration>",
            )
    chosen = _folds(folder, folds, checkpoint)
    contents = [load_checkpoint(folder / f"fold_{fold}" / checkpoint, trust=trust) for fold in chosen]
    first = contents[0]
    for fold, content in zip(chosen, contents, strict=True):
        missing = [key for key in _NEEDED if key not in content]
        if missing:
            raise SetupError(
                "E-MODEL-CHECKPOINT",
                file=folder / f"fold_{fold}" / checkpoint,
                found=f"no {', '.join(missing)}",
                expected="a checkpoint written by nnU-Net v2",
                fix="choose another checkpoint",
            )
    axes = first.get("inference_allowed_mirroring_axes")
    return TrainedModel(
        folder=folder,
        plans=_json(folder / "plans.json"),
        dataset_json=_json(folder / "dataset.json"),
        folds=chosen,
        checkpoint=checkpoint,
        trainer_name=str(first["trainer_name"]),
        configuration=str(first["init_args"]["configuration"]),
        mirror_axes=tuple(axes) if axes else None,
        parameters=[content["network_weights"] for content in contents],
        digest=_digest(folder, chosen, checkpoint),
    )


def _folds(folder: Path, folds: tuple[str, ...] | None, checkpoint: str) -> tuple[str, ...]:
    found = sorted(f.name.removeprefix("fold_") for f in folder.glob("fold_*") if (f / checkpoint).is_file())
    chosen = tuple(str(f) for f in folds) if folds else tuple(f for f in found if f != "all")
    missing = [f for f in chosen if f not in found]
    if missing or not chosen:
        raise SetupError(
            "E-MODEL-FOLD",
            file=folder,
            found=f"{checkpoint} in fold {', '.join(found) or 'none'}",
            expected=f"fold {', '.join(missing) or 'any number'}",
            fix="finish the training, or choose with -f and -chk",
        )
    return chosen


def _json(path: Path) -> dict[str, Any]:
    from nnunet_spine_ext.core.errors import CaseError

    try:
        content: dict[str, Any] = read_json(path)
    except CaseError as error:
        raise SetupError(
            "E-MODEL-FOLDER",
            file=path,
            found=error.found,
            expected="JSON as nnU-Net writes it",
            fix="copy the model again",
        ) from error
    return content


def _digest(folder: Path, folds: tuple[str, ...], checkpoint: str) -> str:
    digest = hashlib.sha256()
    for path in (folder / "plans.json", folder / "dataset.json", *(folder / f"fold_{f}" / checkpoint for f in folds)):
        digest.update(sha256(path).encode())
    return digest.hexdigest()
