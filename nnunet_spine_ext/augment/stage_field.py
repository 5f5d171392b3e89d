"""Bias fields: the signal times a smooth positive field, composed on the host at the knots of a spline.

The field multiplies the signal, which is what exceeds air. Receivers amplify signal and not emptiness: voxels within
the noise of air are left alone, where there is air (`noise_floor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.batch import Batch, pick, voxelwise
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_floor import noise_floor
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.spline import intervals, pack_weights, spread_over

_LARGEST_LOG = 3.0
# What exceeds air by more than this many noise floors is signal; the noise of air is above it once in 20,000 voxels.
_SIGNAL = 1.2
_SMALLEST_FLOOR = 1e-4


@dataclass(frozen=True)
class Program:
    """(sample, channel) of each of K fields; packed (K, knots…) field minus one, and the weights of the knots."""

    planes: tuple[tuple[int, int], ...]
    coefficients: Slot
    weights: tuple[Slot, ...]


class Builder:
    """Sums the logarithms of all fields of a sample."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._shape = tuple(n + 3 for n in intervals(context))
        self._fields: dict[tuple[int, int], NDArray[np.float64]] = {}

    def multiply(self, index: int, channels: Sequence[int], logarithm: NDArray[np.float64]) -> None:
        """Add a field, given as its logarithm at the knots (`spline.knot_grid`); its mean logarithm is taken off."""
        inner = logarithm[(slice(1, -1),) * logarithm.ndim]
        centred = logarithm - inner.mean()
        for channel in channels:
            field = self._fields.setdefault((index, int(channel)), np.zeros(self._shape))
            field += centred

    def pack(self, packer: Packer) -> Program | None:
        """Pack the fields that are not one everywhere."""
        planes = tuple(sorted(plane for plane, field in self._fields.items() if field.any()))
        if not planes:
            return None
        fields = np.stack([np.expm1(np.clip(self._fields[plane], -_LARGEST_LOG, _LARGEST_LOG)) for plane in planes])
        return Program(planes, packer.floats(fields), pack_weights(packer, self._context))


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Multiply the signal of the active planes by their fields."""
    levels = batch.levels()
    numbers = batch.numbers(program.planes)
    air, span, floor = (
        pick(v.flatten(), numbers) for v in (levels.air, levels.span, noise_floor(batch.images, levels))
    )
    floor = torch.maximum(floor, span * _SMALLEST_FLOOR)
    coefficients = buffers.floats(program.coefficients)
    # In units of the floor, because the threshold has to be known on the host.
    excess = coefficients * floor.view(-1, *[1] * (coefficients.dim() - 1))
    field = spread_over(excess, [buffers.floats(slot) for slot in program.weights])
    images = batch.planes(program.planes)
    result = voxelwise(_multiply, (images, field), (1 / floor, -air / floor), batch.into(images))
    batch.write_planes(program.planes, result)


def _multiply(image: Tensor, excess: Tensor, scale: Tensor, offset: Tensor, *, out: Tensor | None) -> Tensor:
    """Return image + excess * signal; excess is the field minus one, signal zero within the noise of air.

    Beyond a threshold t the signal is s - t² / s: it begins at zero, so that noise about the threshold is not torn
    apart, and soon is s.
    """
    level = torch.addcmul(offset, image, scale).clamp_min(_SIGNAL)
    signal = torch.addcdiv(level, torch.full_like(level[..., :1], _SIGNAL**2), level, value=-1)
    return torch.addcmul(image, signal, excess, out=out)
