"""Ids that the context does not list, above all nnU-Net's ignore label, are treated like background."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline


@pytest.mark.parametrize("known", [(0, 1, 2), (0, 1, 5)], ids=["consecutive", "gaps"])
@pytest.mark.parametrize(
    "transform",
    [
        {"name": "gamma", "where": "in_labels", "gamma": 3.0},
        {"name": "gamma", "where": "in_labels", "gamma": 3.0, "retain_stats": True},
        {"name": "equalise", "where": "out_labels"},
        {"name": "gaussian_mixture"},
    ],
    ids=lambda t: t["name"] + t.get("where", "") + str(t.get("retain_stats", "")),
)
def test_unknown_labels_are_background(known: tuple[int, ...], transform: dict[str, Any]) -> None:
    context = Context(shape=(12, 12, 12), spacing=(1.0, 1.0, 1.0), labels=known)
    pipeline = Pipeline({"transforms": [{**transform, "p": 1.0}]}, context)
    keys = [SampleKey(3, "case", 0, draw) for draw in range(2)]
    torch.manual_seed(0)
    images = torch.randn(2, 1, 12, 12, 12)
    labels = torch.tensor(known, dtype=torch.int16)[torch.randint(0, 3, (2, 1, 12, 12, 12))]
    expected, _ = pipeline(images, labels, keys)
    for unknown in (-1, 3 if known[2] == 5 else 4, known[2] + 1, known[2] + 100):
        changed, kept = pipeline(images, torch.where(labels == 0, unknown, labels), keys)
        assert torch.equal(changed, expected), unknown
        assert kept is not None
        assert (kept == unknown).any()
