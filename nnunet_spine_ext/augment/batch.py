"""What the stages work on: a batch on its device, with the intensity levels of each sample computed there.

Nothing here waits for the device: levels stay tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor

from nnunet_spine_ext.augment.context import Context

SAMPLE_VOXELS = 65536
LEVEL_VOXELS = 4096
AIR_QUANTILE = 0.005
TOP_QUANTILE = 0.995
# Where nearly all of a patch is air its quantiles coincide; then the extremes tell how bright it can be.
_EXTREME_SHARE = 0.1
# So that a constant image can be divided by its span; what it is multiplied by again makes nothing of the quotient.
_SMALLEST_SPAN = 1e-20
# Voxels per step on a processor: what is in work stays in its cache.
CHUNK = 65536
# Devices that work in pieces; empty, a processor goes the way of an accelerator, for counting and comparing.
PIECEWISE = ("cpu",)

Plane = tuple[int, int]


@dataclass(frozen=True)
class Levels:
    """Intensity levels per sample and channel, each (B, C).

    `air`: what is taken for no signal, the 0.5 % quantile. `span`: from there to the 99.5 % quantile, positive; the
    unit of everything that is relative to the signal. For a constant image the span is tiny, so that nothing happens.
    `ordered`: (B, C, M) some voxels, ascending.
    """

    air: Tensor
    span: Tensor
    ordered: Tensor


@dataclass
class Batch:
    """Images (B, C, Z, Y, X) or (B, C, Y, X) in float32 and labels (B, ≥1, …) or None, on one device.

    A stage replaces what it changes through `write`; it never writes into tensors of the caller. `reference`: mean
    and standard deviation (B, C) before any intensity stage. `companions`: (B, E, …) float32 that only geometry
    changes, linearly, with 0 around them.
    """

    images: Tensor
    labels: Tensor | None
    context: Context
    reference: tuple[Tensor, Tensor] | None = None
    companions: Tensor | None = None
    _owned: bool = False
    _levels: Levels | None = field(default=None, repr=False)
    _sample: Tensor | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.images.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def recorded(self) -> bool:
        """Whether gradients flow through the images: then nothing is computed in place."""
        return bool(self.images.requires_grad and torch.is_grad_enabled())

    def select(self, indices: Sequence[int]) -> Tensor:
        """Return the images of some samples (B', C, …): all of them without a copy, else views or one copy."""
        return pick(self.images, indices)

    def select_labels(self, indices: Sequence[int]) -> Tensor | None:
        """Return the first label channel of some samples, (B', 1, …)."""
        return None if self.labels is None else pick(self.labels[:, :1], indices)

    def write(self, indices: Sequence[int], values: Tensor) -> None:
        """Replace the images of some samples by (B', C, …) and forget the levels computed so far."""
        if self.into(values) is not None:
            self.changed()
        elif len(indices) == self.count:
            self.images = values
        elif self.recorded or values.requires_grad:
            rows = [self.images[i] for i in range(self.count)]
            for row, index in enumerate(indices):
                rows[index] = values[row]
            self.images = torch.stack(rows)
        else:
            if not self._owned:
                self.images = self.images.clone()
            for row, index in enumerate(indices):
                self.images[index].copy_(values[row])
        self._owned = True
        self.changed()

    def planes(self, planes: Sequence[Plane]) -> Tensor:
        """Return single channels of single samples, (K, …), for (sample, channel) pairs."""
        return pick(self.images.flatten(0, 1), self.numbers(planes))

    def into(self, images: Tensor) -> Tensor | None:
        """Return where the result for images from `select` or `planes` may be put: in their own place, or None.

        Only what belongs to the batch is written to, and nothing that gradients need.
        """
        mine = self._owned and images.untyped_storage().data_ptr() == self.images.untyped_storage().data_ptr()
        return images if mine and not self.recorded else None

    def numbers(self, planes: Sequence[Plane]) -> list[int]:
        """Return the position of (sample, channel) pairs in a flattened (B * C)."""
        return [index * self.images.shape[1] + channel for index, channel in planes]

    def write_planes(self, planes: Sequence[Plane], values: Tensor) -> None:
        """Replace single channels of single samples by (K, …), in the order of `planes`; other channels stay."""
        if self.into(values) is not None:
            self.changed()
            return
        indices = sorted({index for index, _ in planes})
        channels = int(self.images.shape[1])
        if list(planes) != [(index, channel) for index in indices for channel in range(channels)]:
            place = {plane: row for row, plane in enumerate(planes)}
            every = [(i, c) for i in indices for c in range(channels)]
            values = torch.stack([values[place[p]] if p in place else self.images[p] for p in every])
        self.write(indices, values.view(len(indices), channels, *values.shape[1:]))

    def replace(self, images: Tensor, labels: Tensor | None, companions: Tensor | None = None) -> None:
        """Put new tensors in place of all (warp)."""
        self.images, self.labels, self.companions, self._owned = images, labels, companions, True
        self.changed()

    def changed(self) -> None:
        """Forget levels and sample: the intensities are others now."""
        self._levels = self._sample = None

    def sample(self) -> Tensor:
        """Return about 65,000 voxels of each image on a regular grid, (B, C, M): enough for any statistic."""
        if self._sample is None:
            self._sample = thin(self.images.detach(), SAMPLE_VOXELS)
        return self._sample

    def levels(self) -> Levels:
        """Return the levels of the images as they are now."""
        if self._levels is None:
            self._levels = measure_levels(self.sample())
        return self._levels

    def remember(self) -> None:
        """Keep mean and standard deviation as they are now in `reference`."""
        self.reference = moments(self.sample())


def in_pieces(*tensors: Tensor) -> bool:
    """Return whether to work piece by piece: on processors, where no gradients are recorded."""
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return tensors[0].device.type in PIECEWISE and not recorded


def pick(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Select along the first axis by indices known on the host: a view where that is possible."""
    if list(indices) == list(range(tensor.shape[0])):
        return tensor
    first = indices[0]
    if list(indices) == list(range(first, first + len(indices))):
        return tensor[first : first + len(indices)]
    return torch.stack([tensor[i] for i in indices])


def thin(images: Tensor, voxels: int) -> Tensor:
    """Return at most about `voxels` voxels of (B, C, …) on a regular grid, (B, C, M)."""
    shape = images.shape[2:]
    strides = strides_for(shape, voxels)
    grid = tuple(slice(s // 2, None, s) for s in strides)
    return images[(slice(None), slice(None), *grid)].reshape(*images.shape[:2], -1)


def measure_levels(sample: Tensor) -> Levels:
    """Return the levels of (B, C, M) voxels."""
    step = max(1, sample.shape[-1] // LEVEL_VOXELS)
    # Neighbours in the sample are neighbours in the image; a step that is odd does not stay on one line of it.
    ordered = sample[..., :: step | 1].sort(dim=-1).values
    last = ordered.shape[-1] - 1
    air = ordered[..., round(AIR_QUANTILE * last)]
    top = ordered[..., round(TOP_QUANTILE * last)]
    extremes = (ordered[..., -1] - ordered[..., 0]) * _EXTREME_SHARE
    return Levels(air, torch.maximum(top - air, extremes).clamp_min(_SMALLEST_SPAN), ordered)


Volume: TypeAlias = Tensor | Sequence[Tensor]
"""(K, …), or K of (…) that lie apart: to put them side by side would cost a copy."""


def voxelwise(
    function: Callable[..., Tensor], volumes: Sequence[Volume], numbers: Sequence[Tensor], into: Tensor | None = None
) -> Tensor:
    """Apply a function voxel by voxel: in chunks that fit a processor's cache, at once elsewhere.

    Parameters
    ----------
    function: takes the volumes, then the numbers, which broadcast, and `out` (None, or where the result has to be
        put); may change nothing in place that it was given.
    volumes: the first (K, …), the others as well or K of (…). numbers: (K,) each.
    into: (K, …) where the result is put, None for a new tensor; may be one of the volumes.
    """
    first = cast("Tensor", volumes[0])
    place = None if into is None else into.view(into.shape[0], -1)
    recorded = torch.is_grad_enabled() and any(v.requires_grad for volume in volumes for v in volume)
    if recorded or (not in_pieces(first) and all(isinstance(volume, Tensor) for volume in volumes)):
        stacked = (v if isinstance(v, Tensor) else torch.stack(tuple(v)) for v in volumes)
        flat = (volume.reshape(volume.shape[0], -1) for volume in stacked)
        return function(*flat, *(number[:, None] for number in numbers), out=place).view(first.shape)
    result = first.new_empty((len(first), first[0].numel())) if place is None else place
    step = CHUNK if in_pieces(first) else result.shape[1]
    for k in range(len(first)):
        rows, own = [volume[k].reshape(-1) for volume in volumes], [number[k] for number in numbers]
        for start in range(0, result.shape[1], step):
            part = slice(start, start + step)
            function(*(row[part] for row in rows), *own, out=result[k, part])
    return result.view(first.shape)


def widened(values: Tensor) -> Tensor:
    """Return values in double precision where the device has it: Apple's has not."""
    return values.float() if values.device.type == "mps" else values.double()


def moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of (B, C, M), each (B, C)."""
    if not in_pieces(sample):
        variance, mean = torch.var_mean(sample, dim=-1, correction=0)
        return mean, variance.sqrt()
    # On a processor that takes ten times as long.
    mean = sample.mean(dim=-1)
    return mean, (sample - mean[..., None]).square().mean(dim=-1).sqrt()


def spatial(values: Tensor, dim: int) -> Tensor:
    """Append `dim` axes of size one: (B, C) -> (B, C, 1, 1, 1)."""
    return values.reshape(*values.shape, *([1] * dim))


def strides_for(shape: Sequence[int], voxels: int) -> list[int]:
    """Return steps per axis that keep about `voxels` of a grid; the longest axes are thinned first."""
    strides = [1] * len(shape)
    while math.prod(math.ceil(n / s) for n, s in zip(shape, strides, strict=True)) > 1.25 * voxels:
        left = [n / s for n, s in zip(shape, strides, strict=True)]
        strides[left.index(max(left))] += 1
    return strides
