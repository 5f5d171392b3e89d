"""What every study does around its steps: its folder and lock, its clock and budget, its file of facts, its result."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.study.commands import LOG, environment_of
from nnunet_spine_ext.study.folders import before, log_changes, logged, versions
from nnunet_spine_ext.study.steps import Ledger, Outcome, Step, minutes, run_steps
from nnunet_spine_ext.study.workers import Workers

VERSION = 1
_SHOWN = 12


@dataclass(frozen=True)
class Kind:
    """What tells one kind of study from another.

    Parameters
    ----------
    name: in the file of facts. file: of the facts. lock: file that is locked. doing: what another process is told.
    """

    name: str
    file: str
    lock: str
    doing: str


class Frame:
    """One run of a study in its folder; the clock starts here.

    Raises
    ------
    UsageError: less than one job.
    """

    def __init__(self, kind: Kind, folder: str | Path, jobs: int) -> None:
        if jobs < 1:
            raise UsageError(
                "E-STUDY-CONFIG", file="--jobs", found=str(jobs), expected="at least 1", fix="correct the option"
            )
        self.kind, self.folder, self.jobs = kind, Path(folder).resolve(), jobs
        self.ledger = Ledger(self.folder)
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return time.monotonic() - self._start

    def before(self, *, resume: bool) -> dict[str, Any] | None:
        """Return what is known of an earlier study in the folder, see `folders.before`."""
        return before(self.folder, self.kind.file, self.kind.name, resume=resume)

    @contextmanager
    def opened(self, known: dict[str, Any] | None, config: dict[str, Any]) -> Iterator[None]:
        """Hold the folder and write its log; say what changed since an earlier study.

        Raises
        ------
        SetupError: another study runs in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / self.kind.lock, what=self.kind.doing), logged(self.folder):
            log_changes(known, config)
            yield

    def run(
        self, steps: Sequence[Step], budget: float | None, after: Callable[[Step], None] = lambda _step: None
    ) -> Outcome:
        """Do all steps, see `steps.run_steps`; `budget` in minutes since the start."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        deadline = None if budget is None else self._start + 60 * budget
        with Workers(self.jobs, environment_of(self.folder, threads), self.folder / LOG) as workers:
            return run_steps(steps, self.ledger, workers, deadline=deadline, after=after)

    def write_facts(self, config: dict[str, Any], own: Mapping[str, Any], **later: Any) -> None:
        """Write the file of facts: the configuration, what is this kind's `own`, the machine, what came `later`."""
        facts = {"kind": self.kind.name, "version": VERSION, "config": config, **own}
        facts |= {"versions": versions(), "python": platform.python_version(), "cores": os.cpu_count()}
        write_json(self.folder / self.kind.file, facts | later)

    def effort(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Return the facts of how long everything took."""
        done = {step.name: self.ledger.seconds(step) for step in steps if self.ledger.is_done(step)}
        return {"minutes": round(self.seconds / 60, 2), "seconds_of_steps": done}

    def is_scored(self, steps: Sequence[Step]) -> bool:
        """Whether there is anything to analyse."""
        return any(self.ledger.is_done(step) for step in steps if step.name.startswith("score "))


class Summarised(Protocol):
    """What an analysis found."""

    @property
    def exit_code(self) -> int:
        """Exit code of a study that was done without failures."""
        ...

    def render(self) -> str:
        """Return a text for the console."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        ...


Summary = TypeVar("Summary", bound=Summarised)


@dataclass
class FrameResult(Generic[Summary]):
    """What a study found, and what it could not do.

    Parameters
    ----------
    failures: rows of ``failures.csv``. planned: the steps of a dry run, in which nothing was done.
    """

    folder: Path
    summary: Summary | None = None
    outcome: Outcome = field(default_factory=Outcome)
    failures: list[dict[str, Any]] = field(default_factory=list)
    planned: list[str] | None = None
    seconds: float = 0.0

    # What of a failure says where it is.
    PLACE: ClassVar[tuple[str, ...]] = ("step",)

    @property
    def exit_code(self) -> int:
        """0; 3: something failed or was left out, or there is no gap to recover; 5: nothing could be scored."""
        if self.planned is not None:
            return EXIT_OK
        if self.summary is None:
            return EXIT_SETUP
        if self.outcome.failed or self.outcome.left_out or self.lost():
            return EXIT_SOME_FAILED
        return self.summary.exit_code

    def lost(self) -> list[dict[str, Any]]:
        """Return the failures that count."""
        return self.failures

    def remarks(self) -> list[str]:
        """Return lines that stand between what was found and what failed."""
        return []

    def render(self) -> str:
        """Return a text for the console."""
        if self.planned is not None:
            told = f"{len(self.planned)} steps; nothing was done (dry run)"
            return "\n".join([*self.planned, *self.remarks(), told])
        lines = [] if self.summary is None else [self.summary.render()]
        lines += self.remarks()
        lost = self.lost()
        for row in lost[:_SHOWN]:
            place = ", ".join(str(row[key]) for key in self.PLACE if row.get(key))
            lines.append(f"FAILED {place}: {row['reason']}")
        if len(lost) > _SHOWN:
            lines.append(f"… and {len(lost) - _SHOWN} more, see failures.csv")
        done, skipped = len(self.outcome.done), len(self.outcome.skipped)
        lines.append(f"{done} steps done, {skipped} done before, in {minutes(self.seconds)}; see {self.folder}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "folder": str(self.folder),
            "summary": None if self.summary is None else self.summary.to_dict(),
            "failures": self.failures,
            **self.more(),
            "planned": self.planned,
            "seconds": round(self.seconds, 1),
            "exit_code": self.exit_code,
        }

    def more(self) -> dict[str, Any]:
        """Return what only this kind of study has to say, as plain JSON."""
        return {}
