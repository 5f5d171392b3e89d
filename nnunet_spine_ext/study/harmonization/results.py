"""What follows from the rows of an evaluation: means with intervals over patients, shares of the gap, goals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.harmonization.arms import ARMS, NONE
from nnunet_spine_ext.study.harmonization.measured import (
    GEOMETRY_VALUES,
    OVERLAP_VALUES,
    RADIOMIC_VALUES,
    SOURCE,
    TARGET,
    UNSEEN,
    Entry,
    Measured,
)
from nnunet_spine_ext.study.statistics import UNKNOWN, Draws, Estimate, nanmean, paired, panels

# A gap below this leaves nothing to recover: shares of it say nothing.
LEAST_GAP = 0.02
Panel = tuple[str, str, str]


@dataclass(frozen=True)
class Results:
    """Estimates of an evaluation.

    Patients are drawn with replacement, as many of each vendor as there are, once for all numbers: those of two arms
    are paired. A value of a patient is the mean over his slices; that of several seeds the mean over them.

    Parameters
    ----------
    measured: the rows. resamples, seed: of the bootstrap; 0 resamples: no intervals.
    """

    measured: Measured
    resamples: int = 2000
    seed: int = 42

    @cached_property
    def vendors(self) -> dict[str, str]:
        """Role by vendor: the target first, then sources, then those that no harmonizer was trained with."""
        order = (TARGET, SOURCE, UNSEEN)
        seen = {row.vendor: row.role for row in self.measured.segmentation}
        return dict(sorted(seen.items(), key=lambda one: (order.index(one[1]) if one[1] in order else 3, one[0])))

    @property
    def target(self) -> tuple[str, ...]:
        """The target vendor, in a tuple."""
        return tuple(name for name, role in self.vendors.items() if role == TARGET)

    @property
    def others(self) -> tuple[str, ...]:
        """All vendors that are not the target."""
        return tuple(name for name, role in self.vendors.items() if role != TARGET)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Vendors that neither segmenter nor harmonizers saw in training."""
        return tuple(name for name, role in self.vendors.items() if role == UNSEEN)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms that were measured, in the order of the tables."""
        seen = {row.arm for row in self.measured.segmentation}
        return (*(name for name in ARMS if name in seen), *sorted(seen - set(ARMS)))

    @cached_property
    def segmenters(self) -> tuple[str, ...]:
        """Segmenters, that of the harmonizers (S_Y) first."""
        seen = tuple(dict.fromkeys(row.detail for row in self.measured.segmentation))
        named = self.measured.facts.get("segmenter")
        return tuple(sorted(seen, key=lambda name: name != named))

    @property
    def main(self) -> str:
        """S_Y."""
        return self.segmenters[0]

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Radiomic features that were measured, in the order of the file."""
        return tuple(dict.fromkeys(row.detail for row in self.measured.radiomics))

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """Seeds of the trainings."""
        return tuple(dict.fromkeys(row.seed for row in self.measured.segmentation))

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Everyone who was scanned."""
        rows: Sequence[Entry] = (*self.measured.segmentation, *self.measured.radiomics, *self.measured.geometry)
        return tuple(sorted({row.subject for row in rows}))

    @cached_property
    def draws(self) -> Draws:
        """The patients of every resample."""
        scanned: dict[str, set[str]] = {}
        for row in (*self.measured.segmentation, *self.measured.radiomics, *self.measured.geometry):
            scanned.setdefault(row.subject, set()).add(row.vendor)
        # Someone who was scanned twice is a stratum with others who were scanned by the same two.
        strata: list[Hashable] = [tuple(sorted(scanned[subject])) for subject in self.subjects]
        return Draws(self.subjects, strata, resamples=self.resamples, seed=self.seed)

    @cached_property
    def _overlap(self) -> dict[str, dict[Panel, Array]]:
        return {
            name: self._panels(self.measured.segmentation, place)
            for place, name in enumerate(OVERLAP_VALUES)
        }  # fmt: skip

    @cached_property
    def _radiomics(self) -> dict[str, dict[Panel, Array]]:
        return {name: self._panels(self.measured.radiomics, place) for place, name in enumerate(RADIOMIC_VALUES)}

    @cached_property
    def _geometry(self) -> dict[str, dict[Panel, Array]]:
        return {name: self._panels(self.measured.geometry, place) for place, name in enumerate(GEOMETRY_VALUES)}

    @cached_property
    def _areas(self) -> dict[Panel, Array]:
        # Slice by slice: areas too large and too small must not make up for each other.
        found, truth = (OVERLAP_VALUES.index(name) for name in ("predicted_pixels", "reference_pixels"))
        rows = (
            replace(row, values=(abs(row.values[found] - row.values[truth]) / row.values[truth],))
            for row in self.measured.segmentation if row.values[truth] > 0
        )  # fmt: skip
        return self._panels(rows, 0)

    def _panels(self, rows: Iterable[Entry], place: int) -> dict[Panel, Array]:
        return panels(rows, self.seeds, self.subjects, place, lambda row: (row.arm, row.detail, row.vendor))

    def overlap(self, arm: str, metric: str, vendors: Sequence[str], segmenter: str = "") -> Array:
        """Return a metric (seeds, subjects) of an arm on vendors; NaN where there is none."""
        return self._over(self._overlap[metric], arm, segmenter or self.main, vendors)

    def radiomic(self, arm: str, feature: str, value: str, vendors: Sequence[str]) -> Array:
        """Return ``error``, ``value`` or ``reference`` (seeds, subjects) of a feature."""
        return self._over(self._radiomics[value], arm, feature, vendors)

    def geometry(self, arm: str, value: str, vendors: Sequence[str]) -> Array:
        """Return a value of the geometry gate (seeds, subjects)."""
        return self._over(self._geometry[value], arm, "", vendors)

    def _over(self, found: dict[Panel, Array], arm: str, detail: str, vendors: Sequence[str]) -> Array:
        chosen = [found[key] for vendor in vendors if (key := (arm, detail, vendor)) in found]
        if not chosen:
            return np.full((len(self.seeds), len(self.subjects)), math.nan)
        return nanmean(np.stack(chosen), axis=0)

    def estimate(self, values: Array, note: str = "not measured") -> Estimate:
        """Return the mean of values (seeds, subjects) with its interval over patients."""
        if not np.isfinite(values).any():
            return Estimate(math.nan, note=note)
        return self.draws.estimate(self.draws.curve(values))

    def difference(self, values: Array, base: Array) -> Estimate:
        """Return the mean difference of two arms on the same patients, with its interval."""
        above, below = paired(values, base)
        if not np.isfinite(above).any():
            return UNKNOWN
        return self.draws.estimate(self.draws.curve(above) - self.draws.curve(below))

    def recovered(self, arm: str, vendors: Sequence[str], segmenter: str = "") -> Estimate:
        """Return which share of the loss of Dice on other vendors an arm brings back.

        The loss is Dice on target slices minus Dice on the vendors' slices as they are; both of the same segmenter.
        """
        curve = self.draws.curve
        after, before = paired(
            self.overlap(arm, "dice", vendors, segmenter), self.overlap(NONE, "dice", vendors, segmenter)
        )
        own = self.overlap(NONE, "dice", self.target, segmenter)
        if not np.isfinite(after).any() or not np.isfinite(own).any():
            return Estimate(math.nan, note="not measured")
        base = curve(before)
        return self.draws.ratio(curve(after) - base, curve(own) - base, smallest=LEAST_GAP)

    def gap(self, vendors: Sequence[str], segmenter: str = "") -> Estimate:
        """Return what the segmenter loses on vendors: Dice on the target minus Dice on their slices as they are."""
        own, other = (self.overlap(NONE, "dice", names, segmenter) for names in (self.target, vendors))
        if not np.isfinite(own).any() or not np.isfinite(other).any():
            return UNKNOWN
        return self.draws.estimate(self.draws.curve(own) - self.draws.curve(other))

    def error(self, arm: str, feature: str, vendors: Sequence[str]) -> Estimate:
        """Return the mean relative error of a feature against the paired target slices."""
        return self.estimate(self.radiomic(arm, feature, "error", vendors))

    def error_of_mean(self, arm: str, feature: str, vendors: Sequence[str]) -> Estimate:
        """Return the relative error of the mean of a feature: what is left where anatomy averages out.

        The mean over vendors, and over seeds, of the error of each.
        """
        curves = []
        for vendor in vendors:
            values, references = paired(
                *(self.radiomic(arm, feature, what, [vendor]) for what in ("value", "reference"))
            )
            if np.isfinite(values).any():
                # Every training by itself: errors of two seeds must not make up for each other.
                errors = [self._off(values[[seed]], references[[seed]]) for seed in range(len(values))]
                curves.append(nanmean(np.stack(errors), axis=0))
        if not curves:
            return Estimate(math.nan, note="not measured")
        return self.draws.estimate(nanmean(np.stack(curves), axis=0))

    def _off(self, values: Array, references: Array) -> Array:
        mean, aim = self.draws.curve(values), self.draws.curve(references)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Array = np.abs(mean - aim) / np.abs(aim)
        return found

    def area_error(self, arm: str, vendors: Sequence[str], segmenter: str = "") -> Estimate:
        """Return the mean of |predicted - true area| / true area of slices with discs."""
        return self.estimate(self._over(self._areas, arm, segmenter or self.main, vendors))

    def judged(self, arm: str, value: str, vendors: Sequence[str]) -> tuple[int, int]:
        """Return on how many slices, of how many, a value of the geometry gate is known."""
        place = GEOMETRY_VALUES.index(value)
        rows = [row for row in self.measured.geometry if row.arm == arm and row.vendor in vendors]
        return sum(math.isfinite(row.values[place]) for row in rows), len(rows)
