"""A source model and a target dataset of five subjects, small enough to fine-tune in a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_builder import LABELS14, SIDED14, make_dataset_json, make_model
from preprocessed_builder import save_case

from nnunet_spine_ext.training.finetune import nnUNetTrainerSpineFinetune
from nnunet_spine_ext.training.finetune_plan import finetune_plan

SOURCE = "Dataset901_Toy"
TARGET = "Dataset902_Target"
NAME = "ft"
CONFIGURATION = "3d_fullres"
# Five subjects on two scanners; one was scanned twice, one has no labels.
CASES = {
    "a_1": ("anna", "ge", True), "a_2": ("anna", "ge", True), "b_1": ("bert", "ge", True),
    "c_1": ("cleo", "philips", True), "d_1": ("dora", "philips", True), "e_1": ("emil", "ge", False),
}  # fmt: skip
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 1}

Change = Callable[[dict[str, Any]], None]
State = dict[str, torch.Tensor]


def nothing(_content: dict[str, Any]) -> None:
    """Change nothing."""


def edit(path: Path, change: Change) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def source_model(
    folders: dict[str, Path],
    *,
    trainer: str = "nnUNetTrainerSpine",
    change: Change = nothing,
    labels: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Path:
    """Write a model in nnUNet_results and return its folder; `change` edits its plans."""
    labels = labels or LABELS14
    folder = folders["nnUNet_results"] / SOURCE / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
    sided = SIDED14 if labels is LABELS14 else []
    make_model(folder, labels=labels, sided=sided, trainer=trainer, **kwargs)
    if trainer.startswith("nnUNetTrainerSpine"):
        edit(folder / "plans.json", lambda plans: plans["spine_ext"].update(train=SHORT | (train or {})))
    edit(folder / "plans.json", change)
    return folder


def target_dataset(
    folders: dict[str, Path], *, labels: dict[str, Any] | None = None, channels: int = 1, change: Change = nothing
) -> Path:
    """Write what conversion and fingerprint extraction leave in nnUNet_preprocessed; return the folder."""
    folder = folders["nnUNet_preprocessed"] / TARGET
    (folder / "gt_segmentations").mkdir(parents=True)
    rows = {
        case: {"subject": subject, "site": site, "labelled": labelled}
        for case, (subject, site, labelled) in CASES.items()
    }
    for case in CASES:
        (folder / "gt_segmentations" / f"{case}.nii.gz").touch()
    labels = labels or LABELS14
    dataset_json = make_dataset_json(labels, SIDED14 if labels is LABELS14 else [], channels)
    change(dataset_json)
    for name, content in (
        ("cases", {"version": 1, "cases": rows}),
        ("dataset", dataset_json),
        ("dataset_fingerprint", {}),
        ("splits_final", [{"train": ["b_1"], "val": ["c_1"]}]),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def preprocess(folder: Path, name: str = NAME) -> None:
    """Write preprocessed cases where plans of that name look for them."""
    plans = json.loads((folder / f"{name}.json").read_text())
    dataset_json = json.loads((folder / "dataset.json").read_text())
    data = folder / plans["configurations"][CONFIGURATION]["data_identifier"]
    data.mkdir(exist_ok=True)
    ids = sorted(int(i) for i in dataset_json["labels"].values())
    for number, case in enumerate(CASES):
        rng = np.random.default_rng(number)
        labels = np.kron(rng.choice(ids, size=(5, 5, 5)), np.ones((4, 4, 4))).astype(np.int16)[None, :18, :20, :20]
        image = rng.normal(size=labels.shape).astype(np.float32) + labels * 0.2
        save_case(data / case, image, labels, dataset_json)


def planned(
    folders: dict[str, Path],
    *,
    source: dict[str, Any] | None = None,
    target: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Make source model, target dataset, plans and data; return the target's folder."""
    model = source_model(folders, **(source or {}))
    folder = target_dataset(folders, **(target or {}))
    finetune_plan(model, "902", **({"name": NAME, "n": 2} | options))
    preprocess(folder, options.get("name", NAME))
    return folder


def trainer_of(
    folder: Path,
    name: str = NAME,
    *,
    fold: int | str = 0,
    kind: Any = nnUNetTrainerSpineFinetune,
    change: Change = nothing,
) -> Any:
    """Return a trainer as nnUNetv2_train makes it."""
    plans = json.loads((folder / f"{name}.json").read_text()) | {"continue_training": False}
    change(plans)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    return kind(plans, CONFIGURATION, fold, dataset_json, torch.device("cpu"))


def source_weights(folders: dict[str, Path]) -> State:
    """Return the weights of the source model."""
    path = next(folders["nnUNet_results"].glob("Dataset901*/*/fold_0/checkpoint_final.pth"))
    weights: State = torch.load(path, weights_only=False)["network_weights"]
    return weights


def copied(trainer: Any) -> State:
    """Return the weights of a trainer as they are now."""
    return {key: value.detach().clone() for key, value in trainer.network.state_dict().items()}


def equal(one: State, other: State) -> set[str]:
    """Return the names of the tensors that are equal to the byte."""
    return {key for key in one if one[key].numpy().tobytes() == other[key].numpy().tobytes()}
