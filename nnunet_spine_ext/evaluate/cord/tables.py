"""An evaluation of areas as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.evaluate import latex
from nnunet_spine_ext.evaluate.cord import words
from nnunet_spine_ext.evaluate.cord.analysis import ALL, Against, ImageRow, PairRow, RangeAnalysis
from nnunet_spine_ext.evaluate.cord.areas import EVERYWHERE
from nnunet_spine_ext.evaluate.cord.metrics import EVERY_METRIC
from nnunet_spine_ext.evaluate.cord.pictures import slug
from nnunet_spine_ext.evaluate.markdown import cell

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.cord.evaluation import CordEvaluation

# csa.json is written last: where it is, the evaluation is complete.
FILES = ("csa.json", "csa.csv", "csa_subjects.csv", "csa_tests.csv", "csa.md", "csa.tex")
_IMAGE_COLUMNS = (
    "case", "subject", "contrast", "range", "csa", "csa_reference", "csa_error", "csa_absolute_error", "slices",
    "reference_slices", "csa_coverage", "dice", "assd", "relative_volume_error", "soft_relative_volume_error", "map",
    "status",
)  # fmt: skip
_SUBJECT_COLUMNS = ("subject", "range", "contrasts", "complete", "mean", "std", "reference_std")
_OWN_SLICES = (
    "All slices of an image count, whatever part of the cord it shows: contrasts that show different parts differ for "
    "that reason, too. `--level-range` compares the same levels."
)
_CORRECTIONS = {"holm": "Holm", "bonferroni": "Bonferroni", "none": "no"}
_SHOWN = (
    "csa", "csa_reference", "csa_error", "csa_absolute_error", "csa_coverage", "dice", "assd",
    "relative_volume_error", "soft_relative_volume_error",
)  # fmt: skip
_HEADS = {
    "csa": "CSA [mm²]", "csa_reference": "reference CSA [mm²]", "csa_error": "error [mm²]",
    "csa_absolute_error": "absolute error [mm²]", "csa_coverage": "coverage", "dice": "Dice", "assd": "ASD [mm]",
    "relative_volume_error": "RVE [%]", "soft_relative_volume_error": "soft RVE [%]",
}  # fmt: skip


def image_csv(rows: Sequence[ImageRow]) -> str:
    """Return one line per image and range."""
    records = [
        {
            "case": row.case, "subject": row.subject, "contrast": row.contrast, "range": row.range,
            "slices": row.slices, "reference_slices": row.reference_slices, "map": "soft" if row.soft else "hard",
            "status": row.status, **row.values(),
        }
        for row in rows
    ]  # fmt: skip
    return words.csv_of(records, _IMAGE_COLUMNS)


def subject_csv(found: Sequence[RangeAnalysis]) -> str:
    """Return one line per subject and range."""
    return words.csv_of([words.flat(row) for one in found for row in one.subject_rows], _SUBJECT_COLUMNS)


def pair_csv(rows: Sequence[PairRow]) -> str:
    """Return one line per pair of contrasts (or models), with everything that was computed about it."""
    records = [words.flat(row) for row in rows]
    return words.csv_of(records, list(records[0]) if records else ["range", "a", "b"])


def about(result: CordEvaluation) -> str:
    """Return what was measured and how, in words."""
    options = result.options
    divisor = "n − 1" if options["ddof"] else "n"
    known = "prediction and reference" if result.has_references else "the predictions"
    return (
        f"{len(result.summary.done)} images measured in mode `{options['mode']}`; areas are means over the slices of a "
        f"range that {known} share. The STD of a subject over its contrasts divides by {divisor} "
        f"(ddof {options['ddof']}). Contrasts are compared over subjects by two-sided Wilcoxon signed-rank tests, "
        f"{_CORRECTIONS[options['correction']]} correction over all of them; equivalence: two one-sided t tests with a "
        f"margin of ± {options['margin']:g} mm², p not corrected; ICC: two-way, single measurements, absolute "
        "agreement (A,1) and consistency (C,1). In brackets: 95 % intervals (bootstrap over subjects for means, t for "
        "the bias). Dice, ASD and volume errors are those of whole masks in every range. "
        "Cells: mean ± sd [interval] (n values; “−k”: k left out because there was nothing to compare or a distance "
        "was infinite)."
    )


def markdown(result: CordEvaluation) -> str:
    """Return the whole evaluation as Markdown."""
    parts = ["# Cross-sectional area of the cord", about(result)]
    for one in result.ranges:
        parts += _section(one, result)
    if result.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in result.notes)]
    return "\n\n".join(parts) + "\n"


def _section(one: RangeAnalysis, result: CordEvaluation) -> list[str]:
    parts = [f"## {one.name}", contrast_table(one)]
    if len(one.contrasts) > 1:
        parts += ["### Spread over contrasts", spread_table(one)]
        if one.name == EVERYWHERE:
            parts.append(_OWN_SLICES)
        parts += ["### Contrast against contrast", pair_table(one.pairs)]
        reasons = dict.fromkeys(pair.paired.reason for pair in one.pairs if pair.paired.reason)
        parts += [f"Not tested: {reason}." for reason in reasons]
    if result.has_references:
        parts += ["### Prediction against reference", against_table(one.against)]
    return parts


def contrast_table(one: RangeAnalysis) -> str:
    """Return the metrics of each contrast."""
    names = [name for name in _SHOWN if name in one.statistics[ALL] and one.statistics[ALL][name].n]
    rows = [
        [contrast, *(cell(found[name]) if name in found else "" for name in names)]
        for contrast, found in one.statistics.items()
        if contrast != ALL or len(one.contrasts) != 1
    ]
    return words.markdown_table(["contrast", *(_HEADS[name] for name in names)], rows)


def spread_table(one: RangeAnalysis) -> str:
    """Return the standard deviations over contrasts, the analysis of variance and the correlation."""
    complete = sum(row.complete for row in one.subject_rows)
    alone = sum(row.contrasts == 1 for row in one.subject_rows)
    named = {"": (one.std, one.reference_std)}
    if complete < len(one.subject_rows) - alone:
        # The contrast that a model fails on is missing, and the others agree better without it.
        named[f", only subjects with all {len(one.contrasts)}"] = (one.complete_std, one.complete_reference_std)
    rows = [
        *([f"STD across contrasts, predictions{which} [mm²]", cell(own)] for which, (own, _) in named.items()),
        *([f"STD across contrasts, references{which} [mm²]", cell(ref)] for which, (_, ref) in named.items() if ref.n),
        ["subjects", f"{len(one.subjects)}, {complete} with all {len(one.contrasts)} contrasts, {alone} with one only"],
        ["effect of the contrast (ANOVA for repeated measures)", words.anova(one.anova)],
        [
            "ICC(A,1) of the contrasts",
            words.number(one.icc.agreement, 3) + words.interval(one.icc.agreement_interval, 3),
        ],
        [
            "ICC(C,1) of the contrasts",
            words.number(one.icc.consistency, 3) + words.interval(one.icc.consistency_interval, 3),
        ],
    ]  # fmt: skip
    return words.markdown_table(["", "value"], rows)


def pair_table(pairs: Sequence[PairRow]) -> str:
    """Return one line per pair."""
    heads = ["a", "b", "pairs", "mean b − a [mm²]", "p", "p corrected", "d_z", "d_av", "limits of agreement [mm²]"]
    heads += ["equivalent", "line b(a)", "r²"]
    rows = []
    for pair in pairs:
        test = pair.paired
        mean = words.number(test.mean_difference, sign=True) + words.interval((test.ci_low, test.ci_high))
        line = "–" if pair.fit.n < 3 else f"{words.number(pair.fit.slope)} a {pair.fit.intercept:+.2f}"
        rows.append(
            [
                pair.a, pair.b, str(test.n), mean, words.p_value(test.p), words.p_value(pair.p_corrected),
                words.number(pair.effect.d_z), words.number(pair.effect.d_av), words.limits(pair.limits),
                words.verdict(pair.equivalence), line, words.number(pair.fit.r_squared, 3),
            ]
        )  # fmt: skip
    return words.markdown_table(heads, rows)


def against_table(rows: Sequence[Against]) -> str:
    """Return bias, limits of agreement, equivalence and correlation with the references by contrast."""
    heads = ["contrast", "images", "subjects", "bias [mm²]", "limits of agreement [mm²]", "equivalent"]
    heads += ["ICC(A,1)", "ICC(C,1)"]
    body = []
    for row in rows:
        found = row.limits
        body.append(
            [
                row.contrast, str(found.n), str(found.subjects),
                words.number(found.bias, sign=True) + words.interval(found.bias_interval), words.limits(found),
                words.verdict(row.equivalence),
                words.number(row.icc.agreement, 3) + words.interval(row.icc.agreement_interval, 3),
                words.number(row.icc.consistency, 3) + words.interval(row.icc.consistency_interval, 3),
            ]
        )  # fmt: skip
    return words.markdown_table(heads, body)


def tex(result: CordEvaluation, spread: latex.Spread) -> str:
    """Return a booktabs table per range: a line per contrast, and the STD over contrasts below."""
    parts = [latex.HEAD]
    for one in result.ranges:
        names = [n for n in _SHOWN if n in one.statistics[ALL] and one.statistics[ALL][n].n]
        columns = ["", *(latex.escape(_HEADS[name]).replace("²", "$^2$") for name in names)]
        body = [
            # An area has as many decimals as an error of it.
            [
                latex.escape(contrast),
                *(latex.cell(name if name in EVERY_METRIC else "csa_error", found.get(name), spread) for name in names),
            ]
            for contrast, found in one.statistics.items()
        ]
        deviation = latex.cell("csa_std", one.std, spread)
        caption = (
            f"Cord area, {latex.escape(one.name)}. {latex.WORDS[spread]} over images; standard deviation over the "
            f"contrasts of a subject (ddof {result.options['ddof']}): {deviation} mm$^2$ over {one.std.n} subjects."
        )
        parts.append(latex.table(columns, body, caption, f"csa-{slug(one.name)}"))
    return "\n".join(parts)


def to_json(found: Sequence[RangeAnalysis]) -> list[dict[str, Any]]:
    """Return the analyses as plain JSON (without NaN)."""
    return [words.plain(one) for one in found]
