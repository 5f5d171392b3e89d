"""Values and validity: -1 never meets an interpolator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.transform import resize

from nnunet_spine_ext.core.soft_labels import SoftRangeError, overshoot, split
from nnunet_spine_ext.soft.values import SUPERVISED, divided, one_hot, resampled, weighted


def test_what_is_not_known_is_split_off() -> None:
    soft = np.array([[[0.0, 0.4, 1.0, -1.0, -1.0004]]], dtype=np.float32)
    values, valid = split(soft)
    assert valid.tolist() == [[1, 1, 1, 0, 0]]
    assert values[0, 0].tolist() == pytest.approx([0, 0.4, 1, 0, 0])
    assert values.dtype == valid.dtype == np.float32


def test_a_voxel_that_one_class_does_not_know_is_not_supervised_in_any() -> None:
    soft = np.stack([np.full((2, 2), 0.5), np.array([[-1.0, 0.2], [0.3, 0.4]])]).astype(np.float32)
    values, valid = split(soft)
    assert valid.tolist() == [[0, 1], [1, 1]]
    assert values[0, 0, 0] == 0


def test_values_above_one_become_one_and_are_told() -> None:
    soft = np.array([[0.5, 1.06, 1.0]])
    assert split(soft)[0].max() == 1
    assert overshoot(soft) == pytest.approx(0.06)
    assert overshoot(np.array([[0.2, -1.0]])) == 0


@pytest.mark.parametrize("bad", [-0.5, -0.01, -2.0, np.nan, np.inf])
def test_what_no_soft_label_has_is_refused(bad: float) -> None:
    with pytest.raises(SoftRangeError, match="1 values"):
        split(np.array([[0.5, bad, -1.0]]))


@pytest.mark.parametrize("scale", [2.0, 100.0, 255.0])
def test_another_scale_is_refused_and_not_cut_to_a_hard_label(scale: float) -> None:
    with pytest.raises(SoftRangeError, match=f"values up to {scale:g}"):
        split(np.array([[0.0, 0.5, 1.0]]) * scale)


def test_hard_labels_are_values_of_zero_and_one() -> None:
    labels = np.array([[-1, 0, 3], [7, 3, 9]])
    values, valid = one_hot(labels, [3, 7], ignore=9)
    assert values.tolist() == [[[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [1, 0, 0]]]
    assert valid.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert one_hot(labels, [3], ignore=None)[1].all()


@pytest.mark.parametrize("shape", [(12, 9, 20), (5, 9, 7), (6, 9, 10), (23, 31, 11)])
def test_resampling_is_linear_between_voxel_centres_as_nnunet_resamples(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2, 6, 9, 10)).astype(np.float32)
    found, valid = resampled(values, np.ones((6, 9, 10), np.float32), shape)
    assert found.shape == (2, *shape)
    for own, channel in zip(found, values, strict=True):
        # nnU-Net calls the same function with the same arguments.
        reference = resize(channel, shape, order=1, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(own, reference, atol=2e-6)
    np.testing.assert_allclose(valid, 1, atol=1e-6)


def test_what_is_not_known_pulls_no_value_towards_it() -> None:
    """A constant beside unknown voxels stays that constant wherever anything is known."""
    values = np.full((1, 8, 8, 8), 0.7, np.float32)
    valid = np.ones((8, 8, 8), np.float32)
    valid[:, :3] = 0
    # What stands where nothing is known must not matter.
    values[:, :, :3] = 123.0
    found, share = resampled(values * 1, valid, (13, 21, 8))
    assert found[0][share > 0] == pytest.approx(0.7, abs=1e-6)
    assert ((share > 0) & (share < SUPERVISED)).any()
    assert (share <= SUPERVISED).any()
    assert found[0][share == 0].max() == 0


def test_weighting_and_dividing_undo_each_other_where_something_is_known() -> None:
    joined = torch.rand(2, 4, 3, 5, 6)
    joined[:, -1, :, :2] = 0
    back = divided(weighted(joined))
    known = joined[:, -1:] > 0
    torch.testing.assert_close(
        back[:, :-1][known.expand(-1, 3, -1, -1, -1)], joined[:, :-1][known.expand(-1, 3, -1, -1, -1)]
    )
    assert (back[:, :-1][~known.expand(-1, 3, -1, -1, -1)] == 0).all()
    torch.testing.assert_close(back[:, -1:], joined[:, -1:])
