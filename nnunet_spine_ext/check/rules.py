"""Every finding of this room, once: its code, severity, when it is raised, what was expected, what to do.

The messages, `docs/reference/errors.md` and the tests are made from these tables. `{hint}` is filled in by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_spine_ext.check.file_rules import FILE_ROWS
from nnunet_spine_ext.check.setup_rules import SETUP_ROWS
from nnunet_spine_ext.core.errors import Problem, Severity


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    `when` says in half a sentence when it is raised; `expected` and `fix` are the ends of its message.
    """

    code: str
    when: str
    expected: str
    fix: str

    @property
    def severity(self) -> Severity:
        """Severity by the first letter of the code; `--strict` turns warnings into errors."""
        return "error" if self.code.startswith("E-") else "warning"


FILE_RULES: dict[str, Rule] = {row[0]: Rule(*row) for row in FILE_ROWS}
SETUP_RULES: dict[str, Rule] = {row[0]: Rule(*row) for row in SETUP_ROWS}
RULES: dict[str, Rule] = FILE_RULES | SETUP_RULES


def finding(code: str, file: str | Path, found: str, *, hint: str = "", strict: bool = False) -> Problem:
    """Return the `Problem` for a code of `RULES`; `hint` fills the place that the rule leaves open."""
    rule = RULES[code]
    severity: Severity = "error" if strict else rule.severity
    expected, fix = rule.expected.format(hint=hint), rule.fix.format(hint=hint)
    return Problem(severity, code, str(file), found, expected, fix)
