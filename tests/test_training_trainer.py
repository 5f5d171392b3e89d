"""The base trainer in process: what it takes from the plans, what it stores, what it refuses, what it trains."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from model_builder import LABELS14, SIDED14, make_dataset_json, make_image, make_plans
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.harmonize.reference import KNOTS, write_curves
from nnunet_spine_ext.inference.managers import SpineConfigurationManager, SpinePlansManager, SpinePreprocessor
from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.mirroring import SidedMirrorTransform
from nnunet_spine_ext.training.settings import settings_from_plans

DATASET = "Dataset901_Toy"
SUBJECT_OF = {"a_1": "anna", "a_2": "anna", "b_1": "bert", "c_1": "cleo"}
SPLITS = [{"train": ["b_1", "c_1"], "val": ["a_1", "a_2"]}, {"train": ["a_1", "a_2", "c_1"], "val": ["b_1"]}]
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "seed": 1}

Maker = Callable[..., nnUNetTrainerSpine]


@pytest.fixture
def preprocessed(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a preprocessed dataset as nnU-Net writes it, with cases.json and splits."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    folder = nnunet_folders["nnUNet_preprocessed"] / DATASET
    data = folder / "nnUNetPlans_3d_fullres"
    data.mkdir(parents=True)
    for number, case in enumerate(SUBJECT_OF):
        rng = np.random.default_rng(number)
        image = rng.normal(size=(1, 18, 18, 18)).astype(np.float32)
        labels = rng.integers(0, 15, size=image.shape).astype(np.int16)
        places = {label: np.argwhere(labels == label)[:50] for label in range(1, 15)}
        grid = {"chunks": image.shape, "blocks": image.shape, "chunks_seg": image.shape, "blocks_seg": image.shape}
        nnUNetDatasetBlosc2.save_case(image, labels, {"class_locations": places}, str(data / case), **grid)
    cases = {case: {"subject": subject, "labelled": True} for case, subject in SUBJECT_OF.items()}
    for name, content in (
        ("cases", {"version": 1, "cases": cases}),
        ("splits_final", SPLITS),
        ("dataset_fingerprint", {}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def make(nnunet_folders: dict[str, Path]) -> Maker:
    """Return a function that builds trainers."""

    def build(
        *,
        train: dict[str, Any] | None = None,
        sided: list[list[int]] = SIDED14,
        fold: int = 0,
        change: Callable[[dict[str, Any]], None] = lambda plans: None,
        kind: type[nnUNetTrainer] = nnUNetTrainerSpine,
        **plans_kwargs: Any,
    ) -> Any:
        plans = make_plans(**plans_kwargs) | {"continue_training": False}
        if train is not None:
            plans["spine_ext"] = {"train": train}
        change(plans)
        dataset_json = make_dataset_json(LABELS14, sided)
        return kind(plans, "3d_fullres", fold, dataset_json, torch.device("cpu"))

    return build


def transposed(*axes: int) -> Callable[[dict[str, Any]], None]:
    return lambda plans: plans.update(transpose_forward=list(axes))


@pytest.mark.parametrize(
    ("arguments", "axes"),
    [
        ({}, (0, 1)),
        ({"change": transposed(2, 0, 1)}, (1, 2)),
        ({"change": transposed(1, 2, 0)}, (0, 2)),
        ({"sided": []}, (0, 1, 2)),
        ({"patch": (16, 16)}, (0,)),
        ({"patch": (16, 16), "change": transposed(1, 2, 0)}, (1,)),
        ({"patch": (16, 16), "change": transposed(2, 0, 1)}, (0, 1)),
        ({"train": {"mirror": False}}, None),
        ({"train": {"mirror": False}, "sided": []}, None),
    ],
    ids=[f"variant{k}" for k in range(9)],
)
def test_test_time_mirroring_leaves_the_sided_axis_out(
    make: Maker, arguments: dict[str, Any], axes: tuple[int, ...] | None
) -> None:
    trainer = make(**arguments)
    *_, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert trainer.inference_allowed_mirroring_axes == axes
    dimensions = len(trainer.configuration_manager.patch_size)
    expected = None if trainer.settings.mirror is False else tuple(range(dimensions))
    assert mirrored == expected, "training mirrors all axes"


def test_test_time_mirroring_is_none_and_never_empty(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    # A trainer that mirrors nothing but left and right: nnU-Net crashes on an empty tuple.
    name = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
    monkeypatch.setattr(nnUNetTrainer, name, lambda _self: ((0, 0), False, (16, 16, 16), (2,)))
    trainer = make()
    assert getattr(trainer, name)()[3] == (2,)
    assert trainer.inference_allowed_mirroring_axes is None


@pytest.mark.parametrize(
    ("kwargs", "trained", "tested"),
    [
        ({}, (2,), None),
        ({"sided": []}, (2,), (2,)),
        ({"patch": (16, 16)}, (1,), None),
        ({"patch": (16, 16), "sided": [], "change": "transposed"}, None, None),
    ],
)
def test_mirroring_left_and_right_only(
    make: Maker, kwargs: dict[str, Any], trained: tuple[int, ...] | None, tested: tuple[int, ...] | None
) -> None:
    if kwargs.get("change"):
        kwargs = kwargs | {"change": transposed(2, 0, 1)}
    trainer = make(train={"mirror_axes": "left-right"}, **kwargs)
    *_, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes == trained
    assert trainer.inference_allowed_mirroring_axes == tested


def chain_of(trainer: nnUNetTrainerSpine) -> list[Any]:
    patch = trainer.configuration_manager.patch_size
    rotation, dummy, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return list(trainer.get_training_transforms(patch, rotation, None, axes, dummy).transforms)


def mirroring_of(trainer: nnUNetTrainerSpine) -> list[MirrorTransform]:
    return [t for t in chain_of(trainer) if isinstance(t, MirrorTransform)]


def test_with_a_seed_no_transform_chooses_by_the_clock(make: Maker) -> None:
    def timed(**train: int) -> list[bool]:
        at_random = [t.transform for t in chain_of(make(train=train)) if isinstance(t, RandomTransform)]
        return [t.benchmark for t in at_random if isinstance(t, GaussianBlurTransform)]

    assert timed(seed=1) == [False], "how a blur is computed, and so how it is rounded, depends on the seed alone"
    assert timed() == [True], "without a seed nnU-Net's blur is left as it is"


def test_training_mirrors_with_sides_exchanged(make: Maker) -> None:
    (mirror,) = mirroring_of(make())
    assert isinstance(mirror, SidedMirrorTransform)
    assert (mirror.allowed_axes, mirror.axis, mirror.pairs) == ((0, 1, 2), 2, [(4, 5), (6, 7), (8, 9)])
    (mirror,) = mirroring_of(make(change=transposed(2, 0, 1)))
    assert isinstance(mirror, SidedMirrorTransform)
    assert mirror.axis == 0
    assert [type(t) for t in mirroring_of(make(sided=[]))] == [MirrorTransform]
    assert [type(t) for t in mirroring_of(make(patch=(16, 16), change=transposed(2, 0, 1)))] == [MirrorTransform]
    assert mirroring_of(make(train={"mirror": False})) == []


def test_augmentation_can_be_mirroring_alone(make: Maker) -> None:
    trainer = make(train={"augmentation": "mirror"})
    patch = trainer.configuration_manager.patch_size
    rotation, dummy, loaded, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert (list(loaded), dummy) == (list(patch), False), "without the rotation nothing crops a larger patch"
    chain = trainer.get_training_transforms(patch, rotation, None, axes, dummy)
    (mirror,) = [t for t in chain.transforms if isinstance(t, MirrorTransform)]
    assert isinstance(mirror, SidedMirrorTransform)
    image, mask = torch.rand(1, *patch), torch.randint(-1, 15, (1, *patch))
    out = chain(image=image, segmentation=mask)
    assert torch.equal(out["image"].flatten().sort().values, image.flatten().sort().values), "values are only moved"
    assert out["segmentation"].min() == 0, "what is outside the image is background"
    assert len(chain.transforms) < len(make().get_training_transforms(patch, rotation, None, axes, dummy).transforms)


def test_sided_labels_need_the_reorienting_reader(make: Maker) -> None:
    def other(plans: dict[str, Any]) -> None:
        plans["image_reader_writer"] = "SimpleITKIO"

    with pytest.raises(SetupError, match="overwrite_image_reader_writer") as caught:
        make(change=other)
    assert caught.value.code == "E-PLANS-READER"
    make(change=other, sided=[])


def test_settings_reach_the_trainer(make: Maker) -> None:
    stock = make(kind=nnUNetTrainer)
    names = (
        "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "initial_lr", "weight_decay",
        "save_every",
    )  # fmt: skip
    default = make()
    assert {n: getattr(default, n) for n in names} == {n: getattr(stock, n) for n in names}
    assert default.oversample_foreground_percent == stock.oversample_foreground_percent
    values = dict(zip(names, (3, 4, 5, 0.5, 0.25, 7), strict=True))
    changed = make(train={**values, "oversample_foreground": 0.75})
    assert {n: getattr(changed, n) for n in names} == values
    assert changed.oversample_foreground_percent == 0.75
    with pytest.raises(UsageError, match="num_epochs"):
        make(train={"num_epoch": 3})


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers(preprocessed: Path, make: Maker, name: str, kind: type[torch.optim.Optimizer]) -> None:
    trainer = make(train={"optimizer": name, "initial_lr": 0.5, "num_epochs": 4, "weight_decay": 0.125})
    trainer.initialize()
    assert type(trainer.optimizer) is kind
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in trainer.network.parameters()}
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.125
    for epoch in range(4):
        trainer.lr_scheduler.step(epoch)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 - epoch / 4) ** 0.9)


def test_the_seed_repeats_the_weights(preprocessed: Path, make: Maker) -> None:
    weights = []
    for seed in (1, 1, 2):
        trainer = make(train={"seed": seed})
        trainer.initialize()
        weights.append(next(trainer.network.parameters()).detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_split_is_grouped_said_once_and_stock_on_request(
    preprocessed: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, told = make(fold=1), []
    monkeypatch.setattr(trainer, "print_to_log_file", told.append)
    for _ in range(3):
        assert trainer.do_split() == (SPLITS[1]["train"], SPLITS[1]["val"])
    train, validation = (len(SPLITS[1][side]) for side in ("train", "val"))
    assert told == [f"Split 1, grouped by subject: {train} training and {validation} validation cases."]
    leaking = [{"train": ["a_1", "b_1"], "val": ["a_2", "c_1"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(leaking))
    with pytest.raises(SetupError, match=r"anna \(a_1, a_2\)"):
        make().do_split()
    (preprocessed / "cases.json").unlink()
    with pytest.raises(SetupError, match=r"cases\.json"):
        make().do_split()
    stock = make(train={"splits": "stock"})
    assert stock.do_split() == (leaking[0]["train"], leaking[0]["val"])


def curves() -> dict[str, list[list[float]]]:
    """Curves that tell which cases entered a mean: `low` is 100, 200, 300 or 400."""
    base = np.linspace(0.99, 1.01, KNOTS)
    return {case: [(100 * (k + 1) * base).tolist()] for k, case in enumerate(SUBJECT_OF)}


def test_one_training_from_start_to_end_and_a_resume(
    preprocessed: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_curves(preprocessed, curves())
    settings = {**SHORT, "num_epochs": 4, "plot_every": 2, "save_every": 1}
    running: list[nnUNetTrainerSpine] = [make(train=settings)]
    trainer = running[0]
    drawn: list[int] = []
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: drawn.append(running[-1].current_epoch))
    trainer.run_training()
    assert drawn == [0, 2, 3], "every second epoch and the last one are drawn"
    folder = Path(trainer.output_folder)
    saved = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert saved["inference_allowed_mirroring_axes"] == (0, 1)
    assert not list(folder.glob(".*"))
    plans = json.loads((folder.parent / "plans.json").read_text())
    kept = settings_from_plans(plans)
    assert kept.train.num_epochs == 4
    assert kept.train.weight_decay == 3e-5, "defaults are written out"
    assert kept.data.sided_labels == tuple(map(tuple, SIDED14))
    assert kept.reference is not None
    assert kept.reference["0"]["cases"] == 2
    # b_1 and c_1 train: the median of about 300 and 400.
    assert kept.reference["0"]["channels"][0]["low"] == pytest.approx(350, rel=0.02)

    # Stock nnU-Net takes the weights.
    stock = make(kind=nnUNetTrainer, train=None)
    stock.initialize()
    stock.network.load_state_dict(saved["network_weights"], strict=True)

    # An interrupted run goes on where it was; weights, epoch and schedule come back.
    again = make(train=settings)
    running.append(again)
    saved["current_epoch"] = 3
    torch.save(saved, folder / "checkpoint_latest.pth")
    again.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert again.current_epoch == 3
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, saved["network_weights"][name])
    again.run_training()
    assert again.current_epoch == 4
    assert drawn == [0, 2, 3, 3]


def test_a_resumed_training_equals_an_uninterrupted_one_byte_by_byte(preprocessed: Path, make: Maker) -> None:
    settings = {**SHORT, "num_epochs": 3, "num_iterations_per_epoch": 2, "save_every": 1, "plot_every": 9}
    whole, stopped = make(train=settings), make(train=settings)
    whole.run_training()
    start = stopped.on_train_epoch_start

    def until_the_last() -> None:
        if stopped.current_epoch == 2:
            raise KeyboardInterrupt
        start()

    stopped.on_train_epoch_start = until_the_last
    with pytest.raises(KeyboardInterrupt):
        stopped.run_training()
    resumed = make(train=settings)
    resumed.load_checkpoint(str(Path(resumed.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()
    found = resumed.network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert found[name].numpy().tobytes() == value.numpy().tobytes(), name


@pytest.mark.parametrize("seed", [None, 3])
def test_without_a_seed_random_numbers_stay_as_they_are(preprocessed: Path, make: Maker, seed: int | None) -> None:
    trainer = make(train={**SHORT, "seed": seed})
    trainer.on_train_start()
    drawn = []
    for _ in range(2):
        torch.manual_seed(11)
        np.random.seed(11)  # noqa: NPY002
        if drawn:
            trainer.on_train_epoch_start()
        drawn.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
    assert (drawn[0] == drawn[1]) == (seed is None)


def test_folds_share_plans_and_an_edit_of_the_model_stays(preprocessed: Path, make: Maker) -> None:
    write_curves(preprocessed, curves())
    first = make(train=SHORT)
    first.on_train_start()
    path = Path(first.output_folder_base) / "plans.json"
    edited = json.loads(path.read_text())
    edited["spine_ext"]["predict"]["instances"] = True
    path.write_text(json.dumps(edited))
    make(train=SHORT, fold=1).on_train_start()
    settings = settings_from_plans(json.loads(path.read_text()))
    assert settings.predict.instances
    assert settings.reference is not None
    lows = {fold: r["channels"][0]["low"] for fold, r in settings.reference.items()}
    assert lows == {"0": pytest.approx(350, rel=0.02), "1": pytest.approx(200, rel=0.02)}
    assert len(json.dumps(edited["spine_ext"])) < 100_000


def test_folds_that_start_at_the_same_moment_keep_both_references(preprocessed: Path, make: Maker) -> None:
    write_curves(preprocessed, curves())
    first, second = make(train=SHORT), make(train=SHORT, fold=1)
    first.on_train_start()
    path = Path(first.output_folder_base) / "plans.json"
    early = path.read_bytes()
    second.on_train_start()
    # As if the first had read before the second wrote, and written after it.
    path.write_bytes(early)
    for trainer in (first, second):
        trainer.on_train_end()
    reference = settings_from_plans(json.loads(path.read_text())).reference
    assert reference is not None
    assert set(reference) == {"0", "1"}


def test_the_first_training_makes_the_curves(preprocessed: Path, make: Maker, nnunet_folders: dict[str, Path]) -> None:
    (preprocessed / "gt_segmentations").mkdir()
    for case in SUBJECT_OF:
        (preprocessed / "gt_segmentations" / f"{case}.nii.gz").touch()
        make_image(nnunet_folders["nnUNet_raw"] / DATASET / "imagesTr" / f"{case}_0000.nii.gz")
    trainer = make(train=SHORT)
    trainer.on_train_start()
    reference = settings_from_plans(trainer.plans_manager.plans).reference
    assert reference is not None
    assert reference["0"]["cases"] == 2


def test_processes_of_one_training_draw_other_batches(preprocessed: Path, make: Maker) -> None:
    drawn = []
    for rank in (0, 1, 0):
        trainer = make(train=SHORT)
        trainer.local_rank = rank
        trainer.initialize()
        drawn.append(np.random.random())  # noqa: NPY002  what batchgenerators draws from
    assert drawn[0] == drawn[2] != drawn[1]


def test_without_curves_training_starts_and_says_so(
    preprocessed: Path, make: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make(train=SHORT)
    trainer.on_train_start()
    assert "no intensity reference" in capsys.readouterr().out
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert settings_from_plans(plans).reference is None


def test_a_folder_of_another_variant_is_refused(preprocessed: Path, make: Maker) -> None:
    make(train=SHORT).on_train_start()
    make(train=SHORT).initialize()
    other = make(train=SHORT | {"num_epochs": 3})
    before = (Path(other.output_folder_base) / "plans.json").read_bytes()
    for start in (other.initialize, other.on_train_start, lambda: other.load_checkpoint("checkpoint_final.pth")):
        with pytest.raises(SetupError, match="--name NAME") as caught:
            start()
        assert caught.value.code == "E-MODEL-SETTINGS"
        assert caught.value.file == str(Path(other.output_folder_base) / "plans.json")
    assert (Path(other.output_folder_base) / "plans.json").read_bytes() == before


def test_a_folder_of_another_network_is_refused(preprocessed: Path, make: Maker) -> None:
    def smaller(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["patch_size"] = [8, 16, 16]

    make(train=SHORT).on_train_start()
    with pytest.raises(SetupError, match="trained with another patch_size") as caught:
        make(train=SHORT, change=smaller).initialize()
    assert caught.value.code == "E-MODEL-SETTINGS"


def test_an_interrupted_checkpoint_leaves_the_previous_one(
    preprocessed: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(train=SHORT)
    trainer.initialize()
    target = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(target))
    before = target.read_bytes()

    def interrupted(_content: Any, file: str) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(target))
    assert target.read_bytes() == before
    assert [f.name for f in target.parent.glob("*.pth")] == ["checkpoint_latest.pth"]
    assert not list(target.parent.glob(".*"))
    monkeypatch.undo()
    trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(target.with_name("none.pth")))
    assert not target.with_name("none.pth").exists()


def managers(**content: Any) -> tuple[PlansManager, ConfigurationManager]:
    plans = make_plans() | ({"spine_ext": content} if content else {})
    manager = PlansManager(plans)
    return manager, manager.get_configuration("3d_fullres")


DATA = {"scheme": "nnunet14", "sided_labels": SIDED14}


def test_prediction_adopts_the_managers_and_wraps_the_network() -> None:
    plans, configuration = managers(predict={"instances": True}, data=DATA)
    network = nnUNetTrainerSpine.build_network_architecture(plans, configuration, 1, 15, False)
    assert isinstance(network, SidedMirrorNetwork)
    assert (network.axis, network.sided_channels) == (2, [(4, 5), (6, 7), (8, 9)])
    stock = nnUNetTrainer.build_network_architecture(*managers(), 1, 15, False)
    assert list(network.state_dict()) == list(stock.state_dict())
    network.load_state_dict(stock.state_dict(), strict=True)
    assert type(plans) is SpinePlansManager
    assert type(configuration) is SpineConfigurationManager
    # They go to nnU-Net's worker processes.
    for manager in (pickle.loads(pickle.dumps(plans)), plans):
        writer = manager.image_reader_writer_class()
        assert isinstance(writer, NibabelIOWithReorient)
        assert (writer.scheme, writer.options.instances) == ("nnunet14", True)
    pickle.loads(pickle.dumps(plans.image_reader_writer_class))
    assert pickle.loads(pickle.dumps(configuration)).preprocessor_class is SpinePreprocessor
    assert issubclass(SpinePreprocessor, DefaultPreprocessor)


@pytest.mark.parametrize(
    "content",
    [
        {"predict": {"mirror": False}, "data": DATA},
        {"predict": {}, "data": DATA, "train": {"mirror": False}},
        {"predict": {}, "data": {"scheme": "custom", "sided_labels": []}},
    ],
    ids=["not wanted", "never trained", "no sides"],
)
def test_the_network_stays_plain_where_mirroring_is_wrong(content: dict[str, Any]) -> None:
    plans, configuration = managers(**content)
    network = nnUNetTrainerSpine.build_network_architecture(plans, configuration, 1, 15, False)
    assert not isinstance(network, SidedMirrorNetwork)
    assert type(plans) is SpinePlansManager


def test_plans_without_our_settings_stay_nnunets() -> None:
    plans, configuration = managers()
    network = nnUNetTrainerSpine.build_network_architecture(plans, configuration, 1, 15, False)
    assert not isinstance(network, SidedMirrorNetwork)
    assert type(plans) is PlansManager
    assert type(configuration) is ConfigurationManager


def test_training_and_its_validation_run_on_nnunets_own_classes(
    preprocessed: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(train=SHORT, change=lambda plans: plans["spine_ext"].update(predict={"instances": True}))
    trainer.initialize()
    assert type(trainer.plans_manager) is PlansManager
    assert type(trainer.configuration_manager) is ConfigurationManager
    assert not isinstance(trainer.network, SidedMirrorNetwork)
    # Also after a start that failed: prediction in the same process adopts again.
    broken = make(train=SHORT)
    monkeypatch.setattr(broken, "configure_optimizers", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.initialize()
    plans, configuration = managers(predict={}, data=DATA)
    assert isinstance(
        nnUNetTrainerSpine.build_network_architecture(plans, configuration, 1, 15, False), SidedMirrorNetwork
    )


def test_the_class_is_found_by_reference() -> None:
    assert pickle.loads(pickle.dumps(nnUNetTrainerSpine)) is nnUNetTrainerSpine
    assert nnUNetTrainerSpine.__module__ == "nnunet_spine_ext.training.base"


# ---- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "expected"), [("1", 1), ("2,1", 2), (None, 3), ("many", 3)])
def test_a_training_on_a_cpu_uses_the_threads_that_it_is_given(
    said: str | None, expected: int, make: Maker, preprocessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    try:
        torch.set_num_threads(3)  # as nnUNetv2_train does, with all cores
        make(train=SHORT).initialize()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


# ---- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "has", "expected"), [("auto", True, True), ("auto", False, False), ("fp32", True, False)]
)
def test_a_cpu_trains_in_bfloat16_where_it_is_asked_to_and_can(
    precision: str, has: bool, expected: bool, make: Maker, preprocessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"avx512_bf16"} if has else {"avx2"}
    monkeypatch.setattr("nnunet_spine_ext.networks.precision._instructions", lambda: flags)
    trainer = make(train=SHORT | {"precision": precision})
    seen: list[torch.dtype] = []
    trainer.initialize()
    first = next(module for module in trainer.network.modules() if isinstance(module, torch.nn.Conv3d))
    first.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    trainer.run_training()
    assert set(seen) == {torch.bfloat16 if expected else torch.float32}
    log = Path(trainer.log_file).read_text()
    assert ("trains in bfloat16" in log) == expected
    assert ("Single precision (train.precision: auto)" in log) == (precision == "auto" and not has)
    monkeypatch.setattr(
        nnUNetTrainer, "perform_actual_validation", lambda own, *_: own.network(torch.rand(1, 1, 16, 16, 16))
    )
    seen.clear()
    trainer.perform_actual_validation()
    assert seen == [torch.float32], "validation computes as prediction does"
    weights = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert {value.dtype for value in weights.values()} == {torch.float32}
