"""Targets made on the device: the values that nnU-Net's own transforms give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.training.targets import Targets, at_scale, in_regions, one_hot


def random_labels(shape: tuple[int, ...], highest: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, highest + 1, shape, generator=generator, dtype=torch.int16)


@given(
    shape=st.lists(st.integers(1, 19), min_size=2, max_size=3),
    factors=st.lists(st.sampled_from([1.0, 0.5, 0.25, 1 / 3, 1 / 6, 0.125]), min_size=3, max_size=3),
)
def test_voxels_are_those_that_nnunet_picks(shape: list[int], factors: list[float]) -> None:
    scale = [factor if round(n * factor) else 1.0 for n, factor in zip(shape, factors, strict=False)]
    labels = random_labels((2, 1, *shape))
    expected = [DownsampleSegForDSTransform([scale])(segmentation=sample)["segmentation"][0] for sample in labels]
    found = at_scale(labels, scale)
    assert found.dtype == labels.dtype
    assert found.is_contiguous()
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("shape", [(16, 24, 20), (17, 30), (320, 7)])
@pytest.mark.parametrize("regions", [None, [(1, 2), 3, (4, 1)], [(1, 2, 3), (2,), 5]])
def test_lists_are_those_of_nnunet(shape: tuple[int, ...], regions: list[tuple[int, ...] | int] | None) -> None:
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [3, 2, 1]]
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1, -len(shape) :].tolist()
    labels = random_labels((2, 1, *shape))
    plain = None if regions is None else tuple(r if isinstance(r, tuple) else (r,) for r in regions)
    found = Targets(plain, tuple(map(tuple, scales)))(labels)
    for index, sample in enumerate(labels):
        data = {"segmentation": sample}
        data = data if regions is None else ConvertSegmentationToRegionsTransform(regions)(**data)
        expected = DownsampleSegForDSTransform(scales)(**data)["segmentation"]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one[index], other)


def test_without_deep_supervision_there_is_one_target() -> None:
    labels = random_labels((2, 1, 4, 4))
    assert Targets()(labels) is labels


def test_ids_beyond_all_regions_are_in_none() -> None:
    labels = torch.tensor([[[[0, 1, 2, 300]]]], dtype=torch.int16)
    found = in_regions(labels, ((1,), (1, 2)))
    assert found.int().tolist() == [[[[0, 1, 0, 0]], [[0, 1, 1, 0]]]]


def test_one_hot_keeps_the_order_of_the_ids() -> None:
    labels = random_labels((2, 1, 3, 4, 5))
    found = one_hot(labels, (3, 1, 5), torch.float32)
    assert found.shape == (2, 3, 3, 4, 5)
    assert math.isclose(float(found.sum()), sum(int((labels == i).sum()) for i in (3, 1, 5)))
    assert torch.equal(found[:, 0].bool(), labels[:, 0] == 3)
