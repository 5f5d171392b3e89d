"""Noise of magnitude images: Rician, or non-central chi for several coils, with a map of noise amplification.

The magnitude is what exceeds the air level. Complex noise is added to it and the magnitude taken again, so that empty
space gets Rayleigh noise (mean / sd 1.913) and is never negative. Images that are no magnitudes get real noise. Its
colour may be that of the acquisition (`noise_colour`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.axis_products import PackedBand, add_product, multiply_axes, read_all
from nnunet_spine_ext.augment.batch import Batch, Volume, in_pieces, pick, voxelwise
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.label_masks import label_weights, only_inside
from nnunet_spine_ext.augment.noise_colour import Colour, join, pack_colour
from nnunet_spine_ext.augment.noise_pool import white_noise
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.spline import intervals, pack_weights, spread_over

# Channels of one sample take noise from places this far apart in the pool.
_CHANNEL_STEP = 611953
_RICIAN = 2
_SMALLEST = 1e-6
# In intensities: 1e20, which no image reaches, over this is still a number.
_LEAST_SIGMA = 1e-18


_Place = tuple[int, int, tuple[int, ...] | None]
"""Sample, channel and the labels that get the noise, None for everywhere."""


@dataclass(frozen=True)
class Group:
    """Planes with the same kind of noise.

    `planes`: (sample, channel). `numbers`: packed (2, K): sd in units of the span, degrees of freedom beyond two.
    `offsets`: places in the noise pool, two or three per plane, one for real noise. `amplification`: packed
    (K, knots…), or None. `colours`: matrices of each plane, None for white noise. `labels`: packed (K, ids) 1 for the
    labels that get it, the last for ids beyond; None: everywhere.
    """

    planes: tuple[tuple[int, int], ...]
    numbers: Slot
    offsets: tuple[tuple[int, ...], ...]
    amplification: Slot | None
    colours: tuple[tuple[PackedBand | None, ...], ...] | None = None
    labels: Slot | None = None

    @property
    def fused(self) -> bool:
        """Whether it is coloured Rician noise of one level, which can be added in the product that colours it."""
        return self.colours is not None and self.amplification is None and len(self.offsets[0]) == _RICIAN


@dataclass(frozen=True)
class Program:
    """All groups, and the packed weights of the knots of amplification maps."""

    groups: tuple[Group, ...]
    weights: tuple[Slot, ...]


@dataclass
class _Noise:
    sigma: float
    coils: int
    offsets: tuple[int, ...]
    amplification: NDArray[np.float64] | None
    magnitude: bool
    follow: bool
    colour: Colour | None

    @property
    def volumes(self) -> int:
        """How many volumes of normal numbers it takes."""
        return (3 if self.coils > 1 else 2) if self.magnitude else 1


class Builder:
    """Collects one kind of noise per sample and channel; variances add up, the kinds of several become one."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._noise: dict[_Place, _Noise] = {}

    def add(
        self,
        index: int,
        channels: Sequence[int],
        sigma: float,
        offsets: Sequence[int],
        *,
        coils: int = 1,
        amplification: NDArray[np.float64] | None = None,
        magnitude: bool = True,
        follow: bool = False,
        colour: Sequence[AxisWork] | None = None,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Add noise.

        Parameters
        ----------
        sigma: standard deviation per real and imaginary part, in units of the signal's span.
        offsets: three places in the noise pool (`noise_pool.draw_offset`).
        coils: 1 Rician; more: root of the summed squares of as many coils.
        amplification: positive factors of sigma at the knots (`spline.knot_grid`): a g-factor map.
        magnitude: False for real Gaussian noise, also in air.
        follow: whether the noise has the colour of what the sample's acquisition does along the axes.
        colour: acquisition of each axis that the noise alone has gone through.
        labels: ids that get it, None: everywhere. Noise of one set of labels comes after that of another.
        """
        if labels is not None and not self._context.rows(labels):
            return
        place = None if labels is None else tuple(sorted(labels))
        for channel in channels:
            key = (index, int(channel), place)
            places = tuple(int(o) + int(channel) * _CHANNEL_STEP for o in offsets)
            old = self._noise.get(key)
            if old is None:
                own = None if colour is None else tuple(colour)
                self._noise[key] = _Noise(sigma, coils, places, amplification, magnitude, follow, own)
            else:
                old.sigma = float(np.hypot(old.sigma, sigma))
                old.coils = max(old.coils, coils)
                old.offsets = max(old.offsets, places, key=len)
                old.amplification = amplification if old.amplification is None else old.amplification
                old.magnitude, old.follow = old.magnitude or magnitude, old.follow or follow
                old.colour = join(old.colour, colour)

    def follow(self, acquisition: Callable[[tuple[int, int]], Sequence[AxisWork] | None]) -> None:
        """Take in what happens along the axes of each plane, for the noise that follows it."""
        for (index, channel, _), noise in self._noise.items():
            if noise.follow:
                noise.colour = join(acquisition((index, channel)), noise.colour)

    def pack(self, packer: Packer) -> Program | None:
        """Pack the planes with noise, those of the same kind together."""
        kinds: dict[tuple[int, ...], list[_Place]] = {}
        colours: dict[_Place, tuple[PackedBand | None, ...]] = {}
        turns: dict[tuple[int, int], int] = {}
        for place, noise in sorted(self._noise.items(), key=lambda item: (*item[0][:2], item[0][2] or ())):
            if noise.sigma > _SMALLEST:
                bands = () if noise.colour is None else pack_colour(packer, self._context, noise.colour)
                colours[place] = bands
                # A plane is in a group once: noise of other labels has a turn of its own.
                turn = turns[place[:2]] = turns.get(place[:2], -1) + 1
                kind = (turn, noise.volumes, noise.amplification is not None, any(bands), place[2] is not None)
                kinds.setdefault(kind, []).append(place)
        if not kinds:
            return None
        groups = tuple(
            self._group(kinds[kind], tuple(colours[p] for p in kinds[kind]) if kind[3] else None, packer)
            for kind in sorted(kinds, key=lambda kind: kind[0])
        )
        mapped = any(group.amplification is not None for group in groups)
        return Program(groups, pack_weights(packer, self._context) if mapped else ())

    def _group(
        self, places: list[_Place], colours: tuple[tuple[PackedBand | None, ...], ...] | None, packer: Packer
    ) -> Group:
        noise = [self._noise[place] for place in places]
        numbers = packer.floats([[n.sigma for n in noise], [2.0 * n.coils - 2 for n in noise]])
        offsets = tuple(n.offsets[: n.volumes] for n in noise)
        shape = tuple(n + 3 for n in intervals(self._context))
        maps = [np.broadcast_to(n.amplification, shape) for n in noise if n.amplification is not None]
        chosen = [label_weights(self._context, place[2]) for place in places if place[2] is not None]
        return Group(
            planes=tuple(place[:2] for place in places),
            numbers=numbers,
            offsets=offsets,
            amplification=packer.floats(np.stack(maps)) if maps else None,
            colours=colours,
            labels=packer.floats(np.stack(chosen)) if chosen else None,
        )


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Add the noise of every group."""
    levels = batch.levels()
    for group in program.groups:
        numbers = batch.numbers(group.planes)
        # The levels are those before any noise.
        air, span = (pick(level.flatten(), numbers) for level in (levels.air, levels.span))
        # An image without contrast has next to no span; nothing may become infinite when it is divided by.
        sigma = (buffers.floats(group.numbers)[0] * span).clamp_min(_LEAST_SIGMA)
        images = batch.planes(group.planes)
        into = batch.into(images) if group.labels is None else None
        if group.fused and not (batch.recorded or in_pieces(images)):
            result = _coloured(group, images, (air, sigma), buffers, into)
        else:
            result = _noisy(group, images, (air, sigma), buffers, program.weights, into)
        if group.labels is not None:
            result = only_inside(batch, group.planes, buffers.floats(group.labels), images, result)
        batch.write_planes(group.planes, result)


def _noisy(
    group: Group,
    images: Tensor,
    levels: tuple[Tensor, Tensor],
    buffers: Buffers,
    weights: Sequence[Slot],
    into: Tensor | None,
) -> Tensor:
    """Return images (K, …) with noise of any kind. `levels`: of air and of the noise, (K,). `into`: where it is put."""
    air, sigma = levels
    volumes: list[Volume] = [images, *_noise_of(group, images.shape[1:], images.device, buffers)]
    if group.amplification is not None:
        knots = buffers.floats(group.amplification)
        knots = knots * sigma.view(-1, *[1] * (knots.dim() - 1))
        volumes.append(spread_over(knots, [buffers.floats(slot) for slot in weights]))
    function = _function(len(group.offsets[0]), group.amplification is not None)
    return voxelwise(function, volumes, (air, sigma, buffers.floats(group.numbers)[1]), into)


def _coloured(
    group: Group, images: Tensor, levels: tuple[Tensor, Tensor], buffers: Buffers, into: Tensor | None
) -> Tensor:
    """Return images (K, …) with coloured Rician noise; the arguments are those of `_noisy`."""
    result = images.clone() if into is None else into
    for k, (offsets, colour) in enumerate(zip(group.offsets, group.colours or (), strict=True)):
        image, air, sigma = result[k], levels[0][k], levels[1][k]
        bands = read_all(colour, buffers)
        last = max(axis for axis, band in enumerate(bands) if band is not None)
        # The noise gets its level in the last of the matrices.
        scaled = [band if axis != last or band is None else band.scaled(sigma) for axis, band in enumerate(bands)]
        real, imaginary = white_noise(offsets, image.shape, image.device)
        add_product(image.sub_(air), real, scaled)
        torch.hypot(image, multiply_axes(imaginary, scaled), out=image).add_(air)
    return result


def _noise_of(group: Group, shape: Sequence[int], device: torch.device, buffers: Buffers) -> Iterator[list[Tensor]]:
    """Yield volumes of normal numbers, white or coloured, one for each of K planes."""
    for offsets in zip(*group.offsets, strict=True):
        noise = white_noise(offsets, shape, device)
        if group.colours is not None:
            pairs = zip(noise, group.colours, strict=True)
            noise = [multiply_axes(plane, read_all(bands, buffers)) for plane, bands in pairs]
        yield noise


def _function(volumes: int, mapped: bool) -> Callable[..., Tensor]:
    """Return the function of image, noise, …, sigma if it is `mapped`, that `voxelwise` calls: real, Rician or chi."""

    def real(image: Tensor, noise: Tensor, *rest: Tensor, out: Tensor | None) -> Tensor:
        return torch.addcmul(image, noise, rest[0] if mapped else rest[-2], out=out)

    def magnitude(image: Tensor, first: Tensor, second: Tensor, *rest: Tensor, out: Tensor | None) -> Tensor:
        air, sigma, freedom = rest[-3:]
        third = _others(rest[0], freedom) if volumes > 2 else None
        if mapped:
            sigmas = rest[-4]
            third = None if third is None else third * sigmas
            length = _length(torch.addcmul(image - air, first, sigmas), second * sigmas, third)
            return torch.add(length, air, out=out)
        length = _length(torch.addcmul(first, image - air, 1 / sigma), second, third)
        return torch.addcmul(air, length, sigma, out=out)

    return real if volumes == 1 else magnitude


def _length(first: Tensor, second: Tensor, third: Tensor | None) -> Tensor:
    """Return the root of the summed squares; nothing is squared that could overflow."""
    length = torch.hypot(first, second)
    return length if third is None else torch.hypot(length, third)


def _others(normal: Tensor, freedom: Tensor) -> Tensor:
    """Return the root of the summed squares of `freedom` normal numbers, from one.

    The sum is chi-square distributed: by Wilson and Hilferty the cube of a normal number.
    """
    spread = 2 / (9 * freedom.clamp_min(1))
    third = freedom ** (1 / 3)
    cube = torch.addcmul((1 - spread) * third, normal, spread.sqrt() * third).clamp_min_(0) ** 3
    return cube.sqrt_()
