"""Rows, sections and the report of the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, Problem

Status = Literal["ok", "info", "warning", "error"]


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


@dataclass(frozen=True)
class DoctorReport:
    """Everything the doctor looked at."""

    sections: list[Section] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: able to work (warnings included); 5: at least one error."""
        return EXIT_SETUP if any(row.status == "error" for row in self._rows()) else EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        width = max((len(row.name) for row in self._rows()), default=0)
        lines: list[str] = []
        for section in self.sections:
            lines += ["", section.title] if lines else [section.title]
            for row in section.rows:
                lines.append(f"  {row.status:8} {row.name:{width}}  {row.value}".rstrip())
                lines += _explain(row.problem) if row.problem else []
        count = [sum(row.status == status for row in self._rows()) for status in ("error", "warning")]
        verdict = "not able to work" if count[0] else "able to work"
        lines += ["", f"{verdict}: {count[0]} errors, {count[1]} warnings"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        sections = [{"title": s.title, "rows": [row.to_dict() for row in s.rows]} for s in self.sections]
        return {"sections": sections, "exit_code": self.exit_code}

    def _rows(self) -> Iterator[Row]:
        return (row for section in self.sections for row in section.rows)


def _explain(problem: Problem) -> list[str]:
    rows = (("code", problem.code), ("found", problem.found), ("expected", problem.expected), ("do", problem.fix))
    return [f"             {name:9}{text}" for name, text in rows]
