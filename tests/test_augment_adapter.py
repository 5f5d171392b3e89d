"""The adapter for plain loops: as the pipeline, with counters that resume; and what is said to bad input."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from house import ROOT, imported_modules, python_files
from torch import Tensor

import nnunet_spine_ext.augment.monai as facade
from nnunet_spine_ext.augment.adapter import Augmenter
from nnunet_spine_ext.augment.adapting import CACHED
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.core.errors import SetupError, UsageError

SHAPE = (6, 14, 12)
SPACING = (3.3, 0.8, 0.8)
CASES = ["sub-01", "sub-02"]
GAMMA = {"transforms": [{"name": "gamma", "p": 1.0}, {"name": "rician_noise", "p": 1.0, "sigma": [0.02, 0.05]}]}
ROTATE = {"transforms": [{"name": "rotate", "p": 1.0, "degrees": [20, 30]}]}


def batch(shape: tuple[int, ...] = SHAPE, channels: int = 1, count: int = 2) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (count, 1, *shape), generator=noise)
    images = labels + 0.1 * torch.randn((count, channels, *shape), generator=noise)
    return images, labels


def made(config: Any = GAMMA, **options: Any) -> Augmenter:
    return Augmenter(config, **{"spacing": SPACING, "labels": range(3), "seed": 4, **options})


def test_it_does_what_the_pipeline_does() -> None:
    images, labels = batch()
    before = images.clone(), labels.clone()
    result, moved = made("shift")(images, labels, cases=CASES, epoch=30)
    pipeline = Pipeline("shift", Context(SHAPE, SPACING, labels=(0, 1, 2)))
    expected, expected_labels = pipeline(images, labels, [SampleKey(4, c, 30, i) for i, c in enumerate(CASES)])
    assert torch.equal(result, expected)
    assert moved is not None
    assert expected_labels is not None
    assert torch.equal(moved, expected_labels.clamp_min(0))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_a_training_that_is_resumed_goes_on_as_it_would_have() -> None:
    images, labels = batch()
    first, second = made("shift"), made("shift")
    steps = [(first(images, labels, cases=CASES, epoch=e)[0], first.state_dict()) for e in (20, 20, 21)]
    state = json.loads(json.dumps(steps[0][1]))
    second.load_state_dict(state)
    for (expected, _), epoch in zip(steps[1:], (20, 21), strict=True):
        assert torch.equal(second(images, labels, cases=CASES, epoch=epoch)[0], expected)
    assert not torch.equal(steps[0][0], steps[1][0])
    third = pickle.loads(pickle.dumps(first))
    assert torch.equal(third(images, labels)[0], first(images, labels)[0])


def test_samples_are_counted_anew_in_each_epoch_and_not_where_numbers_are_given() -> None:
    images, _ = batch()
    augmenter = made()
    augmenter(images, epoch=1)
    assert augmenter.state_dict()["draw"] == 2
    numbered, _ = augmenter(images, cases=CASES, draws=[5, 9])
    assert augmenter.state_dict()["draw"] == 2
    augmenter(images, epoch=2)
    assert augmenter.state_dict() == {**augmenter.state_dict(), "epoch": 2, "draw": 2, "seed": 4}
    assert torch.equal(numbered, made()(images, cases=CASES, epoch=1, draws=[5, 9])[0])


def test_without_epochs_the_strength_is_full() -> None:
    ramp = {**GAMMA, "schedule": {"ramp_epochs": 10}}
    images, _ = batch()
    assert torch.equal(made(ramp)(images)[0], made(ramp)(images, epoch=10)[0])
    assert torch.equal(made(ramp)(images, epoch=0)[0], images)


def test_the_end_of_the_training_is_clean() -> None:
    closing = {**GAMMA, "schedule": {"closing_clean_share": 0.5}}
    images, _ = batch()
    augmenter = made(closing, epochs=4)
    assert not torch.equal(augmenter(images, epoch=1)[0], images)
    assert torch.equal(augmenter(images, epoch=2)[0], images)


def test_a_record_replays() -> None:
    images, labels = batch()
    augmenter = made("shift")
    result, moved = augmenter(images, labels, cases=CASES, epoch=40)
    again, again_labels = made("none").replay(images, labels, json.loads(json.dumps(augmenter.record)))
    assert torch.equal(again, result)
    assert torch.equal(again_labels, moved)


def test_shapes_may_vary_and_few_pipelines_are_kept() -> None:
    augmenter = made(spacing=None)
    for size in range(4, 4 + CACHED + 6):
        images, labels = batch((4, size, 9))
        assert augmenter(images, labels, spacing=SPACING)[0].shape == images.shape
    assert len(augmenter._pipelines) == CACHED
    images, labels = batch((20, 18))
    assert augmenter(images, labels, spacing=(0.8, 0.8))[0].shape == images.shape


@pytest.mark.parametrize("shape", [(1, 16, 16), (16, 1, 16), (24, 20), (1, 1, 1), (1, 1)], ids=str)
def test_flat_and_single_slices_work(shape: tuple[int, ...]) -> None:
    images, labels = batch(shape, channels=2)
    result, moved = Augmenter("shift", spacing=(2.0,) * len(shape), labels=range(3))(images, labels)
    assert result.shape == images.shape
    assert result.isfinite().all()
    assert moved is not None
    assert moved.shape == labels.shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integer_images_become_float32(dtype: torch.dtype) -> None:
    images = (batch()[0] * 50).clamp(0, 255).to(dtype)
    result, _ = made()(images)
    assert result.dtype == torch.float32
    assert torch.equal(result, made()(images.float())[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_floating_images_is_kept(dtype: torch.dtype) -> None:
    assert made()(batch()[0].to(dtype))[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.float32])
@pytest.mark.parametrize("config", [GAMMA, ROTATE], ids=["still", "moved"])
def test_label_maps_keep_their_type(dtype: torch.dtype, config: Any) -> None:
    images, labels = batch()
    own = labels.to(dtype)
    result, moved = made(config)(images, own)
    expected, expected_labels = made(config)(images, own.long())
    assert moved is not None
    assert moved.dtype == dtype
    assert torch.equal(moved.long(), expected_labels)
    assert torch.equal(result, expected)
    _, apart = made(config, outside=-1)(images, own)
    assert apart is not None
    # -1 has no place in unsigned types: these become signed whether or not something was brought in.
    assert apart.dtype == (dtype if dtype.is_signed else torch.int16)
    assert bool((apart == -1).any()) == (config is ROTATE)


def test_what_is_outside_already_is_told_by_the_same_number() -> None:
    images, labels = batch()
    labels[:, :, 0] = -1
    for outside in (-1, 0, 9):
        _, moved = made(outside=outside)(images, labels)
        assert moved is not None
        assert (moved[:, :, 0] == outside).all()


def test_sides_are_exchanged_in_a_mirror() -> None:
    images, labels = batch()
    flip = {"transforms": [{"name": "flip", "axes": [2], "axis_p": 1.0}]}
    _, moved = made(flip, sided_pairs=[(1, 2)], left_right_axis=2)(images, labels)
    exchanged = torch.tensor([0, 2, 1])[labels]
    assert torch.equal(moved, exchanged.flip(-1))


def test_gradients_flow() -> None:
    images, _ = batch()
    images.requires_grad_()
    made()(images)[0].sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("name", ["rotate", "scale", "shear", "translate", "elastic"])
@pytest.mark.parametrize("shape", [(8, 14, 12), (1, 14, 12), (14, 12)])
def test_gradients_flow_through_geometry(name: str, shape: tuple[int, ...]) -> None:
    """Several samples of a batch are resampled at once, some of them reach beyond their source."""
    context = Context(shape, (3.0, 1.0, 1.0)[-len(shape) :])
    pipeline = Pipeline({"transforms": [{"name": name, "p": 1.0}]}, context)
    keys = [SampleKey(seed=0, case=str(k), epoch=0, draw=0) for k in range(3)]
    images = torch.rand(3, 1, *shape, requires_grad=True)
    found, _ = pipeline(images, None, keys)
    expected, _ = pipeline(images.detach(), None, keys)
    assert torch.allclose(found, expected, atol=1e-5)
    found.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


def _spoilt(value: float) -> Tensor:
    images = batch()[0]
    images[1, 0, 2, 3, 4] = value
    return images


BAD: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "no spacing": ("E-AUG-SPACING", "give spacing", lambda: made(spacing=None)(batch()[0])),
    "spacing of another dimension": ("E-AUG-CONTEXT", "2 positive", lambda: made()(batch((8, 8))[0])),
    "no label ids": ("E-AUG-LABELS", "labels=range", lambda: made(labels=None)(*batch())),
    "label map of another grid": ("E-AUG-GRID", "(2, 1, 6, 14, 12)", lambda: made()(batch()[0], batch((6, 14, 11))[1])),
    "label map of another batch": ("E-AUG-GRID", "resample", lambda: made()(batch()[0], batch(count=1)[1])),
    "label map without channel": ("E-AUG-GRID", "at least one channel", lambda: made()(batch()[0], batch()[1][:, 0])),
    "probabilities": ("E-AUG-INPUT", "label maps", lambda: made()(batch()[0], batch()[0])),
    "complex labels": ("E-AUG-INPUT", "label", lambda: made()(batch()[0], batch()[1].cfloat())),
    "no channel": ("E-AUG-SHAPE", "(B, C, Z, Y, X)", lambda: made()(batch()[0][0, 0])),
    "empty": ("E-AUG-SHAPE", "no axis empty", lambda: made()(batch()[0][:, :, :0])),
    "four dimensions": ("E-AUG-SHAPE", "(B, C, Z, Y, X)", lambda: made()(batch()[0][None])),
    "complex": ("E-AUG-INPUT", "abs()", lambda: made()(batch()[0].cfloat())),
    "NaN": ("E-AUG-INPUT", "1 voxels that are NaN", lambda: made()(_spoilt(float("nan")))),
    "infinite": ("E-AUG-INPUT", "nan_to_num", lambda: made()(_spoilt(float("inf")))),
    "an array": ("E-AUG-INPUT", "ndarray", lambda: made()(batch()[0].numpy())),  # type: ignore[arg-type]
    "one case for two images": ("E-AUG-INPUT", "a list of 2", lambda: made()(batch()[0], cases=["a"])),
    "a text for cases": ("E-AUG-INPUT", "a list of 2", lambda: made()(batch()[0], cases="ab")),
    "sides without an axis": ("E-AUG-CONTEXT", "left_right_axis", lambda: made(sided_pairs=[(1, 2)])),
    "unknown preset": ("E-CONFIG-VALUE", "'shift'", lambda: made("shiftt")),
    "unknown key": ("E-CONFIG-KEY", "'gamma'", lambda: made({"transforms": [{"name": "gamma", "gama": 1}]})),
    "record before a batch": ("E-AUG-RECORD", "first", lambda: made().record),
    "another configuration": ("E-AUG-STATE", "same", lambda: made().load_state_dict(made("none").state_dict())),
    "half a state": ("E-AUG-STATE", "no config, draw", lambda: made().load_state_dict({"seed": 1, "epoch": 2})),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    code, said, call = BAD[name]
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
    assert said in str(caught.value)


def test_unchecked_nan_stays_in_its_sample() -> None:
    images = _spoilt(float("nan"))
    result, _ = made(check=False)(images, cases=CASES)
    assert result[1].isnan().all()
    assert torch.equal(result[0], made()(batch()[0], cases=CASES)[0][0])


def test_without_monai_the_line_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setattr(facade, "_single", facade._single.__wrapped__)
    facade._monai_dict.cache_clear()
    for call in (lambda: facade.SpineAugmentd, lambda: facade.RandSpineScharrBatchd):
        with pytest.raises(SetupError, match=r"; pip install 'nnunet-spine-ext\[monai\]' \[E-ENV-MONAI\]$"):
            call()
    facade._monai_dict.cache_clear()


def test_monai_is_imported_by_one_module_and_only_when_asked_for() -> None:
    names = {str(path): [name for _, name in imported_modules(path)] for path in python_files("nnunet_spine_ext")}
    importing = {path for path, imported in names.items() if any(n.partition(".")[0] == "monai" for n in imported)}
    assert importing == {"nnunet_spine_ext/augment/monai_dict.py"}
    code = "import sys, nnunet_spine_ext.augment.monai as m; dir(m); sys.exit('monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
