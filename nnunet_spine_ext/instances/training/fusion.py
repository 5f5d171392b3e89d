"""Whole validation cases: cutouts, network, fusion, against the instance masks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.labels import VERTEBRA_ORDER, apply_table
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutout_network import CutoutPredictor
from nnunet_spine_ext.instances.frame import ARCUS, CANAL, CORD, CORPUS
from nnunet_spine_ext.instances.interface import separate
from nnunet_spine_ext.instances.training.dataset import TrainingCase
from nnunet_spine_ext.instances.whole import TABLES

_log = logging.getLogger(__name__)
_MATCH = 0.5
# From ``nnunet14`` back to the scheme ``whole_vertebrae``.
_AS_WHOLE = {target: source for source, target in TABLES["whole_vertebrae"].items()}


def panoptic_quality(found: Array, truth: Array) -> dict[str, float]:
    """Return ``pq``, ``rq``, ``sq`` (0..1) of two arrays of instance numbers on one grid; 0 is nothing.

    Instances match when their IoU is above 0.5, so each has at most one partner (Kirillov et al., CVPR 2019). Without
    any instance on both sides all three are 1.
    """
    width = int(found.max(initial=0)) + 1
    pairs = np.bincount(truth.reshape(-1).astype(np.intp) * width + found.reshape(-1))
    size = (int(truth.max(initial=0)) + 1) * width
    table = np.pad(pairs, (0, size - len(pairs))).reshape(-1, width)
    ours, theirs = table.sum(axis=0)[1:], table.sum(axis=1)[1:]
    both = table[1:, 1:]
    union = theirs[:, None] + ours[None, :] - both
    iou = both / np.maximum(union, 1)
    hits = iou[iou > _MATCH]
    count = int((ours > 0).sum() + (theirs > 0).sum())
    if not count:
        return {"pq": 1.0, "rq": 1.0, "sq": 1.0}
    rq = 2 * len(hits) / count
    sq = float(hits.mean()) if len(hits) else 0.0
    return {"pq": rq * sq, "rq": rq, "sq": sq}


def vertebrae_of(instances: Array, semantic: Array) -> Array:
    """Return the instance numbers of vertebrae alone: where the semantic mask (``nnunet14``) has one, else 0."""
    bone = (semantic >= ARCUS) & (semantic <= CORPUS)
    return np.where(bone & np.isin(instances, VERTEBRA_ORDER), instances, 0)


def fusion_scores(
    cases: Sequence[TrainingCase], table: Mapping[int, int], predictor: CutoutPredictor, *, substructures: bool = True
) -> dict[str, Any]:
    """Separate whole cases with and without the network; masks of whole vertebrae without a canal are left out.

    Parameters
    ----------
    table, substructures: see `dataset.TrainingData`.

    Returns
    -------
    Mean ``pq``, ``rq``, ``sq`` of the vertebrae with the network, ``pq_without`` it, and ``cases`` with the same each.
    """
    rows: dict[str, dict[str, float]] = {}
    for case in cases:
        semantic = read_volume(case.semantic)
        semantic = semantic.with_array(apply_table(semantic.array, table, file=case.semantic))
        classes, scheme = semantic, "nnunet14"
        if not substructures:
            scheme = "whole_vertebrae"
            classes = semantic.with_array(apply_table(semantic.array, _AS_WHOLE, file=case.semantic))
            if not np.isin(semantic.array, (CORD, CANAL)).any():
                _log.warning("%s: not separated as a whole, it has neither canal nor cord", case.name)
                continue
        truth = vertebrae_of(read_volume(case.instances).array, semantic.array)
        scores: dict[str, float] = {}
        for name, used in (("", predictor), ("_without", None)):
            result = separate(classes, scheme, predictor=used)
            found = panoptic_quality(vertebrae_of(result.instances.array, semantic.array), truth)
            scores |= {f"{key}{name}": round(value, 4) for key, value in found.items()}
        rows[case.name] = scores
    if not rows:
        return {}
    keys = ("pq", "rq", "sq", "pq_without")
    return {key: round(float(np.mean([row[key] for row in rows.values()])), 4) for key in keys} | {"cases": rows}
