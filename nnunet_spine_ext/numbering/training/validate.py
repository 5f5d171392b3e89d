"""Validation: the cases of a fold as a classifier would see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.networks.level_classifier import LevelClassifier
from nnunet_spine_ext.numbering.classifier import Classifier
from nnunet_spine_ext.numbering.crops import CropSpec, normalized
from nnunet_spine_ext.numbering.model import NumberingModel
from nnunet_spine_ext.numbering.training.data import CachedCase
from nnunet_spine_ext.numbering.training.scores import level_metrics, most_likely, solved


def validate(
    network: LevelClassifier, crop: CropSpec, cases: Sequence[CachedCase], device: torch.device
) -> dict[str, Any]:
    """Return the metrics of `scores.level_metrics`: ``single`` of single vertebrae, ``solved`` of the solver."""
    classifier = Classifier(NumberingModel(crop=crop), [network], device=str(device))
    single, whole = {}, {}
    for case in cases:
        scores = classifier.predict(normalized(_centre(case.patches(), crop), crop.inputs))
        single[case.case] = most_likely(scores)
        whole[case.case] = solved(scores, sacrum=case.sacrum)
    truth = {case.case: case.names for case in cases}
    return {"single": level_metrics(truth, single), "solved": level_metrics(truth, whole)}


def _centre(data: Array, crop: CropSpec) -> Array:
    """Cut widened patches to their size."""
    starts = [(n - size) // 2 for n, size in zip(data.shape[2:], crop.size, strict=True)]
    p, i, r = (slice(start, start + size) for start, size in zip(starts, crop.size, strict=True))
    return data[:, :, p, i, r]
