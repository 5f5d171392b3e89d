"""A comparison of two models' areas as CSV, JSON, Markdown and pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.evaluate.cord import words
from nnunet_spine_ext.evaluate.cord.analysis import ALL
from nnunet_spine_ext.evaluate.cord.pictures import bands_of, slug
from nnunet_spine_ext.render.agreement import Points, bland_altman, violins
from nnunet_spine_ext.render.drawing import Drawing
from nnunet_spine_ext.render.plots import Group
from nnunet_spine_ext.render.scales import Axis

if TYPE_CHECKING:
    from nnunet_spine_ext.evaluate.cord.drift import DriftGroup, DriftReport, DriftRow

# csa_drift.json is written last: where it is, the report is complete.
FILES = ("csa_drift.json", "csa_drift.csv", "csa_drift_tests.csv", "csa_drift.md")
_COLUMNS = (
    "case", "subject", "contrast", "range", "a", "b", "difference", "reference", "slices", "a_slices", "b_slices",
    "both_slices", "changed",
)  # fmt: skip
_UNIT = "mm²"
_LISTED = 30
_CORRECTIONS = {"holm": "Holm", "bonferroni": "Bonferroni", "none": "no"}


def image_csv(report: DriftReport) -> str:
    """Return one line per image and range."""
    changed = set(map(_key, report.changed))
    records = [words.flat(row) | {"difference": row.difference, "changed": _key(row) in changed} for row in report.rows]
    return words.csv_of(records, _COLUMNS)


def _key(row: DriftRow) -> tuple[str, str]:
    return row.case, row.range


def group_csv(report: DriftReport) -> str:
    """Return one line per range and contrast."""
    records = [words.flat(group) for group in report.groups]
    return words.csv_of(records, list(records[0]) if records else ["range", "contrast"])


def to_json(report: DriftReport) -> dict[str, Any]:
    """Return everything as plain JSON (without NaN)."""
    return {
        "version": 1,
        "names": list(report.names),
        "inputs": report.inputs,
        "options": report.options,
        "groups": words.plain(report.groups),
        "changed": [
            words.plain({"case": row.case, "range": row.range, "difference": row.difference, "shared": row.shared})
            for row in report.changed
        ],
        "exceeded": [{"range": group.range, "contrast": group.contrast} for group in report.exceeded],
        "lost": [{"case": row.case, "range": row.range} for row in report.lost],
        "pictures": report.pictures,
        "remarks": report.remarks,
        "run": report.summary.to_dict(),
    }  # fmt: skip


def markdown(report: DriftReport) -> str:
    """Return the report as Markdown."""
    a, b = report.names
    options = report.options
    parts = [
        f"# Cord area: {a} and {b}",
        f"{len(report.summary.done)} images, mode `{options['mode']}`, means over the slices that "
        f"{'both and the reference' if report.inputs['ref'] else 'both'} have. "
        f"Differences are {b} minus {a} in mm². Limits of agreement are those of one image; tests are over subjects, "
        f"their images averaged: Wilcoxon signed-rank ({_CORRECTIONS[options['correction']]} correction over all of "
        f"them) and equivalence within ± {options['margin']:g} mm² (two one-sided t tests). In brackets: 95 % "
        "intervals.",
        _verdict(report),
    ]
    for name in dict.fromkeys(group.range for group in report.groups):
        groups = [group for group in report.groups if group.range == name]
        parts += [f"## {name}", _table(report, groups), *_spread(report, groups[0])]
    parts += ["## Changed images", _changed(report)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def _verdict(report: DriftReport) -> str:
    whole = [group for group in report.groups if group.contrast == ALL]
    said = [
        f"{group.range}: mean difference {words.number(group.mean_difference, sign=True)} mm², equivalence "
        f"{words.verdict(group.pair.equivalence)}"
        for group in whole
    ]
    apart = [g.contrast for g in report.groups if g.contrast != ALL and not g.pair.equivalence.equivalent]
    if apart:
        said.append(f"by contrast, equivalence is not shown for {', '.join(dict.fromkeys(apart))}")
    if report.options["fail_above"] is not None:
        where = ", ".join(f"{group.range} {group.contrast}" for group in report.exceeded)
        bound = f"{report.options['fail_above']:g} mm²"
        said.append(f"above {bound}, or not known: {where}" if where else f"no mean difference is above {bound}")
    return "; ".join([*said, *_lost(report)]) + "." if said else "Nothing could be compared."


def _lost(report: DriftReport) -> list[str]:
    """Return, per range and model, in how many images it alone finds no cord."""
    found, lost = [], report.lost
    for name in dict.fromkeys(row.range for row in lost):
        images = sum(row.range == name for row in report.rows)
        for side, called, other in zip("ab", report.names, reversed(report.names), strict=True):
            count = sum(not getattr(row, f"{side}_slices") for row in lost if row.range == name)
            if count:
                found.append(f"{name}: {called} finds no cord in {count} of {images} images in which {other} does")
    return found


def _table(report: DriftReport, groups: list[DriftGroup]) -> str:
    a, b = report.names
    heads = [
        "contrast",
        "images",
        "subjects",
        "slices a, b, both",
        "mean difference",
        "limits of agreement",
        "equivalent",
        "p corrected",
    ]
    heads += ["d_z"]
    errors = any(group.errors.n for group in groups)
    heads += [f"absolute error, {b} − {a}", "p of errors (not corrected)"] if errors else []
    rows = []
    for group in groups:
        row = [
            group.contrast, str(group.images), str(group.subjects),
            f"{group.a_slices}, {group.b_slices}, {group.both_slices}",
            words.number(group.mean_difference, sign=True) + words.interval(group.limits.bias_interval),
            words.limits(group.limits), words.verdict(group.pair.equivalence), words.p_value(group.pair.p_corrected),
            words.number(group.pair.effect.d_z),
        ]  # fmt: skip
        if errors:
            found = group.errors
            row += [
                words.number(found.mean_difference, sign=True) + words.interval((found.ci_low, found.ci_high)),
                words.p_value(found.p),
            ]
        rows.append(row)
    return words.markdown_table(heads, rows)


def _spread(report: DriftReport, group: DriftGroup) -> list[str]:
    found = group.spread
    if not found.n:
        return []
    a, b = report.names
    return [
        f"STD of a subject over its contrasts (ddof {report.options['ddof']}), {found.n} subjects: {a} "
        f"{words.number(group.a_std)}, {b} {words.number(group.b_std)} mm²; difference "
        f"{words.number(found.mean_difference, sign=True)}{words.interval((found.ci_low, found.ci_high))}, p (not "
        f"corrected) {words.p_value(found.p)}{f' ({found.reason})' if found.reason else ''}."
    ]


def _changed(report: DriftReport) -> str:
    found = report.changed
    bound = f"{report.options['changed_above']:g} mm²"
    empty = sum(row.empty for row in report.rows)
    none = f"\n\nIn {empty} of {len(report.rows)} neither finds cord." if empty else ""
    if not found:
        return f"No image differs by more than {bound}.{none}"
    rows = [
        [row.case, row.contrast, row.range, words.number(row.a), words.number(row.b), _difference(row)]
        for row in found[:_LISTED]
    ]
    table = words.markdown_table(["image", "contrast", "range", *report.names, "difference"], rows)
    more = f"\n\n{len(found) - _LISTED} more are in csa_drift.csv." if len(found) > _LISTED else ""
    head = f"{len(found)} of {len(report.rows)} differ by more than {bound}, or in the slices that have cord:"
    return f"{head}\n\n{table}{more}{none}"


def _difference(row: DriftRow) -> str:
    if math.isfinite(row.difference):
        lost = f" ({row.both_slices} slices of {row.a_slices} and {row.b_slices})" if row.shared < 1 else ""
        return words.number(row.difference, sign=True) + lost
    return "no slice in common" if row.a_slices and row.b_slices else "no area"


def drawings(report: DriftReport) -> dict[str, Drawing]:
    """Return violins of both models by contrast, and their differences over their means."""
    found: dict[str, Drawing] = {}
    for name in dict.fromkeys(row.range for row in report.rows):
        rows = [row for row in report.rows if row.range == name]
        groups = [group for group in report.groups if group.range == name]
        number = {case: k for k, case in enumerate(sorted({row.case for row in rows}))}
        shown = [g.contrast for g in groups if g.contrast != ALL] or [ALL]
        pairs = [
            Group(f"{contrast}, {called}"[:26], tuple((number[r.case], getattr(r, side)) for r in _of(rows, contrast)))
            for contrast in shown
            for side, called in zip("ab", report.names, strict=True)
        ]
        axis = Axis("cross-sectional area", _UNIT)
        found[f"csa_{slug(name)}"] = violins(pairs, axis, f"Cord area with both models, {name}")
        panels = []
        for group in groups:
            mine = [row for row in _of(rows, group.contrast) if math.isfinite(row.difference)]
            means = tuple((row.a + row.b) / 2 for row in mine)
            points = Points(group.contrast, means, tuple(row.difference for row in mine), "mean of both", "difference")
            panels.append((points, bands_of(group.limits)))
        a, b = report.names
        found[f"difference_{slug(name)}"] = bland_altman(panels, _UNIT, f"{b} minus {a}, {name}")
    return found


def _of(rows: list[DriftRow], contrast: str) -> list[DriftRow]:
    return [row for row in rows if contrast in (ALL, row.contrast)]
