"""The measured gap between scanners, and whether it tells how much Dice is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.cohort import NONE, Cohort
from nnunet_spine_ext.study.fits import Straight, correlations, correlations_of_means, straight
from nnunet_spine_ext.study.measured import GAP_VALUES, SCANNER, Row
from nnunet_spine_ext.study.statistics import Estimate, nanmean, paired, panels

MEASURES = GAP_VALUES[:4]
MEASURE_TITLES = {
    "quantile_distance": "Quantile distance",
    "snr_ratio": "SNR ratio",
    "resolution_ratio": "Resolution ratio",
    "feature_distance": "Feature distance",
    "ceiling_dice": "Resolution ceiling",
}


@dataclass(frozen=True)
class GapEffect:
    """One gap measure against the loss of Dice; ratios enter as the absolute logarithm to base 2 (0: as the source).

    `pearson` and `spearman` are over the means of the targets, `pearson_cases` and `spearman_cases` over all subjects
    and targets. `line` goes through the means of targets and source.
    """

    measure: str
    pearson: Estimate
    spearman: Estimate
    pearson_cases: Estimate
    spearman_cases: Estimate
    line: Straight | None
    gaps: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        names = ("pearson", "spearman", "pearson_cases", "spearman_cases")
        found: dict[str, Any] = {name: getattr(self, name).to_dict() for name in names}
        return {**found, "line": None if self.line is None else self.line.to_dict()}


@dataclass(frozen=True)
class Ceiling:
    """How much of the gap can be recovered at all, when resolution alone costs what it costs the truth.

    `dice` is the best that is left on the targets, mean: source Dice minus what sampling down and up takes from the
    truth there beyond what it takes on the source. `share` is the part of the gap up to it, at most 1.
    """

    dice: Estimate
    share: Estimate
    shares: Mapping[str, Estimate]


def gap_values(cohort: Cohort, measure: str) -> dict[str, Array]:
    """Return a measure per scanner as arrays (seeds, subjects); scanners of single components are not among them."""
    return _panels(cohort, measure, lambda row: row.condition.factor == SCANNER)


def component_gap(cohort: Cohort, measure: str, components: str) -> Estimate:
    """Return the mean of a measure for a component or pair, where gaps.csv has rows of it."""
    wanted = frozenset(components.split("+"))
    rows = [
        row for row in cohort.study.gaps if row.condition.components
        and frozenset(row.condition.components.split("+")) == wanted
    ]  # fmt: skip
    found = panels(_seedless(cohort, rows), ("",), cohort.subjects, GAP_VALUES.index(measure), lambda _: 0)
    return cohort.draws.estimate(cohort.draws.curve(found[0])) if found else Estimate(math.nan)


def _panels(cohort: Cohort, measure: str, wanted: Callable[[Row], bool]) -> dict[str, Array]:
    rows = _seedless(cohort, [row for row in cohort.study.gaps if wanted(row)])
    found = panels(rows, ("",), cohort.subjects, GAP_VALUES.index(measure), lambda row: row.condition.scanner)
    shape = (len(cohort.seeds), len(cohort.subjects))
    return {name: np.broadcast_to(values, shape) for name, values in found.items()}


def _seedless(cohort: Cohort, rows: list[Row]) -> list[Row]:
    """Rows with the subject of their case (gaps.csv may name cases only), and one seed: images do not depend on it."""
    subject_of = {row.case: row.subject for row in cohort.study.cases}
    return [Row(r.condition, "", r.case, subject_of.get(r.case, r.subject), r.values) for r in rows]


def as_gap(measure: str, values: Array) -> Array:
    """Return a measure as a distance that is 0 where scanners agree."""
    if not measure.endswith("_ratio"):
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.abs(np.log2(values))
    return np.where(np.isfinite(found), found, math.nan)


def gap_effects(cohort: Cohort) -> tuple[GapEffect, ...]:
    """Return the effect of every measure that gaps.csv has values of."""
    found = []
    for measure in MEASURES:
        gaps = {name: as_gap(measure, v) for name, v in gap_values(cohort, measure).items()}
        if any(np.isfinite(v).any() for v in gaps.values()):
            found.append(_effect(cohort, measure, gaps))
    return tuple(found)


def _effect(cohort: Cohort, measure: str, gaps: Mapping[str, Array]) -> GapEffect:
    draws, source = cohort.draws, cohort.study.source
    scores = {name: cohort.score("dice", NONE, name) for name in (source, *cohort.study.targets)}
    base = scores[source]
    known = {name: values for name, values in scores.items() if values is not None and name in gaps}
    gap_curves = {name: draws.curve(gaps[name]) for name in known}
    dice_curves = {name: draws.curve(values) for name, values in known.items()}
    targets = [name for name in cohort.study.targets if name in known]
    line = straight(draws, list(gap_curves.values()), list(dice_curves.values()))
    nothing = Estimate(math.nan, note="too few")
    means = cases = (nothing, nothing)
    if base is not None and targets:
        reference = draws.curve(base)
        means = correlations_of_means(
            draws, [gap_curves[n] for n in targets], [reference - dice_curves[n] for n in targets]
        )
        # Without a source score of the same subject, the loss of a single subject is not known.
        if cohort.crossed:
            pairs = [paired(gaps[n], base - known[n]) for n in targets]
            gap, drop = (np.stack([nanmean(pair[k], axis=0) for pair in pairs]) for k in (0, 1))
            cases = correlations(draws, gap, drop)
    shown = {name: float(curve[0]) for name, curve in gap_curves.items()}
    return GapEffect(measure, *means, *cases, line, shown)


def ceiling(cohort: Cohort) -> Ceiling | None:
    """Return the resolution ceiling; None where it was not measured, or the source has no score."""
    draws, study = cohort.draws, cohort.study
    values = gap_values(cohort, "ceiling_dice")
    base = cohort.score("dice", NONE, study.source)
    names = [n for n in study.targets if n in values and cohort.score("dice", NONE, n) is not None]
    if base is None or not names:
        return None
    reference = draws.curve(base)
    # Sampling the truth to the source's own grid and back costs little; that little is in the source's score already.
    own = draws.curve(values[study.source]) if study.source in values else np.ones_like(reference)
    best, lost, left = [], [], []
    shares = {}
    for name in names:
        score = cohort.score("dice", NONE, name)
        if score is None:
            continue
        none = draws.curve(score)
        top = np.minimum(reference, reference - (own - draws.curve(values[name])))
        best.append(top)
        lost.append(reference - none)
        left.append(top - none)
        shares[name] = draws.ratio(left[-1], lost[-1])
    mean = [np.mean(curves, axis=0) for curves in (best, left, lost)]
    return Ceiling(draws.estimate(mean[0]), draws.ratio(mean[1], mean[2]), shares)
