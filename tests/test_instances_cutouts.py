"""Cutouts: the network's grid and the way back, windows, encodings, running a network on them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from spine_builder import Spine, build
from torch import nn

from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import cutout_inference
from nnunet_spine_ext.instances.cutout_inference import InferenceOptions, NetworkPredictor
from nnunet_spine_ext.instances.cutouts import (
    Cutout,
    CutoutSpec,
    ModelGrid,
    body_seeds,
    make_cutouts,
    make_grid,
    read_cutout,
    vertebra_voxels,
)
from nnunet_spine_ext.instances.encoding import channels, check_encoding, encode
from nnunet_spine_ext.instances.frame import Frame, make_frame
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import read_voxels

SPEC = CutoutSpec(size=(96, 112, 32), spacing=(1.9, 2.0, 3.3))


def a_frame(labels: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Frame:
    box = (slice(0, labels.shape[0]), slice(0, labels.shape[1]), slice(0, labels.shape[2]))
    return Frame(labels, spacing, box, labels.shape)  # type: ignore[arg-type]


def random_labels(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 15, shape).astype(np.uint8)


def back(grid: ModelGrid, array: np.ndarray, frame: Frame) -> np.ndarray:
    """Bring an array of the grid onto the frame, voxel by voxel."""
    voxels = np.argwhere(np.ones(frame.labels.shape, dtype=bool))
    return array[tuple(grid.index(voxels).T)].reshape(frame.labels.shape)


def test_a_grid_of_the_same_voxels_is_the_frame_turned_to_pir() -> None:
    frame = a_frame(random_labels((5, 6, 7)), (3.3, 1.9, 2.0))
    grid = make_grid(frame, SPEC)
    assert grid.labels.shape == (6, 7, 5)
    for x, y, z in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        # P runs against y, I against z, R along x.
        assert grid.labels[5 - y, 6 - z, x] == frame.labels[x, y, z]
        np.testing.assert_array_equal(grid.index(np.array([[x, y, z]])), [[5 - y, 6 - z, x]])
    np.testing.assert_array_equal(back(grid, grid.labels, frame), frame.labels)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.1, 0.66, 0.95), (3.3, 1.9, 1.0)])
def test_finer_voxels_come_back_exactly(spacing: tuple[float, float, float]) -> None:
    frame = a_frame(random_labels((9, 11, 13)), (3.3, 1.9, 2.0))
    grid = make_grid(frame, CutoutSpec(SPEC.size, (spacing[1], spacing[2], spacing[0])))
    np.testing.assert_array_equal(back(grid, grid.from_frame(frame.labels), frame), frame.labels)


def test_coarser_voxels_are_off_by_half_a_voxel_at_most() -> None:
    frame = a_frame(np.zeros((40, 30, 20), dtype=np.uint8), (1.0, 1.0, 1.0))
    for axis in range(3):
        ramp = np.indices(frame.labels.shape)[axis]
        grid = make_grid(frame, SPEC)
        assert np.abs(back(grid, grid.from_frame(ramp.astype(np.int16)), frame) - ramp).max() <= 2


def test_the_grid_is_the_same_in_any_orientation() -> None:
    semantic, _ = build(Spine(spacing=(3.0, 2.0, 2.0)))
    expected = None
    for orientation in ("RAS", "PIR", "LPS", "SAL"):
        turned = semantic.to(orientation)
        frame = make_frame(Volume(turned.array, turned.affine), "nnunet14")
        assert frame is not None
        grid = make_grid(frame, SPEC)
        expected = grid.labels if expected is None else expected
        np.testing.assert_array_equal(grid.labels, expected)


def test_a_spine_of_impossible_size_is_refused() -> None:
    frame = a_frame(np.full((40, 40, 40), 10, dtype=np.uint8), (60.0, 60.0, 60.0))
    with pytest.raises(CaseError, match="E-INST-GRID") as caught:
        make_grid(frame, CutoutSpec())
    assert "240x240x240 cm" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"size": (100, 96, 64)}, {"size": (0, 96, 64)}, {"spacing": (0.75, 0.75, 0.0)}, {"spacing": (0.75, 0.75, 75.0)}],
)
def test_cutouts_that_no_network_can_take_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-INST-SPEC"):
        CutoutSpec(**wrong)


def test_windows_are_centred_and_padded_with_background() -> None:
    grid = make_grid(a_frame(random_labels((20, 30, 40)), (3.3, 1.9, 2.0)), SPEC)
    labels = grid.labels
    spec = CutoutSpec(size=(16, 24, 8), spacing=SPEC.spacing)
    seeds = [tuple(int(n) for n in place) for place in np.argwhere(vertebra_voxels(labels))[[0, 5000, -1]]]
    wide = np.pad(labels, 40)
    for cutout, seed in zip(make_cutouts(grid, seeds, spec), seeds, strict=True):  # type: ignore[arg-type]
        first = [c + 40 - n // 2 for c, n in zip(seed, spec.size, strict=True)]
        expected = wide[tuple(slice(a, a + n) for a, n in zip(first, spec.size, strict=True))]
        np.testing.assert_array_equal(read_cutout(grid, cutout), expected)
        inside = cutout.inside(grid)
        local = tuple(slice(b.start - s, b.stop - s) for b, s in zip(inside, cutout.start, strict=True))
        np.testing.assert_array_equal(read_cutout(grid, cutout)[local], labels[inside])
    assert not read_cutout(grid, Cutout(0, (500, 0, 0), (8, 8, 8))).any()


def test_a_seed_on_background_moves_towards_the_feet_in_steps_of_five() -> None:
    labels = np.zeros((8, 40, 8), dtype=np.uint8)
    labels[4, 25:, 4] = 10
    labels[4, 14, 4] = 14
    steps = tuple(np.arange(n) for n in labels.shape)
    grid = ModelGrid(labels, (1.0, 1.0, 1.0), steps, steps)  # type: ignore[arg-type]
    spec = CutoutSpec(size=(8, 8, 8))
    # From 4: 9 and 14 (a disc) are no vertebra, 19 and 24 are background, 29 is a body.
    assert make_cutouts(grid, [(4, 4, 4)], spec)[0].start == (0, 25, 0)
    assert make_cutouts(grid, [(4, 30, 4)], spec)[0].start == (0, 26, 0)
    # Nothing below: it stays.
    assert make_cutouts(grid, [(1, 4, 1)], spec, first=7)[0] == Cutout(7, (-3, 0, -3), (8, 8, 8))


def test_seeds_are_the_middles_of_bodies() -> None:
    frame = a_frame(random_labels((20, 20, 40)))
    bodies = np.zeros(frame.labels.shape, dtype=np.int16)
    bodies[5:10, 6:12, 30:36] = 1
    bodies[5:10, 6:12, 10:16] = 3
    frame = replace(frame, labels=np.where(bodies > 0, 10, frame.labels).astype(np.uint8))
    grid = make_grid(frame, CutoutSpec(spacing=(1.0, 1.0, 1.0)))
    voxels = read_voxels(frame)
    places = Bodies(bodies.reshape(-1)[voxels.flat], np.array([0.0, 10.0, 20.0]), np.full(3, 10.0))
    assert body_seeds(grid, voxels, places) == [(10, 6, 7), (10, 26, 7)]


def test_encodings_are_those_of_spineps() -> None:
    labels = random_labels((8, 8, 8))
    # 41..49 are 1..9 there, and nnunet14 has the same classes from 2 on.
    classes = torch.from_numpy(np.where(vertebra_voxels(labels), labels.astype(np.int64) - 1, 0))
    for name, count in (("onehot", 11), ("onehot10", 10)):
        expected = nn.functional.one_hot(classes, count).permute(3, 0, 1, 2).float().numpy()
        np.testing.assert_array_equal(encode(labels, name), expected)
    np.testing.assert_array_equal(encode(labels, "scalar"), (classes.float() / 9).numpy()[None])
    body = encode(labels, "body")
    np.testing.assert_array_equal(body[1], vertebra_voxels(labels))
    np.testing.assert_array_equal(body[2], labels == 14)
    np.testing.assert_array_equal(body[3], (labels == 11) | (labels == 12))
    np.testing.assert_array_equal(body.sum(axis=0), 1)
    for name in ("onehot", "onehot10", "scalar", "body"):
        assert encode(labels, name).shape == (channels(name), 8, 8, 8)
        assert encode(labels, name).dtype == np.float32


def test_unknown_encodings_and_masks_that_cannot_give_them_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'onehot'"):
        encode(random_labels((2, 2, 2)), "onehott")
    for scheme, name in itertools.product(("spider", "verse", "totalsegmentator_mr"), ("onehot", "onehot10", "scalar")):
        with pytest.raises(UsageError, match="model for another encoding"):
            check_encoding(name, scheme)
        check_encoding("body", scheme)
        check_encoding(name, "nnunet14")
        check_encoding(name, "spineps")


class Local(nn.Module):
    """A network that looks at single voxels: corpus is the centre, arcus above, everything else below."""

    def __init__(self, limit: int = 99) -> None:
        super().__init__()
        self.limit, self.seen = limit, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape))
        if len(x) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return torch.stack([x[:, 0], x[:, 1], x[:, 9], 0.5 * x[:, 2:9].sum(dim=1)], dim=1)


def a_grid(shape: tuple[int, int, int] = (40, 90, 20)) -> ModelGrid:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[10:31, 20:71, 5:16] = random_labels((21, 51, 11))
    steps = tuple(np.arange(n) for n in shape)
    return ModelGrid(labels, (1.0, 1.0, 1.0), steps, steps)  # type: ignore[arg-type]


def three(spec: CutoutSpec, grid: ModelGrid) -> list[Cutout]:
    return make_cutouts(grid, [(15, 25, 8), (20, 45, 10), (28, 66, 12)], spec)


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("batch", [None, 1, 2, 8])
def test_answers_lie_where_the_cutouts_are_and_only_on_vertebrae(mode: Any, batch: int | None) -> None:
    grid, spec = a_grid(), CutoutSpec(size=(24, 48, 16))
    predictor = NetworkPredictor(spec, [Local()], InferenceOptions("cpu", mode, batch, soft=True))
    for cutout, answer in zip(three(spec, grid), predictor.predict(grid, three(spec, grid)), strict=True):
        whole = np.zeros(grid.labels.shape, dtype=np.uint8)
        whole[answer.box] = answer.labels
        expected = np.zeros_like(whole)
        labels = grid.labels[cutout.inside(grid)]
        other = (labels >= 3) & (labels <= 9)
        expected[cutout.inside(grid)] = np.select([labels == 2, labels == 10, other], [1, 2, 3], 0)
        np.testing.assert_array_equal(whole, expected)
        assert answer.probabilities is not None
        np.testing.assert_allclose(answer.probabilities.sum(axis=0, dtype=np.float32), 1.0, atol=2e-3)


def test_the_fast_mode_gives_the_network_less() -> None:
    grid, spec = a_grid(), CutoutSpec(size=(40, 88, 24))
    networks = {mode: Local() for mode in ("exact", "fast")}
    for mode, network in networks.items():
        NetworkPredictor(spec, [network], InferenceOptions("cpu", mode, 1)).predict(grid, three(spec, grid))  # type: ignore[arg-type]
    assert set(networks["exact"].seen) == {(1, 11, 40, 88, 24)}
    # At full height and around the same middle: (15, 20, 28) and (8, 10, 12), vertebrae at 10..30 and 5..15.
    assert networks["fast"].seen == [(1, 11, 32, 88, 16), (1, 11, 24, 88, 16), (1, 11, 40, 88, 16)]


def test_a_cutout_without_any_vertebra_has_no_answer() -> None:
    grid, spec = a_grid(), CutoutSpec(size=(8, 8, 8))
    nowhere = Cutout(0, (0, 0, 0), spec.size)
    for mode in ("exact", "fast"):
        options = InferenceOptions("cpu", mode)  # type: ignore[arg-type]
        assert not NetworkPredictor(spec, [Local()], options).predict(grid, [nowhere])[0].labels.any()


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    grid, spec = a_grid(), CutoutSpec(size=(24, 48, 16))
    network = Local(limit=2)
    cutouts = three(spec, grid) * 3
    found = NetworkPredictor(spec, [network], InferenceOptions("cpu", batch=8)).predict(grid, cutouts)
    assert [shape[0] for shape in network.seen] == [8, 4, 2, 2, 2, 2, 1]
    single = NetworkPredictor(spec, [Local()], InferenceOptions("cpu")).predict(grid, cutouts)
    for one, other in zip(found, single, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_no_memory_for_one_cutout_says_what_to_do() -> None:
    grid, spec = a_grid(), CutoutSpec(size=(24, 48, 16))
    predictor = NetworkPredictor(spec, [Local(limit=0)], InferenceOptions("cpu"))
    with pytest.raises(SetupError, match="E-ENV-MEMORY") as caught:
        predictor.predict(grid, three(spec, grid))
    assert "fast mode" in caught.value.fix


def test_a_gpu_without_memory_hands_over_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, spec = a_grid(), CutoutSpec(size=(24, 48, 16))
    # The meta device stands for a GPU: it is there, and everything on it fails.
    monkeypatch.setattr(cutout_inference, "choose_device", lambda name: torch.device("meta"))
    predictor = NetworkPredictor(spec, [Local()], InferenceOptions("cuda", batch=1))
    monkeypatch.setattr(Local, "forward", failing_on_meta(Local.forward))
    assert predictor.device.type == "meta"
    assert predictor.predict(grid, three(spec, grid))[0].labels.any()
    assert predictor.device.type == "cpu"


def failing_on_meta(forward: Any) -> Any:
    def replaced(self: Local, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "meta":
            raise torch.OutOfMemoryError("out of memory")
        result: torch.Tensor = forward(self, x)
        return result

    return replaced


def test_other_errors_of_a_network_are_not_taken_for_lack_of_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    grid, spec = a_grid(), CutoutSpec(size=(24, 48, 16))
    with pytest.raises(RuntimeError, match="shapes"):
        NetworkPredictor(spec, [Broken()], InferenceOptions("cpu")).predict(grid, three(spec, grid))


@pytest.mark.parametrize("wrong", [{"mode": "quick"}, {"batch": 0}, {"device": "gpu"}])
def test_options_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        NetworkPredictor(SPEC, [Local()], InferenceOptions(**{"device": "cpu", **wrong}))
