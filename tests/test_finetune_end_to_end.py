"""From a trained model to one for another scanner, on phantoms, through the commands a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from house import ROOT
from model_builder import LABELS14, SIDED14, make_model

from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.phantom.generate import phantom

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAME = "ft2"
TRAINER = "nnUNetTrainerSpineFinetune"
SHORT = ("train.num_epochs=2", "train.num_iterations_per_epoch=2", "train.num_val_iterations_per_epoch=1")


def call(command: str, *words: object, fails: bool = False, **variables: str) -> str:
    """Run an installed command and return what it printed."""
    program = Path(sys.executable).with_name(command)
    environment = {**os.environ, "nnUNet_extTrainer": str(ROOT / "trainers"), **variables}
    done = subprocess.run(
        [str(program), *map(str, words)], env=environment, capture_output=True, text=True, timeout=900
    )
    text = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}\n{text}"
    return text


def make_target(raw: Path) -> None:
    """Make four spines on two scanners: Dataset902_Target."""
    phantom(
        raw, n=4, region="lumbar", spacing=(4.0, 4.0, 4.0), scanner=["ge-1.5t", "philips-3t"], dataset_id=902,
        name="Target", pathologies=False, width=60.0, supersample=1,
    )  # fmt: skip


def planned_steps(source: Path) -> list[list[str]]:
    """Plan to go on from a model, and return the commands that are said to come next."""
    words = ["-m", source, "-d", 902, "--name", NAME, "--n", 2, "--set", *SHORT]
    lines = call("nnUNetv2_spine_finetune_plan", *words).splitlines()
    return [line.removeprefix("next: ").split() for line in lines if line.startswith("next: ")]


def test_plan_train_and_predict(nnunet_folders: dict[str, Path]) -> None:
    raw = nnunet_folders["nnUNet_raw"]
    make_target(raw)
    source = nnunet_folders["nnUNet_results"] / "Dataset901_Toy" / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"
    make_model(source, labels=LABELS14, sided=SIDED14, spacing=(4.0, 4.0, 4.0))
    folder = nnunet_folders["nnUNet_preprocessed"] / "Dataset902_Target"
    splits = (folder / "splits_final.json").read_bytes()

    steps = planned_steps(source)
    assert [step[0] for step in steps] == ["nnUNetv2_extract_fingerprint", "nnUNetv2_preprocess", "nnUNetv2_train"]
    call(*steps[0], "-np", 1)
    call(*steps[1], "-np", 1)
    # No augmentation processes: set for the training alone, because preprocessing fails with it.
    weights = source / "fold_0" / "checkpoint_final.pth"
    pretrained = call(*steps[2], "-device", "cpu", "-pretrained_weights", weights, fails=True, nnUNet_n_proc_DA="0")
    assert "E-FINETUNE-PRETRAINED" in pretrained
    call(*steps[2], "-device", "cpu", nnUNet_n_proc_DA="0")
    assert (folder / "splits_final.json").read_bytes() == splits

    model = nnunet_folders["nnUNet_results"] / folder.name / f"{TRAINER}__{NAME}__3d_fullres"
    finetune = json.loads((model / "plans.json").read_text())["spine_ext"]["finetune"]
    validated = {f.name.removesuffix(".nii.gz") for f in (model / "fold_0" / "validation").glob("*.nii.gz")}
    assert validated == set(finetune["validation"])
    image = raw / folder.name / "imagesTr" / f"{finetune['validation'][0]}_0000.nii.gz"
    out = nnunet_folders["nnUNet_results"] / "out"
    call("nnUNetv2_spine_predict", "-i", image, "-o", out, "-m", model, "-device", "cpu")
    predicted = next(f for f in out.rglob("*.nii.gz") if f.name.startswith(finetune["validation"][0]))
    assert read_volume(predicted).same_grid(read_volume(image))


def test_a_soft_model_goes_on_with_soft_labels(nnunet_folders: dict[str, Path]) -> None:
    raw = nnunet_folders["nnUNet_raw"]
    make_target(raw)
    soft = raw / "Dataset902_Target" / "softLabelsTr"
    soft.mkdir()
    for mask in sorted((soft.parent / "labelsTr").glob("*.nii.gz")):
        labels = nibabel.load(mask)
        values = np.asarray(labels.dataobj)[..., None] == np.arange(1, len(LABELS14))
        nibabel.save(nibabel.Nifti1Image(0.8 * values.astype(np.float32), labels.affine), soft / mask.name)
    source = nnunet_folders["nnUNet_results"] / "Dataset901_Toy" / "nnUNetTrainerSpineSoft__nnUNetPlans__3d_fullres"
    make_model(source, labels=LABELS14, sided=SIDED14, spacing=(4.0, 4.0, 4.0), trainer="nnUNetTrainerSpineSoft")
    plans = read_json(source / "plans.json")
    plans["spine_ext"] |= {"soft": {"loss": {"name": "adaptive_wing"}}, "augment": {"config": {"transforms": []}}}
    write_json(source / "plans.json", plans)

    steps = planned_steps(source)
    for step in steps[:2]:
        call(*step, "-np", 1)
    log = call(*steps[2], "-device", "cpu", nnUNet_n_proc_DA="0")
    assert "Soft labels: 3 cases, 3 of them prepared now" in log
    assert "By all folds so far, prediction takes" in log
    folder = nnunet_folders["nnUNet_results"] / "Dataset902_Target"
    model = folder / f"{TRAINER}Soft__{NAME}__3d_fullres"
    case = read_json(model / "plans.json")["spine_ext"]["finetune"]["validation"][0]
    image = raw / folder.name / "imagesTr" / f"{case}_0000.nii.gz"
    out = nnunet_folders["nnUNet_results"] / "out"
    call("nnUNetv2_spine_predict", "-i", image, "-o", out, "-m", model, "-device", "cpu")
    (soft_map,) = (out / "soft").glob("*.nii.gz")
    assert nibabel.load(soft_map).shape == (*read_volume(image).shape, len(LABELS14) - 1)
