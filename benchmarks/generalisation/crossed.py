"""The mean of paired differences over seeds and cases, and how sure it is: both are drawn at random, and crossed.

Every seed's networks see the same cases. The variance of the mean is (MS_seeds + MS_cases - MS_rest) / (S C), the
unbiased estimate for two crossed random effects without replication (Searle, Casella & McCulloch, Variance Components,
1992, ch. 4); degrees of freedom by Satterthwaite.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Crossed:
    """Mean difference, standard error, degrees of freedom, one-sided 95 % bounds and the components of variance."""

    mean: float
    standard_error: float
    degrees: float
    lower: float
    upper: float
    seeds: int
    cases: int
    variance_seeds: float
    variance_cases: float
    variance_rest: float

    @property
    def width(self) -> float:
        """Distance between the one-sided bounds: a 90 % interval."""
        return self.upper - self.lower

    def seeds_for(self, width: float, most: int = 1000) -> int | None:
        """Return how many seeds would give an interval of that width with these cases; None: more cases are needed."""
        for seeds in range(2, most + 1):
            variance = (
                self.variance_seeds / seeds
                + self.variance_cases / self.cases
                + self.variance_rest / (seeds * self.cases)
            )
            if 2 * stats.t.ppf(0.95, seeds - 1) * math.sqrt(variance) <= width:
                return seeds
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {**asdict(self), "width": self.width}


def crossed(differences: np.ndarray) -> Crossed:
    """Analyse differences (seeds, cases); at least two of each."""
    count_s, count_c = differences.shape
    if min(count_s, count_c) < 2:
        msg = f"{count_s} seeds and {count_c} cases: at least two of each are needed"
        raise ValueError(msg)
    mean = float(differences.mean())
    by_seed, by_case = differences.mean(axis=1), differences.mean(axis=0)
    ms_s = count_c * float(np.square(by_seed - mean).sum()) / (count_s - 1)
    ms_c = count_s * float(np.square(by_case - mean).sum()) / (count_c - 1)
    rest = differences - by_seed[:, None] - by_case[None] + mean
    df_rest = (count_s - 1) * (count_c - 1)
    ms_r = float(np.square(rest).sum()) / df_rest
    # A component that comes out negative is zero: its mean square is then one more estimate of the rest.
    squares = [(ms_s, count_s - 1) if ms_s > ms_r else (ms_r, df_rest)]
    squares += [(ms_c, count_c - 1) if ms_c > ms_r else (ms_r, df_rest), (ms_r, df_rest)]
    (own_s, _), (own_c, _), _ = squares
    variance = (own_s + own_c - ms_r) / (count_s * count_c)
    weights = sum((square / (count_s * count_c)) ** 2 / degrees for square, degrees in squares)
    degrees = variance**2 / weights if weights > 0 else float(df_rest)
    variance_s, variance_c = (own_s - ms_r) / count_c, (own_c - ms_r) / count_s
    error = math.sqrt(variance)
    half = float(stats.t.ppf(0.95, degrees)) * error
    return Crossed(mean, error, degrees, mean - half, mean + half, count_s, count_c, variance_s, variance_c, ms_r)
