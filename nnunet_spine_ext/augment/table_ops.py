"""What needs the histogram: operations on tables, on the device, without reading anything back.

Shapes: `values` (K, R, N) float32 are K tables (one per sample and channel) of R rows (one per label, or one) at N
nodes, in units of the signal; `counts` (K, R, N) is how many voxels of the sample lie at each node. Counts are whole
numbers, because sums of those do not depend on the order in which a device adds them. The pipeline gives them as
float32, half as large as int64: below 2^24 these are whole as well.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment import table_slopes
from nnunet_spine_ext.augment.table_axis import LOW, NODES, axis_on, per_unit

BINS = 256
_TINY = 1e-6
_LARGEST_GAIN = 8.0


def histogram(position: Tensor, rows: Tensor | None, count: int, nodes: int = NODES) -> Tensor:
    """Count voxels at their nearest node, (K, R, N) float32.

    Parameters
    ----------
    position: (K, M) from `table_axis.positions`. rows: (K, M) int64 row of each voxel, or None. count: rows R.
    """
    # Clipped as a whole number: one that is none would stay none, and be outside.
    index = (position - 0.5).to(torch.int64).clamp_(0, nodes - 1)
    if rows is not None:
        index.add_(rows, alpha=nodes)
    flat = torch.zeros((index.shape[0], count * nodes), dtype=torch.float32, device=index.device)
    ones = torch.ones((), dtype=torch.float32, device=index.device).expand(index.shape)
    return flat.scatter_add_(1, index, ones).view(-1, count, nodes)


def statistics(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over rows and nodes, each (K, 1, 1); zero where there is no voxel."""
    weights = counts.to(values.dtype)
    total = _sum(weights).clamp_min(1)[:, None, None]
    mean = _sum(values * weights)[:, None, None] / total
    return mean, _sum((values - mean).square_().mul_(weights))[:, None, None].div(total).sqrt()


def _sum(values: Tensor) -> Tensor:
    """Sum (…, R, N) over nodes, then over rows in double precision.

    A table has as many rows as the one with most of them in the batch, the others empty: the sum is to be the same.
    """
    rows = values.sum(-1)
    return (rows.sum(-1) if rows.device.type == "mps" else rows.sum(-1, dtype=torch.float64)).to(values.dtype)


def row_statistics(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each row, (K, R, 1); rows without voxels take those of all."""
    shape = values.shape
    mean, sd = statistics(values.reshape(-1, 1, shape[2]), counts.reshape(-1, 1, shape[2]))
    empty = counts.sum(2, keepdim=True) == 0
    overall = statistics(values, counts)
    return tuple(
        torch.where(empty, whole, own.view(shape[0], shape[1], 1))
        for own, whole in zip((mean, sd), overall, strict=True)
    )  # type: ignore[return-value]


def keep_statistics(values: Tensor, before: Tensor, counts: Tensor) -> Tensor:
    """Scale and shift so that mean and standard deviation are those of `before`; counts are of the region meant."""
    weights = counts.to(values.dtype)
    both = torch.stack((values, before))
    total = _sum(weights).clamp_min(1)
    mean = _sum(both * weights) / total
    variance = _sum(both.sub_(mean[..., None, None]).square_().mul_(weights)) / total
    gain = (variance[1] / variance[0].clamp_min(_TINY**2)).sqrt().clamp_max(_LARGEST_GAIN)
    # Where nothing is left of the contrast there is nothing to stretch.
    gain = torch.where(variance[0] > _TINY**2, gain, 1.0)
    shift = torch.addcmul(mean[1], mean[0], gain, value=-1)
    return torch.addcmul(shift[:, None, None], values, gain[:, None, None])


def curve(values: Tensor, nodes: Tensor) -> Tensor:
    """Apply curves (K, N), given at the nodes, to tables; linear between and, with a bounded slope, beyond them."""
    count = nodes.shape[1]
    position = (values - LOW) * per_unit(count)
    index = position.clamp(0, count - 2).floor()
    part = (position - index).clamp_(-count, 2 * count)
    index = index.to(torch.int64).flatten(1)
    low, high = nodes.gather(1, index), nodes.gather(1, index + 1)
    return torch.lerp(low.view_as(values), high.view_as(values), part)


def about_mean(values: Tensor, counts: Tensor, factor: Tensor, preserve: Tensor) -> Tensor:
    """Stretch about the mean of the region by (K,) factors; `preserve` (K,) 1 clips to the region's own range."""
    mean, _ = statistics(values, counts)
    low, high = extent(values, counts)
    stretched = mean + (values - mean) * factor[:, None, None]
    clipped = torch.minimum(torch.maximum(stretched, low), high)
    return torch.lerp(stretched, clipped, preserve[:, None, None])


def labelwise(values: Tensor, counts: Tensor, carry: Tensor, offset: Tensor, gain: Tensor) -> Tensor:
    """Give rows new means and spreads: carry * mean + offset + gain * (value - mean), all (K, R).

    Nothing becomes darker than air that was not.
    """
    mean, _ = row_statistics(values, counts)
    target = (carry[..., None] * mean + offset[..., None]).clamp_min(0)
    return torch.maximum(target + gain[..., None] * (values - mean), values.clamp_max(0))


def extent(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest value that any voxel of the region has, (K, 1, 1); 0 and 1 without voxels."""
    occupied = counts > 0
    big = torch.full_like(values, 1e9)
    low = torch.where(occupied, values, big).amin((1, 2), keepdim=True)
    high = torch.where(occupied, values, -big).amax((1, 2), keepdim=True)
    none = low > high
    return torch.where(none, torch.zeros_like(low), low), torch.where(none, torch.ones_like(high), high)


class Distribution:
    """The distribution of table values over the voxels of a region, in `BINS` bins between its extremes."""

    def __init__(self, values: Tensor, counts: Tensor) -> None:
        self.low, self.high = extent(values, counts)
        self.width = (self.high - self.low).clamp_min(_TINY)
        index = self.position(values).to(torch.int64).clamp(0, BINS - 1)
        zeros = torch.zeros((values.shape[0], BINS), dtype=counts.dtype, device=values.device)
        self.bins = zeros.scatter_add_(1, index.flatten(1), counts.flatten(1))
        self.cumulated = self.bins.cumsum(1)
        self.total = self.cumulated[:, -1:].clamp_min(1)

    @cached_property
    def moments(self) -> Tensor:
        """Sums of the powers 0, 1, 2 of twice the middles of the bins over the voxels below each edge, int64.

        (3, K, BINS + 1)
        """
        powers = self.bins.to(torch.int64) * _powers(self.bins.device)[:, None]
        return functional.pad(powers.cumsum(2), (1, 0))

    def position(self, values: Tensor) -> Tensor:
        """Return where values lie among the bins, 0 to BINS, unclipped."""
        return (values - self.low) / self.width * BINS

    def share_below(self, values: Tensor) -> Tensor:
        """Return the part of the voxels that are darker, 0 to 1, continuous and monotone."""
        position = self.position(values).clamp(0, BINS)
        index = position.to(torch.int64).clamp_(0, BINS - 1)
        flat = index.flatten(1)
        inside = self.bins.gather(1, flat).view_as(values).to(values.dtype)
        below = (self.cumulated - self.bins).gather(1, flat).view_as(values).to(values.dtype)
        return (below + inside * (position - index)) / self.total[..., None].to(values.dtype)

    def quantile(self, share: Tensor) -> Tensor:
        """Return the values below which (K, Q) shares of the voxels lie, (K, Q)."""
        wanted = share * self.total.to(share.dtype)
        index = torch.searchsorted(self.cumulated.to(share.dtype), wanted).clamp_max(BINS - 1)
        inside = self.bins.gather(1, index).to(share.dtype)
        below = self.cumulated.gather(1, index).to(share.dtype) - inside
        part = ((wanted - below) / inside.clamp_min(1)).clamp(0, 1)
        return self.low[:, 0] + (index + part) / BINS * self.width[:, 0]


@lru_cache(maxsize=8)
def _powers(device: torch.device) -> Tensor:
    """Return the powers 0, 1, 2 of twice the middles of the bins, (3, BINS) int64."""
    middle = torch.arange(BINS) * 2 + 1
    return torch.stack((torch.ones_like(middle), middle, middle * middle)).to(device)


def clamp(values: Tensor, counts: Tensor, shares: Tensor) -> Tensor:
    """Clip to the quantiles at shares (K, 2) of the region."""
    low, high = Distribution(values, counts).quantile(shares).split(1, dim=1)
    return torch.minimum(torch.maximum(values, low[..., None]), high[..., None])


def equalise(values: Tensor, counts: Tensor) -> Tensor:
    """Make all values of the region between its extremes equally frequent."""
    distribution = Distribution(values, counts)
    return distribution.low + distribution.width * distribution.share_below(values)


def match(
    values: Tensor, counts: Tensor, targets: Tensor, air: Tensor | None = None, floor: Tensor | None = None
) -> Tensor:
    """Give every row the distribution whose quantiles at equal steps from 0 to 1 are `targets` (K, R, Q).

    No steeper than `table_slopes` has it. `air`: (K, R) 1 for rows whose nodes up to `floor` (K,), the noise of air,
    are not matched but stay as they are, and what is little brighter is changed little.
    """
    shape = values.shape
    empty = None
    if air is not None and floor is not None:
        empty = (axis_on(values.device, shape[2]) <= floor[:, None, None]) & (air > 0)[..., None]
        counts = counts.masked_fill(empty, 0)
    rows, row_counts = values.reshape(-1, 1, shape[2]), counts.reshape(-1, 1, shape[2])
    distribution = Distribution(rows, row_counts)
    steps = torch.arange(BINS + 1, device=values.device, dtype=values.dtype) / BINS
    edges = distribution.low + steps * distribution.width
    goals = _between(targets.reshape(-1, targets.shape[2]), distribution.share_below(edges)[:, 0], 1)
    goals = table_slopes.gentle(goals, table_slopes.reach(edges[:, 0]))
    matched = _between(goals, distribution.position(rows)[:, 0].clamp(0, BINS), BINS).view(shape)
    if empty is None or floor is None:
        return matched
    place = ((floor - LOW) * per_unit(shape[2])).to(torch.int64).clamp_(0, shape[2] - 1)
    last = values.gather(2, place[:, None, None].expand(-1, shape[1], 1))
    kept = torch.where(empty, values, table_slopes.near(matched, last, last, values))
    return torch.where((air > 0)[..., None], kept, matched) if air is not None else kept


def _between(curves: Tensor, position: Tensor, length: float) -> Tensor:
    """Return the values of curves (K, Q) over 0 to `length` at positions (K, N) within it."""
    position = position * ((curves.shape[1] - 1) / length)
    index = position.to(torch.int64).clamp_(0, curves.shape[1] - 2)
    return torch.lerp(curves.gather(1, index), curves.gather(1, index + 1), position - index)
