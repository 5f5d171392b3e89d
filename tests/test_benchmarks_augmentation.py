"""The parts of benchmarks/augmentation.py that count and compare; never times."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import augmentation
import augmentation_checks as checks
import augmentation_cuda
import augmentation_measure as measure
import augmentation_operators as operators
import training_speed
from augmentation_arms import Local, NnUNet, Ours, expected_ms
from augmentation_data import Setting, divided
from augmentation_device import device_counts

BENCHMARKS = Path(augmentation.__file__).parent
SHAPE = (16, 32, 32)


def patch(count: int = 1) -> measure.Patch:
    """Return a source larger than the result, with three labels."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(40) * 4 // 40)[:, None].expand(24, 40, 48).to(torch.int16)
    image = labels + 0.1 * torch.randn((count, 1, 24, 40, 48), generator=generator)
    return measure.Patch(image.float(), labels.expand(count, 1, 24, 40, 48).contiguous(), SHAPE, (2.0, 1.0, 1.0))


def local(runner: Any) -> Local:
    """Return an arm that has a patch."""
    arm = Local(runner)
    arm.load(patch())
    return arm


@pytest.mark.parametrize(
    "runner",
    [
        Ours(AugmentConfig.load("shift"), mirror=True),
        Ours(AugmentConfig.load("nnunet"), mirror=True),
        NnUNet(nnUNetTrainer),
        NnUNet(nnUNetTrainerDA5),
    ],
    ids=["shift", "nnunet preset", "nnU-Net", "DA5"],
)
def test_an_arm_gives_a_patch_and_can_be_asked_for_each_transform_alone(runner: Any) -> None:
    arm = local(runner)
    chances = arm.transforms()
    assert chances
    assert all(0 < p <= 1 for p in chances.values())
    for only in (None, measure.BASE, measure.EVERYTHING, *chances):
        counts = arm.count(1, only)
        image, labels = arm.runner.result()
        assert image.shape == labels.shape == (1, 1, *SHAPE)
        assert image.isfinite().all()
        assert counts["operations"] >= 0
    assert arm.count(1, measure.EVERYTHING)["volume_operations"] > arm.count(1, measure.BASE)["volume_operations"]
    assert arm.count(3, None) == arm.count(3, None)


def test_base_is_the_crop_of_the_middle() -> None:
    whole = patch()
    for runner in (Ours(AugmentConfig.load("nnunet")), NnUNet(nnUNetTrainer)):
        arm = local(runner)
        arm.count(0, measure.BASE)
        if isinstance(runner, Ours):
            assert torch.equal(runner.result()[0], whole.centre(SHAPE).image)
        else:
            # nnU-Net mirrors always, along axes that it draws.
            assert runner.result()[0].sum().item() == pytest.approx(whole.centre(SHAPE).image.sum().item(), rel=1e-5)


def test_ours_never_reads_back() -> None:
    for only in (None, measure.EVERYTHING):
        assert local(Ours(AugmentConfig.load("shift"), mirror=True)).count(2, only)["host_reads"] == 0


def test_a_device_is_counted_without_one() -> None:
    runner = Ours(AugmentConfig.from_dict({"transforms": [{"name": "rician_noise", "p": 1.0}]}))
    on_device = device_counts(runner, patch(), (0, 1))
    assert on_device["host_reads"] == 0
    # Not in pieces that fit a cache: a handful of operations on the whole volume.
    assert 1 <= on_device["volume_operations"] <= 12
    assert local(runner).count(0)["operations"] >= 1


def test_clean_samples_lower_the_chance_of_all_but_the_geometry() -> None:
    arm = local(Ours(AugmentConfig.load("shift")))
    chances = arm.transforms()
    assert chances["rotate"] == 0.2
    assert chances["gamma"] == pytest.approx(0.3 * 0.7)


def test_what_clean_samples_get_counts_for_their_share() -> None:
    listed = {"transforms": [{"name": "gamma", "p": 0.5}, {"name": "contrast", "p": 0.5}]}
    config = {**listed, "schedule": {"clean_share": 0.2}, "clean": {"transforms": [{"name": "gamma", "p": 1.0}]}}
    arm = local(Ours(AugmentConfig.load(config)))
    assert arm.transforms() == pytest.approx({"gamma": 0.4, "contrast": 0.4, "gamma#2": 0.2})
    for only, names in (("gamma#2", ["gamma"]), (measure.EVERYTHING, ["gamma", "contrast"])):
        arm.runner.begin(1, only)
        arm.runner.step("plan")
        assert {a.name for sample in arm.runner.plan.samples for a in sample} == set(names)


def test_the_nnunet_preset_has_the_probabilities_of_nnunet() -> None:
    ours = local(Ours(AugmentConfig.load("nnunet"))).transforms()
    theirs = {name.partition(" ")[2] or name: p for name, p in local(NnUNet(nnUNetTrainer)).transforms().items()}
    assert 1 - (1 - ours["rotate"]) * (1 - ours["scale"]) == pytest.approx(theirs["SpatialTransform"])
    # What nnU-Net applies to a channel with probability one half.
    assert ours["blur"] == pytest.approx(theirs["GaussianBlurTransform"] / 2)
    assert ours["low_resolution"] == pytest.approx(theirs["SimulateLowResolutionTransform"] / 2)
    assert ours["rician_noise"] == theirs["GaussianNoiseTransform"]
    assert ours["brightness"] == theirs["MultiplicativeBrightnessTransform"]
    assert ours["contrast"] == theirs["ContrastTransform"]
    assert {ours["gamma"], ours["inverse_gamma"]} == {0.3, 0.1}


def test_expected_cost_adds_what_each_transform_costs_beyond_the_base() -> None:
    assert expected_ms(2.0, {"a": 12.0, "b": 4.0}, {"a": 0.5, "b": 1.0}) == 2.0 + 5.0 + 2.0


def test_labels_are_divided_into_as_many_as_asked() -> None:
    classes = torch.zeros(8, 40, 8, dtype=torch.uint8).numpy()
    for place in range(8):
        classes[place] = 1 + place
    for number in augmentation.LABELS:
        found = divided(classes, (8, 40, 8), number)
        assert sorted(set(found.ravel().tolist())) == list(range(1, number + 1))


def test_repeated_seeds_and_neighbours() -> None:
    found = checks.reproducibility(Ours(AugmentConfig.load("shift"), mirror=True), 25)
    assert found == {"number": 25, "same_seed": 25, "other_neighbour": 25}


def test_operators_do_what_their_names_say() -> None:
    found = operators.check(1)
    assert max(found["alias"].values()) <= 0.01
    assert found["blur_sd_requested_1"] == pytest.approx(1, abs=0.02)
    assert found["noisy_air"]["mean_over_sd"] == pytest.approx(1.913, abs=0.01)
    assert found["noisy_air"]["share_below_air"] == 0
    assert found["air_spread_under_bias"] <= 1.02


def test_checks_notice_what_is_wrong() -> None:
    assert checks.alias(lambda image, _: image) > 0.9
    assert checks.blur_deviation(lambda image, _: image, 1) == 0
    gaussian = checks.noisy_air(lambda image, seed: image + torch.randn(image.shape))
    assert abs(gaussian["mean_over_sd"]) < 0.05
    assert gaussian["share_below_air"] == pytest.approx(0.5, abs=0.02)
    assert checks.air_spread(lambda image, _: 2 * image, 1) == pytest.approx(2, rel=1e-4)


def test_counts_of_all_stages_name_their_transforms() -> None:
    found = augmentation.everything_on(measure.Patch(patch().image, patch().labels, SHAPE, (2.0, 1.0, 1.0)))
    assert found["all stages"]["processor"]["host_reads"] == 0
    assert found["all stages"]["device"]["host_reads"] == 0
    assert "rotate" in found["warp"]["transforms"]


def test_missing_arms_are_named_and_goals_without_figures_stay_open() -> None:
    arms, missing = augmentation.make_arms(augmentation.NAMES, None)
    assert "ours_shift" in arms
    assert {"smauglab_default", "smauglab_paper", "ours_smauglab_default", "ours_smauglab_paper"} <= missing.keys()
    goals = augmentation.goals({}, {})
    assert goals
    assert all(g["value"] is None and g["reached"] is None for g in goals)
    assert json.dumps(goals)


def test_the_worker_imports_nothing_of_the_project() -> None:
    for name in ("augmentation_peer", "augmentation_measure", "augmentation_checks", "dispatch_counter"):
        text = (BENCHMARKS / f"{name}.py").read_text()
        assert "nnunet_spine_ext" not in text.replace("nnunet_spine_ext`", ""), name


def test_a_training_step_can_be_measured_with_and_without_augmentation() -> None:
    shape = (16, 16, 16)
    image, labels = torch.zeros(1, 1, *shape), torch.zeros(1, 1, *shape, dtype=torch.int16)
    small = measure.Patch(image, labels, shape, (1.0,) * 3)
    runner = Ours(AugmentConfig.load("nnunet"))
    runner.load(small)
    for augment in (None, measure.augmenting(runner)):
        assert measure.train_step_ms(small, augment, 3, steps=1, features=(2, 4)) > 0


def test_goals_that_need_a_device_say_what_was_missed() -> None:
    figures = {"ms_per_batch": 1.5, "waits": ["a read"], "peak_extra_batches": 3.0}
    found = augmentation_cuda.cuda_goals(
        {Setting((128, 128, 128), 6).name: {"ours_shift": figures}}, {"ours_shift": {"more_percent": 2.0}}
    )
    assert [goal["reached"] for goal in found] == [True, False, False, True]
    batch = augmentation_cuda.batched(patch())
    assert batch.image.shape[0] == batch.labels.shape[0] == augmentation_cuda.BATCH


def test_short_trainers_are_subclasses_in_a_folder_per_environment(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    found = training_speed.write_trainers(tmp_path, environment, tmp_path / "no interpreter")
    assert [t.base for t in found] == [t.base for t in training_speed.TRAINERS if not t.smauglab]
    text = (tmp_path / "trainers" / "nnUNetTrainer_Speed.py").read_text()
    scope: dict[str, Any] = {}
    exec(compile(text, "trainer", "exec"), scope)  # noqa: S102
    assert issubclass(scope["nnUNetTrainer_Speed"], nnUNetTrainer)
    assert environment["nnUNet_extTrainer"] == str(tmp_path / "trainers")


def test_short_trainings_augment_as_most_epochs_of_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        def initialize(self) -> None:
            self.augmentation = SimpleNamespace(pipeline=Pipeline("shift", Context((8, 8, 8), (1.0, 1.0, 1.0))))

    module = ModuleType("short_trainings_base")
    module.Base = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("SPEED_EPOCHS", "4")
    monkeypatch.setenv("SPEED_STEPS", "5")
    scope: dict[str, Any] = {}
    text = training_speed._SUBCLASS.format(base="Base", module=module.__name__, name="Short")
    exec(compile(text, "trainer", "exec"), scope)  # noqa: S102
    trainer = scope["Short"]()
    trainer.initialize()
    schedule = trainer.augmentation.pipeline.config.schedule
    assert schedule.strength(0, 0.01) == 1
    assert not schedule.closing(0.99)
    assert schedule.clean_share == AugmentConfig.load("shift").schedule.clean_share > 0
