"""Whether operators do what their names say, and whether a seed decides all: the same checks for every software.

This file is also imported by the interpreter of another software's environment: nothing of the project may be imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from augmentation_measure import Patch, Runner, identical
from torch import Tensor

Operator = Callable[[Tensor, int], Tensor]
"""From images (1, 1, Z, Y, X) and a seed to images."""

SMALL = (12, 20, 16)


def alias(operator: Operator, draws: int = 20) -> float:
    """Return the amplitude left of a wave of 0.45 cycles per voxel, the smallest of some draws, mid patch.

    The smallest, because an operator may act along another axis.
    """
    size = 240
    wave = torch.cos(2 * torch.pi * 0.45 * torch.arange(size) + 0.4).expand(1, 1, 24, 24, size).contiguous() + 2.0
    found = [operator(wave.clone(), seed)[..., size // 4 : -size // 4] for seed in range(draws)]
    return min(float(f.double().std(dim=-1, unbiased=False).mean()) for f in found) * math.sqrt(2)


def blur_deviation(operator: Operator, draws: int) -> float:
    """Return the largest standard deviation, in voxels, of what becomes of a bright voxel along any axis."""
    size = 33
    point = torch.zeros(1, 1, size, size, size)
    point[..., size // 2, size // 2, size // 2] = 1000.0
    place = torch.arange(size, dtype=torch.float64) - size // 2
    largest = 0.0
    for seed in range(draws):
        result = operator(point.clone(), seed)[0, 0].double()
        for axis in range(3):
            profile = result.sum(dim=tuple(a for a in range(3) if a != axis))
            largest = max(largest, math.sqrt(abs(float((profile * place**2).sum() / profile.sum()))))
    return largest


def noisy_air(operator: Operator) -> dict[str, float]:
    """Return mean over standard deviation, and the share below air, of empty space with noise."""
    image = torch.zeros(1, 1, 64, 128, 128)
    image[..., 64:] = 1.0 + torch.linspace(0, 1, 64)
    air = operator(image.clone(), 1)[..., :60].double()
    return {"mean_over_sd": float(air.mean() / air.std()), "share_below_air": float((air < 0).double().mean())}


def air_spread(operator: Operator, draws: int = 20) -> float:
    """Return by how much a bias field makes the spread of air grow in a z-scored image, mean of some draws."""
    generator = torch.Generator().manual_seed(4)
    # Rayleigh noise of 2 % of the brightest tissue: a good clinical image.
    parts = 0.03 * torch.randn((2, 1, 1, 32, 64, 64), generator=generator)
    image = torch.hypot(parts[0], parts[1])
    tissue = 1.0 + 0.5 * torch.rand((1, 1, 32, 64, 32), generator=generator)
    image[..., 32:] = tissue
    image = (image - image.mean()) / image.std()
    before = image[..., :28].double().std()
    grown = [float(operator(image.clone(), seed)[..., :28].double().std() / before) for seed in range(draws)]
    return float(np.mean(grown))


def small_patch(seed: int, count: int = 2) -> Patch:
    """Return a small batch with air, four brightnesses and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(SMALL[1]) * 4 // SMALL[1])[:, None].expand(SMALL).to(torch.int16)
    image = labels + 0.2 * torch.randn((count, 1, *SMALL), generator=generator)
    image[..., :4] *= 0.02
    image = (image - image.mean()) / image.std()
    return Patch(image.float(), labels.expand(count, 1, *SMALL).contiguous(), SMALL, (3.0, 1.0, 1.0))


def reproducibility(runner: Runner, number: int) -> dict[str, int]:
    """Return in how many of `number` seeds a sample is bit-equal when repeated, and beside another neighbour."""
    one, other = small_patch(0), small_patch(1)
    beside = Patch(torch.cat((one.image[:1], other.image[1:])), one.labels.clone(), one.shape, one.spacing)
    # The neighbour has other labels too.
    beside.labels[1] = beside.labels[1].flip(-2)
    return {
        "number": number,
        "same_seed": sum(identical(runner, (one, one), seed) for seed in range(number)),
        "other_neighbour": sum(identical(runner, (one, beside), seed) for seed in range(number)),
    }
