"""Distributions over cases, with intervals from resampled subjects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median, stdev

import numpy as np

from nnunet_spine_ext.core.volume import Array

CONFIDENCE = 0.95
DEFAULT_RESAMPLES = 1000
DEFAULT_SEED = 0
# Draws held at once: bounds the memory of large cohorts.
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Statistic:
    """Distribution of one metric over cases.

    `n` finite values of `subjects` subjects enter mean, sd (n - 1), median, quartiles `q1` and `q3` and range; NaN
    (nothing to compare) and infinite values (one side empty) do not and are counted. `ci_low` and `ci_high` bound the
    mean (see `Resampling`). What cannot be computed is None.
    """

    n: int
    mean: float | None
    sd: float | None
    median: float | None
    lowest: float | None
    highest: float | None
    excluded_undefined: int
    excluded_infinite: int
    q1: float | None = None
    q3: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    subjects: int = 0


@dataclass(frozen=True)
class Resampling:
    """Percentile bootstrap of a mean over subjects: all values of a subject are drawn together.

    Parameters
    ----------
    subject_of: subject of each case; a case that is not named is a subject of its own.
    resamples: number of resampled cohorts; 0: no intervals.
    seed: equal seeds give equal intervals, whatever else is computed.
    """

    subject_of: Mapping[str, str]
    resamples: int = DEFAULT_RESAMPLES
    seed: int = DEFAULT_SEED

    def subjects(self, cases: Iterable[str]) -> list[str]:
        """Return the subject of each case."""
        return [self.subject_of.get(case, case) for case in cases]

    def interval(self, subjects: Sequence[str], values: Sequence[float]) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean of `values`, of which subject k has those with `subjects` == k.

        None when fewer than two subjects have a value, or without resamples.
        """
        names, index = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
        if len(names) < 2 or self.resamples < 1:
            return None
        return bootstrap_interval(
            np.bincount(index, weights=values), np.bincount(index), resamples=self.resamples, seed=self.seed
        )


def bootstrap_interval(sums: Array, counts: Array, *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the percentile interval of the mean over clusters with these sums and counts, each shape (n,)."""
    means = [sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) for drawn in _draws(len(sums), resamples, seed)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _cached_draws(n: int, resamples: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


def _draws(n: int, resamples: int, seed: int) -> Iterable[Array]:
    """Yield indices (rows, n) of resampled clusters; the rows of all chunks are those of one large draw."""
    if n * resamples <= _CHUNK:
        yield _cached_draws(n, resamples, seed)
        return
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield generator.integers(0, n, (min(rows, resamples - start), n))


def finite_mean(values: Iterable[float]) -> float:
    """Mean of the finite values; without any, infinite or, where nothing could be compared, NaN."""
    everything = list(values)
    finite = [value for value in everything if math.isfinite(value)]
    if finite:
        return fmean(finite)
    return math.inf if any(map(math.isinf, everything)) else math.nan


def statistic(
    values: Iterable[float], cases: Sequence[str] | None = None, resampling: Resampling | None = None
) -> Statistic:
    """Summarise values, leaving out NaN and infinite ones and counting them.

    `cases` names the case of each value; with it and `resampling` the mean gets its interval.
    """
    everything = list(values)
    kept = [k for k, value in enumerate(everything) if math.isfinite(value)]
    finite = [everything[k] for k in kept]
    undefined = sum(math.isnan(value) for value in everything)
    infinite = len(everything) - len(finite) - undefined
    if not finite:
        return Statistic(0, None, None, None, None, None, undefined, infinite)
    subjects: list[str] = []
    interval = None
    if resampling is not None and cases is not None:
        subjects = resampling.subjects(cases[k] for k in kept)
        interval = resampling.interval(subjects, finite)
    q1, q3 = (float(q) for q in np.percentile(finite, [25, 75]))
    return Statistic(
        n=len(finite),
        mean=fmean(finite),
        sd=stdev(finite) if len(finite) > 1 else None,
        median=median(finite),
        lowest=min(finite),
        highest=max(finite),
        excluded_undefined=undefined,
        excluded_infinite=infinite,
        q1=q1,
        q3=q3,
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        subjects=len(set(subjects)),
    )
