"""Training of soft labels: what reaches the loss, what never does, what the model is in the end."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import CORD, LABELS14
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import DATASET, SUBJECTS, Seen, cascaded, make_trainer, started, two_dimensional
from torch import Tensor

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.soft.store import open_soft, soft_file
from nnunet_spine_ext.training.background import segmentation_layers
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.presets import read_preset
from nnunet_spine_ext.training.schedule import CosineSchedule
from nnunet_spine_ext.training.settings import TrainSettings, settings_from_plans, settings_hash
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift
from nnunet_spine_ext.training.soft import (
    nnUNetTrainerSpineContrastAgnostic,
    nnUNetTrainerSpineShiftSoft,
    nnUNetTrainerSpineSoft,
    nnUNetTrainerSpineSoftDiceBCE,
)
from nnunet_spine_ext.training.soft_augmentation import SoftTargets

ALL = (
    nnUNetTrainerSpineSoft,
    nnUNetTrainerSpineSoftDiceBCE,
    nnUNetTrainerSpineShiftSoft,
    nnUNetTrainerSpineContrastAgnostic,
)
SHAPE = (18, 20, 22)
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 1, "save_every": 1}
WILD = {
    "transforms": [
        {"name": "rotate", "p": 1.0},
        {"name": "scale", "p": 1.0, "factor": [0.8, 1.3]},
        {"name": "elastic", "p": 1.0, "std": [1, 2], "spacing": [6, 8]},
    ]
}
SIDES = {"background": 0, "cord": 1, "left": 2, "right": 3}

Maker = Callable[..., Any]


def give(folder: Path, case: str, array: np.ndarray) -> None:
    """Write a soft label given in the order of the preprocessed axes, (z, y, x) or (K, z, y, x)."""
    import nibabel

    stored = array.transpose(2, 1, 0) if array.ndim == 3 else array.transpose(3, 2, 1, 0)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored.astype(np.float32), np.eye(4)), folder / f"{case}.nii.gz")


@pytest.fixture
def soft_labels(nnunet_folders: dict[str, Path]) -> Path:
    return nnunet_folders["nnUNet_raw"] / DATASET / "softLabelsTr"


@pytest.fixture
def make(nnunet_folders: dict[str, Path], soft_labels: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that builds trainers on one small dataset with random soft labels."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def build(
        kind: type[nnUNetTrainer] = nnUNetTrainerSpineSoft,
        *,
        augment: Any = None,
        soft: Any = None,
        labels: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        settings: dict[str, Any] = {"train": SHORT | kwargs.pop("train", {})}
        settings |= {} if augment is None else {"augment": {"config": augment}}
        settings |= {} if soft is None else {"soft": soft}
        if not soft_labels.exists():
            for number, case in enumerate(SUBJECTS):
                give(soft_labels, case, np.random.default_rng(number).random(SHAPE))
        folder = nnunet_folders["nnUNet_preprocessed"]
        return make_trainer(
            kind, folder, settings=settings, labels=labels or CORD, sided=kwargs.pop("sided", []), **kwargs
        )

    return build


def set_image(trainer: Any, case: str, image: np.ndarray) -> None:
    """Put another image in place of a case's, on the same grid."""
    import blosc2

    path = Path(trainer.preprocessed_dataset_folder) / f"{case}.b2nd"
    path.unlink()
    blosc2.asarray(np.ascontiguousarray(image[None].astype(np.float32)), urlpath=str(path), chunks=(1, *SHAPE))


@pytest.mark.parametrize("kind", ALL)
def test_a_training_runs_and_the_model_says_what_its_outputs_are(
    kind: type[nnUNetTrainer], make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    trainer = make(kind)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert np.isfinite(checkpoint["logging"]["train_losses"] + checkpoint["logging"]["val_losses"]).all()
    sigmoid = kind is nnUNetTrainerSpineSoftDiceBCE
    stored = settings_from_plans(json.loads((folder.parent / "plans.json").read_text()))
    assert stored.soft is not None
    assert stored.soft.output == ("sigmoid" if sigmoid else "linear")
    assert stored.augment is not None
    assert stored.augment.hash
    # The checkpoint is a stock one, its background set.
    layers = [key for key in checkpoint["network_weights"] if "seg_layers" in key and key.endswith("weight")]
    for key in layers:
        weight = checkpoint["network_weights"][key]
        bias = checkpoint["network_weights"][key.replace("weight", "bias")]
        assert weight.shape[0] == 2
        expected = (0, 0) if sigmoid else (-weight[1], 1 - bias[1])
        torch.testing.assert_close(weight[0], torch.as_tensor(expected[0]).expand_as(weight[0]).to(weight))
        torch.testing.assert_close(bias[0], torch.as_tensor(expected[1]).to(bias))


def test_outputs_sum_to_one_before_every_evaluation(make: Maker, soft_labels: Path) -> None:
    for case in SUBJECTS:
        give(soft_labels, case, np.random.default_rng(0).random((3, *SHAPE)) / 3)
    trainer = started(make(labels=SIDES))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = trainer.network(torch.randn(1, 1, 16, 16, 16))
    assert len(outputs) == len(segmentation_layers(trainer.network)) == 2
    for output in outputs:
        torch.testing.assert_close(output.sum(dim=1), torch.ones_like(output[:, 0]), atol=1e-5, rtol=0)


def test_validation_stores_soft_values_not_a_softmax_of_them(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nnUNetv2_train --npz` gives what `nnUNetv2_find_best_configuration` averages."""
    trainer = make(nnUNetTrainerSpineSoft)
    trainer.initialize()
    found: list[np.ndarray] = []

    def exported(self: Any, _save: bool) -> None:
        # nnU-Net sends the manager to another process, which makes the label manager from it.
        manager = pickle.loads(pickle.dumps(self.plans_manager)).get_label_manager(self.dataset_json)
        outputs = torch.tensor([1.0, 0.3, -0.2, 0.7, 1.2]).reshape(1, -1, 1, 1)
        found.append(np.asarray(manager.apply_inference_nonlin(torch.cat((1 - outputs, outputs)))))

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", exported)
    monkeypatch.setattr(type(trainer), "_choose_activation", lambda _: None)
    before = type(trainer.plans_manager)
    trainer.perform_actual_validation(True)
    assert found[0][1].ravel().tolist() == pytest.approx([1, 0.3, 0, 0.7, 1])
    assert found[0][0].ravel().tolist() == pytest.approx([0, 0.7, 1, 0.3, 0])
    assert type(trainer.plans_manager) is before


def test_a_checkpoint_in_the_middle_of_an_epoch_has_its_background_too(make: Maker, tmp_path: Path) -> None:
    trainer = started(make())
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    rows = [value for key, value in weights.items() if "seg_layers" in key and key.endswith("weight")]
    assert rows
    for row in rows:
        torch.testing.assert_close(row[0], -row[1])


@pytest.mark.parametrize("channels", [1, 2])
def test_softness_survives_the_whole_way(channels: int, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without augmentation the targets are the soft label's own values, on every level."""
    seen = Seen(monkeypatch)
    trainer = started(make(augment="none", train={"mirror": False}, channels=channels))
    trainer.train_step(next(trainer.dataloader_train))
    (batch,) = seen.batches
    first, *coarse = batch["target"]
    assert first.shape == (2, 2, *batch["data"].shape[2:])
    assert batch["data"].shape[1] == channels
    for sample, case in enumerate(batch["keys"]):
        whole = np.asarray(open_soft(soft_file(trainer.preprocessed_dataset_folder, case))[0], dtype=np.float32)
        known = set(whole.ravel().tolist())
        inside = first[sample, 1] > 0
        values = first[sample, 0][inside]
        assert set(values.tolist()) <= known, "values of the file, not others"
        assert ((values > 0.01) & (values < 0.99)).float().mean() > 0.9
    for level in coarse:
        assert ((level[:, 0] > 0.05) & (level[:, 0] < 0.95) & (level[:, 1] > 0)).any(), "soft on every level"


@pytest.mark.parametrize("kind", [nnUNetTrainerSpineSoft, nnUNetTrainerSpineSoftDiceBCE])
def test_hard_labels_in_place_of_soft_ones_are_noticed(
    kind: type[nnUNetTrainer], make: Maker, soft_labels: Path
) -> None:
    for case in SUBJECTS:
        give(soft_labels, case, np.random.default_rng(0).random(SHAPE) > 0.5)
    trainer = started(make(kind))
    log = Path(trainer.log_file).read_text()
    assert "W-SOFT-BINARY" in log


@pytest.mark.parametrize("kind", [nnUNetTrainerSpineSoft, nnUNetTrainerSpineShiftSoft])
@pytest.mark.parametrize("two_d", [False, True])
def test_an_ignored_slab_gives_no_gradient_on_any_level(
    kind: type[nnUNetTrainer], two_d: bool, make: Maker, soft_labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After preprocessing, cropping, rotation, scaling and elastic deformation; the image tells where the slab went."""
    slab = (slice(None), slice(8, 12), slice(6, 15))
    for case in SUBJECTS:
        array = np.ones(SHAPE)
        array[slab] = -1
        give(soft_labels, case, array)
    seen = Seen(monkeypatch)
    trainer = make(kind, augment=WILD, **({"change": two_dimensional} if two_d else {}))
    marked = np.zeros(SHAPE)
    marked[slab] = 1
    for case in SUBJECTS:
        set_image(trainer, case, marked)
    trainer = started(trainer)
    for _ in range(4):
        trainer.train_step(next(trainer.dataloader_train))
    touched = 0
    for batch in seen.batches:
        outputs = [torch.randn(t.shape, requires_grad=True) for t in batch["target"]]
        loss = trainer.loss.loss
        marker = batch["data"]
        for output, target in zip(outputs, batch["target"], strict=True):
            loss(output[:, 1:], target[:, :-1], target[:, -1:]).backward()
            assert output.grad is not None
            # What the slab has any part in. A mean over a block is positive if any of its voxels is.
            pool = torch.nn.functional.adaptive_avg_pool2d if two_d else torch.nn.functional.adaptive_avg_pool3d
            slabs = pool(marker, target.shape[2:]) > 2e-3
            assert (output.grad[:, 1:][slabs] == 0).all()
            assert (target[:, 1:][slabs] == 0).all()
            touched += int(slabs.sum())
            supervised = target[:, 1:] > 0
            assert supervised.any()
            # Everywhere else the label is 1: a -1 or a 0 that was mixed in would show.
            assert target[:, :1][supervised].min() > 1 - 2e-3
            assert output.grad[:, 1:][supervised].abs().min() > 0
    assert touched > (100 if two_d else 1000)


def test_what_lies_beyond_the_image_is_not_supervised(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    trainer = started(make(patch=(32, 32, 32), augment="none"))
    trainer.train_step(next(trainer.dataloader_train))
    target = seen.batches[0]["target"][0]
    expected = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert target[:, 1].sum(dim=(1, 2, 3)).tolist() == [expected, expected]


def test_sided_classes_change_places_when_left_and_right_do(make: Maker, soft_labels: Path) -> None:
    """Mirroring alone: the classes of the two sides are exchanged in those samples, and the third stays."""
    for case in SUBJECTS:
        array = np.zeros((3, *SHAPE))
        array[0] = 0.5
        array[1, ..., :11] = 0.25
        array[2, ..., 11:] = 0.75
        give(soft_labels, case, array)
    sided = {"labels": SIDES, "sided": [[2, 3]], "augment": "none", "train": {"mirror_axes": "left-right"}}
    trainer = started(make(**sided))
    augmentation, context = trainer.augmentation, trainer.augmentation.pipeline.context
    assert context.left_right_axis == 2
    batch = next(trainer.dataloader_train)
    data, labels = batch["data"], batch["target"]
    found: set[bool] = set()
    for step in range(12):
        plan = augmentation.plan(trainer._keys(batch["keys"], 0, step))
        target = augmentation.apply(data, labels, plan)[1][0]
        for sample in range(2):
            mirrored = sample in plan.swapped
            source = data[sample, 1:]
            assert source.shape[0] == 4
            expected = source.flip(-1)[[0, 2, 1, 3]] if mirrored else source
            torch.testing.assert_close(target[sample], expected * (expected[-1:] > 0.999), atol=1e-6, rtol=0)
            found.add(mirrored)
    assert found == {True, False}


def test_the_loader_crops_image_and_soft_label_alike(make: Maker, soft_labels: Path) -> None:
    """An image that is its own soft label stays so, whatever moves both."""
    trainer = make(nnUNetTrainerSpineSoft, augment=WILD)
    for number, case in enumerate(SUBJECTS):
        array = np.kron(np.random.default_rng(number).random((5, 5, 6)), np.ones((4, 4, 4)))[tuple(map(slice, SHAPE))]
        set_image(trainer, case, array)
        give(soft_labels, case, array)
    trainer = started(trainer)
    batch = next(trainer.dataloader_train)
    plan = trainer.augmentation.plan(trainer._keys(batch["keys"], 0, 0))
    image, targets = trainer.augmentation.apply(batch["data"], batch["target"], plan)
    known = targets[0][:, 1:] > 0
    assert known.float().mean() > 0.3
    # Half precision of the stored soft label.
    torch.testing.assert_close(image[known], targets[0][:, :1][known], atol=1e-3, rtol=0)


def test_a_case_without_soft_label_uses_its_hard_one_and_is_counted(make: Maker, soft_labels: Path) -> None:
    give(soft_labels, "b_1", np.full(SHAPE, 0.5))
    trainer = started(make())
    assert (
        "1 cases, 3 of them prepared now; 2 cases with their hard label (a_1, c_1)"
        in Path(trainer.log_file).read_text()
    )


def test_without_any_soft_label_nothing_is_trained(make: Maker, soft_labels: Path) -> None:
    soft_labels.mkdir(parents=True)
    trainer = make()
    with pytest.raises(SetupError, match="nnUNetTrainerSpine") as caught:
        started(trainer)
    assert caught.value.code == "E-SOFT-NONE"


def test_with_soft_labels_of_validation_alone_nothing_is_trained(make: Maker, soft_labels: Path) -> None:
    started(trainer := make())
    train, validation = trainer.do_split()
    for case in train:
        (soft_labels / f"{case}.nii.gz").unlink()
    assert (soft_labels / f"{validation[0]}.nii.gz").is_file()
    with pytest.raises(SetupError, match=f"of the {len(train)} training cases") as caught:
        started(make())
    assert caught.value.code == "E-SOFT-NONE"


def test_a_soft_label_that_cannot_be_used_ends_the_training(make: Maker, soft_labels: Path) -> None:
    for case in SUBJECTS:
        give(soft_labels, case, np.full(SHAPE, 0.5))
    write_volume(Volume(np.zeros((3, 3, 3), np.float32), np.eye(4)), soft_labels / "c_1.nii.gz")
    with pytest.raises(SetupError, match=r"c_1\.nii\.gz") as caught:
        started(make())
    assert caught.value.code == "E-SOFT-FAILED"


def test_a_soft_label_that_was_not_fetched_ends_the_training(make: Maker, soft_labels: Path) -> None:
    for case in SUBJECTS:
        give(soft_labels, case, np.full(SHAPE, 0.5))
    (soft_labels / "c_1.nii.gz").unlink()
    (soft_labels / "c_1.nii.gz").symlink_to("../.git/annex/objects/ab/cd/SHA256E-s1.nii.gz")
    with pytest.raises(SetupError, match="git-annex link") as caught:
        started(make())
    assert caught.value.code == "E-SOFT-FAILED"


def test_training_works_when_the_raw_dataset_is_gone(make: Maker, soft_labels: Path) -> None:
    started(make())
    for file in soft_labels.iterdir():
        file.unlink()
    soft_labels.rmdir()
    soft_labels.parent.rmdir()
    soft_labels = soft_labels.parent
    trainer = make()
    soft_labels = soft_labels / "softLabelsTr"
    # The maker has written raw labels again: take them away before training looks.
    for file in soft_labels.iterdir():
        file.unlink()
    soft_labels.rmdir()
    soft_labels.parent.rmdir()
    started(trainer)
    assert "3 cases, 0 of them prepared now" in Path(trainer.log_file).read_text()
    soft_file(trainer.preprocessed_dataset_folder, "b_1").unlink()
    with pytest.raises(SetupError, match="b_1") as caught:
        trainer.get_tr_and_val_datasets()
    assert caught.value.code == "E-SOFT-MISSING"


def test_prepared_labels_of_another_grid_are_noticed_without_the_raw_dataset(make: Maker, soft_labels: Path) -> None:
    started(make())
    trainer = make()
    shutil.rmtree(soft_labels.parent)
    path = Path(trainer.preprocessed_dataset_folder) / "b_1.pkl"
    properties = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(properties | {"bbox_used_for_cropping": [[0, 18], [0, 20], [2, 22]]}))
    with pytest.raises(SetupError, match=r"another grid \(b_1\)") as caught:
        started(trainer)
    assert caught.value.code == "E-SOFT-MISSING"


def test_the_recipe_of_the_paper_needs_no_preset(make: Maker, nnunet_folders: dict[str, Path]) -> None:
    """With nnU-Net's own plans the trainer takes the recipe's optimizer and schedule; what plans say counts more."""
    make(nnUNetTrainerSpineContrastAgnostic)
    folder = nnunet_folders["nnUNet_preprocessed"]
    trainer = make_trainer(nnUNetTrainerSpineContrastAgnostic, folder, labels=CORD, sided=[])
    assert trainer.settings == load_config(TrainSettings, read_preset("contrast-agnostic").train)
    assert trainer.num_epochs == 200
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.Adam
    assert type(trainer.lr_scheduler) is CosineSchedule
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3
    own = make_trainer(
        nnUNetTrainerSpineContrastAgnostic, folder, settings={"train": {"num_epochs": 7}}, labels=CORD, sided=[]
    )
    assert (own.num_epochs, own.settings.optimizer) == (7, "sgd")


def test_validation_counts_the_hard_label_of_the_soft_target(make: Maker) -> None:
    trainer = started(make())
    trainer.on_validation_epoch_start()
    batch = next(trainer.dataloader_val)
    result = trainer.validation_step(batch)
    values, valid = batch["data"][:, 1], batch["data"][:, 2] > 0.999
    with torch.no_grad():
        output = trainer.network(batch["data"][:, :1].contiguous())[0]
    predicted = output[:, 1] > output[:, 0]
    truth = values > 0.5
    assert result["tp_hard"].tolist() == [float((predicted & truth & valid).sum())]
    assert result["fp_hard"].tolist() == [float((predicted & ~truth & valid).sum())]
    assert result["fn_hard"].tolist() == [float((~predicted & truth & valid).sum())]
    assert np.isfinite(result["loss"])


def test_targets_are_means_without_what_is_not_known() -> None:
    soft = torch.zeros(1, 2, 4, 4, 4)
    soft[:, 0, :2] = 0.5
    soft[:, 1] = 1
    soft[:, 1, 3, 3, 3] = 0.5
    targets = SoftTargets([[1, 1, 1], [0.5, 0.5, 0.5]])(soft)
    assert isinstance(targets, list)
    fine, coarse = targets
    assert fine[0, 1, 3, 3, 3] == 0, "half known is not known"
    assert coarse.shape == (1, 2, 2, 2, 2)
    assert coarse[0, 0, 0].unique().tolist() == [0.5]
    assert coarse[0, 1, 1, 1, 1] == 0
    assert coarse[0, 1].sum() == 7
    single = SoftTargets(None)(soft)
    assert isinstance(single, Tensor)
    assert single.shape == soft.shape


@pytest.mark.parametrize(
    ("kind", "soft", "code"),
    [
        (nnUNetTrainerSpineSoftDiceBCE, {"loss": {"name": "adaptive_wing"}}, "E-TRAINER-SOFT"),
        (nnUNetTrainerSpineSoft, {"loss": {"name": "soft_dice_bce"}}, "E-TRAINER-SOFT"),
        (nnUNetTrainerSpineSoft, {"output": "sigmoid"}, "E-CONFIG-VALUE"),
        (nnUNetTrainerSpineSoft, {"loss": {"omga": 3}}, "E-CONFIG-KEY"),
        (nnUNetTrainerSpine, {}, "E-TRAINER-SOFT"),
        (nnUNetTrainerSpineShift, {}, "E-TRAINER-SOFT"),
    ],
)
def test_settings_that_do_not_fit_the_trainer_are_refused(
    kind: type[nnUNetTrainer], soft: dict[str, Any], code: str, make: Maker
) -> None:
    with pytest.raises((SetupError, UsageError)) as caught:
        make(kind, soft=soft)
    assert caught.value.code == code


def test_cascades_and_regions_are_refused(make: Maker, nnunet_folders: dict[str, Path]) -> None:
    with pytest.raises(SetupError) as caught:
        make(change=cascaded).initialize()
    assert caught.value.code == "E-SOFT-CASCADE"
    regions = {"background": 0, "whole": [1, 2], "core": 2}

    def order(dataset_json: dict[str, Any]) -> None:
        dataset_json["regions_class_order"] = [1, 2]

    with pytest.raises(SetupError) as caught:
        make(labels=regions, change_dataset=order).initialize()
    assert caught.value.code == "E-SOFT-REGIONS"


def test_the_loss_is_part_of_what_names_a_training() -> None:
    def hashed(soft: Any) -> str:
        return settings_hash({"spine_ext": {"soft": soft}})

    assert hashed(None) == settings_hash({})
    assert hashed({}) == hashed({"output": "linear"}) == hashed({"loss": {"name": "adaptive_wing"}})
    assert (
        len({hashed(None), hashed({}), hashed({"loss": {"omega": 9.0}}), hashed({"loss": {"name": "wing_dice"}})}) == 4
    )


def test_a_training_that_is_resumed_goes_on_along_the_cosine(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"num_epochs": 3, "schedule": "cosine", "optimizer": "adam"}
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)

    def rates(trainer: Any) -> tuple[list[float], dict[str, Tensor]]:
        trainer.run_training()
        found = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
        return found["logging"]["lrs"], found["network_weights"]

    expected, weights = rates(make(train=train))
    assert expected == pytest.approx([0.01, 0.0075, 0.0025])
    trainer = make(train=train)
    shutil.rmtree(trainer.output_folder)
    Path(trainer.output_folder).mkdir()
    monkeypatch.setattr(trainer, "num_epochs", 2)
    monkeypatch.setattr(trainer, "on_train_end", lambda: None)
    trainer.lr_scheduler = None
    trainer.initialize()
    trainer.lr_scheduler.max_steps = 3
    trainer.run_training()
    resumed = make(train=train)
    resumed.load_checkpoint(str(Path(resumed.output_folder) / "checkpoint_latest.pth"))
    again, continued = rates(resumed)
    assert again == expected
    for key, value in weights.items():
        torch.testing.assert_close(continued[key], value, rtol=0, atol=0)


def test_one_seed_gives_the_same_training(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        trainer = started(make(nnUNetTrainerSpineShiftSoft))
        return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(2)]

    assert losses() == losses()


def test_an_ignore_label_of_the_dataset_is_not_supervised(make: Maker, soft_labels: Path) -> None:
    give(soft_labels, "c_1", np.full(SHAPE, 0.5))
    trainer = started(make(labels={"background": 0, "cord": 1, "ignore": 2}))
    seen = 0
    for batch in (next(trainer.dataloader_train) for _ in range(8)):
        for sample, case in enumerate(batch["keys"]):
            if case == "c_1":
                continue
            seen += 1
            valid, labels = batch["data"][sample, 2], batch["target"][sample, 0]
            assert (valid[labels == 2] == 0).all()
            assert (valid[(labels == 0) | (labels == 1)] == 1).all()
    assert seen, "no case with a hard label was drawn"
    assert trainer.label_manager.num_segmentation_heads == 2


def test_the_label_schemes_of_the_spine_are_trained_whole(make: Maker, soft_labels: Path) -> None:
    for case in SUBJECTS:
        give(soft_labels, case, np.random.default_rng(0).random((14, *SHAPE)) / 14)
    trainer = started(make(labels=LABELS14, sided=[[4, 5], [6, 7], [8, 9]]))
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
