"""One monotone map that brings the structures of the spine to the intensities they had in training."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.harmonize.curves import HIGH, LOW, PROBABILITIES, ChannelFacts
from nnunet_spine_ext.harmonize.maps import FIT_KNOTS, IntensityMap, fitted, smooth
from nnunet_spine_ext.harmonize.reference import ChannelReference, at
from nnunet_spine_ext.harmonize.structures import REGION

# Beyond these a structure is half something else.
_INNER = (PROBABILITIES >= 0.1) & (PROBABILITIES <= 0.9)
# So many voxels (of the thinned scan) count as fully seen.
_ENOUGH = 2000.0
# What the quantiles of each kind count. A mask that is a few voxels off spoils those of a thin structure, hardly those
# of what lies within 20 mm; the body as a whole tells only as much as its composition is that of the training scans.
_BODY, _REGION, _STRUCTURE = 0.5, 1.0, 0.1
# Of a body without air around it, a crop, the composition is another.
_CROPPED = 0.02
# In units of the weights, which are 1 on average, and of the 10th to 90th percentile range.
_RIDGE, _MISS, _FLOOR = 0.3, 0.1, 0.05


def anchored_map(
    facts: ChannelFacts,
    reference: ChannelReference,
    body: IntensityMap,
    limits: tuple[float, float],
    file: str = "",
) -> tuple[IntensityMap, float, list[Problem]]:
    """Return the map, the share of it that structures decided (0 to 1), and warnings.

    Parameters
    ----------
    body: the map of the body, which stands in for what structures do not tell.
    """
    names = [name for name in facts.structures if name in reference.structures]
    if not names:
        problem = Problem(
            "warning", "W-MATCH-ANCHORS", file, "no structure that the reference knows", "at least one",
            "the body alone was matched",
        )  # fmt: skip
        return body, 0.0, [problem]
    if not _same_order(facts, reference, names):
        problem = Problem(
            "warning", "W-MATCH-ORDER", file, "structures brighter than others that they were darker than in training",
            "a scan of the same contrast", "the body alone was matched: look at the result",
        )  # fmt: skip
        return body, 0.0, [problem]
    cropped = facts.air is None and reference.air is not None
    rows = [(facts.body, reference.mean, reference.spread, _CROPPED if cropped else _BODY)]
    for name in names:
        known, found = reference.structures[name], facts.structures[name]
        share = _seen(facts, name) * (_REGION if name == REGION else _STRUCTURE)
        inner = slice(None) if name == REGION else _INNER
        rows.append((found[inner], known.mean[inner], known.spread[inner], share))
    source = np.concatenate([row[0] for row in rows])
    target = reference.absolute(np.concatenate([row[1] for row in rows]))
    weights = np.concatenate([share / (spread**2 + _FLOOR**2) for _, _, spread, share in rows])
    slope = reference.width / max(float(at(facts.body, HIGH) - at(facts.body, LOW)), 1e-9)
    knots = np.quantile(np.concatenate([facts.body, source]), np.linspace(0.01, 0.99, FIT_KNOTS))
    found_map = smooth(
        fitted(
            knots, source, target, weights / weights.mean(), slope, ridge=_RIDGE, limits=limits,
            scale=_MISS * reference.width,
        )
    )  # fmt: skip
    confidence = max(_seen(facts, name) for name in names)
    return found_map.blended(body, confidence), confidence, []


def _seen(facts: ChannelFacts, name: str) -> float:
    """Return how well a structure is seen, 0 to 1: by its size times the probabilities of its voxels."""
    return min(1.0, facts.voxels.get(name, 0.0) / _ENOUGH)


def _same_order(facts: ChannelFacts, reference: ChannelReference, names: list[str]) -> bool:
    """Whether the medians of structures do not fall where the reference's rise: a monotone map cannot turn them."""
    middle = len(PROBABILITIES) // 2
    own = [name for name in names if name != REGION]
    if len(own) < 3:
        return True
    found = np.asarray([facts.structures[name][middle] for name in own])
    known = np.asarray([reference.structures[name].mean[middle] for name in own])
    found, known = found - found.mean(), known - known.mean()
    return float((found * known).sum()) >= -0.5 * float(np.sqrt((found**2).sum() * (known**2).sum()))
