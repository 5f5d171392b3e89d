"""Tables as CSV, Markdown and HTML cells: one description for all three."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_spine_ext.study.statistics import Estimate, fixed

Kind = Literal["text", "number", "estimate", "share"]


@dataclass(frozen=True)
class Column:
    """One column: its name in the CSV, its heading, and how its values are shown.

    An ``estimate`` is three columns of the CSV: the value, ``_low`` and ``_high``; a ``share`` is the same, shown in
    percent, with a fourth, ``_note``, that says why there is none. `wide` False: in the CSV only.
    """

    key: str
    title: str
    kind: Kind = "text"
    digits: int = 3
    wide: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells by column key; a missing key is an empty cell. `emphasis` marks rows shown in bold."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    emphasis: frozenset[int] = frozenset()

    @property
    def shown(self) -> tuple[Column, ...]:
        """Return the columns for readers: those of the CSV that are not for machines alone."""
        return tuple(column for column in self.columns if column.wide)

    def cells(self) -> list[list[str]]:
        """Return the shown cells as text."""
        return [[cell(row.get(column.key), column) for column in self.shown] for row in self.rows]


def cell(value: Any, column: Column) -> str:
    """Return a value as a reader sees it; "–" where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–" if column.kind != "text" else ""
    if isinstance(value, Estimate):
        return value.percent() if column.kind == "share" else value.text(column.digits)
    if isinstance(value, float):
        return fixed(value, column.digits)
    return str(value)


def csv_text(table: Table) -> str:
    """Return a table as CSV with six significant digits; what is not known is empty, "too few" stays as it is."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in _names(column)])
    for row in table.rows:
        writer.writerow([part for column in table.columns for part in _parts(row.get(column.key), column)])
    return stream.getvalue()


def _names(column: Column) -> list[str]:
    if column.kind == "share":
        return [column.key, *(f"{column.key}_{end}" for end in ("low", "high", "note"))]
    return [column.key, *(f"{column.key}_{end}" for end in ("low", "high") if column.kind == "estimate")]


def _parts(value: Any, column: Column) -> list[str]:
    if column.kind in ("estimate", "share"):
        known = value if isinstance(value, Estimate) else Estimate(math.nan)
        parts = [_number(known.value), _number(known.low), _number(known.high)]
        return [*parts, known.note] if column.kind == "share" else parts
    return [_number(value) if isinstance(value, float) else "" if value is None else str(value)]


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def markdown_text(table: Table) -> str:
    """Return a table as Markdown with its title and notes."""
    heads = [column.title for column in table.shown]
    rules = ["---" if column.kind == "text" else "---:" for column in table.shown]
    lines = [f"# {table.title}", "", f"| {' | '.join(heads)} |", f"|{'|'.join(rules)}|"]
    for number, row in enumerate(table.cells()):
        bold = number in table.emphasis
        texts = [f"**{_escaped(text)}**" if bold and text not in ("", "–") else _escaped(text) for text in row]
        lines.append(f"| {' | '.join(texts)} |")
    lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
