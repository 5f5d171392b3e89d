"""The trainer that starts from another model: weights by name, frozen parts, resume, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_builder import (
    CONFIGURATION,
    NAME,
    TARGET,
    copied,
    edit,
    equal,
    planned,
    preprocess,
    source_weights,
    trainer_of,
)
from model_builder import LABELS14, make_image
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.finetune import nnUNetTrainerSpineFinetune
from nnunet_spine_ext.training.finetune_plan import finetune_plan
from nnunet_spine_ext.training.finetune_weights import differences, freeze, head_names, still, transferred
from nnunet_spine_ext.training.mirroring import SidedMirrorTransform
from nnunet_spine_ext.training.settings import settings_from_plans
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift

Folders = dict[str, Path]
HEADS = ".seg_layers."


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


def test_equal_labels_take_every_weight_over(nnunet_folders: Folders) -> None:
    trainer = trainer_of(planned(nnunet_folders))
    trainer.initialize()
    weights = source_weights(nnunet_folders)
    assert equal(copied(trainer), weights) == set(weights)
    assert any(HEADS in key for key in weights)


def test_heads_are_found_again_by_name_at_every_resolution(nnunet_folders: Folders) -> None:
    labels = {"background": 0, "disc": 1, "nerve": 2, "corpus": 3, "cord": 4}
    trainer = trainer_of(planned(nnunet_folders, target={"labels": labels}))
    trainer.initialize()
    own, weights = copied(trainer), source_weights(nnunet_folders)
    heads = [key for key in own if HEADS in key]
    assert len({key.split(HEADS)[1][0] for key in heads}) == 2, "deep supervision"
    for key in heads:
        for name, number in labels.items():
            if name == "nerve":
                assert not any(torch.equal(own[key][number], row) for row in weights[key] if row.abs().sum() > 0)
            else:
                assert torch.equal(own[key][number], weights[key][LABELS14[name]]), (key, name)
    assert equal({k: v for k, v in own.items() if k not in heads}, weights) == set(own) - set(heads)


def test_stock_models_and_labels_of_other_ids(nnunet_folders: Folders) -> None:
    labels = {"background": 0, "cord": 2, "disc": 1}
    source = {"trainer": "nnUNetTrainer", "labels": {"background": 0, "disc": 2, "cord": 1}}
    trainer = trainer_of(planned(nnunet_folders, source=source, target={"labels": labels}))
    trainer.initialize()
    own, weights = copied(trainer), source_weights(nnunet_folders)
    for key in (key for key in own if HEADS in key):
        assert torch.equal(own[key], weights[key][[0, 2, 1]])


def test_names_of_heads() -> None:
    labels = {"ignore": 3, "disc": 2, "cord": [1], "background": 0}
    assert head_names({"labels": labels}) == (("background", "cord", "disc"), False)
    regions = {"background": 0, "whole": [1, 2], "core": 2, "air": [0], "ignore": 3}
    assert head_names({"labels": regions}) == (("whole", "core"), True)
    state = {"decoder.seg_layers.0.weight": torch.arange(2.0), "x": torch.zeros(1)}
    other = {"decoder.seg_layers.0.weight": torch.tensor([5.0, 6.0, 7.0]), "x": torch.ones(1)}
    moved = transferred(state, other, ("whole", "core", "rest"), ("core", "new"))
    assert moved["decoder.seg_layers.0.weight"].tolist() == [6.0, 1.0]
    assert moved["x"].tolist() == [1.0]


def test_differences_are_listed_in_order() -> None:
    own = {"a": torch.zeros(2, 3), "b": torch.zeros(1), "decoder.seg_layers.0.weight": torch.zeros(4, 2)}
    there = {"a": torch.zeros(2, 4), "c": torch.zeros(1), "decoder.seg_layers.0.weight": torch.zeros(3, 2)}
    found = differences(own, there, heads_differ=True)
    assert found == ["a is [2, 4] instead of [2, 3]", "b is missing", "c is not known"]
    assert "seg_layers.0.weight is [3, 2] instead of [4, 2]" in differences(own, there, heads_differ=False)[2]


def trained_names(network: nn.Module, parts: str) -> set[str]:
    """Return, by another way than the code's, which parameters belong to the parts."""
    names = {name for name, _ in network.named_parameters()}
    if parts == "norm":
        return {name for name in names if ".norm." in name}
    if parts == "decoder":
        return {name for name in names if name.startswith("decoder.")}
    return names


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", ["norm", "decoder", "all"])
def test_frozen_parts_stay_to_the_byte(nnunet_folders: Folders, parts: str, optimizer: str) -> None:
    settings = [f"train.optimizer={optimizer}", "train.weight_decay=0.1", "train.initial_lr=0.01"]
    trainer = trainer_of(planned(nnunet_folders, parts=parts, assignments=settings))
    trainer.initialize()
    names = trained_names(trainer.network, parts)
    assert {n for n, p in trainer.network.named_parameters() if p.requires_grad} == names
    in_optimizer = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for n, p in trainer.network.named_parameters() if n in names}
    before = copied(trainer)
    trainer.run_training()
    after = copied(trainer)
    frozen = {name for name, p in trainer.network.named_parameters() if not p.requires_grad}
    same = equal(before, after)
    assert frozen <= same
    # The coarsest head has the weight 0 in nnU-Net's loss: nothing but decay moves it.
    assert names & same <= {n for n in names if f"{HEADS}0" in n}


def test_new_labels_train_their_heads_in_frozen_networks(nnunet_folders: Folders) -> None:
    labels = {"background": 0, "disc": 1, "nerve": 2}
    trainer = trainer_of(planned(nnunet_folders, parts="norm", target={"labels": labels}))
    trainer.initialize()
    trained = {name for name, p in trainer.network.named_parameters() if p.requires_grad}
    assert {name for name in trained if HEADS in name} == {
        n for n, _ in trainer.network.named_parameters() if HEADS in n
    }
    assert all(".norm." in name or HEADS in name for name in trained)


def test_frozen_norm_layers_keep_their_running_statistics() -> None:
    network = nn.Module()
    network.encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network.decoder = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    assert freeze(network, "decoder", new_heads=False) == 2 * 2 * 9 + 2 + 4
    network.train()
    still(network)
    assert [module.training for module in (network.encoder[1], network.decoder[1])] == [False, True]


def test_a_training_its_model_and_a_resume(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders, assignments=["train.num_epochs=4"])
    splits = (folder / "splits_final.json").read_bytes()
    trainer = trainer_of(folder)
    trainer.run_training()
    assert (folder / "splits_final.json").read_bytes() == splits
    model = load_model(trainer.output_folder_base)
    assert model.trainer_name == "nnUNetTrainerSpineFinetune"
    finetune = settings_from_plans(model.plans).finetune
    assert finetune is not None
    assert finetune.source.checkpoints["0"].sha256, "the model says where it comes from"
    stock = nnUNetTrainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 15, True)
    stock.load_state_dict(model.parameters[0], strict=True)
    SpinePredictor(device=torch.device("cpu")).initialize_from_model(model)

    # The source is gone, and a training goes on from its own weights.
    shutil.rmtree(next(nnunet_folders["nnUNet_results"].glob("Dataset901*")))
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    saved = torch.load(path, weights_only=False)
    torch.save(saved | {"current_epoch": 3}, path.with_name("checkpoint_latest.pth"))
    path.unlink()
    again = trainer_of(folder, change=lambda plans: plans.update(continue_training=True))
    maybe_load_checkpoint(again, continue_training=True, validation_only=False)
    assert again.current_epoch == 3
    assert equal(copied(again), saved["network_weights"]) == set(saved["network_weights"])
    again.run_training()
    assert path.is_file()


@pytest.mark.parametrize("augment", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(nnunet_folders: Folders, augment: bool) -> None:
    source = {"change": shifted} if augment else {}
    assignments = ["train.num_epochs=3", "train.save_every=1"]
    folder = planned(nnunet_folders, source=source, assignments=assignments)
    whole, stopped = trainer_of(folder), trainer_of(folder)
    whole.run_training()
    start = stopped.on_train_epoch_start

    def until_the_last() -> None:
        if stopped.current_epoch == 2:
            raise KeyboardInterrupt
        start()

    stopped.on_train_epoch_start = until_the_last
    with pytest.raises(KeyboardInterrupt):
        stopped.run_training()
    (Path(stopped.output_folder) / "checkpoint_final.pth").unlink()
    resumed = trainer_of(folder, change=lambda plans: plans.update(continue_training=True))
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert equal(copied(resumed), copied(whole)) == set(copied(whole))


def test_resume_after_other_cases_is_refused(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    trainer_of(folder).on_train_start()
    finetune_plan(next(nnunet_folders["nnUNet_results"].glob("Dataset901*/*")), "902", name=NAME, n=1, overwrite=True)
    with pytest.raises(SetupError, match="--name NAME") as caught:
        trainer_of(folder).initialize()
    assert caught.value.code == "E-MODEL-SETTINGS"


def test_cases_that_were_not_preprocessed_name_the_command(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    trainer = trainer_of(folder)
    shutil.rmtree(trainer.preprocessed_dataset_folder)
    with pytest.raises(
        SetupError, match=rf"nnUNetv2_preprocess -d {int(TARGET[7:10])} -plans_name {NAME} -c {CONFIGURATION}"
    ) as found:
        trainer.initialize()
    assert found.value.code == "E-TRAINER-DATA"


def test_pretrained_weights_are_refused(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    path = next(nnunet_folders["nnUNet_results"].glob("Dataset901*/*/fold_0/checkpoint_final.pth"))
    trainer = trainer_of(folder)
    with pytest.raises(SetupError, match="leave -pretrained_weights out") as caught:
        maybe_load_checkpoint(
            trainer, continue_training=False, validation_only=False, pretrained_weights_file=str(path)
        )
    assert caught.value.code == "E-FINETUNE-PRETRAINED"
    # Without it the network can be given weights again once training has started.
    trainer = trainer_of(folder)
    maybe_load_checkpoint(trainer, continue_training=False, validation_only=False)
    trainer.on_train_start()
    trainer.network.load_state_dict(trainer.network.state_dict())


@pytest.mark.parametrize("damage", ["missing", "changed", "retrained"])
def test_a_checkpoint_that_is_not_the_planned_one(nnunet_folders: Folders, damage: str) -> None:
    folder = planned(nnunet_folders)
    path = next(nnunet_folders["nnUNet_results"].glob("Dataset901*/*/fold_0/checkpoint_final.pth"))
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        saved = torch.load(path, weights_only=False)
        torch.save(saved | {"network_weights": {k: v + 1 for k, v in saved["network_weights"].items()}}, path)
    with pytest.raises(SetupError) as caught:
        trainer_of(folder).initialize()
    assert caught.value.code == "E-FINETUNE-CHECKPOINT"
    assert caught.value.file == str(path)
    assert ("no such file" if damage == "missing" else "another file") in caught.value.found


def test_results_that_moved_are_found(nnunet_folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = planned(nnunet_folders)
    shutil.move(nnunet_folders["nnUNet_results"], tmp_path / "elsewhere")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    trainer_of(folder).initialize()


def test_another_network_is_refused_with_its_first_differences(nnunet_folders: Folders) -> None:
    def wider(plans: dict[str, Any]) -> None:
        network = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [4, 8, 16]

    folder = planned(nnunet_folders)
    with pytest.raises(SetupError, match=r"and \d+ more differences") as caught:
        trainer_of(folder, change=wider).initialize()
    assert caught.value.code == "E-FINETUNE-NETWORK"
    assert "encoder.stages.2" in caught.value.found


def test_other_trainers_refuse_the_plans_and_this_one_needs_them(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    for kind in (nnUNetTrainerSpine, nnUNetTrainerSpineShift):
        with pytest.raises(SetupError, match="nnUNetTrainerSpineFinetune") as caught:
            trainer_of(folder, kind=kind)
        assert caught.value.code == "E-TRAINER-FINETUNE"
    with pytest.raises(SetupError, match="nnUNetv2_spine_finetune_plan") as caught:
        trainer_of(folder, change=lambda plans: plans["spine_ext"].pop("finetune"))
    assert caught.value.code == "E-FINETUNE-PLANS"
    with pytest.raises(SetupError, match="soft labels") as caught:
        trainer_of(folder, change=lambda plans: plans["spine_ext"].update(soft={}))
    assert caught.value.code == "E-FINETUNE-SOFT"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f: f.update(cases=["a_1", "zz"]), "E-SPLIT-CASE"),
        (lambda f: f.update(cases=["a_1"], validation=["a_2"]), "E-SPLIT-LEAK"),
    ],
)
def test_cases_that_do_not_fit_the_data(nnunet_folders: Folders, change: Any, code: str) -> None:
    folder = planned(nnunet_folders)
    edit(folder / f"{NAME}.json", lambda plans: change(plans["spine_ext"]["finetune"]))
    with pytest.raises(SetupError) as caught:
        trainer_of(folder).do_split()
    assert caught.value.code == code


def test_data_that_are_not_preprocessed(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    shutil.rmtree(next(folder.glob("spineFinetune_*")))
    with pytest.raises(SetupError, match="nnUNetv2_preprocess -plans_name ft"):
        trainer_of(folder).do_split()
    preprocess(folder)
    finetune = settings_from_plans(json.loads((folder / "ft.json").read_text())).finetune
    assert finetune is not None
    assert trainer_of(folder).do_split() == (list(finetune.cases), list(finetune.validation))


def test_folds_start_from_the_fold_of_their_name(nnunet_folders: Folders) -> None:
    folder = planned(nnunet_folders)
    model = next(nnunet_folders["nnUNet_results"].glob("Dataset901*/*"))
    (model / "fold_0").rename(model / "fold_all")
    finetune_plan(model, "902", name="whole", n=2)
    trainer = trainer_of(folder, "whole", fold="all")
    trainer.initialize()
    assert trainer.do_split()[1], "the same cases validate, whatever the fold"
    with pytest.raises(SetupError, match="train fold all") as caught:
        trainer_of(folder, "whole", fold=0).initialize()
    assert caught.value.code == "E-FINETUNE-FOLD"


def shifted(plans: dict[str, Any]) -> None:
    plans["spine_ext"]["augment"] = {"config": {"transforms": [{"name": "gamma", "p": 1.0}]}}


def test_augmentation_stays_on_the_device_where_the_source_had_it(nnunet_folders: Folders) -> None:
    trainer = trainer_of(planned(nnunet_folders, source={"change": shifted}))
    trainer.run_training()
    names = [transform.name for _, transform in trainer.augmentation.pipeline.config.flat()]
    assert names == ["flip", "gamma"], "the source's, and mirroring"
    chain = trainer.get_training_transforms(
        trainer.configuration_manager.patch_size, (0, 0), None, (0, 1, 2), False, is_cascaded=False
    )
    assert chain.transforms == []


def test_augmentation_is_nnunets_where_the_source_had_that(nnunet_folders: Folders) -> None:
    trainer = trainer_of(planned(nnunet_folders))
    trainer.on_train_start()
    assert not hasattr(trainer, "augmentation")
    rotation, dummy, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    chain = trainer.get_training_transforms(trainer.configuration_manager.patch_size, rotation, None, axes, dummy)
    assert any(isinstance(transform, SidedMirrorTransform) for transform in chain.transforms)
    assert len(chain.transforms) > 3


def test_the_reference_becomes_that_of_the_target(nnunet_folders: Folders) -> None:
    # The weights follow the target's intensities, and matching has to lead there.
    def known(plans: dict[str, Any]) -> None:
        plans["spine_ext"]["reference"] = {"0": {"cases": 77}, "1": {"cases": 78}}

    folder = planned(nnunet_folders, source={"change": known})
    finetune = settings_from_plans(json.loads((folder / "ft.json").read_text())).finetune
    assert finetune is not None
    for case in (*finetune.cases, *finetune.validation):
        image = make_image(nnunet_folders["nnUNet_raw"] / TARGET / "imagesTr" / f"{case}_0000.nii.gz")
        mask = image.with_array((image.array > 600).astype(np.uint8))
        write_volume(mask, folder / "gt_segmentations" / f"{case}.nii.gz")
    trainer = trainer_of(folder)
    trainer.on_train_start()
    reference = settings_from_plans(trainer.plans_manager.plans).reference
    assert reference is not None
    assert reference["0"]["cases"] == len(finetune.cases)


def test_the_class_is_found_by_nnunet(nnunet_folders: Folders) -> None:
    from nnunet_spine_ext.inference.predictor import find_trainer

    assert find_trainer("nnUNetTrainerSpineFinetune") is nnUNetTrainerSpineFinetune
