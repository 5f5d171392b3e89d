"""Facts about subjects and scanners from the participants.tsv of a BIDS data set."""

from __future__ import annotations

import csv
import io
from pathlib import Path

FILE = "participants.tsv"

# Key of cases.json: columns that say it, best first. Names of people, birth dates and the like are left behind.
_COLUMNS = {
    "site": ("institution_id", "institution"),
    "manufacturer": ("manufacturer",),
    "model": ("manufacturers_model_name",),
    "pathology": ("pathology",),
}
_NOTHING = {"", "-", "--", "n/a", "na", "nan", "none", "null", "unknown"}


def read_participants(root: str | Path) -> dict[str, dict[str, str]] | None:
    """Return, per ``sub-...``, the facts of participants.tsv under the keys of cases.json; None without the file.

    Cells that say nothing (``-``, ``n/a``, ``unknown``) are left out. Of two rows for one subject the first counts.
    """
    try:
        text = (Path(root) / FILE).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return None
    facts: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"):
        name = (row.get("participant_id") or "").strip()
        if name:
            facts.setdefault(name if name.startswith("sub-") else f"sub-{name}", _facts(row))
    return facts


def _facts(row: dict[str, str | None]) -> dict[str, str]:
    found = {}
    for key, columns in _COLUMNS.items():
        values = [(row.get(column) or "").strip() for column in columns]
        known = next((value for value in values if value.lower() not in _NOTHING), None)
        if known is not None:
            found[key] = known
    return found
