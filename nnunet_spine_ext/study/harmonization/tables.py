"""Tables 2 to 5 and 7 of the paper from what was measured, and those that it lacks: vendors, features, geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.study.harmonization import paper
from nnunet_spine_ext.study.harmonization.arms import (
    ARMS,
    BASELINES,
    FULL,
    NONE,
    TABLE_3,
    TABLE_4,
    TERMS,
    arm_title,
)
from nnunet_spine_ext.study.harmonization.measured import TRAINING_COLUMNS
from nnunet_spine_ext.study.harmonization.overlap import METRICS
from nnunet_spine_ext.study.harmonization.results import Results
from nnunet_spine_ext.study.statistics import Estimate
from nnunet_spine_ext.study.tables import Column, Table

_TITLES = {"dice": "Dice (soft)", "iou": "IoU", "f1": "F1", "precision": "Precision", "recall": "Recall"}
_METRICS = tuple(Column(name, _TITLES[name], "estimate") for name in METRICS)
_PAPER = Column("paper", "Dice in the paper")
_GAIN = Column("against_full", "Dice minus that of +RF +Seg", "estimate")
_INTERVALS = "95 % bootstrap intervals over patients; the paper's are over slices, of clinical images."
_SOURCES = "Slices of all vendors but the target, of patients that nothing was trained on."
ELSEWHERE = ("goals", "trainings")


def tables(results: Results) -> tuple[Table, ...]:
    """Return all tables but that of the goals."""
    return (
        table2(results), table3(results), table4(results), table5(results), table7(results), by_vendor(results),
        radiomics(results), radiomics_of_mean(results), radiomics_by_vendor(results), geometry(results),
        trainings(results),
    )  # fmt: skip


def _overlaps(results: Results, arm: str, vendors: Sequence[str], segmenter: str = "") -> dict[str, Estimate]:
    return {name: results.estimate(results.overlap(arm, name, vendors, segmenter)) for name in METRICS}


def _row(results: Results, arm: str, known: Mapping[str, paper.Numbers]) -> dict[str, Any]:
    """Return one row of an ablation: metrics on the other vendors, the difference to the whole method."""
    dice, whole = (results.overlap(name, "dice", results.others) for name in (arm, FULL))
    return {
        "arm": arm,
        "title": arm_title(arm),
        **_overlaps(results, arm, results.others),
        "against_full": results.difference(dice, whole) if arm != FULL else None,
        "paper": known.get(arm, {}).get("dice", ""),
    }


def _tick(value: bool) -> str:
    return "yes" if value else "–"


def _best(rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return the row with the highest Dice."""
    values = [one["dice"].value if isinstance(one.get("dice"), Estimate) else np.nan for one in rows]
    return frozenset([int(np.nanargmax(values))]) if np.isfinite(values).any() else frozenset()


def _of_segmenters(results: Results, name: str, title: str, vendors: Sequence[str], note: str) -> Table:
    sizes = {row["name"]: row["parameters"] for row in results.measured.trainings if row["kind"] == "segmenter"}
    rows = []
    for segmenter in results.segmenters:
        known = paper.SEGMENTERS if name == "table2" else paper.ON_SOURCES
        rows.append(
            {
                "segmenter": segmenter, "parameters": sizes.get(segmenter, ""),
                **_overlaps(results, NONE, vendors, segmenter), "paper": known.get(segmenter, {}).get("dice", ""),
            }
        )  # fmt: skip
    columns = (Column("segmenter", "Segmenter"), Column("parameters", "Parameters", "number"), *_METRICS, _PAPER)
    notes = (note, f"Harmonizers are trained and judged with {results.main} (S_Y).", _INTERVALS)
    return Table(name, title, columns, tuple(rows), notes, _best(rows))


def table2(results: Results) -> Table:
    """Return the segmenters on slices of the target."""
    note = "Trained on slices of the target; tested on those of other patients there."
    return _of_segmenters(results, "table2", "Table 2: segmenters on the target", results.target, note)


def table7(results: Results) -> Table:
    """Return the segmenters on slices of the other vendors, as they are."""
    return _of_segmenters(results, "table7", "Table 7: segmenters on other vendors", results.others, _SOURCES)


def table3(results: Results) -> Table:
    """Return the ablation of the segmenters S_X and S_Y."""
    rows = []
    for name in TABLE_3:
        used = ARMS[name].segmenters
        ticks = {"s_x": _tick("S_X" in used), "s_y": _tick("S_Y" in used)}
        rows.append({**_row(results, name, paper.NETWORKS), **ticks})
    columns = (Column("arm", "arm", wide=False), Column("title", "Network"), Column("s_x", "S_X"), Column("s_y", "S_Y"),
               *_METRICS, _GAIN, _PAPER)  # fmt: skip
    notes = (_SOURCES, "Without the radiomic loss, as in the paper.", _INTERVALS)
    return Table("table3", "Table 3: with and without segmenters", columns, tuple(rows), notes, _best(rows))


def table4(results: Results) -> Table:
    """Return the ablation of the three Dice losses."""
    rows = []
    for name in TABLE_4:
        ticks = {term: _tick(term in ARMS[name].terms) for term in TERMS}
        rows.append({**_row(results, name, paper.TERMS), **ticks})
    heads = (Column("cycle", "Cycle"), Column("harmonization", "Harmonization"), Column("identity", "Identity"))
    columns = (Column("arm", "arm", wide=False), *heads, *_METRICS, _GAIN, _PAPER)
    notes = (_SOURCES, "Without the radiomic loss, as in the paper.", _INTERVALS)
    return Table("table4", "Table 4: with and without Dice losses", columns, tuple(rows), notes, _best(rows))


def table5(results: Results) -> Table:
    """Return the comparison of methods: other segmenters, baselines, parts of the method, all of it."""
    rows: list[dict[str, Any]] = []
    for segmenter in results.segmenters:
        known = paper.UNHARMONIZED.get(segmenter, {})
        rows.append(
            {
                "arm": NONE, "title": f"{segmenter}, no harmonization",
                **_overlaps(results, NONE, results.others, segmenter), "paper": known.get("dice", ""),
                "against_full": results.difference(
                    results.overlap(NONE, "dice", results.others, segmenter),
                    results.overlap(FULL, "dice", results.others),
                ),
            }
        )  # fmt: skip
    methods = (*BASELINES, "cyclegan", "rf", "seg", FULL)
    rows += [
        {**_row(results, name, paper.METHODS), "recovered": results.recovered(name, results.others)}
        for name in methods if name in results.arms
    ]  # fmt: skip
    best = _best(rows)
    rows.append({"arm": NONE, "title": "target, as it is", **_overlaps(results, NONE, results.target)})
    columns = (
        Column("arm", "arm", wide=False), Column("title", "Method"), *_METRICS,
        Column("recovered", "Gap recovered", "share"), _GAIN, _PAPER,
    )  # fmt: skip
    notes = (_SOURCES, "The last row is what there is to be reached: the segmenter on its own scanner.", _INTERVALS)
    return Table("table5", "Table 5: methods", columns, tuple(rows), notes, best)


def by_vendor(results: Results) -> Table:
    """Return Dice by vendor and arm, with the share of the gap."""
    rows = []
    for vendor, role in results.vendors.items():
        for arm in results.arms:
            dice = results.estimate(results.overlap(arm, "dice", [vendor]))
            if dice.known:
                share = None if vendor in results.target else results.recovered(arm, [vendor])
                rows.append({"vendor": vendor, "role": role, "title": arm_title(arm), "arm": arm, "dice": dice,
                             "recovered": share})  # fmt: skip
    columns = (
        Column("vendor", "Vendor"), Column("role", "Role"), Column("arm", "arm", wide=False),
        Column("title", "Method"), Column("dice", "Dice (soft)", "estimate"),
        Column("recovered", "Gap recovered", "share"),
    )  # fmt: skip
    notes = ("Unseen: no harmonizer was trained with this vendor.", _INTERVALS)
    return Table("vendors", "Dice by vendor", columns, tuple(rows), notes)


_PAIRED = (
    "Relative error against the weakly paired target slice: nearest in level and position, of the same patient where "
    "the target scanned him, too."
)


def _radiomic_rows(results: Results, *, of_mean: bool) -> tuple[dict[str, Any], ...]:
    read = results.error_of_mean if of_mean else results.error
    rows = [
        {"arm": arm, "title": arm_title(arm), **{name: read(arm, name, results.others) for name in results.features}}
        for arm in results.arms
    ]
    own = {name: read(NONE, name, results.target) for name in results.features}
    return (*rows, {"arm": NONE, "title": "target against the target", **own})


def radiomics(results: Results) -> Table:
    """Return the relative error of every feature by method: figure 11 with numbers."""
    columns = (Column("arm", "arm", wide=False), Column("title", "Method"),
               *(Column(name, name, "estimate") for name in results.features))  # fmt: skip
    rows = _radiomic_rows(results, of_mean=False)
    notes = (_PAIRED, "The last row pairs target slices with those of other patients: what other anatomy alone makes.",
             _INTERVALS)  # fmt: skip
    return Table("radiomics", "Radiomic features: relative error by method", columns, rows, notes)


def radiomics_of_mean(results: Results) -> Table:
    """Return the relative error of the means of features."""
    columns = (Column("arm", "arm", wide=False), Column("title", "Method"),
               *(Column(name, name, "estimate") for name in results.features))  # fmt: skip
    rows = _radiomic_rows(results, of_mean=True)
    notes = ("Relative error of the mean over a vendor's slices against the mean of their target slices, mean over "
             "vendors: anatomy averages out.", "A bootstrap interval of a size is pushed away from zero.",
             _INTERVALS)  # fmt: skip
    return Table("radiomics-mean", "Radiomic features: relative error of the mean", columns, rows, notes)


def radiomics_by_vendor(results: Results) -> Table:
    """Return the relative error by vendor, method and feature."""
    rows = []
    for vendor in results.vendors:
        for arm in results.arms:
            errors = {name: results.error(arm, name, [vendor]) for name in results.features}
            if any(one.known for one in errors.values()):
                rows.append({"vendor": vendor, "arm": arm, "title": arm_title(arm), **errors})
    columns = (Column("vendor", "Vendor"), Column("arm", "arm", wide=False), Column("title", "Method"),
               *(Column(name, name, "estimate") for name in results.features))  # fmt: skip
    return Table("radiomics-vendors", "Radiomic features by vendor", columns, tuple(rows), (_PAIRED, _INTERVALS))


def geometry(results: Results) -> Table:
    """Return what harmonization does to geometry, by method."""
    rows = []
    for arm in results.arms:
        if arm == NONE:
            continue
        values = {
            name: results.estimate(results.geometry(arm, name, results.others))
            for name in ("edge_correlation", "volume_change", "agreement", "passed")
        }
        rows.append({"arm": arm, "title": arm_title(arm), **values,
                     "area_error": results.area_error(arm, results.others)})  # fmt: skip
    columns = (
        Column("arm", "arm", wide=False), Column("title", "Method"),
        Column("edge_correlation", "Edge correlation", "estimate"),
        Column("volume_change", "Change of area", "share"), Column("agreement", "Agreement of masks", "estimate"),
        Column("passed", "Pass the gate", "share"), Column("area_error", "Error of area", "share"),
    )  # fmt: skip
    notes = (
        "Change of area and agreement compare the segmentations of a slice before and after harmonization, error of "
        "area that after it with the truth. Where the segmenter fails on the slice as it is, a change is what "
        "harmonization is for.",
        "Segmentation and features above are those of all slices, whether they pass the gate or not.", _INTERVALS,
    )  # fmt: skip
    return Table("geometry", "Geometry: input against output", columns, tuple(rows), notes)


def trainings(results: Results) -> Table:
    """Return what was trained, how long it took, how large it is."""
    columns = tuple(Column(name, name.capitalize()) for name in TRAINING_COLUMNS)
    return Table("trainings", "Trainings", columns, tuple(dict(row) for row in results.measured.trainings))
