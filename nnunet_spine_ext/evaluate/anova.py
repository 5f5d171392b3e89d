"""One-way analysis of variance for repeated measures: does the condition matter, when subjects are measured in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

# Below this share of the values' own size a mean square is what rounding leaves of nothing.
_ROUNDING = 1e-20


@dataclass(frozen=True)
class Anova:
    """Effect of the condition on a value measured once per subject and condition.

    `subjects` complete rows enter; `incomplete` ones with a missing value are left out whole (listwise): filling them
    in, or comparing conditions over different subjects, would make up agreement. `f` has `df` and `df_error` degrees
    of freedom and `p` assumes sphericity; `epsilon` is Greenhouse and Geisser's estimate (1: spherical) and
    `p_corrected` uses it. `partial_eta_squared` is the share of the variance within subjects. All are NaN where the
    test cannot be made, and `reason` says why.
    """

    subjects: int
    incomplete: int
    conditions: int
    f: float = math.nan
    df: int = 0
    df_error: int = 0
    p: float = math.nan
    epsilon: float = math.nan
    p_corrected: float = math.nan
    partial_eta_squared: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of a complete table of subjects (rows) and conditions (columns)."""

    subjects: float
    conditions: float
    error: float


def mean_squares(table: Array) -> MeanSquares:
    """Split the variance of a table (n, k) without NaN, n and k at least 2, into subjects, conditions and the rest."""
    n, k = table.shape
    grand = table.mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None, :] + grand
    return MeanSquares(
        float(k * ((rows - grand) ** 2).sum() / (n - 1)),
        float(n * ((columns - grand) ** 2).sum() / (k - 1)),
        float((rest**2).sum() / ((n - 1) * (k - 1))),
    )


def rm_anova(table: Array) -> Anova:
    """Test whether the condition matters; `table` is (subjects, conditions), NaN where a value is missing.

    Equal to statsmodels' `AnovaRM` on complete tables. A condition that no subject has is an error of the caller.
    """
    from scipy.stats import f as f_distribution

    table = np.asarray(table, dtype=np.float64)
    complete = table[np.isfinite(table).all(axis=1)]
    n, k = complete.shape
    counts = (n, len(table) - n, k)
    if k < 2 or n < 2:
        lacking = f"{k} condition(s)" if k < 2 else f"{n} subject(s) with a value in every condition"
        return Anova(*counts, reason=f"{lacking}, at least 2 are needed")
    found = mean_squares(complete)
    negligible = _ROUNDING * float((complete**2).mean())
    if found.error <= negligible:
        return Anova(*counts, reason="the conditions differ by the same amounts in every subject")
    df, df_error = k - 1, (n - 1) * (k - 1)
    f = found.conditions / found.error
    epsilon = greenhouse_geisser(complete)
    return Anova(
        *counts,
        f=f,
        df=df,
        df_error=df_error,
        p=float(f_distribution.sf(f, df, df_error)),
        epsilon=epsilon,
        p_corrected=float(f_distribution.sf(f, epsilon * df, epsilon * df_error)),
        partial_eta_squared=df * found.conditions / (df * found.conditions + df_error * found.error),
    )


def greenhouse_geisser(table: Array) -> float:
    """Return the estimate of sphericity, in [1 / (k - 1), 1], of a complete table (n, k), n and k at least 2.

    Greenhouse and Geisser 1959: of the covariance of the conditions, with its row and column means taken out.
    """
    k = table.shape[1]
    covariance = np.cov(table, rowvar=False)
    centred = covariance - covariance.mean(axis=0) - covariance.mean(axis=1)[:, None] + covariance.mean()
    return float(np.trace(centred) ** 2 / ((k - 1) * (centred**2).sum()))
