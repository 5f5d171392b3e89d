"""Bias fields: the signal times a smooth positive field, composed on the host at the knots of a spline.

The field multiplies what exceeds air. Receivers amplify signal and not emptiness: noise of air is left alone, with a
short ramp above it.
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
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.spline import intervals, pack_weights, spread_over

_LARGEST_LOG = 3.0
# The ramp from untouched air to fully multiplied signal, in units of the noise floor.
_RAMP = (1.0, 1.4)
_SHORTEST_RAMP = 1e-3


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
    air, span, floor = (pick(v.flatten(), numbers) for v in (levels.air, levels.span, levels.noise_floor()))
    begin, end = (floor * part for part in _RAMP)
    rise = 1 / torch.maximum(end - begin, span * _SHORTEST_RAMP)
    field = spread_over(buffers.floats(program.coefficients), [buffers.floats(slot) for slot in program.weights])
    images = batch.planes(program.planes)
    numbers_of_planes = (air, rise, -(air + begin) * rise)
    result = voxelwise(_multiply, (images, field), numbers_of_planes, batch.into(images))
    batch.write_planes(program.planes, result)


def _multiply(
    image: Tensor, excess: Tensor, air: Tensor, rise: Tensor, offset: Tensor, *, out: Tensor | None
) -> Tensor:
    """Return image + excess * (image - air) * ramp; excess is the field minus one, ramp goes from 0 to 1 above air."""
    ramp = torch.addcmul(offset, image, rise).clamp_(0, 1)
    return torch.addcmul(image, (image - air) * ramp, excess, out=out)
