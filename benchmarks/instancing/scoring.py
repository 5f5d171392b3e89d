"""Panoptic quality of instance masks, by this package's own evaluation."""

from __future__ import annotations

from typing import Any

from instancing.phantoms import SPACING
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.registry import select
from nnunet_spine_ext.evaluate.scoring import Settings, score_instances

KINDS = ("vertebra", "disc", "endplate")


def score(reference: Array, found: Array) -> dict[str, Any]:
    """Return RQ, SQ, PQ, least Dice of a match and counts per kind of instance (spineps ids; numbers are ignored)."""
    settings = Settings((), tuple(select(("rq", "sq", "pq"), "group")), (), 1.0, 0.5, "spineps")
    rows, matchings = score_instances("", reference, found, SPACING, settings, numbered=False)
    result: dict[str, Any] = {}
    for kind in KINDS:
        if kind not in matchings:
            continue
        matching = matchings[kind]
        values = {row.metric: round(float(row.value), 4) for row in rows if row.label == kind}
        dice = [match.dice for match in matching.matches]
        result[kind] = values | {
            "true": matching.n_ref,
            "found": matching.n_pred,
            "matched": len(dice),
            "least_dice": round(min(dice), 4) if dice else 0.0,
        }
    return result
