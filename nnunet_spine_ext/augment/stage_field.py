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
from nnunet_spine_ext.augment.label_masks import label_weights, only_inside
from nnunet_spine_ext.augment.noise_floor import noise_floor
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.spline import intervals, pack_weights, spread_over

_LARGEST_LOG = 3.0
# What exceeds air by more than this many noise floors is signal; the noise of air is above it once in 20,000 voxels.
_SIGNAL = 1.2
_SMALLEST_FLOOR = 1e-4


@dataclass(frozen=True)
class Part:
    """Fields of K planes (sample, channel): packed (K, knots…) field minus one.

    `labels`: packed (K, ids) 1 for the labels that get it, the last for ids beyond; None: everywhere.
    """

    planes: tuple[tuple[int, int], ...]
    coefficients: Slot
    labels: Slot | None = None


@dataclass(frozen=True)
class Program:
    """All fields, and the weights of their knots; a plane is in a part once."""

    parts: tuple[Part, ...]
    weights: tuple[Slot, ...]


class Builder:
    """Sums the logarithms of all fields of a sample that lie over the same labels."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._shape = tuple(n + 3 for n in intervals(context))
        self._fields: dict[tuple[int, int, tuple[int, ...] | None], NDArray[np.float64]] = {}

    def multiply(
        self,
        index: int,
        channels: Sequence[int],
        logarithm: NDArray[np.float64],
        labels: Sequence[int] | None = None,
    ) -> None:
        """Add a field, given as its logarithm at the knots (`spline.knot_grid`); its mean logarithm is taken off.

        `labels`: ids that get it, None: everywhere.
        """
        if labels is not None and not self._context.rows(labels):
            return
        inner = logarithm[(slice(1, -1),) * logarithm.ndim]
        centred = logarithm - inner.mean()
        place = None if labels is None else tuple(sorted(labels))
        for channel in channels:
            field = self._fields.setdefault((index, int(channel), place), np.zeros(self._shape))
            field += centred

    def pack(self, packer: Packer) -> Program | None:
        """Pack the fields that are not one everywhere."""
        parts: dict[tuple[int, bool], list[tuple[int, int, tuple[int, ...] | None]]] = {}
        turns: dict[tuple[int, int], int] = {}
        for place in sorted(self._fields, key=lambda place: (*place[:2], place[2] or ())):
            if self._fields[place].any():
                turn = turns[place[:2]] = turns.get(place[:2], -1) + 1
                parts.setdefault((turn, place[2] is not None), []).append(place)
        if not parts:
            return None
        made = tuple(self._part(packer, parts[kind]) for kind in sorted(parts))
        return Program(made, pack_weights(packer, self._context))

    def _part(self, packer: Packer, places: Sequence[tuple[int, int, tuple[int, ...] | None]]) -> Part:
        fields = np.stack([np.expm1(np.clip(self._fields[place], -_LARGEST_LOG, _LARGEST_LOG)) for place in places])
        chosen = [label_weights(self._context, place[2]) for place in places if place[2] is not None]
        planes = tuple(place[:2] for place in places)
        return Part(planes, packer.floats(fields), packer.floats(np.stack(chosen)) if chosen else None)


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Multiply the signal of the active planes by their fields; levels are those before any field."""
    levels = batch.levels()
    floors = noise_floor(batch.images, levels)
    weights = [buffers.floats(slot) for slot in program.weights]
    for part in program.parts:
        numbers = batch.numbers(part.planes)
        air, span, floor = (pick(v.flatten(), numbers) for v in (levels.air, levels.span, floors))
        floor = torch.maximum(floor, span * _SMALLEST_FLOOR)
        coefficients = buffers.floats(part.coefficients)
        # In units of the floor, because the threshold has to be known on the host.
        excess = coefficients * floor.view(-1, *[1] * (coefficients.dim() - 1))
        images = batch.planes(part.planes)
        into = batch.into(images) if part.labels is None else None
        result = voxelwise(_multiply, (images, spread_over(excess, weights)), (1 / floor, -air / floor), into)
        if part.labels is not None:
            result = only_inside(batch, part.planes, buffers.floats(part.labels), images, result)
        batch.write_planes(part.planes, result)


def _multiply(image: Tensor, excess: Tensor, scale: Tensor, offset: Tensor, *, out: Tensor | None) -> Tensor:
    """Return image + excess * signal; excess is the field minus one, signal zero within the noise of air.

    Beyond a threshold t the signal is s - t² / s: it begins at zero, so that noise about the threshold is not torn
    apart, and soon is s.
    """
    level = torch.addcmul(offset, image, scale).clamp_min(_SIGNAL)
    signal = torch.addcdiv(level, torch.full_like(level[..., :1], _SIGNAL**2), level, value=-1)
    return torch.addcmul(image, signal, excess, out=out)
