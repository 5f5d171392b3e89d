"""Maps of intensities that keep their order: knots, bounded slopes, straight tails; applied to millions of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

# A map is never steeper or flatter than so many times its affine part: steeper makes lesions and noise stand out that
# nobody would see, flatter hides them.
SLOPE_LIMITS = (0.25, 4.0)
# Knots of a fit: few, so that a map follows how a scanner renders tissue and not how much of each tissue a scan has.
FIT_KNOTS = 11
_BINS = 1 << 16
# An image whose range is so many times that of the knots has less than a hundred pieces for them.
_WIDE = _BINS / 100


@dataclass(frozen=True, eq=False)
class IntensityMap:
    """A non-decreasing map through knots, linear beyond them.

    Parameters
    ----------
    x, y: knots, shape (n,), n from 2, x increasing and y non-decreasing.
    below, above: slopes beyond the first and the last knot.
    """

    x: Array
    y: Array
    below: float
    above: float

    def __call__(self, values: Array) -> Array:
        """Return mapped values, float64, same shape."""
        values = np.asarray(values, dtype=np.float64)
        inner: Array = np.interp(values, self.x, self.y)
        inner += self.below * np.minimum(values - self.x[0], 0) + self.above * np.maximum(values - self.x[-1], 0)
        return inner

    def apply(self, array: Array) -> Array:
        """Return a whole image mapped, float32, same shape; NaN and infinities become what the lowest value becomes.

        A table of 65536 straight pieces stands for the map: a fifth of the time of `numpy.interp`, and off by less
        than a hundred-thousandth of the image's range. Where a few voxels make that range so large that the knots would
        lie within a handful of pieces, `numpy.interp` it is.
        """
        whole = array.dtype.kind in "iu"
        low, high = (int if whole else float)(array.min()), (int if whole else float)(array.max())
        if not np.isfinite(low) or not np.isfinite(high):
            finite = np.isfinite(array)
            low = float(array[finite].min()) if finite.any() else 0.0
            array = np.where(finite, array, low)
            high = float(array.max())
        if whole and high - low < _BINS:
            table = self(np.arange(low, high + 1)).astype(np.float32)
            # What fits into the table need not lie within 32 bits.
            first = np.asarray(low, dtype=np.int32 if abs(low) < 1 << 30 else np.int64)
            places: Array = array.astype(first.dtype).ravel() - first
            mapped: Array = table.take(places).reshape(array.shape)
            return mapped
        if high - low <= 0 or high - low > _WIDE * (self.x[-1] - self.x[0]):
            return self(array).astype(np.float32)
        return self._by_pieces(array.astype(np.float32, copy=False), float(low), float(high))

    def _by_pieces(self, array: Array, low: float, high: float) -> Array:
        edges = np.linspace(low, high, _BINS)
        at_edges = self(edges)
        step = (high - low) / (_BINS - 1)
        slope = np.append(np.diff(at_edges), 0) / step
        start = (at_edges - slope * edges).astype(np.float32)
        flat = array.ravel()
        place = ((flat - np.float32(low)) * np.float32(1 / step)).astype(np.int32)
        np.clip(place, 0, _BINS - 1, out=place)
        out: Array = slope.astype(np.float32).take(place)
        out *= flat
        out += start.take(place)
        return out.reshape(array.shape)

    def blended(self, other: IntensityMap, share: float) -> IntensityMap:
        """Return the mean of both maps, `share` of it this one."""
        x = np.union1d(self.x, other.x)
        return IntensityMap(
            x,
            share * self(x) + (1 - share) * other(x),
            share * self.below + (1 - share) * other.below,
            share * self.above + (1 - share) * other.above,
        )


def affine(slope: float, offset: float, around: Sequence[float]) -> IntensityMap:
    """Return x -> slope * x + offset with two knots."""
    x = np.asarray([around[0], around[-1]], dtype=np.float64)
    if x[1] <= x[0]:
        x = np.asarray([x[0], x[0] + 1.0])
    return IntensityMap(x, slope * x + offset, slope, slope)


def through(source: Array, target: Array, slope: float, limits: tuple[float, float] = SLOPE_LIMITS) -> IntensityMap:
    """Return the map through pairs of quantiles, each slope brought within limits times `slope`.

    The middle pair stays; where a slope is bounded, pairs outwards of it are missed. Quantiles that coincide in the
    source become one.
    """
    x, where = np.unique(source, return_inverse=True)
    y = np.bincount(where, weights=target) / np.bincount(where)
    if x.size < 2:
        return affine(slope, float(y[0] - slope * x[0]), (float(x[0]), float(x[0]) + 1.0))
    slopes = np.clip(np.diff(y) / np.diff(x), limits[0] * slope, limits[1] * slope)
    middle = x.size // 2
    climbed = np.concatenate([[0.0], np.cumsum(slopes * np.diff(x))])
    return IntensityMap(x, y[middle] + climbed - climbed[middle], *_tails(slopes, slope))


def fitted(
    knots: Array,
    source: Array,
    target: Array,
    weights: Array,
    slope: float,
    *,
    ridge: float,
    limits: tuple[float, float] = SLOPE_LIMITS,
    rounds: int = 3,
    scale: float = 1.0,
) -> IntensityMap:
    """Return the piecewise linear map that comes nearest to pairs of quantiles, with slopes near `slope`.

    Least squares with bounds, each round with less weight for pairs that the last one missed by far (Huber): masks are
    never quite right.

    Parameters
    ----------
    knots: shape (n,), increasing: where the slope may change.
    source, target, weights: pairs, shape (m,) each.
    slope: of the affine map that `ridge` pulls towards; limits are times it.
    ridge: weight of a map's departure from it, in the unit of `weights`.
    scale: a miss that is large, in the units of `target`.
    """
    from scipy.optimize import lsq_linear

    knots = np.unique(knots)
    if knots.size < 2:
        return through(source, target, slope, limits)
    lengths = np.diff(knots)
    # How far a pair reaches into each segment; the outermost segments go on for ever.
    reach = np.clip(source[:, None] - knots[None, :-1], 0, lengths[None])
    reach[:, 0] += np.minimum(source - knots[0], 0)
    reach[:, -1] += np.maximum(source - knots[-1], 0)
    design = np.concatenate([np.ones((source.size, 1)), reach], axis=1)
    pull = np.concatenate([np.zeros((lengths.size, 1)), np.diag(lengths)], axis=1)
    bounds = (
        np.concatenate([[-np.inf], np.full(lengths.size, limits[0] * slope)]),
        np.concatenate([[np.inf], np.full(lengths.size, limits[1] * slope)]),
    )
    trusted = np.ones_like(weights)
    solution = np.zeros(1 + lengths.size)
    for _ in range(rounds):
        root = np.sqrt(weights * trusted)
        solution = lsq_linear(
            np.concatenate([design * root[:, None], np.sqrt(ridge) * pull]),
            np.concatenate([target * root, np.sqrt(ridge) * slope * lengths]),
            bounds=bounds,
            method="bvls",
        ).x
        missed = np.abs(design @ solution - target) / scale
        trusted = 1 / np.maximum(1.0, missed)
    slopes = solution[1:]
    y = solution[0] + np.concatenate([[0.0], np.cumsum(slopes * lengths)])
    return IntensityMap(knots, y, *_tails(slopes, slope))


def smooth(rough: IntensityMap, pieces: int = 128) -> IntensityMap:
    """Return the monotone cubic (PCHIP) through the same knots, as many short straight pieces."""
    from scipy.interpolate import PchipInterpolator

    if rough.x.size < 3:
        return rough
    x = np.union1d(np.linspace(rough.x[0], rough.x[-1], pieces), rough.x)
    return IntensityMap(x, PchipInterpolator(rough.x, rough.y)(x), rough.below, rough.above)


def _tails(slopes: Array, slope: float) -> tuple[float, float]:
    """Return slopes for what lies beyond all knots: that of the last segment, but no steeper than the affine part.

    Metal, contrast agent and flow are brighter than anything that the knots stand for.
    """
    return float(min(slopes[0], slope)), float(min(slopes[-1], slope))
