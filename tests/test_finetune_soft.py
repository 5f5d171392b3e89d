"""Fine-tuning of soft models: their weights, their loss, the soft labels of the target; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from finetune_builder import (
    CASES,
    CONFIGURATION,
    NAME,
    TARGET,
    copied,
    edit,
    equal,
    preprocess,
    source_model,
    source_weights,
    target_dataset,
)
from finetune_builder import trainer_of as build
from soft_model import set_background

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.inference.predictor import SpinePredictor, find_trainer
from nnunet_spine_ext.losses.adaptive_wing import AdaptiveWing
from nnunet_spine_ext.losses.soft_dice_bce import SoftDiceBCE
from nnunet_spine_ext.soft.store import open_soft, soft_file
from nnunet_spine_ext.training.finetune import nnUNetTrainerSpineFinetune
from nnunet_spine_ext.training.finetune_plan import FinetunePlanResult, finetune_plan
from nnunet_spine_ext.training.finetune_soft import nnUNetTrainerSpineFinetuneSoft
from nnunet_spine_ext.training.settings import settings_from_plans
from nnunet_spine_ext.training.soft import nnUNetTrainerSpineSoft

Folders = dict[str, Path]
TWO = {"background": 0, "cord": 1, "canal": 2}
STILL = {"config": {"transforms": []}}
SHAPE = (18, 20, 20)
HEADS = ".seg_layers."


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


def soft_source(folders: Folders, loss: str = "adaptive_wing") -> Path:
    """Write a soft model as training leaves one: loss and augmentation written out, background set."""
    output = "sigmoid" if loss == "soft_dice_bce" else "linear"
    soft = {"loss": {"name": loss}, "output": output}
    folder = source_model(
        folders, trainer="nnUNetTrainerSpineSoft", labels=TWO,
        change=lambda plans: plans["spine_ext"].update(soft=soft, augment=STILL),
    )  # fmt: skip
    path = folder / "fold_0" / "checkpoint_final.pth"
    saved = torch.load(path, weights_only=False)
    set_background(saved["network_weights"], output)
    torch.save(saved, path)
    return folder


def give_soft(folders: Folders, classes: int = 2, cases: Any = CASES) -> Path:
    """Write soft labels of the target: random values, the classes of a voxel together at most 1."""
    folder = folders["nnUNet_raw"] / TARGET / "softLabelsTr"
    folder.mkdir(parents=True)
    for number, case in enumerate(cases):
        values = np.random.default_rng(number).random((*SHAPE[::-1], classes)).astype(np.float32) / classes
        nibabel.save(nibabel.Nifti1Image(values.squeeze(), np.eye(4)), folder / f"{case}.nii.gz")
    return folder


def planned(
    folders: Folders, loss: str = "adaptive_wing", labels: dict[str, int] = TWO, **options: Any
) -> FinetunePlanResult:
    """Make source model, target with soft labels, plans and preprocessed images."""
    model = soft_source(folders, loss)
    folder = target_dataset(folders, labels=labels)
    give_soft(folders, len(labels) - 1)
    result = finetune_plan(model, "902", **({"name": NAME, "n": 2} | options))
    preprocess(folder)
    return result


def trainer_of(folders: Folders, kind: Any = nnUNetTrainerSpineFinetuneSoft, **options: Any) -> Any:
    return build(folders["nnUNet_preprocessed"] / TARGET, kind=kind, **options)


def test_plans_keep_the_soft_settings_and_name_the_trainer(nnunet_folders: Folders) -> None:
    result = planned(nnunet_folders, "soft_dice_bce")
    settings = settings_from_plans(json.loads(result.path.read_text()))
    assert settings.soft is not None
    assert (settings.soft.loss.name, settings.soft.output) == ("soft_dice_bce", "sigmoid")
    assert settings.augment is not None
    train = f"next: nnUNetv2_train 902 3d_fullres 0 -tr nnUNetTrainerSpineFinetuneSoft -p {NAME}"
    assert result.next_steps[-1] == train
    train, validation = len(result.finetune.cases), len(result.finetune.validation)
    said = f"soft labels: {train} of {train} training, {validation} of {validation} validation cases"
    assert said in result.facts, "none is learned from its hard label"
    assert find_trainer("nnUNetTrainerSpineFinetuneSoft") is nnUNetTrainerSpineFinetuneSoft


@pytest.mark.parametrize(("loss", "kind"), [("adaptive_wing", AdaptiveWing), ("soft_dice_bce", SoftDiceBCE)])
def test_training_starts_from_the_weights_with_the_loss_of_the_source(
    nnunet_folders: Folders, loss: str, kind: type
) -> None:
    planned(nnunet_folders, loss)
    trainer = trainer_of(nnunet_folders)
    trainer.initialize()
    weights = source_weights(nnunet_folders)
    assert equal(copied(trainer), weights) == set(weights), "heads included"
    assert any(isinstance(module, kind) for module in trainer.loss.modules())


def test_it_learns_from_the_soft_labels_of_the_target(nnunet_folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    result = planned(nnunet_folders)
    trainer = trainer_of(nnunet_folders)
    trainer.on_train_start()
    for case in (*result.finetune.cases, *result.finetune.validation):
        stored = open_soft(soft_file(trainer.preprocessed_dataset_folder, case))[:]
        given = nibabel.load(nnunet_folders["nnUNet_raw"] / TARGET / "softLabelsTr" / f"{case}.nii.gz").get_fdata()
        np.testing.assert_allclose(stored[:-1], given.transpose(3, 2, 1, 0), atol=1e-3)
    seen = []
    loss = trainer.loss.forward
    monkeypatch.setattr(trainer.loss, "forward", lambda output, target: seen.append(target) or loss(output, target))
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    finest = seen[0][0]
    between = (finest[:, :-1] > 0.05) & (finest[:, :-1] < 0.45)
    assert finest.shape[1] == 3, "two classes and validity"
    assert between.float().mean() > 0.5, "soft values reach the loss"


def test_the_model_is_a_soft_one_whose_activation_its_validation_chose(nnunet_folders: Folders) -> None:
    planned(nnunet_folders)
    trainer = trainer_of(nnunet_folders)
    trainer.run_training()
    trainer._choose_activation()
    model = load_model(trainer.output_folder_base)
    settings = settings_from_plans(model.plans)
    assert settings.soft is not None
    assert settings.soft.activation in ("clamp", "norm_relu")
    assert settings.finetune is not None
    weights = model.parameters[0]
    changed = set(weights) - equal(dict(weights), source_weights(nnunet_folders))
    assert any(HEADS in key for key in changed)
    assert any("encoder" in key for key in changed)
    for key in (k for k in weights if HEADS in k):
        remainder = float(key.endswith("bias"))
        torch.testing.assert_close(weights[key].sum(dim=0), torch.full_like(weights[key][0], remainder))
    SpinePredictor(device=torch.device("cpu")).initialize_from_model(model)


@pytest.mark.parametrize("loss", ["adaptive_wing", "soft_dice_bce"])
def test_frozen_heads_stay_to_the_byte(nnunet_folders: Folders, loss: str) -> None:
    planned(nnunet_folders, loss, parts="norm")
    trainer = trainer_of(nnunet_folders)
    trainer.run_training()
    frozen = {name for name, p in trainer.network.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if HEADS in name}
    assert frozen <= equal(copied(trainer), source_weights(nnunet_folders))


def test_heads_are_found_by_name_and_the_background_follows(nnunet_folders: Folders) -> None:
    planned(nnunet_folders, labels={"background": 0, "nerve": 1, "cord": 2})
    trainer = trainer_of(nnunet_folders)
    trainer.initialize()
    weights = source_weights(nnunet_folders)
    keys = [key for key in weights if HEADS in key and key.endswith("weight")]
    assert keys
    for key in keys:
        torch.testing.assert_close(copied(trainer)[key][2], weights[key][1], rtol=0, atol=0)
    trainer.on_validation_epoch_start()
    for key in keys:
        torch.testing.assert_close(copied(trainer)[key].sum(dim=0), torch.zeros_like(weights[key][0]))


def test_a_target_without_soft_labels_is_refused(nnunet_folders: Folders) -> None:
    model = soft_source(nnunet_folders)
    folder = target_dataset(nnunet_folders, labels=TWO)
    (nnunet_folders["nnUNet_raw"] / TARGET).mkdir(parents=True)
    with pytest.raises(SetupError, match="nnUNetv2_spine_soft_gt") as caught:
        finetune_plan(model, "902", name=NAME, n=2)
    assert caught.value.code == "E-SOFT-NONE"
    assert not (folder / f"{NAME}.json").exists()


def test_soft_labels_that_vanish_before_training_are_missed(nnunet_folders: Folders) -> None:
    planned(nnunet_folders)
    for file in (nnunet_folders["nnUNet_raw"] / TARGET / "softLabelsTr").iterdir():
        file.unlink()
    with pytest.raises(SetupError, match="no soft label") as caught:
        trainer_of(nnunet_folders).on_train_start()
    assert caught.value.code == "E-SOFT-NONE"


def test_some_cases_may_have_their_hard_label(nnunet_folders: Folders) -> None:
    model = soft_source(nnunet_folders)
    target_dataset(nnunet_folders, labels=TWO)
    give_soft(nnunet_folders, cases=["b_1"])
    result = finetune_plan(model, "902", name=NAME, cases=["a_1", "b_1"], validation=["c_1"])
    said = "soft labels: 1 of 2 training, 0 of 1 validation cases; the others have their hard label"
    assert said in result.facts


def test_soft_labels_of_validation_alone_are_refused(nnunet_folders: Folders) -> None:
    model = soft_source(nnunet_folders)
    folder = target_dataset(nnunet_folders, labels=TWO)
    source = give_soft(nnunet_folders, cases=["b_1", "c_1"])
    chosen: dict[str, Any] = {"cases": ["a_1", "b_1"], "validation": ["c_1"]}
    finetune_plan(model, "902", name=NAME, **chosen)
    preprocess(folder)
    (source / "b_1.nii.gz").unlink()
    with pytest.raises(SetupError, match="soft labels: 0 of 2 training, 1 of 1 validation cases") as caught:
        finetune_plan(model, "902", name="other", **chosen)
    assert caught.value.code == "E-SOFT-NONE"
    with pytest.raises(SetupError, match="no soft label of any of the 2 training cases") as caught:
        trainer_of(nnunet_folders).on_train_start()
    assert caught.value.code == "E-SOFT-NONE"


def test_trainers_of_the_other_kind_refuse_and_name_the_right_one(nnunet_folders: Folders) -> None:
    planned(nnunet_folders)
    with pytest.raises(SetupError, match="-tr nnUNetTrainerSpineFinetuneSoft") as caught:
        trainer_of(nnunet_folders, nnUNetTrainerSpineFinetune)
    assert caught.value.code == "E-FINETUNE-SOFT"
    with pytest.raises(SetupError, match="-tr nnUNetTrainerSpineFinetuneSoft") as caught:
        trainer_of(nnunet_folders, nnUNetTrainerSpineSoft)
    assert caught.value.code == "E-TRAINER-FINETUNE"
    with pytest.raises(SetupError, match="-tr nnUNetTrainerSpineFinetune,") as caught:
        trainer_of(nnunet_folders, change=lambda plans: plans["spine_ext"].update(soft=None))
    assert caught.value.code == "E-FINETUNE-SOFT"

    class Derived(nnUNetTrainerSpineFinetune):
        """A trainer of the user's own."""

    with pytest.raises(SetupError, match="a source model of soft labels, for Derived;"):
        trainer_of(nnunet_folders, Derived)


def test_a_model_of_a_cascade_is_refused_though_it_is_soft(nnunet_folders: Folders) -> None:
    model = soft_source(nnunet_folders)
    edit(model / "plans.json", lambda p: p["configurations"][CONFIGURATION].update(previous_stage="3d_lowres"))
    target_dataset(nnunet_folders, labels=TWO)
    with pytest.raises(SetupError) as caught:
        finetune_plan(model, "902", name=NAME, n=2)
    assert caught.value.code == "E-FINETUNE-CASCADE"
