"""First stage: all geometry of a sample as one map from the target to the source, sampled once.

Transforms act on the image in the order in which they are called, in mm about the centre of the patch. Their matrices
are multiplied; a deformation acts after all of them. Samples whose map takes voxels to voxels (no geometry at all,
flips, quarter turns, whole steps) are copied without interpolation. The centre of the target lies where the plain
centre crop of the source would put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, Batch, in_pieces, pick, spatial, thin
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.gather import Footprint, Still, by_gather
from nnunet_spine_ext.augment.lattice import node_positions, unfold
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot
from nnunet_spine_ext.augment.resample import OUTSIDE, Motion, Pair, by_grid

Array = NDArray[np.float64]

_GATHERING = ("mps",)
"""Devices without `grid_sample` for volumes; that of processors is slow."""
_WHOLE = 1e-6
_MARGIN = 0.01


@dataclass(frozen=True)
class Copied:
    """A sample that is copied: a box of the source, mirrored along `flips`, its axes in the order `order`."""

    index: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    flips: tuple[int, ...]
    order: tuple[int, ...]

    def take(self, values: Tensor) -> Tensor:
        """Return the copy, or a view, of (C, *source)."""
        box = values[(slice(None), *map(slice, self.low, self.high))]
        box = box.flip([axis + 1 for axis in self.flips]) if self.flips else box
        return box.permute(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True)
class Moved:
    """Samples that are resampled together, as one motion.

    `positions`: packed affine maps, or with `deformed` display nodes. `inside`: nothing outside of the source is read.
    """

    indices: tuple[int, ...]
    positions: Slot
    deformed: bool
    inside: bool
    footprints: tuple[Footprint, ...]


@dataclass(frozen=True)
class Kept:
    """A sample whose field of view is restricted to a box of the target."""

    index: int
    low: tuple[int, ...]
    high: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What happens to a batch; every sample is in `copied` or in one of `moved`."""

    copied: tuple[Copied, ...]
    moved: tuple[Moved, ...]
    kept: tuple[Kept, ...]
    swapped: tuple[int, ...]
    swap: Slot | None


class Builder:
    """Collects the geometry of a batch."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._to_source = np.tile(np.eye(context.dim + 1), (count, 1, 1))
        self._fields: dict[int, Array] = {}
        self._boxes: dict[int, tuple[Array, Array]] = {}

    def compose(self, index: int, forward: Array) -> None:
        """Apply a matrix (D+1, D+1), in mm about the centre, after those so far; it says where the content goes."""
        self._to_source[index] = self._to_source[index] @ np.linalg.inv(forward)

    def deform(self, index: int, field: Array) -> None:
        """Add a displacement (D, *display nodes) in mm: the content at p + field(p) comes to p, after the matrices."""
        if index in self._fields:
            field = unfold(self._fields[index] + field, self._context.shape, self._context.spacing)
        self._fields[index] = field

    def restrict(self, index: int, low: Sequence[int], high: Sequence[int]) -> None:
        """Leave only voxels low ≤ v < high of the result; the rest becomes air, and -1 in labels."""
        before = self._boxes.get(index, (np.zeros(self._context.dim), np.asarray(self._context.shape)))
        self._boxes[index] = np.maximum(before[0], low), np.minimum(before[1], high)

    def pack(self, packer: Packer) -> Program | None:
        """Sort the samples into those that are copied and those that are resampled."""
        context = self._context
        moves = self._fields or self._boxes or (self._to_source != np.eye(context.dim + 1)).any()
        if not moves and context.source == context.shape:
            return None
        maps = [_in_voxels(matrix, context) for matrix in self._to_source]
        copied: list[Copied] = []
        groups: dict[tuple[bool, bool], list[tuple[int, Array, Footprint]]] = {}
        for index, (linear, shift) in enumerate(maps):
            field = self._fields.get(index)
            copy = _as_copy(index, linear, shift, context) if field is None else None
            if copy is not None:
                copied.append(copy)
                continue
            positions, footprint = _positions(linear, shift, field, context)
            groups.setdefault((field is not None, footprint.inside), []).append((index, positions, footprint))
        moved = [
            Moved(tuple(m[0] for m in group), packer.floats([m[1] for m in group]), *kind, tuple(m[2] for m in group))
            for kind, group in sorted(groups.items())
        ]
        swapped = tuple(i for i, (linear, _) in enumerate(maps) if _exchanges_sides(linear, context))
        kept = [Kept(index, _integers(low), _integers(high)) for index, (low, high) in sorted(self._boxes.items())]
        swap = packer.ints(_swap_table(context)) if swapped else None
        return Program(tuple(copied), tuple(moved), tuple(kept), swapped, swap)


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Warp the batch: every sample is read once and written once."""
    air = _air(batch.images, program)
    images = batch.images
    if batch.companions is not None:
        # They go the same way as further channels, with nothing instead of air around them.
        images = torch.cat((images, batch.companions), dim=1)
        nothing = images.new_zeros(batch.companions.shape[1])
        air = {index: torch.cat((level, nothing)) for index, level in air.items()}
    source = images, None if batch.labels is None else _signed(batch.labels)
    target = _resampled(batch, program, buffers, source, air)
    for kept in program.kept:
        _restrict(kept, *target, air[kept.index])
    if program.swap is not None and target[1] is not None:
        for index in program.swapped:
            _swap(target[1][index], buffers.ints(program.swap))
    if batch.companions is None:
        batch.replace(*target)
        return
    channels = batch.images.shape[1]
    batch.replace(target[0][:, :channels].contiguous(), target[1], target[0][:, channels:])


def _resampled(batch: Batch, program: Program, buffers: Buffers, source: Pair, air: dict[int, Tensor]) -> Pair:
    """Return new images and labels with every sample copied or moved."""
    shape = batch.context.shape
    gathers = in_pieces(batch.images) or (batch.device.type in _GATHERING and not batch.recorded)
    motions = []
    for moved in program.moved:
        positions = buffers.floats(moved.positions)
        motions.append(Motion(shape, *((None, positions) if moved.deformed else (positions, None))))
    images, labels = (None if x is None else x.new_empty((*x.shape[:2], *shape)) for x in source)
    target = cast("Pair", (images, labels))
    for copy in program.copied:
        for values, out in zip(source, target, strict=True):
            if values is not None and out is not None:
                out[copy.index].copy_(copy.take(values[copy.index]))
    for moved, motion in zip(program.moved, motions, strict=True):
        (_one_by_one if gathers else _together)(moved, motion, source, target, air)
    return target


def _one_by_one(moved: Moved, motion: Motion, source: Pair, target: Pair, air: dict[int, Tensor]) -> None:
    for row, index in enumerate(moved.indices):
        image, out = source[0][index], target[0][index]
        labels, out_labels = (None if x is None else x[index] for x in (source[1], target[1]))
        level = image.new_zeros(len(image)) if moved.inside else air[index]
        by_gather(image, labels, motion.of(row), moved.footprints[row], level, out, out_labels)


def _together(moved: Moved, motion: Motion, source: Pair, target: Pair, air: dict[int, Tensor]) -> None:
    labels = None if source[1] is None else pick(source[1], moved.indices)
    levels = None if moved.inside else torch.stack([air[index] for index in moved.indices])
    by_grid(pick(source[0], moved.indices), labels, motion, levels, target, moved.indices)


def _air(images: Tensor, program: Program) -> dict[int, Tensor]:
    """Return the lowest value (C,) of each sample that shows what lies outside of its source, on the sample grid."""
    shown = {index for moved in program.moved if not moved.inside for index in moved.indices}
    indices = sorted(shown | {kept.index for kept in program.kept})
    if not indices:
        return {}
    return dict(zip(indices, thin(pick(images.detach(), indices), SAMPLE_VOXELS).amin(dim=2), strict=True))


def _restrict(kept: Kept, images: Tensor, labels: Tensor | None, air: Tensor) -> None:
    """Fill everything outside of a box, side by side."""
    for axis, (low, high) in enumerate(zip(kept.low, kept.high, strict=True)):
        for side in (slice(0, low), slice(high, None)):
            part = (kept.index, slice(None), *[slice(None)] * axis, side)
            images[part] = spatial(air, images.dim() - 2)
            if labels is not None:
                labels[part] = OUTSIDE


def _swap(labels: Tensor, table: Tensor) -> None:
    """Add to each label of the table what leads to its other side; labels beyond the table stay."""
    row = (labels.to(torch.int32) - OUTSIDE).clamp_(0, len(table) - 1)
    labels.add_(torch.index_select(table.to(labels.dtype), 0, row.view(-1)).view(labels.shape))


def _signed(labels: Tensor) -> Tensor:
    """Return labels in a type that can hold -1."""
    if labels.dtype in (torch.bool, torch.uint8):
        return labels.to(torch.int16)
    return labels if labels.dtype.is_signed else labels.to(torch.int32)


def _swap_table(context: Context) -> NDArray[np.int64]:
    """Return what to add to label -1, 0, 1, …, and zero at the end for all others."""
    table = np.zeros(max(max(pair) for pair in context.sided_pairs) + 3, dtype=np.int64)
    for left, right in context.sided_pairs:
        table[left - OUTSIDE], table[right - OUTSIDE] = right - left, left - right
    return table


def _exchanges_sides(linear: Array, context: Context) -> bool:
    """Return whether the left-right axis of the target runs against that of the source."""
    axis = context.left_right_axis
    return axis is not None and bool(context.sided_pairs) and bool(linear[axis, axis] < -_WHOLE)


def _in_voxels(to_source: Array, context: Context) -> tuple[Array, Array]:
    """Return a map in mm about the centre as (linear, shift) from voxels of the target to voxels of the source."""
    spacing = np.asarray(context.spacing)
    dim = context.dim
    linear = to_source[:dim, :dim] * spacing / spacing[:, None]
    centre = (np.asarray(context.shape) - 1) / 2
    start = (np.asarray(context.source) - np.asarray(context.shape)) // 2
    return linear, start + centre + to_source[:dim, dim] / spacing - linear @ centre


def _as_copy(index: int, linear: Array, shift: Array, context: Context) -> Copied | None:
    """Return the copy that a map amounts to, or None if it falls between voxels or leaves the source."""
    whole, start = np.rint(linear), np.rint(shift)
    exact = np.abs(linear - whole).max() < _WHOLE and np.abs(shift - start).max() < _WHOLE
    if not exact or not np.array_equal(whole @ whole.T, np.eye(context.dim)):
        return None
    corners = np.stack([start, start + whole @ (np.asarray(context.shape) - 1)])
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    if (low < 0).any() or (high > np.asarray(context.source)).any():
        return None
    # Column a of the map has its entry at the source axis that runs along target axis a.
    order = _integers(np.abs(whole).argmax(axis=0))
    flips = tuple(axis for axis in range(context.dim) if whole[axis].sum() < 0)
    return Copied(index, _integers(low), _integers(high), flips, order)


def _positions(linear: Array, shift: Array, field: Array | None, context: Context) -> tuple[Array, Footprint]:
    """Return what is packed of a map, normalised and the last axis first, and its footprint."""
    dim, size = context.dim, np.asarray(context.source, dtype=np.float64)
    if field is None:
        middle = linear @ ((np.asarray(context.shape) - 1) / 2) + shift
        packed = np.column_stack([2 * linear / size[:, None], (2 * middle + 1) / size - 1])
        voxels = np.stack(np.meshgrid(*[(0, n - 1) for n in context.shape], indexing="ij")).reshape(dim, -1)
        reached = linear @ voxels + shift[:, None]
    else:
        moves = field / np.asarray(context.spacing).reshape(-1, *[1] * dim)
        voxels = np.stack(np.meshgrid(*node_positions(context.shape), indexing="ij")) + moves
        nodes = np.tensordot(linear, voxels, axes=1) + shift.reshape(-1, *[1] * dim)
        packed = (2 * nodes + 1) / size.reshape(-1, *[1] * dim) - 1
        reached = nodes.reshape(dim, -1)
    return packed[::-1], _footprint(reached, linear, shift, field, context)


def _footprint(reached: Array, linear: Array, shift: Array, field: Array | None, context: Context) -> Footprint:
    """Return which part of the source the positions (D, points) span; between them nothing lies further out."""
    size = np.asarray(context.source)
    least, most = reached.min(axis=1), reached.max(axis=1)
    low = np.clip(np.floor(least - _MARGIN), 0, size - 1)
    high = np.clip(np.ceil(most + _MARGIN) + 1, low + 1, size)
    inside = bool((least > -_WHOLE).all() and (most < size - 1 + _WHOLE).all())
    still = []
    for axis, row in enumerate(linear):
        step, start = round(row[axis]), round(shift[axis])
        alone = abs(step) == 1 and np.abs(row - step * np.eye(context.dim)[axis]).max() < _WHOLE
        ends = (start, start + step * (context.shape[axis] - 1))
        fits = abs(shift[axis] - start) < _WHOLE and min(ends) >= 0 and max(ends) < size[axis]
        if alone and fits and (field is None or not np.tensordot(linear, field, axes=1)[axis].any()):
            still.append(Still(axis, start, step))
    return Footprint(_integers(low), _integers(high), inside, tuple(still))


def _integers(values: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
