"""Scores of predictions on the grid of the source: a prediction on a coarser grid is brought back to the full truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.labels import VERTEBRA_ORDER, vertebra_name
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.identification import Point, locate
from nnunet_spine_ext.evaluate.matching import match_overlap, overlap_table
from nnunet_spine_ext.evaluate.pairs import boxes_of, pair_in_box, union_box
from nnunet_spine_ext.evaluate.regions import region_of
from nnunet_spine_ext.evaluate.surface import assd
from nnunet_spine_ext.inference.journal import intensity_changes
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.measure.numbered import is_numbered
from nnunet_spine_ext.study.index import StudyCase
from nnunet_spine_ext.study.predicting import cases_of, journal_of
from nnunet_spine_ext.study.records import without_nan

_SACRUM = 26
# C1 to S1: what the paper counts; the coccyx and sacral vertebrae below the first are parts of the sacrum.
LEVELS = frozenset(VERTEBRA_ORDER[: VERTEBRA_ORDER.index(_SACRUM) + 1])


def score_strategy(
    study: str | Path, *, folder: str, scores: str, folders: Sequence[str], chosen: Sequence[str]
) -> dict[str, Any]:
    """Score all cases of a strategy and write them to one file; return the reasons of those without a score.

    The file has a list of cases, each with its values, ``levels`` and facts of its prediction. A case whose prediction
    failed is scored as an empty mask, as the evaluation does, and named.
    """
    study = Path(study)
    journal = journal_of(study, folder)
    rows, failed = [], {}
    for case in cases_of(study, folders, chosen):
        entry = journal.get(case.case, {})
        try:
            row = score_case(study, study / folder, case, done=entry.get("status") == "done")
        except CaseError as error:
            failed[case.case] = str(error)
            continue
        if entry.get("status") != "done":
            failed[case.case] = str((entry.get("error") or {}).get("found", "no prediction"))
        rows.append(row | {"case": case.case} | _facts(entry))
    write_json(study / scores, without_nan(rows), indent=None)
    return {"failed": failed}


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the journal says of a case; None where it does not say."""
    changes = intensity_changes(entry)
    return {
        "seconds": entry.get("seconds"),
        "forward_passes": entry.get("forward_passes"),
        "noise_reduced": None if changes is None else int(changes.noise_reduced),
        "matched": None if changes is None else int(changes.matched),
        "warnings": sorted({str(found["code"]) for found in entry.get("warnings", [])}),
    }


def score_case(study: Path, predicted: Path, case: StudyCase, *, done: bool = True) -> dict[str, Any]:
    """Return the values of one case and, under ``levels``, of each of its true vertebrae.

    Voxels of the ignore label are no class, and nothing that is predicted there counts.

    Raises
    ------
    CaseError: a truth or a mask that cannot be read.
    """
    truth = read_volume(study / case.semantic)
    mask = _on_grid(predicted / f"{case.case}.nii.gz", truth, done=done)
    ignored = None if case.ignore is None else truth.array == case.ignore
    classes = truth if ignored is None else truth.with_array(np.where(ignored, 0, truth.array))
    mask = mask if ignored is None else np.where(ignored, 0, mask)
    semantic = class_dice(classes.array, mask)
    if not case.instances:
        return _without_vertebrae(classes, mask, semantic)
    instances = read_volume(study / case.instances)
    found = _on_grid(predicted / "instances" / f"{case.case}.nii.gz", instances, done=done)
    if ignored is not None and instances.same_grid(truth):
        # As in the evaluation: what the reference does not say cannot be wrong.
        found = np.where(ignored, 0, found)
    numbered = done and is_numbered(predicted, case.case)
    levels = score_levels(instances.array, found, instances.spacing, numbered=numbered)
    return {**summary(levels), "semantic_dice": semantic, "numbered": numbered, "levels": levels}


def summary(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of a case from those of its vertebrae; NaN where there is none."""
    surfaces = [row["msd_mm"] for row in levels if row["detected"]]
    return {
        "dice": fmean([row["dice"] for row in levels]) if levels else math.nan,
        "id_rate": fmean([float(row["identified"]) for row in levels]) if levels else math.nan,
        "msd_mm": fmean(surfaces) if surfaces else math.nan,
        "vertebrae": len(levels),
        "missing": sum(not row["detected"] for row in levels),
    }


def score_levels(
    truth: Array, found: Array, spacing: tuple[float, float, float], *, numbered: bool = True
) -> list[dict[str, Any]]:
    """Return the values of every true vertebra, C1 to S1, against the predicted one that covers most of it.

    Parameters
    ----------
    truth, found: ids of instances, (i, j, k) on one grid; spacing in mm.
    numbered: whether the ids of `found` are levels. Without, only the sacrum, whose id is its own, can be identified.
    """
    ids = LEVELS
    table = overlap_table(truth, found)
    matching = match_overlap(table, ids)
    partner = matching.partner
    of_truth, of_found = boxes_of(truth), boxes_of(found)
    located = locate(*(_centres(array, spacing, ids) for array in (truth, found)))
    dice = {match.ref: match.dice for match in matching.matches}
    rows = []
    for label in sorted(ids & set(table.ref_ids.tolist()), key=VERTEBRA_ORDER.index):
        other = partner.get(label)
        surface = math.nan
        if other is not None:
            box = union_box(of_truth[label], of_found[other])
            surface = assd(pair_in_box(truth, found, (label, other), box, spacing, 1.0))
        rows.append(
            {
                "level": vertebra_name(label),
                "region": region_of(label),
                "dice": dice.get(label, 0.0),
                "msd_mm": surface,
                "detected": other is not None,
                "identified": located[label].identified and (numbered or label == _SACRUM),
            }
        )
    return rows


def class_dice(truth: Array, found: Array) -> float:
    """Return the mean Dice over the classes of the truth; NaN when it has none."""
    size = int(max(truth.max(initial=0), found.max(initial=0))) + 1
    counts = np.bincount(truth.ravel(), minlength=size), np.bincount(found.ravel(), minlength=size)
    both = np.bincount(truth[truth == found].ravel(), minlength=size)
    classes = np.flatnonzero(counts[0])[1:] if counts[0][0] else np.flatnonzero(counts[0])
    values = 2 * both[classes] / (counts[0][classes] + counts[1][classes])
    return float(values.mean()) if len(values) else math.nan


def _without_vertebrae(truth: Volume, mask: Array, semantic: float) -> dict[str, Any]:
    """Return the values of a case whose truth has no instances: Dice and surface of its classes."""
    surfaces = []
    own, other = boxes_of(truth.array), boxes_of(mask)
    for label in sorted(own):
        if label in other:
            box = union_box(own[label], other[label])
            surfaces.append(assd(pair_in_box(truth.array, mask, (label, label), box, truth.spacing, 1.0)))
    return {
        "dice": semantic,
        "semantic_dice": semantic,
        "id_rate": math.nan,
        "msd_mm": fmean(surfaces) if surfaces else math.nan,
        "vertebrae": 0,
        "missing": len(own) - len(surfaces),
        "numbered": False,
        "levels": [],
    }


def _on_grid(path: Path, truth: Volume, *, done: bool) -> Array:
    """Return a predicted mask on the grid of the truth, by the nearest voxel; empty where prediction failed.

    Raises CaseError for a file that a finished prediction lacks: nothing found is an empty mask, not a missing one.
    """
    if not done:
        return np.zeros(truth.shape, dtype=np.uint16)
    found = read_volume(path)
    same = found.same_grid(truth)
    return np.asarray((found if same else found.resample_like(truth, order=0)).array, dtype=np.uint16)


def _centres(array: Array, spacing: tuple[float, float, float], ids: frozenset[int]) -> dict[int, Point]:
    volume = Volume(np.where(np.isin(array, list(ids)), array, 0), np.diag([*spacing, 1.0]))
    x, y, z = spacing
    return {label: (p[0] * x, p[1] * y, p[2] * z) for label, p in centroids(volume).items()}


def read_scores(study: Path, scores: str) -> list[dict[str, Any]]:
    """Return the rows that `score_strategy` wrote; None stands for NaN."""
    rows: list[dict[str, Any]] = read_json(study / scores)
    return rows
