"""Crops to training batches, without a trainer: what is beyond the image, masks, regions, cascades, channels, 2-D."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from augment_checks import DispatchCounter
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.targets import Targets

SCALES = ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
MOVING = [{"name": "rotate", "p": 1.0}, {"name": "scale", "p": 1.0}, {"name": "flip", "p": 1.0}]
COLOURING = [{"name": "gamma", "p": 1.0, "gamma": 2.0}, {"name": "contrast", "p": 1.0}]
IGNORE = 4


def crops(
    shape: tuple[int, ...] = (24, 24, 24), channels: int = 1, previous: bool = False, beyond: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch as nnU-Net crops it: `beyond` rows outside of the image, and a part outside of its mask."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, channels, *shape), generator=generator)
    labels = torch.randint(0, 5, (2, 2 if previous else 1, *shape), generator=generator, dtype=torch.int16)
    labels[:, 1:] = labels[:, 1:].clamp_max(3)
    labels[:, :1, 8:12, 8:12] = -1
    images[..., :beyond, :] = 0
    labels[..., :beyond, :] = -1
    return images, labels


def augmentation(
    transforms: list[dict[str, Any]],
    *,
    shape: tuple[int, ...] = (16, 16, 16),
    source: tuple[int, ...] = (24, 24, 24),
    channels: int = 1,
    targets: Targets | None = None,
    **kwargs: Any,
) -> DeviceAugmentation:
    context = Context(shape, (1.5, 1.0, 1.0)[-len(shape) :], source, channels, labels=(0, 1, 2, 3))
    return DeviceAugmentation(Pipeline({"transforms": transforms}, context), targets or Targets(), highest=4, **kwargs)


def run(made: DeviceAugmentation, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    before = images.clone(), labels.clone()
    plan = made.plan([SampleKey(1, f"case{i}", 3, i) for i in range(len(images))])
    result = made.apply(images, labels, plan)
    assert torch.equal(images, before[0]), "the loader's batch stays as it is"
    assert torch.equal(labels, before[1])
    assert result[0].is_contiguous()
    return result


def centre(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[(..., *[slice(4, 20)] * (tensor.dim() - 2))]


def test_without_transforms_everything_is_as_nnunet_gives_it() -> None:
    images, labels = crops()
    data, targets = run(augmentation([], targets=Targets(None, SCALES)), images, labels)
    assert torch.equal(data, centre(images))
    for index in range(2):
        sample = {"segmentation": centre(labels)[index].clone()}
        expected = DownsampleSegForDSTransform(SCALES)(**RemoveLabelTansform(-1, 0)(**sample))["segmentation"]
        for target, other in zip(targets, expected, strict=True):
            assert torch.equal(target[index], other)
    assert int((targets[0] == IGNORE).sum()) == int((centre(labels) == IGNORE).sum()), "ignore stays"


def test_beyond_the_image_is_zero_and_background_and_no_air_is_invented() -> None:
    images, labels = crops()
    images[..., 5:, :] += 100
    inverse = [{"name": "inverse", "p": 1.0, "retain_stats": False}]
    data, target = run(augmentation(inverse, shape=(24, 24, 24)), images, labels)
    beyond = torch.zeros_like(labels, dtype=torch.bool)
    beyond[..., :5, :] = True
    assert (data[beyond] == 0).all()
    assert (target[beyond] == 0).all()
    # Had the zeros been taken for air, the inverse of this bright image would be dark.
    assert data[~beyond].min() > 90
    assert not torch.equal(data[~beyond], images[~beyond])


def test_a_crop_wholly_beyond_the_image_stays_zero() -> None:
    images, labels = torch.zeros(2, 1, 24, 24, 24), torch.full((2, 1, 24, 24, 24), -1, dtype=torch.int16)
    data, target = run(augmentation([*MOVING, *COLOURING]), images, labels)
    assert not data.any()
    assert not target.any()


@pytest.mark.parametrize("masked", [(True,), (True, True), (True, False), (False, True), (False, False)])
def test_masked_channels_are_zero_outside_of_the_mask(masked: tuple[bool, ...]) -> None:
    images, labels = crops(channels=len(masked))
    # As preprocessing leaves them: not quite zero near the edge of the mask.
    for channel, inside in enumerate(masked):
        images[:, channel, 8:12, 8:12] *= 0.1 if inside else 1
    data, target = run(augmentation([], shape=(24, 24, 24), masked=masked, channels=len(masked)), images, labels)
    for index in range(2):
        sample = {"image": images[index].clone(), "segmentation": labels[index].clone()}
        chosen = [channel for channel, inside in enumerate(masked) if inside]
        expected = RemoveLabelTansform(-1, 0)(**MaskImageTransform(chosen)(**sample))
        assert torch.equal(data[index], expected["image"])
        assert torch.equal(target[index], expected["segmentation"])


def test_the_mask_moves_with_the_image() -> None:
    images, labels = crops(channels=2)
    images[:, 0, 8:12, 8:12] = 0
    data, target = run(augmentation([*MOVING, *COLOURING], channels=2, masked=(True, False)), images, labels)
    assert target.min() == 0
    assert target.max() <= IGNORE
    hidden = data[:, 0] == 0
    assert 0 < hidden.float().mean() < 0.5
    inside = hidden & (data[:, 1] != 0)
    assert inside.any(), "in the image, outside of the mask"
    assert (target[:, 0][inside] == 0).all()


def test_regions_with_ignore() -> None:
    images, labels = crops()
    listed = [(1, 2, 3), (2,), 3, IGNORE]
    plain = tuple(r if isinstance(r, tuple) else (r,) for r in listed)
    _, found = run(augmentation([], targets=Targets(plain, SCALES)), images, labels)
    for index in range(2):
        sample = RemoveLabelTansform(-1, 0)(segmentation=centre(labels)[index].clone())
        sample = ConvertSegmentationToRegionsTransform(listed)(**sample)
        for target, other in zip(found, DownsampleSegForDSTransform(SCALES)(**sample)["segmentation"], strict=True):
            assert target.dtype == torch.bool
            assert torch.equal(target[index], other)


def test_the_previous_stage_becomes_channels_after_the_geometry() -> None:
    images, labels = crops(previous=True)
    data, target = run(augmentation([], previous=(1, 2, 3)), images, labels)
    for index in range(2):
        sample = {"image": centre(images)[index].clone(), "segmentation": centre(labels)[index].clone()}
        chain = [RemoveLabelTansform(-1, 0), MoveSegAsOneHotToDataTransform(1, [1, 2, 3], True)]
        for step in chain:
            sample = step(**sample)
        assert torch.equal(data[index], sample["image"])
        assert torch.equal(target[index], sample["segmentation"])
    # A mask that equals the labels equals them after any movement, and intensities leave it alone.
    labels[:, :1] = labels[:, 1:]
    data, target = run(augmentation([*MOVING, *COLOURING], previous=(1, 2, 3)), images, labels)
    assert data.shape == (2, 4, 16, 16, 16)
    for channel, label in enumerate((1, 2, 3), start=1):
        assert torch.equal(data[:, channel] == 1, target[:, 0] == label)
    assert set(data[:, 1:].unique().tolist()) == {0.0, 1.0}


def test_two_dimensions_and_many_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((3, 4, 24, 20), generator=generator)
    labels = torch.randint(-1, 4, (3, 1, 24, 20), generator=generator, dtype=torch.int16)
    made = augmentation(
        [*MOVING, *COLOURING],
        shape=(16, 16),
        source=(24, 20),
        channels=4,
        targets=Targets(None, ((1.0, 1.0), (0.5, 0.5))),
    )
    data, targets = run(made, images, labels)
    assert data.shape == (3, 4, 16, 16)
    assert [tuple(t.shape) for t in targets] == [(3, 1, 16, 16), (3, 1, 8, 8)]
    again, _ = run(made, images, labels)
    assert torch.equal(again, data)


def test_the_host_never_waits_and_little_is_done_beside_the_pipeline() -> None:
    images, labels = crops(channels=2, previous=True)
    made = augmentation(
        [*MOVING, *COLOURING],
        channels=2,
        targets=Targets(((1, 2), (3,), (4,)), SCALES),
        masked=(True, False),
        previous=(1, 2, 3),
    )
    plan = made.plan([SampleKey(1, "case", 3, i) for i in range(2)])
    made.apply(images, labels, plan)
    with DispatchCounter(images.numel(), images.element_size()) as counter:
        made.apply(images, labels, plan)
    assert not counter.syncs
    with DispatchCounter(images.numel(), images.element_size()) as alone:
        made.pipeline.apply(images, labels, plan)
    assert counter.summary()["memory_passes"] - alone.summary()["memory_passes"] < 20
