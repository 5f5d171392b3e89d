"""The benchmark of the numbering network asks without giving the answer away."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_builder import numbered
from spine_builder import Spine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

numbering_training = pytest.importorskip("numbering_training")
LEVELS = ("C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2", "T3", "T4", "T5", "T6")


def test_instances_are_counted_and_discs_follow_their_vertebrae() -> None:
    levels = ("T11", "T12", "T13", "L1", "L2")
    image, semantic, instances = numbered(
        levels, Spine(levels=("T10", "T11", "T12", "L1", "L2"), spacing=(3.0, 2.0, 2.0))
    )
    scan = numbering_training.counted("a", image, semantic, instances)
    assert scan.levels == levels
    assert scan.sacrum
    ids = set(np.unique(scan.instances.array).tolist())
    assert {1, 2, 3, 4, 5, 26, 101, 102} <= ids
    assert ids <= {0, 26, *range(1, 6), *range(101, 106), *range(201, 206)}


def test_parts_hold_neither_anchor_nor_the_ends_of_the_spine() -> None:
    image, semantic, instances = numbered(LEVELS, Spine(levels=LEVELS, spacing=(3.0, 2.0, 2.0)))
    parts = list(numbering_training.windows("phantom0001", (image, semantic, instances), 4))
    assert len(parts) == 4
    for scan in parts:
        assert "C2" not in scan.levels
        assert not scan.sacrum
        assert not (scan.semantic.array == 1).any()
        first = LEVELS.index(scan.levels[0])
        assert scan.levels == LEVELS[first : first + len(scan.levels)]
    again = list(numbering_training.windows("phantom0001", (image, semantic, instances), 4))
    assert [scan.levels for scan in again] == [scan.levels for scan in parts]


def test_open_answers_are_neither_right_nor_wrong() -> None:
    truth = {"a": ("T1", "T2"), "b": ("L4", "L5"), "c": ("L5",)}
    found = {"a": ("T1", None), "b": ("L4", "L5"), "c": ("L4",)}
    assert numbering_training.open_metrics(truth, found) == {
        "known": 0.8, "accuracy_of_known": 0.75, "perfect": 0.3333, "scans_decided": 0.6667,
        "scans_with_a_wrong_level": 0.3333,
    }  # fmt: skip
