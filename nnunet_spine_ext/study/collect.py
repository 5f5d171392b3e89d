"""From the scores of single steps to the CSV files of a study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.study.assemble import Assembly, Run
from nnunet_spine_ext.study.config import StudyConfig
from nnunet_spine_ext.study.images import target_named
from nnunet_spine_ext.study.index import StudyCase
from nnunet_spine_ext.study.predicting import cases_of
from nnunet_spine_ext.study.records import (
    CASE_COLUMNS,
    FAILURE_COLUMNS,
    GAP_COLUMNS,
    VERTEBRA_COLUMNS,
    write_rows,
)
from nnunet_spine_ext.study.score import read_scores
from nnunet_spine_ext.study.steps import Ledger, Outcome, Step

Rows = list[dict[str, Any]]


def collect(study: Path, config: StudyConfig, made: Assembly, ledger: Ledger, outcome: Outcome) -> Rows:
    """Write cases.csv, vertebrae.csv, gaps.csv and failures.csv of all steps that are done; return the failures."""
    steps = {step.name: step for step in made.steps}
    cases: Rows = []
    vertebrae: Rows = []
    failures = list(_of_steps(made, steps, outcome))
    for run in made.runs:
        step = steps[run.score]
        if not ledger.is_done(step) or run.score in outcome.left_out:
            continue
        # An earlier step may list cases that a later one of another configuration does not know.
        known = {case.case: case for case in cases_of(study, made.images.test_folders, [c.key for c in run.conditions])}
        for row in read_scores(study, run.scores):
            for keys in _keys(config, run, known[row["case"]]):
                cases.append(keys | {name: row.get(name) for name in CASE_COLUMNS if name not in keys})
                vertebrae += [keys | level for level in row["levels"]]
        failures += _of_cases(run, known, (ledger.answer(steps[run.predict]), ledger.answer(step)))
    write_rows(study / "cases.csv", CASE_COLUMNS, cases)
    write_rows(study / "vertebrae.csv", VERTEBRA_COLUMNS, vertebrae)
    write_rows(study / "gaps.csv", GAP_COLUMNS, _gaps(study, made, ledger, steps))
    write_rows(study / "failures.csv", FAILURE_COLUMNS, failures)
    return failures


def _keys(config: StudyConfig, run: Run, case: StudyCase) -> Iterator[dict[str, Any]]:
    """Yield what a row says about its case: fine-tuned models stand in the table of strategies, on a curve, or both."""
    columns = case.condition.columns()
    keys = {
        "seed": run.seed, "strategy": run.strategy, **columns, "n": "" if run.n is None else run.n, "case": case.case,
        "subject": case.subject, "region_of_view": case.region,
    }  # fmt: skip
    samples = config.samples
    curve = target_named(config, samples.scanner).scanner
    if run.n is None or run.n == samples.column:
        yield keys
    if columns["factor"] != "scanner" or columns["scanner"] != curve or "finetuned" not in config.strategies:
        return
    if run.n is not None and run.n in samples.counts:
        yield keys | {"factor": "samples"}
    if run.strategy == "none" and 0 in samples.counts:
        # N = 0 is the model as it is.
        yield keys | {"factor": "samples", "strategy": "finetuned", "n": 0}


def _gaps(study: Path, made: Assembly, ledger: Ledger, steps: Mapping[str, Step]) -> Iterator[dict[str, Any]]:
    for seed, table in made.gaps.items():
        if ledger.is_done(steps[f"gaps, seed {seed}"]):
            yield from ({"seed": seed} | row for row in read_json(study / table))


def _of_steps(made: Assembly, steps: Mapping[str, Step], outcome: Outcome) -> Iterator[dict[str, Any]]:
    reasons = {name: str(problem) for name, problem in outcome.failed.items()} | outcome.left_out
    of_step = {name: run for run in made.runs for name in (run.predict, run.score)}
    for name, reason in made.unavailable.items():
        yield {"strategy": name, "step": "not available", "reason": reason}
    for name, reason in reasons.items():
        run = of_step.get(name)
        facts = {} if run is None else {"seed": run.seed, "strategy": run.strategy, "n": run.n}
        yield {**facts, "step": name, "reason": reason}


def _of_cases(run: Run, known: Mapping[str, StudyCase], answers: Iterable[Any]) -> Iterator[dict[str, Any]]:
    reasons: dict[str, str] = {}
    for answer in answers:
        for case, reason in ((answer or {}).get("failed") or {}).items():
            reasons.setdefault(case, reason["found"] if isinstance(reason, Mapping) else str(reason))
    for case, reason in sorted(reasons.items()):
        scanner = known[case].condition.scanner if case in known else ""
        yield {
            "seed": run.seed, "strategy": run.strategy, "scanner": scanner, "n": run.n, "case": case,
            "step": run.predict, "reason": reason,
        }  # fmt: skip


def source_gap(study: Path, made: Assembly, run: Run) -> tuple[float, float]:
    """Return mean Dice at the source, and the mean over target scanners, of one run over whole scanners."""
    known = {case.case: case for case in cases_of(study, made.images.test_folders, [c.key for c in run.conditions])}
    dice: dict[str, list[float]] = {}
    for row in read_scores(study, run.scores):
        case = known[row["case"]]
        if case.condition.factor == "scanner" and row["dice"] is not None:
            dice.setdefault(case.condition.key, []).append(row["dice"])
    means = {key: fmean(values) for key, values in dice.items()}
    own = means.pop(made.images.source.key, float("nan"))
    return own, fmean(means.values()) if means else float("nan")
