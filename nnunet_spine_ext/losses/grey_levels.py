"""Grey levels of images, and how often levels are neighbours: hard, soft, or hard forward and soft backward.

A pixel belongs to level b with the weight step_b(x) − step_{b+1}(x): the weights of a pixel sum to 1, and the first and
the last level are open. A soft step is a sigmoid of width tau, which becomes the hard one as tau goes to 0.

Images are flat here: rows end with one pixel that is in no region, planes with one such row. Then every direction is
one offset into the flat array, in two and three dimensions alike, and no pair wraps around an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.core.errors import UsageError

LevelMode = Literal["straight-through", "soft", "hard"]

MOST_LEVELS = 1024
# Products of so many soft equalities change the features by less than 8e-6 × pixels / runs.
LONGEST_SOFT_RUN = 64
# Float32 counts up to here without a gap.
_EXACT = 2**24


@dataclass(frozen=True, eq=False)
class Levels:
    """Memberships of flat images.

    Parameters
    ----------
    weights: (B, N, P), level by level; 0 outside the region.
    present: (B,), the highest level of a sample, counted from 1, as float64.
    pixels: (B,), of the region, as float64.
    offsets: flat offset of every direction.
    """

    weights: Tensor
    present: Tensor
    pixels: Tensor
    offsets: tuple[int, ...]


class _HardStep(torch.autograd.Function):
    """Whether x reaches an edge; the gradient is that of the sigmoid of width tau."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Tensor, tau: float) -> Tensor:
        ctx.save_for_backward(x, edges)
        ctx.tau = tau
        # Compared in double precision: 75 must not be below an edge at 75 that float32 cannot hold.
        return (x.double() >= edges).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, edges = ctx.saved_tensors
        step = torch.sigmoid((x - edges.to(x.dtype)) / ctx.tau)
        slope = gradients[0] * step * (1 - step) / ctx.tau
        edge = -slope.sum(dim=2, keepdim=True).to(edges.dtype) if ctx.needs_input_grad[1] else None
        return slope.sum(dim=1, keepdim=True), edge, None


class _HardRuns(torch.autograd.Function):
    """Sum over runs of 1 / length², minus the number of pixels, of equalities with the next pixel, 0 or 1.

    The sum of C(L)·(a(L) − 2a(L−1) + a(L−2)) over the numbers C(L) of windows of L equal pixels, a(L) = 1/L², is linear
    in every single equality. So its derivative is the difference that joining the runs on both sides makes, and needs
    no limit of the length.
    """

    @staticmethod
    def forward(ctx: Any, equal: Tensor, offset: int) -> Tensor:
        before = _ones_before(equal, offset)
        last = (equal > 0) & (functional.pad(equal, (0, offset))[:, offset:] == 0)
        ctx.save_for_backward(equal, before)
        ctx.offset = offset
        # A run of n pixels has n − 1 equalities; alone, its pixels would count 1 each. In double precision, because the
        # sum nearly cancels the number of pixels where runs are long.
        pixels = (before + 2).double()
        return torch.where(last, 1 / pixels.square() - pixels, 0.0).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        equal, before = ctx.saved_tensors
        after = _ones_before(equal.flip(1), ctx.offset).flip(1)
        left, right = (count.to(equal.dtype) + 1 for count in (before, after))
        change = (left + right).square().reciprocal() - left.square().reciprocal() - right.square().reciprocal()
        return gradients[0][:, None].to(equal.dtype) * change, None


def _ones_before(equal: Tensor, offset: int) -> Tensor:
    """Return how many ones precede every element of (B, P) without a gap, in steps of an offset, as int32."""
    samples, count = equal.shape
    rows = -(-count // offset)
    ones = functional.pad(equal, (0, rows * offset - count)).view(samples, rows, offset) > 0
    index = torch.arange(rows, dtype=torch.int32, device=equal.device)[:, None]
    zeros = torch.where(ones, -1, index).cummax(dim=1).values
    # The last zero before, not at, an element.
    zeros = functional.pad(zeros[:, :-1], (0, 0, 1, 0), value=-1)
    return (index - 1 - zeros).view(samples, -1)[:, :count]


def directions(spatial: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return one of every two opposite neighbours in Z, Y, X: 13, or the 4 inside the plane for a single plane."""
    steps = [step for step in product((0, 1), (-1, 0, 1), (-1, 0, 1)) if step > (0, 0, 0)]
    return tuple(step for step in steps if step[0] == 0 or spatial[0] > 1)


def to_levels(
    images: Tensor, region: Tensor, *, bin_width: float, bin_count: int | None, mode: LevelMode, tau: float
) -> Levels:
    """Return the memberships of images (B, Z, Y, X), float32 or float64 and finite, in a region (B, Z, Y, X), bool.

    Bins of a fixed width have their edges at its multiples; of a fixed count, they divide the range of a sample.

    Raises
    ------
    UsageError: more than 1024 levels.
    """
    padding = (0, 1, 0, 1 if images.shape[1] > 1 else 0)
    rows, columns = images.shape[2] + padding[3], images.shape[3] + 1
    offsets = tuple((dz * rows + dy) * columns + dx for dz, dy, dx in directions(images.shape[1:]))
    x, inside = (functional.pad(t, padding).flatten(1)[:, None] for t in (images, region))
    edges, present = _edges(x, inside, bin_width=bin_width, bin_count=bin_count)
    pixels = inside.sum(dim=(1, 2)).double()
    dtype = torch.float64 if x.shape[2] > _EXACT else x.dtype
    if mode == "soft":
        reached = torch.sigmoid((x - edges.to(x.dtype)) / tau)
    elif mode == "straight-through":
        reached = _HardStep.apply(x, edges, tau)
    else:
        reached = (x.double() >= edges).to(x.dtype)
    reached = (reached * inside).to(dtype)
    weights = torch.cat((inside.to(dtype), reached), dim=1) - functional.pad(reached, (0, 0, 0, 1))
    return Levels(weights, present, pixels, offsets)


def _edges(x: Tensor, inside: Tensor, *, bin_width: float, bin_count: int | None) -> tuple[Tensor, Tensor]:
    """Return the edges between levels (B, N − 1, 1), infinite above the levels of a sample, and the levels (B,)."""
    values, infinite = x.double(), torch.inf
    low = torch.where(inside, values, infinite).amin(dim=(1, 2))
    high = torch.where(inside, values, -infinite).amax(dim=(1, 2))
    # An empty region has one level.
    empty = ~inside.any(dim=2)[:, 0]
    low, high = low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
    if bin_count is None:
        first = (low.detach() / bin_width).floor()
        present = (high.detach() / bin_width).floor() - first + 1
        count = int(present.max())
        if count > MOST_LEVELS:
            raise UsageError(
                "E-LOSS-RANGE",
                found=f"{count} grey levels of width {bin_width:g} in one region",
                expected=f"at most {MOST_LEVELS}",
                fix="scale the images to 0-255, or give a wider bin_width or a bin_count",
            )
        number = torch.arange(1, count, device=x.device, dtype=torch.float64)
        edges = (first[:, None] + number) * bin_width
    else:
        present = torch.where(high > low, float(bin_count), 1.0)
        number = torch.arange(1, bin_count, device=x.device, dtype=torch.float64)
        edges = low[:, None] + number * ((high - low) / bin_count)[:, None]
    return torch.where(number < present[:, None], edges, infinite)[:, :, None], present


def share_a_line(region: Tensor) -> Tensor:
    """Return (B, A): a line in a direction meets two pixels of the region (B, Z, Y, X), side by side or not.

    Only then PyRadiomics counts the runs of a direction.
    """
    shape = region.shape[1:]
    places = [
        torch.arange(n, device=region.device).view([-1 if k == a else 1 for k in range(3)]) for a, n in enumerate(shape)
    ]
    found = []
    for step in directions(shape):
        axis = next(a for a in range(3) if step[a])
        # Where a line meets the plane through 0 across its first axis names it.
        along = places[axis] * step[axis]
        one, two = ((places[a] - along * step[a]).expand(shape) for a in range(3) if a != axis)
        number = (one - one.min()) * (two.max() - two.min() + 1) + two - two.min()
        met = region.new_zeros((len(region), int(number.max()) + 1), dtype=torch.int32)
        met.scatter_add_(1, number.flatten().expand(len(region), -1), region.flatten(1).int())
        found.append(met.amax(dim=1) > 1)
    return torch.stack(found, dim=1)


def pair_counts(levels: Levels) -> Tensor:
    """Return how often level j follows level i in every direction, (B, A, N, N), float64."""
    w = levels.weights
    counts = [torch.bmm(w[:, :, :-d], w[:, :, d:].transpose(1, 2)) for d in levels.offsets]
    return torch.stack(counts, dim=1).double()


def short_runs(levels: Levels, *, soft: bool) -> tuple[Tensor, Tensor]:
    """Return the sum over runs of 1 / length², and the number of runs, in every direction: both (B, A), float64."""
    emphasis, runs = [], []
    for offset in levels.offsets:
        equal = (levels.weights[:, :, :-offset] * levels.weights[:, :, offset:]).sum(dim=1)
        found = _soft_runs(equal, offset) if soft else _HardRuns.apply(equal, offset)
        emphasis.append(levels.pixels + found)
        runs.append(levels.pixels - equal.sum(dim=1, dtype=torch.float64))
    return torch.stack(emphasis, dim=1), torch.stack(runs, dim=1)


def _soft_runs(equal: Tensor, offset: int) -> Tensor:
    """Return what `_HardRuns` does for equalities between 0 and 1, from the windows of up to 64 pixels."""
    window, total = equal, equal.new_zeros(len(equal), dtype=torch.float64)
    for pixels in range(2, LONGEST_SOFT_RUN + 1):
        terms = [1 / n**2 if n else 0.0 for n in (pixels, pixels - 1, pixels - 2)]
        total = total + (terms[0] - 2 * terms[1] + terms[2]) * window.sum(dim=1, dtype=torch.float64)
        shift = (pixels - 1) * offset
        if shift >= equal.shape[1]:
            break
        window = window[:, :-offset] * equal[:, shift:]
    return total
