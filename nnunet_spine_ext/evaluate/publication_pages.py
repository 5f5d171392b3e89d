"""The tables of Moeller et al. 2024 (SPINEPS) as CSV, Markdown and LaTeX, each with its definitions."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_spine_ext.evaluate import latex
from nnunet_spine_ext.evaluate.paired import MIN_PAIRS, stars
from nnunet_spine_ext.evaluate.publication_rows import SHORT, Cell, Column, Line, Part, Table
from nnunet_spine_ext.evaluate.registry import METRICS

_ARROWS = {"higher": "↑", "lower": "↓"}
_SUBJECTS = {
    2: "Whole structures, and vertebrae and discs one by one",
    3: "Whole structures and substructures of vertebrae",
    5: "Whole structures and substructures of vertebrae by region of the spine",
}
_ASSD = {
    "assd": "in mm between the surfaces (marching cubes), each element weighted by its area",
    "assd_voxel": "in mm between the centres of boundary voxels, each voxel counted once (panoptica, MedPy)",
    "assd_in_voxels": "in voxels between boundary voxels, each counted once, every edge of a voxel being 1 (panoptica "
    "without a voxel size)",
}
_CORRECTIONS = {"holm": "Holm's correction", "bonferroni": "Bonferroni's correction", "none": "no correction"}
# What the paper does not say; docs/how-to/evaluate.md has the same list.
LEFT_OPEN = (
    "whether means are over cases, or over the instances of all cases",
    "whether missed and spurious instances enter instance-wise DSC and ASSD (in panoptica they do not)",
    "whether the ASSD is in mm or in voxels (panoptica measures in voxels unless it is told their size)",
    "what a structure counts that one side does not have",
    "whether the vertebra holds its endplates, and the canal the cord",
    "whether p-values are corrected for their number (it tests DSC and RQ only)",
    "whether the regions of table 5 are scans (each subject has three) or parts of the spine, as they are here",
)
_PLAIN = {
    "≥": r"$\geq$", "±": r"$\pm$", "−": "$-$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", r" \textless{} ": " $<$ ",
}  # fmt: skip
_DAGGER = r"\dagger"
COLUMNS = (
    "table", "section", "structure", "metric", "name", "direction", "unit", "model", "region", "n", "mean", "sd",
    "median", "undefined", "infinite", "best", "pairs", "p", "p_corrected", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What captions say: folder names, numbers of cases and subjects, options of the run."""

    names: tuple[str, ...]
    cases: Mapping[str, int]
    subjects: int
    assd: str
    iou_threshold: float
    unit: str
    correction: str


def records(table: Table) -> list[dict[str, Any]]:
    """Return one flat record per cell; what could not be computed is None."""
    found = []
    for _, line, column, cell in table.cells():
        row, test = METRICS[line.metric], cell.tested
        values = (
            table.number, line.section, line.title, SHORT[line.metric], line.metric, row.direction, row.unit,
            column.name, column.region, cell.found.n, cell.found.mean, cell.found.sd, cell.found.median,
            cell.found.excluded_undefined, cell.found.excluded_infinite, cell.best,
            None if test is None else test.n, None if test is None else _number(test.p), _number(cell.p),
            "" if test is None else test.reason,
        )  # fmt: skip
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_csv(table: Table) -> str:
    """Return one line per cell of the table; what could not be computed is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in records(table):
        writer.writerow({name: repr(value) if isinstance(value, float) else value for name, value in row.items()})
    return stream.getvalue()


def caption(table: Table, facts: Facts) -> str:
    """Return what the numbers of a table are, in words."""
    counts = sorted(set(facts.cases.values()))
    cases = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{_SUBJECTS[table.number]}: mean ± standard deviation (n − 1) over {cases} case{'s' * (cases != '1')} of "
    text += f"{facts.subjects} subject{'s' * (facts.subjects != 1)}. "
    lines = [line for _, line, _, _ in table.cells()]
    text += "DSC: Dice similarity coefficient. "
    if any(SHORT[line.metric] == "ASSD" for line in lines):
        text += f"ASSD: average symmetric surface distance, {_ASSD[facts.assd]}. "
    if any(line.of_instances for line in lines):
        text += (
            "RQ, SQ, PQ: recognition, segmentation and panoptic quality; instances are matched one to one from an IoU "
            f"≥ {facts.iou_threshold:g} on. Instance-wise DSC, SQ and ASSD are means over the matched instances of a "
            "case, then over cases; without a match DSC and SQ are 0 and the ASSD is infinite. "
        )
    text += "IVD: intervertebral disc. (n, −k): n cases have a value, k do not (neither side has the structure, or "
    text += "the ASSD is infinite because one side lacks it: its DSC is 0). Missing predictions count as empty ones. "
    if table.number == 5:
        text += (
            "Regions: by the nearest instance of the reference; distances are those to the whole other surface. "
            "*: best region. "
        )
    elif len(facts.names) > 1:
        text += "*: best mean over the cases that all columns with a value have. "
    return text + _about_tests(table, facts)


def _about_tests(table: Table, facts: Facts) -> str:
    if len(facts.names) < 2:
        return ""
    where = " in the same region" if table.number == 5 else ""
    return (
        f"† p < 0.05, †† p < 0.01, ††† p < 0.001: two-sided Wilcoxon signed-rank test against {facts.names[0]}{where} "
        f"over {facts.unit}s, {_CORRECTIONS[facts.correction]} over the {table.tests} tests of this table (none with "
        f"fewer than {MIN_PAIRS} pairs that differ)."
    )


def _heads(part: Part, facts: Facts) -> list[str]:
    def head(column: Column) -> str:
        return f"{column.region.capitalize()} region" if column.region else column.name

    counts = set(facts.cases.values())
    return [
        head(column) if column.region or len(counts) == 1 else f"{head(column)} (n = {facts.cases[column.name]})"
        for column in part.columns
    ]


def _metric(line: Line) -> str:
    unit = METRICS[line.metric].unit
    return f"{_ARROWS[METRICS[line.metric].direction]} {SHORT[line.metric]}{f' [{unit}]' if unit else ''}"


def _marks(cell: Cell) -> tuple[str, str]:
    return ("*" if cell.best else ""), "†" * len(stars(cell.p))


def _counts(cell: Cell) -> str:
    left_out = cell.found.excluded_undefined + cell.found.excluded_infinite
    return f" ({cell.found.n}, −{left_out})" if left_out else ""


def _plain_cell(cell: Cell) -> str:
    found = cell.found
    if found.mean is None:
        return f"–{_counts(cell)}"
    spread = "" if found.sd is None else f" ± {found.sd:.3f}"
    # A bare asterisk would begin emphasis in Markdown.
    best, significant = _marks(cell)
    return f"{found.mean:.3f}{spread}{best and chr(92) + best}{significant}{_counts(cell)}"


def markdown(table: Table, facts: Facts) -> str:
    """Return the title, the table (or several), the caption and what the paper leaves open."""
    parts = [f"# Table {table.number}"]
    for part in table.parts:
        parts += [f"## {part.title}"] if part.title else []
        parts.append(markdown_table(part, facts))
    parts.append(caption(table, facts))
    parts += ["\n".join(f"- {remark}" for remark in table.remarks)] if table.remarks else []
    parts.append(
        f"Layout of table {table.number} in Möller et al. 2024 (SPINEPS). Its numbers need not be comparable: the "
        f"paper does not say {'; '.join(LEFT_OPEN)}."
    )
    return "\n\n".join(parts) + "\n"


def markdown_table(part: Part, facts: Facts) -> str:
    """Return one Markdown table, with a row for each heading."""
    heads = ["Structure", "Metric", *_heads(part, facts)]
    lines = [f"| {' | '.join(map(_no_bar, heads))} |", f"|{'---|' * len(heads)}"]
    above = Line("", "", "")
    for line, cells in part.rows:
        if line.section != above.section:
            lines.append(f"| **{line.section}** |{' |' * (len(heads) - 1)}")
        title = "" if (line.section, line.structure) == (above.section, above.structure) else line.title
        lines.append(f"| {' | '.join([_no_bar(title), _metric(line), *map(_plain_cell, cells)])} |")
        above = line
    return "\n".join(lines)


def _no_bar(text: str) -> str:
    return text.replace("|", "\\|")


def tex(table: Table, facts: Facts) -> str:
    """Return the table (or several) for LaTeX (booktabs)."""
    parts = [latex.HEAD + "".join(f"% The paper does not say {text}.\n" for text in LEFT_OPEN)]
    for k, part in enumerate(table.parts, start=1):
        heads = ["Structure", "Metric", *map(_tex_text, _heads(part, facts))]
        body: list[list[str]] = []
        above = Line("", "", "")
        for line, cells in part.rows:
            if line.section != above.section:
                body.append([f"\\textit{{{line.section}}}", *[""] * (len(heads) - 1)])
            title = "" if (line.section, line.structure) == (above.section, above.structure) else line.title
            body.append([_tex_text(title), _tex_text(_metric(line)), *(_tex_cell(line, cell) for cell in cells)])
            above = line
        before = f"{_tex_text(part.title)}. " if part.title else ""
        text = before + _tex_text(caption(table, facts))
        label = f"table{table.number}" + (f"-{k}" if len(table.parts) > 1 else "")
        parts.append(latex.table(heads, body, text, label))
    return "\n".join(parts)


def _tex_text(text: str) -> str:
    escaped = latex.escape(text)
    for letter, command in _PLAIN.items():
        escaped = escaped.replace(letter, command)
    return re.sub("†+", lambda marks: f"$^{{{_DAGGER * len(marks[0])}}}$", escaped)


def _tex_cell(line: Line, cell: Cell) -> str:
    best, significant = _marks(cell)
    mark = best + _DAGGER * len(significant)
    return latex.cell(line.metric, cell.found, "mean", mark=mark, places=3) + _tex_text(_counts(cell))
