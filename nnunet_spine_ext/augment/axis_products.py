"""Products of matrices with the axes of an image; where a matrix is a band, a processor takes the band alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.batch import in_pieces
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot

# Rows per product of a band; a band may be as wide as this part of the matrix.
_ROWS = 16
_SPARED = 0.6
# Weights below this are lost in single precision.
_SMALLEST = 1e-7
# Voxels per product on a processor, which bounds the memory in work.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Band:
    """An (n, n) matrix that is zero more than `reach` from its diagonal."""

    values: Tensor
    reach: int

    @property
    def narrow(self) -> bool:
        """Return whether it pays to multiply the band alone; other devices than processors are too fast for it."""
        return in_pieces(self.values) and _ROWS + 2 * self.reach <= _SPARED * len(self.values)

    def scaled(self, factor: Tensor) -> Band:
        """Return the matrix times a number."""
        return Band(self.values * factor, self.reach)

    def parts(self) -> Iterator[tuple[Tensor, int, int]]:
        """Yield blocks of rows without their zeros, with the first and the number of their columns."""
        size = len(self.values)
        for row in range(0, size, _ROWS):
            start, end = max(0, row - self.reach), min(size, row + _ROWS + self.reach)
            yield self.values[row : row + _ROWS, start:end], start, end - start


@dataclass(frozen=True)
class PackedBand:
    """A packed matrix, how far from its diagonal it reaches, and its lowest weight."""

    values: Slot
    reach: int
    lowest: float

    def read(self, buffers: Buffers) -> Band:
        """Return the matrix on the device."""
        return Band(buffers.floats(self.values), self.reach)


def pack_band(packer: Packer, matrix: NDArray[np.float64]) -> PackedBand:
    """Pack a matrix (n, n)."""
    rows, columns = np.nonzero(np.abs(matrix) > _SMALLEST)
    reach = int(np.abs(rows - columns).max()) if len(rows) else 0
    return PackedBand(packer.floats(matrix), reach, float(matrix.min()))


def read_all(bands: Sequence[PackedBand | None], buffers: Buffers) -> list[Band | None]:
    """Return the matrices of all axes on the device."""
    return [None if band is None else band.read(buffers) for band in bands]


def multiply_axes(image: Tensor, matrices: Sequence[Band | None], out: Tensor | None = None) -> Tensor:
    """Multiply matrices into the axes of an image (Z, Y, X) or (Y, X); None leaves an axis alone.

    `out`: contiguous memory for the result, not used while gradients are recorded; may be that of the image.
    """
    missing = 3 - image.dim()
    volume = image.reshape((1,) * missing + tuple(image.shape))
    recorded = image.requires_grad and torch.is_grad_enabled()
    target = None if out is None or recorded else out.view(volume.shape)
    active = [(axis + missing, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    for left, (axis, matrix) in zip(range(len(active) - 1, -1, -1), active, strict=True):
        if matrix.narrow and not recorded:
            target = volume.new_empty(volume.shape) if target is None else target
            volume = _in_chunks(volume, axis, matrix, target)
        else:
            # Every second product goes there, the last one in any case, but never onto what it is made of.
            free = target is not None and left % 2 == 0 and target.data_ptr() != volume.data_ptr()
            volume = _product(volume, axis, matrix.values, target if free else None)
    return volume.view(image.shape)


def add_product(
    image: Tensor, volume: Tensor, matrices: Sequence[Band | None], beta: float = 1.0, alpha: float = 1.0
) -> None:
    """Add alpha times what `multiply_axes` makes of a volume to beta times an image, in place and in the last product.

    At least one axis has a matrix. Both (Z, Y, X) or (Y, X) and contiguous; not while gradients are recorded.
    """
    missing = 3 - image.dim()
    last = max(axis for axis, matrix in enumerate(matrices) if matrix is not None)
    before = [None if axis == last else matrix for axis, matrix in enumerate(matrices)]
    matrix = cast("Band", matrices[last]).values
    shape = (1,) * missing + tuple(image.shape)
    source, target = multiply_axes(volume, before).reshape(shape), image.view(shape)
    axis, (count, _, size) = last + missing, shape
    if axis == 0:
        target.view(count, -1).addmm_(matrix, source.view(count, -1), beta=beta, alpha=alpha)
    elif axis == 1:
        target.baddbmm_(matrix.expand(count, -1, -1), source, beta=beta, alpha=alpha)
    else:
        target.view(-1, size).addmm_(source.view(-1, size), matrix.t(), beta=beta, alpha=alpha)


def _product(volume: Tensor, axis: int, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply a matrix (m, n) into an axis of a volume; `out`: contiguous memory for the result."""
    count, *_, size = volume.shape
    if axis == 0:
        flat = None if out is None else out.view(len(matrix), -1)
        return torch.mm(matrix, volume.reshape(count, -1), out=flat).view(-1, *volume.shape[1:])
    if axis == 1:
        return torch.bmm(matrix.expand(count, -1, -1), volume, out=out)
    flat = None if out is None else out.view(-1, len(matrix))
    return torch.mm(volume.reshape(-1, size), matrix.t(), out=flat).view(*volume.shape[:2], -1)


def _in_chunks(volume: Tensor, axis: int, matrix: Band, target: Tensor) -> Tensor:
    """Write a product to memory that may be that of the volume: fresh memory costs a processor as much as the work."""
    # Along the first axis the other two are cut as one, else slices are.
    shape = (len(volume), 1, -1) if axis == 0 else volume.shape
    volume, result, cut = volume.reshape(shape), target.view(shape), 2 if axis == 0 else 0
    step = max(1, _CHUNK * volume.shape[cut] // volume.numel())
    for start in range(0, volume.shape[cut], step):
        length = min(step, volume.shape[cut] - start)
        source, place = volume.narrow(cut, start, length), result.narrow(cut, start, length)
        parts = [_product(source.narrow(axis, *columns), axis, rows) for rows, *columns in matrix.parts()]
        torch.cat(parts, dim=axis, out=place)
    return target
