"""`nnUNetv2_spine_harmonize evaluate`: YAML in, folder out; resumable, in several processes."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.study.commands import LOG, environment_of
from nnunet_spine_ext.study.folders import before, log_changes, logged, versions
from nnunet_spine_ext.study.harmonization.assemble import Assembly, assemble, radiomics_of
from nnunet_spine_ext.study.harmonization.collect import collect
from nnunet_spine_ext.study.harmonization.config import HarmonizationConfig, read_config
from nnunet_spine_ext.study.harmonization.measured import FACTS_FILE
from nnunet_spine_ext.study.steps import Ledger, Outcome, minutes, run_steps
from nnunet_spine_ext.study.workers import Workers

if TYPE_CHECKING:
    from nnunet_spine_ext.study.harmonization.analysis import Summary

logger = logging.getLogger(__name__)
VERSION = 1
_KIND = "evaluation of harmonization"
_LOCK = ".evaluation.lock"
_SHOWN = 12


@dataclass
class EvaluationResult:
    """What an evaluation found, and what it could not do."""

    folder: Path
    summary: Summary | None = None
    outcome: Outcome = field(default_factory=Outcome)
    failures: list[dict[str, Any]] = field(default_factory=list)
    planned: list[str] | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0; 3: something failed or was left out, or there is no gap to recover; 5: nothing could be scored."""
        if self.planned is not None:
            return EXIT_OK
        if self.summary is None:
            return EXIT_SETUP
        return EXIT_SOME_FAILED if self.failures else self.summary.exit_code

    def render(self) -> str:
        """Return a text for the console."""
        if self.planned is not None:
            return "\n".join([*self.planned, f"{len(self.planned)} steps; nothing was done (dry run)"])
        lines = [] if self.summary is None else [self.summary.render()]
        lines += [f"FAILED {row['step']}: {row['reason']}" for row in self.failures[:_SHOWN]]
        lines += [f"… and {len(self.failures) - _SHOWN} more, see failures.csv"] if len(self.failures) > _SHOWN else []
        done, skipped = len(self.outcome.done), len(self.outcome.skipped)
        lines.append(f"{done} steps done, {skipped} done before, in {minutes(self.seconds)}; see {self.folder}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "folder": str(self.folder),
            "summary": None if self.summary is None else self.summary.to_dict(),
            "failures": self.failures,
            "planned": self.planned,
            "seconds": round(self.seconds, 1),
            "exit_code": self.exit_code,
        }


def evaluate(
    o: str | Path,
    *,
    preset: str = "full",
    assignments: Sequence[str] = (),
    device: str | None = None,
    jobs: int = 1,
    resume: bool = False,
    dry_run: bool = False,
) -> EvaluationResult:
    """Measure what harmonization, its parts and its alternatives do for segmentation and for radiomic features.

    Parameters
    ----------
    o: folder for everything. preset: an evaluation that comes with the package (``cpu``, ``full``, ``smoke``), or a
        YAML file. assignments: ``key=value`` over it, such as ``phantoms.test=4``.
    device: instead of the configuration's. jobs: steps at the same time; threads are shared between them.
    resume: go on in a folder that an evaluation began in: finished steps are kept, those that a changed configuration
        touches are done again.
    dry_run: list the steps that would be done.

    Raises
    ------
    UsageError: the configuration is wrong, the folder holds something else.
    NoInputError, SetupError: no data, no model, another evaluation runs in the folder.
    """
    start = time.monotonic()
    if jobs < 1:
        raise UsageError(
            "E-STUDY-CONFIG", file="--jobs", found=str(jobs), expected="at least 1", fix="correct the option"
        )
    config = read_config(preset, assignments)
    config = config if device is None else replace(config, device=device)
    folder = Path(o).resolve()
    known = before(folder, FACTS_FILE, _KIND, resume=resume)
    made = assemble(config, folder)
    if dry_run:
        return EvaluationResult(folder, planned=_planned(made, Ledger(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / _LOCK, what="doing an evaluation here"), logged(folder):
        log_changes(known, config.to_dict())
        for warning in made.warnings:
            logger.warning("%s", warning)
        write_json(folder / FACTS_FILE, _facts(config) | {"warnings": made.warnings})
        deadline = None if config.budget is None else start + 60 * config.budget
        return _evaluated(folder, config, made, jobs, start, deadline)


def _evaluated(
    folder: Path, config: HarmonizationConfig, made: Assembly, jobs: int, start: float, deadline: float | None
) -> EvaluationResult:
    ledger = Ledger(folder)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with Workers(jobs, environment_of(folder, threads), folder / LOG) as workers:
        outcome = run_steps(made.steps, ledger, workers, deadline=deadline)
    failures = collect(folder, made, ledger, outcome)
    facts = _facts(config) | {
        "warnings": made.warnings,
        "failures": failures,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "seconds_of_steps": {step.name: ledger.seconds(step) for step in made.steps if ledger.is_done(step)},
    }
    write_json(folder / FACTS_FILE, facts)
    scored = any(ledger.is_done(step) for step in made.steps if step.name.startswith("score "))
    summary = _analysed(folder, config) if scored else None
    return EvaluationResult(folder, summary, outcome, failures, seconds=time.monotonic() - start)


def _analysed(folder: Path, config: HarmonizationConfig) -> Summary:
    from nnunet_spine_ext.study.harmonization.analysis import analyse

    return analyse(folder, bootstrap=config.bootstrap)


def _facts(config: HarmonizationConfig) -> dict[str, Any]:
    return {
        "kind": _KIND,
        "version": VERSION,
        "config": config.to_dict(),
        "segmenter": config.main,
        "radiomics": to_dict(radiomics_of(config, config.seeds[0])),
        "versions": versions(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _planned(made: Assembly, ledger: Ledger) -> list[str]:
    for step in made.steps:
        ledger.key(step)
    return [step.name for step in made.steps if not (ledger.is_done(step) and ledger.is_whole(step))]
