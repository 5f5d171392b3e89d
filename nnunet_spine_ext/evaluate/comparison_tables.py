"""A comparison as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.evaluate import latex
from nnunet_spine_ext.evaluate.markdown import cell as markdown_cell
from nnunet_spine_ext.evaluate.markdown import head as markdown_head
from nnunet_spine_ext.evaluate.paired import ALPHA, MIN_PAIRS, stars

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.compare import Comparison
    from nnunet_spine_ext.evaluate.pairing import Row

# comparison.json is written last: where it is, the comparison is complete.
FILES = ("comparison.json", "comparison.csv", "comparison.md", "comparison.tex")
_NUMBERS = ("mean_difference", "median_difference", "ci_low", "ci_high", "rank_biserial", "statistic", "p")
_CORRECTIONS = {"holm": "Holm", "bonferroni": "Bonferroni", "none": "no"}


def records(result: Comparison, *, plain: bool = True) -> list[dict[str, Any]]:
    """Return one flat record per test; with `plain`, NaN and infinite numbers are None as JSON wants it."""
    found = []
    for row in result.rows:
        for k, test in enumerate(row.tests):
            record: dict[str, Any] = {**row.key._asdict(), "group": row.group}
            record |= {"a": result.names[0], "b": result.names[k + 1], "n": test.n}
            for side, statistic in (("a", row.statistics[0]), ("b", row.statistics[k + 1])):
                record |= {f"mean_{side}": statistic.mean, f"sd_{side}": statistic.sd}
                record |= {f"median_{side}": statistic.median}
            record |= {name: getattr(test, name) for name in _NUMBERS} | {"p_corrected": row.corrected[k]}
            record |= {"better": row.better(k), "reason": test.reason}
            record |= {"excluded_undefined": row.undefined, "excluded_infinite": row.infinite}
            found.append({name: _plain(value) if plain else value for name, value in record.items()})
    return found


def distributions(result: Comparison) -> list[dict[str, Any]]:
    """Return one flat record per key and folder: its values over the units that enter the tests."""
    return [
        {**row.key._asdict(), "group": row.group, "name": name, **asdict(found)}
        for row in result.rows
        for name, found in zip(result.names, row.statistics, strict=True)
    ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(result: Comparison, spread: latex.Spread) -> None:
    """Write the four files, comparison.json last."""
    write_text(result.out / "comparison.csv", _csv(result))
    write_text(result.out / "comparison.md", markdown(result))
    write_text(result.out / "comparison.tex", tables(result, spread))
    write_json(result.out / "comparison.json", result.to_dict())


def _csv(result: Comparison) -> str:
    stream = io.StringIO()
    rows = records(result, plain=False)
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: repr(value) if isinstance(value, float) else value for name, value in row.items()})
    return stream.getvalue()


def about(result: Comparison) -> str:
    """Return what was compared and how, in words."""
    options = result.options
    tests = sum(not math.isnan(p) for row in result.rows for p in row.corrected)
    unit = "subjects (their cases averaged)" if options["unit"] == "subject" else "cases"
    missing = "left out" if options["missing"] == "exclude" else "counted as empty predictions"
    return (
        f"{len(result.summary.done)} cases. Two-sided Wilcoxon signed-rank tests over {unit}, {tests} tests, "
        f"{_CORRECTIONS[options['correction']]} correction over all of them. Cases that a folder lacks are {missing}. "
        "Differences are the second one minus the first one; for metrics that should be zero they, the tests and the "
        "best value are those of absolute values. Rank-biserial correlation: positive when the second one is better. "
        f"Fewer than {MIN_PAIRS} pairs that differ are not tested."
    )


def markdown(result: Comparison) -> str:
    """Return the comparison as Markdown: a table per other folder, and notes."""
    parts = ["# Comparison", about(result)]
    for k, name in enumerate(result.names[1:]):
        parts += [f"## {result.names[0]} and {name}", _markdown_table(result, result.rows, k)]
    reasons = _reasons(result)
    if reasons:
        parts += ["## Not tested", "\n".join(f"- {reason}" for reason in reasons)]
    if result.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in result.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(result: Comparison, rows: Sequence[Row], k: int) -> str:
    group = [result.options["by"]] if result.options["by"] else []
    heads = [*group, "label", "metric", result.names[0], result.names[k + 1], "pairs", "median difference"]
    heads += ["mean difference [95 % interval]", "rank-biserial", "p", "p corrected", "better"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        test = row.tests[k]
        better = {"a": result.names[0], "b": result.names[k + 1], "": ""}[row.better(k)]
        cells = [row.group or "all"] if group else []
        cells += [row.key.label, markdown_head(row.key.metric), markdown_cell(row.statistics[0])]
        cells += [markdown_cell(row.statistics[k + 1]), str(test.n), _number(test.median_difference)]
        interval = "" if math.isnan(test.ci_low) else f" [{test.ci_low:.3f}, {test.ci_high:.3f}]"
        cells += [_number(test.mean_difference) + interval, _number(test.rank_biserial)]
        cells += [_p(test.p), _p(row.corrected[k]) + stars(row.corrected[k]), better]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _reasons(result: Comparison) -> list[str]:
    """Why tests were not made, each reason once with how often."""
    counts: dict[str, int] = {}
    for row in result.rows:
        for test in row.tests:
            if test.reason:
                counts[test.reason] = counts.get(test.reason, 0) + 1
    return [f"{reason} ({count} test{'' if count == 1 else 's'})" for reason, count in counts.items()]


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return ("−" if value < 0 else "") + "∞" if math.isinf(value) else f"{value:+.3f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def console(result: Comparison) -> str:
    """Return the significant differences, why tests were not made, what was left out, and where the tables are."""
    lines = [about(result)]
    found = 0
    for k, name in enumerate(result.names[1:]):
        for row in result.rows:
            if row.better(k):
                found += 1
                better = name if row.better(k) == "b" else result.names[0]
                where = row.key.label if row.group is None else f"{row.key.label} ({row.group})"
                sides = " and ".join(markdown_cell(row.statistics[side]) for side in (0, k + 1))
                lines.append(
                    f"{where}, {row.key.metric}: {better} is better ({result.names[0]}, {name}: {sides}; "
                    f"p {_p(row.corrected[k])})"
                )
    if not found:
        lines.append(f"No difference is significant (corrected p < {ALPHA}).")
    lines += [f"not tested: {reason}" for reason in _reasons(result)]
    lines += result.notes
    counts = f"{len(result.summary.done)} cases compared, {len(result.summary.failed)} left out"
    return "\n".join([*lines, f"{counts}; tables in {result.out}"])


def tables(result: Comparison, spread: latex.Spread) -> str:
    """Return a booktabs table per scope and metric: a line per label, a column per folder, the best value in bold."""
    parts = [latex.HEAD]
    kinds = dict.fromkeys((row.key.scope, row.key.metric, row.group) for row in result.rows)
    for scope, metric, group in kinds:
        rows = [r for r in result.rows if (r.key.scope, r.key.metric, r.group) == (scope, metric, group)]
        body = [_latex_row(result, row, spread) for row in rows if row.units]
        if not body:
            continue
        what = "" if group is None else f" ({latex.escape(str(result.options['by']))}: {latex.escape(group)})"
        caption = (
            f"{latex.head(metric)}{what}. {latex.WORDS[spread]} over {latex.escape(result.options['unit'])}s; best in "
            f"bold. Wilcoxon signed-rank test against {latex.escape(result.names[0])}, "
            f"{_CORRECTIONS[result.options['correction']]} correction: "
            "$^{*}p<0.05$, $^{**}p<0.01$, $^{***}p<0.001$."
        )
        label = "-".join(part for part in (scope, metric, group) if part)
        parts.append(latex.table(["", *map(latex.escape, result.names)], body, caption, label))
    return "\n".join(parts)


def _latex_row(result: Comparison, row: Row, spread: latex.Spread) -> list[str]:
    middles = {
        name: found.mean if spread == "mean" else found.median
        for name, found in zip(result.names, row.tested, strict=True)
    }
    winners = latex.best(row.key.metric, middles)
    marks = ["", *map(stars, row.corrected)]
    cells = [
        latex.cell(row.key.metric, found, spread, bold=name in winners, mark=mark)
        for name, found, mark in zip(result.names, row.statistics, marks, strict=True)
    ]
    return [latex.escape(row.key.label), *cells]
