"""Preprocessed datasets as nnU-Net writes them, small enough to train on in a test, and trainers for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import LABELS14, SIDED14, make_dataset_json, make_plans
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DATASET = "Dataset901_Toy"
SUBJECTS = {"a_1": "anna", "b_1": "bert", "c_1": "cleo"}
SPLITS = [{"train": ["b_1", "c_1"], "val": ["a_1"]}]
CONFIGURATION = "3d_fullres"
PREVIOUS = "3d_lowres"

Change = Callable[[dict[str, Any]], None]


def write_dataset(
    root: Path, plans: dict[str, Any], dataset_json: dict[str, Any], *, shape: Sequence[int] = (18, 20, 22)
) -> Path:
    """Write `nnUNet_preprocessed/DATASET` with images, labels, tables, plans and raw masks; return it."""
    folder = root / DATASET
    data = folder / plans["configurations"][CONFIGURATION]["data_identifier"]
    data.mkdir(parents=True)
    ids = sorted({int(i) for value in dataset_json["labels"].values() for i in np.atleast_1d(value)})
    channels = len(dataset_json["channel_names"])
    for number, case in enumerate(SUBJECTS):
        rng = np.random.default_rng(number)
        image = rng.normal(size=(channels, *shape)).astype(np.float32)
        # Blocks of one label, so that there is something to learn and to move.
        coarse = rng.choice(ids, size=[-(-n // 4) for n in shape])
        labels = np.kron(coarse, np.ones((4, 4, 4))).astype(np.int16)[tuple(map(slice, shape))][None]
        labels[:, :2] = -1
        image += labels * 0.2
        save_case(data / case, image, labels, dataset_json)
    cases = {case: {"subject": subject, "labelled": True} for case, subject in SUBJECTS.items()}
    tables = {
        "cases": {"version": 1, "cases": cases},
        "splits_final": SPLITS,
        "dataset_fingerprint": {},
        "dataset": dataset_json,
        plans["plans_name"]: plans,
    }
    for name, content in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def save_case(path: Path, image: np.ndarray, labels: np.ndarray, dataset_json: dict[str, Any]) -> None:
    """Write one case with the voxels of each class that oversampling looks for."""
    values = dict(dataset_json["labels"])
    ignore = values.pop("ignore", None)
    places = {
        (tuple(value) if isinstance(value, list) else value): np.argwhere(np.isin(labels, value))[:50]
        for name, value in values.items()
        if name != "background"
    }
    if ignore is not None:
        known = sorted({int(i) for value in values.values() for i in np.atleast_1d(value)})
        places[(-1, *known)] = np.argwhere(labels != ignore)[::37]
    grid = {"chunks": image.shape, "blocks": image.shape, "chunks_seg": labels.shape, "blocks_seg": labels.shape}
    spacing = [1.0] * 3
    box = [[0, n] for n in image.shape[1:]]
    properties = {
        "class_locations": places,
        "spacing": spacing,
        "shape_before_cropping": image.shape[1:],
        "bbox_used_for_cropping": box,
        "shape_after_cropping_and_before_resampling": image.shape[1:],
        "nibabel_stuff": {"original_affine": np.eye(4), "reoriented_affine": np.eye(4)},
    }
    nnUNetDatasetBlosc2.save_case(image, labels, properties, str(path), **grid)


def two_dimensional(plans: dict[str, Any]) -> None:
    """Turn the configuration into nnU-Net's 2-D one."""
    content = plans["configurations"][CONFIGURATION]
    content |= {"patch_size": [16, 16], "spacing": content["spacing"][1:]}
    network = content["architecture"]["arch_kwargs"]
    network |= {
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
    }


def cascaded(plans: dict[str, Any]) -> None:
    """Give the configuration a previous stage."""
    plans["configurations"][CONFIGURATION]["previous_stage"] = PREVIOUS
    plans["configurations"][PREVIOUS] = dict(plans["configurations"][CONFIGURATION], next_stage=CONFIGURATION)
    del plans["configurations"][PREVIOUS]["previous_stage"]


def make_trainer(
    kind: type[nnUNetTrainer],
    root: Path,
    *,
    settings: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
    sided: list[list[int]] | None = None,
    channels: int = 1,
    change: Change = lambda plans: None,
    change_dataset: Change = lambda dataset_json: None,
    shape: Sequence[int] = (18, 20, 22),
    **plans_kwargs: Any,
) -> Any:
    """Return a trainer on the CPU; the first call for a folder `root` (nnUNet_preprocessed) writes the dataset."""
    plans = make_plans(channels=channels, **plans_kwargs)
    if settings is not None:
        plans["spine_ext"] = settings
    change(plans)
    sided = (SIDED14 if labels is None else []) if sided is None else sided
    dataset_json = make_dataset_json(labels or LABELS14, sided, channels)
    change_dataset(dataset_json)
    if not (root / DATASET).exists():
        write_dataset(root, plans, dataset_json, shape=shape)
    return kind(plans | {"continue_training": False}, CONFIGURATION, 0, dataset_json, torch.device("cpu"))


def started(trainer: Any) -> Any:
    """Return a trainer that is ready for its first step."""
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


class Seen:
    """Records what the network and the loss get; stands in for nnU-Net's training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[dict[str, Any]] = []
        monkeypatch.setattr(nnUNetTrainer, "train_step", self.step)

    def step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.batches.append(batch)
        return {"loss": np.float32(0)}
