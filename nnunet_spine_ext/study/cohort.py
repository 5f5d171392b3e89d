"""A study as arrays over seeds and subjects, with its strategies in order and the draws that all statistics share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.regions import REGIONS
from nnunet_spine_ext.study.measured import CASE_VALUES, SCANNER, VERTEBRA_VALUES, Condition, Row, Study
from nnunet_spine_ext.study.statistics import Draws, crossed, nanmean, panels

# C1 to S1, the vertebrae of the paper, with the levels that some people have.
LEVELS = (
    *(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7)), "S1",
)  # fmt: skip
COMMON_LEVELS = tuple(level for level in LEVELS if level not in ("T13", "L6"))


@dataclass(frozen=True)
class Known:
    """A strategy: what it is called, and what it is given of the target scanner."""

    title: str
    needs: str = "nothing"


TITLES = {
    "none": Known("None"),
    "mirror": Known("Mirror TTA"),
    "match": Known("Matching"),
    "tta": Known("TTA"),
    "match+tta": Known("Matching + TTA"),
    "anchored": Known("Anchored"),
    "anchored+tta": Known("Anchored + TTA"),
    "adapt-consistency": Known("Consistency"),
    "adapt-tent": Known("Entropy (norms)"),
    "harmonized": Known("Harmonized", "images"),
    "adversarial": Known("Adversarial", "images"),
    "shift-dann": Known("Shift + adversarial"),
    "shift": Known("Shift-trained"),
    "finetuned": Known("Fine-tuned", "labels"),
}
# What the paper compares; a study without them shows them as not run.
PAPER_STRATEGIES = ("none", "match", "tta", "match+tta", "adversarial", "finetuned")


class Variant(NamedTuple):
    """A strategy, and the number of target samples that it was given where the study says so."""

    strategy: str
    n: int | None = None

    @property
    def title(self) -> str:
        """Return what a reader calls it."""
        known = TITLES.get(self.strategy)
        name = known.title if known else self.strategy
        return name if self.n is None else f"{name}, N = {self.n}"

    @property
    def key(self) -> str:
        """Return its name in files."""
        return self.strategy if self.n is None else f"{self.strategy}@{self.n}"

    @property
    def needs(self) -> str:
        """Return what it is given of the target scanner: nothing, images or labels."""
        return TITLES[self.strategy].needs if self.strategy in TITLES else "unknown"


NONE = Variant("none")


class Cohort:
    """What was measured, as arrays (seeds, subjects), NaN where there is no value."""

    def __init__(self, study: Study, *, resamples: int, seed: int) -> None:
        self.study = study
        self.seeds, self.subjects = study.seeds, study.subjects
        self._values: dict[str, dict[Condition, Array]] = {}
        dice = self.values("dice")
        self.crossed = crossed(dice, study.source, study.targets)
        strata = None if self.crossed else self._home()
        self.draws = Draws(self.subjects, strata, resamples=resamples, seed=seed)

    def _home(self) -> list[str]:
        """The scanner of each subject, where nobody has two."""
        homes = {row.subject: row.condition.scanner for row in self.study.cases if row.condition.factor == SCANNER}
        return [homes.get(subject, "") for subject in self.subjects]

    def values(self, name: str) -> dict[Condition, Array]:
        """Return a value of cases.csv by condition, mean over the cases of each subject."""
        if name not in self._values:
            place = CASE_VALUES.index(name)
            self._values[name] = panels(self.study.cases, self.seeds, self.subjects, place, lambda r: r.condition)
        return self._values[name]

    @cached_property
    def regions(self) -> dict[tuple[Condition, str], Array]:
        """Dice of the vertebrae of each region, mean over those of a subject."""
        return self.by_part("dice", "region")

    @cached_property
    def levels(self) -> dict[tuple[Condition, str], Array]:
        """Dice of each vertebra."""
        return self.by_part("dice", "level")

    def by_part(self, name: str, part: Literal["region", "level"]) -> dict[tuple[Condition, str], Array]:
        """Return a value of vertebrae.csv by condition and region or level, mean over the vertebrae of each subject."""
        place = VERTEBRA_VALUES.index(name)
        return panels(self.study.vertebrae, self.seeds, self.subjects, place, lambda r: (r.condition, getattr(r, part)))

    @property
    def region_names(self) -> tuple[str, ...]:
        """Return the four regions, from head to tail, then others that the study names."""
        return tuple(dict.fromkeys((*REGIONS, *(region for _, region in self.regions if region))))

    @property
    def level_names(self) -> tuple[str, ...]:
        """Return C1 to S1, and the other levels that were measured, from head to tail."""
        seen = {level for _, level in self.levels}
        known = [level for level in LEVELS if level in COMMON_LEVELS or level in seen]
        return (*known, *sorted(level for level in seen - set(LEVELS) if level))

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """Strategies that were run or asked for, and those of the paper, in a fixed order."""
        found: dict[str, list[int | None]] = {}
        for condition in self.values("dice"):
            if condition.factor == SCANNER:
                sizes = found.setdefault(condition.strategy, [])
                if condition.n not in sizes:
                    sizes.append(condition.n)
        order = [*TITLES, *(s for s in self.study.strategies if s not in TITLES)]
        shown = {*PAPER_STRATEGIES, *self.study.strategies, *found}
        return tuple(
            Variant(name, n)
            for name in order
            if name in shown
            for n in sorted(found.get(name, [None]), key=lambda size: -1 if size is None else size)
        )

    def score(self, name: str, variant: Variant, scanner: str) -> Array | None:
        """Return the values (seeds, subjects) of a strategy on a scanner; None: it was not run there."""
        found = self.values(name).get(Condition(variant.strategy, scanner, SCANNER, n=variant.n))
        return found if found is not None and np.isfinite(found).any() else None

    def ran(self, variant: Variant, scanners: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the scanners (default: the targets) on which a strategy has scores."""
        names = self.study.targets if scanners is None else scanners
        return tuple(name for name in names if self.score("dice", variant, name) is not None)

    def over_targets(self, values: Sequence[Array]) -> Array:
        """Return the mean over scanners of arrays (seeds, subjects), shape (subjects,): one value per subject."""
        if not values:
            return np.full(len(self.subjects), math.nan)
        return nanmean(nanmean(np.stack(values), axis=1), axis=0)

    def failed(self, variant: Variant, scanner: str) -> int:
        """Return how many predictions (over all seeds) failed: cases of failures.csv, and those without a Dice."""
        condition = Condition(variant.strategy, scanner, SCANNER, n=variant.n)
        lost = {(r.seed, r.case) for r in self._rows.get(condition, ()) if not math.isfinite(r.values[0])}
        named = {(seed, case) for strategy, n, seed, case in self.study.failures if (strategy, n) == variant}
        return len(lost | {one for one in named if self._scanner_of.get(one[1]) == scanner})

    @cached_property
    def _rows(self) -> dict[Condition, list[Row]]:
        found: dict[Condition, list[Row]] = {}
        for row in self.study.cases:
            found.setdefault(row.condition, []).append(row)
        return found

    @cached_property
    def _scanner_of(self) -> dict[str, str]:
        """The scanner of each case; a case of a component has none."""
        return {row.case: row.condition.scanner for row in self.study.cases if row.condition.factor == SCANNER}

    def missing(self, variant: Variant, scanner: str) -> str:
        """Return in two words why a strategy has no score on a scanner."""
        if self.failed(variant, scanner):
            return "failed"
        return "not available" if variant.strategy in self.study.unavailable else "not run"
