"""From the answers of several heads to one score per vertebra and level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.levels import GROUPS, INDEX, LEVELS, REGION_OF, REGIONS
from nnunet_spine_ext.numbering.scores import VertebraScores

_GROUP_OF = np.array([next(k for k, names in enumerate(GROUPS) if name in names) for name in LEVELS])
_SMOOTHING_RADIUS = 2


@dataclass(frozen=True)
class ScoreWeights:
    """How much each head counts. The weights are those of SPINEPS' labelling (find_vert_path_from_predictions).

    Parameters
    ----------
    level, group, region: shares of these heads in the score of a vertebra.
    relative: weight of the head for first and last vertebrae of a region.
    t13: weight of the head that asks for a T13.
    visible: how much less a vertebra counts that is not wholly in the picture (0: not, 1: a hidden one not at all).
    smoothing: standard deviation, in levels, of a Gaussian over the levels of a region: neighbours look alike.
    error: probability that an answer of a head has nothing to do with the vertebra; keeps one wrong answer from
        outvoting all others.
    temperature: nats are divided by it; above 1 for a network that is too sure. None: by that of the scores, which a
        network has from its training.

    Raises
    ------
    UsageError: a weight below 0, nothing for the levels themselves, an error of 0 (one answer would decide alone), a
        temperature of 0.
    """

    level: float = 0.9
    group: float = 0.8
    region: float = 1.1
    relative: float = 0.6
    t13: float = 0.4
    visible: float = 0.5
    smoothing: float = 0.0
    error: float = 0.05
    temperature: float | None = None

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("group", "region", "relative", "t13", "smoothing"), (0.0, 1e3))
        limits |= {"level": (1e-3, 1e3), "visible": (0.0, 1.0), "error": (1e-6, 1.0)}
        limits |= {} if self.temperature is None else {"temperature": (1e-2, 1e2)}
        check_ranges(self, limits, where="numbering.weights")


def combine(scores: VertebraScores, weights: ScoreWeights | None = None) -> tuple[Array, Array | None]:
    """Return scores of levels (n, 26) and of roles (n, 6) in nats; roles are relative to having none.

    The heads look at the same picture, so together they are one witness: a vertebra's probability of a level is the
    weighted mean of theirs. Roles are None when there is no head for them.
    """
    weights = weights or ScoreWeights()
    heads = [(weights.level, _smoothed(scores.level, weights.smoothing))]
    if scores.group is not None:
        sizes = np.bincount(_GROUP_OF)
        heads.append((weights.group, _smoothed((scores.group / sizes)[:, _GROUP_OF], weights.smoothing)))
    if scores.region is not None:
        sizes = np.bincount(REGION_OF)
        heads.append((weights.region, (scores.region / sizes)[:, REGION_OF]))
    total = sum(weight for weight, _ in heads)
    pooled = np.sum([weight * table for weight, table in heads], axis=0) / total
    level = _nats(pooled, weights.error)
    if scores.t13 is not None:
        against, for_it = np.log(_mixed(scores.t13, weights.error)).T
        level[:, INDEX["T13"]] += weights.t13 * (for_it - against)
    relative = None
    if scores.relative is not None:
        table = _nats(scores.relative, weights.error)
        relative = weights.relative * (table - table[:, :1])
    factor = np.ones(len(level)) if scores.visible is None else 1 - weights.visible * (1 - scores.visible)
    factor = factor / (weights.temperature or scores.temperature or 1.0)
    return level * factor[:, None], None if relative is None else relative * factor[:, None]


def _nats(probability: Array, error: float) -> Array:
    return np.log(_mixed(probability, error))


def _mixed(probability: Array, error: float) -> Array:
    """With this probability the answer is any of them."""
    return (1 - error) * probability + error / probability.shape[1]


def _smoothed(table: Array, sigma: float) -> Array:
    """Spread each row over neighbouring levels of the same region; rows keep their sum."""
    if sigma <= 0:
        return table
    from scipy.ndimage import gaussian_filter1d

    result = np.empty_like(table)
    for region in range(len(REGIONS)):
        here = np.flatnonzero(np.asarray(REGION_OF) == region)
        result[:, here] = gaussian_filter1d(table[:, here], sigma, axis=1, mode="nearest", radius=_SMOOTHING_RADIUS)
    return result / np.maximum(result.sum(axis=1, keepdims=True), 1e-12)
