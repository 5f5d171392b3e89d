"""What each strategy brings back: scores per scanner, share of the gap recovered, whether it could be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.paired import MIN_PAIRS, Paired, compare_pairs, correct
from nnunet_spine_ext.study.cohort import NONE, Cohort, Variant
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate, nanmean, paired, plain, seed_spread, seeds_of

# A lowest tenth of fewer values would be less than one value.
MIN_FOR_DECILE = 10
NOT_RUN = Estimate(math.nan, note="not run")
TOO_FEW = Estimate(math.nan, note="too few")


@dataclass(frozen=True)
class Test:
    """A strategy against none over subjects; `p_holm` is corrected over its family, NaN where there is no test."""

    found: Paired
    p_holm: float = math.nan

    def text(self, *, corrected: bool = True) -> str:
        """Return a p-value; without a test "too few" subjects, or why there is none."""
        p = self.p_holm if corrected else self.found.p
        if math.isnan(p):
            return self.reason
        return "<0.001" if p < 0.001 else f"{p:.3f}"

    @property
    def reason(self) -> str:
        """Return why there is no test."""
        return "too few" if self.found.n < MIN_PAIRS else self.found.reason

    def to_dict(self) -> dict[str, Any]:
        """Return the test as plain JSON."""
        found = {
            "subjects": self.found.n,
            "mean_difference": plain(self.found.mean_difference),
            "rank_biserial": plain(self.found.rank_biserial),
            "p": plain(self.found.p),
            "p_holm": plain(self.p_holm),
        }
        return found if math.isfinite(self.found.p) else {**found, "reason": self.reason}


@dataclass(frozen=True)
class Outcome:
    """One strategy on all target scanners; everything is Dice unless its name says otherwise.

    `share` is (strategy - none) / (source - none) with the means over the targets on which both were run
    (`scanners`), `mean_of_shares` the mean of the shares of single scanners that have one. `source_change` is what the
    strategy does to the source scanner. `seconds` and `passes` are means per case, `noise_reduced` and `matched` the
    shares of target scans whose noise was reduced, and whose intensities were mapped.
    """

    variant: Variant
    dice: Mapping[str, Estimate]
    scanners: tuple[str, ...] = ()
    mean: Estimate = NOT_RUN
    worst: Estimate = NOT_RUN
    worst_scanner: str = ""
    worst_decile: Estimate = NOT_RUN
    gain: Estimate = NOT_RUN
    share: Estimate = NOT_RUN
    shares: Mapping[str, Estimate] = field(default_factory=dict)
    mean_of_shares: Estimate = NOT_RUN
    source_change: Estimate = NOT_RUN
    region_gap: Estimate = NOT_RUN
    id_rate: Estimate = NOT_RUN
    msd_mm: Estimate = NOT_RUN
    seed_sd: float = math.nan
    test: Test | None = None
    tests: Mapping[str, Test] = field(default_factory=dict)
    seconds: float = math.nan
    passes: float = math.nan
    noise_reduced: float = math.nan
    matched: float = math.nan
    failed: int = 0

    @property
    def ran(self) -> bool:
        """Whether it has a score on any target."""
        return bool(self.scanners)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "strategy": self.variant.strategy,
            "n": self.variant.n,
            "needs": self.variant.needs,
            "run": self.ran,
            "scanners": list(self.scanners),
            "dice": {name: one.to_dict() for name, one in self.dice.items()},
            "mean": self.mean.to_dict(),
            "worst_scanner": {"scanner": self.worst_scanner, **self.worst.to_dict()},
            "worst_decile": self.worst_decile.to_dict(),
            "id_rate": self.id_rate.to_dict(),
            "msd_mm": self.msd_mm.to_dict(),
            "gain": self.gain.to_dict(),
            "share": self.share.to_dict(),
            "share_by_scanner": {name: one.to_dict() for name, one in self.shares.items()},
            "mean_of_shares": self.mean_of_shares.to_dict(),
            "source_change": self.source_change.to_dict(),
            "cervical_to_lumbar_gap": self.region_gap.to_dict(),
            "seed_sd": plain(self.seed_sd),
            "against_none": None if self.test is None else self.test.to_dict(),
            "against_none_by_scanner": {name: one.to_dict() for name, one in self.tests.items()},
            "seconds": plain(self.seconds),
            "forward_passes": plain(self.passes),
            "noise_reduced": plain(self.noise_reduced),
            "matched": plain(self.matched),
            "failed": self.failed,
        }


def outcomes(cohort: Cohort) -> tuple[Outcome, ...]:
    """Return every strategy's outcome, p-values corrected (Holm) over strategies, and over strategies and scanners."""
    found = [_outcome(cohort, variant) for variant in cohort.variants]
    tested = [k for k, one in enumerate(found) if one.test is not None]
    over = correct([found[k].test.found.p for k in tested], "holm")  # type: ignore[union-attr]
    for k, p in zip(tested, over, strict=True):
        found[k] = replace(found[k], test=Test(found[k].test.found, p))  # type: ignore[union-attr]
    single = [(k, name) for k, one in enumerate(found) for name in one.tests]
    each = correct([found[k].tests[name].found.p for k, name in single], "holm")
    corrected: dict[int, dict[str, Test]] = {}
    for (k, name), p in zip(single, each, strict=True):
        corrected.setdefault(k, {})[name] = Test(found[k].tests[name].found, p)
    return tuple(replace(one, tests=corrected.get(k, {})) for k, one in enumerate(found))


def _outcome(cohort: Cohort, variant: Variant) -> Outcome:
    draws, targets = cohort.draws, cohort.ran(variant)
    dice = {name: _dice(cohort, variant, name) for name in (cohort.study.source, *cohort.study.targets)}
    if not targets:
        missing = Estimate(math.nan, note=next((one.note for one in dice.values() if not one.known), "not run"))
        return Outcome(variant, dice, mean=missing, share=missing, failed=_failed(cohort, variant))
    values = [cohort.score("dice", variant, name) for name in targets]
    scores = [one for one in values if one is not None]
    curves = [draws.curve(one) for one in scores]
    lowest = np.minimum.reduce(curves)
    per_subject = np.stack([nanmean(one, axis=0) for one in scores])
    enough = np.isfinite(per_subject).sum() >= MIN_FOR_DECILE
    outcome = Outcome(
        variant,
        dice,
        targets,
        mean=draws.estimate(np.mean(curves, axis=0)),
        worst=draws.estimate(lowest),
        worst_scanner=targets[int(np.argmin([curve[0] for curve in curves]))],
        worst_decile=draws.estimate(draws.lowest_tenth(per_subject)) if enough else TOO_FEW,
        source_change=_source_change(cohort, variant),
        region_gap=region_gap(cohort, variant),
        id_rate=_mean(cohort, variant, "id_rate"),
        msd_mm=_mean(cohort, variant, "msd_mm"),
        seed_sd=seed_spread(nanmean(np.stack(scores), axis=0)),
        seconds=_mean_per_case(cohort, variant, "seconds"),
        passes=_mean_per_case(cohort, variant, "forward_passes"),
        noise_reduced=_share_of_cases(cohort, variant, "noise_reduced"),
        matched=_share_of_cases(cohort, variant, "matched"),
        failed=_failed(cohort, variant),
    )
    return outcome if variant == NONE else _against_none(cohort, outcome)


def _failed(cohort: Cohort, variant: Variant) -> int:
    return sum(cohort.failed(variant, name) for name in (cohort.study.source, *cohort.study.targets))


def _dice(cohort: Cohort, variant: Variant, scanner: str) -> Estimate:
    found = cohort.score("dice", variant, scanner)
    if found is None:
        return Estimate(math.nan, note=cohort.missing(variant, scanner))
    return cohort.draws.estimate(cohort.draws.curve(found))


def _on_targets(cohort: Cohort, variant: Variant, name: str) -> list[Array]:
    """Values of cases.csv, arrays (seeds, subjects), on those targets that have any."""
    found = (cohort.score(name, variant, scanner) for scanner in cohort.study.targets)
    return [one for one in found if one is not None]


def _mean(cohort: Cohort, variant: Variant, name: str) -> Estimate:
    """Mean over the targets of a value of cases.csv."""
    curves = [cohort.draws.curve(one) for one in _on_targets(cohort, variant, name)]
    return cohort.draws.estimate(np.mean(curves, axis=0)) if curves else UNKNOWN


def _mean_per_case(cohort: Cohort, variant: Variant, name: str) -> float:
    return float(nanmean(cohort.over_targets(_on_targets(cohort, variant, name)), axis=0))


def _share_of_cases(cohort: Cohort, variant: Variant, name: str) -> float:
    """Share of all scans on the targets for which a value of cases.csv is 1, not the mean of the subjects' shares."""
    known = [one.ravel() for one in _on_targets(cohort, variant, name)]
    return float(nanmean(np.concatenate(known), axis=0)) if known else math.nan


def _source_change(cohort: Cohort, variant: Variant) -> Estimate:
    after, before = (cohort.score("dice", v, cohort.study.source) for v in (variant, NONE))
    if after is None or before is None or variant == NONE:
        return NOT_RUN
    after, before = paired(after, before)
    return cohort.draws.estimate(cohort.draws.curve(after - before))


@dataclass(frozen=True)
class Gap:
    """Curves of one scanner over the subjects that strategy and none have in common: strategy, none, source."""

    strategy: Array
    none: Array
    source: Array
    differences: Array


def gap_of(cohort: Cohort, variant: Variant, scanner: str) -> Gap | None:
    """Return what a share is made of; None when strategy, none or source has no score."""
    after, before = cohort.score("dice", variant, scanner), cohort.score("dice", NONE, scanner)
    source = cohort.score("dice", NONE, cohort.study.source)
    if after is None or before is None or source is None:
        return None
    # A case that failed under one strategy must not make the other look better. Where the same subjects are on both
    # scanners, the source is that of the same subjects.
    after, before = paired(after, before)
    if cohort.crossed:
        after, before, source = paired(after, before, source)
    else:
        source = seeds_of(source, after)
    if not np.isfinite(after).any():
        return None
    curve = cohort.draws.curve
    return Gap(curve(after), curve(before), curve(source), after - before)


def _against_none(cohort: Cohort, outcome: Outcome) -> Outcome:
    draws = cohort.draws
    found = {name: gap_of(cohort, outcome.variant, name) for name in outcome.scanners}
    gaps = {name: gap for name, gap in found.items() if gap is not None}
    if not gaps:
        return replace(outcome, share=Estimate(math.nan, note="no source or no unadapted scores"))
    shares = {name: draws.ratio(gap.strategy - gap.none, gap.source - gap.none) for name, gap in gaps.items()}
    gained = np.mean([gap.strategy - gap.none for gap in gaps.values()], axis=0)
    lost = np.mean([gap.source - gap.none for gap in gaps.values()], axis=0)
    stable = [name for name, one in shares.items() if one.known]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [(gaps[name].strategy - gaps[name].none) / (gaps[name].source - gaps[name].none) for name in stable]
    tests = {name: Test(_compare(nanmean(gap.differences, axis=0))) for name, gap in gaps.items()}
    together = cohort.over_targets([gap.differences for gap in gaps.values()])
    return replace(
        outcome,
        gain=draws.estimate(gained),
        share=draws.ratio(gained, lost),
        shares=shares,
        mean_of_shares=draws.estimate(np.mean(ratios, axis=0)) if ratios else Estimate(math.nan, note="unstable"),
        test=Test(_compare(together)),
        tests=tests,
    )


def _compare(differences: Array) -> Paired:
    """Wilcoxon's test of differences (subjects,) against zero."""
    kept = differences[np.isfinite(differences)]
    return compare_pairs([0.0] * len(kept), kept.tolist(), "higher")


def region_gap(cohort: Cohort, variant: Variant) -> Estimate:
    """Return lumbar minus cervical Dice on the targets over that of the unadapted model on the source."""

    def widths(chosen: Variant, scanners: tuple[str, ...]) -> Array:
        curves = []
        for scanner in scanners:
            pair = [
                cohort.regions.get((condition, region))
                for condition in cohort.values("dice")
                if (condition.strategy, condition.n, condition.scanner, condition.factor)
                == (chosen.strategy, chosen.n, scanner, "scanner")
                for region in ("lumbar", "cervical")
            ]
            lumbar, cervical = pair if len(pair) == 2 else (None, None)
            if lumbar is not None and cervical is not None:
                lumbar, cervical = paired(lumbar, cervical)
                curves.append(cohort.draws.curve(lumbar) - cohort.draws.curve(cervical))
        return np.mean(curves, axis=0) if curves else np.full(1 + cohort.draws.resamples, math.nan)

    above, below = widths(variant, cohort.study.targets), widths(NONE, (cohort.study.source,))
    return cohort.draws.ratio(above, below, "difference on the source", smallest=0.005)
