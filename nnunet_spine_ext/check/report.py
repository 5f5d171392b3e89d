"""Rows, sections and the report of the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, Problem

Status = Literal["ok", "info", "warning", "error"]
# Findings about variables of the shell that uses nnU-Net; what to do about most is a line for the shell.
_SHELL = ("E-ENV-PATH", "E-ENV-EXTTRAINER")
_COMMANDS = ("export ", "mkdir ", "eval ")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at: its name, what was found, and what is wrong with it.

    `plain` rows are neither good nor bad: facts for whoever reads a report.
    """

    name: str
    value: str
    problem: Problem | None = None
    plain: bool = False

    @property
    def status(self) -> Status:
        """``error`` and ``warning`` as their problem says, ``info`` for plain facts, else ``ok``."""
        if self.problem is not None:
            return self.problem.severity
        return "info" if self.plain else "ok"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON."""
        problem = self.problem.to_dict() if self.problem else None
        return {"name": self.name, "value": self.value, "status": self.status, "problem": problem}


@dataclass(frozen=True)
class Section:
    """Rows about one subject."""

    title: str
    rows: list[Row]

    def render(self) -> str:
        """Return a text for the console: the title, a line for each row, a block for each problem."""
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [self.title]
        for row in self.rows:
            lines.append(f"  {row.status:8} {row.name:{width}}  {row.value}".rstrip())
            lines += _explain(row.problem, row.value) if row.problem else []
        return "\n".join([*lines, ""])


@dataclass(frozen=True)
class DoctorReport:
    """Everything the doctor looked at."""

    sections: list[Section] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: able to work (warnings included); 5: at least one error."""
        return EXIT_SETUP if any(row.status == "error" for row in self._rows()) else EXIT_OK

    @property
    def verdict(self) -> str:
        """The last lines: able to work or not, the counts, and the commands that set what is not set."""
        count = [sum(row.status == status for row in self._rows()) for status in ("error", "warning")]
        errors = [row.problem for row in self._rows() if row.problem is not None and row.status == "error"]
        unset = bool(errors) and all(problem.code in _SHELL for problem in errors)
        answer = "not set up yet" if unset else "not able to work" if errors else "able to work"
        lines = [f"{answer}: {count[0]} errors, {count[1]} warnings"]
        if unset:
            lines.append("Nothing is broken: nnUNetv2_spine_predict -m MODEL_FOLDER works as it is.")
        steps = [problem.fix for problem in errors if problem.code in _SHELL and problem.fix.startswith(_COMMANDS)]
        if steps:
            lines.append("Converting, planning, training and nnU-Net's own commands need these lines, in this shell")
            lines.append("and in the file that it reads when it starts, such as ~/.bashrc (other places are as good):")
            lines += [f"  {step}" for step in steps]
        return "\n".join(lines)

    def render(self) -> str:
        """Return a text for the console."""
        return "\n".join([*(section.render() for section in self.sections), self.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        sections = [{"title": s.title, "rows": [row.to_dict() for row in s.rows]} for s in self.sections]
        return {"sections": sections, "exit_code": self.exit_code}

    def _rows(self) -> Iterator[Row]:
        return (row for section in self.sections for row in section.rows)


def _explain(problem: Problem, value: str) -> list[str]:
    # What the line of the row says already is not said again.
    found = "" if value.startswith(problem.found) else problem.found
    rows = (("code", problem.code), ("found", found), ("expected", problem.expected), ("do", problem.fix))
    return [f"             {name:9}{text}" for name, text in rows if text]
