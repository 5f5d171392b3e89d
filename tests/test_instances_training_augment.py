"""Augmentations of cutouts: each does what it says to labels and target alike, and nothing when it is not drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.training import augment
from nnunet_spine_ext.instances.training.augment import Draw
from nnunet_spine_ext.instances.training.settings import AugmentSettings

PAPER = AugmentSettings()
SIZE = (24, 32, 16)


@pytest.fixture
def pair() -> tuple[Array, Array]:
    """Three bodies with processes on both sides, between discs."""
    labels = np.zeros(SIZE, dtype=np.uint8)
    target = np.zeros(SIZE, dtype=np.uint8)
    for answer, top in ((1, 1), (2, 12), (3, 23)):
        labels[2:10, top : top + 7, 4:12] = 10
        labels[10:14, top + 2 : top + 5, 5:8] = 4
        labels[10:14, top + 2 : top + 5, 8:11] = 5
        labels[14:20, top + 3 : top + 6, 7:9] = 3
        target[(labels > 0) & (labels <= 10) & (target == 0)] = answer
        labels[2:10, top + 7 : top + 9, 4:12] = 14
    return labels, target


def test_the_probabilities_are_those_of_the_paper() -> None:
    """Appendix A: scaling by up to 0.2, erosion, resampling and label drop 10 % each, vertical crop 25 %, flip."""
    rng = np.random.default_rng(0)
    draws = [augment.draw(rng, PAPER) for _ in range(4000)]
    share = {
        "scale": np.mean([d.scale is not None for d in draws]),
        "eroded": np.mean([d.eroded is not None for d in draws]),
        "coarser": np.mean([d.coarser is not None for d in draws]),
        "dropped": np.mean([d.dropped is not None for d in draws]),
        "crop": np.mean([d.crop is not None for d in draws]),
        "flipped": np.mean([d.flipped for d in draws]),
    }
    wanted = {"scale": 0.1, "eroded": 0.1, "coarser": 0.1, "dropped": 0.1, "crop": 0.25, "flipped": 0.5}
    for name, value in wanted.items():
        assert share[name] == pytest.approx(value, abs=0.02), name
    scales = [d.scale for d in draws if d.scale is not None]
    assert 0.8 <= min(scales) < 0.82
    assert 1.18 < max(scales) <= 1.2
    assert {d.dropped for d in draws} - {None} == set(range(2, 10)), "every class but the body"


def test_a_probability_of_zero_draws_nothing_and_leaves_the_other_draws_alone() -> None:
    never = AugmentSettings(0, 0, 0, 0, 0, 0)
    assert augment.draw(np.random.default_rng(1), never) == Draw()
    some, fewer = AugmentSettings(1, 1, 1, 1, 1, 1), AugmentSettings(0, 1, 1, 1, 1, 1)
    drawn = augment.draw(np.random.default_rng(2), some)
    assert augment.draw(np.random.default_rng(2), fewer) == replace(drawn, scale=None)


def test_nothing_drawn_changes_nothing(pair: tuple[Array, Array]) -> None:
    labels, target = augment.apply(*pair, Draw())
    assert np.array_equal(labels, pair[0])
    assert np.array_equal(target, pair[1])
    assert augment.read_size(SIZE, None) == SIZE


def test_equal_draws_give_equal_results_and_leave_the_input_alone(pair: tuple[Array, Array]) -> None:
    before = [array.copy() for array in pair]
    what = Draw(coarser=1.7, eroded=(0.4, 3), dropped=4, crop=(0.1, 1.0), flipped=True)
    first, second = augment.apply(*pair, what), augment.apply(*pair, what)
    for a, b, c, d in zip(first, second, pair, before, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(c, d)
        assert a.dtype == np.uint8
        assert a.flags.c_contiguous


def test_the_target_never_says_anything_about_voxels_without_a_vertebra(pair: tuple[Array, Array]) -> None:
    rng = np.random.default_rng(5)
    often = AugmentSettings(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    for _ in range(40):
        labels, target = augment.apply(*pair, augment.draw(rng, often))
        assert not target[(labels < 2) | (labels > 10)].any()


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_scaling_changes_sizes_by_its_factor_around_the_centre(scale: float) -> None:
    size = augment.read_size((40, 40, 40), scale)
    assert all(n >= 40 / scale for n in size)
    window = np.zeros(size, dtype=np.uint8)
    middle = tuple(slice(n // 2 - 10, n // 2 + 10) for n in size)
    window[middle] = 10
    result = augment.scaled(window, scale, (40, 40, 40))
    for axis in range(3):
        used = np.flatnonzero(result.any(axis=tuple(k for k in range(3) if k != axis)))
        assert len(used) == pytest.approx(20 * scale, abs=1)
        assert used.mean() == pytest.approx(19.5, abs=0.6)


def test_a_smaller_spine_shows_more_of_it(pair: tuple[Array, Array]) -> None:
    window = np.full(augment.read_size((10, 10, 10), 0.8), 10, dtype=np.uint8)
    assert augment.scaled(window, 0.8, (10, 10, 10)).all(), "no border of background"


def test_coarsening_makes_blocks_and_keeps_the_size(pair: tuple[Array, Array]) -> None:
    labels, target = augment.coarsened(*pair, 2.0)
    for array in (labels, target):
        assert array.shape == SIZE
        blocks = array.reshape(12, 2, 16, 2, 8, 2)
        assert np.array_equal(blocks, np.broadcast_to(blocks[:, :1, :, :1, :, :1], blocks.shape))
    assert np.array_equal(augment.coarsened(*pair, 1.0)[0], pair[0])


def test_erosion_takes_the_outermost_voxels_of_vertebrae(pair: tuple[Array, Array]) -> None:
    labels, target = pair
    all_gone, _ = augment.eroded(labels, target, 1.0, 0)
    body = np.zeros(SIZE, dtype=bool)
    body[3:9, 13:18, 5:11] = True
    assert (all_gone[body] == 10).all()
    assert not all_gone[2, 12:19, 4:12].any()
    assert np.array_equal(all_gone == 14, labels == 14), "discs stay"
    some, some_target = augment.eroded(labels, target, 0.5, 0)
    gone = (labels > 0) & (some == 0)
    shell = (labels > 0) & (all_gone == 0)
    assert 0.4 < gone.sum() / shell.sum() < 0.6
    assert not (gone & ~shell).any()
    assert not some_target[gone].any()
    assert np.array_equal(augment.eroded(labels, target, 0.0, 0)[0], labels)


def test_the_edge_of_the_window_is_no_surface() -> None:
    labels = np.full((8, 8, 8), 10, dtype=np.uint8)
    assert augment.eroded(labels, labels, 1.0, 0)[0].all()


def test_a_dropped_class_is_gone_from_labels_and_target(pair: tuple[Array, Array]) -> None:
    labels, target = augment.without_class(*pair, 4)
    assert not (labels == 4).any()
    assert not target[pair[0] == 4].any()
    others = pair[0] != 4
    assert np.array_equal(labels[others], pair[0][others])
    assert np.array_equal(target[others], pair[1][others])


def test_a_crop_leaves_background_above_or_below_and_never_reaches_the_centre(pair: tuple[Array, Array]) -> None:
    labels, target = augment.cropped(*pair, (0.25, 1.0))
    assert not labels[:, :8].any()
    assert not target[:, :8].any()
    assert np.array_equal(labels[:, 8:], pair[0][:, 8:])
    always = AugmentSettings(0, 0, 0, 0, 1, 0)
    rng = np.random.default_rng(0)
    crops = [augment.draw(rng, always).crop for _ in range(300)]
    edges = np.array([crop for crop in crops if crop is not None])
    assert (edges[:, 0] <= 0.4).all()
    assert (edges[:, 1] >= 0.6).all()
    assert 0.3 < (edges[:, 0] > 0).mean() < 0.7


def test_a_flip_exchanges_sides(pair: tuple[Array, Array]) -> None:
    labels, target = augment.flipped(*pair)
    assert np.array_equal(labels[:, :, ::-1] == 5, pair[0] == 4)
    assert np.array_equal(labels[:, :, ::-1] == 3, pair[0] == 3)
    assert np.array_equal(target[:, :, ::-1], pair[1])
    twice = augment.flipped(labels, target)
    assert np.array_equal(twice[0], pair[0])
    assert np.array_equal(twice[1], pair[1])


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"erosion": -0.1}, {"scaling_range": 1.0}, {"resampling_factor": 0.5}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))) as error:
        AugmentSettings(**wrong)
    assert error.value.code == "E-CONFIG-RANGE"
