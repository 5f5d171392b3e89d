"""From evaluation folders to pairs of values, their distributions and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.evaluate.cohort import Cohort, read_cohort
from nnunet_spine_ext.evaluate.folders import common_classes
from nnunet_spine_ext.evaluate.paired import ALPHA, Correction, Paired, compare_pairs, correct
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.scored import OVERALL, Key, Scored
from nnunet_spine_ext.evaluate.statistic import Statistic, finite_mean, statistic

Unit = Literal["subject", "case"]
Missing = Literal["exclude", "worst"]


@dataclass(frozen=True)
class Row:
    """One key in all folders.

    `group` is the value of the fact asked for by ``by``, None for all cases. `statistics` has the distribution of each
    folder over the units that enter the tests, `tested` that of the values that are compared (absolute ones for metrics
    that should be zero), `tests` the comparison of the first folder with each other one (with
    corrected p-values in `corrected`). `undefined` and `infinite` count cases that could not be compared.
    """

    key: Key
    group: str | None
    units: int
    statistics: tuple[Statistic, ...]
    tested: tuple[Statistic, ...]
    tests: tuple[Paired, ...]
    undefined: int
    infinite: int
    corrected: tuple[float, ...] = ()

    def better(self, k: int) -> str:
        """Return ``a``, ``b`` or, without a significant difference, nothing, for the k-th test."""
        if not self.corrected[k] < ALPHA:
            return ""
        return "b" if self.tests[k].rank_biserial > 0 else "a"


@dataclass(frozen=True)
class Pairing:
    """How values of evaluation folders become pairs: the first folder with each other one.

    Parameters
    ----------
    scored: the folders.
    cohort: subjects of the cases.
    unit: what is a pair; ``subject``: the cases of a subject are averaged first.
    missing: ``exclude`` leaves out what cannot be compared, ``worst`` counts it as an empty prediction.
    bootstrap, seed: resamples for the interval of the mean difference; 0: none.
    """

    scored: Sequence[Scored]
    cohort: Cohort
    unit: Unit
    missing: Missing
    bootstrap: int
    seed: int

    @cached_property
    def classes(self) -> dict[str, list[Key]]:
        """The classes that all folders have, by metric."""
        return common_classes(self.scored)

    def row(self, key: Key, group: str | None, cases: Sequence[str]) -> Row:
        """Compare all folders in one key over some cases."""
        metric = METRICS[key.metric]
        kept: dict[str, list[list[float]]] = {}
        undefined = infinite = 0
        for case in cases:
            values = self._values(key, case)
            if any(map(math.isnan, values)):
                undefined += 1
            elif self.missing == "exclude" and any(map(math.isinf, values)):
                infinite += 1
            else:
                unit = self.cohort.subject(case) if self.unit == "subject" else case
                kept.setdefault(unit, []).append(values)
        raw = [[_mean(case[k] for case in kept[unit]) for unit in sorted(kept)] for k in range(len(self.scored))]
        tested = raw
        if metric.direction == "zero":
            tested = [[_mean(abs(case[k]) for case in kept[u]) for u in sorted(kept)] for k in range(len(self.scored))]
        tests = tuple(
            compare_pairs(tested[0], other, metric.direction, resamples=self.bootstrap, seed=self.seed)
            for other in tested[1:]
        )
        shown, compared = (tuple(statistic(one) for one in side) for side in (raw, tested))
        return Row(key, group, len(kept), shown, compared, tests, undefined, infinite)

    def _values(self, key: Key, case: str) -> list[float]:
        """One value per folder; with ``worst`` that of an empty prediction where a folder lacks the case."""
        values = []
        found = self._over_classes(key.metric, case) if key.scope == OVERALL else None
        for k, one in enumerate(self.scored):
            value = one.values[key].get(case, math.nan) if found is None else found[k]
            if case not in one.cases and self.missing == "worst":
                value = _worst(key.metric)
            values.append(value)
        present = [value for value, one in zip(values, self.scored, strict=True) if case in one.cases]
        # Where nobody had anything to compare, an empty prediction has nothing to lose.
        return [math.nan] * len(values) if all(map(math.isnan, present)) else values

    def _over_classes(self, metric: str, case: str) -> list[float]:
        """Mean over the classes for every folder, NaN where it lacks the case.

        A class at an infinite distance in one folder is left out of all of them, or with ``worst`` makes its folder's
        mean infinite: leaving it out of one mean alone would reward missing what is hard.
        """
        rows = [[one.values[key].get(case, math.nan) for key in self.classes[metric]] for one in self.scored]
        if self.missing == "worst":
            return [math.inf if any(map(math.isinf, row)) else finite_mean(row) for row in rows]
        usable = [not any(map(math.isinf, column)) for column in zip(*rows, strict=True)]
        if not any(usable):
            return [finite_mean(row) for row in rows]
        return [finite_mean(value for value, keep in zip(row, usable, strict=True) if keep) for row in rows]


def _worst(name: str) -> float:
    """Value of an empty prediction; infinite where it would depend on the reference."""
    value = METRICS[name].edge_case(ref_empty=False, pred_empty=True)
    return math.inf if value is None else value


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def corrected(rows: Sequence[Row], method: Correction) -> list[Row]:
    """Return the rows with p-values corrected for all their tests together."""
    values = iter(correct([test.p for row in rows for test in row.tests], method))
    return [replace(row, corrected=tuple(next(values) for _ in row.tests)) for row in rows]


def cohort_of(scored: Sequence[Scored], given: str | Path | None) -> Cohort:
    """Return subjects and facts: of the `given` file, else as the evaluations recorded them, the first folder first."""
    every = sorted({case for one in scored for case in one.cases})
    if given is not None:
        return read_cohort(every, given, ())
    subjects: dict[str, str] = {}
    facts: dict[str, Mapping[str, str]] = {}
    for one in reversed(scored):
        subjects |= one.subject_of
        facts |= {case: known for case, known in one.facts.items() if known}
    source = next((str(one.inputs["cases"]) for one in scored if one.inputs.get("cases")), None)
    return Cohort(subjects, facts, source)
