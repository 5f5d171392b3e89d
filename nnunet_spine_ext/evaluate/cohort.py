"""Who was scanned, and on what: subjects and facts of the cases, from cases.json."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.io import read_json

FILE = "cases.json"
UNKNOWN = "unknown"
_NO_FACTS = ("sources",)
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Cohort:
    """Subjects and facts by case.

    `source` is the file they come from (None: there is none, and every case is a subject of its own); `unnamed` are the
    cases that it does not name.
    """

    subject_of: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    source: str | None = None
    unnamed: tuple[str, ...] = ()

    def subject(self, case: str) -> str:
        """Return the subject of a case; a case that is not named is a subject of its own."""
        return self.subject_of.get(case, case)

    def groups(self, key: str, cases: Iterable[str]) -> dict[str, list[str]]:
        """Return the cases of every value of a key, values in alphabetical order, ``unknown`` last."""
        found: dict[str, list[str]] = {}
        for case in cases:
            found.setdefault(self.facts.get(case, {}).get(key, UNKNOWN), []).append(case)
        return {value: found[value] for value in sorted(found, key=lambda value: (value == UNKNOWN, value))}


def read_cohort(cases: Sequence[str], given: str | Path | None, folders: Sequence[Path]) -> Cohort:
    """Read cases.json: the `given` file, else the first in `folders`, else nothing.

    The `given` file may be a table (.csv or .tsv) with the columns case and subject, and facts as further columns.

    Raises
    ------
    UsageError: the file cannot be read, or is none that names subjects.
    """
    path = Path(given) if given is not None else next((f / FILE for f in folders if (f / FILE).is_file()), None)
    if path is None:
        return Cohort()
    try:
        entries = _table(path) if path.suffix.lower() in _TABLES else read_json(path)["cases"]
        subject_of = {case: str(entries[case]["subject"]) for case in cases if case in entries}
        facts = {case: _facts(entries[case]) for case in cases if case in entries}
    except (CaseError, KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        raise UsageError(
            "E-EVAL-CASES",
            file=path,
            found=f"cannot be used ({type(error).__name__}: {error})",
            expected='{"version": 1, "cases": {"<case>": {"subject": "<who>", …}}}, or a table with case and subject',
            fix="restore the file, or name another one by --cases",
        ) from error
    return Cohort(subject_of, facts, str(path), tuple(case for case in cases if case not in subject_of))


def _table(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a table by case; raises KeyError without the columns, ValueError for a case twice."""
    found: dict[str, dict[str, Any]] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream, delimiter=_TABLES[path.suffix.lower()]):
            if not row["case"] or not row["subject"] or row["case"] in found:
                msg = f"case {row['case']!r}: {'twice' if row['case'] in found else 'without a name or a subject'}"
                raise ValueError(msg)
            # Cells beyond the header come under the name None.
            found[row["case"]] = {key: value for key, value in row.items() if key and key != "case"}
    return found


def check_keys(cohort: Cohort, keys: Sequence[str]) -> None:
    """Raise UsageError for a key of `--by` that no case has, with the nearest one that some have."""
    if keys and cohort.source is None:
        raise UsageError(
            "E-EVAL-BY",
            found=f"--by {' '.join(keys)}, but no cases.json",
            expected="cases.json beside the references",
            fix="name the file by --cases, or leave --by out",
        )
    known = {key for facts in cohort.facts.values() for key in facts}
    for key in keys:
        if key not in known:
            raise UsageError(
                "E-EVAL-BY",
                file=cohort.source,
                found=f"--by {key}: no case has this fact",
                expected="a key that cases.json has a value for",
                fix=nearest(key, known),
            )


def subject_warnings(cohort: Cohort) -> dict[str, Problem]:
    """Return a warning for each case that cases.json does not name."""
    return {
        case: Problem(
            "warning",
            "W-EVAL-NOSUBJECT",
            str(cohort.source),
            f"nothing about {case}",
            "the subject of every case",
            "counted as a subject of its own",
        )
        for case in cohort.unnamed
    }


def _facts(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known of a case as words; lists and unknown values are left out."""
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in entry.items()
        if key not in _NO_FACTS and isinstance(value, str | int | float) and value != ""
    }
