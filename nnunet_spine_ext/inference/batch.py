"""Cases one by one, each for itself: what all commands have in common that fill a folder with results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, EXIT_SOME_FAILED, Problem, SetupError, SpineExtError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.results import discard, outputs
from nnunet_spine_ext.inference.space import is_full, unwritable

logger = logging.getLogger(__name__)
# A full disk rarely empties itself: after this many cases that found no room the run ends.
FULL_LIMIT = 3

Inputs = list[dict[str, str]]


@dataclass
class BatchResult(RunSummary):
    """Outcome of a run, with its output folder.

    `notes` are warnings about the run as a whole, `stopped` is why it ended before its last case. A dry run lists in
    `planned` the files of each case that would be done; `failed` are then those that would fail.
    """

    # What is done with a case, and what a dry run adds in brackets.
    verb: ClassVar[tuple[str, str]] = ("do", "done")
    rehearsal: ClassVar[str] = "dry run"

    folder: Path = field(default_factory=Path)
    planned: dict[str, list[str]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    stopped: Problem | None = None
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """As for every run; 5 when it was stopped; of a dry run, what the run would end with."""
        if self.stopped is not None:
            return EXIT_SETUP
        if self.planned:
            return EXIT_SOME_FAILED if self.failed else EXIT_OK
        return super().exit_code

    def render(self) -> str:
        """Return a text for the console; a dry run lists the cases."""
        *lines, counts = super().render().splitlines()
        if self.dry_run:
            counts = f"{len(self.planned)} to {self.verb[0]}, {len(self.skipped)} finished, "
            counts += f"{len(self.failed)} would fail; nothing was {self.verb[1]} ({self.rehearsal})"
            # A run says them when it starts.
            lines[1:1] = [f"WARNING {problem}" for problem in self.notes]
        lines += [f"{case}: {', '.join(files)}" for case, files in self.planned.items()]
        lines += [f"STOPPED {self.stopped}"] if self.stopped else []
        return "\n".join([*lines, counts])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        content = super().to_dict() | {"notes": [problem.to_dict() for problem in self.notes]}
        if self.dry_run:
            content["planned"] = self.planned
        return content | ({"stopped": self.stopped.to_dict()} if self.stopped else {})


@dataclass(frozen=True)
class Done:
    """What doing a case gave besides its files: warnings, and facts for its line in the journal."""

    warnings: list[Problem]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """What became of one case.

    Parameters
    ----------
    entry: its line for the journal; empty when an earlier run had done it.
    problem: why it failed; None if it did not.
    full: whether it failed for want of room.
    """

    case: str
    entry: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    problem: Problem | None = None
    full: bool = False


def attempt(
    case: str,
    output: Path,
    fingerprint: str,
    *,
    inputs: Callable[[], Inputs],
    finished: Callable[[Inputs], bool],
    work: Callable[[], Done],
    source: str,
) -> Attempt:
    """Do one case; whatever goes wrong is part of the answer, and nothing of it stays in the folder.

    Parameters
    ----------
    inputs: name and hash of the files of the case.
    finished: whether an earlier run did it with these inputs.
    work: does it; the mask must be the last file that it writes.
    source: the file that an unexpected error names.
    """
    entry: dict[str, Any] = {"case": case, "fingerprint": fingerprint}
    start = time.perf_counter()

    def failed(problem: Problem, *, full: bool = False) -> Attempt:
        discard(output, case)
        facts = {"seconds": _seconds_since(start), "status": "failed", "warnings": [], "error": problem.to_dict()}
        return Attempt(case, entry | facts, problem=problem, full=full)

    try:
        entry["input"] = inputs()
        if finished(entry["input"]):
            return Attempt(case)
        discard(output, case)
        done = work()
    except SpineExtError as error:
        return failed(error.problem())
    except Exception as error:
        return failed(unwritable(output, error) or unexpected(case, source, error), full=is_full(error))
    except BaseException:
        discard(output, case)
        raise
    facts = {
        "status": "done",
        "seconds": _seconds_since(start),
        "warnings": [w.to_dict() for w in done.warnings],
        "error": None,
        "outputs": {f.relative_to(output).as_posix(): sha256(f) for f in outputs(output, case)},
    }
    return Attempt(case, entry | facts | done.facts, tuple(done.warnings))


def record(made: Attempt, result: BatchResult, journal: Journal) -> None:
    """Enter what became of a case into the journal and the result; raises SetupError when the journal cannot be."""
    if made.problem is not None:
        journal.append(made.entry)
        result.fail(made.case, made.problem)
    elif made.entry:
        journal.append(made.entry)
        result.done.append(made.case)
        result.warn(made.case, *made.warnings)
    else:
        result.skipped.append(made.case)


def stopped(output: Path, full: int, left: int) -> Problem:
    """Return why a run ends: no room, `full` times, before `left` further cases."""
    return SetupError(
        "E-OUT-FULL",
        file=output,
        found=f"no space left, {full} times; the run was ended before {left} further cases",
        expected="room for the results on the disk",
        fix="free space, then run again with --resume",
    ).problem()


def unexpected(case: str, file: str, error: Exception) -> Problem:
    """Return the finding for an error that nobody foresaw, and log it."""
    logger.error("%s: unexpected error", case, exc_info=error)
    return Problem.unexpected(error, file, "a result")


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)
