"""Numbers and results of tests in words, for tables in Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.evaluate.agreement import Equivalence, Limits
from nnunet_spine_ext.evaluate.anova import Anova


def number(value: float | None, places: int = 2, *, sign: bool = False) -> str:
    """Return a number with some decimals, a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:+.{places}f}" if sign else f"{value:.{places}f}"


def interval(bounds: tuple[float | None, float | None], places: int = 2) -> str:
    """Return bounds in brackets with a blank before them; nothing where there are none."""
    low, high = bounds
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f" [{low:.{places}f}, {high:.{places}f}]"


def p_value(value: float) -> str:
    """Return a p-value with three decimals."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def limits(found: Limits) -> str:
    """Return limits of agreement, each with its interval."""
    low, high = number(found.low), number(found.high)
    return f"{low}{interval(found.low_interval)} to {high}{interval(found.high_interval)}"


def verdict(found: Equivalence) -> str:
    """Return what the equivalence test says."""
    if found.equivalent is None:
        return f"– ({found.reason})"
    return f"{'yes' if found.equivalent else 'not shown'} (p {p_value(found.p)})"


def anova(found: Anova) -> str:
    """Return an analysis of variance in one sentence."""
    left_out = f"; {found.incomplete} incomplete left out" if found.incomplete else ""
    if found.reason:
        return f"not made: {found.reason}{left_out}"
    corrected = ""
    if found.conditions > 2:
        corrected = f"; Greenhouse-Geisser ε {number(found.epsilon)}, p {p_value(found.p_corrected)}"
    return (
        f"F({found.df}, {found.df_error}) = {number(found.f)}, p {p_value(found.p)}{corrected}; partial "
        f"η² {number(found.partial_eta_squared)}; {found.subjects} subjects with all {found.conditions} "
        f"contrasts{left_out}"
    )


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def csv_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV: all digits of numbers, nothing where there is none."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _csv_cell(value) for name, value in row.items()})
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value


def plain(value: Any) -> Any:
    """Return dataclasses, arrays and numbers as JSON has them; what is no finite number is None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dataclasses as one record: ``limits_low``; pairs of bounds become two columns."""
    record: dict[str, Any] = {}
    for one in fields(value):
        name, content = f"{prefix}{one.name}", getattr(value, one.name)
        if is_dataclass(content) and not isinstance(content, type):
            record |= flat(content, f"{name}_")
        elif isinstance(content, tuple) and len(content) == 2:
            record |= {f"{name}_low": content[0], f"{name}_high": content[1]}
        else:
            record[name] = content
    return record
