"""How large vertebrae are and how far apart: what is expected per level, and gaps where a vertebra is missing."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.column import Column
from nnunet_spine_ext.numbering.levels import LEVELS
from nnunet_spine_ext.phantom.tables import ARCH, BODY, DISC_HEIGHT

# Two bodies of one height are this far apart: body and disc, mean of the thoracic and lumbar rows of the tables.
PITCH_OVER_HEIGHT = 1.3
_NEIGHBOURS = 3
_TOLERATED = 0.5
# Scatter of the natural logarithm of a size: between people 8 to 9 %, the rest is the mask.
SCATTER = {"depth": 0.16, "pitch": 0.16, "span": 0.22}
_LIMIT = 3.0


def _expected(size: str) -> Array:
    """Mean size (26,) in mm per level; NaN for C1, T13 between its neighbours."""
    rows = {}
    for name in LEVELS:
        if name in BODY:
            body = BODY[name]
            depth = (body.depth_sup + body.depth_inf) / 2
            pitch = body.height_post + DISC_HEIGHT[name]
            rows[name] = {"depth": depth, "pitch": pitch, "span": ARCH[name].tp_span}[size]
    rows["T13"] = (rows["T12"] + rows["L1"]) / 2
    return np.array([rows.get(name, np.nan) for name in LEVELS])


EXPECTED: dict[str, Array] = {size: _expected(size) for size in SCATTER}


def size_scores(column: Column) -> Array:
    """Return (n, 26) log-likelihoods of the sizes of each vertebra by itself; 0 where nothing could be measured.

    Vertebrae at the edge of the picture are left out. No single size counts more than 3 standard deviations.
    """
    result = np.zeros((len(column), len(LEVELS)))
    for size, scatter in SCATTER.items():
        measured = np.where(column.cut, np.nan, getattr(column, size))
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.log(measured)[:, None] - np.log(EXPECTED[size])
        value = -0.5 * np.minimum(np.abs(off) / scatter, _LIMIT) ** 2
        # C1 has no body, so what has one is as far from it as can be.
        value = np.where(np.isnan(EXPECTED[size]), -0.5 * _LIMIT**2, value)
        result += np.where(np.isfinite(measured)[:, None], value, 0.0)
    return result


def gaps_between(column: Column) -> Array:
    """Return (n-1,) how many vertebrae fit between a body and the next; 0 below half a vertebra, NaN: unknown."""
    count = len(column)
    result = np.full(max(count - 1, 0), np.nan)
    for row in range(count - 1):
        expected = _local_pitch(column, row)
        result[row] = _vertebrae(column.pitch[row] - expected, expected)
    return result


def gap_to_sacrum(column: Column) -> float | None:
    """Return how many vertebrae fit between the last body and the sacrum; None without a sacrum."""
    if column.sacrum_mm is None:
        return None
    expected = _local_pitch(column, len(column) - 1)
    height = column.height[-1]
    if not np.isfinite(expected):
        return 0.0
    half = height / 2 if np.isfinite(height) else expected / PITCH_OVER_HEIGHT / 2
    return _vertebrae(column.sacrum_mm - (expected - half), expected)


def _vertebrae(surplus: float, pitch: float) -> float:
    gap = surplus / pitch
    return 0.0 if gap < _TOLERATED else float(gap)


def _local_pitch(column: Column, row: int) -> float:
    """What the distance below a vertebra should be: by its neighbours, else by its own height."""
    near = np.arange(max(0, row - _NEIGHBOURS), min(len(column) - 1, row + _NEIGHBOURS + 1))
    others = column.pitch[near[near != row]]
    others = others[np.isfinite(others)]
    if len(others) >= 2:
        return float(np.median(others))
    heights = column.height[row : row + 2]
    heights = heights[np.isfinite(heights)]
    return float(heights.mean() * PITCH_OVER_HEIGHT) if len(heights) else np.nan
