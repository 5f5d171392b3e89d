"""Curves through few points: the power law of sample size, lines with a test of their straightness, correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.statistics import UNKNOWN, Draws, Estimate, plain

# Three parameters through three points leave nothing to judge them by.
MIN_SIZES = 4
# Exponents that are looked at; at either end the data do not tell it. Steps of 0.7 %.
EXPONENTS = np.geomspace(0.02, 5.0, 801)
# A correlation of fewer conditions is 1 or -1, or nearly so.
MIN_POINTS = 4


@dataclass(frozen=True)
class PowerLaw:
    """Dice(N) = a - b (N + 1)^-c, fitted by least squares with 0 <= b and a <= 1.

    `a` is the plateau, `b` what it is above N = 0, `c` the rate; each with an interval over the resamples that
    converged (`converged_share` of them). `parameters` (1 + resamples, 3) are NaN where the fit did not converge.
    `converged` is False when the sample itself gives no fit, and `reason` says why.
    """

    a: Estimate
    b: Estimate
    c: Estimate
    rmse: float
    converged: bool
    converged_share: float
    reason: str
    parameters: Array

    def at(self, sizes: Sequence[float]) -> Array:
        """Return the fitted Dice (1 + resamples, sizes)."""
        a, b, c = (self.parameters[:, k : k + 1] for k in range(3))
        return np.asarray(a - b * (np.asarray(sizes, dtype=np.float64)[None] + 1) ** -c)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the resamples as plain JSON."""
        found: dict[str, Any] = {"form": "dice = a - b * (n + 1) ** -c", "converged": self.converged}
        if not self.converged:
            return {**found, "reason": self.reason}
        found |= {"a": self.a.to_dict(), "b": self.b.to_dict(), "c": self.c.to_dict(), "rmse": plain(self.rmse)}
        return {**found, "converged_share_of_resamples": plain(self.converged_share)}


def power_law(draws: Draws, sizes: Sequence[int], curves: Sequence[Array]) -> PowerLaw:
    """Fit the power law to the mean Dice at each size; `curves` are curves of `draws`, one per size."""
    empty = np.full((1 + draws.resamples, 3), math.nan)
    known = [k for k, curve in enumerate(curves) if math.isfinite(curve[0])]
    if len(known) < MIN_SIZES:
        reason = f"too few sizes: {len(known)}, at least {MIN_SIZES} are needed for three parameters"
        return PowerLaw(UNKNOWN, UNKNOWN, UNKNOWN, math.nan, False, 0.0, reason, empty)
    n = np.array([sizes[k] for k in known], dtype=np.float64)
    table = np.stack([curves[k] for k in known], axis=1)
    parameters, errors, reasons = _fit(n, table)
    # Resamples that end at the bound stay in the intervals: without them these would be too narrow.
    reason = _REASONS[reasons[0]] or (_BOUND if parameters[0, 0] >= 1.0 else "")
    if reason:
        return PowerLaw(UNKNOWN, UNKNOWN, UNKNOWN, math.nan, False, 0.0, reason, empty)
    a, b, c = (draws.estimate(parameters[:, k]) for k in range(3))
    fine = np.isfinite(parameters[1:, 0])
    share = float(fine.mean()) if len(fine) else math.nan
    return PowerLaw(a, b, c, float(math.sqrt(errors[0] / len(n))), True, share, "", parameters)


_REASONS = (
    "",
    "the scores do not rise with the number of samples",
    "no plateau in sight: the curve still rises like a logarithm",
    "the whole rise is in the first step: its rate cannot be told",
)
_BOUND = "no plateau in sight: the curve would pass a Dice of 1"


def _fit(n: Array, table: Array) -> tuple[Array, Array, Array]:
    """Least squares of rows (rows, sizes): for each exponent the other two are linear, so all are tried."""
    rows = len(table)
    best = np.full(rows, math.inf)
    chosen = np.zeros((rows, 3))
    index = np.zeros(rows, dtype=np.int64)
    for place, c in enumerate(EXPONENTS):
        x = (n + 1) ** -c
        mean_x, mean_y = x.mean(), table.mean(axis=1)
        b = -((table - mean_y[:, None]) @ (x - mean_x)) / ((x - mean_x) ** 2).sum()
        b = np.maximum(b, 0.0)
        a = mean_y + b * mean_x
        above = a > 1.0
        # Dice ends at 1: with the plateau there, one parameter is left.
        b = np.where(above, np.maximum(((1.0 - table) @ x) / (x @ x), 0.0), b)
        a = np.where(above, 1.0, a)
        error = ((table - a[:, None] + b[:, None] * x) ** 2).sum(axis=1)
        better = error < best - 1e-15
        best[better] = error[better]
        index[better] = place
        chosen[better] = np.stack([a, b, np.full(rows, c)], axis=1)[better]
    flat = ~np.isfinite(best) | (chosen[:, 1] <= 1e-9)
    reasons = np.select([flat, index == 0, index == len(EXPONENTS) - 1], [1, 2, 3], 0)
    chosen[reasons != 0] = math.nan
    return chosen, best, reasons


@dataclass(frozen=True)
class Straight:
    """Line through the means of scanners: Dice = intercept - slope * gap; `slope` above 0: larger gaps, lower Dice.

    `r_squared` is the explained share of the variance of the means. `bend` is the coefficient of the squared gap (both
    scaled to unit range) in a second-order fit: a line is contradicted when its interval excludes 0.
    """

    slope: Estimate
    intercept: Estimate
    r_squared: Estimate
    bend: Estimate

    @property
    def verdict(self) -> str:
        """Return what can be said about straightness."""
        if not math.isfinite(self.bend.low):
            return "too few"
        return "bends" if self.bend.low > 0 or self.bend.high < 0 else "a line is not contradicted"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        names = ("slope", "intercept", "r_squared", "bend")
        return {**{name: getattr(self, name).to_dict() for name in names}, "verdict": self.verdict}


def straight(draws: Draws, gaps: Sequence[Array], scores: Sequence[Array]) -> Straight | None:
    """Fit a line to curves of gap and score, one per scanner; None with fewer than four scanners or without spread."""
    pairs = [(g, s) for g, s in zip(gaps, scores, strict=True) if math.isfinite(g[0]) and math.isfinite(s[0])]
    if len(pairs) < MIN_POINTS:
        return None
    x, y = (np.stack([pair[k] for pair in pairs], axis=1) for k in (0, 1))
    if np.ptp(x[0]) <= 1e-9:
        return None
    whole = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1) & (np.ptp(x, axis=1) > 1e-9)
    low, span = np.where(whole, x.min(axis=1), 0.0), np.where(whole, np.ptp(x, axis=1), 1.0)
    unit = np.where(whole[:, None], (x - low[:, None]) / span[:, None], np.linspace(0, 1, len(pairs)))
    target = np.where(whole[:, None], y, 0.0)
    ones = np.ones_like(unit)
    line = (np.linalg.pinv(np.stack([ones, unit], axis=2)) @ target[:, :, None])[:, :, 0]
    curved = (np.linalg.pinv(np.stack([ones, unit, unit**2], axis=2)) @ target[:, :, None])[:, 2, 0]
    fitted = line[:, :1] + line[:, 1:] * unit
    spread = ((target - target.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1 - ((target - fitted) ** 2).sum(axis=1) / spread
    slope = line[:, 1] / span

    def estimate(values: Array) -> Estimate:
        return draws.estimate(np.where(whole, values, math.nan))

    return Straight(
        estimate(-slope),
        estimate(line[:, 0] - slope * low),
        estimate(explained),
        # Three points always lie on a parabola, four nearly: its coefficient would be noise.
        estimate(curved) if len(pairs) > MIN_POINTS else Estimate(math.nan),
    )


def correlations(draws: Draws, gap: Array, drop: Array) -> tuple[Estimate, Estimate]:
    """Return Pearson's and Spearman's r of gap and drop, each (conditions, subjects), over all their points.

    Subjects are resampled, with all their points.
    """
    known = np.isfinite(gap) & np.isfinite(drop)
    subject = np.nonzero(known)[1]
    x, y = gap[known], drop[known]
    if len(x) < MIN_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(math.nan, note="too few"), Estimate(math.nan, note="too few")
    weights = draws.weights[:, subject]
    return (
        draws.estimate(_pearson(np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape), weights)),
        draws.estimate(_pearson(_ranks(x, weights), _ranks(y, weights), weights)),
    )


def correlations_of_means(draws: Draws, gaps: Sequence[Array], drops: Sequence[Array]) -> tuple[Estimate, Estimate]:
    """Return Pearson's and Spearman's r over scanners, of curves of their mean gap and mean drop."""
    from scipy.stats import rankdata

    pairs = [(g, d) for g, d in zip(gaps, drops, strict=True) if math.isfinite(g[0]) and math.isfinite(d[0])]
    if len(pairs) < MIN_POINTS:
        return Estimate(math.nan, note="too few"), Estimate(math.nan, note="too few")
    x, y = (np.stack([pair[k] for pair in pairs], axis=1) for k in (0, 1))
    ones = np.ones_like(x)
    up, along = (np.where(np.isfinite(v), rankdata(v, axis=1), math.nan) for v in (x, y))
    return draws.estimate(_pearson(x, y, ones)), draws.estimate(_pearson(up, along, ones))


def _pearson(x: Array, y: Array, weights: Array) -> Array:
    """Weighted correlation of each row; NaN where either does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = x - (weights * x).sum(axis=1, keepdims=True) / total
        y = y - (weights * y).sum(axis=1, keepdims=True) / total
        found = (weights * x * y).sum(axis=1) / np.sqrt((weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1))
    return np.where(np.isfinite(found), np.clip(found, -1.0, 1.0), math.nan)


def _ranks(values: Array, weights: Array) -> Array:
    """Mean ranks of values (points,) that occur `weights` (rows, points) times; shape (rows, points)."""
    _, inverse = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), inverse.max() + 1))
    for point, group in enumerate(inverse):
        counts[:, group] += weights[:, point]
    ranks = np.cumsum(counts, axis=1) - counts + (counts + 1) / 2
    return np.asarray(ranks[:, inverse])
