"""Intensity classes: one-dimensional k-means on a histogram, and repainting by class. On the device, no read-back."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_spine_ext.augment.table_ops import BINS, Distribution

_ROUNDS = 5
# Centres of classes that a table does not have lie so far off that no value belongs to them.
NOWHERE = 1e6
# A table is as steep, within limits, as brings the spread of a class to this: what noise mixes would else become salt
# and pepper, and the texture of fat blobs.
_TEXTURE = 0.06
_SLOPES = (2.0, 5.0)


def centres(distribution: Distribution, count: Tensor, most: int) -> Tensor:
    """Return the centres of k-means classes in bins, ascending, (K, most).

    `count`: (K,) number of classes of each table, 2 to `most`; further centres lie out of reach. The first guess is
    equally spaced quantiles, so classes are those of the distribution and not of its range.
    """
    number = torch.arange(most, device=count.device, dtype=torch.float32)[None]
    shares = ((number + 0.5) / count[:, None]).clamp_max(1)
    first = (distribution.quantile(shares) - distribution.low[:, 0]) / distribution.width[:, 0] * BINS
    # Quantiles of an image that is mostly air coincide; a nudge keeps the order strict.
    first = first + number * 1e-3
    real = number < count[:, None]
    centre = torch.where(real, first, NOWHERE + number)
    sums = distribution.moments[:2]
    edge = torch.zeros((len(centre), most + 1), dtype=torch.int64, device=count.device)
    edge[:, -1] = BINS
    for _ in range(_ROUNDS):
        # Classes out of reach lie between edges at the end: nothing is in them.
        edge[:, 1:-1] = (centre[:, 1:] + centre[:, :-1]).mul_(0.5).round_().clamp_(0, BINS)
        inside, moment = sums.gather(2, edge.expand(2, -1, -1)).diff(dim=2)
        centre = torch.where(inside > 0, moment / (2 * inside).clamp_min(2), centre)
    return centre


def repaint(
    values: Tensor, counts: Tensor, count: Tensor, means: Tensor, texture: Tensor, sharpness: Tensor, sds: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the classes of the region new means.

    Parameters
    ----------
    values, counts: (K, R, N) tables and voxels of the region.
    count: (K,) number of classes. means, texture, sds: (K, most) new mean of each class, how much of the distance from
        its centre stays, noise level.
    sharpness: (K,) 1 blends linearly from centre to centre, 4 nearly in steps; between classes lie partial volumes.
        Classes whose centres are close get similar means, so that noise is not amplified more than fivefold, and less
        where a class is wide.

    Returns
    -------
    new values and noise levels, both (K, R, N).
    """
    distribution = Distribution(values, counts)
    centre = centres(distribution, count, means.shape[1])
    return paint(values, distribution, (centre, None), count, means, texture, sharpness, sds)


def paint(
    values: Tensor,
    distribution: Distribution,
    classes: tuple[Tensor, Tensor | None],
    count: Tensor,
    means: Tensor,
    texture: Tensor,
    sharpness: Tensor,
    sds: Tensor,
) -> tuple[Tensor, Tensor]:
    """Repaint classes that were found: their centres in bins and the borders between them, None: half way."""
    centre, border = classes
    bin_width = distribution.width[:, 0] / BINS
    means = _gentle(means, _reach(distribution, centre, bin_width) / sharpness[:, None])
    position = distribution.position(values).flatten(1)
    upper = torch.searchsorted(centre, position).clamp(1, max(1, means.shape[1] - 1))
    upper = torch.minimum(upper, (count[:, None].to(torch.int64) - 1).clamp_min(1))
    lower = upper - 1
    left, right = centre.gather(1, lower), centre.gather(1, upper)
    if border is None:
        part = ((position - left) / (right - left).clamp_min(1e-3)).clamp(0, 1)
    else:
        middle = border.gather(1, lower)
        before = (position - left) / (middle - left).clamp_min(1e-3)
        part = 0.5 * before.clamp(0, 1) + 0.5 * ((position - middle) / (right - middle).clamp_min(1e-3)).clamp(0, 1)
    part = ((part - 0.5) * sharpness[:, None] + 0.5).clamp(0, 1)
    kept = torch.lerp(texture.gather(1, lower), texture.gather(1, upper), part)
    distance = torch.lerp(position - left, position - right, part) * bin_width
    painted = torch.lerp(means.gather(1, lower), means.gather(1, upper), part) + kept * distance
    noise = torch.lerp(sds.gather(1, lower), sds.gather(1, upper), part)
    return torch.maximum(painted.view_as(values), values.clamp_max(0)), noise.view_as(values)


def _reach(distribution: Distribution, centre: Tensor, bin_width: Tensor) -> Tensor:
    """Return how far the mean of every class may be from that of the darkest, (K, n): steps as `_SLOPES` bear them.

    The wider the classes on both sides of a border, the less steep: what is wide is noise, texture, or cut in two.
    """
    edge = ((centre[:, 1:] + centre[:, :-1]) / 2).round().clamp(0, BINS).to(torch.int64)
    edge = torch.nn.functional.pad(torch.nn.functional.pad(edge, (1, 0)), (0, 1), value=BINS)
    number, first, second = distribution.moments.gather(2, edge.expand(3, -1, -1)).diff(dim=2)
    number = number.clamp_min(1)
    spread = (second / number - (first / number).square()).clamp_min(0).sqrt() / 2 * bin_width
    wider = torch.maximum(spread[:, 1:], spread[:, :-1]).clamp_min(_TEXTURE / _SLOPES[1])
    steps = centre.diff(dim=1) * bin_width * (_TEXTURE / wider).clamp_min(_SLOPES[0])
    return torch.nn.functional.pad(steps.cumsum(1), (1, 0))


def _gentle(means: Tensor, reached: Tensor) -> Tensor:
    """Return means (K, n) that differ by no more than what `_reach` has, (K, n).

    The mean of the largest such values below and the smallest above the given ones; means far enough apart stay.
    Classes that noise mixes would else become salt and pepper.
    """
    room = (reached[:, :, None] - reached[:, None, :]).abs()
    below = (means[:, None, :] + room).amin(dim=2)
    return (below + (means[:, None, :] - room).amax(dim=2)) / 2
