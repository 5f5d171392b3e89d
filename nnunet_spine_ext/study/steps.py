"""Steps of a study: each is done once, recorded with a hash of what decides it, done again only when that changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, Problem, SpineExtError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.study.config import digest

logger = logging.getLogger(__name__)
RECORDS = "steps"
# Steps that would take less than this are not told of while others run.
_QUIET_S = 0.5


@dataclass(frozen=True)
class Step:
    """One piece of work in one process.

    Parameters
    ----------
    name: for people and files: words and numbers. work: function of a module (processes import it), with `arguments`.
    facts: JSON values that decide the result. needs: names of steps that must be done before.
    weight: seconds that it is expected to take, in proportion to the others.
    outputs: files and folders, relative to the study, without which it is not done. optional: it may be left out when
        the budget is over.
    follows: names of steps that end before it begins, whatever becomes of them: they spare it work, and its result is
        the same without.
    """

    name: str
    work: Callable[..., Any]
    arguments: Mapping[str, Any]
    facts: Any
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    outputs: tuple[str, ...] = ()
    optional: bool = True
    follows: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the record of the step."""
        return "".join(c if c.isalnum() or c in "-.+" else "-" for c in self.name) + ".json"


@dataclass
class Ledger:
    """Which steps are done; one file per step in ``steps/``, written when the step has ended."""

    study: Path
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, step: Step) -> str:
        """Return what stands for a step and everything it depends on; steps must be asked for in order."""
        if step.name not in self.keys:
            self.keys[step.name] = digest(step.facts, [self.keys[name] for name in step.needs])
        return self.keys[step.name]

    def is_done(self, step: Step) -> bool:
        """Whether a step was done with the same facts, and what it made is still there."""
        record = self._read(step)
        return record.get("key") == self.key(step) and all((self.study / path).exists() for path in step.outputs)

    def is_whole(self, step: Step) -> bool:
        """Whether a done step did all of its cases; what failed for want of memory or room may work another time."""
        answer = self.answer(step)
        return not (isinstance(answer, Mapping) and answer.get("failed"))

    def planned(self, steps: Sequence[Step]) -> list[str]:
        """Return the names of the steps that a run would do; steps are in order."""
        for step in steps:
            self.key(step)
        return [step.name for step in steps if not (self.is_done(step) and self.is_whole(step))]

    def seconds(self, step: Step) -> float | None:
        """Return how long a step took; None if that is not known."""
        value = self._read(step).get("seconds")
        return None if value is None else float(value)

    def enter(self, step: Step, seconds: float, answer: Any) -> None:
        """Record that a step is done."""
        content = {"step": step.name, "key": self.key(step), "seconds": round(seconds, 2), "answer": answer}
        write_json(self.study / RECORDS / step.file, content)

    def answer(self, step: Step) -> Any:
        """Return what a done step answered, as JSON."""
        return self._read(step).get("answer")

    def _read(self, step: Step) -> dict[str, Any]:
        path = self.study / RECORDS / step.file
        try:
            content = read_json(path) if path.is_file() else {}
        except CaseError:
            return {}
        return content if isinstance(content, dict) else {}


@dataclass
class Outcome:
    """What became of the steps of a run: names by outcome; `failed` with the reason."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Problem] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Progress:
    """Says what runs, and how long the rest will take, from the time that the weights of finished steps took."""

    def __init__(self, steps: Sequence[Step], jobs: int) -> None:
        self.total = len(steps)
        self.left = sum(step.weight for step in steps)
        self.jobs = jobs
        self.count = 0
        self._spent = self._weight = 0.0

    def skip(self, step: Step) -> None:
        """Take a step off what is left."""
        self.count += 1
        self.left -= step.weight

    def expected(self, step: Step) -> float:
        """Return how many seconds a step will take, by those that were done; 0 before any was."""
        return step.weight * self._spent / max(self._weight, 1e-9)

    def finish(self, step: Step, seconds: float, what: str = "done", *, share: float = 1.0) -> None:
        """Log a finished step and the time that remains; `share` of its work was done in that time."""
        self.skip(step)
        self._spent += seconds
        self._weight += step.weight * share
        rest = self.left * self._spent / max(self._weight, 1e-9) / self.jobs
        level = logging.INFO if seconds >= _QUIET_S or what != "done" else logging.DEBUG
        logger.log(
            level, "[%d/%d] %s: %s in %s; about %s left",
            self.count, self.total, step.name, what, minutes(seconds), minutes(rest),
        )  # fmt: skip


def minutes(seconds: float) -> str:
    """Return a duration in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def run_steps(
    steps: Sequence[Step],
    ledger: Ledger,
    pool: Any,
    *,
    deadline: float | None = None,
    after: Callable[[Step], None] = lambda _step: None,
) -> Outcome:
    """Do all steps that are not done yet, each after those it needs; whatever fails is told and does not end the run.

    Steps that were done without some of their cases are done again, for these cases.

    Parameters
    ----------
    pool: a `workers.Workers`. deadline: of `time.monotonic`; optional steps that are not expected to end before it are
        not begun. after: called with each step that was done.

    Raises
    ------
    KeyboardInterrupt: what is done is recorded; what was running is not.
    """
    outcome = Outcome()
    progress = Progress(steps, pool.jobs)
    for step in steps:
        ledger.key(step)
    waiting = list(steps)
    ended: set[str] = set()
    running: dict[str, Step] = {}
    while waiting or running:
        for step in list(waiting):
            if not {*step.needs, *step.follows} <= ended:
                continue
            reason = _reason(step, outcome, None if deadline is None else deadline - progress.expected(step), ledger)
            if reason is None and len(running) >= pool.jobs:
                break
            waiting.remove(step)
            if reason is None:
                running[step.name] = step
                logger.debug("start %s", step.name)
                pool.submit(step)
                continue
            ended.add(step.name)
            progress.skip(step)
            if reason == "":
                outcome.skipped.append(step.name)
            else:
                outcome.left_out[step.name] = reason
                logger.warning("%s: left out, %s", step.name, reason)
        if not running:
            continue
        name, seconds, answer, problem = pool.next()
        step = running.pop(name)
        ended.add(name)
        if problem is None:
            ledger.enter(step, seconds, answer)
            outcome.done.append(name)
            progress.finish(step, seconds, share=_share(answer))
            after(step)
        else:
            outcome.failed[name] = problem
            progress.finish(step, seconds, "FAILED")
            logger.error("%s: %s", name, problem)
    return outcome


def _share(answer: Any) -> float:
    """Return how much of its work a step did itself: what it took over from another says nothing about time."""
    taken = answer.get("taken_over", 0) if isinstance(answer, dict) else 0
    return 1 - taken / answer["cases"] if taken else 1.0


def _reason(step: Step, outcome: Outcome, latest: float | None, ledger: Ledger) -> str | None:
    """Return why a step is not run: empty when it is done already, None when it is to be run.

    `latest`: when it may be begun at the latest, by `time.monotonic`.
    """
    for need in step.needs:
        if need in outcome.failed or need in outcome.left_out:
            return f"it needs {need!r}, which was not done"
    over = step.optional and latest is not None and time.monotonic() > latest
    if ledger.is_done(step) and (over or ledger.is_whole(step)):
        return ""
    return "it would not be done within the budget of time" if over else None


def problem_of(name: str, error: BaseException) -> Problem:
    """Return why a step failed."""
    if isinstance(error, SpineExtError):
        return error.problem()
    found, fix = f"{type(error).__name__}: {error}", "read log.txt of the study; the other steps went on"
    return Problem("error", "E-STUDY-STEP", name, found, "a finished step", fix)
