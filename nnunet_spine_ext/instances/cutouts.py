"""Windows of fixed size around the bodies, on the grid that the instance network was trained on.

The grid has the axes P, I, R (to the back, to the feet, to the right) and the model's voxel size. It covers the
foreground only: cutouts are padded with background wherever they leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.encoding import channels
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, Frame
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import CHUNK, Voxels, coordinates

Box = tuple[slice, slice, slice]
Index = tuple[int, int, int]

# Three halvings inside the network.
MULTIPLE = 8
# SPINEPS moves a seed that lies on background towards the feet in steps of this many voxels.
_SEED_STEP = 5
_MAX_VOXELS = 2**29
_MM = (0.05, 20.0)


@dataclass(frozen=True)
class CutoutSpec:
    """What the instance network looks at.

    Parameters
    ----------
    size: voxels along P, I, R; multiples of 8.
    spacing: mm along P, I, R.
    encoding: name of an encoding (see `encoding.encode`).

    Raises
    ------
    UsageError: a size that is no positive multiple of 8, a spacing outside 0.05..20 mm, an unknown encoding.
    """

    size: tuple[int, int, int] = (248, 304, 64)
    spacing: tuple[float, float, float] = (0.75, 0.75, 1.65)
    encoding: str = "onehot"

    def __post_init__(self) -> None:
        channels(self.encoding)
        if len(self.size) != 3 or any(n <= 0 or n % MULTIPLE for n in self.size):
            raise _bad_spec(f"a cutout of {list(self.size)} voxels", f"three positive multiples of {MULTIPLE}")
        if len(self.spacing) != 3 or not all(_MM[0] <= mm <= _MM[1] for mm in self.spacing):
            raise _bad_spec(f"a voxel size of {list(self.spacing)} mm", f"three values within {_MM[0]}..{_MM[1]} mm")


@dataclass(frozen=True)
class ModelGrid:
    """The foreground of a mask on the network's grid, and the way back.

    Parameters
    ----------
    labels: (P, I, R) uint8 ids of ``nnunet14``.
    spacing: mm along P, I, R.
    source: per axis P, I, R, which voxel of the frame (along y, z, x) each voxel of the grid shows.
    place: per axis P, I, R, which voxel of the grid each voxel of the frame (along y, z, x) lies in.
    """

    labels: Array
    spacing: tuple[float, float, float]
    source: tuple[Array, Array, Array]
    place: tuple[Array, Array, Array]

    def from_frame(self, array: Array) -> Array:
        """Bring an array (x, y, z) of the frame onto the grid (P, I, R), nearest neighbour."""
        turned = array.transpose(1, 2, 0)
        result = np.empty([len(source) for source in self.source], dtype=array.dtype)
        # Plane by plane: the whole at once would need another copy.
        rest = np.ix_(*self.source[1:])
        for k, plane in enumerate(self.source[0]):
            result[k] = turned[plane][rest]
        return result

    def index(self, voxels: Array) -> Array:
        """Return the grid's voxels (n, 3) along P, I, R in which voxels (n, 3) of the frame lie (x, y, z)."""
        voxels = np.asarray(voxels, dtype=np.intp)
        return np.stack([self.place[axis][voxels[:, k]] for axis, k in enumerate((1, 2, 0))], axis=1)


@dataclass(frozen=True)
class Cutout:
    """A window of the grid.

    Parameters
    ----------
    number: 0-based number of the seed, head to tail.
    start: voxel of the grid at the window's corner along P, I, R; may be negative.
    size: voxels along P, I, R; may reach beyond the grid.
    """

    number: int
    start: Index
    size: Index

    def inside(self, grid: ModelGrid) -> Box:
        """Return the part of the window that lies in the grid, in voxels of the grid."""
        low = [min(max(s, 0), n) for s, n in zip(self.start, grid.labels.shape, strict=True)]
        ends = [s + n for s, n in zip(self.start, self.size, strict=True)]
        high = [max(min(e, n), k) for e, n, k in zip(ends, grid.labels.shape, low, strict=True)]
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def make_grid(frame: Frame, spec: CutoutSpec) -> ModelGrid:
    """Bring a frame onto the network's grid.

    Raises
    ------
    CaseError: the grid would be too large to be a spine (the voxel size of the mask or of the model is wrong).
    """
    source, place = [], []
    for axis, k in enumerate((1, 2, 0)):
        count, mm = frame.labels.shape[k], frame.spacing[k]
        # P and I run against y and z.
        forward = np.arange(count) if k == 0 else np.arange(count)[::-1]
        step = spec.spacing[axis]
        if abs(step - mm) < 1e-3 * step:
            source.append(forward)
            place.append(forward)
            continue
        size = max(1, round(count * mm / step))
        near = np.clip(((np.arange(size) + 0.5) * step / mm + 1e-9).astype(np.intp), 0, count - 1)
        back = np.clip(((np.arange(count) + 0.5) * mm / step + 1e-9).astype(np.intp), 0, size - 1)
        source.append(forward[near])
        place.append(back[forward])
    shape = [len(s) for s in source]
    if np.prod(shape, dtype=np.float64) > _MAX_VOXELS:
        sizes = "x".join(f"{n * mm / 10:.0f}" for n, mm in zip(shape, spec.spacing, strict=True))
        raise CaseError(
            "E-INST-GRID",
            found=f"a foreground of {sizes} cm, too large for the grid of the instance model",
            expected=f"a spine (fewer than {_MAX_VOXELS >> 20} Mi voxels at the voxel size of the model)",
            fix="correct the voxel size in the header of the mask, or take a model with larger voxels",
        )
    grid = ModelGrid(frame.labels, spec.spacing, (source[0], source[1], source[2]), (place[0], place[1], place[2]))
    return ModelGrid(grid.from_frame(frame.labels), grid.spacing, grid.source, grid.place)


def body_seeds(grid: ModelGrid, voxels: Voxels, bodies: Bodies) -> list[Index]:
    """Return the voxel of the grid at the centre of every body (head to tail); places without a body have none."""
    used = np.flatnonzero(bodies.labels)
    place = np.stack(coordinates(voxels.flat[used], voxels.frame.labels.shape), axis=1)
    return seeds_of(grid, place, bodies.labels[used])


def seeds_of(grid: ModelGrid, voxels: Array, number: Array) -> list[Index]:
    """Return the voxel of the grid at the middle of each part.

    Parameters
    ----------
    voxels: (n, 3) voxels of the frame (x, y, z); `number` (n,) the part they belong to.

    Returns
    -------
    One index (P, I, R) per part that has voxels, in ascending order of the parts' numbers.
    """
    size = np.bincount(number)
    sums = np.zeros((len(size), 3))
    for begin in range(0, len(number), CHUNK):
        piece = slice(begin, begin + CHUNK)
        place = grid.index(voxels[piece])
        for k in range(3):
            sums[:, k] += np.bincount(number[piece], place[:, k], minlength=len(size))
    centres = np.floor(sums[size > 0] / size[size > 0][:, None] + 1e-9).astype(np.intp)
    return [(int(p), int(i), int(r)) for p, i, r in centres]


def make_cutouts(grid: ModelGrid, seeds: Iterable[Index], spec: CutoutSpec, *, first: int = 0) -> list[Cutout]:
    """Return the window around each seed, numbered from `first` in the order given.

    A seed on background moves towards the feet until it meets a vertebra, as in SPINEPS; if it meets none it stays.
    """
    cutouts = []
    for number, seed in enumerate(seeds, start=first):
        centre = _on_vertebra(grid.labels, seed)
        start = tuple(c - n // 2 for c, n in zip(centre, spec.size, strict=True))
        cutouts.append(Cutout(number, (start[0], start[1], start[2]), spec.size))
    return cutouts


def read_cutout(grid: ModelGrid, cutout: Cutout) -> Array:
    """Return the labels in a window, (P, I, R) uint8 ids of ``nnunet14``, padded with 0."""
    return read_window(grid.labels, cutout.start, cutout.size)


def read_window(array: Array, start: Sequence[int], size: Sequence[int]) -> Array:
    """Return a window of an array of the grid, padded with 0 where it reaches beyond."""
    result = np.zeros(tuple(size), dtype=array.dtype)
    target, source = [], []
    for first, count, length in zip(start, size, array.shape, strict=True):
        low, high = max(first, 0), min(first + count, length)
        if low >= high:
            return result
        target.append(slice(low - first, high - first))
        source.append(slice(low, high))
    result[tuple(target)] = array[tuple(source)]
    return result


def vertebra_voxels(labels: Array) -> Array:
    """Return where labels of ``nnunet14`` belong to a vertebra (bool)."""
    return (labels >= ARCUS) & (labels <= CORPUS)


def _on_vertebra(labels: Array, seed: Index) -> Index:
    p, i, r = seed
    for height in range(i, labels.shape[1], _SEED_STEP):
        if ARCUS <= labels[p, height, r] <= CORPUS:
            return p, height, r
    return seed


def _bad_spec(found: str, expected: str) -> UsageError:
    return UsageError(
        "E-INST-SPEC", file="cutout", found=found, expected=expected, fix="correct the settings of the instance model"
    )
