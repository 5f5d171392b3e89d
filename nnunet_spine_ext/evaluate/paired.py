"""Paired comparison of two lists of values: Wilcoxon signed-rank test, effect sizes, correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.metric import Direction
from nnunet_spine_ext.evaluate.statistic import bootstrap_interval

Correction = Literal["holm", "bonferroni", "none"]
ALPHA = 0.05
# With five pairs the smallest two-sided p-value is 2 / 2^5 = 0.0625: no result could be significant.
MIN_PAIRS = 6
_NOTHING = (math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Paired:
    """How values of B differ from those of A, pair by pair.

    `statistic` and `p` belong to the two-sided Wilcoxon signed-rank test; both are NaN where it cannot be made, and
    `reason` says why. Differences are B - A; for metrics that should be zero they are those of the absolute values.
    `ci_low` and `ci_high` bound the mean difference (bootstrap). `rank_biserial` is in [-1, 1], positive when B is
    better. Differences may be infinite where failures count as infinitely bad.
    """

    n: int
    mean_difference: float
    median_difference: float
    ci_low: float
    ci_high: float
    rank_biserial: float
    statistic: float
    p: float
    reason: str = ""


def compare_pairs(
    a: Sequence[float], b: Sequence[float], direction: Direction, *, resamples: int = 0, seed: int = 0
) -> Paired:
    """Compare paired values without NaN (n,); infinite ones are worse, or better, than all others."""
    differences = _differences(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    n = len(differences)
    if n == 0:
        return Paired(0, *_NOTHING, "no pair")
    finite = bool(np.isfinite(differences).all())
    interval = (math.nan, math.nan)
    if finite and n > 1 and resamples:
        interval = bootstrap_interval(differences, np.ones(n), resamples=resamples, seed=seed)
    # Infinite differences of both signs have no mean.
    mean = float(differences.mean()) if finite else math.nan
    with np.errstate(invalid="ignore"):
        middle = float(np.median(differences))
    effect = rank_biserial(differences) * (1 if direction == "higher" else -1)
    statistic, p, reason = _wilcoxon(differences)
    return Paired(n, mean, middle, *interval, effect, statistic, p, reason)


def _differences(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        differences = b - a
    # Two failures are equally bad: infinity minus infinity is no difference.
    return np.where(a == b, 0.0, differences)


def _bounded(differences: Array) -> Array:
    """Give infinite differences the largest ranks, all of them the same."""
    finite = np.abs(differences[np.isfinite(differences)])
    largest = 2 * finite.max(initial=0.0) + 1
    return np.clip(differences, -largest, largest)


def _wilcoxon(differences: Array) -> tuple[float, float, str]:
    from scipy.stats import wilcoxon

    n = len(differences)
    if n < MIN_PAIRS:
        return math.nan, math.nan, f"{n} pair{'' if n == 1 else 's'}, at least {MIN_PAIRS} are needed"
    differing = int(np.count_nonzero(differences))
    if not differing:
        return math.nan, math.nan, "all differences are zero"
    if differing < MIN_PAIRS:
        # Zeros do not enter the ranks: scipy's approximation would call five differences significant.
        return (
            math.nan,
            math.nan,
            f"{differing} pair{'' if differing == 1 else 's'} of {n} differ, fewer than {MIN_PAIRS}",
        )
    found = wilcoxon(_bounded(differences))
    return float(found.statistic), float(found.pvalue), ""


def rank_biserial(differences: Array) -> float:
    """Return the matched-pairs rank-biserial correlation of differences (n,), in [-1, 1].

    Difference of the rank sums of positive and negative differences over their sum (Kerby 2014); zero differences are
    left out, NaN when nothing is left.
    """
    from scipy.stats import rankdata

    kept = _bounded(differences[differences != 0])
    if len(kept) == 0:
        return math.nan
    ranks = rankdata(np.abs(kept))
    return float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())


def correct(p: Sequence[float], method: Correction) -> list[float]:
    """Return p-values corrected for the number of tests made; NaN (no test) stays NaN and does not count.

    ``bonferroni``: times the number of tests. ``holm``: step-down (Holm 1979), never larger than Bonferroni's.
    """
    corrected = list(p)
    tests = sorted((value, k) for k, value in enumerate(p) if not math.isnan(value))
    largest = 0.0
    for rank, (value, k) in enumerate(tests):
        factor = {"holm": len(tests) - rank, "bonferroni": len(tests), "none": 1}[method]
        largest = max(largest, min(1.0, value * factor))
        corrected[k] = largest if method == "holm" else min(1.0, value * factor)
    return corrected


def stars(p: float) -> str:
    """Return the usual marks: * below 0.05, ** below 0.01, *** below 0.001, nothing for the rest and for NaN."""
    return "*" * sum(p < level for level in (ALPHA, 0.01, 0.001))
