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
from nnunet_spine_ext.augment.axis_products import PackedBand, add_product, multiply_axes, pack_band, read_all
from nnunet_spine_ext.augment.batch import Batch, in_pieces, voxelwise
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.object_effects import FatShift, Void, apply_void, fat_component, fat_share, pack_fat
from nnunet_spine_ext.augment.packing import Buffers, Packer

# Weights below this are rounding or interpolation of smooth parts; above, lobes that reach below air.
_RINGS = -0.002


@dataclass(frozen=True)
class Line:
    """What happens to one plane (sample, channel). `matrices`: None for axes without change."""

    plane: tuple[int, int]
    matrices: tuple[PackedBand | None, ...]
    voids: tuple[Void, ...]
    shifts: tuple[FatShift, ...]

    @property
    def rings(self) -> bool:
        """Return whether any axis makes edges ring."""
        return any(matrix.lowest < _RINGS for matrix in self.matrices if matrix is not None)


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

    def work_of(self, plane: tuple[int, int]) -> list[AxisWork] | None:
        """Return what happens along the axes of a plane, None if nothing does: noise takes its colour from it."""
        return self._planes[plane].axes if plane in self._planes else None

    def pack(self, packer: Packer) -> Program | None:
        """Pack the matrices; equal ones, of several channels for example, once."""
        matrices: dict[object, PackedBand | None] = {}
        shifts: dict[object, FatShift] = {}
        lines = []
        for key, plane in sorted(self._planes.items()):
            packed = tuple(self._matrix(packer, matrices, *item) for item in enumerate(plane.axes))
            for shift in plane.shifts:
                if shift not in shifts:
                    axis, voxels, fat = shift
                    shifts[shift] = pack_fat(packer, self._context, axis, voxels, dict(fat))
            line = Line(key, packed, tuple(plane.voids), tuple(shifts[s] for s in plane.shifts))
            if any(packed) or line.voids or line.shifts:
                lines.append(line)
        return Program(tuple(lines)) if lines else None

    def _of(self, index: int, channels: Sequence[int]) -> list[_Plane]:
        empty = AxisWork()
        return [
            self._planes.setdefault((index, int(channel)), _Plane([empty] * self._context.dim)) for channel in channels
        ]

    def _matrix(
        self, packer: Packer, matrices: dict[object, PackedBand | None], axis: int, work: AxisWork
    ) -> PackedBand | None:
        size, spacing = self._context.shape[axis], self._context.spacing[axis]
        key = (work, size, spacing)
        if key not in matrices:
            values = None if work == AxisWork() else axis_matrix(work, size, spacing)
            matrices[key] = None if values is None else pack_band(packer, values)
        return matrices[key]


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Acquire the active planes."""
    lines = program.lines
    levelled = any(line.rings or line.voids or line.shifts for line in lines)
    levels = batch.levels() if levelled else None
    in_place = batch.into(batch.images) is not None
    fresh = None if in_place or batch.recorded else batch.images.new_empty((len(lines), *batch.images.shape[2:]))
    results = []
    for row, line in enumerate(lines):
        image = batch.images[line.plane]
        out = image if in_place else None if fresh is None else fresh[row]
        if levels is not None:
            air, span = levels.air[line.plane], levels.span[line.plane]
            image = _object(batch, line, image, (air, span), buffers)
        image = multiply_axes(image, read_all(line.matrices, buffers), out)
        if levels is not None and line.rings:
            image = _magnitude(image, air, in_place=out is not None)
        if out is not None and image.data_ptr() != out.data_ptr():
            out.copy_(image)
        results.append(image)
    if in_place:
        batch.changed()
    else:
        batch.write_planes([line.plane for line in lines], torch.stack(results) if fresh is None else fresh)


def _object(batch: Batch, line: Line, image: Tensor, levels: tuple[Tensor, Tensor], buffers: Buffers) -> Tensor:
    """Return the image with what happens to the object before anything is sampled."""
    voided = bool(line.voids)
    for void in line.voids:
        image = apply_void(image, levels[0], void)
    for shift in line.shifts:
        labels = None if batch.labels is None else batch.labels[line.plane[0], 0]
        share = fat_share(shift, labels, buffers)
        if share.dim():
            share = multiply_axes(share, read_all(shift.smooth, buffers))
        fat, matrices = fat_component(image, share, *levels), read_all(shift.matrices, buffers)
        if batch.recorded or in_pieces(image):
            image = image + multiply_axes(fat, matrices)
        else:
            # What belongs to the batch, or is new, may be changed; else a copy is, so that the sums are the same.
            image = image if voided or batch.into(image) is not None else image.clone()
            add_product(image, fat, matrices)
            voided = True
    return image


def _magnitude(image: Tensor, air: Tensor, *, in_place: bool) -> Tensor:
    """Mirror what lies below air; `in_place` for a product of matrices, which is nobody else's."""
    return voxelwise(_mirror, (image[None],), (air[None],), into=image[None] if in_place else None)[0]


def _mirror(image: Tensor, air: Tensor, out: Tensor | None = None) -> Tensor:
    # What lies above air stays bit by bit what it is.
    return torch.maximum(image, 2 * air - image, out=out)
