"""Soft maps: right values on the right grid, whatever the order of windows, and nothing where there is nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from model_builder import CORD, make_image, make_model, stock_predict
from scipy.special import expit
from soft_model import TWO, make_soft_model

from nnunet_spine_ext.cli import predict as command
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference import space
from nnunet_spine_ext.inference.activation import Activation, hard_labels, probabilities, soft_activation, soft_values
from nnunet_spine_ext.inference.managers import SpinePlansManager
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor

CLAMP = Activation("clamp")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_soft_model(tmp_path_factory.mktemp("models") / "soft")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_soft_model(tmp_path_factory.mktemp("models") / "two", labels=TWO)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_soft_model(tmp_path_factory.mktemp("models") / "seeing", seeing=True)


def loaded(model: Path, **options: Any) -> SpinePredictor:
    predictor = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    predictor.initialize_from_trained_model_folder(model, None)
    return predictor


def soft_of(folder: Path, case: str = "a") -> nib.Nifti1Image:
    return nib.load(folder / "soft" / f"{case}.nii.gz")


# ---- activation --------------------------------------------------------------------------------------------------


def linear(*foreground: list[float]) -> np.ndarray:
    z = np.array(foreground, dtype=np.float32)
    return np.concatenate([1 - z.sum(axis=0, keepdims=True), z])


def test_values_of_each_activation() -> None:
    z = [-0.5, 0.2, 0.5, 0.8, 1.6]
    assert soft_values(linear(z), CLAMP)[0] == pytest.approx([0, 0.2, 0.5, 0.8, 1])
    assert soft_values(linear(z), Activation("norm_relu"))[0] == pytest.approx([0, 0.125, 0.3125, 0.5, 1])
    logits = np.array([[0, 0, 0], [-2, 0, 3]], dtype=np.float16)
    values = soft_values(logits, Activation("sigmoid"))
    assert values.dtype == np.float32
    assert values[0] == pytest.approx(expit([-2, 0, 3]), abs=1e-6)


def test_a_faint_volume_is_not_blown_up() -> None:
    faint = linear([0.01, 0.05, -0.02])
    assert soft_values(faint, Activation("norm_relu", floor=0.5))[0] == pytest.approx([0.02, 0.1, 0])
    assert not hard_labels(faint, Activation("norm_relu", floor=0.5)).any()
    # The reference divides by the maximum alone: that is the fault this floor is there for.
    assert soft_values(faint, Activation("norm_relu", floor=1e-6)).max() == 1
    assert not soft_values(linear([-1.0, -2.0]), Activation("norm_relu")).any()


def test_each_class_has_a_maximum_of_its_own() -> None:
    values = soft_values(linear([0.8, 0.1], [0.2, 2.0]), Activation("norm_relu"))
    assert values == pytest.approx(np.array([[1, 0.125], [0.1, 1]]))


@pytest.mark.parametrize("kind", ["clamp", "sigmoid"])
@pytest.mark.parametrize("classes", [1, 3])
def test_hard_labels_are_the_argmax_of_nnunet(kind: str, classes: int) -> None:
    z = np.random.default_rng(0).normal(0.3, 0.6, (classes, 4000)).astype(np.float32)
    logits = linear(*z.tolist()) if kind == "clamp" else np.concatenate([np.zeros((1, 4000), np.float32), z])
    labels = hard_labels(logits, Activation(kind))  # type: ignore[arg-type]
    assert np.array_equal(labels, logits.argmax(axis=0))
    assert len(np.unique(labels)) == classes + 1
    if classes == 1:
        assert np.array_equal(labels == 1, soft_values(logits, Activation(kind))[0] > 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["clamp", "norm_relu", "sigmoid"])
def test_the_largest_probability_is_the_hard_label(kind: str) -> None:
    activation = Activation(kind)  # type: ignore[arg-type]
    # Values above 1 tie once they are cut: nothing decides between two classes that are both certain.
    z = np.random.default_rng(1).uniform(-1, 1, (2, 4000)).astype(np.float32)
    logits = linear(*z.tolist()) if kind != "sigmoid" else np.concatenate([np.zeros((1, 4000), np.float32), z])
    found = probabilities(logits, activation)
    assert found.shape == logits.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(found[1:], soft_values(logits, activation))
    assert np.array_equal(found.argmax(axis=0), hard_labels(logits, activation))


@pytest.mark.parametrize(
    ("soft", "predict_part", "expected"),
    [
        (None, {"activation": "norm_relu"}, None),
        ({"output": "linear"}, {}, Activation("clamp", 0.5)),
        ({"output": "linear"}, {"activation": "norm_relu", "activation_floor": 1.0}, Activation("norm_relu", 1.0)),
        ({"output": "linear", "activation": "norm_relu"}, {}, Activation("norm_relu")),
        ({"output": "linear", "activation": "norm_relu"}, {"activation": "clamp"}, Activation("clamp")),
        ({"output": "sigmoid"}, {"activation": "norm_relu"}, Activation("sigmoid")),
    ],
)
def test_the_activation_stands_in_the_plans(soft: Any, predict_part: dict[str, Any], expected: Any) -> None:
    assert soft_activation({"spine_ext": {"soft": soft, "predict": predict_part}}) == expected
    assert soft_activation({}) is None


@pytest.mark.parametrize(
    "soft", [{"output": None}, {"output": "softmax"}, {}, {"output": "linear", "activation": "relu"}, 1]
)
def test_plans_that_do_not_say_what_outputs_are(soft: Any) -> None:
    with pytest.raises(SetupError, match=r"E-MODEL-SOFT"):
        soft_activation({"spine_ext": {"soft": soft}})


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"activation": "softmax"}, "E-CONFIG-VALUE"),
        ({"activation_floor": 0.0}, "E-CONFIG-RANGE"),
        ({"activation_floor": float("nan")}, "E-CONFIG-RANGE"),
        ({"activation_flor": 0.5}, "E-CONFIG-KEY"),
        ({"crop": "yes"}, "E-CONFIG-VALUE"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, settings: dict[str, Any], code: str) -> None:
    model = make_soft_model(tmp_path / "model", predict=settings)
    make_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, dry_run=True)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"accumulate": "half"}, "E-USE-ACCUMULATE"),
        ({"crop": "yes"}, "E-USE-CHOICE"),
        ({"precision": "fp16"}, "E-USE-CHOICE"),
        ({"window_batch": 0}, "E-USE-BATCH"),
    ],
)
def test_bad_options_are_named(model: Path, tmp_path: Path, options: dict[str, Any], code: str) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, **options)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


# ---- aggregation -------------------------------------------------------------------------------------------------


def test_outputs_do_not_depend_on_the_order_of_windows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = loaded(model)
    data = torch.randn(1, 33, 30, 37, generator=torch.Generator().manual_seed(0))
    windows = SpinePredictor._internal_get_sliding_window_slicers
    outputs = []
    for seed in (None, 1, 2):

        def shuffled(self: SpinePredictor, size: tuple[int, ...], seed: int | None = seed) -> list[Any]:
            found = windows(self, size)
            return found if seed is None else random.Random(seed).sample(found, len(found))

        monkeypatch.setattr(SpinePredictor, "_internal_get_sliding_window_slicers", shuffled)
        outputs.append(predictor.predict_logits_from_preprocessed_data(data))
    assert outputs[0].std() > 0.1
    for other in outputs[1:]:
        assert (outputs[0] - other).abs().max() <= 1e-6


def test_outputs_do_not_depend_on_empty_windows_elsewhere(seeing: Path) -> None:
    predictor = loaded(seeing, crop="off")
    block = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    block[:, 6:10, 6:10, 6:10] += 8
    values = []
    for empty in (16, 32, 96):
        data = torch.zeros(1, 16, 16, 16 + empty)
        data[..., :16] = block
        answer = predictor.predict_logits_from_preprocessed_data(data)
        values.append(soft_values(answer.numpy(), CLAMP)[0])
    assert values[0].max() > 0.5
    for other in values[1:]:
        assert np.abs(other[..., :16] - values[0][..., :16]).max() <= 1e-6
        assert not (other[..., 32:] > 0).any()


@pytest.mark.parametrize("batch", [2, 5, 100])
def test_windows_computed_at_once_give_the_same(model: Path, batch: int) -> None:
    data = torch.randn(1, 33, 30, 37, generator=torch.Generator().manual_seed(0))
    one = loaded(model).predict_logits_from_preprocessed_data(data)
    several = loaded(model, window_batch=batch).predict_logits_from_preprocessed_data(data)
    assert (one - several).abs().max() <= 1e-5


def test_folds_are_averaged_before_the_activation(tmp_path: Path) -> None:
    model = make_soft_model(tmp_path / "model", folds=3)
    image = tmp_path / "in" / "a.nii.gz"
    make_image(image, shape=(16, 18, 20))
    predictor = loaded(model)
    data, properties = predictor.prepare([image])
    together = predictor.soft(data, properties).soft[0].array
    alone = []
    for fold in range(3):
        single = SpinePredictor(device=torch.device("cpu"), progress=False)
        single.initialize_from_trained_model_folder(model, (fold,))
        alone.append(single.predict_logits_from_preprocessed_data(data).numpy()[1].transpose(2, 1, 0))
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    assert np.abs(together - np.clip(np.mean(alone, axis=0), 0, 1)).max() <= 1e-6
    cut_first = np.mean(np.clip(alone, 0, 1), axis=0)
    assert np.abs(together - cut_first).max() > 1e-3, "the order would not show"


def test_one_hot_voxel_hardly_changes_the_area() -> None:
    z = np.zeros((64, 64, 8), dtype=np.float32)
    z[28:37, 28:37] = 0.95
    hot = z.copy()
    hot[32, 32, 4] = 1.6
    area = {
        kind: [float(soft_values(np.stack([1 - v, v]), Activation(kind)).sum()) for v in (z, hot)]  # type: ignore[arg-type]
        for kind in ("clamp", "norm_relu")
    }
    assert abs(area["clamp"][1] / area["clamp"][0] - 1) <= 0.01
    # Dividing by the maximum lets one voxel decide about all.
    assert area["norm_relu"][1] / area["norm_relu"][0] - 1 < -0.3


# ---- volumes -----------------------------------------------------------------------------------------------------


def oblique(spacing: tuple[float, float, float], degrees: float, flips: tuple[int, int, int]) -> np.ndarray:
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(np.multiply(spacing, flips))
    affine[:3, 3] = (12.5, -40.0, 7.25)
    return affine


@pytest.mark.parametrize(
    ("spacing", "degrees", "flips", "order"),
    [
        ((1.0, 1.0, 1.0), 17.0, (1, 1, 1), (0, 1, 2)),
        ((0.7, 0.7, 3.3), 0.0, (-1, 1, -1), (2, 0, 1)),
        ((0.6, 2.5, 0.9), 38.0, (1, -1, 1), (1, 2, 0)),
    ],
    ids=["oblique", "flipped-permuted-anisotropic", "all"],
)
def test_soft_maps_keep_the_grid_and_the_place(
    seeing: Path, tmp_path: Path, spacing: Any, degrees: float, flips: Any, order: tuple[int, ...]
) -> None:
    affine = oblique(spacing, degrees, flips)[:, [*order, 3]]
    rng = np.random.default_rng(0)
    array = rng.normal(100, 10, (26, 22, 17)).astype(np.float32)
    array[4:8, 12:18, 3:8] = 1000
    image = Volume(array, affine)
    write_volume(image, tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=seeing, device="cpu", crop="off")
    soft, mask = soft_of(tmp_path / "out"), read_volume(tmp_path / "out" / "a.nii.gz")
    stored = nib.load(tmp_path / "in" / "a.nii.gz")
    assert soft.get_data_dtype() == np.float32
    assert soft.shape == stored.shape
    assert np.array_equal(soft.affine, stored.affine)
    assert np.array_equal(soft.affine, nib.load(tmp_path / "out" / "a.nii.gz").affine)
    values = np.asarray(soft.dataobj)
    assert np.array_equal(mask.array == 1, values > 0.5)
    bright = array > 500
    assert values[bright].mean() > 0.4
    assert values[~bright].mean() < 0.1
    assert ((values > 0) & (values < 1)).any()


def test_several_classes_are_one_4d_file(two: Path, tmp_path: Path) -> None:
    affine = oblique((1.0, 1.2, 1.0), 10.0, (-1, 1, 1))
    image = make_image(tmp_path / "in" / "a.nii.gz", affine=affine)
    predict(tmp_path / "in", tmp_path / "out", m=two, device="cpu")
    soft = soft_of(tmp_path / "out")
    assert soft.shape == (*image.shape, 2)
    assert np.allclose(soft.affine, image.affine, atol=1e-5)
    values, mask = np.asarray(soft.dataobj), read_volume(tmp_path / "out" / "a.nii.gz").array
    assert set(np.unique(mask).tolist()) == {0, 1, 2}
    assert np.abs(values[..., 0] - values[..., 1]).max() > 0.1
    alone = (values[..., 0] > 0.5) & (values[..., 1] < 0.3)
    assert alone.any()
    assert (mask[alone] == 1).all()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["soft"] == {"kind": "clamp", "floor": 0.5, "support_mm": None, "classes": ["cord", "canal"]}
    assert run["options"]["crop"] == "auto"
    assert run["options"]["precision"] == "fp32"


@pytest.mark.parametrize("labels", [CORD, TWO], ids=["one", "two"])
def test_sigmoid_models(tmp_path: Path, labels: dict[str, int]) -> None:
    model = make_soft_model(tmp_path / "model", output="sigmoid", labels=labels, predict={"activation": "norm_relu"})
    image = tmp_path / "in" / "a.nii.gz"
    make_image(image)
    predict(image, tmp_path / "out", m=model, device="cpu", crop="off")
    predictor = loaded(model, crop="off")
    logits = predictor.predict_logits_from_preprocessed_data(predictor.prepare([image])[0]).numpy()
    assert np.abs(logits[0]).max() == 0
    values = np.asarray(soft_of(tmp_path / "out").dataobj)
    values = values[..., None] if len(labels) == 2 else values
    assert np.abs(values - expit(logits[1:]).transpose(3, 2, 1, 0)).max() <= 1e-5
    mask = read_volume(tmp_path / "out" / "a.nii.gz").array
    assert np.array_equal(mask > 0, (values > 0.5).any(axis=-1))


def test_norm_relu_in_the_plans_scales_the_map_and_the_mask(tmp_path: Path) -> None:
    model = make_soft_model(tmp_path / "model", predict={"activation": "norm_relu"})
    image = tmp_path / "in" / "a.nii.gz"
    make_image(image)
    predict(image, tmp_path / "out", m=model, device="cpu")
    values, mask = np.asarray(soft_of(tmp_path / "out").dataobj), read_volume(tmp_path / "out" / "a.nii.gz").array
    assert values.max() == 1
    assert np.array_equal(mask == 1, values > 0.5)


@pytest.mark.parametrize("kind", ["noise", "constant", "zero"])
@pytest.mark.parametrize("activation", ["clamp", "norm_relu"])
def test_volumes_without_a_cord_give_nothing(tmp_path: Path, kind: str, activation: str) -> None:
    model = make_soft_model(tmp_path / "model", seeing=True, threshold=20, predict={"activation": activation})
    shape = (24, 20, 18)
    arrays = {
        "noise": np.random.default_rng(0).normal(100, 10, shape).astype(np.float32),
        "constant": np.full(shape, 7, dtype=np.int16),
        "zero": np.zeros(shape, dtype=np.int16),
    }
    write_volume(Volume(arrays[kind], np.eye(4)), tmp_path / "in" / "a.nii.gz")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    if result.failed:
        # The gatekeeper knows no such image to be usable; then nothing at all is written.
        assert kind != "noise"
        assert not (tmp_path / "out" / "soft" / "a.nii.gz").exists()
        return
    values = np.asarray(soft_of(tmp_path / "out").dataobj)
    assert np.isfinite(values).all()
    assert (values > 0.5).sum() == 0
    assert not read_volume(tmp_path / "out" / "a.nii.gz").array.any()


@pytest.mark.parametrize("value", [0, 7])
def test_the_predictor_survives_constant_images(seeing: Path, tmp_path: Path, value: int) -> None:
    write_volume(Volume(np.full((18, 17, 20), value, dtype=np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    predictor = loaded(seeing)
    answer = predictor.soft(*predictor.prepare([tmp_path / "a.nii.gz"]))
    assert answer.soft[0].shape == (18, 17, 20)
    assert np.isfinite(answer.soft[0].array).all()
    assert not answer.mask.array.any()


def test_resampling_that_is_not_linear_is_refused(tmp_path: Path) -> None:
    model = make_soft_model(tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"]["order"] = 3
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SetupError) as caught:
        loaded(model)
    assert caught.value.code == "E-PLANS-RESAMPLING"


def test_a_hard_model_has_no_soft_maps(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert not (tmp_path / "out" / "soft").exists()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["soft"] is None
    predictor = loaded(model)
    with pytest.raises(SetupError, match="a model of hard labels"):
        predictor.soft(*predictor.prepare([tmp_path / "in" / "a.nii.gz"]))


# ---- runs --------------------------------------------------------------------------------------------------------


def test_the_journal_knows_soft_maps_and_resume_verifies_them(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    entry = json.loads((tmp_path / "out" / "cases.jsonl").read_text())
    assert sorted(entry["outputs"]) == ["a.nii.gz", "soft/a.nii.gz"]
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True).skipped == ["a"]
    first = (tmp_path / "out" / "soft" / "a.nii.gz").read_bytes()
    (tmp_path / "out" / "soft" / "a.nii.gz").write_bytes(b"broken")
    rehearsed = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True, dry_run=True)
    assert list(rehearsed.planned) == ["a"]
    assert (tmp_path / "out" / "soft" / "a.nii.gz").read_bytes() == b"broken"
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True).done == ["a"]
    assert (tmp_path / "out" / "soft" / "a.nii.gz").read_bytes() == first
    again = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True, crop="off")
    assert again.done == ["a"], "another option is another output"


def test_a_case_that_fails_now_does_not_keep_its_old_soft_map(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    image = tmp_path / "in" / "a.nii.gz"
    image.write_bytes(image.read_bytes()[:200])
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu").exit_code == 4
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_soft_map_alone_of_another_run_is_foreign(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    (tmp_path / "out" / "soft" / "a.nii.gz").rename(tmp_path / "out" / "soft" / "z.nii.gz")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert [note.code for note in result.notes] == ["W-OUT-FOREIGN"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["foreign"] == {"unknown": ["z"]}


def test_room_for_soft_maps_is_part_of_the_estimate(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(0, 30000, (64, 64, 64)).astype(np.int16)
    write_volume(Volume(array, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    free = 2 * (tmp_path / "in" / "a.nii.gz").stat().st_size
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    hard = make_model(tmp_path / "hard")
    assert not predict(tmp_path / "in", tmp_path / "out", m=hard, dry_run=True).notes
    notes = predict(tmp_path / "in", tmp_path / "out", m=two, dry_run=True).notes
    assert [note.code for note in notes] == ["W-OUT-SPACE"]
    assert "250% per soft map" in notes[0].expected


def test_the_command_takes_the_options(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert command.main([*words, "--crop", "on", "--window-batch", "2", "--tta", "none"]) == 0
    assert soft_of(tmp_path / "out").shape == read_volume(tmp_path / "out" / "a.nii.gz").shape


def test_bf16_is_near_or_refused(model: Path, tmp_path: Path) -> None:
    from nnunet_spine_ext.networks.precision import has_bf16

    image = tmp_path / "in" / "a.nii.gz"
    make_image(image)
    if not has_bf16(torch.device("cpu")):
        with pytest.raises(SetupError, match="E-ENV-BF16"):
            predict(image, tmp_path / "out", m=model, device="cpu", precision="bf16")
        return
    for precision in ("fp32", "bf16"):
        predict(image, tmp_path / precision, m=model, device="cpu", precision=precision)  # type: ignore[arg-type]
    single, brain = (np.asarray(soft_of(tmp_path / p).dataobj) for p in ("fp32", "bf16"))
    assert 0 < np.abs(single - brain).max() < 0.05
    assert np.abs(single.mean() - brain.mean()) < 2e-3


def test_bf16_without_hardware_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.networks import precision

    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    with pytest.raises(SetupError) as caught:
        loaded(model, precision="bf16")
    assert caught.value.code == "E-ENV-BF16"


# ---- stock nnU-Net -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("labels", [CORD, TWO], ids=["one", "two"])
def test_stock_masks_are_ours_up_to_near_ties(tmp_path: Path, output: str, labels: dict[str, int]) -> None:
    model = make_soft_model(tmp_path / "model", output=output, labels=labels)
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file, shape=(40, 33, 30))
    stock_predict(model, [file], tmp_path / "stock")
    predict(file, tmp_path / "ours", m=model, device="cpu", crop="off")
    stock, ours = (read_volume(tmp_path / n / "a.nii.gz") for n in ("stock", "ours"))
    assert stock.corner_error(ours) < 1e-3
    assert len(np.unique(ours.array)) == len(labels)
    differing = stock.array != ours.array
    predictor = loaded(model, crop="off")
    logits = predictor.predict_logits_from_preprocessed_data(predictor.prepare([file])[0]).numpy()
    top = np.sort(logits, axis=0).transpose(0, 3, 2, 1)
    near_tie = top[-1] - top[-2] < 0.02
    # nnU-Net's half-precision weights vanish in the outermost corners: anything may happen there.
    inner = np.zeros(differing.shape, dtype=bool)
    inner[3:-3, 3:-3, 3:-3] = True
    assert not (differing & inner & ~near_tie).any()
    assert differing[inner].mean() <= 2e-3


@pytest.mark.parametrize("adopted", [True, False], ids=["our managers", "stock managers"])
@pytest.mark.parametrize("kind", ["clamp", "norm_relu", "sigmoid"])
def test_stock_probabilities_are_the_soft_values(tmp_path: Path, kind: str, adopted: bool) -> None:
    output = "sigmoid" if kind == "sigmoid" else "linear"
    settings = {} if kind == "sigmoid" else {"activation": kind}
    model = make_soft_model(tmp_path / "model", output=output, labels=TWO, predict=settings)
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file, shape=(16, 16, 16))
    stock = stock_predict if adopted else predict_without_adoption
    stock(model, [file], tmp_path / "stock", save_probabilities=True)
    predict(file, tmp_path / "ours", m=model, device="cpu", crop="off")
    with np.load(tmp_path / "stock" / "a.npz") as content:
        found = content["probabilities"]
    ours = np.asarray(soft_of(tmp_path / "ours").dataobj).transpose(3, 2, 1, 0)
    inner = (slice(None), *[slice(3, -3)] * 3)
    error = np.abs(found[1:] - ours)[inner].max()
    assert error < 0.01 if adopted else error > 0.1
    if adopted:
        mask = read_volume(tmp_path / "stock" / "a.nii.gz").array
        assert np.array_equal(mask, found.argmax(axis=0).transpose(2, 1, 0))


def predict_without_adoption(model: Path, files: list[Path], out: Path, *, save_probabilities: bool) -> None:
    """Stock prediction of the same weights where our managers are not taken up."""
    plans = json.loads((model / "plans.json").read_text())
    settings = plans["spine_ext"].pop("predict")
    (model / "plans.json").write_text(json.dumps(plans))
    stock_predict(model, files, out, save_probabilities=save_probabilities)
    plans["spine_ext"]["predict"] = settings
    (model / "plans.json").write_text(json.dumps(plans))


def test_regions_are_refused(tmp_path: Path) -> None:
    plans = json.loads((make_soft_model(tmp_path / "model") / "plans.json").read_text())
    regions = {"labels": {"background": 0, "both": [1, 2], "cord": 2}, "regions_class_order": [1, 2]}
    with pytest.raises(SetupError) as caught:
        SpinePlansManager(plans).get_label_manager(regions)
    assert caught.value.code == "E-MODEL-SOFT"
