"""How well discs were found in slices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

METRICS = ("dice", "iou", "f1", "precision", "recall")
"""`dice` of the probabilities, the others of what exceeds one half; shares from 0 to 1."""


def slice_scores(chance: Tensor, target: Tensor, known: Tensor) -> list[dict[str, float] | None]:
    """Return the scores of each slice; None for slices without a disc, which have no recall.

    Parameters
    ----------
    chance: probabilities (B, 1, Y, X). target: 0 or 1. known: bool, pixels that count.
    """
    counts = known.float()
    wanted, soft, hard = target.float() * counts, chance * counts, (chance > 0.5).float() * counts
    size = wanted.flatten(1).sum(1)
    soft_both, soft_size = (soft * wanted).flatten(1).sum(1), soft.flatten(1).sum(1)
    both, found = (hard * wanted).flatten(1).sum(1), hard.flatten(1).sum(1)
    rows: list[dict[str, float] | None] = []
    for k in range(len(size)):
        if not size[k]:
            rows.append(None)
            continue
        rows.append({
            "dice": float(2 * soft_both[k] / (soft_size[k] + size[k])),
            "iou": float(both[k] / (found[k] + size[k] - both[k])),
            "f1": float(2 * both[k] / (found[k] + size[k])),
            # Nothing found is no wrong finding, but no right one, either.
            "precision": float(both[k] / found[k]) if found[k] else 0.0,
            "recall": float(both[k] / size[k]),
        })  # fmt: skip
    return rows


def mean_scores(rows: Iterable[dict[str, float] | None]) -> dict[str, Any]:
    """Return the mean of every metric over slices with a disc, and how many there are; None without any."""
    scored = [row for row in rows if row is not None]
    means = {name: float(np.mean([row[name] for row in scored])) if scored else None for name in METRICS}
    return {**means, "slices": len(scored)}
