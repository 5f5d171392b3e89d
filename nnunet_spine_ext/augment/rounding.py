"""Whole numbers: what is lost when an image is stored with a few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import Batch, pick, voxelwise
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot


@dataclass(frozen=True)
class Rounding:
    """(sample, channel) of each of K planes; packed (2, K): steps from air to the brightest tissue, and in all."""

    planes: tuple[tuple[int, int], ...]
    steps: Slot


def pack_rounding(packer: Packer, asked: Mapping[tuple[int, int], tuple[float, float]]) -> Rounding | None:
    """Pack steps per plane: from air to the brightest tissue, and in all; None when there is no plane."""
    if not asked:
        return None
    planes = tuple(sorted(asked))
    return Rounding(planes, packer.floats([[asked[plane][i] for plane in planes] for i in range(2)]))


def round_planes(batch: Batch, rounding: Rounding, buffers: Buffers) -> None:
    """Round intensities to the nearest step and cut off what lies beyond the last; gradients pass unchanged."""
    levels = batch.levels()
    numbers = batch.numbers(rounding.planes)
    air, span = (pick(level.flatten(), numbers) for level in (levels.air, levels.span))
    used, last = buffers.floats(rounding.steps).unbind(0)
    images = batch.planes(rounding.planes)
    into = batch.into(images)
    result = voxelwise(_rounded, (images.detach(),), (air, span / used, last), None if batch.recorded else into)
    batch.write_planes(rounding.planes, images + (result - images.detach()) if batch.recorded else result)


def _rounded(image: Tensor, air: Tensor, step: Tensor, last: Tensor, *, out: Tensor | None) -> Tensor:
    number = torch.minimum(((image - air) / step).round_(), last)
    return torch.addcmul(air, number, step, out=out)
