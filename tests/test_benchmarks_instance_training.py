"""The data of the benchmark of instance training: posterior elements grow together, nothing else changes."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
from house import ROOT
from spine_builder import Spine, build


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Import the benchmark as its command line does; it has the functions of its data as well."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("instance_training"), importlib.import_module("instance_training_data")
    for name in ("instance_training", "instance_training_data"):
        sys.modules.pop(name, None)


Script = tuple[ModuleType, ModuleType]
LUMBAR = Spine(levels=("L2", "L3", "L4"), spacing=(2.0, 1.0, 1.0), gap_mm=2.0)


@pytest.mark.parametrize("one_class", [False, True])
def test_only_background_near_two_vertebrae_becomes_bone(script: Script, one_class: bool) -> None:
    semantic, instances = build(LUMBAR)
    before = semantic.array.copy(), instances.array.copy()
    script[1].fuse(semantic.array, instances.array, semantic.spacing, np.random.default_rng(0), one_class=one_class)
    new = (before[0] == 0) & (semantic.array > 0)
    assert new.any()
    assert set(np.unique(semantic.array[new])) <= set(range(2, 10))
    assert set(np.unique(instances.array[new])) <= {1, 2, 3}
    kept = before[0] > 0
    assert np.array_equal(instances.array[kept], before[1][kept]), "who a voxel belongs to never changes"
    changed = kept & (semantic.array != before[0])
    assert changed.any() == one_class
    assert set(np.unique(before[0][changed])) <= {6, 7, 8, 9}
    corpus = before[0] == 10
    assert (semantic.array[corpus] == 10).all()


def test_neighbours_touch_more_than_before(script: Script) -> None:
    semantic, instances = build(LUMBAR)
    first = _contacts(semantic.array, instances.array)
    script[1].fuse(semantic.array, instances.array, semantic.spacing, np.random.default_rng(0), one_class=False)
    assert _contacts(semantic.array, instances.array) > first + 20


def _contacts(semantic: np.ndarray, instances: np.ndarray) -> int:
    bone = np.where((semantic >= 2) & (semantic < 10), instances, 0).astype(int)
    count = 0
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        a, b = bone[tuple(ahead)], bone[tuple(behind)]
        count += int(((a > 0) & (b > 0) & (a != b)).sum())
    return count


def test_the_share_of_right_voxels_is_one_to_one(script: Script) -> None:
    truth = np.repeat([1, 2], 10)
    everywhere = truth > 0
    assert script[0]._right(truth + 4, truth, everywhere) == 1.0
    assert script[0]._right(np.ones(20, dtype=int), truth, everywhere) == 0.5, "a merged pair gets one of the two"
    assert script[0]._right(np.where(np.arange(20) == 0, 2, truth), truth, everywhere) == 0.95


def test_the_summary_has_means_and_the_worst_spine(script: Script) -> None:
    row = {"pq": 0.9, "rq": 1.0, "sq": 0.9, "facets": 1.0, "voxels": 1.0, "cpu_seconds": 1.0}
    rows = {f"clean/{k}": dict.fromkeys(("network", "free", "perfect"), row) for k in range(2)}
    rows["clean/1"]["network"] = {**row, "pq": 0.7}
    found = script[0].summary_of(rows)
    assert set(found) == {"clean"}
    assert found["clean"]["network"]["pq"] == pytest.approx(0.8)
    assert found["clean"]["network"]["pq_min"] == 0.7
