"""How far the images of a scanner are from those of the source, measured on images, features and geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_volume, write_json
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.distribution import ood_score
from nnunet_spine_ext.harmonize.noise import noise_deviation
from nnunet_spine_ext.harmonize.reference import IntensityReference, body_mask, reference_of
from nnunet_spine_ext.study.features import Features, distances
from nnunet_spine_ext.study.index import StudyCase
from nnunet_spine_ext.study.predicting import cases_of
from nnunet_spine_ext.study.records import without_nan
from nnunet_spine_ext.study.score import class_dice, score_levels

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import SpinePredictor


def measure_gaps(
    study: str | Path,
    *,
    table: str,
    model: str,
    folders: Sequence[str],
    chosen: Sequence[str],
    source: str,
    device: str,
    folds: Sequence[str] | None,
    checkpoint: str,
) -> dict[str, Any]:
    """Measure the gap of every case and write the table; return the reasons of cases that could not be measured.

    Parameters
    ----------
    table: file to write. model: the source model's folder. chosen: keys of conditions; source: that of the source.
    """
    study = Path(study)
    cases = cases_of(study, folders, chosen)
    network = Features(study / model, device, folds, checkpoint)
    reference = reference_of(network.plans, network.folds)
    facts, failed = {}, {}
    for case in cases:
        try:
            facts[case.case] = _facts(study, case, reference, network.predictor) | {"features": network.of(case, study)}
        except CaseError as error:
            failed[case.case] = str(error)
    measured = [case for case in cases if case.case in facts]
    own = {case.subject: facts[case.case] for case in measured if case.condition.key == source}
    features = distances({c.case: facts[c.case]["features"] for c in measured},
                         [c.case for c in measured if c.condition.key == source])  # fmt: skip
    rows = [_row(case, facts[case.case], own) | {"feature_distance": features[case.case]} for case in measured]
    write_json(study / table, without_nan(rows), indent=None)
    return {"failed": failed}


def _facts(
    study: Path, case: StudyCase, reference: IntensityReference | None, predictor: SpinePredictor
) -> dict[str, Any]:
    image = read_volume(study / case.images[0])
    distance = math.nan if reference is None else ood_score(image, reference.channels[0]).body
    return {
        "distance": distance,
        "snr": signal_to_noise(image),
        "voxel": float(case.facts.get("acquired_voxel_mm3", image.voxel_volume)),
        "ceiling": ceiling(study, case),
    }


def _row(case: StudyCase, facts: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the measures of a case; ratios are to the same subject at the source, or to the mean of the source."""
    at_source = [own[case.subject]] if case.subject in own else list(own.values())
    return {
        "scanner": case.condition.scanner,
        "case": case.case,
        "quantile_distance": facts["distance"],
        "snr_ratio": _ratio(facts["snr"], [row["snr"] for row in at_source]),
        "resolution_ratio": _ratio(facts["voxel"], [row["voxel"] for row in at_source]),
        "ceiling_dice": facts["ceiling"],
    }


def _ratio(value: float, others: Sequence[float]) -> float:
    other = fmean(others) if others else math.nan
    return value / other if other > 0 else math.nan


def signal_to_noise(image: Volume) -> float:
    """Return the median of the body over the standard deviation of the noise in it; NaN without body or noise."""
    body = body_mask(image)
    if not body.any():
        return math.nan
    noise = noise_deviation(image, body)
    return float(np.median(image.array[body])) / noise if noise else math.nan


def ceiling(study: Path, case: StudyCase) -> float:
    """Return the Dice that a perfect mask on the grid of the image reaches on that of the truth; NaN if not known."""
    if case.own_instances:
        truth, own = (read_volume(study / path) for path in (case.instances, case.own_instances))
        rows = score_levels(truth.array, _back(own, truth), truth.spacing)
        return fmean([row["dice"] for row in rows]) if rows else math.nan
    if case.own_semantic:
        truth, own = (read_volume(study / path) for path in (case.semantic, case.own_semantic))
        return class_dice(truth.array, _back(own, truth))
    # Images that were not taken anew have their truth on their own grid.
    return 1.0


def _back(own: Volume, truth: Volume) -> Array:
    return np.asarray(own.array if own.same_grid(truth) else own.resample_like(truth, order=0).array)
