"""Statistics of voxel values, gathered while the bytes stream by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnunet_spine_ext.check.facts import VoxelFacts
from nnunet_spine_ext.core.volume import Array

MAX_IDS = 4096
MAX_IMAGE_VALUES = 64
_MAX_STRANGE = 8
# So many values of a block show already that an image has many.
_GLANCE = 4096


def scan(
    blocks: Iterable[bytes], dtype: np.dtype[Any], *, scaling: tuple[float, float] | None = None, ids: bool = False
) -> VoxelFacts:
    """Return statistics of numbers that arrive in blocks of bytes; a number may be cut by the end of a block.

    Parameters
    ----------
    dtype: stored type with byte order.
    scaling: slope and intercept to apply, or None.
    ids: collect the different values up to `MAX_IDS` (for masks), else up to `MAX_IMAGE_VALUES`.
    """
    tally = _Tally(dtype, most=MAX_IDS if ids else MAX_IMAGE_VALUES)
    rest = b""
    for block in blocks:
        content = rest + block if rest else block
        whole = len(content) - len(content) % dtype.itemsize
        rest = content[whole:]
        if whole:
            tally.add(np.frombuffer(content, dtype=dtype, count=whole // dtype.itemsize))
    return tally.facts(scaling)


class _Tally:
    """Running counts over blocks of stored numbers."""

    def __init__(self, dtype: np.dtype[Any], *, most: int) -> None:
        self.count = self.nan = self.infinite = self.saturated = 0
        self.low, self.high = math.inf, -math.inf
        self.limit = np.iinfo(dtype).max if dtype.kind in "iu" else None
        self.values: set[float] = set()
        self.most, self.overflow = most, False

    def add(self, values: Array) -> None:
        self.count += values.size
        low, high = values.min(), values.max()
        # One pass tells that all is finite: NaN and infinity both survive min or max.
        if not (np.isfinite(low) and np.isfinite(high)):
            self.nan += int(np.isnan(values).sum())
            self.infinite += int(np.isinf(values).sum())
            values = values[np.isfinite(values)]
            if not values.size:
                return
            low, high = values.min(), values.max()
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        if self.limit is not None and high == self.limit:
            self.saturated += int(np.count_nonzero(values == self.limit))
        if not self.overflow:
            self._collect(values)

    def _collect(self, values: Array) -> None:
        # Most of a mask is background: sorting the rest is cheap.
        foreground = values[values != 0]
        if foreground.size < values.size:
            self.values.add(0)
        for part in (foreground[:_GLANCE], foreground[_GLANCE:]):
            # One more than is of interest shows that there are too many.
            self.values.update(np.unique(part)[: self.most + 1].tolist())
            self.overflow = len(self.values) > self.most
            if self.overflow:
                break

    def facts(self, scaling: tuple[float, float] | None) -> VoxelFacts:
        slope, inter = scaling or (1, 0)
        ends = sorted((self.low * slope + inter, self.high * slope + inter))
        low, high = (float(ends[0]), float(ends[1])) if self.low <= self.high else (math.nan, math.nan)
        values = sorted(v * slope + inter for v in self.values)
        strange = [float(v) for v in values if not math.isfinite(v) or v != int(v) or v < 0]
        ids = None if self.overflow or strange else tuple(int(v) for v in values)
        return VoxelFacts(
            count=self.count,
            minimum=low,
            maximum=high,
            nan=self.nan,
            infinite=self.infinite,
            saturated=self.saturated,
            ids=ids,
            strange=tuple(strange[:_MAX_STRANGE]),
        )
