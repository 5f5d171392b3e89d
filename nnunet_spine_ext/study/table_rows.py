"""Tables 1 to 4 of the paper, from what was measured, and three more: sample size, gap and loss, claims."""

from __future__ import annotations

import math
from typing import Any

from nnunet_spine_ext.study.claims import Claim, Goal
from nnunet_spine_ext.study.gap_effect import MEASURE_TITLES, MEASURES, component_gap
from nnunet_spine_ext.study.results import MEAN, Results, ScannerRow
from nnunet_spine_ext.study.shares import Outcome
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate, plain
from nnunet_spine_ext.study.strategies import STRATEGIES
from nnunet_spine_ext.study.tables import Column, Table

_INTERVALS = (
    "In brackets: 95 % intervals, percentile bootstrap over subjects; the same subjects are drawn for all numbers."
)
_FEW = "Fewer than 6 subjects: intervals are too narrow, and no test is made."


def tables(results: Results) -> tuple[Table, ...]:
    """Return tables 1 to 4, those of sample size and of gap and loss."""
    return (table1(results), table2(results), table3(results), table4(results), samples(results), gaps(results))


def _notes(results: Results, *more: str) -> tuple[str, ...]:
    cohort = results.cohort
    few = (_FEW,) if len(cohort.subjects) < 6 else ()
    seeds = f"{len(cohort.seeds)} seeds: values are means over seeds." if len(cohort.seeds) > 1 else "One seed."
    apart = () if cohort.crossed else ("Every scanner has subjects of its own: they are drawn within it.",)
    return (*more, _INTERVALS, seeds, *apart, *few)


def table1(results: Results) -> Table:
    """Return scanner by measured gap, Dice, ID rate and surface distance, without adaptation."""
    columns = (
        Column("scanner", "Scanner"), Column("role", "Role"), Column("subjects", "Subjects"),
        Column("cases", "Cases", wide=False), Column("failed", "Failed"),
        *(Column(m, MEASURE_TITLES[m], "estimate", 2, wide=True) for m in MEASURES),
        Column("ceiling_dice", MEASURE_TITLES["ceiling_dice"], "estimate"),
        Column("dice", "Dice", "estimate"), Column("drop", "Loss", "estimate"),
        Column("semantic_dice", "Dice of classes", "estimate", wide=False), Column("id_rate", "ID rate", "estimate"),
        Column("msd_mm", "MSD (mm)", "estimate", 2), Column("vertebrae", "Vertebrae", "number", 0, wide=False),
        Column("missing", "Missed", "number", 0), Column("dice_seed_sd", "SD over seeds", "number", 4),
    )  # fmt: skip
    rows = [_scanner(row) for row in results.scanners]
    strong = frozenset(k for k, row in enumerate(results.scanners) if row.role == "source")
    notes = _notes(
        results,
        "Gaps are measured between each image and the source; ratios are 1 where nothing differs.",
        _dice_text(results),
        "Resolution ceiling: Dice of the true mask, sampled to the scanner's voxels and back.",
        "Failed: predictions that stopped with an error. They count as empty masks (Dice 0) where cases.csv has a row "
        "of them with a Dice, and enter no mean otherwise.",
    )
    return Table(
        "table1", "Table 1: direct transfer to other scanners, no adaptation", columns, tuple(rows), notes, strong
    )


def _dice_text(results: Results) -> str:
    if results.cohort.study.of_vertebrae:
        return "Dice: mean over the true vertebrae, a missed one counts as 0; MSD over those that were found."
    return "No instance masks: Dice and MSD are means over classes, and there is no ID rate."


def _scanner(row: ScannerRow) -> dict[str, Any]:
    return {
        "scanner": row.name, "role": row.role, "subjects": row.subjects, "cases": row.cases, "failed": row.failed,
        **row.gaps, "dice": row.dice, "drop": row.drop, "semantic_dice": row.semantic_dice, "id_rate": row.id_rate,
        "msd_mm": row.msd_mm, "vertebrae": row.vertebrae, "missing": row.missing, "dice_seed_sd": row.seed_sd,
    }  # fmt: skip


def table2(results: Results) -> Table:
    """Return Dice by region and scanner without adaptation."""
    regions = results.cohort.region_names
    columns = (Column("scanner", "Scanner"), *(Column(r, r.capitalize(), "estimate") for r in regions))
    names = [row.name for row in results.scanners if row.name != MEAN]
    rows = [{"scanner": name, **{r: results.regions.get((name, r), UNKNOWN) for r in regions}} for name in names]
    note = "Mean Dice of the true vertebrae of each region; “–”: no such vertebra in the images, or not run."
    return Table(
        "table2", "Table 2: Dice by region of the spine and scanner, no adaptation", columns, tuple(rows),
        _notes(results, note), frozenset({0}) if names else frozenset(),
    )  # fmt: skip


def table3(results: Results) -> Table:
    """Return strategies by scanner, with mean, worst scanner, share of the gap and tests."""
    source, targets = results.cohort.study.source, results.cohort.study.targets
    columns = (
        Column("strategy", "Strategy"), Column("key", "key", wide=False), Column("n", "N", "text", wide=False),
        Column("needs", "Needs of the target"),
        *(Column(name, name, "estimate", 3, wide=name != source) for name in (source, *targets)),
        Column("targets", "Targets"), Column("mean", "Mean", "estimate"),
        Column("worst_scanner", "Worst scanner"), Column("worst", "Its Dice", "estimate"),
        Column("worst_decile", "Worst tenth", "estimate"),
        Column("id_rate", "ID rate", "estimate"), Column("msd_mm", "MSD (mm)", "estimate", 2),
        Column("share", "Share of the gap", "share"),
        Column("mean_of_shares", "Mean of shares", "share", wide=False), Column("gain", "Gain", "estimate", wide=False),
        Column("p", "p", wide=False), Column("p_holm", "p (Holm)"), Column("rank_biserial", "Effect", "number", 2),
        Column("pairs", "Pairs", wide=False), Column("source_change", "Change on the source", "estimate", 4),
        Column("cervical_lumbar", "Cervical-lumbar gap", "share", 2, wide=False),
        Column("seed_sd", "SD over seeds", "number", 4), Column("seconds", "s per case", "number", 1),
        Column("forward_passes", "Passes", "number", 1), Column("failed", "Failed", wide=False),
    )  # fmt: skip
    rows = tuple(_strategy(one, len(targets)) for one in results.outcomes)
    best = results.best()
    strong = frozenset(k for k, one in enumerate(results.outcomes) if best is not None and one.variant == best.variant)
    notes = _notes(
        results,
        "Share of the gap: (strategy - none) / (source - none), means over the targets on which both were run. "
        "“unstable”: the gap is too small, or not surely above 0, to divide by.",
        "p: two-sided Wilcoxon signed-rank test of strategy against none, one value per subject (mean over targets and "
        "seeds), Holm's correction over the strategies. Effect: rank-biserial correlation, 1: all subjects gain.",
        "Worst tenth: mean of the lowest tenth of all values (subject and target). Bold: the highest mean over all "
        "targets. “not run”: asked for, or in the paper, and not measured.",
        *_matching_notes(results),
    )
    return Table("table3", "Table 3: Dice by strategy and scanner", columns, rows, notes, strong)


def _matching_notes(results: Results) -> list[str]:
    """Return what matching did, in one sentence for all strategies that did the same."""
    found: dict[str, list[str]] = {}
    for one in results.outcomes:
        known = STRATEGIES.get(one.variant.strategy)
        if known is None or known.options.get("match", "none") == "none" or not math.isfinite(one.matched):
            continue
        quiet, matched = percentage(one.noise_reduced), percentage(one.matched)
        text = f"noise was reduced in {quiet}, intensities were matched in {matched}."
        if one.matched == 0:
            text += " Of matching, only less noise was measured." if one.noise_reduced else " Matching left all alone."
        found.setdefault(text, []).append(one.variant.title)
    return [f"{', '.join(titles)}: of the target scans that were predicted, {text}" for text, titles in found.items()]


def percentage(share: float) -> str:
    """Return a share (0 to 1) in percent; what is not quite none, or all, does not look like it."""
    if 0 < share < 0.01:
        return "less than 1 %"
    return "more than 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _strategy(one: Outcome, targets: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "strategy": one.variant.title, "key": one.variant.key, "n": one.variant.n, "needs": one.variant.needs,
        **one.dice, "targets": f"{len(one.scanners)} of {targets}", "mean": one.mean,
    }  # fmt: skip
    if not one.ran:
        return row
    row |= {
        "worst_scanner": one.worst_scanner, "worst": one.worst, "worst_decile": one.worst_decile,
        "id_rate": one.id_rate, "msd_mm": one.msd_mm,
        "seed_sd": one.seed_sd, "seconds": one.seconds, "forward_passes": one.passes, "failed": one.failed,
        "cervical_lumbar": one.region_gap,
    }  # fmt: skip
    if one.test is None:
        return row
    return row | {
        "share": one.share, "mean_of_shares": one.mean_of_shares, "gain": one.gain, "source_change": one.source_change,
        "p": one.test.text(corrected=False), "p_holm": one.test.text(), "rank_biserial": one.test.found.rank_biserial,
        "pairs": one.test.found.n,
    }  # fmt: skip


def table4(results: Results) -> Table:
    """Return the loss by single components and by pairs, with the interaction of each pair."""
    columns = (
        Column("component", "Component"), Column("kind", "Kind"), Column("severity", "Severity"),
        Column("scanner", "Profile"),
        *(Column(m, MEASURE_TITLES[m], "estimate", 2, wide=m == "quantile_distance") for m in MEASURES),
        Column("dice", "Dice", "estimate"), Column("drop", "Loss", "estimate"),
        Column("sum_of_parts", "Sum of the parts", "estimate"), Column("interaction", "Interaction", "estimate"),
        Column("reading", "Reading"),
    )  # fmt: skip
    rows = []
    for drop in results.drops:
        pair = len(drop.place.parts) == 2
        name = "+".join(drop.place.parts)
        row: dict[str, Any] = {
            "component": drop.title, "kind": "pair" if pair else "single", "severity": drop.place.severity,
            "scanner": drop.place.scanner, "dice": drop.dice, "drop": drop.drop,
            **{m: component_gap(results.cohort, m, name) for m in MEASURES},
        }  # fmt: skip
        if pair:
            row |= {"sum_of_parts": drop.sum_of_parts, "interaction": drop.interaction}
            row["reading"] = _reading(drop.interaction)
        rows.append(row)
    nothing = () if rows else ("No components were measured in this study.",)
    notes = _notes(
        results,
        *nothing,
        "Loss: Dice of the source minus that with parts of the profile, at the severity given (1: the profile).",
        "Interaction: loss of the pair minus the sum of the losses of its parts; above 0 they compound.",
    )
    return Table("table4", "Table 4: what single components and pairs of them cost", columns, tuple(rows), notes)


def _reading(interaction: Estimate) -> str:
    if not interaction.known:
        return "parts not measured"
    if math.isnan(interaction.low):
        return "too few"
    return "compound" if interaction.low > 0 else "overlap" if interaction.high < 0 else "add up"


def samples(results: Results) -> Table:
    """Return Dice by number of annotated target samples, with what the fitted power law says."""
    columns = (
        Column("strategy", "Strategy"), Column("scanner", "Scanner"), Column("n", "N"),
        Column("dice", "Dice", "estimate"), Column("share", "Share of the gap", "share"),
        Column("fitted", "Fit", "number"), Column("dice_seed_sd", "SD over seeds", "number", 4),
    )  # fmt: skip
    rows, notes = [], []
    for curve in results.samples:
        fitted = curve.fit.at([p.n for p in curve.points])[0]
        for point, value in zip(curve.points, fitted, strict=True):
            rows.append(
                {
                    "strategy": curve.strategy, "scanner": curve.scanner, "n": point.n, "dice": point.dice,
                    "share": point.share if point.n else None, "fitted": float(value), "dice_seed_sd": point.seed_sd,
                }
            )  # fmt: skip
        notes.append(f"{curve.strategy} on {curve.scanner}: {fit_text(curve.fit)}")
    if not rows:
        notes.append("No curve of sample size was measured in this study.")
    return Table("samples", "Dice by number of annotated target samples", columns, tuple(rows), _notes(results, *notes))


def fit_text(fit: Any) -> str:
    """Return the power law in one line, or why there is none."""
    if not fit.converged:
        return f"no power law: {fit.reason}."
    share = plain(fit.converged_share)
    often = "" if share is None or share >= 1 else f"; {100 * share:.0f} % of the resamples converged"
    return (
        f"Dice(N) = a - b (N + 1)^-c with a = {fit.a.text()}, b = {fit.b.text()}, c = {fit.c.text(2)}{often}; "
        f"root mean square error {fit.rmse:.4f}."
    )


def gaps(results: Results) -> Table:
    """Return how well each gap measure tells the loss of Dice."""
    columns = (
        Column("measure", "Gap"), Column("pearson", "Pearson r", "estimate", 2),
        Column("spearman", "Spearman r", "estimate", 2), Column("pearson_cases", "r of subjects", "estimate", 2),
        Column("spearman_cases", "Rank r of subjects", "estimate", 2), Column("slope", "Loss per unit", "estimate"),
        Column("r_squared", "R²", "estimate", 2), Column("bend", "Bend", "estimate"),
        Column("linearity", "Dice = a - b gap?"),
    )  # fmt: skip
    rows = []
    for effect in results.gaps:
        line = effect.line
        row: dict[str, Any] = {
            "measure": effect.measure, "pearson": effect.pearson, "spearman": effect.spearman,
            "pearson_cases": effect.pearson_cases, "spearman_cases": effect.spearman_cases, "linearity": "too few",
        }  # fmt: skip
        if line is not None:
            row |= {"slope": line.slope, "r_squared": line.r_squared, "bend": line.bend, "linearity": line.verdict}
        rows.append(row)
    notes = _notes(
        results,
        "Ratios enter as the absolute logarithm to base 2: 0 is no gap, 1 is half or twice.",
        "Pearson and Spearman: means of the targets; “of subjects”: every subject on every target.",
        "Bend: coefficient of the squared gap in a second-order fit; where its interval excludes 0, no line fits.",
    )
    return Table("gaps", "Does the measured gap tell the loss of Dice?", columns, tuple(rows), notes)


def claims_table(found: tuple[Claim, ...]) -> Table:
    """Return the paper's statements beside this study's."""
    words = {True: "yes", False: "no", None: ""}
    columns = (
        Column("subject", "Statement"), Column("paper", "The paper (by a formula)"), Column("here", "Here (measured)"),
        Column("agrees", "Agrees"),
    )  # fmt: skip
    rows = tuple({"subject": c.subject, "paper": c.paper, "here": c.here, "agrees": words[c.agrees]} for c in found)
    notes = (
        "Numbers agree where the interval here holds the paper's, the ratio of regions where it is above 1 as there, "
        "lines where they do not bend and Dice surely falls, orders and names where they are the same.",
        "Empty: it cannot be told, or the paper has no number to compare with.",
    )
    return Table("claims", "What the paper says, and what was measured", columns, rows, notes)


def goals_table(found: tuple[Goal, ...]) -> Table:
    """Return the goals with what was reached."""
    columns = (Column("goal", "Goal"), Column("measured", "Measured"), Column("status", "Status"), Column("where", ""))
    rows = tuple({"goal": g.text, "measured": g.measured, "status": g.status, "where": g.where} for g in found)
    return Table("goals", "Goals", columns, rows, ("Reached or missed by the value itself, not by its interval.",))
