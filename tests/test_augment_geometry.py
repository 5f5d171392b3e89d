"""The transforms of the warp: what they draw, their axes, planes, units and limits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import locked_axes, rotation, square_planes
from nnunet_spine_ext.augment.keys import SampleKey, generator
from nnunet_spine_ext.augment.pipeline import Applied, Pipeline, assemble
from nnunet_spine_ext.augment.transform import Params, build, registry
from nnunet_spine_ext.core.errors import UsageError

NAMES = ("crop", "elastic", "flip", "rot90", "rotate", "scale", "shear", "translate", "transpose")
CUBE = Context(shape=(32, 32, 32), spacing=(1.0, 1.0, 1.0))
SLABS = Context(shape=(16, 64, 64), spacing=(4.0, 0.7, 0.7))
PLANE = Context(shape=(40, 48), spacing=(1.0, 0.5))


def _draws(name: str, context: Context, count: int = 200, **settings: Any) -> list[Params]:
    transform = build(name, {"p": 1.0, **settings})
    return [transform.sample(generator(SampleKey(0, "case", 0, i), name), context) for i in range(count)]


def _run(name: str, context: Context, images: Tensor, epoch: int = 0, **settings: Any) -> tuple[Tensor, Tensor]:
    pipeline = Pipeline({"transforms": [{"name": name, "p": 1.0, **settings}]}, context)
    keys = [SampleKey(0, "case", epoch, i) for i in range(len(images))]
    moved, ids = pipeline(images, torch.zeros(images.shape, dtype=torch.int16)[:, :1], keys)
    assert ids is not None
    return moved, ids


def test_all_transforms_of_the_warp_are_registered() -> None:
    assert tuple(name for name, cls in registry().items() if cls.stage == "warp") == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("context", [CUBE, SLABS, PLANE], ids=["cube", "slabs", "plane"])
def test_every_transform_draws_plain_parameters_and_keeps_the_grid(name: str, context: Context) -> None:
    for params in _draws(name, context, 20):
        assert json.loads(json.dumps(params)) == params
    images = torch.randn(2, 1, *context.source)
    moved, ids = _run(name, context, images)
    assert moved.shape == images.shape
    assert moved.isfinite().all()
    assert ids.unique().tolist() in ([0], [-1, 0])


@pytest.mark.parametrize("name", ["crop", "elastic", "rotate", "scale", "shear", "translate"])
def test_without_strength_nothing_moves(name: str) -> None:
    context = CUBE.at_strength(0.0)
    transform = build(name, {"p": 1.0})
    images = torch.randn(1, 1, *CUBE.source)
    params = transform.sample(generator(SampleKey(0, "case", 0, 0), name), context)
    plan = assemble(CUBE, (SampleKey(0, "case", 0, 0),), ((Applied(name, params),),))
    moved, _ = Pipeline({"transforms": []}, CUBE).apply(images, None, plan)
    assert torch.equal(moved, images)


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_refused(name: str) -> None:
    for settings in ({"channels": [0]}, {"per_channel": True}):
        with pytest.raises(UsageError, match="all channels alike"):
            build(name, settings)


@pytest.mark.parametrize("name", NAMES)
def test_an_axis_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="axes"):
        _draws(name, PLANE, 1, axes=[2])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rotate", {"degrees": [-200, 0]}),
        ("scale", {"factor": 0}),
        ("shear", {"degrees": 80}),
        ("elastic", {"std": -1}),
        ("elastic", {"spacing": 0}),
        ("crop", {"cut": [-0.1, 0.5]}),
        ("flip", {"axis_p": 1.5}),
        ("translate", {"shift": float("nan")}),
        ("translate", {"unit": "inch"}),
        ("rotate", {"in_plane": "sometimes"}),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build(name, settings)


# --- flip -----------------------------------------------------------------------------------------------------------


def test_each_axis_is_flipped_half_of_the_time() -> None:
    draws = _draws("flip", CUBE, 600)
    for axis in range(3):
        assert np.mean([axis in d["axes"] for d in draws]) == pytest.approx(0.5, abs=0.07)
    assert {tuple(d["axes"]) for d in draws} == {(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}


def test_flips_stay_on_the_axes_asked_for() -> None:
    assert {tuple(d["axes"]) for d in _draws("flip", CUBE, 50, axes=[2], axis_p=1.0)} == {(2,)}


# --- rotation, scale, shear, shift ----------------------------------------------------------------------------------


def test_rotation_is_a_rotation_with_its_angles() -> None:
    matrix = rotation([20.0, -35.0, 50.0])[:3, :3]
    assert np.allclose(matrix @ matrix.T, np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert np.allclose(rotation([90.0, 0.0, 0.0])[:3, :3] @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(rotation([90.0])[:2, :2] @ [1, 0], [0, 1])


def test_angles_span_their_range() -> None:
    angles = np.array([d["degrees"] for d in _draws("rotate", CUBE, 400, degrees=[-15, 30])])
    assert angles.shape == (400, 3)
    assert angles.min() >= -15
    assert angles.max() <= 30
    assert np.abs(angles.mean(axis=0) - 7.5).max() < 3


def test_scaling_is_common_to_all_axes_unless_independent() -> None:
    common = np.array([d["factors"] for d in _draws("scale", CUBE, 1000)])
    assert (np.ptp(common, axis=1) == 0).all()
    apart = np.array([d["factors"] for d in _draws("scale", CUBE, 100, independent=1.0)])
    assert (np.ptp(apart, axis=1) > 0).all()
    assert np.log(common[:, 0]).mean() == pytest.approx(np.log(0.7 * 1.4) / 2, abs=0.025)


def test_a_factor_of_two_shows_everything_twice_as_large() -> None:
    images = torch.zeros(1, 1, 32, 32, 32)
    images[..., 12:20, 12:20, 12:20] = 1
    moved, _ = _run("scale", CUBE, images, factor=2.0)
    assert float(moved.sum()) == pytest.approx(16**3, rel=0.02)


def test_shear_preserves_volume() -> None:
    for params in _draws("shear", CUBE, 10, degrees=[-40, 40]):
        linear = np.eye(3)
        for moved, other, angle in params["tilts"]:
            linear[moved, other] = np.tan(np.radians(angle))
        assert np.linalg.det(linear) == pytest.approx(1)


def test_shifts_are_in_mm_or_fractions_of_the_patch() -> None:
    assert _draws("translate", SLABS, 1, shift=4.0, in_plane="never")[0]["mm"] == [4.0, 4.0, 4.0]
    fraction = _draws("translate", SLABS, 1, shift=0.25, unit="fraction", in_plane="never")[0]["mm"]
    assert fraction == pytest.approx([16 * 4 / 4, 64 * 0.7 / 4, 64 * 0.7 / 4])
    images = torch.zeros(1, 1, 32, 32, 32)
    images[..., 16, 16, 16] = 1
    moved, _ = _run("translate", CUBE, images, shift=3.0)
    assert int(moved.argmax()) == (19 * 32 + 19) * 32 + 19


# --- dummy 2-D ------------------------------------------------------------------------------------------------------


def test_which_axes_are_left_alone() -> None:
    def locked(shape: tuple[int, ...], spacing: tuple[float, ...], mode: str = "auto") -> tuple[int, ...]:
        return locked_axes(Context(shape=shape, spacing=spacing), mode)

    assert locked((64, 128, 128), (1.0, 1.0, 1.0)) == ()
    assert locked((64, 128, 128), (3.3, 1.0, 1.0)) == (0,)
    assert locked((128, 128, 64), (1.0, 1.0, 3.3)) == (2,)
    assert locked((20, 320, 256), (2.0, 1.0, 1.0)) == (0,)
    assert locked((20, 320, 256), (4.0, 1.0, 1.0), "never") == ()
    assert locked((128, 128, 128), (1.0, 1.2, 1.0), "always") == (1,)
    assert locked((1, 64, 64), (1.0, 1.0, 1.0), "never") == (0,)
    assert locked((64, 64), (3.9, 1.0)) == ()


@pytest.mark.parametrize("name", ["rotate", "scale", "shear", "translate", "elastic"])
def test_thick_slices_do_not_mix(name: str) -> None:
    images = torch.randn(2, 1, *SLABS.source)
    images[:, :, 0, 0, 0] = -20  # The level of air is that of another slice.
    changed = images.clone()
    changed[:, :, 5] += 3
    for epoch in range(3):
        before, _ = _run(name, SLABS, images, epoch)
        after, _ = _run(name, SLABS, changed, epoch)
        touched = (before != after).flatten(3).any(dim=3)[:, 0]
        assert touched.nonzero()[:, 1].unique().tolist() == [5]
        mixed, _ = _run(name, SLABS, images, epoch, in_plane="never")
        assert not torch.allclose(mixed, before)


# --- elastic --------------------------------------------------------------------------------------------------------


def test_elastic_moves_about_as_far_as_asked_for() -> None:
    context = Context(shape=(40, 48, 44), spacing=(1.0, 1.0, 1.0))
    position = torch.arange(48.0).view(1, 1, 1, 48, 1).expand(20, 1, 40, 48, 44).contiguous()
    moved, _ = _run("elastic", context, position, std=1.5, spacing=25.0)
    inner = (moved - position)[:, :, 8:-8, 8:-8, 8:-8]
    assert float(inner.std()) == pytest.approx(1.5, rel=0.2)


# --- crop -----------------------------------------------------------------------------------------------------------


def test_a_crop_leaves_the_inside_and_clears_the_outside() -> None:
    images = torch.randn(8, 2, *CUBE.source) + torch.tensor([5.0, -5.0]).view(1, 2, 1, 1, 1)
    context = Context(shape=CUBE.shape, spacing=CUBE.spacing, channels=2)
    moved, ids = _run("crop", context, images, cut=[0.2, 0.6])
    lowest = images.flatten(2).amin(dim=2).view(8, 2, 1, 1, 1)
    kept = (ids == 0).expand_as(moved)
    assert torch.equal(moved[kept], images[kept])
    assert torch.equal(moved[~kept], lowest.expand_as(moved)[~kept])
    assert 0.02 < float(kept.float().mean()) < 0.5
    boxes = [int((ids[i] == 0).sum()) for i in range(8)]
    assert len(set(boxes)) == 8


def test_crops_in_mm_and_fractions_and_at_least_one_voxel() -> None:
    for params in _draws("crop", SLABS, 50, cut=14.0, unit="mm"):
        removed = np.array(SLABS.shape) - (np.array(params["high"]) - np.array(params["low"]))
        assert removed.tolist() == [4, 20, 20]
    assert {tuple(d["low"]) for d in _draws("crop", SLABS, 50, cut=14.0, unit="mm", axes=[0])} >= {(0, 0, 0), (4, 0, 0)}
    for params in _draws("crop", SLABS, 20, cut=3.0):
        assert (np.array(params["high"]) - np.array(params["low"])).tolist() == [1, 1, 1]
        assert min(params["low"]) >= 0


# --- quarter turns --------------------------------------------------------------------------------------------------


def test_planes_need_equal_sizes_and_no_sides() -> None:
    cube, square = Context(shape=(8, 8, 8), spacing=(1.0, 1.0, 1.0)), Context(shape=(4, 8, 8), spacing=(1.0, 1.0, 1.05))
    assert square_planes(cube, (0, 1, 2)) == [(0, 1), (0, 2), (1, 2)]
    assert square_planes(cube, (0, 2)) == [(0, 2)]
    assert square_planes(square, (0, 1, 2)) == [(1, 2)]
    assert square_planes(Context(shape=(8, 8, 8), spacing=(1.0, 2.0, 3.0)), (0, 1, 2)) == []
    sided = Context(shape=(8, 8, 8), spacing=(1.0,) * 3, labels=(1, 2), sided_pairs=((1, 2),), left_right_axis=2)
    assert square_planes(sided, (0, 1, 2)) == [(0, 1)]


@pytest.mark.parametrize("name", ["rot90", "transpose"])
def test_without_a_plane_nothing_happens(name: str) -> None:
    context = Context(shape=(8, 10, 12), spacing=(1.0, 1.0, 1.0))
    images = torch.randn(3, 1, *context.source)
    assert torch.equal(_run(name, context, images)[0], images)


def test_quarter_turns_and_rotations_turn_the_same_way() -> None:
    images = torch.randn(1, 1, *CUBE.source)
    context = Context(shape=CUBE.shape, spacing=CUBE.spacing)
    results = []
    for name, params in (
        ("rot90", {"plane": [1, 2], "turns": 1}),
        ("rotate", {"degrees": [90.0, 0.0, 0.0]}),
    ):
        plan = assemble(context, (SampleKey(0, "a", 0, 0),), ((Applied(name, params),),))
        results.append(Pipeline({"transforms": []}, context).apply(images, None, plan)[0])
    assert torch.equal(*results)
