"""The facts of a run as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import DISC_OFFSET, VERTEBRA_ORDER, instance_name
from nnunet_spine_ext.report.privacy import Redactor, is_personal

_LONGEST = 240
# Shown elsewhere on the page, or no facts for readers.
_LEFT_OUT = frozenset({"labels", "cases", "colours", "plans", "spine_ext"})
_DATES = ("finished", "ended", "end", "date", "started", "start", "time", "timestamp", "created")
_OPTIONAL_LEVELS = frozenset({19, 28, 24, 25})
_SACRUM = 26


def run_facts(run: Mapping[str, Any], redactor: Redactor) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (group, [(key, text)]) for everything in run.json that a reader may see.

    Entries that name the machine or the user are left out unless paths are shown.
    """
    single: list[tuple[str, str]] = []
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for key, value in run.items():
        if key in _LEFT_OUT or (is_personal(key) and not redactor.show_paths):
            continue
        if isinstance(value, Mapping):
            rows = [row for row in _flat(value, "", redactor) if row[1] != ""]
            if rows:
                groups.append((key.replace("_", " "), rows))
        elif value is not None:
            single.append((key.replace("_", " "), _text(value, redactor)))
    return ([("run", single)] if single else []) + groups


def _flat(table: Mapping[str, Any], prefix: str, redactor: Redactor) -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        if is_personal(str(key)) and not redactor.show_paths:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.", redactor)
        elif value is not None:
            yield f"{prefix}{key}", _text(value, redactor)


def _text(value: Any, redactor: Redactor) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        text = ", ".join(_text(item, redactor) for item in value)
    else:
        text = redactor.text(f"{value:g}" if isinstance(value, float) else str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def run_date(run: Mapping[str, Any]) -> str:
    """Return the run's own date (day and minute as it is written there), empty if none is recorded."""
    for key in _DATES:
        value = run.get(key)
        if isinstance(value, str) and value[:4].isdigit():
            return value[:16].replace("T", " ")
    return ""


def qc_rows(qc: Mapping[str, Any], redactor: Redactor) -> list[tuple[str, str]]:
    """Return the scalar entries of a case's QC file."""
    return [row for row in _flat(qc, "", redactor) if row[1] != ""][:60]


def sequence_problem(vertebrae: Sequence[tuple[int, float]], case: str) -> Problem | None:
    """Return a warning when numbers are skipped or not in order from head to tail.

    Parameters
    ----------
    vertebrae: (instance id, height in mm) of the vertebrae, any order. T12, T13, L5 and L6 may be missing.
    """
    ids = [n for n, _ in sorted(vertebrae, key=lambda item: -item[1]) if n in VERTEBRA_ORDER and n <= DISC_OFFSET]
    places = [VERTEBRA_ORDER.index(n) for n in ids]
    if len(places) < 2:
        return None
    seen = [instance_name(n) for n in ids]
    if places != sorted(places):
        found = f"vertebrae from top to bottom are {', '.join(seen)}"
        return _order_warning(case, found, "numbers that follow the spine downwards")
    present = set(ids)
    inside = VERTEBRA_ORDER[places[0] : places[-1] + 1]
    skipped = [n for n in inside if n not in present and n not in _OPTIONAL_LEVELS and n <= _SACRUM]
    if skipped:
        names = ", ".join(instance_name(n) for n in skipped)
        return _order_warning(case, f"no {names} between {seen[0]} and {seen[-1]}", "every level in between")
    return None


def _order_warning(case: str, found: str, expected: str) -> Problem:
    return Problem(
        "warning",
        "W-LABEL-ORDER",
        case,
        found,
        expected,
        "look at the instances before using anything that is per level",
    )
