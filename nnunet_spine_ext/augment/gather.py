"""The same as `resample.by_grid`, for the CPU, where PyTorch's `grid_sample` for volumes is not vectorised.

Cells and weights are computed once, in pieces that stay in the cache, and serve the images and labels of any number
of channels. Only the part of the source that is read is copied, with a frame of air around it: so nothing has to be
asked about borders, voxel by voxel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import spatial
from nnunet_spine_ext.augment.lattice import between_nodes
from nnunet_spine_ext.augment.resample import OUTSIDE, Motion

PIECE_VOXELS = 131072
_INDEX = torch.int32


@dataclass(frozen=True)
class Still:
    """A source axis that is read in whole voxels, start, start + step, …, along the same axis of the target."""

    axis: int
    start: int
    step: int


@dataclass(frozen=True)
class Footprint:
    """What the host knows about one sample: which part of the source is read.

    `low`, `high`: voxels of the source that are read, per axis. `inside`: whether no position lies outside of the
    source. `still`: axes that nothing is interpolated along.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    inside: bool
    still: tuple[Still, ...] = ()


def by_gather(
    image: Tensor,
    labels: Tensor | None,
    motion: Motion,
    footprint: Footprint,
    air: Tensor,
    out: Tensor,
    out_labels: Tensor | None,
) -> None:
    """Sample one image (C, *source) and its labels (K, *source) into `out` (C, *shape) and `out_labels`.

    `motion`: of this sample alone. `air`: (C,).
    """
    framed = _framed(image, footprint, air)
    ids = None
    if labels is not None:
        ids = _framed(labels, footprint, labels.new_full(labels.shape[:1], OUTSIDE)).flatten(1)
    quiet = [still.axis for still in footprint.still]
    moving = [stride for axis, stride in enumerate(framed.stride()[1:]) if axis not in quiet]
    corners = [sum(itertools.compress(moving, bits)) for bits in itertools.product((0, 1), repeat=len(moving))]
    for piece, positions in _pieces(motion, footprint, image.shape[1:]):
        cell, nearest, weights = _locate(positions, framed.shape[1:], ids is not None)
        for channel, values in enumerate(framed.flatten(1)):
            _interpolate(values, cell, corners, weights, out[channel, piece].view(-1))
        if ids is not None and out_labels is not None:
            for channel, values in enumerate(ids):
                torch.index_select(values, 0, nearest, out=out_labels[channel, piece].view(-1))


def _framed(values: Tensor, footprint: Footprint, outside: Tensor) -> Tensor:
    """Return the part that is read, (C, …), in a frame of `outside` (C,).

    One voxel before and two behind: the cell of a position that is clamped to the first voxel behind has a corner
    there and one further.
    """
    part = values[(slice(None), *map(slice, footprint.low, footprint.high))]
    shape = [n + 3 for n in part.shape[1:]]
    framed = spatial(outside, len(shape)).expand(-1, *shape).contiguous()
    framed[(slice(None), *[slice(1, -2)] * len(shape))] = part
    return framed


def _pieces(motion: Motion, footprint: Footprint, source: Sequence[int]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield slices of the first axis with the positions per source axis, in voxels of the framed part.

    Positions are float32 and may be changed, or whole numbers for an axis that stands still.
    """
    fields = _fields(motion, footprint, source)
    thickness = max(1, PIECE_VOXELS // math.prod(motion.shape[1:]))
    for start in range(0, motion.shape[0], thickness):
        piece = slice(start, min(start + thickness, motion.shape[0]))
        positions = [field.at(piece) for field in fields]
        if not footprint.inside:
            for position, low, high in zip(positions, footprint.low, footprint.high, strict=True):
                if position.is_floating_point():
                    position.clamp_(0, high - low + 1)
        yield piece, positions


class _Field(Protocol):
    """Positions along one source axis."""

    def at(self, piece: slice) -> Tensor:
        """Return those of a slice of the target's first axis; the tensor may be changed."""


@dataclass(frozen=True, eq=False)
class _Whole:
    """Whole voxels: counted along the first axis (`sliced`) or one of the others, shaped to broadcast."""

    voxels: Tensor
    sliced: bool

    def at(self, piece: slice) -> Tensor:
        return self.voxels[piece] if self.sliced else self.voxels


@dataclass(frozen=True, eq=False)
class _Sum:
    """One term along the first axis plus one in the plane of the others."""

    first: Tensor
    rest: Tensor

    def at(self, piece: slice) -> Tensor:
        return spatial(self.first[piece], self.rest.dim()) + self.rest


@dataclass(frozen=True, eq=False)
class _Planes:
    """Positions on the nodes of the first axis, of `size` voxels, and on all voxels of the others."""

    planes: Tensor
    size: int

    def at(self, piece: slice) -> Tensor:
        return _refined(self.planes, 0, self.size, piece)


def _refined(values: Tensor, axis: int, size: int, piece: slice = slice(None)) -> Tensor:
    """Interpolate along one axis from display nodes to voxels; no matrix product, which may be of low precision."""
    below, fraction = (torch.from_numpy(x[piece]).to(values.device) for x in between_nodes(size))
    above = (below + 1).clamp_(max=values.shape[axis] - 1)
    low, high = (torch.index_select(values, axis, index) for index in (below, above))
    return low.lerp_(high, spatial(fraction, values.dim() - 1 - axis))


def _fields(motion: Motion, footprint: Footprint, source: Sequence[int]) -> list[_Field]:
    """Return the positions per source axis, scaled from normalised to voxels of the framed part."""
    still = {item.axis: item for item in footprint.still}
    terms = motion.terms() if motion.nodes is None else None
    device = motion.device
    fields: list[_Field] = []
    for axis, size in enumerate(source):
        component, scale = len(source) - 1 - axis, size / 2
        offset = scale + 0.5 - footprint.low[axis]
        if axis in still:
            voxels = _whole(still[axis], footprint, motion.shape)
            fields.append(_Whole(voxels.to(device), axis == 0))
        elif terms is not None:
            fields.append(_Sum(terms[0][0, component] * scale, terms[1][0, component] * scale + offset))
        elif motion.nodes is not None:
            planes = motion.nodes[0, component] * scale + offset
            for other, count in enumerate(motion.shape[1:], start=1):
                planes = _refined(planes, other, count)
            fields.append(_Planes(planes, motion.shape[0]))
    return fields


def _whole(still: Still, footprint: Footprint, shape: Sequence[int]) -> Tensor:
    steps = torch.arange(shape[still.axis], dtype=_INDEX) * still.step
    return spatial(steps + (still.start - footprint.low[still.axis] + 1), len(shape) - 1 - still.axis)


def _locate(
    positions: Sequence[Tensor], shape: Sequence[int], with_nearest: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the flat index of the lower corner of each cell, of the nearest voxel, and the weights of upper corners.

    `shape`: of the framed part. Positions are used up.
    """
    cell = nearest = torch.zeros((), dtype=_INDEX, device=positions[0].device)
    weights = []
    for position, size in zip(positions, shape, strict=True):
        if not position.is_floating_point():
            cell, nearest = torch.add(position, cell, alpha=size), torch.add(position, nearest, alpha=size)
            continue
        cell = torch.add(position.to(_INDEX), cell, alpha=size)
        if with_nearest:
            nearest = torch.add((position + 0.5).to(_INDEX), nearest, alpha=size)
        weights.append(position.frac_().view(-1))
    return cell.view(-1), nearest.view(-1), weights


def _interpolate(values: Tensor, cell: Tensor, corners: Sequence[int], weights: Sequence[Tensor], out: Tensor) -> None:
    """Interpolate between the corners of the cells, along the last axis first."""
    level = [torch.index_select(values[corner:], 0, cell) for corner in corners]
    for weight in reversed(weights[1:]):
        level = [low.lerp_(high, weight) for low, high in zip(level[::2], level[1::2], strict=True)]
    torch.lerp(level[0], level[1], weights[0], out=out)
