"""`nnUNetv2_spine_finetune_plan`: what it takes from a model, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_builder import (
    CONFIGURATION,
    NAME,
    SHORT,
    TARGET,
    edit,
    planned,
    preprocess,
    source_model,
    target_dataset,
    trainer_of,
)
from model_builder import LABELS14, make_image

from nnunet_spine_ext.cli.finetune_plan import main
from nnunet_spine_ext.core.errors import SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import sha256, write_volume
from nnunet_spine_ext.training.finetune_plan import FinetunePlanResult, finetune_plan
from nnunet_spine_ext.training.finetune_schedule import schedule
from nnunet_spine_ext.training.plan import plan
from nnunet_spine_ext.training.settings import TrainSettings, settings_from_plans, settings_hash

Folders = dict[str, Path]


def make(folders: Folders, **options: Any) -> FinetunePlanResult:
    """Plan the fine-tuning of the model that is there on the dataset that is there."""
    model = next(folders["nnUNet_results"].glob("*/*"))
    return finetune_plan(model, "902", **({"name": NAME, "n": 2} | options))


def content(folders: Folders, name: str = NAME) -> dict[str, Any]:
    plans: dict[str, Any] = json.loads((folders["nnUNet_preprocessed"] / TARGET / f"{name}.json").read_text())
    return plans


def test_plans_are_those_of_the_source_for_the_target(nnunet_folders: Folders) -> None:
    reference = {"0": {"cases": 3}}
    augment = {"config": "shift", "clean_share": 0.5}
    model = source_model(nnunet_folders, change=lambda p: p["spine_ext"].update(reference=reference, augment=augment))
    folder = target_dataset(nnunet_folders)
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    result = make(nnunet_folders)
    plans, source = content(nnunet_folders), json.loads((model / "plans.json").read_text())
    configuration, old = plans["configurations"][CONFIGURATION], source["configurations"][CONFIGURATION]
    assert {k for k in old if configuration[k] != old[k]} == {"data_identifier"}
    assert configuration["data_identifier"] != old["data_identifier"]
    assert list(plans["configurations"]) == [CONFIGURATION]
    for key in ("foreground_intensity_properties_per_channel", "image_reader_writer", "transpose_forward"):
        assert plans[key] == source[key]
    assert (plans["dataset_name"], plans["plans_name"]) == (TARGET, NAME)
    settings = settings_from_plans(plans)
    assert settings.reference == reference
    assert settings.augment is not None
    assert settings.augment.clean_share == 0.5
    assert settings.train.seed == SHORT["seed"]
    assert settings.data.sided_labels == ((4, 5), (6, 7), (8, 9))
    finetune = settings.finetune
    assert finetune is not None
    assert finetune == result.finetune
    assert finetune.source.model == f"{model.parent.name}/{model.name}"
    assert finetune.source.heads == tuple(LABELS14)
    checkpoint = finetune.source.checkpoints["0"]
    assert checkpoint.sha256 == sha256(model / "fold_0" / "checkpoint_final.pth")
    assert checkpoint.path == f"$nnUNet_results/{model.parent.name}/{model.name}/fold_0/checkpoint_final.pth"
    assert {file: file.read_bytes() for file in before} == before, "plans and splits of the dataset stay"
    assert result.next_steps == [
        "next: nnUNetv2_preprocess -d 902 -plans_name ft -c 3d_fullres",
        "next: nnUNetv2_train 902 3d_fullres 0 -tr nnUNetTrainerSpineFinetune -p ft",
    ]
    assert "2 subject(s) (1 ge, 1 philips)" in result.render()


def test_subsets_of_one_source_share_their_data_and_are_nested(nnunet_folders: Folders) -> None:
    planned(nnunet_folders, n=1)
    larger = make(nnunet_folders, name="ft3", n=3)
    assert content(nnunet_folders)["configurations"] == content(nnunet_folders, "ft3")["configurations"]
    assert not [step for step in larger.next_steps if "preprocess" in step], "the data are there"
    small, large = (settings_from_plans(content(nnunet_folders, name)).finetune for name in (NAME, "ft3"))
    assert small is not None
    assert large is not None
    assert set(small.cases) < set(large.cases)
    assert small.validation == large.validation
    assert "e_1" not in {*large.cases, *large.validation}
    hashes = {settings_hash(content(nnunet_folders, name)) for name in (NAME, "ft3")}
    assert len(hashes) == 2


@pytest.mark.parametrize("change", ["cases", "parts", "sha256", "path"])
def test_the_hash_sees_the_fine_tuning_but_not_where_the_checkpoint_lies(nnunet_folders: Folders, change: str) -> None:
    planned(nnunet_folders)
    plans = content(nnunet_folders)
    before = settings_hash(plans)
    finetune = plans["spine_ext"]["finetune"]
    checkpoint = finetune["source"]["checkpoints"]["0"]
    if change == "cases":
        finetune["cases"] = finetune["cases"][:1]
    elif change == "parts":
        finetune["parts"] = "norm"
    else:
        checkpoint[change] = "0" * 64
    assert (settings_hash(plans) == before) is (change == "path")


def test_stock_models(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders, trainer="nnUNetTrainer")
    target_dataset(nnunet_folders)
    make(nnunet_folders)
    settings = settings_from_plans(content(nnunet_folders))
    assert settings.train.mirror
    assert settings.train.num_epochs == schedule(TrainSettings(), 2).num_epochs
    path = next(nnunet_folders["nnUNet_results"].glob("*/*/fold_0/*.pth"))
    saved = torch.load(path, weights_only=False)
    torch.save(saved | {"inference_allowed_mirroring_axes": None}, path)
    make(nnunet_folders, overwrite=True)
    assert not settings_from_plans(content(nnunet_folders)).train.mirror


def test_a_fine_tuned_model_remembers_where_it_comes_from(nnunet_folders: Folders) -> None:
    planned(nnunet_folders)
    first = content(nnunet_folders)["spine_ext"]["finetune"]
    model = next(nnunet_folders["nnUNet_results"].glob("*/*"))
    edit(model / "plans.json", lambda plans: plans["spine_ext"].update(finetune=first))
    make(nnunet_folders, name="again")
    (ancestor,) = content(nnunet_folders, "again")["spine_ext"]["finetune"]["source"]["lineage"]
    assert ancestor == {
        "model": first["source"]["model"],
        "sha256": {"0": first["source"]["checkpoints"]["0"]["sha256"]},
    }


def test_folds_of_the_source(nnunet_folders: Folders) -> None:
    model = source_model(nnunet_folders)
    target_dataset(nnunet_folders)
    (model / "fold_2").mkdir()
    (model / "fold_2" / "checkpoint_final.pth").write_bytes((model / "fold_0" / "checkpoint_final.pth").read_bytes())
    both = make(nnunet_folders)
    assert list(both.finetune.source.checkpoints) == ["0", "2"]
    assert [step.split()[4] for step in both.next_steps if "_train " in step] == ["0", "2"]
    assert list(make(nnunet_folders, f=["2"], overwrite=True).finetune.source.checkpoints) == ["2"]
    with pytest.raises(SetupError, match="no fold 4"):
        make(nnunet_folders, f=["4"], name="other")


def test_settings_in_place_of_the_sources(nnunet_folders: Folders) -> None:
    planned(nnunet_folders, assignments=["train.num_epochs=7", "train.initial_lr=1e-4"])
    train = settings_from_plans(content(nnunet_folders)).train
    assert (train.num_epochs, train.initial_lr) == (7, 1e-4)
    for wrong in ("finetune.cases=[a]", "augment.clean_share=0.5", "soft.output=linear"):
        with pytest.raises(UsageError, match=r"train\.…") as caught:
            make(nnunet_folders, name="other", assignments=[wrong])
        assert caught.value.code == "E-CONFIG-KEY"
    # Plans can also be varied afterwards.
    steps = plan("902", p=NAME, name="slow", assignments=["train.num_epochs=9"]).next_steps
    assert steps == ["next: nnUNetv2_train 902 3d_fullres 0 -tr nnUNetTrainerSpineFinetune -p slow"]
    assert (
        settings_from_plans(content(nnunet_folders, "slow")).finetune
        == settings_from_plans(content(nnunet_folders)).finetune
    )


def test_a_dry_run_writes_nothing(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders)
    folder = target_dataset(nnunet_folders)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    result = make(nnunet_folders, dry_run=True)
    assert result.render().startswith("would write")
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_names(nnunet_folders: Folders) -> None:
    planned(nnunet_folders)
    with pytest.raises(UsageError, match="--overwrite") as caught:
        make(nnunet_folders)
    assert caught.value.code == "E-PLAN-EXISTS"
    make(nnunet_folders, overwrite=True, n=1)
    assert content(nnunet_folders)["spine_ext"]["finetune"]["n"] == 1
    for name in ("", "a__b", "../x"):
        with pytest.raises(UsageError, match="a new name"):
            make(nnunet_folders, name=name)


def test_tables_come_from_the_raw_dataset(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders)
    folder = target_dataset(nnunet_folders)
    raw = nnunet_folders["nnUNet_raw"] / TARGET
    raw.mkdir()
    for name in ("dataset.json", "cases.json"):
        (folder / name).rename(raw / name)
    (folder / "dataset_fingerprint.json").unlink()
    assert make(nnunet_folders, dry_run=True).next_steps[0] == "next: nnUNetv2_extract_fingerprint -d 902"
    make(nnunet_folders)
    for name in ("dataset.json", "cases.json"):
        assert json.loads((folder / name).read_text()) == json.loads((raw / name).read_text())
        (folder / name).unlink()
        (raw / name).unlink()
        with pytest.raises(SetupError, match="no such file, nor in"):
            make(nnunet_folders, name="other")
        (folder / name).write_text("{}")


def test_a_target_that_is_converted_only_is_enough(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders)
    folder = target_dataset(nnunet_folders)
    raw = nnunet_folders["nnUNet_raw"] / TARGET
    folder.rename(raw)
    (raw / "gt_segmentations").rename(raw / "labelsTr")
    make(nnunet_folders, dry_run=True)
    assert not folder.exists()
    assert "next: nnUNetv2_extract_fingerprint -d 902" in make(nnunet_folders).render()
    assert {path.name for path in folder.glob("*.json")} >= {f"{NAME}.json", "dataset.json", "cases.json"}
    with pytest.raises(SetupError, match=rf"0 folders Dataset777_\*.*there: {TARGET}"):
        finetune_plan(next(nnunet_folders["nnUNet_results"].glob("*/*")), "777", name=NAME, n=2)


def test_models_of_any_contrast_have_that_of_the_target(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders)
    target_dataset(nnunet_folders, change=lambda d: d.update(channel_names={"0": "MR"}))
    assert "trained on" not in make(nnunet_folders, dry_run=True).render()


def test_cases_without_a_mask_and_masks_without_labels_are_left_out(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders)
    labels = LABELS14 | {"ignore": 15}
    folder = target_dataset(nnunet_folders, labels=labels)
    (folder / "gt_segmentations" / "b_1.nii.gz").unlink()
    image = make_image(folder.parent / "image.nii.gz")
    for case, value in (("c_1", 15), ("d_1", 3)):
        write_volume(
            image.with_array((image.array * 0 + value).astype("uint8")), folder / "gt_segmentations" / f"{case}.nii.gz"
        )
        edit(folder / "cases.json", lambda table, case=case: table["cases"][case].pop("labelled"))
    result = make(nnunet_folders, n=1)
    assert {*result.finetune.cases, *result.finetune.validation} == {"a_1", "a_2", "d_1"}
    assert "b_1; left out" in result.render()
    assert "ignored wholly: c_1; left out" in result.render()


def refused(folders: Folders, **options: Any) -> SpineExtError:
    with pytest.raises(SpineExtError) as caught:
        make(folders, **options)
    assert not (folders["nnUNet_preprocessed"] / TARGET / f"{NAME}.json").exists()
    return caught.value


@pytest.mark.parametrize("n", [0, 4])
def test_impossible_numbers(nnunet_folders: Folders, n: int) -> None:
    source_model(nnunet_folders)
    target_dataset(nnunet_folders)
    assert refused(nnunet_folders, n=n).code == "E-FINETUNE-N"


def cascade(plans: dict[str, Any]) -> None:
    plans["configurations"][CONFIGURATION]["previous_stage"] = "3d_lowres"


def test_the_domain_head_of_the_source_stays_behind(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders, trainer="nnUNetTrainerSpineDANN", change=lambda p: p["spine_ext"].update(domain={}))
    target_dataset(nnunet_folders)
    make(nnunet_folders)
    settings = settings_from_plans(content(nnunet_folders))
    assert settings.domain is None
    assert settings.finetune is not None
    assert settings.finetune.source.trainer == "nnUNetTrainerSpineDANN"


@pytest.mark.parametrize("parent", ["nowhere", CONFIGURATION])
def test_configurations_that_inherit_from_nothing(nnunet_folders: Folders, parent: str) -> None:
    source_model(nnunet_folders, change=lambda p: p["configurations"][CONFIGURATION].update(inherits_from=parent))
    target_dataset(nnunet_folders)
    assert refused(nnunet_folders).code == "E-MODEL-JSON"


def inheriting(plans: dict[str, Any]) -> None:
    plans["configurations"]["base"] = plans["configurations"].pop(CONFIGURATION)
    plans["configurations"][CONFIGURATION] = {"inherits_from": "base", "batch_size": 3}


def wider(plans: dict[str, Any]) -> None:
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["features_per_stage"] = [6, 8, 8]


def without_scale(plans: dict[str, Any]) -> None:
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["norm_op_kwargs"] = {"affine": False}


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (cascade, "E-FINETUNE-CASCADE", "the masks of 3d_lowres"),
        (wider, "E-FINETUNE-NETWORK", "conv.weight is [4, 1, 3, 3, 3] instead of [6, 1, 3, 3, 3]"),
    ],
)
def test_models_that_cannot_be_fine_tuned(nnunet_folders: Folders, change: Any, code: str, text: str) -> None:
    source_model(nnunet_folders, change=change)
    target_dataset(nnunet_folders)
    error = refused(nnunet_folders)
    assert error.code == code
    assert text in error.found


def test_a_configuration_that_inherits_is_written_out(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders, change=inheriting)
    target_dataset(nnunet_folders)
    make(nnunet_folders)
    configuration = content(nnunet_folders)["configurations"][CONFIGURATION]
    assert configuration["batch_size"] == 3
    assert configuration["patch_size"] == [16, 16, 16]
    assert "inherits_from" not in configuration


REGIONS = {"background": 0, "whole": [1, 2], "cord": 2}


def test_nothing_is_half_written_when_something_is_refused(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders, change=wider)
    folder = target_dataset(nnunet_folders)
    raw = nnunet_folders["nnUNet_raw"] / TARGET
    raw.mkdir()
    rows = {"cases": {f"{k}_9": {"subject": k, "labelled": True} for k in "xyz"}}
    (raw / "cases.json").write_text(json.dumps(rows))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for case in rows["cases"]:
        (folder / "gt_segmentations" / f"{case}.nii.gz").touch()
    assert refused(nnunet_folders).code == "E-FINETUNE-NETWORK"
    assert {file: file.read_bytes() for file in before} == before
    shutil.rmtree(nnunet_folders["nnUNet_results"])
    source_model(nnunet_folders)
    chosen = make(nnunet_folders).finetune
    assert {*chosen.cases, *chosen.validation} == set(rows["cases"]), "the cases of the dataset as it is now"
    assert json.loads((folder / "cases.json").read_text()) == rows


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ({"channels": 2}, "E-FINETUNE-CHANNELS", "T1w, T2w"),
        ({"labels": {"background": 0, "kord": 1}}, "E-FINETUNE-LABELS", "no label"),
        (
            {"labels": REGIONS, "change": lambda d: d.update(regions_class_order=[1, 2])},
            "E-FINETUNE-LABELS",
            "regions",
        ),
        ({"change": lambda d: d.update(file_ending=".mha")}, "E-FINETUNE-READER", ".mha"),
    ],
)
def test_datasets_that_do_not_fit(nnunet_folders: Folders, target: dict[str, Any], code: str, text: str) -> None:
    source_model(nnunet_folders)
    target_dataset(nnunet_folders, **target)
    error = refused(nnunet_folders)
    assert error.code == code
    assert text in error.found
    if text == "no label":
        assert "did you mean 'cord'" in error.fix


def test_sided_labels_need_a_model_that_reorients(nnunet_folders: Folders) -> None:
    source_model(nnunet_folders, trainer="nnUNetTrainer", change=lambda p: p.update(image_reader_writer="SimpleITKIO"))
    target_dataset(nnunet_folders)
    assert refused(nnunet_folders).code == "E-PLANS-READER"


def test_other_contrasts_and_new_labels_are_said(nnunet_folders: Folders) -> None:
    labels = {"background": 0, "disc": 1, "corpus": 2, "nerve": 3}
    source_model(nnunet_folders)
    target_dataset(nnunet_folders, labels=labels, change=lambda d: d.update(channel_names={"0": "STIR"}))
    text = make(nnunet_folders).render()
    assert "trained on T1w, the target has STIR" in text
    assert "learned anew: nerve" in text
    assert "dropped: sacrum, arcus" in text


def test_code_in_a_checkpoint_is_refused_or_stripped(nnunet_folders: Folders) -> None:
    model = source_model(nnunet_folders)
    folder = target_dataset(nnunet_folders)
    path = model / "fold_0" / "checkpoint_final.pth"
    content_of = torch.load(path, weights_only=False)
    torch.save(content_of | {"more": Odd()}, path)
    assert refused(nnunet_folders).code == "E-MODEL-CODE"
    finetune = make(nnunet_folders, trust=True).finetune
    stored = settings_from_plans(content(nnunet_folders)).finetune
    assert stored is not None
    checkpoint = stored.source.checkpoints["0"]
    copy = folder / "ft_source_fold_0.pth"
    assert checkpoint.path == f"$nnUNet_preprocessed/{TARGET}/{copy.name}"
    assert (checkpoint.sha256, checkpoint.copy_of) == (sha256(copy), sha256(path))
    assert torch.load(copy, weights_only=True)["network_weights"].keys() == content_of["network_weights"].keys()
    assert finetune == stored
    preprocess(folder)
    trainer_of(folder).initialize()


class Odd:
    """A class that is on no list; nothing happens when it is loaded."""


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "no weights"])
def test_checkpoints_that_cannot_be_used(nnunet_folders: Folders, damage: str) -> None:
    model = source_model(nnunet_folders)
    target_dataset(nnunet_folders)
    path = model / "fold_0" / "checkpoint_final.pth"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        torch.save({"something": 1}, path)
    error = refused(nnunet_folders)
    assert error.code in ("E-MODEL-CHECKPOINT", "E-MODEL-FOLD")
    assert error.exit_code == 5


def test_a_folder_that_is_no_model_and_a_dataset_that_is_none(nnunet_folders: Folders, tmp_path: Path) -> None:
    model = source_model(nnunet_folders)
    target_dataset(nnunet_folders)
    with pytest.raises(SetupError) as caught:
        finetune_plan(tmp_path / "nowhere", "902", name=NAME)
    assert caught.value.code == "E-MODEL-FOLDER"
    with pytest.raises(SetupError) as caught:
        finetune_plan(model, "903", name=NAME)
    assert caught.value.code == "E-FINETUNE-DATASET"
    with pytest.raises(SetupError, match="leave the folder out") as caught:
        finetune_plan(model, str(nnunet_folders["nnUNet_preprocessed"] / "Dataset902_Target"), name=NAME)
    assert caught.value.code == "E-PLAN-DATASET"


def test_no_norm_layers_to_train(nnunet_folders: Folders) -> None:
    folder = target_dataset(nnunet_folders)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    model = source_model(nnunet_folders, change=without_scale)
    manager = PlansManager(json.loads((model / "plans.json").read_text()))
    configuration = manager.get_configuration(CONFIGURATION)
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 15, False)
    path = model / "fold_0" / "checkpoint_final.pth"
    saved = torch.load(path, weights_only=False)
    torch.save(saved | {"network_weights": network.state_dict()}, path)
    assert refused(nnunet_folders, parts="norm").code == "E-FINETUNE-PARTS"
    assert make(nnunet_folders, parts="decoder").finetune.parts == "decoder"
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("n", "epochs", "rate"), [(1, 100, 1e-3), (10, 316, 1.78e-3), (100, 1000, 3e-3), (400, 1000, 3e-3)]
)
def test_the_schedule_follows_the_number_of_subjects(n: int, epochs: int, rate: float) -> None:
    train = schedule(TrainSettings(), n)
    assert (train.num_epochs, train.initial_lr) == (epochs, pytest.approx(rate))
    assert schedule(TrainSettings(num_epochs=14), n).num_epochs >= 5
    assert schedule(TrainSettings(num_epochs=3), n).num_epochs == 3


def test_the_command(nnunet_folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    model = source_model(nnunet_folders)
    target_dataset(nnunet_folders)
    words = ["-m", str(model), "-d", TARGET, "--name", NAME, "--n", "2", "--parts", "decoder", "-f", "0", "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["finetune"]["parts"] == "decoder"
    assert printed["written"]
    assert main(words) == 2
    assert main(["-m", str(model), "-d", TARGET, "--name", "zero", "--n", "0"]) == 2
    assert "predict with it" in capsys.readouterr().err
    assert pickle.dumps(printed)
