"""The folder of a trained model: found, complete, loaded without running code that it carries."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.model_folder import FINAL, MODEL_FILES, checkpoints_in, folds_in, wrong_level
from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset_names import dataset_pattern
from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.io import read_json, sha256

logger = logging.getLogger(__name__)
_EXPECTED = "the folder <trainer>__<plans>__<configuration> of a model, with plans.json, dataset.json and fold_X"
_NEEDED = ("network_weights", "trainer_name", "init_args")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that is complete, before its checkpoints are opened.

    `digest` is a SHA-256 over plans, dataset.json and checkpoints.
    """

    folder: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folds: tuple[str, ...]
    checkpoint: str
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


@dataclass(frozen=True)
class TrainedModel(ModelFolder):
    """A model in memory: `parameters` holds one state dict per fold, `mirror_axes` nnU-Net's test-time axes."""

    trainer_name: str
    configuration: str
    mirror_axes: tuple[int, ...] | None
    parameters: list[dict[str, Any]]


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
    pattern = dataset_pattern(dataset)
    datasets = sorted(f for f in Path(root).glob(pattern) if f.is_dir())
    if len(datasets) != 1:
        found = (
            f"{len(datasets)} folders {pattern} in nnUNet_results" if datasets else f"no {pattern} in nnUNet_results"
        )
        trained = [f.name for f in Path(root).glob("Dataset*")]
        fix = nearest(dataset, trained) if trained else "train a model first, or give a model folder with -m"
        raise SetupError("E-MODEL-FOLDER", file=root, found=found, expected="one trained dataset", fix=fix)
    folder = datasets[0] / f"{tr}__{p}__{c}"
    if not folder.is_dir():
        fix = nearest(folder.name, [f.name for f in datasets[0].iterdir() if f.is_dir()])
        raise SetupError("E-MODEL-FOLDER", file=folder, found="no such model", expected="a trained model", fix=fix)
    return folder


def open_model_folder(folder: str | Path, folds: tuple[str, ...] | None = None, checkpoint: str = FINAL) -> ModelFolder:
    """Read plans and dataset.json and choose the folds; no checkpoint is opened and PyTorch is not needed.

    Parameters
    ----------
    folds: names such as ``("0", "1")`` or ``("all",)``; None takes every numbered fold that has the checkpoint, else
        ``all``.

    Raises
    ------
    SetupError: another folder than that of a model, or parts that are missing or damaged; says which and what is near.
    """
    folder = Path(folder)
    wrong = wrong_level(folder)
    if wrong is not None:
        raise SetupError("E-MODEL-FOLDER", file=folder, found=wrong[0], expected=_EXPECTED, fix=wrong[1])
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise _incomplete(folder, name)
    chosen = _folds(folder, folds, checkpoint)
    return ModelFolder(
        folder=folder,
        plans=_json(folder / "plans.json", ("configurations", "transpose_forward", "image_reader_writer")),
        dataset_json=_json(folder / "dataset.json", ("labels",)),
        folds=chosen,
        checkpoint=checkpoint,
        digest=_digest(folder, chosen, checkpoint),
    )


def load_model(
    folder: str | Path,
    folds: tuple[str, ...] | None = None,
    checkpoint: str = FINAL,
    *,
    trust: bool = False,
) -> TrainedModel:
    """Load plans, dataset.json and the checkpoints of a model folder; see `open_model_folder` and `load_weights`."""
    return load_weights(open_model_folder(folder, folds, checkpoint), trust=trust)


def load_weights(model: ModelFolder, *, trust: bool = False) -> TrainedModel:
    """Load the checkpoints of a model.

    Raises SetupError for damaged ones, and for pickled code in one (without `trust`).
    """
    paths = [model.folder / f"fold_{fold}" / model.checkpoint for fold in model.folds]
    contents = [load_checkpoint(path, trust=trust) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        missing = [key for key in _NEEDED if key not in content]
        if missing:
            raise SetupError(
                "E-MODEL-CHECKPOINT",
                file=path,
                found=f"no {', '.join(missing)}",
                expected="a checkpoint written by nnU-Net v2",
                fix="choose another checkpoint",
            )
    first = contents[0]
    axes = first.get("inference_allowed_mirroring_axes")
    return TrainedModel(
        **vars(model),
        trainer_name=str(first["trainer_name"]),
        configuration=str(first["init_args"]["configuration"]),
        mirror_axes=tuple(axes) if axes else None,
        parameters=[content["network_weights"] for content in contents],
    )


def _incomplete(folder: Path, name: str) -> SetupError:
    there = [other for other in MODEL_FILES if (folder / other).is_file()]
    there += [f"fold_{fold}" for fold in folds_in(folder)]
    fix = "copy the whole folder again from where the model was trained"
    preprocessed = os.environ.get("nnUNet_preprocessed")
    # nnU-Net copies this file as it is; the plans it completes when training starts.
    if name == "dataset.json" and preprocessed:
        original = Path(preprocessed) / folder.absolute().parent.name / name
        fix = f"copy {original} to it" if original.is_file() else fix
    found = f"a model folder without {name} ({', '.join(there)} are there)"
    return SetupError("E-MODEL-FOLDER", file=folder, found=found, expected=_EXPECTED, fix=fix)


def _folds(folder: Path, folds: tuple[str, ...] | None, checkpoint: str) -> tuple[str, ...]:
    """Return the folds to use; raises SetupError when there is none, or one that is asked for is not there."""
    there = folds_in(folder)
    found = [fold for fold in there if (folder / f"fold_{fold}" / checkpoint).is_file()]
    chosen = tuple(map(str, folds or ())) or tuple(fold for fold in found if fold != "all") or tuple(found)
    missing = [fold for fold in chosen if fold not in found]
    if missing or not chosen:
        raise _no_fold(folder, missing or there, checkpoint)
    lacking = [fold for fold in there if fold not in found and fold != "all"]
    if lacking and not folds:
        logger.warning("%s: fold %s left out, without %s", folder, ", ".join(lacking), checkpoint)
    return chosen


def _no_fold(folder: Path, wanted: list[str], checkpoint: str) -> SetupError:
    there = folds_in(folder)
    absent = [fold for fold in wanted if fold not in there]
    others = sorted({name for fold in wanted for name in checkpoints_in(folder / f"fold_{fold}")})
    if absent or not there:
        found = f"no fold {', '.join(absent) or '0'} (folds there: {', '.join(there) or 'none'})"
        fix = "choose with -f, or train that fold"
    elif others:
        found = f"no {checkpoint} in fold {', '.join(wanted)} (there: {', '.join(others)})"
        finish = "finish the training with nnUNetv2_train … --c, or " if checkpoint == FINAL else ""
        fix = f"{finish}predict with -chk {others[0]}"
    else:
        found = f"no checkpoint in fold {', '.join(wanted)}"
        fix = "finish the training, or copy the file again"
    return SetupError("E-MODEL-FOLD", file=folder, found=found, expected=f"fold_X/{checkpoint}", fix=fix)


def _json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(path)
        missing = [key for key in keys if key not in content]
        found = f"no {', '.join(missing)}" if missing else "" if isinstance(content, dict) else "no mapping"
    except (CaseError, TypeError) as error:
        found = getattr(error, "found", "no mapping")
    if found:
        expected = f"JSON with {', '.join(keys)}, as nnU-Net writes it"
        raise SetupError("E-MODEL-JSON", file=path, found=found, expected=expected, fix="copy the model again")
    return content


def _digest(folder: Path, folds: tuple[str, ...], checkpoint: str) -> str:
    digest = hashlib.sha256()
    for path in (folder / "plans.json", folder / "dataset.json", *(folder / f"fold_{f}" / checkpoint for f in folds)):
        digest.update(sha256(path).encode())
    return digest.hexdigest()
