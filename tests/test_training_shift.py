"""The trainer that augments on the device: what reaches the network, what stays nnU-Net's, what repeats."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from model_builder import SIDED14
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import Seen, cascaded, make_trainer, started, two_dimensional

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.cascade import ChangePreviousStage
from nnunet_spine_ext.training.feeding import Ahead
from nnunet_spine_ext.training.settings import AugmentSettings, settings_from_plans
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift

GAMMA = {"transforms": [{"name": "rotate", "p": 1.0}, {"name": "gamma", "p": 1.0, "gamma": 2.0}]}
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 1}

Maker = Callable[..., Any]


@pytest.fixture
def make(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that builds trainers on one small dataset."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def build(
        *,
        kind: type[nnUNetTrainer] = nnUNetTrainerSpineShift,
        config: Any = None,
        train: Any = None,
        **kwargs: Any,
    ) -> Any:
        settings = {"train": SHORT | (train or {})}
        if kind is nnUNetTrainerSpineShift:
            settings["augment"] = {"config": GAMMA if config is None else config}
        return make_trainer(kind, nnunet_folders["nnUNet_preprocessed"], settings=settings, **kwargs)

    return build


def test_a_step_augments_as_the_key_says(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    trainer = started(make())
    batch = next(trainer.dataloader_train)
    assert set(batch) == {"data", "target", "keys"}
    assert batch["data"].shape[2:] == trainer.augmentation.pipeline.context.source
    assert batch["target"].min() == -1, "workers leave the border to the device"
    before = batch["data"].clone()
    for _ in range(2):
        trainer.train_step(batch)
    trainer.on_train_epoch_start()
    trainer.train_step(batch)
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    trainer.train_step(batch)
    assert torch.equal(batch["data"], before)
    first, second, again, later = (b["data"] for b in seen.batches)
    assert first.shape == (2, 1, 16, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, second), "the second step of an epoch draws anew"
    assert not torch.equal(first, later), "so does the next epoch"
    for target, size in zip(seen.batches[0]["target"], (16, 8), strict=True):
        assert target.shape == (2, 1, size, size, size)
        assert target.dtype == torch.int16
        assert target.min() == 0


def test_without_transforms_batches_are_those_of_nnunets_validation(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    trainer = started(make(config="none", train={"mirror": False}))
    assert trainer.augmentation.pipeline.context.source == (16, 16, 16), "nothing moves: nothing larger is loaded"
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    (found,) = seen.batches
    assert torch.equal(found["data"], batch["data"])
    transforms = trainer.dataloader_val.data_loader.transforms
    for index in range(2):
        sample = transforms(image=batch["data"][index], segmentation=batch["target"][index].clone())
        for target, expected in zip(found["target"], sample["segmentation"], strict=True):
            assert torch.equal(target[index], expected)


def test_a_real_step_trains(make: Maker) -> None:
    trainer = started(make(config="shift"))
    before = [p.detach().clone() for p in trainer.network.parameters()]
    loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
    assert np.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


SOME_CLEAN = GAMMA | {"schedule": {"clean_share": 0.3}}


@pytest.mark.parametrize(
    ("config", "clip", "kept"),
    [
        (SOME_CLEAN, None, 1.0),
        ("shift", None, 1.0),
        (GAMMA, None, 0.0),
        ("gin", None, 0.0),
        (GAMMA, 0.5, 0.5),
        ("shift", 0, 0),
    ],
    ids=str,
)
def test_gradients_are_clipped_where_some_samples_are_clean(make: Maker, config: Any, clip: Any, kept: float) -> None:
    trainer = started(make(config=config, train={"clip": clip}))
    assert settings_from_plans(trainer.plans_manager.plans).train.clip == kept
    trainer.train_step(next(trainer.dataloader_train))
    assert ("gradient_norms" in trainer.optimizer.param_groups[0]) == bool(kept)
    assert ("train.clip" in Path(trainer.log_file).read_text()) == bool(kept)


def test_a_training_from_before_clipping_goes_on_without_it_alone(make: Maker) -> None:
    trainer = make(config="shift", train={"clip": 0})
    trainer.initialize()
    trainer.on_train_start()
    plans = Path(trainer.output_folder_base) / "plans.json"
    stored = read_json(plans)
    del stored["spine_ext"]["train"]["clip"]
    write_json(plans, stored)
    make(config="shift", train={"clip": 0}).initialize()
    with pytest.raises(SetupError, match="settings"):
        make(config="shift").initialize()


def ignoring(labels: dict[str, Any]) -> dict[str, Any]:
    return labels | {"ignore": 4}


PLAIN = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "all": [1, 2, 3], "some": [2, 3], "c": 3}


def ordered(dataset_json: dict[str, Any]) -> None:
    dataset_json["regions_class_order"] = [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "channels", "heads"),
    [
        ({"labels": ignoring(PLAIN)}, 1, None),
        ({"labels": REGIONS, "change_dataset": ordered}, 1, 3),
        ({"labels": ignoring(REGIONS), "change_dataset": ordered}, 1, 4),
        ({"channels": 3}, 3, None),
        ({"change": two_dimensional}, 1, None),
        ({"change": two_dimensional, "labels": ignoring(REGIONS), "change_dataset": ordered, "channels": 2}, 2, 4),
    ],
    ids=["ignore", "regions", "regions+ignore", "channels", "2d", "2d+regions+ignore+channels"],
)
def test_every_kind_of_dataset_trains_and_validates(
    make: Maker, arguments: dict[str, Any], channels: int, heads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(make(config="shift", **arguments))
    stock_step = nnUNetTrainer.train_step
    batches: list[dict[str, Any]] = []

    def step(self: Any, batch: dict[str, Any]) -> Any:
        batches.append(batch)
        return stock_step(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", step)
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])
    (batch,) = batches
    assert batch["data"].shape[1] == channels
    expected = next(trainer.dataloader_val)["target"]
    assert [(t.shape, t.dtype) for t in batch["target"]] == [(t.shape, t.dtype) for t in expected]
    if heads is not None:
        assert batch["target"][0].shape[1] == heads
    elif "ignore" in trainer.dataset_json["labels"]:
        assert (batch["target"][0] == 4).any()


def test_a_cascade_gets_the_previous_stage(make: Maker, nnunet_folders: dict[str, Path]) -> None:
    trainer = make(config="shift", labels=PLAIN, change=cascaded)
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    folder.mkdir(parents=True)
    for case in ("a_1", "b_1", "c_1"):
        labels = np.random.default_rng(0).integers(0, 4, size=(18, 20, 22)).astype(np.int16)
        nnUNetDatasetBlosc2.save_seg(labels, str(folder / case))
    started(trainer)
    (change,) = trainer.dataloader_train.data_loader.transforms.transforms
    assert isinstance(change, ChangePreviousStage)
    batch = next(trainer.dataloader_train)
    assert batch["target"].shape[1] == 2
    assert trainer.augmentation.pipeline.context.channels == 1
    assert np.isfinite(trainer.train_step(batch)["loss"])
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


def test_mirroring_is_what_the_base_trainer_mirrors(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
    for train in ({}, {"mirror_axes": "left-right"}, {"mirror": False}):
        trainer, base = make(train=train, config="none"), make(train=train, kind=nnUNetTrainerSpine)
        axes = getattr(trainer, name)()[3]
        assert axes == getattr(base, name)()[3]
        assert trainer.inference_allowed_mirroring_axes == base.inference_allowed_mirroring_axes
        flips = [t for _, t in trainer.augmentation.pipeline.config.flat() if t.name == "flip"]
        assert [t.axes for t in flips] == ([tuple(axes)] if axes else [])
    trainer = make(config={"transforms": [], "clean": {"transforms": []}})
    getattr(trainer, name)()
    flips = [t for _, t in trainer.augmentation.pipeline.config.flat() if t.name == "flip"]
    assert len(flips) == 2, "clean samples are mirrored, too"
    # Sided labels change places with the left-right axis, and with no other.
    seen = Seen(monkeypatch)
    trainer = started(make(config="none"))
    batch = next(trainer.dataloader_train)
    flipped = set()
    for _ in range(12):
        trainer.train_step(batch)
        target, source = seen.batches[-1]["target"][0], batch["target"].clamp_min(0)
        axes = {tuple(s["transforms"][0]["params"]["axes"]) for s in trainer_record(trainer, batch)}
        flipped |= axes
        for index, sample in enumerate(trainer_record(trainer, batch)):
            drawn = sample["transforms"][0]["params"]["axes"]
            expected = source[index].flip([axis + 1 for axis in drawn])
            if 2 in drawn:
                swap = {a: b for left, right in SIDED14 for a, b in ((left, right), (right, left))}
                expected = torch.tensor([swap.get(i, i) for i in range(15)], dtype=torch.int16)[expected.long()]
            assert torch.equal(target[index], expected)
    assert len(flipped) > 4


def trainer_record(trainer: Any, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the last step applied to each sample."""
    keys = trainer._keys(batch["keys"], trainer.current_epoch, trainer._step - 1)
    record: list[dict[str, Any]] = trainer.augmentation.plan(keys, 0.25).record["samples"]
    return record


@pytest.mark.parametrize(
    ("patch", "spacing", "source"),
    [
        ((16, 16, 16), (1.0, 1.0, 1.0), (25, 25, 25)),
        ((8, 32, 32), (3.0, 1.0, 1.0), (8, 37, 37)),
        ((16, 16, 16), (4.0, 1.0, 1.0), (16, 25, 25)),
    ],
    ids=["isotropic", "dummy 2-D of nnU-Net", "coarse spacing"],
)
def test_crops_are_as_large_as_nnunets_where_something_moves(
    make: Maker, patch: tuple[int, ...], spacing: tuple[float, ...], source: tuple[int, ...]
) -> None:
    trainer = make(patch=patch, spacing=spacing)
    _, dummy, loaded, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    stock = make(patch=patch, spacing=spacing, kind=nnUNetTrainer)
    _, _, initial, _ = stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert tuple(loaded) == source == trainer.augmentation.pipeline.context.source
    free = [axis for axis in range(3) if source[axis] != patch[axis]]
    assert [initial[a] for a in free] == [source[a] for a in free]
    assert dummy == (patch[0] == 8)


def test_validation_is_nnunets(make: Maker) -> None:
    ours, stock = make(), make(kind=nnUNetTrainer)
    for trainer in (ours, stock):
        trainer.initialize()
    for made, expected in zip(ours.get_dataloaders()[1:], stock.get_dataloaders()[1:], strict=True):
        kinds = [[type(t) for t in dl.data_loader.transforms.transforms] for dl in (made, expected)]
        assert kinds[0] == kinds[1]
        assert list(made.data_loader.patch_size) == list(expected.data_loader.patch_size)
    assert type(ours).validation_step is nnUNetTrainer.validation_step
    assert type(ours).get_validation_transforms is nnUNetTrainer.get_validation_transforms


def test_the_loaders_go_to_worker_processes(make: Maker) -> None:
    trainer = started(make(config="shift"))
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        copy = pickle.loads(pickle.dumps(loader.data_loader))
        assert next(copy)["data"].shape[0] == 2
    assert len(pickle.dumps(trainer.dataloader_train.data_loader)) < 100_000
    pickle.loads(pickle.dumps(trainer.augmentation))
    assert pickle.loads(pickle.dumps(nnUNetTrainerSpineShift)) is nnUNetTrainerSpineShift


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_a_resumed_training_equals_an_uninterrupted_one(make: Maker, nnunet_folders: dict[str, Path]) -> None:
    # More steps than the five that are not clipped.
    train = {"num_epochs": 3, "num_iterations_per_epoch": 4, "save_every": 1, "plot_every": 9}
    whole = make(config="shift", train=train)
    whole.run_training()
    expected = weights(whole)
    for file in Path(whole.output_folder).glob("*.pth"):
        file.unlink()

    interrupted = make(config="shift", train=train)
    stop = interrupted.on_train_epoch_start

    def second() -> None:
        if interrupted.current_epoch == 2:
            raise KeyboardInterrupt
        stop()

    interrupted.on_train_epoch_start = second
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    resumed = make(config="shift", train=train)
    resumed.load_checkpoint(str(Path(resumed.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()
    found = weights(resumed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_workers_feed_one_batch_ahead_with_the_same_draws(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    seen = Seen(monkeypatch)
    trainer = make(train={"num_epochs": 2, "num_iterations_per_epoch": 3})
    trainer.current_epoch = 1
    trainer.on_train_start()
    ahead = trainer.dataloader_train
    assert isinstance(ahead, Ahead)
    assert isinstance(ahead.loader, NonDetMultiThreadedAugmenter)
    for step in range(3):
        batch = next(ahead)
        assert [key.draw for key in batch["plan"].keys] == [2 * step, 2 * step + 1]
        assert {key.epoch for key in batch["plan"].keys} == {1}
        trainer.train_step(batch)
        crops = batch["sent"].arrived()
        data, _ = trainer.augmentation.apply(*crops, trainer.augmentation.plan(batch["plan"].keys, 0.75))
        assert torch.equal(data, seen.batches[-1]["data"])
    with pytest.raises(StopIteration):
        next(ahead)
    monkeypatch.setattr(trainer, "save_checkpoint", lambda _file: None)
    trainer.on_train_end()
    assert trainer.dataloader_train is ahead.loader


def test_one_worker_in_the_process_is_not_run_ahead(make: Maker) -> None:
    trainer = started(make())
    assert isinstance(trainer.dataloader_train, SingleThreadedAugmenter)
    trainer.on_train_end()


def test_processes_of_one_training_never_draw_the_same(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for two processes: a global batch of 5, of which one gets 3 and the other 2."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    trainer = make(change=lambda plans: plans["configurations"]["3d_fullres"].update(batch_size=5))
    trainer.is_ddp = True
    draws: list[int] = []
    for rank, count in ((0, 3), (1, 2)):
        trainer.local_rank = rank
        for step in range(4):
            draws += [key.draw for key in trainer._keys(["case"] * count, 0, step)]
    assert len(set(draws)) == len(draws) == 20


def test_compiled_networks_are_not_compiled_again(make: Maker) -> None:
    trainer = started(make(config="shift"))
    compiled: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    trainer.network = torch.compile(trainer.network, backend=backend)
    trainer.train_step(next(trainer.dataloader_train))
    once = len(compiled)
    assert once
    for _ in range(4):
        trainer.train_step(next(trainer.dataloader_train))
    assert len(compiled) == once


def test_the_model_tells_how_it_was_trained(make: Maker) -> None:
    trainer = make(config="shift", train={"num_epochs": 10})
    stored = settings_from_plans(trainer.plans_manager.plans).augment
    assert stored is not None
    config = AugmentConfig.load(stored.config)
    assert config == AugmentConfig.load("shift")
    assert stored.hash == config.hash
    trainer.on_train_start()
    saved = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert saved["spine_ext"]["augment"]["config"] == config.to_dict()
    assert len(json.dumps(saved["spine_ext"])) < 100_000
    log = next(Path(trainer.output_folder).glob("training_log*.txt")).read_text()
    assert f"Augmentation {config.hash} on cpu" in log
    # The preset's name and the configuration written out are the same training, another strength is not.
    make(config=config.to_dict(), train={"num_epochs": 10}).initialize()
    with pytest.raises(SetupError, match="E-MODEL-SETTINGS"):
        make(config=GAMMA, train={"num_epochs": 10}).initialize()


def test_settings_replace_the_schedule_and_mirroring_has_one_place() -> None:
    source = {"schedule": {"ramp_epochs": 5, "clean_share": 0.1}, "transforms": [{"name": "flip"}, {"name": "gamma"}]}
    config = AugmentSettings(config=source, clean_share=0.4, closing_clean_share=0.2).effective()
    assert (config.schedule.ramp_epochs, config.schedule.clean_share) == (5, 0.4)
    assert config.schedule.closing_clean_share == 0.2
    assert [t.name for t in config.transforms] == ["gamma"]
    with pytest.raises(UsageError, match="flip in a group"):
        AugmentSettings(config={"transforms": [{"one_of": [{"name": "flip"}, {"name": "gamma"}]}]}).effective()
    with pytest.raises(UsageError, match="did you mean 'gamma'"):
        AugmentSettings(config={"transforms": [{"name": "gama"}]}).effective()


@pytest.mark.parametrize(("epochs", "ramp"), [(1000, 20), (200, 20), (14, 1), (5, 0)])
def test_a_ramp_takes_no_more_than_a_tenth_of_a_short_training(make: Maker, epochs: int, ramp: int) -> None:
    config = {**GAMMA, "schedule": {"ramp_epochs": 20}}
    trainer = started(make(config=config, train={"num_epochs": epochs}))
    assert trainer.augmentation.pipeline.config.schedule.ramp_epochs == ramp
    # What is stored stays as it was given: the rule is the trainer's.
    stored = settings_from_plans(trainer.plans_manager.plans).augment
    assert AugmentConfig.load(stored.config).schedule.ramp_epochs == 20


def test_shares_of_the_training_are_those_of_its_own_length(make: Maker) -> None:
    trainer = started(make(config="shift", train={"num_epochs": 10}))
    schedule = trainer.augmentation.pipeline.config.schedule
    strengths = [schedule.strength(epoch, (epoch + 0.5) / 10) for epoch in range(10)]
    assert strengths == sorted(strengths)
    assert strengths[0] < 0.5
    assert strengths[4] == 1
    assert not schedule.closing(7.5 / 10)
    assert schedule.closing(8.5 / 10)


def test_trainers_refuse_what_they_would_ignore(make: Maker, nnunet_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"train\.augmentation"):
        make(train={"augmentation": "mirror"})
    root = nnunet_folders["nnUNet_preprocessed"]
    with pytest.raises(SetupError, match="nnUNetTrainerSpineShift") as caught:
        make_trainer(nnUNetTrainerSpine, root, settings={"augment": {"config": "none"}})
    assert caught.value.code == "E-TRAINER-AUGMENT"


def test_the_shipped_preset_is_moderate() -> None:
    config = AugmentSettings().effective()
    assert config.schedule.clean_share >= 0.25
    assert config.schedule.closing_clean_share > 0
    assert {t.stage for _, t in config.flat()} >= {"warp", "table", "axis", "field", "noise", "final"}
    geometry = {t.name: t for _, t in config.flat() if t.stage == "warp"}
    assert set(geometry) == {"rotate", "scale"}, "nnU-Net's geometry"
    assert (geometry["rotate"].p, geometry["scale"].p) == (0.2, 0.2)


def test_without_a_seed_trainings_draw_differently(make: Maker) -> None:
    def drawn(state: int) -> tuple[list[dict[str, Any]], str]:
        np.random.seed(state)  # noqa: NPY002  as whoever starts a training may do
        trainer = started(make(train={"seed": None}))
        plan = trainer.augmentation.plan(trainer._keys(["a_1", "b_1"], 0, 0))
        log = Path(trainer.log_file).read_text()
        assert f"seed {plan.keys[0].seed}." in log
        return [s["transforms"] for s in plan.record["samples"]], str(plan.keys[0].seed)

    first = drawn(1)
    assert drawn(1) == first
    assert drawn(2) != first, "not one seed for all trainings"
