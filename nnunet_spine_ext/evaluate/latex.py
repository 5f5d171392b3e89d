"""Scores as LaTeX tables (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal
from zlib import crc32

from nnunet_spine_ext.evaluate.cord.metrics import EVERY_METRIC
from nnunet_spine_ext.evaluate.markdown import TITLES
from nnunet_spine_ext.evaluate.scoring import Score
from nnunet_spine_ext.evaluate.statistic import Statistic
from nnunet_spine_ext.evaluate.tables import Line, overall, summarise

Spread = Literal["mean", "median"]
HEAD = "% Needs \\usepackage{booktabs}.\n"
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    # Other glyphs in TeX's own encoding of fonts.
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # An empty line would end a caption in the middle.
    "\n": " ", "\r": " ", "\t": " ",
}  # fmt: skip
_NO_NAME = re.compile(r"[^A-Za-z0-9:.-]+")
ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "zero": r"$\rightarrow 0$"}
WORDS = {"mean": "Mean $\\pm$ standard deviation", "median": "Median [quartiles]"}


def escape(text: str) -> str:
    """Return text with LaTeX's special characters made harmless."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def digits(name: str) -> int:
    """Return how many decimals a metric deserves."""
    unit = EVERY_METRIC[name].unit if name in EVERY_METRIC else ""
    return 1 if unit == "%" else 2 if unit else 3


def head(name: str) -> str:
    """Return a column head: long name, unit, which way is better."""
    row = EVERY_METRIC.get(name)
    if row is None:
        return escape(name)
    unit = f" [{escape(row.unit)}]" if row.unit else ""
    return f"{escape(row.long_name)}{unit} {ARROWS[row.direction]}"


def cell(
    name: str,
    found: Statistic | None,
    spread: Spread,
    *,
    bold: bool = False,
    mark: str = "",
    places: int | None = None,
) -> str:
    """Return a value and its spread: mean and standard deviation, or median and quartiles; ``--`` without a value.

    `mark` is set high behind the value; `places` are decimals, by default those that the metric deserves.
    """
    middle = None if found is None else found.mean if spread == "mean" else found.median
    if found is None or middle is None:
        return "--"
    places = digits(name) if places is None else places
    value = f"{middle:.{places}f}"
    value = f"\\mathbf{{{value}}}" if bold else value
    value += f"^{{{mark}}}" if mark else ""
    if spread == "mean":
        return f"${value}$" if found.sd is None else f"${value} \\pm {found.sd:.{places}f}$"
    return f"${value}$ [${found.q1:.{places}f}$, ${found.q3:.{places}f}$]"


def best(name: str, values: Mapping[str, float | None]) -> set[str]:
    """Return the keys of the best values of a metric (several when they are equal); nothing for a single value."""
    known = {key: value for key, value in values.items() if value is not None}
    if len(known) < 2 or name not in EVERY_METRIC:
        return set()
    direction = EVERY_METRIC[name].direction
    goodness = {k: v if direction == "higher" else -v if direction == "lower" else -abs(v) for k, v in known.items()}
    top = max(goodness.values())
    return {key for key, value in goodness.items() if value == top}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """Return a table environment; cells and heads are LaTeX already, the first column is text, `label` a plain name."""
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption}}}",
        f"\\label{{tab:{_name(label)}}}",
        f"\\begin{{tabular}}{{l{'c' * (len(columns) - 1)}}}",
        "\\toprule",
        " & ".join([_guarded(columns[0]), *columns[1:]]) + r" \\",
        "\\midrule",
        *(" & ".join([_guarded(row[0]), *row[1:]]) + r" \\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _name(label: str) -> str:
    """Return a label as a name that TeX can build; what is harmless in text is not so there, and names stay apart."""
    name = _NO_NAME.sub("-", label)
    return name if name == label else f"{name}-{crc32(label.encode()):08x}"


def _guarded(cell: str) -> str:
    """Keep the first cell of a row from being read as an argument of the end of the row, or the rule, above."""
    return "{}" + cell if cell.lstrip()[:1] in ("[", "*") else cell


def evaluation(
    rows: Sequence[Score], by: Mapping[str, Mapping[str, Sequence[str]]], spread: Spread, n_cases: int
) -> str:
    """Return the tables of one evaluation: each scope, then each fact of `by` with the best value in bold."""
    parts = [HEAD]
    for scope, title in TITLES.items():
        shown = [line for line in summarise(rows, scope) if line.present]
        # Instances and classes of a region have different metrics: two tables.
        for kind in (True, False):
            lines = [line for line in shown if line.of_instances == kind]
            if lines:
                caption = f"{title}. {WORDS[spread]} over {n_cases} cases."
                parts.append(_of_lines(lines, spread, caption, f"{scope}-{'instances' if kind else 'labels'}"))
    for key, groups in by.items():
        parts.append(_of_groups(key, rows, groups, spread))
    return "\n".join(parts)


def _of_lines(lines: Sequence[Line], spread: Spread, caption: str, label: str) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line.metrics))
    body = [
        [escape(line.label), *(cell(name, line.metrics.get(name), spread) for name in names)] for line in lines
    ]  # fmt: skip
    return table(["", *(head(name) for name in names)], body, caption, label)


def _of_groups(key: str, rows: Sequence[Score], groups: Mapping[str, Sequence[str]], spread: Spread) -> str:
    """A line per metric (mean over classes, then kinds of instances), a column per value of the fact."""
    found: dict[tuple[str, str], dict[str, Statistic]] = {}
    for value, cases in groups.items():
        chosen = set(cases)
        mine = [row for row in rows if row.case in chosen]
        for name, statistic in overall(mine).items():
            found.setdefault(("all classes", name), {})[value] = statistic
        for line in summarise(mine, "group"):
            for name, statistic in line.metrics.items():
                found.setdefault((line.label, name), {})[value] = statistic
    body = []
    for (label, name), by_value in found.items():
        middles = {value: s.mean if spread == "mean" else s.median for value, s in by_value.items()}
        winners = best(name, middles)
        cells = [cell(name, by_value.get(value), spread, bold=value in winners) for value in groups]
        body.append([f"{escape(label)}: {head(name)}", *cells])
    columns = ["", *(f"{escape(value)} ($n={len(cases)}$)" for value, cases in groups.items())]
    return table(columns, body, f"By {escape(key)}. {WORDS[spread]} over cases; best in bold.", f"by-{key}")
