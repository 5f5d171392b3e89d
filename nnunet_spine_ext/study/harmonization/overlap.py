"""Overlap of one slice: a probability map against a mask. Soft Dice and thresholded F1 are two numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

THRESHOLD = 0.5
METRICS = ("dice", "iou", "f1", "precision", "recall")
_UNKNOWN = 255


@dataclass(frozen=True)
class Overlap:
    """Values of one slice, and how many pixels the reference and the prediction (at the threshold) have.

    `dice` is soft: 2 Σ p r / (Σ p + Σ r) over the probabilities. `f1` is 2 TP / (2 TP + FP + FN) of the mask at
    `THRESHOLD`, `iou` is TP / (TP + FP + FN) of the same. NaN: not defined.
    """

    dice: float
    iou: float
    f1: float
    precision: float
    recall: float
    reference_pixels: int
    predicted_pixels: int


def overlap(probability: Array, reference: Array) -> Overlap:
    """Return the overlap of a probability map (Y, X) 0-1 with a mask (Y, X): 1 disc, 255 unknown, which is left out.

    As in the evaluation of masks: without a reference every predicted pixel is wrong and recall is not defined; two
    empty masks say nothing; an empty prediction has precision 0. Soft Dice of a slice without discs is 0, since no
    network answers with zeros only.

    Raises
    ------
    ValueError: shapes differ.
    """
    if probability.shape != reference.shape:
        msg = f"a map of shape {probability.shape} and a mask of shape {reference.shape}"
        raise ValueError(msg)
    known = reference != _UNKNOWN
    values = np.clip(probability[known].astype(np.float64), 0.0, 1.0)
    truth = reference[known] == 1
    found = values >= THRESHOLD
    both, own, other = int((truth & found).sum()), int(truth.sum()), int(found.sum())
    if not own and not other:
        return Overlap(math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)
    total = float(values.sum()) + own
    return Overlap(
        dice=2.0 * float(values[truth].sum()) / total,
        iou=both / (own + other - both),
        f1=2.0 * both / (own + other),
        precision=both / other if other else 0.0,
        recall=both / own if own else math.nan,
        reference_pixels=own,
        predicted_pixels=other,
    )
