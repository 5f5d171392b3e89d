"""One monotone map that brings the structures of the spine to the intensities they had in training."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.harmonize.curves import PROBABILITIES, ChannelFacts
from nnunet_spine_ext.harmonize.maps import FIT_KNOTS, IntensityMap, fitted, smooth
from nnunet_spine_ext.harmonize.reference import ChannelReference

_INNER = (PROBABILITIES >= 0.1) & (PROBABILITIES <= 0.9)
# So many voxels (of the thinned scan) count as fully seen.
_ENOUGH = 2000.0


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
    sources, targets, weights = [], [], []
    for name in names:
        row = reference.structures[name]
        share = min(1.0, facts.voxels[name] / _ENOUGH)
        sources.append(facts.structures[name][_INNER])
        targets.append(reference.absolute(row.mean[_INNER]))
        weights.append(share / (row.spread[_INNER] ** 2 + 0.05**2))
    source, target, weight = (np.concatenate(rows) for rows in (sources, targets, weights))
    slope = float(np.clip(np.polyfit(source, target, 1, w=np.sqrt(weight))[0], limits[0], None))
    knots = np.quantile(np.concatenate([facts.body, source]), np.linspace(0.01, 0.99, FIT_KNOTS))
    found = smooth(
        fitted(
            knots, source, target, weight / weight.mean(), slope, ridge=1.0, limits=limits,
            scale=0.1 * reference.width,
        )
    )  # fmt: skip
    confidence = float(np.mean([min(1.0, facts.voxels[name] / _ENOUGH) for name in names]))
    return found.blended(body, confidence), confidence, []
