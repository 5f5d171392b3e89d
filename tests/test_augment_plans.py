"""`nnUNetv2_spine_augment --plans`: patches as nnU-Net prepares them, stored augmentation, replay, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_dataset_json, make_plans
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from preprocessed_builder import make_trainer

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.cli.augment import main
from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_volume, sha256
from nnunet_spine_ext.inference.building import find_trainer
from nnunet_spine_ext.training import soft
from nnunet_spine_ext.training.augment import augment
from nnunet_spine_ext.training.augment_choice import choose
from nnunet_spine_ext.training.augment_making import apply
from nnunet_spine_ext.training.augment_planned import planned_input
from nnunet_spine_ext.training.augment_plans import DEFAULTS, check_plans
from nnunet_spine_ext.training.network_input import NetworkInput
from nnunet_spine_ext.training.settings import AugmentSettings
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift

# A sagittal stack, three degrees oblique: up-down, front-back, left-right.
COS, SIN = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
AFFINE = np.array([[SIN, 0, -3 * COS, 20], [0, -1, 0, 30], [-COS, 0, -3 * SIN, 60], [0, 0, 0, 1]], dtype=float)
ORDER = [2, 0, 1]
TURNED = {"degrees": [10, 20], "p": 1.0}
CONFIG = {"transforms": [{"name": "rotate", **TURNED}, {"name": "gamma", "p": 1.0}], "schedule": {"ramp_epochs": 50}}

Write = Callable[..., Path]


def _image(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    image = np.zeros(shape, np.int16)
    image[4:-3, 2:-5] = np.random.default_rng(seed).integers(50, 300, (shape[0] - 7, shape[1] - 7, shape[2]))
    return image


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """An image of 40 x 36 x 8 voxels and its mask, and no description beside them."""
    labels = np.zeros((40, 36, 8), np.uint8)
    labels[14:24, 14:24, 2:5] = 10
    image, mask = tmp_path / "scans" / "c_0000.nii.gz", tmp_path / "masks" / "c.nii.gz"
    for path, array in ((image, _image(labels.shape)), (mask, labels)):
        path.parent.mkdir()
        nib.Nifti1Image(array, AFFINE).to_filename(path)
    return image, mask


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes plans with one configuration or two, and the description beside them."""

    def written(
        augment: Any = CONFIG, *, flat: tuple[int, int] | None = None, change: Any = None, **kwargs: Any
    ) -> Path:
        plans = make_plans(**({"patch": (6, 12, 14), "spacing": (3.0, 1.5, 1.5)} | kwargs))
        plans |= {"transpose_forward": ORDER, "transpose_backward": [1, 2, 0]}
        plans["spine_ext"] = {"version": 1, "train": {"num_epochs": 100}, "augment": {"config": augment}}
        if flat is not None:
            parts = plans["configurations"]
            parts["2d"] = parts["3d_fullres"] | {"patch_size": list(flat), "spacing": [1.5, 1.5]}
        if change is not None:
            change(plans)
        folder = tmp_path / "Dataset901_Toy"
        folder.mkdir(exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps(make_dataset_json(LABELS14, SIDED14)))
        (folder / "spinePlans.json").write_text(json.dumps(plans))
        return folder / "spinePlans.json"

    return written


def _read(plans: Path, image: Path, mask: Path | None, c: str | None = None, **options: Any) -> NetworkInput:
    chosen = check_plans(plans, c, other=True)
    assert chosen is not None
    return planned_input([image], mask, chosen, **options)


def _by_nnunet(plans: Path, image: Path, mask: Path | None, c: str = "3d_fullres") -> tuple[np.ndarray, np.ndarray]:
    manager = PlansManager(json.loads(plans.read_text()))
    described = json.loads((plans.parent / "dataset.json").read_text())
    seg = None if mask is None else str(mask)
    data, labels, _ = DefaultPreprocessor(verbose=False).run_case(
        [str(image)], seg, manager, manager.get_configuration(c), described
    )
    return data, labels


def _box_of(whole: np.ndarray, part: np.ndarray) -> tuple[int, ...]:
    """Return where a part lies in a whole, which it does in one place."""
    starts = np.ndindex(*(n - m + 1 for n, m in zip(whole.shape, part.shape, strict=True)))
    found = [at for at in starts if np.array_equal(whole[tuple(map(slice, at, np.add(at, part.shape)))], part)]
    assert len(found) == 1
    return found[0]


def test_a_patch_is_what_nnunet_prepares(case: tuple[Path, Path], write: Write) -> None:
    plans = write()
    found = _read(plans, *case)
    data, labels = _by_nnunet(plans, *case)
    assert found.context.shape == (6, 12, 14)
    size = (6, 12, 14)
    middle = tuple(slice((m - n) // 2, (m - n) // 2 + n) for m, n in zip(found.context.source, size, strict=True))
    at = _box_of(data[0], found.images[0][middle])
    assert np.array_equal(labels[0][tuple(map(slice, at, np.add(at, size)))], found.labels[middle])
    assert (found.labels[middle] == 10).sum() == (labels == 10).sum() > 0
    centre = np.argwhere(labels[0] == 10).mean(axis=0) + 0.5
    assert np.abs(centre - np.add(at, np.divide(size, 2))).max() <= 1
    # The mask is a block, and lies in the body where it lay.
    volume = found.seen()[1]
    assert volume is not None
    before = read_volume(case[1])
    middles = [grid.world(np.argwhere(grid.array == 10).mean(axis=0)) for grid in (volume, before)]
    assert np.abs(middles[0] - middles[1]).max() < 0.8
    assert volume.orientation == "RAS"
    assert np.allclose(volume.spacing[1:], (1.5, 1.5), rtol=0.05)


def test_what_lies_beyond_the_image_is_zero_and_known(case: tuple[Path, Path], write: Write) -> None:
    plans = write(patch=(10, 40, 40), spacing=(3.0, 1.0, 1.0))
    data, _ = _by_nnunet(plans, case[0], None)
    found = _read(plans, case[0], None)
    assert found.labels is None
    assert found.beyond is not None
    assert (found.beyond >= 0).sum() == data[0].size
    assert (found.images[0][found.beyond < 0] == 0).all()
    assert np.array_equal(np.sort(found.images[0][found.beyond == 0]), np.sort(data[0].reshape(-1)))
    sheet = augment([case[0]], None, plans=plans, transform="brightness_shift", n=1, dry_run=True)
    assert sheet.record["record"]["context"]["shape"] == [10, 40, 40]


def test_transforms_know_what_they_know_in_training(
    case: tuple[Path, Path], write: Write, nnunet_folders: dict[str, Path]
) -> None:
    size = {"patch": (16, 20, 18), "spacing": (1.5, 1.5, 1.5)}
    order = {"transpose_forward": ORDER, "transpose_backward": [1, 2, 0]}
    settings = {"train": {"num_epochs": 100}, "augment": {"config": CONFIG}}
    trainer = make_trainer(
        nnUNetTrainerSpineShift,
        nnunet_folders["nnUNet_preprocessed"],
        settings=settings,
        change=lambda plans: plans.update(order),
        **size,
    )
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    pipeline = trainer.augmentation.pipeline
    assert pipeline.context == _read(write(**size), *case).context
    assert pipeline.context.source != pipeline.context.shape
    sheet = augment([case[0]], case[1], plans=write(**size), n=1, dry_run=True)
    shown = AugmentConfig.load(sheet.record["augmentation"]["config"])
    # Mirroring is all that training does besides; ramps are as long as a tenth of it at most.
    assert [t.to_dict() for t in pipeline.config.transforms[1:]] == [t.to_dict() for t in shown.transforms]
    assert pipeline.config.schedule == shown.schedule
    assert (shown.schedule.ramp_epochs, sheet.record["epoch"]) == (10, 10)


def test_the_sheet_shows_the_stored_augmentation(case: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    plans = write()
    options: dict[str, Any] = {"plans": plans, "n": 2, "size": 96}
    sheet = augment([case[0]], case[1], o=tmp_path / "a.png", volumes=tmp_path / "samples", **options)
    effective = AugmentSettings(config=CONFIG).effective().with_short_ramp(100)
    assert sheet.record["augmentation"]["hash"] == effective.hash
    assert all(caption.startswith("rotate") and "gamma" in caption for caption in sheet.captions)
    said = sheet.render()
    assert "2 samples of spinePlans.json 3d_fullres" in said
    assert "6 x 12 x 14 voxels of 3 x 1.5 x 1.5 mm" in said
    assert "tissues" not in said, "the description beside the plans says what labels are made of"
    written = read_volume(tmp_path / "samples" / "images" / "c_aug1_0000.nii.gz")
    # Array axes right-left, up-down, front-back: the file has x, y, z.
    assert written.shape == (6, 14, 12)
    # With --strength 0 a sample is the patch itself, whatever the order of the axes.
    augment([case[0]], case[1], o=tmp_path / "b.png", volumes=tmp_path / "same", strength=0.0, **options)
    same = read_volume(tmp_path / "same" / "images" / "c_aug1_0000.nii.gz")
    assert np.allclose(same.array, _read(plans, *case).seen()[0][0].array, atol=1e-5)


def test_one_slice_for_networks_of_slices(case: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    plans = write(flat=(12, 14))
    found = _read(plans, *case, c="2d")
    data, labels = _by_nnunet(plans, *case, c="2d")
    assert (found.context.dim, found.context.left_right_axis) == (2, None)
    counts = (labels[0] == 10).sum(axis=(1, 2))
    image, mask = found.seen()
    assert mask is not None
    assert image[0].shape == (1, 14, 12)
    assert (found.labels == 10).sum() == counts.max() == (mask.array == 10).sum()
    chosen = [k for k in range(len(counts)) if counts[k] == counts.max()]
    patch = image[0].array[0].T
    assert any(_box_of(data[0][k], patch) for k in chosen if np.isin(patch[6], data[0][k]).all())
    sheet = augment([case[0]], case[1], plans=plans, c="2d", n=2, o=tmp_path / "a.png", size=96)
    assert len(sheet.captions) == 2


def test_replay_needs_the_same_plans(case: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    image, mask = [case[0]], case[1]
    plans = write(flat=(12, 14))
    options: dict[str, Any] = {"plans": plans, "c": "3d_fullres"}
    augment(image, mask, n=2, o=tmp_path / "a.png", size=96, **options)
    augment(image, mask, replay=tmp_path / "a.json", o=tmp_path / "b.png", **options)
    for suffix in (".png", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    record = (tmp_path / "a.json").read_text()
    assert str(tmp_path) not in record
    renamed = tmp_path / "renamed.json"
    renamed.write_bytes(plans.read_bytes())
    augment(image, mask, replay=tmp_path / "a.json", dry_run=True, plans=renamed, c="3d_fullres")
    digest = f"with SHA-256 {sha256(plans)[:12]}…"
    for other, found in (({}, "no plans"), ({**options, "c": "2d"}, f"2d of spinePlans.json {digest}")):
        with pytest.raises(SpineExtError, match="E-AUG-RECORD") as caught:
            augment(image, mask, replay=tmp_path / "a.json", o=tmp_path / "c.png", **other)
        expected = (
            f"{found}; expected 3d_fullres of spinePlans.json {digest}; add --plans spinePlans.json -c 3d_fullres"
        )
        assert expected in str(caught.value)
    write(flat=(12, 14), spacing=(3.0, 1.0, 1.0))
    with pytest.raises(SpineExtError, match="E-AUG-RECORD"):
        augment(image, mask, replay=tmp_path / "a.json", o=tmp_path / "c.png", **options)
    broken = json.loads(record)
    broken["input"]["plans"] = "spinePlans.json"
    (tmp_path / "a.json").write_text(json.dumps(broken))
    with pytest.raises(SpineExtError, match="parts missing"):
        augment(image, mask, replay=tmp_path / "a.json", o=tmp_path / "c.png", **options)
    augment(image, mask, n=1, o=tmp_path / "d.png", size=96)
    with pytest.raises(SpineExtError, match="expected no plans; leave --plans out"):
        augment(image, mask, replay=tmp_path / "d.json", o=tmp_path / "c.png", **options)


def test_another_augmentation_on_patches_of_any_plans(case: tuple[Path, Path], write: Write) -> None:
    stock = write(change=lambda plans: plans.pop("spine_ext"))
    sheet = augment([case[0]], case[1], plans=stock, transform="gamma", n=1, dry_run=True)
    assert sheet.captions[0].startswith("gamma")
    assert sheet.record["record"]["context"]["shape"] == [6, 12, 14]
    sheet = augment([case[0]], case[1], plans=stock, profile=["ge-1.5t"], n=1, dry_run=True)
    assert sheet.record["input"]["plans"]["configuration"] == "3d_fullres"


def test_another_configuration_acts_as_in_a_training_by_the_plans(
    case: tuple[Path, Path], write: Write, tmp_path: Path
) -> None:
    own = tmp_path / "mine.yaml"
    schedule = {"ramp_epochs": 50, "closing_clean_share": 0.1}
    own.write_text(json.dumps(CONFIG | {"schedule": schedule}))
    options: dict[str, Any] = {"plans": write(change=_no_augment), "config": own, "n": 1, "dry_run": True}

    def shown(**more: Any) -> Any:
        return augment([case[0]], case[1], **options, **more)

    assert [shown(epoch=epoch).captions[0].count("gamma") for epoch in (89, 90)] == [1, 0], "a clean end"
    facts = shown().record
    assert (facts["augmentation"]["config"]["schedule"]["ramp_epochs"], facts["epoch"]) == (10, 10)
    assert shown(assignments=["schedule.ramp_epochs=40"]).record["epoch"] == 10, "a tenth of the training at most"
    with pytest.raises(SpineExtError, match="0 to 99, as the plans train"):
        shown(epoch=100)


def test_channels_normalised_inside_a_mask_stay_zero_around_it(case: tuple[Path, Path], write: Write) -> None:
    def masked(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True]

    plans = write({"transforms": [{"name": "brightness_shift", "p": 1.0}]}, change=masked, patch=(8, 30, 28))
    image = nib.load(case[0])
    array = np.asarray(image.dataobj).copy()
    # A corner of the box is empty, as around a brain that was cut out.
    array[:14, :14] = 0
    nib.Nifti1Image(array, image.affine).to_filename(case[0])
    found = _read(plans, *case)
    assert found.masked == (True,)
    plan = choose(found.context, transform="brightness_shift").plan(SampleKey(0, "c", 0, 0))
    images, _ = apply(found, plan)
    _, labels = _by_nnunet(plans, *case)
    assert (labels == -1).sum() > 50
    assert (images[0] == 0).sum() == images[0].size - (labels >= 0).sum()


def test_the_ignore_label_stays_where_only_some_channels_are_masked(case: tuple[Path, Path], write: Write) -> None:
    def masked(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True, False]

    plans = write(change=masked, channels=2)
    described = json.loads((plans.parent / "dataset.json").read_text())
    described["labels"]["ignore"] = max(described["labels"].values()) + 1
    (plans.parent / "dataset.json").write_text(json.dumps(described))
    mask = nib.load(case[1])
    array = np.asarray(mask.dataobj).copy()
    array[18:, 14:24] = np.where(array[18:, 14:24] == 10, described["labels"]["ignore"], 0)
    nib.Nifti1Image(array, mask.affine).to_filename(case[1])
    chosen = check_plans(plans, None)
    assert chosen is not None
    found = planned_input([case[0], case[0]], case[1], chosen)
    plan = choose(found.context.at_strength(0), transform="brightness_shift").plan(SampleKey(0, "c", 0, 0))
    _, labels = apply(found, plan)
    seen = found.seen()[1]
    assert labels is not None
    assert seen is not None
    assert np.array_equal(found.volume(labels).array, seen.array)
    assert (labels == 15).sum() > 5


def _no_augment(plans: dict[str, Any]) -> None:
    del plans["spine_ext"]["augment"]


def _unknown_key(plans: dict[str, Any]) -> None:
    plans["spine_ext"]["augment"]["confi"] = "shift"


def _with(**changes: Any) -> Any:
    return lambda plans: plans["configurations"]["3d_fullres"].update(changes)


def _no_resampling(plans: dict[str, Any]) -> None:
    del plans["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"]


def _ct_without_statistics(plans: dict[str, Any]) -> None:
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    del plans["foreground_intensity_properties_per_channel"]


def _nothing_in_it(plans: dict[str, Any]) -> None:
    plans["configurations"]["3d_fullres"] = {"patch_size": [6, 12, 14]}


@pytest.mark.parametrize(
    ("change", "options", "code", "hint"),
    [
        (lambda plans: plans.pop("spine_ext"), {}, "E-AUG-PLANS", "no spine_ext; expected"),
        (_no_augment, {}, "E-AUG-PLANS", "the trainer decides; expected"),
        (_unknown_key, {}, "E-CONFIG-KEY", "did you mean 'config'"),
        (_nothing_in_it, {}, "E-AUG-PLANS", "cannot use"),
        (_no_resampling, {}, "E-AUG-PLANS", "cannot use (KeyError: 'resampling_fn_data_kwargs')"),
        (_with(preprocessor_name="NoSuch"), {}, "E-AUG-PLANS", "nnU-Net cannot use (TypeError"),
        (_with(normalization_schemes=["NoSuch"]), {}, "E-AUG-PLANS", "nnU-Net cannot use (RuntimeError"),
        (_ct_without_statistics, {}, "E-AUG-PLANS", "cannot use (KeyError: 'foreground_intensity_properties"),
        (_with(patch_size="many"), {}, "E-AUG-PLANS", "cannot use (ValueError"),
        (lambda plans: plans.pop("configurations"), {}, "E-AUG-PLANS", "no configurations"),
        (None, {"c": "3d_fulres"}, "E-PLAN-CONFIGURATION", "did you mean '3d_fullres'"),
        (None, {"flat": (12, 14)}, "E-AUG-PLANS", "the configurations 3d_fullres, 2d; expected one of them; choose it"),
        (None, {"spacing": (1, 1, 1)}, "E-CONFIG-VALUE", "--spacing: --plans beside it"),
        (None, {"epoch": 100}, "E-CONFIG-VALUE", "0 to 99, as the plans train"),
        (None, {"i": 2}, "E-CONFIG-VALUE", "-i: 2 images; expected 1, the channels of spinePlans.json"),
        (None, {"assignments": ["schedule.ramp_epoch=3"]}, "E-CONFIG-KEY", "did you mean 'ramp_epochs'"),
    ],
)
def test_plans_that_cannot_be_shown(
    case: tuple[Path, Path], write: Write, tmp_path: Path, change: Any, options: dict[str, Any], code: str, hint: str
) -> None:
    options = dict(options)
    plans = write(change=change, flat=options.pop("flat", None))
    images = [case[0]] * options.pop("i", 1)
    with pytest.raises(SpineExtError) as caught:
        augment(images, case[1], plans=plans, o=tmp_path / "a.png", **options)
    assert caught.value.code == code
    assert hint in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "a.png").exists()


def test_the_augmentations_that_trainers_take_without_plans_are_named(case: tuple[Path, Path], write: Write) -> None:
    assert all(find_trainer(trainer).default_augmentation == preset for preset, trainer in DEFAULTS.items())
    own = {trainer for trainer in vars(soft).values() if "default_augmentation" in getattr(trainer, "__dict__", {})}
    assert {trainer.default_augmentation for trainer in own} < set(DEFAULTS)
    with pytest.raises(SpineExtError, match=r"add --config shift \(nnUNetTrainerSpineShift\), scanners \("):
        augment([case[0]], case[1], plans=write(change=_no_augment), dry_run=True)


def test_files_that_are_no_plans(case: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    plans = write()
    wrong = plans.with_name("spinePlan.json")
    for path, content, hint in (
        (wrong, None, "no such file; expected plans, such as nnUNet_preprocessed/…/nnUNetPlans.json; did you mean"),
        (tmp_path / "nowhere" / "p.json", None, "check the path"),
        (plans.with_name("dataset.json"), None, "no configurations"),
        (tmp_path / "half.json", '{"configurations": {', "half.json"),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(SpineExtError, match="E-AUG-PLANS") as caught:
            augment([case[0]], plans=path, o=tmp_path / "a.png")
        assert hint in str(caught.value)
        assert caught.value.exit_code == 2
    with pytest.raises(SpineExtError, match=r"-c: 2d without plans; expected --plans"):
        augment([case[0]], c="2d", o=tmp_path / "a.png")


def test_a_reader_that_does_not_reorient(
    case: tuple[Path, Path], write: Write, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("nnunet_spine_ext"), "propagate", True)
    plans = write(change=lambda plans: plans.update(image_reader_writer="SimpleITKIO"))
    # Sides are nowhere in such arrays: a training refuses them, too.
    with pytest.raises(SpineExtError, match="E-PLANS-READER"):
        augment([case[0]], case[1], plans=plans, n=1, dry_run=True)
    (plans.parent / "dataset.json").write_text(json.dumps(make_dataset_json({"background": 0, "disc": 10}, [])))
    augment([case[0]], case[1], plans=plans, n=1, dry_run=True)
    assert "SimpleITKIO does not reorient" in caplog.text


def test_the_command(case: tuple[Path, Path], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["-i", str(case[0]), "-seg", str(case[1]), "--plans", str(write(flat=(12, 14))), "--n", "1", "--size", "96"]
    assert main([*call, "-c", "3d_fullres", "-o", str(tmp_path / "a.png"), "--epoch", "0"]) == 0
    assert "patches of spinePlans.json" in capsys.readouterr().out
    assert main([*call, "-o", str(tmp_path / "b.png")]) == 2
    assert "choose it with -c" in capsys.readouterr().err
