"""`nnUNetv2_spine_study`: YAML in, folder out; resumable, in several processes."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.study.assemble import Assembly, assemble
from nnunet_spine_ext.study.collect import collect, source_gap
from nnunet_spine_ext.study.commands import LOG, environment_of
from nnunet_spine_ext.study.config import StudyConfig, read_config
from nnunet_spine_ext.study.folders import before, log_changes, logged, versions
from nnunet_spine_ext.study.steps import Ledger, Outcome, Step, minutes, run_steps
from nnunet_spine_ext.study.workers import Workers

if TYPE_CHECKING:
    from nnunet_spine_ext.study.analysis import StudySummary

logger = logging.getLogger(__name__)
STUDY_FILE = "study.json"
VERSION = 1
# Below it there is nothing to recover, and no share says anything.
LEAST_GAP = 0.10
_LOCK = ".study.lock"
_SHOWN = 12


@dataclass
class StudyResult:
    """What a study found, and what it could not do."""

    folder: Path
    summary: StudySummary | None = None
    outcome: Outcome = field(default_factory=Outcome)
    failures: list[dict[str, Any]] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    planned: list[str] | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0; 3: something failed or was left out, or there is no gap to recover; 5: nothing could be scored."""
        if self.planned is not None:
            return EXIT_OK
        if self.summary is None:
            return EXIT_SETUP
        if self.outcome.failed or self.outcome.left_out or self._failed():
            return EXIT_SOME_FAILED
        return self.summary.exit_code

    def _failed(self) -> list[dict[str, Any]]:
        """Return the failures without strategies that were never there: these were asked for in vain, not lost."""
        return [row for row in self.failures if row.get("step") != "not available"]

    def render(self) -> str:
        """Return a text for the console."""
        if self.planned is not None:
            return "\n".join([*self.planned, f"{len(self.planned)} steps; nothing was done (dry run)"])
        lines = [] if self.summary is None else [self.summary.render()]
        lines += [f"not available: {name}: {reason}" for name, reason in self.unavailable.items()]
        failed = self._failed()
        lines += [f"FAILED {_failure(row)}" for row in failed[:_SHOWN]]
        lines += [f"… and {len(failed) - _SHOWN} more, see failures.csv"] if len(failed) > _SHOWN else []
        done, skipped = len(self.outcome.done), len(self.outcome.skipped)
        lines.append(f"{done} steps done, {skipped} done before, in {minutes(self.seconds)}; see {self.folder}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "folder": str(self.folder),
            "summary": None if self.summary is None else self.summary.to_dict(),
            "failures": self.failures,
            "unavailable": self.unavailable,
            "planned": self.planned,
            "seconds": round(self.seconds, 1),
            "exit_code": self.exit_code,
        }


def _failure(row: dict[str, Any]) -> str:
    what = ", ".join(str(row[key]) for key in ("strategy", "scanner", "case", "step") if row.get(key))
    return f"{what}: {row['reason']}"


def study(
    config: str | Path | None = None,
    o: str | Path = "study",
    *,
    preset: str | None = None,
    assignments: Sequence[str] | None = None,
    device: str | None = None,
    jobs: int = 1,
    resume: bool = False,
    dry_run: bool = False,
) -> StudyResult:
    """Measure what a model loses on other scanners, and what brings it back.

    Parameters
    ----------
    config: YAML file, or None with `preset`, a study that comes with the package: ``cpu``, ``full``, ``smoke``.
    o: folder for everything. assignments: ``key=value`` over the configuration, such as ``phantoms.test=4``.
    device: instead of the configuration's. jobs: steps at the same time; threads are shared between them.
    resume: go on in a folder that a study began in: finished steps are kept, those that a changed configuration
        touches are done again, and cases that failed are tried again.
    dry_run: list the steps that would be done.

    Raises
    ------
    UsageError: the configuration is wrong, the folder holds something else.
    NoInputError, SetupError: no data, no model, another study runs in the folder.
    """
    start = time.monotonic()
    if jobs < 1:
        raise UsageError(
            "E-STUDY-CONFIG", file="--jobs", found=str(jobs), expected="at least 1", fix="correct the option"
        )
    chosen = read_config(config, preset, assignments or ())
    chosen = chosen if device is None else replace(chosen, device=device)
    folder = Path(o).resolve()
    known = before(folder, STUDY_FILE, _KIND, resume=resume)
    made = assemble(chosen, folder)
    if dry_run:
        return StudyResult(folder, planned=_planned(made, Ledger(folder)), unavailable=made.unavailable)
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / _LOCK, what="doing a study here"), logged(folder):
        log_changes(known, chosen.to_dict())
        write_json(folder / STUDY_FILE, _facts(chosen, made))
        deadline = None if chosen.budget is None else start + 60 * chosen.budget
        return _study(folder, chosen, made, jobs, start, deadline)


def _study(
    folder: Path, config: StudyConfig, made: Assembly, jobs: int, start: float, deadline: float | None
) -> StudyResult:
    ledger = Ledger(folder)
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def watch(step: Step) -> None:
        _tell_gap(folder, made, step)

    with Workers(jobs, environment_of(folder, threads), folder / LOG) as workers:
        outcome = run_steps(made.steps, ledger, workers, deadline=deadline, after=watch)
    failures = collect(folder, config, made, ledger, outcome)
    facts = _facts(config, made) | {
        "failures": failures,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "seconds_of_steps": {step.name: ledger.seconds(step) for step in made.steps if ledger.is_done(step)},
    }
    write_json(folder / STUDY_FILE, facts)
    scored = any(ledger.is_done(step) for step in made.steps if step.name.startswith("score "))
    summary = _analysed(folder, config) if scored else None
    return StudyResult(folder, summary, outcome, failures, made.unavailable, seconds=time.monotonic() - start)


def _analysed(folder: Path, config: StudyConfig) -> StudySummary | None:
    from nnunet_spine_ext.study.analysis import analyse

    return analyse(folder, bootstrap=config.bootstrap)


def _tell_gap(folder: Path, made: Assembly, step: Step) -> None:
    """Say how large the gap is as soon as it is known: without one the rest is in vain."""
    for run in made.runs:
        if run.score == step.name and run.strategy == "none" and made.images.source in run.conditions:
            own, other = source_gap(folder, made, run)
            logger.info("Dice without any strategy: %.3f at the source, %.3f on targets", own, other)
            if not own - other >= LEAST_GAP:
                logger.warning("the gap of %.3f is below %.2f: the study will be void", own - other, LEAST_GAP)


_KIND = "cross-scanner study"


def _facts(config: StudyConfig, made: Assembly) -> dict[str, Any]:
    scanners = [condition.scanner for condition in made.images.conditions if condition.factor == "scanner"]
    return {
        "kind": _KIND,
        "version": VERSION,
        "config": config.to_dict(),
        "source": made.images.source.scanner,
        "scanners": scanners,
        "strategies": list(config.strategies),
        "seeds": list(config.seeds),
        "unavailable": made.unavailable,
        "vertebrae": made.images.instances,
        "versions": versions(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _planned(made: Assembly, ledger: Ledger) -> list[str]:
    for step in made.steps:
        ledger.key(step)
    return [step.name for step in made.steps if not (ledger.is_done(step) and ledger.is_whole(step))]
