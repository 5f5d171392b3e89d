"""How Dice grows with the number of annotated target samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.cohort import NONE, Cohort
from nnunet_spine_ext.study.fits import PowerLaw, power_law
from nnunet_spine_ext.study.measured import SAMPLES
from nnunet_spine_ext.study.statistics import Estimate, paired, seed_spread, seeds_of


@dataclass(frozen=True)
class SamplePoint:
    """One size: Dice on the target, and the share of the gap recovered (N = 0 has none)."""

    n: int
    dice: Estimate
    share: Estimate
    seed_sd: float


@dataclass(frozen=True)
class SampleCurve:
    """The curve of one strategy on one scanner; `source` is what the unadapted model reaches on the source."""

    strategy: str
    scanner: str
    points: tuple[SamplePoint, ...]
    source: Estimate
    fit: PowerLaw

    def share_at(self, n: int) -> Estimate:
        """Return the share at a size; "not measured" where it was not."""
        return next((p.share for p in self.points if p.n == n), Estimate(math.nan, note="not measured"))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        points = [{"n": p.n, "dice": p.dice.to_dict(), "share": p.share.to_dict()} for p in self.points]
        return {"strategy": self.strategy, "scanner": self.scanner, "points": points, "fit": self.fit.to_dict()}


def sample_curves(cohort: Cohort) -> tuple[SampleCurve, ...]:
    """Return a curve per strategy and scanner that has samples; N = 0 is the unadapted model where no row says it."""
    found: dict[tuple[str, str], dict[int, Array]] = {}
    for condition, values in cohort.values("dice").items():
        if condition.factor == SAMPLES and condition.n is not None and np.isfinite(values).any():
            found.setdefault((condition.strategy, condition.scanner), {})[condition.n] = values
    # Rows of N = 0 may say strategy none: they belong to every curve of that scanner.
    unadapted = {scanner: sizes for (strategy, scanner), sizes in found.items() if strategy == "none"}
    curves = [(key, sizes) for key, sizes in found.items() if key[0] != "none"]
    return tuple(_curve(cohort, *key, {**unadapted.get(key[1], {}), **sizes}) for key, sizes in sorted(curves))


def _curve(cohort: Cohort, strategy: str, scanner: str, sizes: dict[int, Array]) -> SampleCurve:
    draws = cohort.draws
    none = cohort.score("dice", NONE, scanner)
    if 0 not in sizes and none is not None:
        sizes = {0: none, **sizes}
    base = cohort.score("dice", NONE, cohort.study.source)
    start = sizes.get(0, none)
    points, curves = [], []
    for n, values in sorted(sizes.items()):
        curve = draws.curve(values)
        curves.append(curve)
        share = Estimate(math.nan, note="not measured")
        if n > 0 and start is not None and base is not None:
            after, before = paired(values, start)
            source = paired(base, after)[0] if cohort.crossed else seeds_of(base, after)
            share = draws.ratio(draws.curve(after) - draws.curve(before), draws.curve(source) - draws.curve(before))
        points.append(SamplePoint(n, draws.estimate(curve), share, seed_spread(values)))
    fit = power_law(draws, [p.n for p in points], curves)
    source_dice = Estimate(math.nan, note="not run") if base is None else draws.estimate(draws.curve(base))
    return SampleCurve(strategy, scanner, tuple(points), source_dice, fit)
