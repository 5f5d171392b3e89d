"""The warp: exact copies, one sampling against scipy, sides, borders, batches and replay."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_spine_ext.augment import batch, stage_warp
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.lattice import shortfall
from nnunet_spine_ext.augment.pipeline import Applied, Pipeline, Plan, assemble
from nnunet_spine_ext.augment.transform import build

Step = tuple[str, dict[str, Any]]

SHAPE, SOURCE, SPACING = (20, 28, 24), (25, 36, 31), (2.0, 0.8, 1.0)
EVERYTHING: list[dict[str, Any]] = [
    {"name": "flip", "p": 0.5},
    {"name": "rotate", "p": 0.5},
    {"name": "scale", "p": 0.5, "independent": 0.5},
    {"name": "shear", "p": 0.5},
    {"name": "translate", "p": 0.5},
    {"name": "rot90", "p": 0.3},
    {"name": "transpose", "p": 0.3},
    {"name": "elastic", "p": 0.5},
    {"name": "crop", "p": 0.5},
]


@pytest.fixture(params=["gather", "grid"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on the implementation for the CPU and on the one for accelerators."""
    if request.param == "grid":
        monkeypatch.setattr(batch, "PIECEWISE", ())
    return str(request.param)


def _context(**changes: Any) -> Context:
    return Context(**{"shape": SHAPE, "source_shape": SOURCE, "spacing": SPACING, **changes})


def _keys(count: int, epoch: int = 0) -> list[SampleKey]:
    return [SampleKey(1, f"case{i}", epoch, i) for i in range(count)]


def _warp(
    context: Context, steps: Sequence[Sequence[Step]], images: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    samples = tuple(tuple(Applied(name, params) for name, params in sample) for sample in steps)
    plan = assemble(context, tuple(_keys(len(samples))), samples)
    return Pipeline({"transforms": []}, context).apply(images, labels, plan)


def _images(context: Context, count: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, context.channels, *context.source), generator=generator) * 3 + 1


def _labels(context: Context, count: int = 1, seed: int = 0, dtype: torch.dtype = torch.int16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 10, (count, 1, *context.source), generator=generator).to(dtype)


def _crop(values: Tensor, context: Context) -> Tensor:
    start = [(a - b) // 2 for a, b in zip(context.source, context.shape, strict=True)]
    return values[(..., *[slice(s, s + n) for s, n in zip(start, context.shape, strict=True)])]


def _mm(context: Context, points: np.ndarray, grid: str) -> np.ndarray:
    """Return voxels (D, …) of the target or the source in mm about the common centre."""
    centre = (np.array(context.shape) - 1) / 2
    if grid == "source":
        centre = centre + (np.array(context.source) - np.array(context.shape)) // 2
    tail = [1] * (points.ndim - 1)
    return (points - centre.reshape(-1, *tail)) * np.array(context.spacing).reshape(-1, *tail)


def _reference(
    context: Context, to_source: Callable[[np.ndarray], np.ndarray], image: np.ndarray, order: int, outside: float
) -> np.ndarray:
    """Sample with scipy where `to_source` (points in mm, (N, D) -> (N, D)) says."""
    voxels = np.stack(np.meshgrid(*map(np.arange, context.shape), indexing="ij")).reshape(context.dim, -1)
    moved = to_source(_mm(context, voxels, "target").T).T
    zero = _mm(context, np.zeros((context.dim, 1)), "source")
    positions = (moved - zero) / np.array(context.spacing)[:, None]
    values = ndimage.map_coordinates(image, positions, order=order, mode="grid-constant", cval=outside)
    return values.reshape(context.shape)


# --- samples that are copied ----------------------------------------------------------------------------------------


def test_without_geometry_the_warp_has_no_program() -> None:
    context = _context(source_shape=SHAPE)
    plan = assemble(context, tuple(_keys(2)), ((), ()))
    assert "warp" not in plan.programs
    images = _images(context, 2)
    assert torch.equal(Pipeline({"transforms": []}, context).apply(images, None, plan)[0], images)


@pytest.mark.parametrize("source", [(20, 28, 24), (21, 30, 27), (30, 29, 24)])
def test_without_geometry_the_centre_is_cropped_bit_by_bit(source: tuple[int, ...], path: str) -> None:
    context = _context(source_shape=source, channels=2)
    images, labels = _images(context, 3), _labels(context, 3)
    moved, ids = _warp(context, [[], [], []], images, labels)
    assert torch.equal(moved, _crop(images, context))
    assert ids is not None
    assert torch.equal(ids, _crop(labels, context))
    assert ids.dtype == labels.dtype


@pytest.mark.parametrize("axes", [[0], [1], [2], [0, 1], [0, 2], [0, 1, 2], []])
def test_flips_are_exact(axes: list[int], path: str) -> None:
    context = _context()
    images, labels = _images(context), _labels(context)
    moved, ids = _warp(context, [[("flip", {"axes": axes})]], images, labels)
    dims = [axis + 2 for axis in axes]
    assert torch.equal(moved, _crop(images, context).flip(dims))
    assert ids is not None
    assert torch.equal(ids, _crop(labels, context).flip(dims))


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("plane", [[0, 1], [1, 2], [0, 2]])
def test_quarter_turns_are_exact(plane: list[int], turns: int) -> None:
    context = _context(shape=(16, 16, 16), spacing=(1.0, 1.05, 1.0))
    images, labels = _images(context), _labels(context)
    moved, ids = _warp(context, [[("rot90", {"plane": plane, "turns": turns})]], images, labels)
    dims = [axis + 2 for axis in plane]
    assert torch.equal(moved, torch.rot90(_crop(images, context), turns, dims))
    assert ids is not None
    assert torch.equal(ids, torch.rot90(_crop(labels, context), turns, dims))


@pytest.mark.parametrize("plane", [[0, 1], [1, 2], [0, 2]])
def test_transposition_is_exact(plane: list[int]) -> None:
    context = _context(shape=(16, 16, 16), spacing=(1.0, 1.0, 1.0))
    images = _images(context)
    moved, _ = _warp(context, [[("transpose", {"plane": plane})]], images)
    assert torch.equal(moved, _crop(images, context).transpose(plane[0] + 2, plane[1] + 2))


def test_a_chain_that_takes_voxels_to_voxels_is_exact() -> None:
    context = _context(shape=(16, 16, 16), source_shape=(25, 27, 24), spacing=(1.0, 1.0, 1.0))
    images = _images(context)
    steps: list[Step] = [
        ("flip", {"axes": [0]}),
        ("rot90", {"plane": [1, 2], "turns": 1}),
        ("rotate", {"degrees": [90.0, 0.0, 0.0]}),
        ("transpose", {"plane": [0, 2]}),
        ("translate", {"mm": [2.0, 0.0, -1.0]}),
    ]
    moved, _ = _warp(context, [steps], images)
    turned = _crop(images, context).flip(2)
    turned = torch.rot90(turned, 2, [3, 4]).transpose(2, 4)
    assert torch.equal(moved[:, :, 2:, :, :-1], turned[:, :, :-2, :, 1:])
    plan = assemble(context, tuple(_keys(1)), (tuple(Applied(*step) for step in steps),))
    assert not plan.programs["warp"].moved


# --- one sampling ---------------------------------------------------------------------------------------------------

CHAIN: list[Step] = [
    ("scale", {"factors": [1.2, 0.9, 1.05]}),
    ("rotate", {"degrees": [12.0, -20.0, 7.0]}),
    ("shear", {"tilts": [[0, 1, 6.0], [1, 2, -4.0]]}),
    ("translate", {"mm": [3.1, -2.2, 1.7]}),
    ("flip", {"axes": [1]}),
]


def _undo_chain(points: np.ndarray) -> np.ndarray:
    """Return where the content at `points` (mm) came from: the inverses of CHAIN, the last one first."""
    points = points * np.array([1, -1, 1])
    points = points - np.array([3.1, -2.2, 1.7])
    tilts = np.eye(3)
    tilts[0, 1], tilts[1, 2] = np.tan(np.radians(6)), np.tan(np.radians(-4))
    points = np.linalg.solve(tilts, points.T).T
    points = Rotation.from_euler("xyz", [12, -20, 7], degrees=True).inv().apply(points)
    return points / np.array([1.2, 0.9, 1.05])


def test_a_chain_agrees_with_scipy(path: str) -> None:
    context = _context()
    image, labels = _images(context), _labels(context)
    moved, ids = _warp(context, [CHAIN], image, labels)
    air = float(image.min())
    expected = _reference(context, _undo_chain, image[0, 0].double().numpy(), 1, air)
    assert np.abs(moved[0, 0].numpy() - expected).max() < 3e-4  # Of a range of 24; neighbours differ by up to 20.
    nearest = _reference(context, _undo_chain, labels[0, 0].numpy(), 0, -1)
    assert ids is not None
    assert (ids[0, 0].numpy() != nearest).mean() < 1e-3  # Ties between voxels only.


def test_smooth_content_agrees_with_scipy_to_1e_4(path: str) -> None:
    context = _context()
    image = torch.from_numpy(ndimage.gaussian_filter(_images(context).numpy(), (0, 0, 1.5, 1.5, 1.5)))
    moved, _ = _warp(context, [CHAIN], image)
    expected = _reference(context, _undo_chain, image[0, 0].double().numpy(), 1, float(image.min()))
    assert np.abs(moved[0, 0].numpy() - expected).max() < 1e-4


def test_order_of_the_steps_is_the_order_they_act_in(path: str) -> None:
    context = _context(shape=(1, 33, 33), source_shape=(1, 33, 33), spacing=(1.0, 1.0, 1.0))
    image = torch.zeros(1, 1, 1, 33, 33)
    image[0, 0, 0, 16, 16] = 1
    turn, shift = ("rotate", {"degrees": [90.0, 0.0, 0.0]}), ("translate", {"mm": [0.0, 8.0, 0.0]})
    turned_last, _ = _warp(context, [[shift, turn]], image)
    shifted_last, _ = _warp(context, [[turn, shift]], image)
    assert shifted_last[0, 0, 0].argmax() == 24 * 33 + 16
    assert turned_last[0, 0, 0].argmax() == 16 * 33 + 24


def test_two_dimensions_agree_with_scipy(path: str) -> None:
    context = Context(shape=(30, 41), source_shape=(38, 50), spacing=(1.5, 0.7), channels=2)
    images, labels = _images(context), _labels(context)
    steps: list[Step] = [("rotate", {"degrees": [25.0]}), ("scale", {"factors": [0.8, 1.3]})]
    moved, ids = _warp(context, [steps], images, labels)

    def undo(points: np.ndarray) -> np.ndarray:
        points = points / np.array([0.8, 1.3])
        c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
        return points @ np.array([[c, -s], [s, c]])

    for channel in range(2):
        image = images[0, channel]
        expected = _reference(context, undo, image.double().numpy(), 1, float(image.min()))
        assert np.abs(moved[0, channel].numpy() - expected).max() < 3e-4
    assert ids is not None
    assert (ids[0, 0].numpy() != _reference(context, undo, labels[0, 0].numpy(), 0, -1)).mean() < 2e-3


def test_two_deformations_add_up_without_folds() -> None:
    context = _context()
    elastic: list[Step] = [("elastic", {"std": 6.0, "spacing": 15.0, "still": [], "seed": seed}) for seed in (1, 2, 3)]
    builder = stage_warp.Builder(context, 1)
    for name, params in elastic:
        build(name).contribute(builder, 0, params, context)
    assert shortfall(builder._fields[0], context.shape, context.spacing) <= 0.951
    moved, _ = _warp(context, [elastic], _images(context))
    assert moved.isfinite().all()


def test_plans_can_be_sent_to_another_process() -> None:
    context = _context(shape=(20, 24, 24))
    pipeline = Pipeline({"transforms": EVERYTHING}, context)
    images = _images(context, 4)
    plan = pipeline.plan(_keys(4))
    sent = pickle.loads(pickle.dumps(plan))
    assert torch.equal(pipeline.apply(images, None, plan)[0], pipeline.apply(images, None, sent)[0])


def test_both_implementations_agree_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    context = _context(shape=(20, 24, 24), channels=2)
    pipeline = Pipeline({"transforms": EVERYTHING}, context)
    images, labels = _images(context, 4), _labels(context, 4)
    for epoch in range(10):
        monkeypatch.setattr(batch, "PIECEWISE", ("cpu",))
        first, first_ids = pipeline(images, labels, _keys(4, epoch))
        monkeypatch.setattr(batch, "PIECEWISE", ())
        second, second_ids = pipeline(images, labels, _keys(4, epoch))
        assert (first - second).abs().max() < 5e-4
        assert first_ids is not None
        assert second_ids is not None
        assert (first_ids != second_ids).float().mean() < 1e-3


def test_rotation_in_mm_preserves_distances_on_anisotropic_voxels(path: str) -> None:
    context = Context(shape=(24, 80, 60), spacing=(3.0, 0.8, 1.1))
    points = np.array([[-12.0, 9.0, -8.0], [10.0, -8.0, 9.0], [4.0, 10.0, 12.0]])
    grid = _mm(context, np.stack(np.meshgrid(*map(np.arange, context.shape), indexing="ij")).astype(float), "target")
    steps: list[Step] = [("rotate", {"degrees": [31.0, -24.0, 18.0]})]
    found = []
    for point in points:
        blob = np.exp(-((grid - point.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) / (2 * 4.5**2))
        moved, _ = _warp(context, [steps], torch.from_numpy(blob).float()[None, None])
        weight = moved[0, 0].double().numpy()
        found.append([(weight * g).sum() / weight.sum() for g in grid])
    turned = Rotation.from_euler("xyz", [31, -24, 18], degrees=True).apply(points)
    assert np.abs(np.array(found) - turned).max() < 0.05
    for a, b in ((0, 1), (0, 2), (1, 2)):
        before, after = np.linalg.norm(points[a] - points[b]), np.linalg.norm(np.subtract(found[a], found[b]))
        assert after == pytest.approx(before, abs=0.05)


def test_labels_and_image_stay_together_within_2_percent_of_a_voxel(path: str) -> None:
    context = Context(shape=(48, 56, 52), spacing=(1.0, 1.0, 1.0))
    grid = np.stack(np.meshgrid(*map(np.arange, context.shape), indexing="ij")).astype(float)
    transforms = [{"name": name, "p": 1.0} for name in ("rotate", "scale", "shear")]
    shift = {"name": "translate", "p": 1.0, "shift": [-2, 2]}
    pipeline = Pipeline({"transforms": [*transforms, shift]}, context)
    for epoch in range(6):
        centre = np.random.default_rng(epoch).uniform(22, 28, 3).reshape(3, 1, 1, 1)
        blob = np.exp(-((grid - centre) ** 2).sum(axis=0) / (2 * 4.0**2))
        image = torch.from_numpy(blob).float()[None, None]
        # Labels with the same shape: a thousand of them, one inside the other.
        labels = (image * 1000).round().to(torch.int16)
        moved, ids = pipeline(image, labels, _keys(1, epoch))
        assert ids is not None
        ids = ids.clamp(min=0)
        first, second = (
            np.array([(values * g).sum() / values.sum() for g in grid])
            for values in (moved[0, 0].double().numpy(), ids[0, 0].double().numpy())
        )
        assert np.abs(first - second).max() < 0.02


def test_a_motion_and_its_inverse_restore_a_smooth_image(path: str) -> None:
    context = Context(shape=(24, 40, 36), spacing=(2.0, 1.0, 1.0))
    noise = np.random.default_rng(0).standard_normal(context.shape)
    image = torch.from_numpy(ndimage.gaussian_filter(noise, (4, 6, 6)) * 50).float()[None, None]
    there: list[Step] = [("rotate", {"degrees": [15.0, 0.0, 0.0]}), ("translate", {"mm": [1.0, -2.0, 1.5]})]
    back: list[Step] = [("translate", {"mm": [-1.0, 2.0, -1.5]}), ("rotate", {"degrees": [-15.0, 0.0, 0.0]})]
    both, _ = _warp(context, [there + back], image)
    assert torch.equal(both, image)  # The matrices cancel: nothing is resampled.
    once, _ = _warp(context, [there], image)
    twice, _ = _warp(context, [back], once)
    inner = (0, 0, slice(5, -5), slice(9, -9), slice(9, -9))
    assert (twice[inner] - image[inner]).abs().max() < 0.05 * float(image.std())


# --- sides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.float32])
def test_sides_are_exchanged_with_the_left_right_axis_only(dtype: torch.dtype) -> None:
    context = _context(labels=range(10), sided_pairs=((4, 5), (6, 9)), left_right_axis=2)
    labels = _labels(context, 2, dtype=dtype)
    _, ids = _warp(context, [[("flip", {"axes": [2]})], [("flip", {"axes": [0, 1]})]], _images(context, 2), labels)
    assert ids is not None
    other = torch.tensor([0, 1, 2, 3, 5, 4, 9, 7, 8, 6])
    cropped = _crop(labels, context)
    assert torch.equal(ids[0].long(), other[cropped[0].long()].flip(3))
    assert torch.equal(ids[1].long(), cropped[1].long().flip(1, 2))
    assert ids.dtype == (torch.int16 if dtype == torch.uint8 else dtype)


def test_sides_follow_the_net_effect(path: str) -> None:
    context = _context(source_shape=SHAPE, labels=(4, 5), sided_pairs=((4, 5),), left_right_axis=2)
    labels = torch.full((6, 1, *SHAPE), 4)
    flip, turn = ("flip", {"axes": [2]}), ("rotate", {"degrees": [0.0, 180.0, 0.0]})
    tilt = ("rotate", {"degrees": [0.0, 20.0, 10.0]})
    steps: list[list[Step]] = [[flip], [flip, flip], [turn], [flip, turn], [tilt], [tilt, flip]]
    _, ids = _warp(context, steps, torch.zeros(6, 1, *SHAPE), labels)
    assert ids is not None
    middle = ids[:, 0, SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2] // 2]
    assert middle.tolist() == [5, 4, 5, 4, 4, 5]


def test_labels_beyond_the_pairs_and_the_outside_stay(path: str) -> None:
    context = _context(source_shape=SHAPE, labels=(4, 5), sided_pairs=((4, 5),), left_right_axis=2)
    labels = torch.full((1, 2, *SHAPE), 300)
    labels[:, 1] = -1
    _, ids = _warp(context, [[("flip", {"axes": [2]})]], torch.zeros(1, 1, *SHAPE), labels)
    assert ids is not None
    assert (ids[:, 0] == 300).all()
    assert (ids[:, 1] == -1).all()


# --- borders --------------------------------------------------------------------------------------------------------


def test_outside_is_the_lowest_value_of_each_channel_and_minus_one(path: str) -> None:
    context = _context(source_shape=SHAPE, channels=2)
    images = _images(context, 2)
    images[:, 1] += 100
    away: list[Step] = [("translate", {"mm": [500.0, -700.0, 0.3]})]
    half: list[Step] = [("translate", {"mm": [0.0, 0.8 * SHAPE[1] / 2 + 0.1, 0.0]})]
    moved, ids = _warp(context, [away, half], images, _labels(context, 2))
    lowest = images.flatten(2).amin(dim=2)
    assert torch.allclose(moved[0], lowest[0].view(2, 1, 1, 1).expand_as(moved[0]), atol=1e-5)
    assert torch.allclose(moved[1, :, :, :13], lowest[1].view(2, 1, 1, 1), atol=1e-5)
    assert not torch.allclose(moved[1, :, :, 15:], lowest[1].view(2, 1, 1, 1), atol=1.0)
    assert ids is not None
    assert (ids[0] == -1).all()
    assert (ids[1, :, :, :14] == -1).all()
    assert (ids[1, :, :, 15:] >= 0).all()


def test_values_stay_within_those_of_the_source_and_labels_are_known(path: str) -> None:
    context = _context(shape=(20, 24, 24), channels=2)
    transforms = [*EVERYTHING, {"name": "scale", "factor": [0.1, 10], "independent": 1.0, "p": 0.3}]
    transforms += [{"name": "elastic", "std": [0, 100], "spacing": [2, 100], "p": 0.3}]
    transforms += [{"name": "translate", "shift": [-1000, 1000], "p": 0.1}]
    pipeline = Pipeline({"transforms": transforms}, context)
    scale = torch.tensor([1e-3, 1.0, 1e4, 0.0]).view(4, 1, 1, 1, 1)
    images, labels = _images(context, 4) * scale, _labels(context, 4)
    low, high = images.flatten(2).amin(dim=2), images.flatten(2).amax(dim=2)
    room = (high - low) * 1e-4
    for epoch in range(15):
        moved, ids = pipeline(images, labels, _keys(4, epoch))
        flat = moved.flatten(2)
        assert (flat.amin(dim=2) >= low - room).all()
        assert (flat.amax(dim=2) <= high + room).all()
        assert ids is not None
        assert ids.min() >= -1
        assert ids.max() <= 9


def test_a_source_that_is_seen_whole_from_inside_needs_no_air() -> None:
    context = _context(source_shape=(40, 60, 50))
    plan = assemble(context, tuple(_keys(1)), ((Applied("rotate", {"degrees": [5.0, 5.0, 5.0]}),),))
    (moved,) = plan.programs["warp"].moved
    assert moved.inside
    footprint = moved.footprints[0]
    read = np.prod(np.subtract(footprint.high, footprint.low))
    assert read < 0.4 * np.prod(context.source)


# --- single slices, channels, gradients ------------------------------------------------------------------------------


def test_single_slices_move_in_their_plane(path: str) -> None:
    context = Context(shape=(1, 24, 24), source_shape=(1, 30, 30), spacing=(3.0, 1.0, 1.0))
    flat = Context(shape=(24, 24), source_shape=(30, 30), spacing=(1.0, 1.0))
    images, labels = _images(context), _labels(context)
    moved, ids = _warp(context, [[("rotate", {"degrees": [20.0, 0.0, 0.0]})]], images, labels)
    plane, plane_ids = _warp(flat, [[("rotate", {"degrees": [20.0]})]], images[:, :, 0], labels[:, :, 0])
    assert ids is not None
    assert plane_ids is not None
    assert torch.allclose(moved[:, :, 0], plane, atol=2e-4)
    assert (ids[:, :, 0] != plane_ids).float().mean() < 5e-3


def test_an_axis_that_stands_still_is_not_interpolated(path: str) -> None:
    context = _context()
    images = _images(context)
    steps: list[Step] = [("rotate", {"degrees": [20.0, 0.0, 0.0]}), ("flip", {"axes": [0]})]
    before, _ = _warp(context, [steps], images)
    changed = images.clone()
    changed[:, :, 9] += 5  # The crop starts at 2, so this is slice 7 of the target, and mirrored 12.
    after, _ = _warp(context, [steps], changed)
    touched = (before != after).flatten(3).any(dim=3)[0, 0]
    if path == "gather":
        assert touched.nonzero().flatten().tolist() == [12]
    assert (before - after).abs().flatten(3).amax(dim=3)[0, 0, 12] > 4
    others = torch.cat([(before - after)[:, :, :12], (before - after)[:, :, 13:]], dim=2)
    assert others.abs().max() < 1e-3


def test_gradients_flow_and_the_input_is_left_alone() -> None:
    context = _context()
    images, labels = _images(context, 2), _labels(context, 2)
    kept, kept_labels = images.clone(), labels.clone()
    steps = [CHAIN, [("crop", {"low": [0, 3, 0], "high": [20, 20, 24]})]]
    _warp(context, steps, images, labels)
    assert torch.equal(images, kept)
    assert torch.equal(labels, kept_labels)
    images.requires_grad_(True)
    moved, _ = _warp(context, steps, images, labels)
    moved.square().sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1) != 0).any(dim=1).all()


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_equals_its_samples_and_neighbours_do_not_matter(path: str) -> None:
    context = _context(shape=(20, 24, 24), sided_pairs=((4, 5),), left_right_axis=2, labels=range(10))
    pipeline = Pipeline({"transforms": EVERYTHING}, context)
    images, labels = _images(context, 5), _labels(context, 5)
    for epoch in range(8):
        keys = _keys(5, epoch)
        together, ids = pipeline(images, labels, keys)
        assert ids is not None
        for i in range(5):
            alone, own = pipeline(images[i : i + 1], labels[i : i + 1], keys[i : i + 1])
            assert own is not None
            assert torch.equal(alone[0], together[i])
            assert torch.equal(own[0], ids[i])


def test_a_record_replays_bit_by_bit(path: str) -> None:
    context = _context(shape=(20, 24, 24))
    pipeline = Pipeline({"transforms": EVERYTHING}, context)
    images, labels = _images(context, 4), _labels(context, 4)
    for epoch in range(5):
        plan = pipeline.plan(_keys(4, epoch))
        again = Plan.from_record(json.loads(json.dumps(plan.record)))
        first, ids = pipeline.apply(images, labels, plan)
        second, other = pipeline.apply(images, labels, again)
        assert torch.equal(first, second)
        assert ids is not None
        assert other is not None
        assert torch.equal(ids, other)


class _NoReading(TorchDispatchMode):
    """Refuses whatever makes the host wait for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert "_local_scalar_dense" not in name, name
        assert "nonzero" not in name, name
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_from_the_device(path: str) -> None:
    context = _context(shape=(20, 24, 24), sided_pairs=((4, 5),), left_right_axis=2)
    pipeline = Pipeline({"transforms": [{**t, "p": 1.0} for t in EVERYTHING]}, context)
    images, labels = _images(context, 3), _labels(context, 3)
    plan = pipeline.plan(_keys(3))
    with _NoReading():
        pipeline.apply(images, labels, plan)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
