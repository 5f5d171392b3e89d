"""Last stage: intensities as they are stored, then back to a known mean and standard deviation: one affine map each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_spine_ext.augment.batch import Batch, moments, pick, spatial
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.rounding import Rounding, pack_rounding, round_planes

_LOWEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Program:
    """Active samples and, packed as (6, B', C): weight, what of the input's mean and sd is in the mean, what of its sd
    is in the sd, own mean and own sd. `whole`: all weights are 1. `rounding`: what comes before.
    """

    indices: tuple[int, ...]
    values: Slot
    whole: bool
    rounding: Rounding | None = None


class Builder:
    """Collects the statistics that samples are to have; the last call for a channel counts."""

    def __init__(self, context: Context, count: int) -> None:
        self._values = np.zeros((6, count, context.channels))
        self._steps: dict[tuple[int, int], tuple[float, float]] = {}

    def round(self, index: int, channels: Sequence[int], steps: float, last: float) -> None:
        """Round to as many steps between air and the brightest tissue, and cut off beyond the `last` step."""
        self._steps |= {(index, int(channel)): (steps, last) for channel in channels}

    def restore(self, index: int, channels: Sequence[int], shift: float = 0.0, gain: float = 1.0) -> None:
        """Give back the mean and standard deviation (sd) that the sample had before all intensity stages.

        Or nearly: the mean plus `shift` times this sd, and `gain` times the sd.
        """
        self._values[:, index, list(channels)] = np.array([1.0, 1.0, shift, gain, 0.0, 0.0])[:, None]

    def normalise(self, index: int, channels: Sequence[int], mean: float, sd: float) -> None:
        """Give a mean and a standard deviation of choice."""
        self._values[:, index, list(channels)] = np.array([1.0, 0.0, 0.0, 0.0, mean, sd])[:, None]

    def pack(self, packer: Packer) -> Program | None:
        """Pack the samples that anything was asked for."""
        active = tuple(int(i) for i in np.flatnonzero(self._values[0].any(axis=1)))
        values = self._values[:, active]
        rounding = pack_rounding(packer, self._steps)
        if not active and rounding is None:
            return None
        return Program(active, packer.floats(values), bool((values[0] == 1).all()), rounding)


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Scale and shift the active samples; statistics are those of the sample grid, before and after.

    Where nothing is left of the contrast, the image becomes flat at the mean asked for.
    """
    if program.rounding is not None:
        round_planes(batch, program.rounding, buffers)
    if not program.indices:
        return
    weight, of_mean, shift_of_sd, gain, own_mean, own_sd = buffers.floats(program.values).unbind(0)
    mean, sd = moments(pick(batch.sample(), program.indices))
    if batch.reference is not None:
        before_mean, before_sd = (pick(value, program.indices) for value in batch.reference)
        own_mean = torch.addcmul(torch.addcmul(own_mean, of_mean, before_mean), shift_of_sd, before_sd)
        own_sd = torch.addcmul(own_sd, gain, before_sd)
    scale = torch.where(sd > mean.abs() * _LOWEST_SPREAD, own_sd / sd, 0.0)
    shift = torch.addcmul(own_mean, mean, scale, value=-1)
    if not program.whole:
        scale, shift = torch.lerp(torch.ones_like(scale), scale, weight), shift * weight
    images = batch.select(program.indices)
    dim = images.dim() - 2
    result = torch.addcmul(spatial(shift, dim), images, spatial(scale, dim), out=batch.into(images))
    batch.write(program.indices, result)
