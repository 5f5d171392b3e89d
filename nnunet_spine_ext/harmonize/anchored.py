"""One monotone map that brings the structures of the spine to the intensities they had in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.harmonize.curves import HIGH, LOW, PROBABILITIES, ChannelFacts
from nnunet_spine_ext.harmonize.maps import FIT_KNOTS, IntensityMap, fitted, smooth
from nnunet_spine_ext.harmonize.reference import ChannelReference, at
from nnunet_spine_ext.harmonize.structures import REGION

# Beyond these a structure is half something else.
_INNER = (PROBABILITIES >= 0.1) & (PROBABILITIES <= 0.9)
# So many voxels (of the thinned scan) count as fully seen: quantiles of as many are good to a few percent, and a cord
# without its outermost voxels hardly has more.
_ENOUGH = 500.0
# A structure that is farther than so many spreads from where the judge brings it loses weight. A cropped body judges
# one or two structures less strictly: its composition is another than in training.
_STRICT, _LENIENT = 1.5, 3.0
# Maps are uncertain by a tenth of the body's range at least, and by a quarter of how far beyond it a structure lies.
_UNCERTAIN, _BEYOND = 0.1, 0.25
# A map that brings most structures as near as this many spreads is as good as one that brings them nearer.
_NEAR = 0.3
# Structures whose agreement is less than this are left out, with all that surrounds them, if others are left.
_BELIEVED = 0.5
# What the quantiles of each kind count. A mask that is a few voxels off spoils those of a thin structure, hardly those
# of what lies within 20 mm; the body as a whole tells only as much as its composition is that of the training scans.
_BODY, _REGION, _STRUCTURE = 0.5, 1.0, 0.1
# Of a body without air around it, a crop, the composition is another.
_CROPPED = 0.02
# So many structures can contradict each other.
_SEVERAL = 3
# In units of the weights, which are 1 on average, and of the 10th to 90th percentile range.
_RIDGE, _MISS, _FLOOR = 0.3, 0.1, 0.05


def anchored_map(
    facts: ChannelFacts,
    reference: ChannelReference,
    body: IntensityMap,
    limits: tuple[float, float],
    file: str = "",
    without: Callable[[AbstractSet[str]], ChannelFacts] | None = None,
) -> tuple[IntensityMap, float, list[Problem]]:
    """Return the map, the share of it that structures decided (0 to 1), and warnings.

    Parameters
    ----------
    body: the map of the body, which stands in for what structures do not tell.
    without: gives the facts as they are without some structures, for those that others contradict.
    """
    own = [name for name in facts.structures if name in reference.structures and name != REGION]
    if not own:
        problem = Problem(
            "warning", "W-MATCH-ANCHORS", file, "no structure that the reference knows", "at least one",
            "the body alone was matched",
        )  # fmt: skip
        return body, 0.0, [problem]
    if not _same_order(facts, reference, own):
        problem = Problem(
            "warning", "W-MATCH-ORDER", file, "structures brighter than others that they were darker than in training",
            "a scan of the same contrast", "the body alone was matched: look at the result",
        )  # fmt: skip
        return body, 0.0, [problem]
    trust = _trusted(facts, reference, body, limits)
    doubted = {name for name in own if trust[name] < _BELIEVED * _seen(facts, name)}
    if without is not None and doubted and len(doubted) < len(own):
        facts = without(doubted)
        trust = _trusted(facts, reference, body, limits)
    # The region is left out: 20 mm around any crumb are many voxels.
    confidence = max(share for name, share in trust.items() if name != REGION)
    return _fit(facts, reference, trust, limits).blended(body, confidence), confidence, []


def _trusted(
    facts: ChannelFacts, reference: ChannelReference, body: IntensityMap, limits: tuple[float, float]
) -> dict[str, float]:
    """Return how far each structure is trusted, and the region, 0 to 1: by its size and its intensities.

    The body judges structures, unless most of several contradict it: then it shows other tissue than in training, and
    they judge each other. They in turn judge the region: one around something else brings them farther off than the
    body does.
    """
    own = [name for name in facts.structures if name in reference.structures and name != REGION]
    seen = {name: _seen(facts, name) for name in own}

    def missed(judge: IntensityMap) -> dict[str, float]:
        return {name: _missed(judge, facts, reference, name) for name in own}

    by_body = missed(body)
    found, strict = by_body, _STRICT
    if len(own) < _SEVERAL:
        strict = _LENIENT if _cropped(facts, reference) else _STRICT
    elif _middle(by_body, seen) > _STRICT:
        found = missed(_fit(facts, reference, seen, limits, alone=True))
    trust = {name: seen[name] * _share(strict, found[name]) for name in own}
    if REGION in facts.structures and REGION in reference.structures:
        by_region = missed(_fit(facts, reference, {REGION: 1.0}, limits, alone=True))
        better = max(_NEAR, _middle(by_body, seen))
        trust[REGION] = _middle(trust, seen) * _share(better, _middle(by_region, seen))
    return trust


def _fit(
    facts: ChannelFacts,
    reference: ChannelReference,
    trust: Mapping[str, float],
    limits: tuple[float, float],
    *,
    alone: bool = False,
) -> IntensityMap:
    """Return the map that comes nearest to the quantiles of the body and of structures, by how far each is trusted.

    `alone`: the body counts next to nothing, as in a crop.
    """
    cropped = alone or _cropped(facts, reference)
    rows = [(facts.body, reference.mean, reference.spread, _CROPPED if cropped else _BODY)]
    for name, share in trust.items():
        known, found = reference.structures[name], facts.structures[name]
        inner = slice(None) if name == REGION else _INNER
        weight = share * (_REGION if name == REGION else _STRUCTURE)
        rows.append((found[inner], known.mean[inner], known.spread[inner], weight))
    source = np.concatenate([row[0] for row in rows])
    target = reference.absolute(np.concatenate([row[1] for row in rows]))
    weights = np.concatenate([share / (spread**2 + _FLOOR**2) for _, _, spread, share in rows])
    slope = reference.width / max(float(at(facts.body, HIGH) - at(facts.body, LOW)), 1e-9)
    knots = np.quantile(np.concatenate([facts.body, source]), np.linspace(0.01, 0.99, FIT_KNOTS))
    return smooth(
        fitted(
            knots, source, target, weights / weights.mean(), slope, ridge=_RIDGE, limits=limits,
            scale=_MISS * reference.width,
        )
    )  # fmt: skip


def _seen(facts: ChannelFacts, name: str) -> float:
    """Return how well a structure is seen, 0 to 1: by its size times the probabilities of its voxels."""
    return min(1.0, facts.voxels.get(name, 0.0) / _ENOUGH)


def _share(allowed: float, missed: float) -> float:
    """Return 1 up to an allowed miss, and less the larger a miss is."""
    return min(1.0, (allowed / max(missed, 1e-9)) ** 2)


def _missed(found: IntensityMap, facts: ChannelFacts, reference: ChannelReference, name: str) -> float:
    """Return how many spreads from where the reference has it a map brings a structure."""
    known = reference.structures[name]
    off = np.abs(found(facts.structures[name]) - reference.absolute(known.mean)) / reference.width
    uncertain = _UNCERTAIN + _BEYOND * np.maximum(known.mean - 1, 0)
    return float(np.median((off / np.hypot(known.spread, uncertain))[_INNER]))


def _middle(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the lower weighted median: of two, the smaller one."""
    names = sorted(weights, key=lambda name: values[name])
    reached = np.cumsum([weights[name] for name in names])
    return values[names[int(np.searchsorted(reached, reached[-1] / 2))]]


def _cropped(facts: ChannelFacts, reference: ChannelReference) -> bool:
    """Whether there is no air around the body, though in training there was: its composition is another."""
    return facts.air is None and reference.air is not None


def _same_order(facts: ChannelFacts, reference: ChannelReference, names: list[str]) -> bool:
    """Whether the medians of structures do not fall where the reference's rise: a monotone map cannot turn them."""
    middle = len(PROBABILITIES) // 2
    if len(names) < _SEVERAL:
        return True
    found = np.asarray([facts.structures[name][middle] for name in names])
    known = np.asarray([reference.structures[name].mean[middle] for name in names])
    found, known = found - found.mean(), known - known.mean()
    return float((found * known).sum()) >= -0.5 * float(np.sqrt((found**2).sum() * (known**2).sum()))
