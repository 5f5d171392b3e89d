"""Fourth stage: what an acquisition does along single axes, one matrix per sample and axis.

Resolution, slices, windows and simulated low resolution are linear and separable: however many of them fire, an axis
costs one matrix product, and an axis on which nothing fires costs nothing. Before that come the few effects on the
object itself (`object_effects`). Where a matrix has negative weights (k-space truncation) the magnitude is taken, as
a scanner does: the part of the ringing that lies below air shows as bright.

Samples are processed one after the other: products of several would not sum in the same order as those of one, and
a sample must not change with its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nnunet_spine_ext.augment.axis_matrices import AxisWork, axis_matrix
from nnunet_spine_ext.augment.batch import Batch, voxelwise
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.object_effects import FatShift, Void, apply_void, fat_component, fat_share, pack_fat
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot

# Weights below this are rounding or interpolation of smooth parts; above, lobes that reach below air.
_RINGS = -0.002


@dataclass(frozen=True)
class Line:
    """What happens to one plane (sample, channel). `matrices`: packed, None for axes without change."""

    plane: tuple[int, int]
    matrices: tuple[Slot | None, ...]
    rings: bool
    voids: tuple[Void, ...]
    shifts: tuple[FatShift, ...]


@dataclass(frozen=True)
class Program:
    """One line per active plane, in order."""

    lines: tuple[Line, ...]


@dataclass
class _Plane:
    axes: list[AxisWork]
    voids: list[Void] = field(default_factory=list)
    shifts: list[tuple[int, float, tuple[tuple[int, float], ...]]] = field(default_factory=list)


class Builder:
    """Collects what happens along the axes of each sample and channel."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._planes: dict[tuple[int, int], _Plane] = {}

    def along(self, index: int, channels: Sequence[int], axis: int, work: AxisWork) -> None:
        """Add work along one axis; what is combined how is said by `AxisWork.and_then`."""
        for plane in self._of(index, channels):
            plane.axes[axis] = plane.axes[axis].and_then(work)

    def void(self, index: int, channels: Sequence[int], void: Void) -> None:
        """Add a void of the object."""
        for plane in self._of(index, channels):
            plane.voids.append(void)

    def shift_fat(
        self, index: int, channels: Sequence[int], axis: int, voxels: float, fat: Mapping[int, float]
    ) -> None:
        """Move fat along an axis. `fat`: fraction per label id, 0 if not named."""
        for plane in self._of(index, channels):
            plane.shifts.append((axis, voxels, tuple(sorted(fat.items()))))

    def pack(self, packer: Packer) -> Program | None:
        """Pack the matrices; equal ones, of several channels for example, once."""
        slots: dict[object, tuple[Slot | None, bool]] = {}
        shifts: dict[object, FatShift] = {}
        lines = []
        for key, plane in sorted(self._planes.items()):
            packed = [self._matrix(packer, slots, *item) for item in enumerate(plane.axes)]
            for shift in plane.shifts:
                if shift not in shifts:
                    axis, voxels, fat = shift
                    shifts[shift] = pack_fat(packer, self._context, axis, voxels, dict(fat))
            matrices = tuple(slot for slot, _ in packed)
            line = Line(
                key, matrices, any(r for _, r in packed), tuple(plane.voids), tuple(shifts[s] for s in plane.shifts)
            )
            if any(matrices) or line.voids or line.shifts:
                lines.append(line)
        return Program(tuple(lines)) if lines else None

    def _of(self, index: int, channels: Sequence[int]) -> list[_Plane]:
        empty = AxisWork()
        return [
            self._planes.setdefault((index, int(channel)), _Plane([empty] * self._context.dim)) for channel in channels
        ]

    def _matrix(
        self, packer: Packer, slots: dict[object, tuple[Slot | None, bool]], axis: int, work: AxisWork
    ) -> tuple[Slot | None, bool]:
        size, spacing = self._context.shape[axis], self._context.spacing[axis]
        key = (work, size, spacing)
        if key not in slots:
            matrix = None if work == AxisWork() else axis_matrix(work, size, spacing)
            slots[key] = (None, False) if matrix is None else (packer.floats(matrix), bool(matrix.min() < _RINGS))
        return slots[key]


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Acquire the active planes."""
    lines = program.lines
    levelled = any(line.rings or line.voids or line.shifts for line in lines)
    levels = batch.levels() if levelled else None
    planes = [line.plane for line in lines]
    target = None if batch.recorded else batch.images.new_empty((len(lines), *batch.images.shape[2:]))
    results = []
    for row, line in enumerate(lines):
        index, channel = line.plane
        image = batch.images[index, channel]
        if levels is not None:
            air, span = levels.air[index, channel], levels.span[index, channel]
            image = _object(batch, line, image, (air, span), buffers)
        out = None if target is None else target[row]
        image = multiply_axes(image, [None if s is None else buffers.floats(s) for s in line.matrices], out)
        if levels is not None and line.rings:
            image = _magnitude(image, air, in_place=out is not None)
        if out is not None and image.data_ptr() != out.data_ptr():
            out.copy_(image)
        results.append(image)
    batch.write_planes(planes, torch.stack(results) if target is None else target)


def multiply_axes(image: Tensor, matrices: Sequence[Tensor | None], out: Tensor | None = None) -> Tensor:
    """Multiply (n, n) matrices into the axes of an image (Z, Y, X) or (Y, X); None leaves an axis alone.

    `out`: contiguous memory that the last product is written to, if there is one.
    """
    shape = (1,) * (3 - image.dim()) + tuple(image.shape)
    first, middle, last = [None] * (3 - image.dim()) + list(matrices)
    steps = [m is not None for m in (first, middle, last)]
    end = max((i for i, active in enumerate(steps) if active), default=-1)
    targets = [out.view(shape) if out is not None and i == end else None for i in range(3)]
    volume = image.reshape(shape)
    if first is not None:
        target = None if targets[0] is None else targets[0].view(shape[0], -1)
        volume = torch.mm(first, volume.reshape(shape[0], -1), out=target).view(shape)
    if middle is not None:
        volume = torch.bmm(middle.expand(shape[0], -1, -1), volume, out=targets[1])
    if last is not None:
        target = None if targets[2] is None else targets[2].view(-1, shape[2])
        volume = torch.mm(volume.reshape(-1, shape[2]), last.t(), out=target).view(shape)
    return volume.view(image.shape)


def _object(batch: Batch, line: Line, image: Tensor, levels: tuple[Tensor, Tensor], buffers: Buffers) -> Tensor:
    """Return the image with what happens to the object before anything is sampled."""
    for void in line.voids:
        image = apply_void(image, levels[0], void)
    for shift in line.shifts:
        labels = None if batch.labels is None else batch.labels[line.plane[0], 0]
        share = fat_share(shift, labels, batch.context.labels, buffers)
        if share.dim():
            share = multiply_axes(share, [None if s is None else buffers.floats(s) for s in shift.smooth])
        fat = fat_component(image, share, *levels)
        matrices: list[Tensor | None] = [None] * image.dim()
        matrices[shift.axis] = buffers.floats(shift.matrix)
        image = image + multiply_axes(fat, matrices)
    return image


def _magnitude(image: Tensor, air: Tensor, *, in_place: bool) -> Tensor:
    """Mirror what lies below air; `in_place` for a product of matrices, which is nobody else's."""
    return voxelwise(_mirror, (image[None],), (air[None],), into=image[None] if in_place else None)[0]


def _mirror(image: Tensor, air: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.add((image - air).abs_(), air, out=out)
