"""How far above the air level the noise of air reaches, if there is air at all. On the device, without read-back.

The darkest voxels are either air or dark tissue. Air is told by its noise: neighbours in it differ by as much as they
are bright (Rayleigh), neighbours in tissue by much less. The numbers below separate whole images from patches without
air in T1w, T2w, T2*w, MT, STIR of several scanners, real and digital.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import Levels, strides_for, widened

PAIR_VOXELS = 2048

# The noise of air ends near three times its median (3.8 sd of a Rayleigh distribution whose median is 1.18 sd).
_ENDS = 3.2
# Mean difference of neighbours over their median: air of real scans 0.41-0.83, dark tissue up to 0.38.
_DIFFERENCE = (0.36, 0.42)
# In units of the span: noise is weaker than the first, what is brighter than the second is tissue.
_BRIGHTNESS = (0.15, 0.165)
_STEPS = 4096


def noise_floor(images: Tensor, levels: Levels) -> Tensor:
    """Return the floor above the air level in intensities, (B, C); zero where there is no air.

    Parameters
    ----------
    images: (B, C, …); levels: of these images.
    """
    signal = ((levels.ordered - levels.air[..., None]) / levels.span[..., None]).clamp(-1, 4)
    # Whole numbers, because their sums do not depend on the order of summation.
    cumulated = (signal * _STEPS).to(torch.int64).cumsum(-1)
    every = torch.full_like(cumulated[..., :1], cumulated.shape[-1])
    # Two guesses: all dark voxels are air, or only the darkest of them.
    first = _split(cumulated, every)
    dark = torch.stack((first, _split(cumulated, first)))
    signal = signal.expand(2, *signal.shape)
    median, limit = signal.gather(-1, dark // 2)[..., 0], signal.gather(-1, dark)
    floor = median * _ENDS
    share = _ramp(_difference(images, levels, median, limit), *_DIFFERENCE) * (1 - _ramp(floor, *_BRIGHTNESS))
    return (floor.clamp_min(0) * share).amax(dim=0) * levels.span


def _split(cumulated: Tensor, count: Tensor) -> Tensor:
    """Return the number of voxels in the darker of two classes (Otsu) of the first `count` voxels, both (…, 1)."""
    size = cumulated.shape[-1]
    number = torch.arange(1, size + 1, device=cumulated.device)
    share = number / count.clamp_min(1)
    below = widened(cumulated)
    excess = torch.addcmul(below, widened(share), below.gather(-1, (count - 1).clamp_min(0)), value=-1)
    separation = excess.square() / (share - share.square()).clamp_min(0.5 / size)
    # At least three voxels, so that there is something left to split and a median.
    split = torch.where(number < count, separation, -1.0).argmax(dim=-1, keepdim=True)
    return split.clamp_min(min(2, size - 1))


def _difference(images: Tensor, levels: Levels, median: Tensor, limit: Tensor) -> Tensor:
    """Return the mean difference of dark neighbours in units of the median, (2, B, C): along the axis of the smallest.

    `median`: (2, B, C) of dark voxels. `limit`: (2, B, C, 1) above which a voxel is not dark.
    """
    dim = images.dim() - 2
    axes = [axis for axis in range(dim) if images.shape[2 + axis] > 1]
    if not axes:
        return torch.zeros_like(median)
    sizes = [max(1, n - 1) for n in images.shape[2:]]
    strides = strides_for(sizes, PAIR_VOXELS)

    def grid(shifted: int | None) -> Tensor:
        slices = [
            slice(s // 2 + (axis == shifted), n + (axis == shifted), s)
            for axis, (s, n) in enumerate(zip(strides, sizes, strict=True))
        ]
        voxels = images.detach()[(slice(None), slice(None), *slices)].flatten(2)
        return (voxels - levels.air[..., None]) / levels.span[..., None]

    here = grid(None)
    beside = torch.stack([grid(axis) for axis in axes])[:, None]
    dark = torch.maximum(here, beside) < limit
    difference = torch.minimum((here - beside).abs(), 2 * median[..., None].clamp_min(0)) * dark
    mean = difference.sum(-1) / dark.sum(-1).clamp_min(1)
    return (mean / median.clamp_min(_DIFFERENCE[0] / _STEPS)).amin(dim=0)


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    """Return 0 below `low`, 1 above `high`, linear between."""
    return ((values - low) / (high - low)).clamp(0, 1)
