"""Is a model folder complete, and is it safe to load?

Stock nnU-Net commands unpickle whatever a checkpoint carries: look at a folder of unknown origin here first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.files import check_path
from nnunet_spine_ext.check.model_folder import FINAL, checkpoints_in, folds_in, wrong_level
from nnunet_spine_ext.check.report import Row
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.io import read_json

READER = "NibabelIOWithReorient"
_PARTS = "plans.json, dataset.json and fold_0/checkpoint_final.pth"
_PLANS_KEYS = ("configurations", "transpose_forward")
_DATASET_KEYS = ("labels", "channel_names", "file_ending")
_CHECKPOINT_KEYS = ("network_weights", "trainer_name", "init_args")


@dataclass
class ModelLook:
    """What was found in a model folder, row by row, and the trainers that its checkpoints name."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    trainers: list[str] = field(default_factory=list)


def look_at_model(folder: str | Path, *, load: bool = True) -> ModelLook:
    """Look at a model folder such as ``nnUNet_results/Dataset501_X/TRAINER__PLANS__CONFIGURATION``.

    `load`: also load every checkpoint (imports torch), without running code that it carries.
    """
    look = ModelLook(Path(folder))
    wrong = wrong_level(look.folder)
    if wrong is not None:
        problem = finding("E-MODEL-FOLDER", folder, wrong[0], hint=f"the folder of a model, with {_PARTS}")
        look.rows.append(Row("folder", str(folder), replace(problem, fix=wrong[1])))
        return look
    plans = _json_row(look, "plans.json", _PLANS_KEYS)
    dataset = _json_row(look, "dataset.json", _DATASET_KEYS)
    if plans is not None:
        look.rows.append(_settings_row(look.folder, plans))
    checkpoints = list(_folds(look))
    for path in checkpoints:
        if load:
            look.rows.append(_checkpoint_row(look, path, plans or {}, dataset or {}))
        else:
            look.rows.append(Row(_short(look, path), "not loaded", plain=True))
    return look


def _short(look: ModelLook, path: Path) -> str:
    return str(path.relative_to(look.folder))


def _json_row(look: ModelLook, name: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    path = look.folder / name
    if not path.is_file():
        look.rows.append(Row(name, "missing", finding("E-MODEL-FOLDER", path, "no such file", hint=_PARTS)))
        return None
    try:
        content = read_json(path)
    except CaseError as error:
        look.rows.append(Row(name, "unreadable", finding("E-MODEL-JSON", path, error.found, hint="a JSON file")))
        return None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        problem = finding("E-MODEL-JSON", path, f"no {', '.join(missing)}", hint=", ".join(keys))
        look.rows.append(Row(name, "incomplete", problem))
        return None
    look.rows.append(Row(name, _summary(name, content)))
    return dict(content)


def _summary(name: str, content: Mapping[str, Any]) -> str:
    if name == "plans.json":
        return f"{content.get('plans_name', '')}: {', '.join(content['configurations'])}".lstrip(": ")
    channels = ", ".join(map(str, content["channel_names"].values()))
    return f"{len(content['labels'])} labels; channels {channels}; {content['file_ending']}"


def _settings_row(folder: Path, plans: Mapping[str, Any]) -> Row:
    settings = plans.get("spine_ext")
    if settings is None:
        return Row("spine_ext", "none: a model of stock nnU-Net", plain=True)
    if not isinstance(settings, dict) or settings.get("version", 1) != 1:
        found = f"version {settings.get('version')}" if isinstance(settings, dict) else type(settings).__name__
        return Row("spine_ext", "not understood", finding("E-MODEL-SETTINGS", folder / "plans.json", found))
    data, predict = settings.get("data") or {}, settings.get("predict") or {}
    parts = [f"preset {settings.get('preset') or 'none'}", f"scheme {data.get('scheme', 'not stated')}"]
    parts += [f"{key}={value}" for key, value in predict.items()]
    return Row("spine_ext", ", ".join(parts))


def _folds(look: ModelLook) -> Iterator[Path]:
    """Add rows for folds without a final checkpoint and yield every checkpoint there is."""
    folds = [look.folder / f"fold_{fold}" for fold in folds_in(look.folder)]
    if not folds:
        problem = finding("E-MODEL-FOLDER", look.folder, "no folder fold_0, fold_1, … or fold_all", hint=_PARTS)
        look.rows.append(Row("folds", "none", problem))
    for fold in folds:
        names = checkpoints_in(fold)
        if not names:
            look.rows.append(Row(fold.name, "no checkpoint", finding("E-MODEL-FOLD", fold, "no checkpoint")))
        elif FINAL not in names:
            problem = finding("W-MODEL-UNFINISHED", fold, f"only {', '.join(names)}", hint=names[0])
            look.rows.append(Row(fold.name, "not finished", problem))
        yield from (fold / name for name in names)


def _checkpoint_row(look: ModelLook, path: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> Row:
    from nnunet_spine_ext.core.checkpoint import load_checkpoint

    name = _short(look, path)
    outside = check_path(path)
    if outside is not None:
        problem = finding("E-MODEL-CHECKPOINT", path, f"{outside.found}; {outside.fix}", hint="a complete checkpoint")
        return Row(name, "unusable", problem)
    try:
        content = load_checkpoint(path)
    except SetupError as error:
        return Row(name, "refused" if error.code == "E-MODEL-CODE" else "unusable", error.problem())
    missing = [key for key in _CHECKPOINT_KEYS if key not in content]
    if missing:
        hint = f"a checkpoint of nnU-Net with {', '.join(_CHECKPOINT_KEYS)}"
        return Row(name, "unusable", finding("E-MODEL-CHECKPOINT", path, f"no {', '.join(missing)}", hint=hint))
    trainer = str(content["trainer_name"])
    if trainer not in look.trainers:
        look.trainers.append(trainer)
    return _content_row(name, path, content, plans, dataset)


def _content_row(
    name: str, path: Path, content: Mapping[str, Any], plans: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Row:
    import torch

    configuration = content["init_args"].get("configuration")
    known = list(plans.get("configurations", {}))
    weights = [w for w in content["network_weights"].values() if isinstance(w, torch.Tensor)]
    value = f"loads safely: {content['trainer_name']}, {sum(w.numel() for w in weights) / 1e6:.1f} million weights"
    if known and configuration not in known:
        found = f"a checkpoint of configuration {configuration}"
        return Row(name, value, finding("E-MODEL-CHECKPOINT", path, found, hint=f"one of {', '.join(known)}"))
    broken = sum(not bool(torch.isfinite(w).all()) for w in weights if w.is_floating_point())
    if broken:
        found = f"{broken} tensors with weights that are NaN or infinite"
        return Row(name, value, finding("E-MODEL-CHECKPOINT", path, found, hint="finite weights"))
    return Row(name, value, _sides(path, content, plans, dataset))


def _sides(path: Path, content: Mapping[str, Any], plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> Any:
    """Warn where nnU-Net would mirror sided classes, or feed the network another orientation than in training."""
    facts = dataset.get("spine_ext") or (plans.get("spine_ext") or {}).get("data") or {}
    if not facts.get("sided_labels"):
        return None
    size = (
        plans.get("configurations", {}).get(content["init_args"].get("configuration"), {}).get("patch_size", (0,) * 3)
    )
    # Axes of a patch: a 2-D one lacks the first axis of the volume.
    axis = list(plans.get("transpose_forward", (0, 1, 2))).index(2) - (3 - len(size))
    if axis in (content.get("inference_allowed_mirroring_axes") or ()):
        hint = f"mirroring axes without {axis}, the left-right axis"
        return finding("W-MODEL-SIDES", path, f"test-time mirroring along axis {axis}", hint=hint)
    reader = plans.get("image_reader_writer", READER)
    if reader != READER:
        return finding("W-MODEL-SIDES", path, f"reader {reader}", hint=f"reader {READER}")
    return None
