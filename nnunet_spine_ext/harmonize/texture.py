"""Texture of levels in numpy: co-occurrence and runs, as PyRadiomics defines them (van Griethuysen et al. 2017).

Levels are whole numbers from 1 on, 0 lies outside the region. Distance 1, all directions, symmetric; a feature is the
mean of its values per direction. The differentiable kin of five of them is `losses/radiomics.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from nnunet_spine_ext.core.volume import Array

# PyRadiomics adds this to whatever it takes a logarithm of or divides by.
EPS = np.spacing(1)
GLCM = (
    "Autocorrelation", "ClusterProminence", "ClusterShade", "ClusterTendency", "Contrast", "Correlation",
    "DifferenceAverage", "DifferenceEntropy", "DifferenceVariance", "Id", "Idm", "Idmn", "Idn", "Imc1", "Imc2",
    "InverseVariance", "JointAverage", "JointEnergy", "JointEntropy", "MCC", "MaximumProbability", "SumAverage",
    "SumEntropy", "SumSquares",
)  # fmt: skip
GLRLM = (
    "GrayLevelNonUniformity", "GrayLevelNonUniformityNormalized", "GrayLevelVariance", "HighGrayLevelRunEmphasis",
    "LongRunEmphasis", "LongRunHighGrayLevelEmphasis", "LongRunLowGrayLevelEmphasis", "LowGrayLevelRunEmphasis",
    "RunEntropy", "RunLengthNonUniformity", "RunLengthNonUniformityNormalized", "RunPercentage", "RunVariance",
    "ShortRunEmphasis", "ShortRunHighGrayLevelEmphasis", "ShortRunLowGrayLevelEmphasis",
)  # fmt: skip
# Of one size of slices there are four, of one size of blocks thirteen.
_ORDERS_KEPT = 32
# PyRadiomics leaves directions out whose lines all have fewer.
_FEWEST_ON_A_LINE = 2


def directions(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return one of each pair of opposite neighbours of a pixel or voxel: 4 in a slice, 13 in a block.

    Axes of length 1 have no neighbours, so a block of one slice has 4 too.
    """
    half = [d for d in product((-1, 0, 1), repeat=len(shape)) if d > (0,) * len(shape)]
    return tuple(d for d in half if all(n > 1 or step == 0 for n, step in zip(shape, d, strict=True)))


def entropy(shares: Array) -> float:
    """Return minus the sum of p log2 p, in bits."""
    return float(-(shares * np.log2(shares + EPS)).sum())


def glcm_features(levels: Array) -> dict[str, float]:
    """Return the 24 features of the grey level co-occurrence matrix.

    Parameters
    ----------
    levels: int array (Y, X) or (Z, Y, X) from 1 on; 0 is outside.

    Where no pixel has a neighbour inside, all are NaN.
    """
    top, different = int(levels.max()), np.unique(levels[levels > 0]).size
    rows = []
    for direction in directions(levels.shape):
        counts = _pairs(levels, direction, top)
        if counts.sum() > 0:
            rows.append(_glcm_values(counts / counts.sum(), different))
    return _mean(rows, GLCM)


def _pairs(levels: Array, direction: tuple[int, ...], top: int) -> Array:
    """Count pairs of levels of neighbours, each in both orders: float array (top, top)."""
    here = tuple(slice(max(0, -step), n - max(0, step)) for step, n in zip(direction, levels.shape, strict=True))
    there = tuple(slice(max(0, step), n - max(0, -step)) for step, n in zip(direction, levels.shape, strict=True))
    one, other = levels[here].ravel(), levels[there].ravel()
    # Level 0 takes part and is cut off afterwards: faster than picking the pairs inside.
    counts = np.bincount(one * (top + 1) + other, minlength=(top + 1) ** 2).reshape(top + 1, top + 1)[1:, 1:]
    both: Array = (counts + counts.T).astype(np.float64)
    return both


def _glcm_values(p: Array, different: int) -> dict[str, float]:
    """Features of one normalised, symmetric matrix (n, n), of a region with so many different levels."""
    n = len(p)
    level = np.arange(1.0, n + 1)
    i, j = level[:, None], level[None, :]
    # Of a symmetric matrix the margins of rows and columns are the same.
    margin = p.sum(axis=1)
    mean = float((margin * level).sum())
    variance = float((margin * (level - mean) ** 2).sum())
    away = np.arange(n, dtype=np.float64)
    place = np.abs(i - j).astype(np.int64)
    difference = np.bincount(place.ravel(), weights=p.ravel(), minlength=n)
    total = np.bincount((i + j - 2).astype(np.int64).ravel(), weights=p.ravel(), minlength=2 * n - 1)
    sums = np.arange(2.0, 2 * n + 1)
    cluster = i + j - 2 * mean
    average = float((away * difference).sum())
    shared = float((p * (i - mean) * (j - mean)).sum())
    return {
        "Autocorrelation": float((p * i * j).sum()),
        "ClusterProminence": float((p * cluster**4).sum()),
        "ClusterShade": float((p * cluster**3).sum()),
        "ClusterTendency": float((p * cluster**2).sum()),
        "Contrast": float((difference * away**2).sum()),
        "Correlation": shared / (variance + EPS) if variance > 0 else 1.0,
        "DifferenceAverage": average,
        "DifferenceEntropy": entropy(difference),
        "DifferenceVariance": float((difference * (away - average) ** 2).sum()),
        "Id": float((difference / (1 + away)).sum()),
        "Idm": float((difference / (1 + away**2)).sum()),
        "Idmn": float((difference / (1 + (away / n) ** 2)).sum()),
        "Idn": float((difference / (1 + away / n)).sum()),
        "InverseVariance": float((difference[1:] / away[1:] ** 2).sum()),
        "JointAverage": mean,
        "JointEnergy": float((p**2).sum()),
        "JointEntropy": entropy(p),
        "MaximumProbability": float(p.max()),
        "SumAverage": float((sums * total).sum()),
        "SumEntropy": entropy(total),
        "SumSquares": variance,
        **_information(p, margin, different),
    }


def _information(p: Array, margin: Array, different: int) -> dict[str, float]:
    """Measures of correlation from information: how far the matrix is from the product of its margins."""
    independent = margin[:, None] * margin[None, :]
    joint, single = entropy(p), entropy(margin)
    crossed, both = float(-(p * np.log2(independent + EPS)).sum()), entropy(independent)
    # p / sqrt(margin margin') has the singular values whose squares PyRadiomics takes as eigenvalues of Q, the largest
    # is 1; without the eigenvalues of a matrix that is not symmetric none is complex.
    known = margin > 0
    root = np.sqrt(margin[known])
    # Levels of the region are rows of PyRadiomics' matrix even where no pair in this direction has them: their values
    # are 0. Only a single level has no second value.
    values = np.linalg.svd(p[np.ix_(known, known)] / root[:, None] / root[None, :], compute_uv=False)
    return {
        "Imc1": (joint - crossed) / single if single > 0 else 0.0,
        "Imc2": float(np.sqrt(max(0.0, 1 - np.exp(-2 * (both - joint))))),
        "MCC": float(values[1]) if len(values) > 1 else float(different == 1),
    }


def glrlm_features(levels: Array) -> dict[str, float]:
    """Return the 16 features of the grey level run length matrix: runs of equal levels in a row, inside the region.

    Parameters
    ----------
    levels: int array (Y, X) or (Z, Y, X) from 1 on; 0 is outside.

    Only directions count in which a line meets two pixels inside, side by side or not; without any, all are NaN.
    """
    found = (_runs(levels, direction) for direction in directions(levels.shape))
    return _mean([_glrlm_values(*runs) for runs in found if runs is not None], GLRLM)


def _runs(levels: Array, direction: tuple[int, ...]) -> tuple[Array, Array, Array] | None:
    """Return level, length and number of runs of each kind, shape (k,) each; None if no line meets two pixels."""
    order, starts = _lines(levels.shape, direction)
    row = levels.ravel()[order]
    if int(np.add.reduceat(row > 0, np.flatnonzero(starts), dtype=np.int64).max()) < _FEWEST_ON_A_LINE:
        return None
    first = starts | (np.diff(row, prepend=-1) != 0)
    begin = np.flatnonzero(first)
    length = np.diff(begin, append=row.size)
    level = row[begin]
    inside = level > 0
    longest = int(length.max())
    kinds, counts = np.unique(level[inside] * (longest + 1) + length[inside], return_counts=True)
    return (kinds // (longest + 1)).astype(float), (kinds % (longest + 1)).astype(float), counts.astype(float)


@lru_cache(maxsize=_ORDERS_KEPT)
def _lines(shape: tuple[int, ...], direction: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the flat places of all pixels line after line along a direction, and which of them begin a line."""
    places = np.indices(shape).reshape(len(shape), -1)
    limits = [
        where if step > 0 else n - 1 - where
        for where, step, n in zip(places, direction, shape, strict=True)
        if step != 0
    ]
    steps = np.min(limits, axis=0)
    line = np.ravel_multi_index(tuple(places - steps * np.asarray(direction)[:, None]), shape)
    order = np.lexsort((steps, line))
    return order, steps[order] == 0


def _glrlm_values(level: Array, length: Array, counts: Array) -> dict[str, float]:
    """Features of the runs of one direction, of each kind so many."""
    runs = float(counts.sum())
    share = counts / runs
    by_level = np.bincount(level.astype(np.int64), weights=counts)
    by_length = np.bincount(length.astype(np.int64), weights=counts)
    mean_level, mean_length = float((share * level).sum()), float((share * length).sum())
    short, low = share / length**2, share / level**2
    long, high = share * length**2, share * level**2
    uneven_levels, uneven_lengths = float((by_level**2).sum()), float((by_length**2).sum())
    return {
        "GrayLevelNonUniformity": uneven_levels / runs,
        "GrayLevelNonUniformityNormalized": uneven_levels / runs**2,
        "GrayLevelVariance": float((share * (level - mean_level) ** 2).sum()),
        "HighGrayLevelRunEmphasis": float(high.sum()),
        "LongRunEmphasis": float(long.sum()),
        "LongRunHighGrayLevelEmphasis": float((long * level**2).sum()),
        "LongRunLowGrayLevelEmphasis": float((long / level**2).sum()),
        "LowGrayLevelRunEmphasis": float(low.sum()),
        "RunEntropy": entropy(share),
        "RunLengthNonUniformity": uneven_lengths / runs,
        "RunLengthNonUniformityNormalized": uneven_lengths / runs**2,
        "RunPercentage": runs / float((counts * length).sum()),
        "RunVariance": float((share * (length - mean_length) ** 2).sum()),
        "ShortRunEmphasis": float(short.sum()),
        "ShortRunHighGrayLevelEmphasis": float((short * level**2).sum()),
        "ShortRunLowGrayLevelEmphasis": float((short / level**2).sum()),
    }


def _mean(rows: Sequence[Mapping[str, float]], names: tuple[str, ...]) -> dict[str, float]:
    """Mean over directions; NaN where there is none."""
    return {name: float(np.mean([row[name] for row in rows])) if rows else float("nan") for name in names}
