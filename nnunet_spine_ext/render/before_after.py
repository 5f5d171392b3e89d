"""Sagittal slices before and after something was done to them, what changed, and both in a checkerboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.render.slices import View, view
from nnunet_spine_ext.render.window import window

_MIDDLE = 128
# Squares of a checkerboard along the longer side of a picture.
_SQUARES = 12
# Where slices are taken, as shares of the way from right to left.
_PLACES = (1 / 3, 1 / 2, 2 / 3)


def before_after(
    before: Volume,
    after: Volume,
    *,
    positions: Sequence[int] | None = None,
    size: int = 320,
    notes: Mapping[int, str] | None = None,
) -> Array:
    """Return a picture (H, W, 3) uint8: a row per slice with before, after, change (grey: none) and checkerboard.

    Edges that break at the squares of a checkerboard have moved (Kim et al., IEEE Access 2024, figure 10).

    Parameters
    ----------
    before, after: on one grid. Both are shown with the greys that fit the first.
    positions: slices, counted from the right of the patient to the left, as in the QC of a harmonized volume; None:
        three in the middle.
    size: pixels along the longer side of a slice. notes: what stands above a slice instead of "after", by position.

    Raises
    ------
    ValueError: two grids, or a position outside them.
    """
    if not before.same_grid(after):
        msg = f"grids {before.shape} and {after.shape} differ, or lie elsewhere"
        raise ValueError(msg)
    count = view(before, "sagittal", size=size).grid.shape[0]
    chosen = positions or list(dict.fromkeys(round(share * (count - 1)) for share in _PLACES))
    # Views count from the left.
    views = [view(before, "sagittal", count - 1 - position, size=size) for position in chosen]
    rows = [_row(before, after, shown) for shown in views]
    told = notes or {}
    captions = [[f"slice {k}", told.get(k, "after"), "change", "checkerboard"] for k in chosen]
    return contact_sheet([[np.repeat(cell[:, :, None], 3, axis=2) for cell in row] for row in rows], captions=captions)


def _row(before: Volume, after: Volume, shown: View) -> list[Array]:
    limits = window(before.array)
    first, second = shown.grey(before, limits), shown.grey(after, limits)
    change = np.clip((second.astype(np.int16) - first.astype(np.int16)) // 2 + _MIDDLE, 0, 255).astype(np.uint8)
    side = max(1, max(first.shape) // _SQUARES)
    squares = (np.add.outer(np.arange(first.shape[0]) // side, np.arange(first.shape[1]) // side) % 2).astype(bool)
    return [first, second, change, np.where(squares, second, first)]
