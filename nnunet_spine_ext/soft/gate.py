"""Does a mask agree with the others? Dice of each one with the average of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

# Slices with less of the structure in both than this many pixels say nothing.
_FEWEST_PIXELS = 3.0
_HALF = 0.5


@dataclass(frozen=True)
class Agreement:
    """Of one mask with the average of the others, where both are there.

    Parameters
    ----------
    dice: over all of it; NaN if there is nothing in common.
    worst_dice, worst_level: the slice with the lowest Dice and its number on the lattice; NaN and -1 without one.
    """

    dice: float
    worst_dice: float
    worst_level: int


def dice(first: Array, second: Array, where: Array | None = None) -> float:
    """Return 2 Σ min(a, b) / (Σ a + Σ b): Dice for binary masks, and for soft ones; NaN if both are empty."""
    a, b = (first, second) if where is None else (first * where, second * where)
    total = float(a.sum(dtype=np.float64) + b.sum(dtype=np.float64))
    return 2.0 * float(np.minimum(a, b).sum(dtype=np.float64)) / total if total > 0 else float("nan")


def leave_one_out(values: Mapping[str, Array], covered: Mapping[str, Array]) -> dict[str, Agreement]:
    """Compare each mask with the average of the others.

    The average is not thresholded: of two others, one that leaks would be all that is above a half.

    Parameters
    ----------
    values: aligned masks (x, y, z), 0 to 1.
    covered: where each of them counts, 0 to 1.
    """
    total = sum(values[name] * covered[name] for name in values)
    count = sum(covered[name] for name in values)
    found = {}
    for name, own in values.items():
        others = count - covered[name]
        both = (others > _HALF) & (covered[name] > _HALF)
        mean = np.divide(total - own * covered[name], others, out=np.zeros_like(own), where=both)
        found[name] = _agreement(own * both, np.clip(mean, 0.0, 1.0) * both)
    return found


def _agreement(own: Array, others: Array) -> Agreement:
    shared = 2.0 * np.minimum(own, others).sum(axis=(0, 1), dtype=np.float64)
    total = own.sum(axis=(0, 1), dtype=np.float64) + others.sum(axis=(0, 1), dtype=np.float64)
    if total.sum() == 0:
        return Agreement(float("nan"), float("nan"), -1)
    says = total >= _FEWEST_PIXELS
    by_slice = np.where(says, shared / np.maximum(total, 1.0), np.inf)
    worst = int(by_slice.argmin())
    known = bool(says.any())
    return Agreement(
        float(shared.sum() / total.sum()), float(by_slice[worst]) if known else float("nan"), worst if known else -1
    )


def outlier(agreements: Mapping[str, Agreement], lowest: float) -> str | None:
    """Return the mask that agrees least with the others, if it agrees less than `lowest`; of equals the first."""
    below = {name: row.dice for name, row in agreements.items() if not row.dice >= lowest}
    return min(below, key=lambda name: np.nan_to_num(below[name], nan=-1.0)) if below else None
