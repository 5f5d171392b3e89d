"""What happened to each case of a run, and the exit code that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nnunet_spine_ext.core.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, Problem


@dataclass
class RunSummary:
    """Cases of one run by outcome.

    `done` and `skipped` list case names (skipped: valid already, nothing to do); `failed` maps a case to its
    error; `warnings` maps a case to its warnings. `title` is the first line of `render`.
    """

    title: str = ""
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Problem] = field(default_factory=dict)
    warnings: dict[str, list[Problem]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all fine; 3: some cases failed; 4: no case was usable."""
        if not self.done and not self.skipped:
            return EXIT_NO_INPUT
        return EXIT_SOME_FAILED if self.failed else EXIT_OK

    def fail(self, case: str, problem: Problem) -> None:
        """Record that a case failed."""
        self.failed[case] = problem

    def warn(self, case: str, *problems: Problem) -> None:
        """Record warnings of a case."""
        if problems:
            self.warnings.setdefault(case, []).extend(problems)

    def in_words(self) -> list[str]:
        """Return failures, then warnings, each with its case."""
        found = [f"{case}: {problem}" for case, problem in self.failed.items()]
        return found + [f"{case}: {p}" for case, problems in self.warnings.items() for p in problems]

    def render(self) -> str:
        """Return a text for the console: warnings, then failures, then one line of counts."""
        lines = [self.title] if self.title else []
        lines += [f"WARNING {case}: {problem}" for case, found in self.warnings.items() for problem in found]
        lines += [f"FAILED {case}: {problem}" for case, problem in self.failed.items()]
        lines.append(f"{len(self.done)} done, {len(self.skipped)} skipped, {len(self.failed)} failed")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "failed": {case: problem.to_dict() for case, problem in self.failed.items()},
            "warnings": {case: [p.to_dict() for p in found] for case, found in self.warnings.items()},
            "exit_code": self.exit_code,
        }
