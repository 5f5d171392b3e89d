"""Scans of neighbouring parts of one body, joined into one: common grid, weights, intensities, masks.

A spine is often scanned in chunks (neck, chest, lumbar) that overlap. Their headers say where they lie: they are joined
as rigid pieces, nothing is registered. See `Mosaic.image` and `Mosaic.labels` for the rules in the overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume

# Chunks of one examination are turned against each other by a few degrees at most.
MAX_ANGLE_DEGREES = 20.0
# Towards its sides a chunk fades out over this length, where another one reaches farther.
FEATHER_MM = 10.0
# An overlap with fewer bright voxels says nothing about the gain.
MIN_VOXELS = 200
# Repeated scans of one place correlate above 0.9; below this somebody moved, or the headers are wrong.
MIN_CORRELATION = 0.5

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Piece:
    """Where a chunk lies in the common grid.

    Parameters
    ----------
    name: what messages call it.
    chunk: the chunk's empty grid, turned to the common orientation.
    box: the part of the common grid that holds it.
    to_chunk: (4, 4) index within the box to index of the chunk.
    exact: whether voxels fall on voxels, so that nothing is interpolated.
    """

    name: str
    chunk: Volume
    box: Box
    to_chunk: Array
    exact: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the box."""
        i, j, k = (s.stop - s.start for s in self.box)
        return i, j, k

    def sampled(self, volume: Volume, order: int) -> Array:
        """Return the chunk's array on the box: copied where voxels fall on voxels, else interpolated.

        Beyond the outermost voxel centres the outermost value goes on.
        """
        array = volume.to(self.chunk.orientation).array
        if self.exact:
            return array
        from scipy.ndimage import affine_transform

        source = array if order == 0 else array.astype(np.float32)
        matrix, offset = self.to_chunk[:3, :3], self.to_chunk[:3, 3]
        moved = affine_transform(source, matrix, offset, output_shape=self.shape, order=order, mode="nearest")
        # Splines overshoot at edges; a chunk has no values beyond its own.
        return moved if order < 2 else np.clip(moved, source.min(), source.max())


@dataclass(frozen=True)
class Overlap:
    """What two neighbouring chunks have in common.

    `first` and `second` are positions in `Mosaic.pieces`; `millimetres` is the height of the overlap, `gain` the factor
    of `second` over `first`, `correlation` that of their intensities (None if there are too few voxels).
    """

    first: int
    second: int
    millimetres: float
    gain: float = 1.0
    correlation: float | None = None


@dataclass(frozen=True)
class Stitched:
    """An image made of chunks: the volume, the factor of every piece, the overlaps, and what to warn of."""

    volume: Volume
    gains: tuple[float, ...]
    overlaps: tuple[Overlap, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True)
class Mosaic:
    """The plan by which chunks are joined; made by `plan_mosaic`.

    Parameters
    ----------
    grid: the common grid, without voxels.
    pieces: the chunks from the head downwards.
    order: which of the chunks given each piece is.
    middle: the piece whose grid and intensities the others follow.
    """

    grid: Volume
    pieces: tuple[Piece, ...]
    order: tuple[int, ...]
    middle: int

    @cached_property
    def axis(self) -> int:
        """Array axis that runs along the body."""
        return _long_axis(self.grid)

    @cached_property
    def weights(self) -> tuple[Array, ...]:
        """How deep each voxel of a piece's box lies inside its chunk, float32; 0 outside.

        The weight is the distance to the chunk's nearer end along the body in millimetres. Towards the sides it fades
        to nothing over `FEATHER_MM`, so that a chunk that is displaced sideways leaves no edge.
        """
        return tuple(_depth(piece, self.axis) for piece in self.pieces)

    def image(self, chunks: Sequence[Volume], *, order: int = 3) -> Stitched:
        """Join images: intensities matched to the middle chunk, blended by depth.

        Gains: for neighbours *a* (towards the middle) and *b*, over the voxels of their overlap in which each exceeds
        half of its own mean there, ``gain(b) = gain(a) * median(a / b)``; from the middle chunk (gain 1) upwards and
        downwards. Blend: ``sum(w * gain * value) / sum(w)`` with the depths `weights` as w: a linear ramp between two
        chunks. Integer images stay integer (rounded).

        Parameters
        ----------
        chunks: in the order given to `plan_mosaic`.
        order: of the spline where voxels do not fall on voxels.
        """
        ordered = [chunks[k] for k in self.order]
        values = [piece.sampled(chunk, order) for piece, chunk in zip(self.pieces, ordered, strict=True)]
        overlaps, warnings = [], []
        gains = [1.0] * len(self.pieces)
        for first, second in self._outwards():
            overlap, warning = self._compared(first, second, values)
            gains[second] = gains[first] * overlap.gain
            overlaps.append(overlap)
            warnings += [warning] if warning is not None else []
        total = np.zeros(self.grid.shape, dtype=np.float32)
        for piece, weight in zip(self.pieces, self.weights, strict=True):
            total[piece.box] += weight
        result = np.zeros(self.grid.shape, dtype=np.float32)
        for piece, weight, value, gain in zip(self.pieces, self.weights, values, gains, strict=True):
            # x / x is exactly 1: a voxel of one chunk alone keeps its value to the last bit.
            share = np.divide(weight, total[piece.box], out=np.zeros_like(weight), where=weight > 0)
            result[piece.box] += share * (value * np.float32(gain))
        floor = min(0.0, *(float(value.min()) for value in values))
        result[total == 0] = floor
        stored = np.result_type(*(chunk.array.dtype for chunk in ordered))
        array = _as_integers(result) if stored.kind in "iu" else result
        return Stitched(Volume(array, self.grid.affine), tuple(gains), tuple(overlaps), tuple(warnings))

    def labels(self, masks: Sequence[Volume | None], *, fill: int = 0) -> Volume:
        """Join masks: nearest voxel, and in the overlap the label of the chunk in which the voxel lies deeper.

        Parameters
        ----------
        masks: in the order given to `plan_mosaic`, each on the grid of its chunk; None for a chunk without one.
        fill: label of the voxels that only chunks without masks hold.
        """
        ordered = [masks[k] for k in self.order]
        known = [mask.array.dtype for mask in ordered if mask is not None]
        result = np.zeros(self.grid.shape, dtype=np.result_type(np.min_scalar_type(fill), *known))
        best = np.zeros(self.grid.shape, dtype=np.float32)
        for piece, weight, mask in zip(self.pieces, self.weights, ordered, strict=True):
            if mask is not None:
                deeper = weight > best[piece.box]
                result[piece.box][deeper] = piece.sampled(mask, 0)[deeper]
                best[piece.box][deeper] = weight[deeper]
        for piece, weight, mask in zip(self.pieces, self.weights, ordered, strict=True):
            if mask is None:
                result[piece.box][(weight > 0) & (best[piece.box] == 0)] = fill
        return Volume(result, self.grid.affine)

    def neighbours(self) -> Iterator[tuple[int, int]]:
        """Yield the positions in `pieces` of neighbours, from the head downwards."""
        yield from ((k, k + 1) for k in range(len(self.pieces) - 1))

    def common(self, volumes: Sequence[Volume], first: int, second: int, *, order: int = 0) -> tuple[Array, Array]:
        """Return the voxels that two pieces share, as two arrays of equal shape (one axis).

        `volumes` are in the order given to `plan_mosaic`; `first` and `second` are positions in `pieces`.
        """
        values = {k: self.pieces[k].sampled(volumes[self.order[k]], order) for k in (first, second)}
        return self._shared(first, second, values[first], values[second])

    def _shared(self, first: int, second: int, one: Array, two: Array) -> tuple[Array, Array]:
        inner = _intersection(self.pieces[first].box, self.pieces[second].box)
        if inner is None:
            return one[:0, 0, 0], two[:0, 0, 0]
        a, b = _within(inner, self.pieces[first].box), _within(inner, self.pieces[second].box)
        both = (self.weights[first][a] > 0) & (self.weights[second][b] > 0)
        return one[a][both], two[b][both]

    def _outwards(self) -> Iterator[tuple[int, int]]:
        """Yield neighbours from the middle piece upwards, then downwards; the one nearer to the middle first."""
        yield from ((k + 1, k) for k in reversed(range(self.middle)))
        yield from ((k, k + 1) for k in range(self.middle, len(self.pieces) - 1))

    def _compared(self, first: int, second: int, values: Sequence[Array]) -> tuple[Overlap, Problem | None]:
        a, b = self._shared(first, second, values[first], values[second])
        rows = [self.pieces[k].box[self.axis] for k in (first, second)]
        height = (min(s.stop for s in rows) - max(s.start for s in rows)) * self.grid.spacing[self.axis]
        names = f"{self.pieces[first].name} and {self.pieces[second].name}"
        bright = (a > max(a.mean() / 2, 0)) & (b > max(b.mean() / 2, 0)) if a.size else np.zeros(0, dtype=bool)
        if int(bright.sum()) < MIN_VOXELS:
            found = f"{names} share {int(bright.sum())} bright voxels"
            fix = "look for a step in the intensities of the joined image"
            return Overlap(first, second, height), _warning("W-STITCH-OVERLAP", names, found, "an overlap", fix)
        a, b = a.astype(np.float64), b.astype(np.float64)
        gain = float(np.median(a[bright] / b[bright]))
        # Where one is constant there is nothing to compare.
        correlation = float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None
        warning = None
        if correlation is not None and correlation < MIN_CORRELATION:
            found = f"{names} differ where they overlap (correlation {correlation:.2f})"
            fix = "look at the joined image: the patient moved, or a header is wrong"
            warning = _warning("W-STITCH-MISMATCH", names, found, f"{MIN_CORRELATION} or more", fix)
        return Overlap(first, second, height, gain, correlation), warning


def plan_mosaic(chunks: Sequence[Volume], names: Sequence[str], *, file: str) -> Mosaic:
    """Find the common grid of chunks of one spine.

    The grid is that of the middle chunk (of an even number: the lower of the two), continued until it holds them all.

    Parameters
    ----------
    chunks: one or more, in any order and orientation.
    names: what messages call them; `file`: what messages are about.

    Raises
    ------
    CaseError: chunks that are turned against each other by more than `MAX_ANGLE_DEGREES`, lie side by side, or leave a
        gap.
    """
    order = tuple(sorted(range(len(chunks)), key=lambda k: -_centre(chunks[k])[2]))
    middle = len(order) // 2
    reference = chunks[order[middle]]
    turned = [chunks[k].to(reference.orientation) for k in order]
    for k, chunk in zip(order, turned, strict=True):
        angle = _angle(reference, chunk)
        if angle > MAX_ANGLE_DEGREES:
            found = f"{names[k]} is turned by {angle:.0f} degrees against {names[order[middle]]}"
            fix = "leave out what was scanned in another plane"
            raise _refused("E-STITCH-ANGLE", file, found, f"{MAX_ANGLE_DEGREES:.0f} degrees at most", fix)
    boxes = [_box(reference, chunk) for chunk in turned]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    affine = reference.affine.copy()
    affine[:3, 3] = reference.world(low)
    grid = Volume(np.broadcast_to(np.zeros((), dtype=np.uint8), tuple(int(n) for n in high - low)), affine)
    pieces = tuple(
        _piece(names[k], chunk, grid, start - low, stop - low)
        for k, chunk, (start, stop) in zip(order, turned, boxes, strict=True)
    )
    _refuse_gaps(pieces, grid, file)
    return Mosaic(grid, pieces, order, middle)


def filled_box(image: Volume) -> Box:
    """Return the box without the planes at the ends of the body axis that hold nothing but zeros.

    Scanners that correct distortion leave such planes; they would count as signal where chunks overlap.
    """
    axis = _long_axis(image)
    others = tuple(k for k in range(3) if k != axis)
    filled = np.flatnonzero((image.array != 0).any(axis=others))
    whole = [slice(0, n) for n in image.shape]
    if filled.size:
        whole[axis] = slice(int(filled[0]), int(filled[-1]) + 1)
    return whole[0], whole[1], whole[2]


def _piece(name: str, chunk: Volume, grid: Volume, start: Array, stop: Array) -> Piece:
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(start)
    empty = Volume(np.broadcast_to(np.zeros((), dtype=np.uint8), chunk.shape), chunk.affine)
    exact = empty.corner_error(Volume(np.broadcast_to(empty.array[0, 0, 0], tuple(stop - start)), affine))
    step = np.linalg.inv(chunk.affine) @ affine
    return Piece(name, empty, (box[0], box[1], box[2]), step, exact <= GRID_TOLERANCE_MM)


def _box(reference: Volume, chunk: Volume) -> tuple[Array, Array]:
    """First and one-behind-last index of the reference's continued grid whose voxel centres lie in the chunk's hull."""
    edges = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in chunk.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    indices = reference.index(chunk.world(edges))
    # A ten-thousandth of a voxel is the rounding of headers.
    start = np.ceil(indices.min(axis=0) - 1e-4).astype(int)
    stop = np.floor(indices.max(axis=0) + 1e-4).astype(int) + 1
    return start, np.maximum(stop, start + 1)


def _depth(piece: Piece, axis: int) -> Array:
    """See `Mosaic.weights`."""
    where = np.ogrid[tuple(slice(0, n) for n in piece.shape)]
    depth = np.ones((1, 1, 1), dtype=np.float32)
    for k, (count, size) in enumerate(zip(piece.chunk.shape, piece.chunk.spacing, strict=True)):
        row = piece.to_chunk[k]
        # Terms that are zero are left out: the arrays then stay thin until the product spreads them.
        index = sum((row[m] * where[m] for m in range(3) if abs(row[m]) > 1e-9), np.asarray(row[3]))
        inside = size * np.minimum(index + 0.5, count - 0.5 - index)
        inside = np.where(inside > 1e-3 * size, inside, 0.0)
        depth = depth * (inside if k == axis else np.minimum(1.0, inside / FEATHER_MM)).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(depth, piece.shape))


def _refuse_gaps(pieces: Sequence[Piece], grid: Volume, file: str) -> None:
    axis = _long_axis(grid)
    for above, below in pairwise(pieces):
        rows = [piece.box[axis] for piece in (above, below)]
        missing = (max(s.start for s in rows) - min(s.stop for s in rows)) * grid.spacing[axis]
        if missing > 0:
            found = f"a gap of {missing:.1f} mm between {above.name} and {below.name}"
            raise _refused("E-STITCH-GAP", file, found, "chunks that touch or overlap", "add the chunk in between")
        both = _intersection(_unbounded(above.box, axis), _unbounded(below.box, axis))
        if both is None:
            found = f"{above.name} and {below.name} lie side by side"
            raise _refused("E-STITCH-APART", file, found, "chunks of one spine", "check that they are of one scan")


def _unbounded(box: Box, axis: int) -> Box:
    i, j, k = (slice(0, 1) if axis == m else part for m, part in enumerate(box))
    return i, j, k


def _long_axis(volume: Volume) -> int:
    return next(k for k, letter in enumerate(volume.orientation) if letter in "IS")


def _centre(volume: Volume) -> Array:
    return volume.world((np.asarray(volume.shape) - 1) / 2)


def _angle(one: Volume, other: Volume) -> float:
    """Angle of the rotation between two grids of one orientation, degrees."""
    turn = (one.affine[:3, :3] / one.spacing).T @ (other.affine[:3, :3] / other.spacing)
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def _intersection(one: Box, other: Box) -> Box | None:
    found = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return (found[0], found[1], found[2]) if all(s.stop > s.start for s in found) else None


def _within(inner: Box, outer: Box) -> Box:
    i, j, k = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True))
    return i, j, k


def _as_integers(array: Array) -> Array:
    rounded = np.rint(array)
    low, high = float(rounded.min()), float(rounded.max())
    kind = next(t for t in (np.int16, np.uint16, np.int32) if low >= np.iinfo(t).min and high <= np.iinfo(t).max)
    return rounded.astype(kind)


def _warning(code: str, file: str, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, file, found, expected, fix)


def _refused(code: str, file: str, found: str, expected: str, fix: str) -> CaseError:
    return CaseError(code, file=file, found=found, expected=expected, fix=fix)
