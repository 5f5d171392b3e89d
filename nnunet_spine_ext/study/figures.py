"""Figures 1 to 6 of the paper, from what was measured, and a seventh: loss over measured gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.render.charts import Axis, Bar, Mark, MarkRow, bars, heat_map, mark_rows
from nnunet_spine_ext.render.curves import Curve, Panel, Point, curves, scatters
from nnunet_spine_ext.render.drawing import Drawing
from nnunet_spine_ext.study.cohort import NONE, Variant
from nnunet_spine_ext.study.gap_effect import MEASURE_TITLES, as_gap, gap_values
from nnunet_spine_ext.study.measured import SCANNER, Condition
from nnunet_spine_ext.study.results import MEAN, Results
from nnunet_spine_ext.study.sample_size import SampleCurve
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate
from nnunet_spine_ext.study.tables import Column, Table

DICE = Axis("Dice", "", None, 1.0)
FROM_ZERO = Axis("Dice", "", 0.0, 1.0)
_KNOWN_SCANNERS = {
    "nako-siemens-3t": "NAKO Siemens 3T",
    "philips-3t": "Philips 3T",
    "ge-3t": "GE 3T",
    "siemens-1.5t": "Siemens 1.5T",
    "ge-1.5t": "GE 1.5T",
    "philips-1.5t": "Philips 1.5T",
}
# The last colour and mark are those of a mean.
_MEAN = 6
_SCANNERS_SHOWN = 6


@dataclass(frozen=True)
class Figure:
    """One figure: name of its files, title, what it shows, how it is drawn (with its title or not), and its numbers."""

    slug: str
    title: str
    caption: str
    draw: Callable[[bool], Drawing]
    data: Table


def scanner_title(name: str) -> str:
    """Return a scanner as a reader knows it; domains of other studies keep their name."""
    return _KNOWN_SCANNERS.get(name, name)


def figures(results: Results) -> tuple[Figure, ...]:
    """Return the figures; what was not measured is said in its place."""
    return (
        figure1(results), figure2(results), figure3(results), figure4(results), figure5(results), figure6(results),
        figure7(results),
    )  # fmt: skip


def _data(slug: str, title: str, columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> Table:
    return Table(slug, title, columns, tuple(rows))


def figure1(results: Results) -> Figure:
    """Return bars of Dice by scanner without adaptation."""
    title = "Dice by scanner, no adaptation"
    shown = [row for row in results.scanners if row.name != MEAN]
    rows = [
        Bar(scanner_title(r.name), r.dice.value, r.dice.low, r.dice.high, 0 if r.role == "source" else 1, r.dice.note)
        for r in shown
    ]
    columns = (Column("scanner", "scanner"), Column("role", "role"), Column("dice", "Dice", "estimate"))
    data = [{"scanner": r.name, "role": r.role, "dice": r.dice} for r in shown]
    return Figure(
        "figure1", title, "Mean Dice of the true vertebrae; blue: source, orange: targets; 95 % intervals.",
        lambda titled: bars(rows, FROM_ZERO, title, titled=titled), _data("figure1", title, columns, data),
    )  # fmt: skip


def figure2(results: Results) -> Figure:
    """Return strategies by scanner; strategies that were not run have an empty row that says so."""
    title = "Dice by strategy and target scanner"
    targets = results.cohort.study.targets
    # More scanners than marks: the mean alone, the table has all.
    shown = targets if len(targets) <= _SCANNERS_SHOWN else ()
    series = [*((k, scanner_title(name)) for k, name in enumerate(shown)), (_MEAN, "mean of targets")]
    rows, data = [], []
    for one in results.outcomes:
        marks = [Mark(k, one.dice[n].value, one.dice[n].low, one.dice[n].high) for k, n in enumerate(shown)]
        # A mean over fewer scanners would not be comparable with the others.
        whole = one.scanners == results.none.scanners
        mean = one.mean if whole else UNKNOWN
        marks.append(Mark(_MEAN, mean.value, mean.low, mean.high))
        rows.append(MarkRow(one.variant.title, tuple(marks), one.mean.note if not one.ran else ""))
        for name in (results.cohort.study.source, *targets):
            note = one.dice[name].note
            data.append({"strategy": one.variant.key, "scanner": name, "dice": one.dice[name], "note": note})
        data.append({"strategy": one.variant.key, "scanner": MEAN, "dice": mean, "note": "" if whole else "incomplete"})
    base = results.none.dice[results.cohort.study.source].value
    columns = (
        Column("strategy", "strategy"), Column("scanner", "scanner"), Column("dice", "Dice", "estimate"),
        Column("note", "note"),
    )  # fmt: skip
    line = (base, "source, no adaptation")
    return Figure(
        "figure2", title, "One mark per target scanner and their mean, with 95 % intervals. Rows without a mark were "
        "not run; a mean is shown where all targets were.",
        lambda titled: mark_rows(rows, series, DICE, title, reference=line, titled=titled),
        _data("figure2", title, columns, data),
    )  # fmt: skip


def figure3(results: Results) -> Figure:
    """Return bars of the loss by component and by pair."""
    title = "Loss of Dice by component of the shift"
    severities = {d.place.severity for d in results.drops}
    rows, data = [], []
    for drop in results.drops:
        pair = len(drop.place.parts) == 2
        at = f" × {drop.place.severity}" if len(severities) > 1 and drop.place.severity else ""
        rows.append(
            Bar(
                drop.title + at, drop.drop.value, drop.drop.low, drop.drop.high, 4 if pair else 0,
                mark=drop.sum_of_parts.value,
            )
        )  # fmt: skip
        data.append(
            {
                "components": "+".join(drop.place.parts), "severity": drop.place.severity,
                "scanner": drop.place.scanner, "drop": drop.drop, "sum_of_parts": drop.sum_of_parts,
                "interaction": drop.interaction,
            }
        )  # fmt: skip
    rows = rows or [Bar("components", math.nan, note="not measured in this study")]
    columns = (
        Column("components", "components"), Column("severity", "severity"), Column("scanner", "profile"),
        Column("drop", "loss", "estimate"), Column("sum_of_parts", "sum", "estimate"),
        Column("interaction", "interaction", "estimate"),
    )  # fmt: skip
    axis = Axis("Loss of Dice against the source")
    mark = "sum of the parts" if any(math.isfinite(row.mark) for row in rows) else ""
    return Figure(
        "figure3", title, "Blue: one component; yellow: two at once, with a black line where the losses of both alone "
        "add up to; 95 % intervals.",
        lambda titled: bars(rows, axis, title, mark=mark, titled=titled), _data("figure3", title, columns, data),
    )  # fmt: skip


def figure4(results: Results) -> Figure:
    """Return Dice per vertebra: source, worst target unadapted, the same with the best strategy."""
    cohort = results.cohort
    worst = results.none.worst_scanner
    best = results.best()
    chosen: list[tuple[str, Variant, str, int]] = [("source, no adaptation", NONE, cohort.study.source, 0)]
    if worst:
        chosen.append((f"{scanner_title(worst)}, no adaptation", NONE, worst, 1))
    if worst and best is not None:
        chosen.append((f"{scanner_title(worst)}, {best.variant.title}", best.variant, worst, 2))
    names = cohort.level_names
    shown, data = [], []
    for title, variant, scanner, series in chosen:
        found = level_means(results, variant, scanner)
        points = tuple(Point(k, found[n].value, found[n].low, found[n].high) for k, n in enumerate(names) if n in found)
        shown.append(Curve(title, series, points))
        data += [
            {"level": n, "strategy": variant.key, "scanner": scanner, "dice": found[n]} for n in names if n in found
        ]
    columns = (
        Column("level", "level"), Column("strategy", "strategy"), Column("scanner", "scanner"),
        Column("dice", "Dice", "estimate"),
    )  # fmt: skip
    heading = "Dice per vertebra"
    ticks = [(float(k), name) for k, name in enumerate(names)]
    axis = Axis("Vertebra, from head to tail")
    return Figure(
        "figure4", heading, "The source, the target with the lowest Dice, and that with the strategy of the highest "
        "mean over all targets; 95 % intervals.",
        lambda titled: curves(shown, ticks, axis, DICE, heading, titled=titled),
        _data("figure4", heading, columns, data),
    )  # fmt: skip


def level_means(results: Results, variant: Variant, scanner: str) -> Mapping[str, Estimate]:
    """Return Dice by vertebra of a strategy on a scanner."""
    cohort, wanted = results.cohort, Condition(variant.strategy, scanner, SCANNER, n=variant.n)
    return {
        level: cohort.draws.estimate(cohort.draws.curve(values))
        for (condition, level), values in cohort.levels.items()
        if condition == wanted and np.isfinite(values).any()
    }


def figure5(results: Results) -> Figure:
    """Return Dice over the number of annotated samples, with the fitted power law."""
    title = "Dice by number of annotated target samples"
    shown: list[Curve] = []
    data: list[dict[str, Any]] = []
    sizes = sorted({p.n for curve in results.samples for p in curve.points} | set(results.cohort.study.samples))
    for number, curve in enumerate(results.samples):
        shown += _sample_curves(curve, number)
        fitted = curve.fit.at([p.n for p in curve.points])[0]
        data += [
            {"strategy": curve.strategy, "scanner": curve.scanner, "n": p.n, "dice": p.dice, "fitted": float(value)}
            for p, value in zip(curve.points, fitted, strict=True)
        ]
    columns = (
        Column("strategy", "strategy"), Column("scanner", "scanner"), Column("n", "N"),
        Column("dice", "Dice", "estimate"), Column("fitted", "fit", "number"),
    )  # fmt: skip
    source = results.samples[0].source.value if results.samples else math.nan
    ticks = [(_place(n), str(n)) for n in sizes] or [(0.0, "0")]
    axis = Axis("Annotated target samples N (logarithm of N + 1)")
    caption = "Marks: measured, with 95 % intervals; line and band: Dice(N) = a - b (N + 1)^-c and its interval. "
    caption += " ".join(
        f"No fit for {c.strategy} on {scanner_title(c.scanner)}: {c.fit.reason}."
        for c in results.samples if not c.fit.converged
    ) if results.samples else "Not measured in this study."  # fmt: skip
    return Figure(
        "figure5", title, caption.strip(),
        lambda titled: curves(shown, ticks, axis, DICE, title, reference=(source, "source"), titled=titled),
        _data("figure5", title, columns, data),
    )  # fmt: skip


def _place(n: float) -> float:
    return math.log10(n + 1)


def _sample_curves(curve: SampleCurve, number: int) -> list[Curve]:
    """The measured points, and the fit as a line with its band."""
    series = number % _MEAN
    points = tuple(Point(_place(p.n), p.dice.value, p.dice.low, p.dice.high) for p in curve.points)
    name = f"{curve.strategy} on {scanner_title(curve.scanner)}"
    found = [Curve(name, series, points, joined=not curve.fit.converged)]
    if curve.fit.converged and len(curve.points) > 1:
        fine = np.expm1(np.linspace(0.0, math.log(curve.points[-1].n + 1), 61))
        values = curve.fit.at(fine.tolist())
        line = tuple(Point(_place(n), float(v)) for n, v in zip(fine, values[0], strict=True))
        drawn = values[1:][np.isfinite(values[1:, 0])]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) > 1 else (values[0], values[0])
        band = tuple((_place(n), float(a), float(b)) for n, a, b in zip(fine, low, high, strict=True))
        found.insert(0, Curve("", series, line, marked=False, band=band))
    return found


def figure6(results: Results) -> Figure:
    """Return the heat map of Dice by region and scanner."""
    title = "Dice by region and scanner, no adaptation"
    regions = results.cohort.region_names
    names = [row.name for row in results.scanners if row.name != MEAN]
    found = [[results.regions.get((name, region), UNKNOWN) for region in regions] for name in names]
    values = [[one.value for one in row] for row in found]
    tips = [
        [f"{scanner_title(n)}, {region}: {one.text()}" for region, one in zip(regions, row, strict=True)]
        for n, row in zip(names, found, strict=True)
    ]
    columns = (Column("scanner", "scanner"), Column("region", "region"), Column("dice", "Dice", "estimate"))
    data = [
        {"scanner": n, "region": region, "dice": one}
        for n, row in zip(names, found, strict=True)
        for region, one in zip(regions, row, strict=True)
    ]
    heads = [region.capitalize() for region in regions]
    shown = [scanner_title(name) for name in names]
    return Figure(
        "figure6", title, "Mean Dice of the true vertebrae of a region; darker is higher; a dash: none there.",
        lambda titled: heat_map(shown, heads, values, Axis("Dice"), title, tips=tips, titled=titled),
        _data("figure6", title, columns, data),
    )  # fmt: skip


def figure7(results: Results) -> Figure:
    """Return Dice over each measured gap, one mark per scanner, with the line through them."""
    title = "Dice over the measured gap"
    cohort, source = results.cohort, results.cohort.study.source
    names = (source, *cohort.study.targets)
    number = {name: _MEAN if name == source else k % _MEAN for k, name in enumerate(cohort.study.targets)}
    number[source] = _MEAN
    panels, data = [], []
    for effect in results.gaps:
        arrays = gap_values(cohort, effect.measure)
        ratio = effect.measure.endswith("_ratio")
        points = []
        for name in (n for n in names if n in arrays):
            dice = results.none.dice[name]
            gap = cohort.draws.estimate(cohort.draws.curve(as_gap(effect.measure, arrays[name])))
            points.append((number[name], Point(gap.value, dice.value, dice.low, dice.high, gap.low, gap.high)))
            data.append({"measure": effect.measure, "scanner": name, "gap": gap, "dice": dice})
        line = None if effect.line is None else (-effect.line.slope.value, effect.line.intercept.value)
        r = effect.pearson.text(2) if effect.pearson.known else "too few"
        what = f"{MEASURE_TITLES[effect.measure]}{', |log2|' if ratio else ''}"
        panels.append(Panel(Axis(what, "", 0.0), tuple(points), f"r = {r}", line))
    series = [(number[name], scanner_title(name)) for name in names]
    columns = (
        Column("measure", "measure"), Column("scanner", "scanner"), Column("gap", "gap", "estimate"),
        Column("dice", "Dice", "estimate"),
    )  # fmt: skip
    caption = "One mark per scanner with 95 % intervals; r: Pearson's correlation of gap and loss over the targets."
    if not panels:
        caption = "No gap was measured in this study."
    return Figure(
        "figure7", title, caption, lambda titled: scatters(panels, DICE, series, title, titled=titled),
        _data("figure7", title, columns, data),
    )  # fmt: skip
