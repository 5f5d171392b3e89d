"""`nnUNetv2_spine_plan` and the presets: new plans beside nnU-Net's, and edits of a trained model."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_builder import CORD, make_dataset_json, make_image, make_plans

from nnunet_spine_ext.cli.plan import main
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.harmonize.reference import CURVES_FILE, read_curves
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.training import plan as plan_module
from nnunet_spine_ext.training.plan import plan, restore_tables
from nnunet_spine_ext.training.presets import (
    NetworkPreset,
    Preset,
    apply_to_configuration,
    preset_names,
    read_preset,
    shrink_patch,
    total_stride,
)
from nnunet_spine_ext.training.settings import settings_from_plans

DATASET = "Dataset901_Toy"
CASES = ("a", "b", "c")


@pytest.fixture
def folder(nnunet_folders: dict[str, Path]) -> Path:
    """Return a planned and preprocessed dataset of three cases, as far as the command looks at it."""
    raw = nnunet_folders["nnUNet_raw"] / DATASET
    folder = nnunet_folders["nnUNet_preprocessed"] / DATASET
    for number, case in enumerate(CASES):
        image = make_image(raw / "imagesTr" / f"{case}_0000.nii.gz", shape=(12, 14, 16), seed=number)
        label = image.with_array((image.array > 500).astype(np.uint8))
        write_volume(label, folder / "gt_segmentations" / f"{case}.nii.gz")
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans(patch=(32, 64, 48))))
    (folder / "dataset.json").write_text(json.dumps(make_dataset_json(CORD, [])))
    (folder / "splits_final.json").write_text("[]")
    return folder


def written(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def test_new_plans_carry_settings_and_leave_the_base_alone(folder: Path) -> None:
    before = (folder / "nnUNetPlans.json").read_bytes()
    result = plan(
        "901",
        name="mine",
        assignments=["train.num_epochs=7", "train.initial_lr=1e-3", "batch_size=5", "batch_dice=true"],
    )
    content = written(folder, "mine")
    assert result.path == folder / "mine.json"
    assert content["plans_name"] == "mine"
    assert settings_from_plans(content).train.num_epochs == 7
    assert settings_from_plans(content).train.initial_lr == 1e-3
    configuration = content["configurations"]["3d_fullres"]
    assert configuration["batch_size"] == 5
    assert configuration["batch_dice"] is True
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres", "preprocessed data is shared"
    assert (folder / "nnUNetPlans.json").read_bytes() == before
    assert result.next_steps == ["next: nnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainerSpine -p mine"]
    assert "batch_size: 2 -> 5" in result.render()


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_gives_a_network_that_runs(folder: Path, preset: str) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plan("901", name="other", preset=preset)
    content = written(folder, "other")
    settings = settings_from_plans(content)
    assert settings.preset == preset
    assert {"cpu", "demo"} <= set(preset_names())
    manager = PlansManager(content)
    configuration = manager.get_configuration("3d_fullres")
    strides = configuration.network_arch_init_kwargs["strides"]
    assert all(n % s == 0 for n, s in zip(configuration.patch_size, total_stride(strides), strict=True))
    recipe = read_preset(preset)
    assert {k: getattr(settings.train, k) for k in recipe.train} == recipe.train
    if recipe.patch.max_voxels is not None:
        assert math.prod(configuration.patch_size) <= recipe.patch.max_voxels
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 2, False)
    assert network(torch.zeros(1, 1, *(2 * s for s in total_stride(strides)))).shape[1] == 2


def test_set_goes_over_the_preset(folder: Path) -> None:
    plan(
        "901",
        name="x",
        preset="cpu",
        assignments=["train.num_epochs=3", "network.base_features=6", "patch.size=[16, 16, 8]"],
    )
    content = written(folder, "x")
    assert settings_from_plans(content).train.num_epochs == 3
    assert settings_from_plans(content).train.optimizer == read_preset("cpu").train["optimizer"]
    configuration = content["configurations"]["3d_fullres"]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [6, 12, 24]
    assert configuration["patch_size"] == [16, 16, 8]


def test_plans_of_ours_can_be_the_base(folder: Path) -> None:
    plan("901", name="first", preset="cpu")
    plan("901", p="first", name="second", assignments=["train.seed=3"])
    settings = settings_from_plans(written(folder, "second"))
    assert (settings.preset, settings.train.seed) == ("cpu", 3)
    assert settings.train.num_epochs == read_preset("cpu").train["num_epochs"]


def test_another_spacing_gets_its_own_preprocessed_data(folder: Path) -> None:
    result = plan("901", name="fine", assignments=["spacing=[0.5, 1, 2]"])
    configuration = written(folder, "fine")["configurations"]["3d_fullres"]
    assert configuration["data_identifier"] == "fine_3d_fullres"
    assert configuration["spacing"] == [0.5, 1.0, 2.0]
    assert configuration["median_image_size_in_voxels"] == [64.0, 64.0, 24.0]
    assert configuration["patch_size"] == [64, 64, 24]
    assert result.next_steps[0] == "next: nnUNetv2_preprocess -d 901 -plans_name fine -c 3d_fullres"
    same = plan("901", name="same", assignments=["spacing=[1, 1, 1]"])
    assert len(same.next_steps) == 1
    with pytest.raises(UsageError, match="2 values"):
        plan("901", name="flat", assignments=["spacing=[1, 1]"])


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = plan("901", name="mine", preset="cpu", dry_run=True)
    assert result.next_steps[-1].endswith("-p mine -device cpu")
    assert result.render().startswith("would write")
    assert result.changes
    assert sorted(folder.rglob("*")) == before


def test_without_any_plans_the_remedy_ends_with_the_command(folder: Path) -> None:
    with pytest.raises(SpineExtError) as caught:
        plan(d="901", name="mine", p="nnUNetPlan")
    assert "did you mean" in caught.value.fix
    for path in folder.glob("*lans*.json"):
        path.unlink()
    with pytest.raises(SpineExtError) as caught:
        plan(d="901", name="mine")
    assert caught.value.fix == "run nnUNetv2_plan_and_preprocess first"


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        ({"name": None}, "E-PLAN-NAME", "--name"),
        ({"name": "nnUNetPlans"}, "E-PLAN-NAME", "other than nnUNetPlans"),
        ({"name": "a b"}, "E-PLAN-NAME", "'a b'"),
        ({"name": "a__b"}, "E-PLAN-NAME", "single _"),
        ({"name": "../a"}, "E-PLAN-NAME", "../a"),
        ({"name": "dataset"}, "E-PLAN-NAME", "holds no plans"),
        ({"name": "splits_final", "overwrite": True}, "E-PLAN-NAME", "holds no plans"),
        ({"c": "3d_fulres"}, "E-PLAN-CONFIGURATION", "did you mean '3d_fullres'?"),
        ({"preset": "cpus"}, "E-PRESET", "did you mean 'cpu'?"),
        ({"p": "nnUNetPlan"}, "E-PLAN-BASE", "did you mean 'nnUNetPlans'?"),
        ({"p": "dataset"}, "E-PLAN-BASE", "nnU-Net's plans"),
        ({"d": "902"}, "E-PLAN-DATASET", DATASET),
        ({"d": f"/data/{DATASET}"}, "E-PLAN-DATASET", "leave the folder out"),
        ({"assignments": ["batchsize=3"]}, "E-CONFIG-KEY", "did you mean 'batch_size'?"),
        ({"assignments": ["train.num_epoch=3"]}, "E-CONFIG-KEY", "did you mean 'num_epochs'?"),
        ({"assignments": ["network.features=3"]}, "E-CONFIG-KEY", "base_features"),
        ({"assignments": ["data.scheme=verse"]}, "E-CONFIG-KEY", "'data'"),
        ({"assignments": ["version=9"]}, "E-CONFIG-KEY", "'version'"),
        ({"assignments": ["train.num_epochs=many"]}, "E-CONFIG-VALUE", "many"),
        ({"assignments": ["train=3"]}, "E-CONFIG-VALUE", "train"),
        ({"assignments": ["train.num_epochs"]}, "E-CONFIG-SET", "key=value"),
        ({"assignments": ["train.mirror.axis=3"]}, "E-CONFIG-SET", "mirror"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    folder: Path, arguments: dict[str, Any], code: str, hint: str
) -> None:
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    with pytest.raises(SpineExtError) as caught:
        plan(**{"d": "901", "name": "mine", **arguments})
    assert caught.value.code == code
    assert hint in str(caught.value)
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


def test_an_existing_name_needs_overwrite(folder: Path) -> None:
    plan("901", name="mine")
    with pytest.raises(UsageError, match="--overwrite"):
        plan("901", name="mine", assignments=["train.seed=1"])
    assert settings_from_plans(written(folder, "mine")).train.seed is None
    plan(DATASET, name="mine", assignments=["train.seed=1"], overwrite=True)
    assert settings_from_plans(written(folder, "mine")).train.seed == 1


def test_a_failure_leaves_no_plans(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "mine.json":
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        plan("901", name="mine")
    assert not (folder / "mine.json").exists()
    assert not list(folder.glob(".*"))


def test_a_preset_of_the_users_own(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("description: mine\ntrain:\n  num_epochs: 4\n  weight_decay: 1e-4\nbatch_size: 3\n")
    plan("901", name="mine", preset=str(file))
    assert settings_from_plans(written(folder, "mine")).train.weight_decay == 1e-4
    for text, hint in (("trian: {}\n", "did you mean 'train'?"), ("- 1\n", "a list"), ("a: [\n", "cannot be read")):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"mine\.yaml") as caught:
            plan("901", name="other", preset=str(file))
        assert hint in str(caught.value).replace("'trian'", "")


def test_curves_are_stored_once_and_only_added_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not plan("901", name="one", dry_run=True).written
    assert read_curves(folder) == {}
    plan("901", name="one")
    first = (folder / CURVES_FILE).read_bytes()
    assert set(read_curves(folder)) == set(CASES)
    asked: list[str] = []
    original = plan_module.curves_of_files
    monkeypatch.setattr(
        plan_module, "curves_of_files", lambda cases, **more: (asked.extend(cases), original(cases, **more))[1]
    )
    plan("901", name="two")
    assert (asked, (folder / CURVES_FILE).read_bytes()) == ([], first)
    # Another image under an old name: the dataset was converted anew.
    image = folder.parents[1] / "nnUNet_raw" / DATASET / "imagesTr" / "a_0000.nii.gz"
    later = (folder / CURVES_FILE).stat().st_mtime + 10
    os.utime(image, (later, later))
    plan("901", name="again")
    assert asked == ["a"]
    asked.clear()
    # A case that came later is added, also when the images of the others are gone.
    raw = folder.parents[1] / "nnUNet_raw" / DATASET / "imagesTr"
    for file in raw.glob("*.nii.gz"):
        file.unlink()
    make_image(raw / "d_0000.nii.gz", shape=(12, 14, 16), seed=9)
    shutil.copy(folder / "gt_segmentations/a.nii.gz", folder / "gt_segmentations/d.nii.gz")
    plan("901", name="three")
    assert asked == ["d"]
    assert set(read_curves(folder)) == {*CASES, "d"}


def test_curves_of_another_version_are_made_anew(folder: Path) -> None:
    (folder / CURVES_FILE).write_text('{"version": 2, "cases": {"a": "of another kind"}}')
    plan("901", name="one")
    assert set(read_curves(folder)) == set(CASES)


def test_curves_of_version_2_get_their_noise_where_the_images_are(folder: Path) -> None:
    plan("901", name="one")
    content = json.loads((folder / CURVES_FILE).read_text())
    for case in content["cases"].values():
        del case["version"]
        for channel in case["channels"]:
            del channel["noise"]
    (folder / CURVES_FILE).write_text(json.dumps(content | {"version": 2}))
    assert not any(facts.current for facts in read_curves(folder).values())
    # Without its image a case stays what it is, and is known as such.
    (folder.parents[1] / "nnUNet_raw" / DATASET / "imagesTr" / "a_0000.nii.gz").unlink()
    plan("901", name="two")
    found = read_curves(folder)
    assert {case: facts.current for case, facts in found.items()} == {case: case != "a" for case in CASES}
    assert {case: facts.channels[0].noise is None for case, facts in found.items()} == {c: c == "a" for c in CASES}


def test_without_raw_images_the_plans_are_written_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder.parents[1] / "nnUNet_raw" / DATASET)
    with caplog.at_level(logging.WARNING):
        plan("901", name="mine")
    assert "no images of 3 of 3 cases" in caplog.text
    assert (folder / "mine.json").is_file()
    assert read_curves(folder) == {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    settings = {"train": {"num_epochs": 3}, "data": {"scheme": "nnunet14"}, "reference": {"0": {"cases": 2}}}
    content = make_plans(name="mine") | {"spine_ext": settings}
    (folder / "plans.json").write_text(json.dumps(content))
    return folder


def test_a_models_prediction_can_be_edited(model: Path) -> None:
    before = written(model, "plans")
    assert plan(m=str(model), assignments=["predict.instances=true"], dry_run=True).written is False
    assert written(model, "plans") == before
    result = plan(m=str(model), assignments=["predict.instances=true"])
    assert result.changes == ["predict.instances: False -> True"]
    after = written(model, "plans")
    assert after["spine_ext"]["predict"] == to_dict(PredictSettings(instances=True))
    assert settings_from_plans(after).train == settings_from_plans(before).train
    assert after["spine_ext"]["reference"] == {"0": {"cases": 2}}
    assert {k: v for k, v in after.items() if k != "spine_ext"} == {k: v for k, v in before.items() if k != "spine_ext"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"assignments": ["train.num_epochs=9"]}, "E-PLAN-MODEL"),
        ({"assignments": ["predict.instances=true", "batch_size=3"]}, "E-PLAN-MODEL"),
        ({"assignments": []}, "E-PLAN-MODEL"),
        ({"assignments": ["predict.instances=true"], "preset": "cpu"}, "E-PLAN-MODEL"),
        ({"assignments": ["predict.instances=true"], "name": "x"}, "E-PLAN-MODEL"),
        ({"assignments": ["predict.instance=true"]}, "E-CONFIG-KEY"),
        ({"assignments": ["predict.instances=3"]}, "E-CONFIG-VALUE"),
        ({"assignments": ["predict.instances=true"], "d": "901"}, "E-PLAN-TARGET"),
    ],
    ids=str,
)
def test_a_model_keeps_what_its_weights_depend_on(model: Path, arguments: dict[str, Any], code: str) -> None:
    before = (model / "plans.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        plan(m=str(model), **arguments)
    assert caught.value.code == code
    assert (model / "plans.json").read_bytes() == before


def test_instances_of_a_model_with_other_classes_are_refused(model: Path) -> None:
    content = written(model, "plans")
    content["spine_ext"]["data"]["scheme"] = "custom"
    (model / "plans.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="nnunet14"):
        plan(m=str(model), assignments=["predict.instances=true"])
    assert written(model, "plans") == content


def test_no_model_and_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match=r"no plans\.json"):
        plan(m=str(tmp_path), assignments=["predict.instances=true"])
    with pytest.raises(UsageError, match="neither"):
        plan()
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SetupError, match="not set"):
        plan("901", name="x")


def test_the_command_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "901", "--name", "mine", "--preset", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(folder / "mine.json")
    assert main(["-d", "901", "--name", "mine"]) == 2
    assert "E-PLAN-EXISTS" in capsys.readouterr().err
    assert main(["-d", "999", "--name", "mine"]) == 5


@given(
    st.lists(st.integers(1, 300), min_size=3, max_size=3),
    st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=3, max_size=3),
    st.integers(1, 200_000),
)
def test_a_shrunk_patch_fits_the_network_and_the_budget(size: list[int], stride: list[int], budget: int) -> None:
    patch = shrink_patch(size, stride, budget)
    assert all(n % s == 0 and n >= s for n, s in zip(patch, stride, strict=True))
    assert all(n <= max(old, s) for n, old, s in zip(patch, size, stride, strict=True))
    if math.prod(patch) > budget:
        assert patch == stride, "only the smallest patch may be above the budget"


def test_residual_networks_are_resized_too() -> None:
    configuration = make_plans()["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    changed = apply_to_configuration(configuration, Preset())
    assert changed == configuration
    smaller = apply_to_configuration(configuration, Preset(network=NetworkPreset(max_stages=2, convs_per_stage=2)))
    assert smaller["architecture"]["arch_kwargs"]["n_blocks_per_stage"] == [2, 2]
    assert len(smaller["architecture"]["arch_kwargs"]["strides"]) == 2
    assert configuration["architecture"]["arch_kwargs"]["n_stages"] == 3, "the argument stays as it was"


def test_tables_of_a_replaced_dataset_are_replaced_and_chosen_splits_stay(
    folder: Path, nnunet_folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    raw = nnunet_folders["nnUNet_raw"] / DATASET
    for root, text in ((raw, "new"), (folder, "old")):
        (root / "cases.json").write_text(json.dumps({"version": 1, "cases": {text: {"subject": "x"}}}))
        (root / "splits_final.json").write_text(json.dumps([{"train": [text], "val": [text]}]))
    restore_tables(folder)
    for name in ("cases.json", "splits_final.json"):
        assert (folder / name).read_bytes() == (raw / name).read_bytes()
    assert "they are replaced" in caplog.text
    (folder / "splits_final.json").write_text("[]")
    restore_tables(folder)
    assert (folder / "splits_final.json").read_text() == "[]"
    (raw / "splits_final.json").unlink()
    (raw / "cases.json").write_text("{}")
    restore_tables(folder)
    assert not (folder / "splits_final.json").exists()


def test_augmentation_is_set_with_its_trainer_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("transforms: [{name: gamma, p: 0.5}]")
    result = plan("901", name="mine", assignments=[f"augment.config={file}", "augment.clean_share=0.5"])
    assert result.next_steps[-1].endswith("-tr nnUNetTrainerSpineShift -p mine")
    assert "augment.clean_share: None -> 0.5" in result.changes
    assert "augment.config: None -> …" in result.changes
    file.unlink()
    augment = settings_from_plans(written(folder, "mine")).augment
    assert augment is not None
    config = augment.effective()
    assert (config.schedule.clean_share, [t.name for t in config.transforms]) == (0.5, ["gamma"])
    assert plan("901", p="mine", name="off", assignments=["augment=null"]).next_steps[-1].endswith("Spine -p off")
    for assignment, wanted in (
        ("augment.config=shifts", "did you mean 'shift'"),
        ("augment.clean_share=2", "0 to 1"),
        ("augment.config={transforms: [{name: gama}]}", "did you mean 'gamma'"),
    ):
        with pytest.raises(UsageError, match=wanted):
            plan("901", name="bad", assignments=[assignment])
    assert not (folder / "bad.json").exists()


def test_domains_are_set_with_their_trainer_named_and_checked_against_the_cases(folder: Path) -> None:
    rows = {"a": {"subject": "a", "manufacturer": "GE"}, "b": {"subject": "b", "manufacturer": "Philips"}}
    (folder.parents[1] / "nnUNet_raw" / DATASET / "cases.json").write_text(json.dumps({"version": 1, "cases": rows}))
    before = sorted(folder.rglob("*"))
    for assignments, code in (
        (["domain.loss.name=paired"], "E-TRAINER-DOMAIN"),
        (["augment.config=scanners"], "E-TRAINER-DOMAIN"),
        (["domain.key=manufacturers"], "E-DOMAIN-KEY"),
        (["domain.target=[Siemens]"], "E-DOMAIN-TARGET"),
    ):
        with pytest.raises(SetupError) as caught:
            plan("901", name="mine", preset="dann", assignments=assignments)
        assert caught.value.code == code
    assert sorted(folder.rglob("*")) == before
    result = plan("901", name="mine", preset="dann", assignments=["domain.target=[ge]", "domain.loss.gamma=5"])
    assert result.next_steps[-1].endswith("-tr nnUNetTrainerSpineDANN -p mine")
    assert {"domain.loss.name: None -> dann", "domain.loss.gamma: None -> 5.0"} <= set(result.changes)
    again = plan("901", p="mine", name="other", assignments=["domain.loss.gamma=6"], dry_run=True)
    assert again.changes == ["domain.loss.gamma: 5.0 -> 6.0"]


@pytest.mark.parametrize(
    ("preset", "assignments", "trainer"),
    [
        ("soft", [], "Soft"),
        ("soft", ["soft.loss.name=soft_dice_bce"], "SoftDiceBCE"),
        ("soft", ["augment.config=shift"], "ShiftSoft"),
        ("contrast-agnostic", [], "ContrastAgnostic"),
        (None, ["soft.loss.omega=14"], "Soft"),
    ],
)
def test_soft_labels_are_set_with_their_trainer_named(
    folder: Path, preset: str | None, assignments: list[str], trainer: str
) -> None:
    result = plan("901", name="mine", preset=preset, assignments=assignments)
    assert result.next_steps[-1].split(" -p ")[0].endswith(f"-tr nnUNetTrainerSpine{trainer}")
    assert settings_from_plans(written(folder, "mine")).soft is not None


def test_a_preset_with_a_loss_of_its_own_keeps_it(folder: Path) -> None:
    plan("901", name="mine", preset="contrast-agnostic-reference", assignments=["soft.loss.weight=3"])
    soft = settings_from_plans(written(folder, "mine")).soft
    assert soft is not None
    assert (soft.loss.weighting, soft.loss.reduction, soft.loss.levels, soft.loss.weight) == (
        "paper",
        "sum",
        "paper",
        3,
    )
    plan("901", name="off", assignments=["soft.loss.weighting=off"])
    soft = settings_from_plans(written(folder, "off")).soft
    assert soft is not None
    assert soft.loss.weighting == "off", "for YAML the word is a boolean"
    assert (
        plan("901", p="mine", name="none", assignments=["soft=null", "augment=null"])
        .next_steps[-1]
        .endswith("-tr nnUNetTrainerSpine -p none")
    )
