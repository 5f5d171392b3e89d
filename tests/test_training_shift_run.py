"""A training with augmentation on the device through nnU-Net's own run function, and stock prediction of its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import LABELS14, SIDED14, make_dataset_json, make_image, make_plans, stock_predict
from nnunetv2.run.run_training import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import CONFIGURATION, DATASET, write_dataset

from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.training.settings import settings_from_plans

NAME = "nnUNetTrainerSpineShift"
PLANS = "spineShift"
TRAIN = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 3, "save_every": 1}


@pytest.fixture
def trained(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model trained for two epochs, without nnU-Net's own final validation."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    # Found as a user's own file would be, whether or not the package offers the trainer.
    folder = nnunet_folders["nnUNet_raw"].parent / "ext"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text(f"from nnunet_spine_ext.training.shift import {NAME}\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    plans = make_plans(name=PLANS) | {"spine_ext": {"train": TRAIN, "augment": {"config": "shift", "ramp_epochs": 0}}}
    write_dataset(nnunet_folders["nnUNet_preprocessed"], plans, make_dataset_json(LABELS14, SIDED14))
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    run_training(DATASET, CONFIGURATION, 0, NAME, PLANS, device=torch.device("cpu"))
    return nnunet_folders["nnUNet_results"] / DATASET / f"{NAME}__{PLANS}__{CONFIGURATION}"


def test_it_trains_and_the_stock_predictor_takes_the_model(trained: Path, tmp_path: Path) -> None:
    checkpoint: dict[str, Any] = torch.load(trained / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == NAME
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1), "as in the base trainer"
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    assert len(checkpoint["logging"]["train_losses"]) == 2
    augment = settings_from_plans(json.loads((trained / "plans.json").read_text())).augment
    assert augment is not None
    assert augment.hash
    # Stock prediction reads the settings, adopts our managers and mirrors left-right with classes exchanged.
    image = make_image(tmp_path / "in" / "x_0000.nii.gz")
    stock_predict(trained, [tmp_path / "in" / "x_0000.nii.gz"], tmp_path / "out")
    mask = read_volume(tmp_path / "out" / "x.nii.gz")
    assert mask.shape == image.shape
    assert set(np.unique(mask.array)) <= set(LABELS14.values())


def test_a_finished_training_that_is_continued_stays_what_it_is(trained: Path) -> None:
    final = trained / "fold_0" / "checkpoint_final.pth"
    expected = torch.load(final, weights_only=False)["network_weights"]
    final.rename(trained / "fold_0" / "checkpoint_latest.pth")
    run_training(DATASET, CONFIGURATION, 0, NAME, PLANS, continue_training=True, device=torch.device("cpu"))
    found = torch.load(final, weights_only=False)
    assert found["current_epoch"] == 2
    for name, value in expected.items():
        assert torch.equal(found["network_weights"][name], value), name
