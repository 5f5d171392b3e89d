"""Tables of cross-sections as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import write_text
from nnunet_spine_ext.core.volume import Array


def csv_text(
    tables: Sequence[Mapping[str, Array]],
    path: str | Path | None = None,
    *,
    before: Sequence[Mapping[str, str]] | None = None,
) -> str:
    """Return tables of equal columns as one CSV, and write it atomically if a path is given.

    Parameters
    ----------
    tables: name to array (n,), NaN becomes an empty cell; numbers are written with all their digits.
    before: per table, constant columns to put in front, for example the case.
    """
    fronts = [{} for _ in tables] if before is None else before
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, (front, table) in enumerate(zip(fronts, tables, strict=True)):
        if number == 0:
            writer.writerow([*front, *table])
        writer.writerows([*front.values(), *map(_cell, row)] for row in zip(*table.values(), strict=True))
    text = stream.getvalue()
    if path is not None:
        write_text(path, text)
    return text


def _cell(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float):
        if math.isnan(plain):
            return ""
        return str(int(plain)) if plain.is_integer() and abs(plain) < 1e15 else repr(plain)
    return str(plain)
