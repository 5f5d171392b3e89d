"""Validation: the cases of a fold as a classifier would see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnunet_spine_ext.networks.level_classifier import LevelClassifier
from nnunet_spine_ext.numbering.classifier import Classifier
from nnunet_spine_ext.numbering.crops import CropSpec, normalized
from nnunet_spine_ext.numbering.model import NumberingModel
from nnunet_spine_ext.numbering.training.calibrate import central
from nnunet_spine_ext.numbering.training.data import CachedCase
from nnunet_spine_ext.numbering.training.scores import level_metrics, most_likely, solved


def validate(
    network: LevelClassifier, crop: CropSpec, cases: Sequence[CachedCase], device: torch.device
) -> dict[str, Any]:
    """Return the metrics of `scores.level_metrics`: ``single`` of single vertebrae, ``solved`` of the solver."""
    classifier = Classifier(NumberingModel(crop=crop), [network], device=str(device))
    single, whole = {}, {}
    for case in cases:
        scores = classifier.predict(normalized(central(case.patches(), crop.size), crop.inputs))
        single[case.case] = most_likely(scores)
        whole[case.case] = solved(scores, sacrum=case.sacrum)
    truth = {case.case: case.names for case in cases}
    return {"single": level_metrics(truth, single), "solved": level_metrics(truth, whole)}
