"""Do two or more measurements of the same subjects agree: limits of agreement, equivalence, ICC, effect size, fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.anova import mean_squares
from nnunet_spine_ext.evaluate.statistic import CONFIDENCE, DEFAULT_RESAMPLES, DEFAULT_SEED

NAN = math.nan
# Share of the differences that the limits of agreement hold.
_COVERED = 0.95
_ALPHA = 0.05


@dataclass(frozen=True)
class Limits:
    """Bland and Altman's limits of agreement of differences, in the unit of the values.

    `bias` is the mean difference, `low` and `high` hold 95 % of the differences (bias ± 1.96 sd). Each has its 95 %
    interval in `bias_interval`, `low_interval`, `high_interval`: from Student's t where every subject has one
    difference (Bland and Altman 1999, variance of a limit (1/n + 1.96²/(2(n - 1))) sd²), else from resampled
    subjects; `repeated` says which. `n` differences of `subjects` subjects.
    """

    n: int
    subjects: int
    bias: float
    sd: float
    low: float
    high: float
    bias_interval: tuple[float, float] = (NAN, NAN)
    low_interval: tuple[float, float] = (NAN, NAN)
    high_interval: tuple[float, float] = (NAN, NAN)
    repeated: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: is the mean difference inside ± `margin`.

    `p` is the larger one of the two p-values; `low` and `high` bound the mean difference at 90 %, the interval that
    lies inside ± margin exactly when p < 0.05. `equivalent` is None where the test cannot be made.
    """

    n: int
    margin: float
    mean_difference: float
    low: float = NAN
    high: float = NAN
    p_lower: float = NAN
    p_upper: float = NAN
    p: float = NAN
    equivalent: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class Icc:
    """Intraclass correlation of single measurements, two-way model (McGraw and Wong 1996), each with a 95 % interval.

    `agreement` is ICC(A,1), Shrout and Fleiss' ICC(2,1): a constant difference between the measurements lowers it.
    `consistency` is ICC(C,1), ICC(3,1): it does not. Subjects without a value in every measurement are left out
    (`incomplete`).
    """

    subjects: int
    incomplete: int
    measurements: int
    agreement: float = NAN
    agreement_interval: tuple[float, float] = (NAN, NAN)
    consistency: float = NAN
    consistency_interval: tuple[float, float] = (NAN, NAN)
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """Standardised mean difference b - a: `d_z` over the sd of the differences, `d_av` over the mean variance.

    `d_av` is Cohen's d for equal groups, comparable across designs; `d_z` is what a paired test sees.
    """

    d_z: float
    d_av: float


@dataclass(frozen=True)
class Fit:
    """Least-squares line b = slope a + intercept with r squared; NaN for fewer than 3 points or equal a."""

    n: int
    slope: float
    intercept: float
    r_squared: float


def limits_of_agreement(
    differences: Sequence[float],
    subjects: Sequence[str] | None = None,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> Limits:
    """Return the limits of agreement of finite differences (n,); `subjects` names the subject of each.

    With several differences per subject the sd is that of one new difference of a new subject, variance between plus
    variance within subjects (Bland and Altman 2007, section 3), and intervals come from resampled subjects: treating
    the images of a subject as independent would make them too narrow.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    names = [str(k) for k in range(n)] if subjects is None else list(subjects)
    groups = len(set(names))
    if groups < 2:
        bias = float(values.mean()) if n else NAN
        return Limits(n, groups, bias, NAN, NAN, NAN, reason=f"{groups} subject(s), at least 2 are needed")
    if groups < n:
        return _repeated_limits(values, names, resamples, seed)
    return _single_limits(values)


def _single_limits(values: Array) -> Limits:
    from scipy.stats import norm, t

    n = len(values)
    bias, sd = float(values.mean()), float(values.std(ddof=1))
    z = float(norm.ppf((1 + _COVERED) / 2))
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    of_bias = quantile * sd / math.sqrt(n)
    of_limit = quantile * sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    low, high = bias - z * sd, bias + z * sd
    return Limits(
        n,
        n,
        bias,
        sd,
        low,
        high,
        bias_interval=_around(bias, of_bias),
        low_interval=_around(low, of_limit),
        high_interval=_around(high, of_limit),
    )


def _around(middle: float, half: float) -> tuple[float, float]:
    return middle - half, middle + half


def _repeated_limits(values: Array, names: Sequence[str], resamples: int, seed: int) -> Limits:
    _, index = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    sums, squares = np.bincount(index, weights=values), np.bincount(index, weights=values**2)
    bias, low, high = (float(side) for side in _components(sums, squares, counts))
    intervals = [(NAN, NAN)] * 3
    if resamples > 0:
        drawn = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
        found = _components(sums[drawn], squares[drawn], counts[drawn])
        tail = 50 * (1 - CONFIDENCE)
        edges = [np.percentile(side, [tail, 100 - tail]) for side in found]
        intervals = [(float(low), float(high)) for low, high in edges]
    sd = (high - low) / (2 * _z())
    return Limits(
        len(values),
        len(counts),
        bias,
        sd,
        low,
        high,
        bias_interval=intervals[0],
        low_interval=intervals[1],
        high_interval=intervals[2],
        repeated=True,
    )


def _z() -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + _COVERED) / 2))


def _components(sums: Array, squares: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Bias and limits from sums, sums of squares and counts per subject, shape (..., subjects).

    One-way variance components, estimated by the mean squares between and within subjects.
    """
    n, total = counts.shape[-1], counts.sum(axis=-1)
    bias = sums.sum(axis=-1) / total
    within_squares = (squares - sums**2 / counts).sum(axis=-1)
    between_squares = (counts * (sums / counts - bias[..., None]) ** 2).sum(axis=-1)
    # A resampled cohort may hold no subject with several images.
    within = within_squares / np.maximum(total - n, 1)
    mean_count = (total**2 - (counts**2).sum(axis=-1)) / ((n - 1) * total)
    # An estimate below zero means that subjects differ no more than chance makes them.
    between = np.maximum(0.0, (between_squares / (n - 1) - within) / mean_count)
    half = _z() * np.sqrt(np.maximum(0.0, between + within))
    return bias, bias - half, bias + half


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    """Test whether the mean of finite paired differences (n,) lies inside ± `margin` (Schuirmann 1987), margin > 0."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else NAN
    if n < 2:
        return Equivalence(n, margin, mean, reason=f"{n} pair{'' if n == 1 else 's'}, at least 2 are needed")
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        inside = abs(mean) < margin
        p = 0.0 if inside else 1.0
        return Equivalence(n, margin, mean, mean, mean, p, p, p, inside, "all differences are equal")
    p_lower = float(t.sf((mean + margin) / error, n - 1))
    p_upper = float(t.cdf((mean - margin) / error, n - 1))
    half = float(t.ppf(1 - _ALPHA, n - 1)) * error
    p = max(p_lower, p_upper)
    return Equivalence(n, margin, mean, mean - half, mean + half, p_lower, p_upper, p, p < _ALPHA)


def icc(table: Array) -> Icc:
    """Return both correlations of a table (subjects, measurements), NaN where a value is missing."""
    table = np.asarray(table, dtype=np.float64)
    complete = table[np.isfinite(table).all(axis=1)]
    n, k = complete.shape
    counts = (n, len(table) - n, k)
    if n < 2 or k < 2:
        lacking = f"{k} measurement(s)" if k < 2 else f"{n} subject(s) with a value in every measurement"
        return Icc(*counts, reason=f"{lacking}, at least 2 are needed")
    found = mean_squares(complete)
    b, c, e = found.subjects, found.conditions, found.error
    below_agreement = b + (k - 1) * e + k * (c - e) / n
    below_consistency = b + (k - 1) * e
    if below_agreement <= 0 or below_consistency <= 0:
        return Icc(*counts, reason="all values are equal")
    agreement, consistency = (b - e) / below_agreement, (b - e) / below_consistency
    if e <= 0:
        reason = "no variance but that of subjects and measurements: no intervals"
        return Icc(*counts, agreement=agreement, consistency=consistency, reason=reason)
    return Icc(
        *counts,
        agreement=agreement,
        agreement_interval=_agreement_interval(agreement, b, c, e, n, k),
        consistency=consistency,
        consistency_interval=_consistency_interval(b / e, n, k),
    )


def _consistency_interval(f: float, n: int, k: int) -> tuple[float, float]:
    """Bounds of ICC(C,1) from the F ratio of subjects to error (McGraw and Wong 1996, table 7)."""
    from scipy.stats import f as f_distribution

    share, df, df_error = (1 + CONFIDENCE) / 2, n - 1, (n - 1) * (k - 1)
    low = f / float(f_distribution.ppf(share, df, df_error))
    high = f * float(f_distribution.ppf(share, df_error, df))
    return (low - 1) / (low + k - 1), (high - 1) / (high + k - 1)


def _agreement_interval(value: float, b: float, c: float, e: float, n: int, k: int) -> tuple[float, float]:
    """Bounds of ICC(A,1); Satterthwaite's degrees of freedom (McGraw and Wong 1996, table 7).

    `b`, `c`, `e`: mean squares of subjects, measurements and error.
    """
    from scipy.stats import f as f_distribution

    if value >= 1:
        return (NAN, NAN)
    weight_c = k * value / (n * (1 - value))
    weight_e = 1 + k * value * (n - 1) / (n * (1 - value))
    spread = (weight_c * c) ** 2 / (k - 1) + (weight_e * e) ** 2 / ((n - 1) * (k - 1))
    df = (weight_c * c + weight_e * e) ** 2 / spread
    share = (1 + CONFIDENCE) / 2
    down = float(f_distribution.ppf(share, n - 1, df))
    up = float(f_distribution.ppf(share, df, n - 1))
    others = k * c + (k * n - k - n) * e
    low = n * (b - down * e) / (down * others + n * b)
    high = n * (up * b - e) / (others + n * up * b)
    return low, high


def effect_size(a: Sequence[float], b: Sequence[float]) -> Effect:
    """Return the standardised mean differences of finite paired values (n,); NaN where nothing varies or n < 2."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(first) < 2:
        return Effect(NAN, NAN)
    differences = second - first
    mean = float(differences.mean())
    pooled = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    own = float(differences.std(ddof=1))
    return Effect(mean / own if own > 0 else NAN, mean / pooled if pooled > 0 else NAN)


def line_fit(a: Sequence[float], b: Sequence[float]) -> Fit:
    """Return the least-squares line through finite points (n,)."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(first)
    x, y = (values - values.mean() if n else values for values in (first, second))
    own, other = float((x**2).sum()), float((y**2).sum())
    if n < 3 or own == 0:
        return Fit(n, NAN, NAN, NAN)
    slope = float((x * y).sum()) / own
    share = float((x * y).sum()) ** 2 / (own * other) if other > 0 else NAN
    return Fit(n, slope, float(second.mean() - slope * first.mean()), share)
