"""2-D models of nnU-Net as segmenters of slices: the same answer as prediction, gradients, planes, what is refused."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import LABELS14, make_flat_model, make_model
from slice_cohort import dataset

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.segmenter import NetworkSegmenter, size_at
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.slice_plane import SlicePlane
from nnunet_spine_ext.inference.slice_segmenter import NnUNetSegmenter, load_slice_segmenter
from nnunet_spine_ext.training.slice_segmenter import segmenter

Edit = Callable[[dict[str, Any]], None]


def _model(folder: Path, *edits: Edit, transpose: tuple[int, ...] = (2, 0, 1)) -> Path:
    """Write a 2-D model of 14 classes whose slices are sagittal; `edits` change its plans."""
    make_flat_model(folder)
    plans = json.loads((folder / "plans.json").read_text())
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(k) for k in range(3)]
    for edit in edits:
        edit(plans)
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def _described(folder: Path, **content: Any) -> Path:
    """Change dataset.json."""
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    return folder


def _set(**content: Any) -> Edit:
    return lambda plans: plans["configurations"]["3d_fullres"].update(content)


def _slice(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A slice of blobs, 1 to 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, -(-rows // 4), -(-columns // 4), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bicubic").clamp(0, 1)
    return fine * 254 + 1


def _predicted(folder: Path, image: torch.Tensor, tmp_path: Path) -> torch.Tensor:
    """Write the slice as a scan, predict it as we predict scans, and return the probability of disc (1, 1, Y, X)."""
    from nnunet_spine_ext.core.io import write_volume

    # Array axes (i, j, k) to the left, the bottom and the back; 1 mm pixels.
    affine = np.array([[-4.0, 0, 0, 0], [0, 0, -1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
    write_volume(Volume(image[0].numpy(), affine), tmp_path / "scan.nii.gz")
    predictor = SpinePredictor(device=torch.device("cpu"), tta="none", progress=False)
    predictor.initialize_from_model(load_model(folder))
    data, _ = predictor.prepare([tmp_path / "scan.nii.gz"])
    chance = predictor.posterior(data)[14]
    forward = predictor.plans_manager.transpose_forward
    ras = chance.permute(*(forward.index(k) for k in range(3))).permute(2, 1, 0)
    # From RAS+ (x, y, z) to rows downwards and columns to the back.
    return ras[0].T.flip(0, 1)[None, None]


# The same answer as prediction


@pytest.mark.parametrize("transpose", [(2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("size", [(16, 16), (40, 27), (9, 30)])
def test_a_slice_is_answered_as_a_scan_of_one_slice(
    tmp_path: Path, transpose: tuple[int, ...], size: tuple[int, int]
) -> None:
    """One window, several overlapping ones, and slices that are filled up."""
    folder = _model(tmp_path / "m", transpose=transpose)
    image = _slice(*size)
    found = load_slice_segmenter(folder)(image)
    expected = _predicted(folder, image, tmp_path)
    assert found.shape == image.shape
    assert expected.std() > 1e-3, "an answer that is the same everywhere would prove nothing"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_slices_of_a_batch_are_answered_one_by_one(tmp_path: Path) -> None:
    found = load_slice_segmenter(_model(tmp_path / "m"))
    images = torch.cat([_slice(24, 20, seed) for seed in range(3)])
    single = torch.cat([found(image[None]) for image in images])
    torch.testing.assert_close(found(images), single, atol=1e-6, rtol=1e-5)


def test_the_filling_around_a_scan_is_left_out_as_nnunet_leaves_it_out(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    image = _slice(16, 16)
    filled = torch.nn.functional.pad(image, (0, 0, 0, 8))
    expected = _predicted(folder, filled, tmp_path)
    # nnU-Net cuts the filling off, so its answer is that of the slice.
    assert torch.equal(load_slice_segmenter(folder)(image).round(decimals=4), expected[:, :, :16].round(decimals=4))
    normalized = load_slice_segmenter(folder)._normalize(filled)  # type: ignore[attr-defined]
    assert float(normalized[:, :, :16].mean()) == pytest.approx(0, abs=1e-5)
    assert float(normalized[:, :, :16].std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert (normalized[:, :, 16:] == 0).all()


def test_the_mean_of_the_folds_answers(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    checkpoint["network_weights"] = {k: v * 1.5 for k, v in checkpoint["network_weights"].items()}
    (folder / "fold_1").mkdir()
    torch.save(checkpoint, folder / "fold_1/checkpoint_final.pth")
    image = _slice(16, 16)
    both, expected = load_slice_segmenter(folder), _predicted(folder, image, tmp_path)
    torch.testing.assert_close(both(image), expected, atol=1e-5, rtol=1e-4)
    first = load_slice_segmenter(folder, folds=("0",))
    assert not torch.allclose(first(image), both(image), atol=1e-4)
    assert first.digest != both.digest


# Gradients


def test_gradients_pass_through_and_the_network_is_frozen(tmp_path: Path) -> None:
    found = load_slice_segmenter(_model(tmp_path / "m"))
    assert isinstance(found, NnUNetSegmenter)
    for size in ((16, 16), (30, 20)):
        images = _slice(*size).requires_grad_()
        found(images).sum().backward()
        assert images.grad is not None
        assert float(images.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in found._networks.parameters())
    assert not any(module.training for module in found._networks.modules())


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_the_slope_through_normalization_and_resampling(
    tmp_path: Path, scheme: str, masked: bool
) -> None:
    folder = _model(tmp_path / "m", _set(normalization_schemes=[scheme], use_mask_for_norm=[masked]))
    found = load_slice_segmenter(folder, spacing=1.3)
    assert isinstance(found, NnUNetSegmenter)
    found._networks.double()
    for network in found._networks.modules():
        # It brings what we add up to single precision.
        network._forward_hooks.clear()
    # Sums of windows are kept in single precision; here there is one window.
    found._answer = lambda network, padded, patch: network(padded)  # type: ignore[method-assign]
    images = _slice(12, 12).double().requires_grad_()
    with torch.no_grad():
        images[:, :, :2] = 0
    found(images).sum().backward()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64) * (images != 0)
    # Larger steps cross kinks of the network's activation.
    step = 1e-5
    with torch.no_grad():
        slope = (found(images + step * direction).sum() - found(images - step * direction).sum()) / (2 * step)
    assert images.grad is not None
    assert (images.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_a_constant_slice_gives_finite_answers_and_gradients(tmp_path: Path) -> None:
    found = load_slice_segmenter(_model(tmp_path / "m"))
    for value in (0.0, 100.0):
        images = torch.full((1, 1, 16, 16), value, requires_grad=True)
        chance = found(images)
        chance.sum().backward()
        assert images.grad is not None
        assert chance.isfinite().all()
        assert images.grad.isfinite().all()


# Pixels and planes


def test_slices_with_other_pixels_are_resampled_there_and_back(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    own, coarse = load_slice_segmenter(folder), load_slice_segmenter(folder, spacing=2.0)
    assert (own.spacing, coarse.spacing) == (1.0, 2.0)
    assert own.digest != coarse.digest
    image = _slice(20, 24)
    chance = coarse(image)
    assert chance.shape == image.shape
    fine = torch.nn.functional.interpolate(image, size=(40, 48), mode="bilinear", antialias=True)
    expected = torch.nn.functional.interpolate(own(fine), size=(20, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(chance, expected)


def test_a_network_with_unequal_pixels_takes_slices_of_equal_ones(tmp_path: Path) -> None:
    found = load_slice_segmenter(_model(tmp_path / "m", _set(spacing=[1.0, 0.5]), transpose=(2, 1, 0)))
    assert found.spacing == 0.75
    assert isinstance(found, NnUNetSegmenter)
    # The network's rows are the slice's columns.
    assert size_at((20, 20), found.spacing, found._pixel) == (30, 15)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA"])
def test_every_way_of_storing_a_sagittal_slice_is_undone(orientation: str) -> None:
    """Cut the slice out of a scan stored that way, as nnU-Net's arrays (k, j, i) have it."""
    rng = np.random.default_rng(0)
    volume = Volume(rng.random((3, 4, 5)), np.diag([1.0, 1.0, 1.0, 1.0]))
    ours = volume.to("LIP").array[0]
    stored = volume.to(orientation)
    across = next(k for k, letter in enumerate(orientation) if letter in "LR")
    for rest in itertools.permutations(sorted({0, 1, 2} - {2 - across})):
        transpose = (2 - across, *rest)
        seen = stored.array.transpose(2, 1, 0).transpose(transpose)
        seen = seen[::-1] if orientation[across] == "R" else seen
        plane = SlicePlane.of(orientation, transpose, "test")
        turned = plane.to_network(torch.from_numpy(ours.copy())[None, None])
        assert np.array_equal(turned[0, 0].numpy(), seen[0])
        assert np.array_equal(plane.from_network(turned)[0, 0].numpy(), ours)


def test_models_whose_reader_does_not_turn_images_need_an_orientation(tmp_path: Path) -> None:
    # A stock model: ours must have a reader that turns images.
    folder = _model(tmp_path / "m", lambda plans: plans.pop("spine_ext"))
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, folder / "fold_0/checkpoint_final.pth")
    image, plans = _slice(16, 16), json.loads((folder / "plans.json").read_text())
    expected = load_slice_segmenter(folder)(image)
    (folder / "plans.json").write_text(json.dumps(plans | {"image_reader_writer": "SimpleITKIO"}))
    with pytest.raises(SetupError, match="orientation=") as error:
        load_slice_segmenter(folder)
    assert error.value.code == "E-PLANS-READER"
    torch.testing.assert_close(load_slice_segmenter(folder, orientation="RAS")(image), expected)
    assert not torch.allclose(load_slice_segmenter(folder, orientation="LPS")(image), expected, atol=1e-4)
    for wrong in ("RAX", "RRS", "RA", "RASL"):
        with pytest.raises(SetupError, match="three letters"):
            load_slice_segmenter(folder, orientation=wrong)


# Which outputs are discs


def test_discs_are_found_by_scheme_by_name_or_as_told(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    image = _slice(16, 16)
    by_scheme = load_slice_segmenter(folder)(image)
    torch.testing.assert_close(load_slice_segmenter(folder, classes=[14])(image), by_scheme)
    both = load_slice_segmenter(folder, classes=[13, 14])(image)
    one = load_slice_segmenter(folder, classes=[13])(image)
    torch.testing.assert_close(both, by_scheme + one)
    named = {"background": 0, **{f"part{k}": k for k in range(1, 14)}, "intervertebral_disc": 14}
    plans = json.loads((folder / "plans.json").read_text())
    plans["spine_ext"]["data"]["scheme"] = "custom"
    (folder / "plans.json").write_text(json.dumps(plans))
    torch.testing.assert_close(
        load_slice_segmenter(_described(folder, labels=named, spine_ext={"scheme": "custom"}))(image), by_scheme
    )


def test_a_model_without_discs_is_refused(tmp_path: Path) -> None:
    labels = {("bone" if name == "disc" else name): number for name, number in LABELS14.items()}
    folder = _model(tmp_path / "m", lambda plans: plans["spine_ext"]["data"].update(scheme="custom"))
    _described(folder, labels=labels, spine_ext={"scheme": "custom"})
    with pytest.raises(SetupError, match=r"no class of discs among .*bone 14") as error:
        load_slice_segmenter(folder)
    assert error.value.code == "E-MODEL-SLICES"


def test_regions_answer_with_their_own_sigmoid(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m", lambda plans: plans["spine_ext"]["data"].update(scheme="custom", sided_labels=[]))
    labels: dict[str, Any] = {"background": 0, "spine": list(range(1, 16)), "disc": [14]}
    labels |= {f"part{k}": [k, 15] for k in range(1, 14)}
    order = list(range(1, 16))
    _described(folder, labels=labels, regions_class_order=order, spine_ext={"scheme": "custom", "sided_labels": []})
    found = load_slice_segmenter(folder)
    assert isinstance(found, NnUNetSegmenter)
    assert found._channels == (1,)
    images = _slice(16, 16)
    logits = found._logits(found._normalize(found._plane.to_network(images)))
    torch.testing.assert_close(found(images), found._plane.from_network(logits[:, 1:2].sigmoid()))


@pytest.mark.parametrize("kind", ["clamp", "norm_relu", "sigmoid"])
def test_soft_models_answer_with_their_values(tmp_path: Path, kind: str) -> None:
    soft = {"output": "sigmoid"} if kind == "sigmoid" else {"output": "linear", "activation": kind}
    folder = _model(tmp_path / "m", lambda plans: plans["spine_ext"].update(soft=soft))
    image = _slice(16, 16)
    found, expected = load_slice_segmenter(folder), _predicted(folder, image, tmp_path)
    torch.testing.assert_close(found(image), expected, atol=1e-5, rtol=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("edits", "transpose", "hint"),
    [
        ((), (0, 1, 2), "slices lie along the axis to S"),
        ((), (1, 0, 2), "slices lie along the axis to A"),
        ((_set(normalization_schemes=["CTNormalization"]),), (2, 0, 1), "CTNormalization, which needs"),
        ((_set(normalization_schemes=["NoNormalization"]),), (2, 0, 1), "NoNormalization, which needs"),
    ],
)
def test_models_that_need_something_else_are_refused(
    tmp_path: Path, edits: tuple[Edit, ...], transpose: tuple[int, ...], hint: str
) -> None:
    with pytest.raises(SetupError, match=hint) as error:
        load_slice_segmenter(_model(tmp_path / "m", *edits, transpose=transpose))
    assert error.value.code == "E-MODEL-SLICES"


def test_models_of_volumes_and_of_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="sees volumes"):
        load_slice_segmenter(make_model(tmp_path / "volumes"))
    two = _described(_model(tmp_path / "two"), channel_names={"0": "T1w", "1": "T2w"})
    with pytest.raises(SetupError, match=r"2 channels \(T1w, T2w\)"):
        load_slice_segmenter(two)


def test_a_folder_that_is_no_model_and_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as error:
        load_slice_segmenter(tmp_path)
    assert error.value.code == "E-MODEL-SEGMENTER"
    with pytest.raises(ValueError, match=r"expected \(B, 1, Y, X\)"):
        load_slice_segmenter(_model(tmp_path / "m"))(torch.zeros(1, 3, 8, 8))


def test_intensities_that_are_matched_in_prediction_are_said_not_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _model(tmp_path / "m", lambda plans: plans["spine_ext"]["predict"].update(match="body"))
    with caplog.at_level(logging.WARNING):
        load_slice_segmenter(folder)
    assert "slices are taken as they are" in caplog.text


def test_our_own_segmenters_are_loaded_by_the_same_function(tmp_path: Path) -> None:
    raw = dataset(tmp_path, [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(3)])
    segmenter([raw], target=["Siemens"], o=tmp_path / "discs", preset="smoke", device="cpu")
    assert isinstance(load_slice_segmenter(tmp_path / "discs", "cpu"), NetworkSegmenter)
