"""Our predictor against stock nnU-Net, on every kind of grid."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from model_builder import CORD, LABELS14, SIDED14, make_image, make_model, stock_predict

from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.labels import swap_sides
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*axes)
]


@pytest.fixture(scope="module")
def cord_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "cord", labels=CORD)


@pytest.fixture(scope="module")
def sided_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "sided", labels=LABELS14, sided=SIDED14)


@pytest.mark.parametrize("which", ["cord_model", "sided_model"])
def test_half_accumulation_equals_stock_and_single_nearly(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(which)
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file, shape=(40, 33, 30))
    stock_predict(model, [file], tmp_path / "stock")
    for accumulate in ("half", "single"):
        predict(file, tmp_path / accumulate, m=model, accumulate=accumulate, device="cpu")
    stock, half, single = (read_volume(tmp_path / n / "a.nii.gz") for n in ("stock", "half", "single"))
    assert len(np.unique(stock.array)) > 1, "a mask of one class compares nothing"
    assert np.count_nonzero(stock.array != half.array) == 0
    assert stock.corner_error(half) < 1e-3
    if which == "cord_model":
        # Fifteen random classes tie almost everywhere, so rounding decides more often there than in a trained model:
        # benchmarks/real_cord.py counts this for one.
        assert np.count_nonzero(stock.array != single.array) <= 1e-3 * stock.array.size


def test_no_tta_equals_stock_for_a_model_without_sides(cord_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file)
    stock_predict(cord_model, [file], tmp_path / "stock", mirror=False)
    predict(file, tmp_path / "ours", m=cord_model, tta="none", accumulate="half", device="cpu")
    assert np.array_equal(read_volume(tmp_path / "stock/a.nii.gz").array, read_volume(tmp_path / "ours/a.nii.gz").array)


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_48_orientations_give_one_answer(sided_model: Path, tmp_path: Path, stock: bool) -> None:
    affine = np.diag([1.0, 1.25, 1.5, 1.0])
    affine[:3, 3] = (-7.0, 11.0, 3.0)
    upright = make_image(tmp_path / "upright.nii.gz", shape=(20, 18, 16), affine=affine)
    assert len(set(ORIENTATIONS)) == 48
    files = []
    for name in ORIENTATIONS:
        files.append(tmp_path / "in" / f"{name}_0000.nii.gz")
        write_volume(upright.to(name), files[-1])
    if stock:
        stock_predict(sided_model, files, tmp_path / "out")
    else:
        assert predict(tmp_path / "in", tmp_path / "out", m=sided_model, device="cpu").exit_code == 0
    reference = read_volume(tmp_path / "out" / "RAS.nii.gz")
    for name in ORIENTATIONS:
        mask = read_volume(tmp_path / "out" / f"{name}.nii.gz")
        assert mask.orientation == name
        assert mask.corner_error(upright.to(name)) < 1e-3
        assert np.count_nonzero(mask.to("RAS").array != reference.array) == 0, name


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_flipped_array_gives_the_mirrored_labels_with_sides_exchanged(
    sided_model: Path, tmp_path: Path, stock: bool
) -> None:
    # One window: nnU-Net's Gaussian is half a voxel off the centre of an even patch, so several windows are weighted
    # differently in a mirrored volume, and rounding decides ties.
    image = make_image(tmp_path / "in" / "a_0000.nii.gz", shape=(16, 16, 16))
    files = [tmp_path / "in" / "a_0000.nii.gz", tmp_path / "in" / "b_0000.nii.gz"]
    write_volume(image.with_array(image.array[::-1].copy()), files[1])
    if stock:
        stock_predict(sided_model, files, tmp_path / "out")
    else:
        predict(tmp_path / "in", tmp_path / "out", m=sided_model, device="cpu")
    first, second = (read_volume(tmp_path / "out" / f"{c}.nii.gz").array for c in "ab")
    expected = swap_sides(first[::-1], SIDED14)
    assert {4, 5, 6, 7, 8, 9} & set(np.unique(first).tolist())
    different = second != expected
    if stock:
        # Half-precision sums round differently under a mirrored Gaussian: near-ties may fall the other way, and where
        # its weight is a subnormal half (the outermost corners of the window) anything may.
        precise = half_weights((16, 16, 16)) > 1e-3
        assert precise.mean() > 0.3
        assert not (different & precise & (margin(sided_model, files[0]) > 2**-7)).any()
        assert different.mean() < 0.05
    else:
        assert not different.any()
    assert np.count_nonzero(second != first[::-1]) > 0, "without exchanged sides the test would show nothing"


def half_weights(patch: tuple[int, int, int]) -> np.ndarray:
    """nnU-Net's own window weights, and their mirror image's, whichever is smaller."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    weights = compute_gaussian(patch, 1 / 8, 10, device=torch.device("cpu")).float().numpy().transpose(2, 1, 0)
    return np.minimum(weights, weights[::-1])


def margin(model: Path, file: Path) -> np.ndarray:
    """Distance between the two largest logits, relative to the largest magnitude, for an upright image."""
    import torch

    predictor = SpinePredictor(device=torch.device("cpu"), progress=False)
    predictor.initialize_from_trained_model_folder(model, None)
    logits = predictor.predict_logits_from_preprocessed_data(predictor.prepare([file])[0]).numpy()
    top = np.sort(logits, axis=0)
    return ((top[-1] - top[-2]) / np.abs(logits).max()).transpose(2, 1, 0)


def oblique(spacing: tuple[float, float, float], degrees: float, flips: tuple[int, int, int]) -> np.ndarray:
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(a / 2), -np.sin(a / 2)], [0, np.sin(a / 2), np.cos(a / 2)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ tilt @ np.diag(np.multiply(spacing, flips))
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
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_outputs_keep_the_grid(
    cord_model: Path,
    tmp_path: Path,
    spacing: tuple[float, float, float],
    degrees: float,
    flips: tuple[int, int, int],
    order: tuple[int, int, int],
    stock: bool,
) -> None:
    affine = oblique(spacing, degrees, flips)[:, [*order, 3]]
    file = tmp_path / "in" / "a_0000.nii.gz"
    image = make_image(file, shape=(20, 22, 17), affine=affine)
    if stock:
        stock_predict(cord_model, [file], tmp_path / "out")
    else:
        predict(file, tmp_path / "out", m=cord_model, device="cpu")
    mask = read_volume(tmp_path / "out" / "a.nii.gz")
    assert mask.corner_error(image) < 1e-3
    assert np.allclose(mask.affine, image.affine, atol=1e-5)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient"])
def test_a_stock_model_sees_images_as_its_own_reader_gives_them(tmp_path: Path, reader: str) -> None:
    model = make_model(tmp_path / "model", trainer="nnUNetTrainer")
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans | {"image_reader_writer": reader}))
    file = tmp_path / "in" / "a_0000.nii.gz"
    upright = make_image(tmp_path / "upright.nii.gz", affine=np.diag([1.0, 1.25, 1.5, 1.0]))
    write_volume(upright.to("PIR"), file)
    stock_predict(model, [file], tmp_path / "stock")
    predict(file, tmp_path / "ours", m=model, accumulate="half", device="cpu")
    stock, ours = (read_volume(tmp_path / n / "a.nii.gz") for n in ("stock", "ours"))
    assert ours.corner_error(upright.to("PIR")) < 1e-3
    assert len(np.unique(stock.array)) > 1
    assert np.count_nonzero(stock.array != ours.array) == 0


def test_mha_input_gives_the_labels_of_the_same_nifti(cord_model: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "in" / "a.nii.gz", affine=oblique((1.0, 1.0, 1.2), 9.0, (1, 1, 1)))
    write_volume(image, tmp_path / "other" / "a.mha")
    predict(tmp_path / "in", tmp_path / "out1", m=cord_model, device="cpu")
    predict(tmp_path / "other" / "a.mha", tmp_path / "out2", m=cord_model, device="cpu")
    first, second = (read_volume(tmp_path / n / "a.nii.gz") for n in ("out1", "out2"))
    assert np.array_equal(first.array, second.array)
    assert second.corner_error(image) < 1e-3


def test_same_seed_same_bytes_and_readable_records(cord_model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    for name in ("x", "y"):
        predict(tmp_path / "in", tmp_path / name, m=cord_model, device="cpu")
    assert (tmp_path / "x/a.nii.gz").read_bytes() == (tmp_path / "y/a.nii.gz").read_bytes()
    entry = json.loads((tmp_path / "x/cases.jsonl").read_text())
    assert entry["status"] == "done"
    assert list(entry["outputs"]) == ["a.nii.gz"]
    run = json.loads((tmp_path / "x/run.json").read_text())
    assert run["model"]["trainer"] == "nnUNetTrainerSpine"
    assert run["labels"] == {"1": "cord"}
    assert (tmp_path / "x/labels_itksnap.txt").is_file()


@pytest.mark.parametrize(("accumulate", "dtype"), [("single", "float32"), ("half", "bfloat16")])
def test_mirrored_outputs_add_up_in_single_precision_under_mixed_precision(
    sided_model: Path, accumulate: Literal["single", "half"], dtype: str
) -> None:
    import torch

    predictor = SpinePredictor(device=torch.device("cpu"), accumulate=accumulate, progress=False)
    predictor.initialize_from_trained_model_folder(sided_model, None)
    predictor.network.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = predictor._internal_maybe_mirror_and_predict(torch.randn(1, 1, 16, 16, 16))
    assert str(output.dtype) == f"torch.{dtype}"


def test_two_channels(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", channels=2)
    for channel in (0, 1):
        make_image(tmp_path / "in" / f"a_{channel:04d}.nii.gz", seed=channel)
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu").done == ["a"]


def test_a_volume_smaller_than_the_patch(cord_model: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "in" / "a.nii.gz", shape=(9, 30, 5))
    predict(tmp_path / "in", tmp_path / "out", m=cord_model, device="cpu")
    assert read_volume(tmp_path / "out" / "a.nii.gz").same_grid(Volume(image.array, image.affine))
