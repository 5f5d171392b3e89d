"""Where the spine is in a slice, and which slices of two sets show alike anatomy."""

from __future__ import annotations

from typing import Self

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.slice_set import DISC, SliceSet

# The paper's region of interest, rows and columns: 120 x 320 pixels of a 320 x 320 slice.
ROI_SIZE = (320, 120)
# Discs cover at least so many pixels of a slice: fewer are no spine to aim at.
LEAST_DISC = 12.0
_HALF = 0.5
_CHUNK = 256


class RoiWindow(tuple[slice, slice]):
    """Rows and columns of a region of interest; an index into (..., Y, X).

    `found`: whether discs told where it is; else it is in the middle of the slice.
    """

    found: bool

    def __new__(cls, rows: slice, columns: slice, *, found: bool) -> Self:
        """Make a pair of slices."""
        window = super().__new__(cls, (rows, columns))
        window.found = found
        return window


def roi_window(mask_probability: Array | None, shape: tuple[int, int], size: tuple[int, int] = ROI_SIZE) -> RoiWindow:
    """Return the window around the discs of a slice, inside the slice.

    The middle of the discs' pixels is the middle of the window; where that would leave the slice, it is moved, and
    where the slice is smaller, it is as large as the slice.

    Parameters
    ----------
    mask_probability: (Y, X), 0 to 1, of a network or a mask; 255 is unknown and counts as nothing. Values below one
        half do not count. None: no disc is known.
    shape: of the slice (Y, X). size: of the window (Y, X).

    Returns
    -------
    A pair of slices; its `found` is False when there are too few disc pixels, and the middle of the slice was taken.

    Raises
    ------
    ValueError: a mask of another shape.
    """
    centre: tuple[float, float] | None = None
    if mask_probability is not None:
        if mask_probability.shape != tuple(shape):
            msg = f"a mask of shape {mask_probability.shape} does not fit a slice of {tuple(shape)}"
            raise ValueError(msg)
        weight = np.where(mask_probability <= 1, mask_probability, 0).astype(np.float64)
        weight[~(weight >= _HALF)] = 0
        if weight.sum() >= LEAST_DISC:
            rows, columns = weight.sum(axis=1), weight.sum(axis=0)
            centre = (_mean(rows), _mean(columns))
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2) if centre is None else centre
    first, second = (_span(m, n, length) for m, n, length in zip(middle, shape, size, strict=True))
    return RoiWindow(first, second, found=centre is not None)


def weak_pairs(source: SliceSet, target: SliceSet) -> list[tuple[int, int]]:
    """Return, for every source slice, the target slice that shows the most alike anatomy: (source, target) indices.

    Two distances in mm are added in squares: that of the positions from right to left, and, where the discs of both
    slices are known, how far the discs of one must be moved along the spine to lie as those of the other (the
    Wasserstein distance of their rows), which a shift by one level makes large. A target slice may serve several.

    Rows of slices that were resized are as many mm as `SliceFacts.row` says, whatever the sets' median; rows lie as far
    from the middle of the slice, as those of slices that were cropped do.

    Raises
    ------
    UsageError: an empty set, or sets of other pixels, unless they were resized.
    """
    if not len(source) or not len(target):
        raise _usage(f"{len(source)} source and {len(target)} target slices", "slices on both sides")
    resized = all(fact.row is not None for fact in (*source.facts, *target.facts))
    if source.size != target.size or not (resized or np.allclose(source.spacing, target.spacing, rtol=0.01)):
        found = f"slices of {source.size}, {source.spacing} mm and of {target.size}, {target.spacing} mm"
        raise _usage(found, "one size and one pixel size")
    pairs = []
    ours, theirs, step = _rows(source), _rows(target), source.spacing[0]
    if resized:
        ours, theirs, step = _on_one_grid(source, ours, target, theirs)
    place = np.array([fact.position for fact in target.facts])
    for index, fact in enumerate(source.facts):
        cost = (place - fact.position) ** 2
        cost += _along(ours[index], theirs, step) ** 2
        pairs.append((index, int(np.argmin(cost))))
    return pairs


def _mean(weights: Array) -> float:
    return float((weights * np.arange(len(weights))).sum() / weights.sum())


def _span(middle: float, count: int, length: int) -> slice:
    length = min(length, count)
    start = int(np.floor(middle - (length - 1) / 2 + 0.5))
    start = min(max(start, 0), count - length)
    return slice(start, start + length)


def _rows(found: SliceSet) -> Array:
    """Return, per slice, which share of its disc pixels lies above each row, (N, Y); NaN without discs."""
    if found.masks is None:
        return np.full((len(found), found.size[0]), np.nan)
    parts = []
    for start in range(0, len(found), _CHUNK):
        counts = (found.masks[start : start + _CHUNK] == DISC).sum(axis=2).astype(np.float64)
        total = counts.sum(axis=1, keepdims=True)
        parts.append(np.where(total >= LEAST_DISC, np.cumsum(counts, axis=1) / np.maximum(total, 1), np.nan))
    return np.concatenate(parts)


def _on_one_grid(source: SliceSet, ours: Array, target: SliceSet, theirs: Array) -> tuple[Array, Array, float]:
    """Return both sets of shares (N, Y) at places in mm from the middle of the slices (N, P), and the step of these."""
    rows = [np.array([fact.row for fact in part.facts], dtype=np.float64) for part in (source, target)]
    step, half = float(min(r.min() for r in rows)), float(max(r.max() for r in rows)) * source.size[0] / 2
    places = np.arange(-half, half + step, step)
    # A share is reached at the lower edge of its row. Above the slice it is 0, or unknown (NaN) where the slice's are.
    edges = np.arange(1, source.size[0] + 1) - source.size[0] / 2
    moved = [
        np.stack(
            [np.interp(places, edges * mm, share, left=share[0] * 0) for mm, share in zip(row, shares, strict=True)]
        )
        for row, shares in zip(rows, (ours, theirs), strict=True)
    ]
    return moved[0], moved[1], step


def _along(ours: Array, theirs: Array, spacing: float) -> Array:
    """Return how far the discs of each target slice lie from those of one slice, mm; 0 where either has none.

    Where some target slices have discs, those without are as far as the whole height: they show other anatomy.
    """
    if np.isnan(ours[0]):
        return np.zeros(len(theirs))
    away = np.abs(theirs - ours).sum(axis=1) * spacing
    unknown = np.isnan(away)
    return np.where(unknown, 0.0 if unknown.all() else len(ours) * spacing, away)


def _usage(found: str, expected: str) -> UsageError:
    return UsageError("E-SLICE-PAIRS", file="slices", found=found, expected=expected, fix="read both alike")
