"""Compare evaluations of the same references: which model is better, and could it be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from nnunet_spine_ext.core.errors import NoInputError, Problem, UsageError
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.evaluate import comparison_tables
from nnunet_spine_ext.evaluate.cohort import check_keys
from nnunet_spine_ext.evaluate.folders import (
    Scope,
    chosen_keys,
    common_cases,
    folder_names,
    refuse_other_options,
)
from nnunet_spine_ext.evaluate.latex import Spread
from nnunet_spine_ext.evaluate.paired import Correction
from nnunet_spine_ext.evaluate.pairing import Missing, Pairing, Row, Unit, cohort_of, corrected
from nnunet_spine_ext.evaluate.prepare import prepare_output, writing
from nnunet_spine_ext.evaluate.scored import Scored, read_scored
from nnunet_spine_ext.evaluate.statistic import DEFAULT_RESAMPLES, DEFAULT_SEED


@dataclass
class Comparison:
    """All tests, and where the tables are; the exit code is 3 when cases had to be left out."""

    out: Path
    names: tuple[str, ...]
    folders: tuple[str, ...]
    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: every case was compared; 3: some are in one folder only and were left out."""
        return self.summary.exit_code

    @property
    def notes(self) -> list[str]:
        """Remarks and left-out cases in words."""
        return [*self.remarks, *self.summary.in_words()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything that comparison.json holds."""
        return {
            "version": 1,
            "names": list(self.names),
            "folders": list(self.folders),
            "options": self.options,
            "tests": comparison_tables.records(self),
            "statistics": comparison_tables.distributions(self),
            "remarks": self.remarks,
            "run": self.summary.to_dict(),
        }

    def render(self) -> str:
        """Return the significant differences and counts for the console."""
        return comparison_tables.console(self)


def compare(
    a: str | Path,
    b: Sequence[str | Path],
    o: str | Path,
    *,
    names: Sequence[str] = (),
    metrics: Sequence[str] = (),
    scopes: Sequence[Scope] = ("overall", "class", "group"),
    unit: Unit = "subject",
    missing: Missing = "exclude",
    correction: Correction = "holm",
    by: str | None = None,
    cases: str | Path | None = None,
    bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
    latex: Spread = "mean",
) -> Comparison:
    """Compare one evaluation folder with others; write comparison.csv, .json, .md and .tex.

    Every pair of values is tested by Wilcoxon's signed-rank test (two-sided), and the p-values of all tests of the run
    are corrected together. Fewer than six pairs give NaN and the reason.

    Parameters
    ----------
    a: evaluation folder that the others are compared with; b: one or more others; o: folder for the tables.
    names: what the folders are called, first that of `a`; default: their folder names.
    metrics: names from the registry; default: those that all folders have.
    scopes: some of ``overall`` (mean over classes), ``class``, ``group``, ``level``, ``region``.
    unit: ``subject``: the cases of a subject are averaged first, because they are not independent; ``case``: not.
    missing: ``exclude`` leaves out cases that a folder lacks, and infinite values; ``worst`` counts both as failures,
        with the value of an empty prediction.
    correction: ``holm``, ``bonferroni`` or ``none``.
    by: a fact in cases.json; every value is tested on its own as well.
    cases: cases.json with subjects and facts; None: what the evaluations recorded.
    bootstrap, seed: resamples for the interval of the mean difference; 0: none.
    latex: ``mean`` (and sd) or ``median`` (and quartiles) in comparison.tex.

    Raises
    ------
    UsageError: wrong options, folders that are no evaluations or were made with other options.
    NoInputError: no case that all folders have. SetupError: `o` cannot be written.
    """
    _check(unit=unit, missing=missing, correction=correction, latex=latex, bootstrap=bootstrap, seed=seed)
    scored = [read_scored(folder) for folder in (a, *([b] if isinstance(b, str | Path) else b))]
    called = folder_names([one.folder for one in scored], names)
    keys, remarks = chosen_keys(scored, called, metrics, scopes)
    refuse_other_options(scored, called, keys)
    kept, lacking = common_cases(scored, called)
    cohort = cohort_of(scored, cases)
    if by is not None:
        check_keys(cohort, [by])
    prepare_output(Path(o), [one.folder for one in scored], comparison_tables.FILES)
    options = {
        "metrics": list(dict.fromkeys(key.metric for key in keys)), "scopes": list(scopes), "unit": unit,
        "missing": missing, "correction": correction, "by": by, "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip
    folders = tuple(str(one.folder) for one in scored)
    result = Comparison(Path(o), called, folders, options, remarks=remarks)
    _tell_missing(result, kept, lacking, missing)
    used = sorted([*kept, *lacking] if missing == "worst" else kept)
    if not used:
        raise _nothing_common(scored)
    groups: dict[str | None, list[str]] = {None: used}
    if by is not None:
        groups.update(cohort.groups(by, used))
    plan = Pairing(scored, cohort, unit, missing, bootstrap, seed)
    result.rows = [plan.row(key, value, members) for value, members in groups.items() for key in keys]
    result.rows = corrected(result.rows, correction)
    with writing(result.out):
        comparison_tables.write(result, latex)
    return result


def _check(*, unit: Unit, missing: Missing, correction: Correction, latex: Spread, bootstrap: int, seed: int) -> None:
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("--unit", unit, unit in get_args(Unit), "subject or case"),
        ("--missing", missing, missing in get_args(Missing), "exclude or worst"),
        ("--correction", correction, correction in get_args(Correction), "holm, bonferroni or none"),
        ("--latex", latex, latex in get_args(Spread), "mean or median"),
        ("--bootstrap", bootstrap, bootstrap >= 0, "0 or more"),
        ("--seed", seed, seed >= 0, "0 or more"),
    )
    for option, value, valid, expected in rules:
        if not valid:
            raise UsageError("E-COMPARE-RANGE", found=f"{option} {value}", expected=expected, fix="correct the option")


def _tell_missing(
    result: Comparison, kept: Sequence[str], lacking: Mapping[str, tuple[str, ...]], missing: Missing
) -> None:
    result.summary.done += sorted([*kept, *lacking] if missing == "worst" else kept)
    for case, without in sorted(lacking.items()):
        found = f"not scored in {', '.join(without)}"
        if missing == "worst":
            fix = "counted there as an empty prediction"
            problem = Problem("warning", "W-COMPARE-ONLY", case, found, "the same cases in all folders", fix)
            result.summary.warn(case, problem)
        else:
            fix = "left out; count it as a failure with --missing worst"
            result.summary.fail(
                case, Problem("error", "E-COMPARE-ONLY", case, found, "the same cases in all folders", fix)
            )


def _nothing_common(scored: Sequence[Scored]) -> NoInputError:
    counts = ", ".join(f"{len(one.cases)} in {one.folder}" for one in scored)
    return NoInputError(
        "E-COMPARE-CASES",
        found=f"no case that all folders have ({counts})",
        expected="evaluations of the same cases",
        fix="check the folders; case names must agree",
    )
