"""Everything that the tables, figures and the page say, computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.cohort import NONE, Cohort, Variant
from nnunet_spine_ext.study.components import Drop, drops, headline
from nnunet_spine_ext.study.gap_effect import MEASURES, Ceiling, GapEffect, ceiling, gap_effects, gap_values
from nnunet_spine_ext.study.measured import SCANNER, Condition
from nnunet_spine_ext.study.sample_size import SampleCurve, sample_curves
from nnunet_spine_ext.study.shares import Outcome, outcomes
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate, paired, seed_spread, seeds_of

# A study whose source and targets differ by less cannot tell strategies apart.
VOID_BELOW = 0.10


@dataclass(frozen=True)
class ScannerRow:
    """One row of table 1: a scanner, or the mean over the targets."""

    name: str
    role: str
    subjects: int
    cases: int
    failed: int
    gaps: Mapping[str, Estimate]
    dice: Estimate
    drop: Estimate
    semantic_dice: Estimate
    id_rate: Estimate
    msd_mm: Estimate
    missing: float
    vertebrae: float
    seed_sd: float


@dataclass(frozen=True)
class Verdict:
    """Whether the study can say anything: the mean gap without adaptation, and why not."""

    void: bool
    gap: Estimate
    why: str


@dataclass(frozen=True)
class Results:
    """What a study found."""

    cohort: Cohort
    verdict: Verdict
    scanners: tuple[ScannerRow, ...]
    regions: Mapping[tuple[str, str], Estimate]
    outcomes: tuple[Outcome, ...]
    drops: tuple[Drop, ...]
    headline: tuple[Drop, ...]
    samples: tuple[SampleCurve, ...]
    gaps: tuple[GapEffect, ...]
    ceiling: Ceiling | None

    @property
    def none(self) -> Outcome:
        """Return the outcome without adaptation."""
        return next(one for one in self.outcomes if one.variant == NONE)

    def outcome(self, strategy: str, n: int | None = None) -> Outcome | None:
        """Return the outcome of a strategy that was run; with `n`, only that number of samples."""
        fits = [o for o in self.outcomes if o.variant.strategy == strategy and o.ran and n in (None, o.variant.n)]
        return fits[-1] if fits else None

    def best(self, *, needs: tuple[str, ...] = ("nothing", "images", "labels", "unknown")) -> Outcome | None:
        """Return the strategy with the highest mean Dice over all targets, of those that need no more than `needs`.

        Strategies that lack a target are left out: their mean would be over other scanners.
        """
        whole = self.none.scanners
        able = [o for o in self.outcomes if o.scanners == whole and o.variant != NONE and o.variant.needs in needs]
        able = [o for o in able if o.mean.known]
        return max(able, key=lambda o: o.mean.value) if able else None

    def row(self, name: str) -> ScannerRow | None:
        """Return a row of table 1."""
        return next((row for row in self.scanners if row.name == name), None)

    def no_better(self, one: Outcome) -> str:
        """Return a remark where a strategy's mean is not above that of the unadapted model, else nothing."""
        return "" if one.mean.value > self.none.mean.value else ", no better than none"


MEAN = "mean of targets"


def results(cohort: Cohort) -> Results:
    """Compute everything."""
    found = drops(cohort)
    rows = scanner_rows(cohort)
    return Results(
        cohort,
        verdict(cohort),
        rows,
        region_means(cohort, NONE),
        outcomes(cohort),
        found,
        headline(found),
        sample_curves(cohort),
        gap_effects(cohort),
        ceiling(cohort),
    )


def mean_gap(cohort: Cohort) -> Array | None:
    """Return the curve of source minus target Dice without adaptation, mean over targets; None: not measured."""
    base = cohort.score("dice", NONE, cohort.study.source)
    scores = [cohort.score("dice", NONE, name) for name in cohort.study.targets]
    known = [one for one in scores if one is not None]
    if base is None or not known:
        return None
    return np.mean([_lost(cohort, base, one) for one in known], axis=0)


def _lost(cohort: Cohort, base: Array, score: Array) -> Array:
    before, after = paired(base, score) if cohort.crossed else (seeds_of(base, score), score)
    return cohort.draws.curve(before) - cohort.draws.curve(after)


def verdict(cohort: Cohort) -> Verdict:
    """Return whether the study is void: no gap, or a mean gap below 0.10 Dice before any strategy."""
    curve = mean_gap(cohort)
    if curve is None:
        return Verdict(True, UNKNOWN, "no score of the unadapted model on the source and on a target scanner")
    gap = cohort.draws.estimate(curve)
    if not gap.value >= VOID_BELOW:
        why = f"the mean source-target gap without adaptation is {gap.text()} Dice, below {VOID_BELOW:.2f}"
        return Verdict(True, gap, why)
    return Verdict(False, gap, f"the mean source-target gap without adaptation is {gap.text()} Dice")


def scanner_rows(cohort: Cohort) -> tuple[ScannerRow, ...]:
    """Return the rows of table 1: the source, the targets in order of the study, their mean."""
    gaps = {measure: gap_values(cohort, measure) for measure in (*MEASURES, "ceiling_dice")}
    source, targets = cohort.study.source, cohort.study.targets
    rows = [_scanner(cohort, name, "source" if name == source else "target", gaps) for name in (source, *targets)]
    return (*rows, _mean_row(cohort, gaps)) if targets else tuple(rows)


def _scanner(cohort: Cohort, name: str, role: str, gaps: Mapping[str, Mapping[str, Array]]) -> ScannerRow:
    draws = cohort.draws
    condition = Condition("none", name, SCANNER)
    mine = [row for row in cohort.study.cases if row.condition == condition]
    base = cohort.score("dice", NONE, cohort.study.source)
    score = cohort.score("dice", NONE, name)
    drop = UNKNOWN
    if base is not None and score is not None and role == "target":
        drop = draws.estimate(_lost(cohort, base, score))

    def mean(value: str) -> Estimate:
        found = cohort.values(value).get(condition)
        return UNKNOWN if found is None else draws.estimate(draws.curve(found))

    note = "" if score is not None else cohort.missing(NONE, name)
    dice = mean("dice")
    return ScannerRow(
        name,
        role,
        len({row.subject for row in mine if math.isfinite(row.values[0])}),
        len({row.case for row in mine}),
        cohort.failed(NONE, name),
        {m: draws.estimate(draws.curve(found[name])) for m, found in gaps.items() if name in found},
        dice if dice.known else Estimate(math.nan, note=note),
        drop,
        mean("semantic_dice"),
        mean("id_rate"),
        mean("msd_mm"),
        _total(mine, 5),
        _total(mine, 4),
        math.nan if score is None else seed_spread(score),
    )


def _total(rows: list[Any], place: int) -> float:
    known = [row.values[place] for row in rows if math.isfinite(row.values[place])]
    return sum(known) if known else math.nan


def _mean_row(cohort: Cohort, gaps: Mapping[str, Mapping[str, Array]]) -> ScannerRow:
    draws, targets = cohort.draws, cohort.study.targets
    each = [_scanner(cohort, name, "target", {}) for name in targets]

    def mean(arrays: list[Array | None]) -> Estimate:
        curves = [draws.curve(one) for one in arrays if one is not None and np.isfinite(one).any()]
        return draws.estimate(np.mean(curves, axis=0)) if curves else UNKNOWN

    def values(name: str) -> Estimate:
        return mean([cohort.score(name, NONE, scanner) for scanner in targets])

    curve = mean_gap(cohort)
    scores = [s for s in (cohort.score("dice", NONE, name) for name in targets) if s is not None]
    dice = values("dice")
    return ScannerRow(
        MEAN,
        "mean",
        len({r.subject for r in cohort.study.cases if r.condition.factor == SCANNER and r.condition.scanner in targets
             and r.condition.strategy == "none" and math.isfinite(r.values[0])}),
        sum(row.cases for row in each),
        sum(row.failed for row in each),
        {m: mean([found.get(name) for name in targets]) for m, found in gaps.items() if found},
        dice if dice.known else Estimate(math.nan, note="not run"),
        UNKNOWN if curve is None else draws.estimate(curve),
        values("semantic_dice"),
        values("id_rate"),
        values("msd_mm"),
        _sum([row.missing for row in each]),
        _sum([row.vertebrae for row in each]),
        seed_spread(np.mean(scores, axis=0)) if scores else math.nan,
    )  # fmt: skip


def _sum(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) if known else math.nan


def region_means(cohort: Cohort, variant: Variant) -> dict[tuple[str, str], Estimate]:
    """Return Dice by (scanner, region) of a strategy."""
    found = {}
    for (condition, region), values in cohort.regions.items():
        same = (condition.strategy, condition.n, condition.factor) == (variant.strategy, variant.n, SCANNER)
        if same and np.isfinite(values).any():
            found[condition.scanner, region] = cohort.draws.estimate(cohort.draws.curve(values))
    return found
