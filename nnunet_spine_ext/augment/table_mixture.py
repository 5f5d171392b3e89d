"""Gaussian mixtures fitted to histograms by expectation-maximisation. On the device, no read-back.

Classes of k-means are equally wide as seen from their borders. Those of a mixture are as wide and as frequent as the
image has them: the narrow peak of air ends where air ends, not half way to the next tissue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_spine_ext.augment.table_classes import NOWHERE, centres
from nnunet_spine_ext.augment.table_ops import BINS, Distribution

_ROUNDS = 20
# In bins: no component is narrower than the bin it lies in.
_NARROWEST = 0.3
_SMALLEST = 1e-6


def fit(distribution: Distribution, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Fit `count` (K,) components, at most `most`, to each distribution.

    Returns
    -------
    Their means in bins, ascending, (K, most), those beyond `count` out of reach; and the borders between neighbours,
    (K, most - 1): where both are equally likely.
    """
    # Bins, not voxels, are weighted: counts of one image sum to one.
    share = (distribution.bins / distribution.total.clamp_min(1)).float()
    place = torch.arange(BINS, device=share.device, dtype=torch.float32) + 0.5
    real = torch.arange(most, device=share.device)[None] < count[:, None]
    mean = centres(distribution, count, most)
    weight = real / count[:, None]
    deviation = torch.where(real, BINS / (4 * count[:, None]), 1.0)
    for _ in range(_ROUNDS):
        likely = _log_likelihood(place, mean, deviation, weight).softmax(dim=1) * share[:, None]
        total = likely.sum(dim=2)
        found = real & (total > _SMALLEST)
        new = (likely * place).sum(dim=2) / total.clamp_min(_SMALLEST)
        mean = torch.where(found, new, mean)
        squares = (likely * (place - mean[..., None]).square()).sum(dim=2) / total.clamp_min(_SMALLEST)
        deviation = torch.where(found, squares.sqrt().clamp_min(_NARROWEST), deviation)
        weight = torch.where(real, total.clamp_min(_SMALLEST), 0.0)
    mean, order = mean.sort(dim=1)
    likely = _log_likelihood(place, mean, deviation.gather(1, order), weight.gather(1, order))
    return mean, _borders(likely, place, mean)


def _log_likelihood(place: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor) -> Tensor:
    """Return the logarithm of weight times density at the middle of each bin, (K, most, BINS)."""
    score = (place - mean[..., None]) / deviation[..., None]
    level = (weight.clamp_min(_SMALLEST**3) / deviation).log() - 0.5 * math.log(2 * math.pi)
    return level[..., None] - 0.5 * score.square()


def _borders(likely: Tensor, place: Tensor, mean: Tensor) -> Tensor:
    """Return where each component hands over to the next: as far from its mean as there are bins that are its own."""
    low, high = mean[:, :-1], mean[:, 1:].clamp_max(NOWHERE)
    between = (place > low[..., None]) & (place < high[..., None])
    own = (between & (likely[:, :-1] > likely[:, 1:])).sum(dim=2)
    return torch.minimum(low + own, high)
