"""Tables beside those of the paper: regions and vertebrae with all metrics, and every test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.cohort import NONE, Variant
from nnunet_spine_ext.study.measured import SCANNER, VERTEBRA_VALUES, Condition
from nnunet_spine_ext.study.results import Results
from nnunet_spine_ext.study.shares import Test
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate, nanmean
from nnunet_spine_ext.study.tables import Column, Table

_VALUES = (
    Column("dice", "Dice", "estimate"), Column("identified", "ID rate", "estimate"),
    Column("detected", "Found", "estimate"), Column("msd_mm", "MSD (mm)", "estimate", 2),
)  # fmt: skip
_SUBJECTS = Column("subjects", "Subjects")


def regions(results: Results) -> Table:
    """Return all metrics by region and scanner without adaptation, and with the best strategy."""
    return _parts(results, "region", "regions", "All metrics by region", results.cohort.region_names)


def vertebrae(results: Results) -> Table:
    """Return all metrics by vertebra and scanner without adaptation, and with the best strategy."""
    return _parts(results, "level", "vertebrae", "All metrics by vertebra", results.cohort.level_names)


def _parts(results: Results, part: Literal["region", "level"], name: str, title: str, names: tuple[str, ...]) -> Table:
    cohort, best = results.cohort, results.best()
    variants = [NONE, *([best.variant] if best is not None else [])]
    found = {value: cohort.by_part(value, part) for value in VERTEBRA_VALUES}
    rows = []
    for variant in variants:
        for scanner in (cohort.study.source, *cohort.study.targets):
            condition = Condition(variant.strategy, scanner, SCANNER, n=variant.n)
            for one in names:
                values = {value: table.get((condition, one)) for value, table in found.items()}
                if values["dice"] is not None and np.isfinite(values["dice"]).any():
                    rows.append(_row(results, variant, scanner, {part: one}, values))
    columns = (Column("strategy", "Strategy"), Column("scanner", "Scanner"), Column(part, part.capitalize()), _SUBJECTS)
    notes = (
        "ID rate: share of the true vertebrae with their right name; Found: share that any prediction covers; MSD over "
        "those that were found.",
        "Without adaptation, and with the strategy of the highest mean Dice over all targets.",
    )
    return Table(name, title, (*columns, *_VALUES), tuple(rows), notes)


def _row(
    results: Results, variant: Variant, scanner: str, part: dict[str, str], values: dict[str, Array | None]
) -> dict[str, Any]:
    draws = results.cohort.draws
    estimates = {k: UNKNOWN if v is None else draws.estimate(draws.curve(v)) for k, v in values.items()}
    dice = values["dice"]
    subjects = 0 if dice is None else int(np.isfinite(nanmean(dice, axis=0)).sum())
    return {"strategy": variant.title, "scanner": scanner, **part, "subjects": subjects, **estimates}


def tests(results: Results) -> Table:
    """Return every strategy against none: over all targets, and on each."""
    columns = (
        Column("strategy", "Strategy"), Column("scanner", "Scanner"), Column("pairs", "Pairs"),
        Column("difference", "Mean difference", "number", 4), Column("share", "Share of the gap", "share"),
        Column("statistic", "W", "number", 1), Column("p", "p"), Column("p_holm", "p (Holm)"),
        Column("rank_biserial", "Effect", "number", 2),
    )  # fmt: skip
    notes = (
        "Two-sided Wilcoxon signed-rank test over subjects. Rows of all targets are corrected for the number of "
        "strategies, rows of single scanners for strategies times scanners.",
        "“too few”: fewer than 6 subjects. Effect: rank-biserial correlation, 1: all subjects gain.",
    )
    rows = [
        _test(title, scanner, test, share)
        for title, scanner, test, share in _all_tests(results)
    ]  # fmt: skip
    return Table("tests", "Every strategy against none", columns, tuple(rows), notes)


def _all_tests(results: Results) -> Iterator[tuple[str, str, Test, Estimate]]:
    for one in results.outcomes:
        if one.test is not None:
            yield one.variant.title, "all targets", one.test, one.share
        for scanner, test in one.tests.items():
            yield one.variant.title, scanner, test, one.shares[scanner]


def _test(title: str, scanner: str, test: Test, share: Estimate) -> dict[str, Any]:
    found = test.found
    return {
        "strategy": title, "scanner": scanner, "pairs": found.n, "share": share,
        "difference": found.mean_difference, "statistic": found.statistic if math.isfinite(found.p) else math.nan,
        "p": test.text(corrected=False), "p_holm": test.text(), "rank_biserial": found.rank_biserial,
    }  # fmt: skip
