"""Which level of nnU-Net's folders a path is on, and where the model that was meant lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_spine_ext.check.files import check_path

FINAL = "checkpoint_final.pth"
FOLD = re.compile(r"fold_(\d+|all)")
MODEL_FILES = ("plans.json", "dataset.json")
_SHOWN = 5


def wrong_level(folder: Path) -> tuple[str, str] | None:
    """Return what a path is if it is not the folder of a model, and the nearest path that is; None if it is one.

    A folder with plans.json or a fold in it counts as a model, complete or not.
    """
    if not folder.is_dir():
        return _no_folder(folder)
    if is_model(folder):
        return None
    return _inside_a_model(folder) or _above_models(folder) or _beside_models(folder)


def is_model(folder: Path) -> bool:
    """Whether a folder is that of a model, perhaps not a complete one: it has plans.json or folds."""
    return (folder / "plans.json").is_file() or bool(folds_in(folder))


def folds_in(folder: Path) -> list[str]:
    """Return the names behind ``fold_`` of a model's folds, in order."""
    try:
        names = sorted(f.name for f in folder.iterdir() if f.is_dir() and FOLD.fullmatch(f.name))
    except OSError:
        return []
    return [name.removeprefix("fold_") for name in names]


def checkpoints_in(fold: Path) -> list[str]:
    """Return the names of the checkpoints in a fold."""
    return sorted(f.name for f in fold.glob("checkpoint*.pth"))


def _no_folder(path: Path) -> tuple[str, str]:
    if path.is_file():
        if path.suffix == ".zip":
            return "a zip file", f"unpack it: nnUNetv2_install_pretrained_model_from_zip {path}"
        return _inside_a_model(path) or ("a file", "give the folder that holds plans.json, dataset.json and fold_0")
    inside = _inside_a_model(path)
    if inside is not None:
        return f"no such folder in the model {path.absolute().parent.name}", inside[1]
    problem = check_path(path)
    near = problem.fix.partition("; ")[2] if problem is not None and problem.code == "E-IN-MISSING" else ""
    found = problem.found.replace("no such file", "no such folder") if problem is not None else "no folder"
    return found, near or "check the path and its spelling"


def _inside_a_model(path: Path) -> tuple[str, str] | None:
    kind = "a fold folder, one level below the model" if FOLD.fullmatch(path.name) else "a place inside a model"
    for parent in Path(os.path.normpath(path.absolute())).parents:
        if is_model(parent):
            return kind, f"give the model's folder: {parent}"
    return None


def _above_models(folder: Path) -> tuple[str, str] | None:
    levels = {
        "*": "a dataset's folder, one level above its models",
        "*/*": "a folder of datasets, two levels above models",
    }
    for pattern, kind in levels.items():
        models = sorted(f.parent for f in folder.glob(f"{pattern}/plans.json") if folds_in(f.parent))
        if models:
            what = "the model's folder" if len(models) == 1 else "one of its models"
            return kind, f"give {what}: {_listed(models)}"
    return None


def _beside_models(folder: Path) -> tuple[str, str]:
    """Name a folder that holds no model, and the models of the same dataset in nnU-Net's results."""
    kind = "a folder without a model"
    if (folder / "imagesTr").is_dir():
        kind = "a raw dataset, which has no model in it"
    elif (folder / "dataset.json").is_file() and any(folder.glob("*lans*.json")):
        kind = "a preprocessed dataset, which has no model in it"
    results = os.environ.get("nnUNet_results", "")
    models = sorted(f.parent for f in Path(results).glob(f"{folder.name}/*/plans.json")) if results else []
    what = "the model of this dataset" if len(models) == 1 else "one of the models of this dataset"
    return kind, f"give {what}: {_listed(models)}" if models else "check the path"


def _listed(models: list[Path]) -> str:
    more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
    return ", ".join(map(str, models[:_SHOWN])) + more
