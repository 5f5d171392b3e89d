"""The foreground as a list of voxels: what is known of each, worked out once.

A spine fills a tenth of its box or less. Arrays over the foreground are small, so each step can look at all of it
without a pass over the volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.frame import ORIENTATION, Frame
from nnunet_spine_ext.measure.centreline import Centreline

# Coarse cells are as near to this as whole numbers of voxels allow without exceeding it.
_CELL_MM = 1.65
# Arc length is worked out at points this far apart and interpolated: off by less than 0.1 mm in any posture.
_LATTICE_MM = 4.0
# Indices and positions of so many voxels at once.
CHUNK = 1 << 17
# What is interpolated at once stays in the cache.
_INTERPOLATED = 1 << 14


@dataclass(frozen=True)
class Cells:
    """Blocks of voxels.

    Parameters
    ----------
    factor: voxels per cell along x, y, z; `shape` number of cells; `spacing` size of a cell in mm.
    """

    factor: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def fine(self) -> bool:
        """Whether a cell is a voxel."""
        return self.factor == (1, 1, 1)

    def of(self, flat: Array, shape: tuple[int, int, int]) -> Array:
        """Return the flat cell numbers (n,) of flat voxel indices into an array of `shape`."""
        if self.fine:
            return flat
        x, y, z = coordinates(flat, shape)
        return ((x // self.factor[0]) * self.shape[1] + y // self.factor[1]) * self.shape[2] + z // self.factor[2]


@dataclass(frozen=True)
class Voxels:
    """All voxels of the foreground.

    Parameters
    ----------
    frame: where they come from.
    flat: (n,) flat indices into `frame.labels`, ascending.
    label: (n,) uint8 ids of ``nnunet14``.
    part: (n,) int32 number from 0 of the 6-connected component of one class that the voxel belongs to.
    part_label, part_mm3: (k,) class and volume of the components.
    cell: (n,) coarse cell of the voxel; `cells` says which cells there are.
    arc: (n,) float32 arc length in mm along the line of the spine; empty until `along` has been called.
    """

    frame: Frame
    flat: Array
    label: Array
    part: Array
    part_label: Array
    part_mm3: Array
    cells: Cells
    cell: Array
    arc: Array

    def __len__(self) -> int:
        return len(self.flat)

    def of(self, *labels: int) -> Array:
        """Return the numbers (into `flat`) of the voxels of these classes."""
        wanted = np.zeros(256, dtype=bool)
        wanted[list(labels)] = True
        return np.flatnonzero(wanted[self.label])

    def solid(self, min_mm3: float) -> Array:
        """Return (n,) bool: voxels of components that are no specks."""
        result: Array = (self.part_mm3 >= min_mm3)[self.part]
        return result

    def along(self, line: Centreline) -> Voxels:
        """Return the voxels with their arc lengths."""
        return replace(self, arc=_arc_lengths(self.flat, self.frame, line))

    def without(self, gone: Array) -> Voxels:
        """Return the other voxels than those where `gone` (n,) is set; the frame's labels lose them, too."""
        kept = ~gone
        labels = self.frame.labels.copy()
        labels.reshape(-1)[self.flat[gone]] = 0
        # Components that are cut keep their number: what is left of them counts.
        size = np.bincount(self.part[kept], minlength=len(self.part_label)) * self.frame.voxel_volume
        return replace(
            self,
            frame=replace(self.frame, labels=labels),
            flat=self.flat[kept],
            label=self.label[kept],
            part=self.part[kept],
            part_mm3=size,
            cell=self.cell[kept],
            arc=self.arc[kept] if len(self.arc) else self.arc,
        )

    def restore(self, values: Array, original: Volume) -> Volume:
        """Put instance ids (n,) onto the grid of the original volume (uint16)."""
        whole = Volume(np.zeros(original.shape, dtype=np.uint16), original.affine)
        self.write(whole, self.flat, values)
        return whole

    def write(self, volume: Volume, flat: Array, values: Array) -> None:
        """Write values (m,) at flat indices (m,) of the frame into a volume on the grid of the original, in place."""
        view = volume.turned(ORIENTATION).array[self.frame.box]
        for begin in range(0, len(flat), CHUNK):
            piece = slice(begin, begin + CHUNK)
            view[coordinates(flat[piece], self.frame.labels.shape)] = values[piece]

    def dense(self, values: Array, dtype: type = np.int16) -> Array:
        """Return an array of the frame that holds `values` (n,) and 0 elsewhere."""
        result: Array = np.zeros(self.frame.labels.shape, dtype=dtype)
        result.reshape(-1)[self.flat] = values
        return result


def coordinates(flat: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return x, y, z of flat indices; several times quicker than numpy's function for 64 bits."""
    row = flat // shape[2]
    x = row // shape[1]
    return x, row - x * shape[1], flat - row * shape[2]


def read_voxels(frame: Frame) -> Voxels:
    """List the foreground of a frame with its components."""
    import cc3d

    flat = _foreground(frame.labels)
    label = frame.labels.reshape(-1)[flat]
    parts, count = cc3d.connected_components(frame.labels, connectivity=6, return_N=True)
    part = parts.reshape(-1)[flat].astype(np.int32)
    del parts
    part -= 1
    part_label = np.zeros(count, dtype=np.uint8)
    part_label[part] = label
    sizes = np.bincount(part, minlength=count) * frame.voxel_volume
    factor = tuple(max(1, int(_CELL_MM / size + 1e-6)) for size in frame.spacing)
    shape = tuple(-(-n // k) for n, k in zip(frame.labels.shape, factor, strict=True))
    spacing = tuple(size * k for size, k in zip(frame.spacing, factor, strict=True))
    cells = Cells(factor, shape, spacing)  # type: ignore[arg-type]
    cell = cells.of(flat, frame.labels.shape)
    return Voxels(frame, flat, label, part, part_label, sizes, cells, cell, np.zeros(0, dtype=np.float32))


def without_specks(frame: Frame, voxels: Voxels, min_mm3: float) -> Frame:
    """Return the frame without components (6-connected, of one class) smaller than `min_mm3`.

    Specks decide nothing: the line, the bodies and the places in the sequence are found without them. They are given
    back to the instances afterwards where they touch one.
    """
    specks = voxels.flat[~voxels.solid(min_mm3)]
    if len(specks) == 0:
        return frame
    labels = frame.labels.copy()
    labels.reshape(-1)[specks] = 0
    return replace(frame, labels=labels)


def _foreground(labels: Array) -> Array:
    """Flat indices of the voxels that are not 0, plane by plane; 32 bits are enough for any scan, and quicker."""
    dtype = np.int32 if labels.size < 2**31 else np.int64
    plane = labels[0].size
    return np.concatenate([(np.flatnonzero(x) + k * plane).astype(dtype) for k, x in enumerate(labels)])


def _arc_lengths(flat: Array, frame: Frame, line: Centreline) -> Array:
    step = [max(1, round(_LATTICE_MM / size)) for size in frame.spacing]
    counts = [-(-(n - 1) // k) + 1 if n > 1 else 1 for n, k in zip(frame.labels.shape, step, strict=True)]
    axes = [np.arange(n) * k * size for n, k, size in zip(counts, step, frame.spacing, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = np.concatenate([line.locate(lattice[k : k + 16384]) for k in range(0, len(lattice), 16384)])
    grid = grid.reshape(counts).astype(np.float32)
    return _interpolated(flat, frame.labels.shape, grid, step)


def _interpolated(flat: Array, shape: tuple[int, ...], grid: Array, step: Sequence[int]) -> Array:
    """Values (n,) float32 at flat indices into `shape`, between those of every `step`-th voxel along each axis.

    Bit by bit what `scipy.ndimage.map_coordinates` gives with order 1; loading that takes more memory than a scan.
    """
    lows, weights = [], []
    for axis in range(3):
        where = np.arange(shape[axis]) / float(step[axis])
        low = np.floor(where)
        near = 1.0 - (where - low)
        stride = int(np.prod(grid.shape[axis + 1 :], dtype=np.intp))
        # Where a voxel lies on the last point, what is beyond has no weight.
        ends = [np.minimum(low + end, grid.shape[axis] - 1).astype(np.int32) * stride for end in (0, 1)]
        lows.append(ends)
        weights.append((near, 1.0 - near))
    values = grid.reshape(-1).astype(np.float64)
    result = np.empty(len(flat), dtype=np.float32)
    for begin in range(0, len(flat), _INTERPOLATED):
        piece = slice(begin, begin + _INTERPOLATED)
        place = coordinates(flat[piece], shape)
        at = [[table[place[axis]] for table in lows[axis]] for axis in range(3)]
        weight = [[table[place[axis]] for table in weights[axis]] for axis in range(3)]
        total = np.zeros(len(place[0]))
        for a, b in product((0, 1), repeat=2):
            row = at[0][a] + at[1][b]
            for c in (0, 1):
                value = values[row + at[2][c]]
                value *= weight[0][a]
                value *= weight[1][b]
                value *= weight[2][c]
                total += value
        result[piece] = total
    return result


def near(mask: Array, flat: Array) -> Array:
    """Return (n,) bool: whether one of the 26 neighbours of each voxel, or the voxel itself, is in the mask."""
    found = np.zeros(len(flat), dtype=bool)
    for place in neighbours(flat, mask.shape):
        found |= mask.reshape(-1)[place]
    return found


def neighbours(flat: Array, shape: tuple[int, ...], *, faces: bool = False) -> Iterator[Array]:
    """Yield the flat indices of the neighbours in each of the 26 directions (6 with `faces`).

    At the border of the array a neighbour outside is replaced by the nearest voxel inside, at worst the voxel itself.
    """
    place = coordinates(flat, shape)
    moved = [[np.clip(place[axis] + step, 0, shape[axis] - 1) for step in (-1, 0, 1)] for axis in range(3)]
    for x, y, z in product((-1, 0, 1), repeat=3):
        if (x, y, z) != (0, 0, 0) and (not faces or abs(x) + abs(y) + abs(z) == 1):
            yield (moved[0][x + 1] * shape[1] + moved[1][y + 1]) * shape[2] + moved[2][z + 1]
