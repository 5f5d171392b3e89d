"""Figures of an evaluation that are drawings: the heat map of the paper's figure 11, Dice by method and vendor."""

from __future__ import annotations

from typing import Any

from nnunet_spine_ext.harmonize.selection import FeatureSelection
from nnunet_spine_ext.harmonize.selection_plots import correlation_plot, variation_plot
from nnunet_spine_ext.render.charts import Axis, Mark, MarkRow, heat_map, mark_rows
from nnunet_spine_ext.study.figures import Figure
from nnunet_spine_ext.study.harmonization.arms import FULL, NONE, arm_title
from nnunet_spine_ext.study.harmonization.results import Results
from nnunet_spine_ext.study.tables import Column, Table

# Methods of the paper's figure 11.
_COMPARED = (NONE, "nyul", "cyclegan", FULL)
_MEAN = 6


def figures(results: Results, selection: FeatureSelection | None) -> tuple[Figure, ...]:
    """Return the drawings, in the order of the paper's figures; what was not measured is said in its place."""
    chosen = () if selection is None else (figure7(selection), figure8(selection))
    return (*chosen, figure11(results), dice_figure(results))


def figure7(selection: FeatureSelection) -> Figure:
    """Return the coefficients of variation over target slices."""
    columns = (Column("feature", "feature"), Column("variation", "CV", "number"), Column("chosen", "chosen"))
    rows = [
        {"feature": name, "variation": value, "chosen": _state(selection, name)}
        for name, value in sorted(selection.variation.items(), key=lambda one: one[1])
    ]
    title = "Which features vary least between target slices"
    caption = f"Coefficient of variation over {selection.n} slices of the target."
    return Figure("figure7", title, caption, lambda titled: variation_plot(selection, titled=titled),
                  Table("figure7", title, columns, tuple(rows)))  # fmt: skip


def _state(selection: FeatureSelection, name: str) -> str:
    if name in selection.names:
        return "chosen"
    return f"correlates with {selection.dropped[name]}" if name in selection.dropped else ""


def figure8(selection: FeatureSelection) -> Figure:
    """Return the correlations of the features with the lowest variation."""
    columns = (Column("feature", "feature"), *(Column(name, name, "number") for name in selection.top))
    rows = tuple(
        {"feature": name, **dict(zip(selection.top, row, strict=True))}
        for name, row in zip(selection.top, selection.correlation, strict=True)
    )
    title = "Which of them say the same"
    caption = f"From the lowest variation upwards, one that correlates above {selection.limit:g} is left out."
    return Figure("figure8", title, caption, lambda titled: correlation_plot(selection, titled=titled),
                  Table("figure8", title, columns, rows))  # fmt: skip


def figure11(results: Results) -> Figure:
    """Return the heat map of relative errors: methods of every vendor by features."""
    title = "Relative error of radiomic features"
    groups = [("all", results.others), *((name, (name,)) for name in results.others)]
    arms = [name for name in _COMPARED if name in results.arms]
    names: list[str] = []
    values: list[list[float]] = []
    tips: list[list[str]] = []
    data: list[dict[str, Any]] = []
    for vendor, members in groups:
        for arm in arms:
            found = {feature: results.error(arm, feature, members) for feature in results.features}
            names.append(f"{vendor}: {_short(arm)}")
            values.append([one.value for one in found.values()])
            tips.append([f"{vendor}, {arm_title(arm)}, {feature}: {one.text()}" for feature, one in found.items()])
            data += [{"vendor": vendor, "arm": arm, "feature": f, "error": one} for f, one in found.items()]
    columns = (Column("vendor", "vendor"), Column("arm", "arm"), Column("feature", "feature"),
               Column("error", "relative error", "estimate"))  # fmt: skip
    caption = (
        "Against the weakly paired target slice, mean over patients; paler is nearer to the target, where the map of "
        "the paper is dark."
    )
    if not results.features:
        caption = "Not measured."
    return Figure(
        "figure11", title, caption,
        lambda titled: heat_map(names, results.features, values, Axis("relative error"), title, tips=tips,
                                titled=titled),
        Table("figure11", title, columns, tuple(data)),
    )  # fmt: skip


def _short(arm: str) -> str:
    return {NONE: "as it is", "nyul": "Nyúl", "cyclegan": "CycleGAN", FULL: "+RF +Seg"}.get(arm, arm)


def dice_figure(results: Results) -> Figure:
    """Return Dice by method, one mark per vendor."""
    title = "Dice by method and vendor"
    shown = results.others[:_MEAN]
    series = [*enumerate(shown), (_MEAN, "all but the target")]
    rows, data = [], []
    for arm in results.arms:
        marks = []
        for number, name in series:
            members = results.others if number == _MEAN else (name,)
            dice = results.estimate(results.overlap(arm, "dice", members))
            marks.append(Mark(number, dice.value, dice.low, dice.high))
            data.append({"arm": arm, "vendor": name, "dice": dice})
        rows.append(MarkRow(arm_title(arm), tuple(marks)))
    base = results.estimate(results.overlap(NONE, "dice", results.target)).value
    columns = (Column("arm", "arm"), Column("vendor", "vendor"), Column("dice", "Dice", "estimate"))
    return Figure(
        "dice", title, "Soft Dice of the target's segmenter, with 95 % intervals over patients.",
        lambda titled: mark_rows(rows, series, Axis("Dice", "", None, 1.0), title,
                                 reference=(base, "target, as it is"), titled=titled),
        Table("dice", title, columns, tuple(data)),
    )  # fmt: skip
