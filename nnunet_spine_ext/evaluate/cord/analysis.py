"""What the areas of a cohort say: spread over contrasts, errors, tests between contrasts, agreement with references."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.agreement import (
    Effect,
    Equivalence,
    Fit,
    Icc,
    Limits,
    effect_size,
    equivalence,
    icc,
    limits_of_agreement,
    line_fit,
)
from nnunet_spine_ext.evaluate.anova import Anova, rm_anova
from nnunet_spine_ext.evaluate.paired import Correction, Paired, compare_pairs, correct
from nnunet_spine_ext.evaluate.statistic import Resampling, Statistic, statistic

ALL = "all"
DEFAULT_MARGIN_MM2 = 2.0
"""Under 3 % of a cord of 75 mm². No standard names a margin: it is for the user to choose, before looking."""
DEFAULT_DDOF = 1


@dataclass(frozen=True)
class ImageRow:
    """One image in one range; areas in mm², NaN where there is none. `contrast` "" where it is not known."""

    case: str
    subject: str
    contrast: str
    range: str
    area: float
    reference: float = math.nan
    slices: int = 0
    reference_slices: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    soft: bool = False
    status: str = "done"

    @property
    def error(self) -> float:
        """Area of the prediction minus that of the reference."""
        return self.area - self.reference

    @property
    def coverage(self) -> float:
        """Share of the reference's slices that the prediction has; NaN where it has none."""
        return self.slices / self.reference_slices if self.reference_slices else math.nan

    def values(self) -> dict[str, float]:
        """Return everything that is averaged, by name."""
        own = {"csa": self.area, "csa_reference": self.reference, "csa_error": self.error}
        return own | {"csa_absolute_error": abs(self.error), "csa_coverage": self.coverage, **self.scores}


@dataclass(frozen=True)
class SubjectRow:
    """One subject in one range: standard deviations over its contrasts, in mm²; NaN with fewer than two."""

    subject: str
    range: str
    contrasts: int
    mean: float
    std: float
    reference_std: float
    complete: bool


@dataclass(frozen=True)
class PairRow:
    """Two contrasts (or models) on the same subjects: b - a, in mm²; `p_corrected` over all pairs of the run."""

    range: str
    a: str
    b: str
    paired: Paired
    effect: Effect
    limits: Limits
    equivalence: Equivalence
    fit: Fit
    p_corrected: float = math.nan


@dataclass(frozen=True)
class Against:
    """Predictions against references, for one contrast or for all images of all contrasts."""

    range: str
    contrast: str
    limits: Limits
    equivalence: Equivalence
    icc: Icc
    fit: Fit


@dataclass(frozen=True)
class RangeAnalysis:
    """Everything about one range.

    `table` and `reference_table` are (subjects, contrasts), NaN where an image is missing; `statistics` maps a
    contrast (and ``all``) to metrics; `std` and `reference_std` are over subjects with two contrasts or more,
    `complete_std` and `complete_reference_std` over those with all of them.
    """

    name: str
    subjects: tuple[str, ...]
    contrasts: tuple[str, ...]
    table: Array
    reference_table: Array
    statistics: dict[str, dict[str, Statistic]]
    subject_rows: tuple[SubjectRow, ...]
    std: Statistic
    reference_std: Statistic
    complete_std: Statistic
    complete_reference_std: Statistic
    anova: Anova
    icc: Icc
    pairs: tuple[PairRow, ...]
    against: tuple[Against, ...]


@dataclass(frozen=True)
class Plan:
    """How values become statistics."""

    ddof: int = DEFAULT_DDOF
    margin: float = DEFAULT_MARGIN_MM2
    correction: Correction = "holm"
    resampling: Resampling = field(default_factory=lambda: Resampling({}))

    @property
    def over_subjects(self) -> Resampling:
        """The resampling for values of which each subject has one."""
        return replace(self.resampling, subject_of={})


def analyse(rows: Sequence[ImageRow], plan: Plan) -> list[RangeAnalysis]:
    """Return the analysis of every range, in the order in which ranges come; p-values are corrected over all."""
    names = list(dict.fromkeys(row.range for row in rows))
    found = [_range(name, [row for row in rows if row.range == name], plan) for name in names]
    corrected = iter(correct([pair.paired.p for one in found for pair in one.pairs], plan.correction))
    return [
        replace(one, pairs=tuple(replace(pair, p_corrected=next(corrected)) for pair in one.pairs)) for one in found
    ]


def _range(name: str, rows: Sequence[ImageRow], plan: Plan) -> RangeAnalysis:
    subjects = tuple(sorted({row.subject for row in rows if row.contrast}))
    contrasts = tuple(sorted({row.contrast for row in rows if row.contrast}))
    table, reference_table = (cross_table(rows, subjects, contrasts, side) for side in ("area", "reference"))
    everyone = [_subject(name, s, table[k], reference_table[k], plan.ddof) for k, s in enumerate(subjects)]
    complete = [row for row in everyone if row.complete]
    return RangeAnalysis(
        name,
        subjects,
        contrasts,
        table,
        reference_table,
        _statistics(rows, contrasts, plan),
        tuple(everyone),
        _over(everyone, "std", plan),
        _over(everyone, "reference_std", plan),
        _over(complete, "std", plan),
        _over(complete, "reference_std", plan),
        rm_anova(table),
        icc(table),
        tuple(
            compare_columns(name, (contrasts[i], contrasts[j]), table[:, i], table[:, j], plan)
            for i, j in combinations(range(len(contrasts)), 2)
        ),
        tuple(_against(name, contrast, rows, plan) for contrast in (ALL, *contrasts)),
    )


def _over(rows: Sequence[SubjectRow], side: str, plan: Plan) -> Statistic:
    return statistic([getattr(row, side) for row in rows], [row.subject for row in rows], plan.over_subjects)


def cross_table(rows: Iterable[ImageRow], subjects: Sequence[str], contrasts: Sequence[str], side: str) -> Array:
    """Return the areas (`side` ``area`` or ``reference``) by subject and contrast; several images are averaged."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if math.isfinite(getattr(row, side)):
            values.setdefault((row.subject, row.contrast), []).append(getattr(row, side))
    table = np.full((len(subjects), len(contrasts)), math.nan)
    for i, subject in enumerate(subjects):
        for j, contrast in enumerate(contrasts):
            if (subject, contrast) in values:
                table[i, j] = np.mean(values[subject, contrast])
    return table


def standard_deviation(values: Array, ddof: int) -> float:
    """Return the standard deviation of the finite values, NaN for fewer than two."""
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=ddof)) if len(finite) > 1 else math.nan


def _subject(name: str, subject: str, areas: Array, references: Array, ddof: int) -> SubjectRow:
    finite = areas[np.isfinite(areas)]
    return SubjectRow(
        subject,
        name,
        len(finite),
        float(finite.mean()) if len(finite) else math.nan,
        standard_deviation(areas, ddof),
        standard_deviation(references, ddof),
        len(finite) == len(areas),
    )


def _statistics(rows: Sequence[ImageRow], contrasts: Sequence[str], plan: Plan) -> dict[str, dict[str, Statistic]]:
    found = {}
    for group in (ALL, *contrasts):
        mine = [row for row in rows if group in (ALL, row.contrast)]
        names = dict.fromkeys(name for row in mine for name in row.values())
        found[group] = {
            name: statistic(
                [row.values().get(name, math.nan) for row in mine], [row.case for row in mine], plan.resampling
            )
            for name in names
        }
    return found


def compare_columns(name: str, labels: tuple[str, str], a: Array, b: Array, plan: Plan) -> PairRow:
    """Compare paired areas (subjects,), leaving out subjects that lack one of them."""
    both = np.isfinite(a) & np.isfinite(b)
    first, second = a[both].tolist(), b[both].tolist()
    differences = (b[both] - a[both]).tolist()
    resamples, seed = plan.resampling.resamples, plan.resampling.seed
    return PairRow(
        name,
        *labels,
        compare_pairs(first, second, "higher", resamples=resamples, seed=seed),
        effect_size(first, second),
        limits_of_agreement(differences, resamples=resamples, seed=seed),
        equivalence(differences, plan.margin),
        line_fit(first, second),
    )


def _against(name: str, contrast: str, rows: Sequence[ImageRow], plan: Plan) -> Against:
    """Equivalence is tested over subjects, their images averaged: images of a subject are not independent."""
    mine = [row for row in rows if contrast in (ALL, row.contrast) and math.isfinite(row.error)]
    by_subject: dict[str, list[float]] = {}
    for row in mine:
        by_subject.setdefault(row.subject, []).append(row.error)
    subjects = [row.subject for row in mine]
    resamples, seed = plan.resampling.resamples, plan.resampling.seed
    pairs = np.array([[row.area, row.reference] for row in mine]).reshape(-1, 2)
    return Against(
        name,
        contrast,
        limits_of_agreement([row.error for row in mine], subjects, resamples=resamples, seed=seed),
        equivalence([float(np.mean(values)) for values in by_subject.values()], plan.margin),
        _icc_of_images(pairs, repeated=len(by_subject) < len(mine)),
        line_fit(pairs[:, 1].tolist(), pairs[:, 0].tolist()),
    )


def _icc_of_images(pairs: Array, *, repeated: bool) -> Icc:
    found = icc(pairs)
    if not repeated or found.reason:
        return found
    nothing = (math.nan, math.nan)
    reason = "several images of a subject are not independent: no intervals"
    return replace(found, agreement_interval=nothing, consistency_interval=nothing, reason=reason)
