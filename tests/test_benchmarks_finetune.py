"""What the benchmark of fine-tuning counts and sums up."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from house import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark as its command line does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("finetune")
    sys.modules.pop("finetune", None)


def test_every_number_meets_every_part_and_other_rates_come_once(script: ModuleType) -> None:
    arms = script.arms(script.FULL, range(2))
    ruled = [arm for arm in arms if "rate" not in arm]
    assert len({(arm["n"], arm["parts"], arm["seed"]) for arm in ruled}) == len(ruled) == 2 * 3 * 3
    assert [arm["rate"] for arm in arms[len(ruled) :]] == list(script.RATES)
    # A fifth validates, and the largest number has to be left.
    assert max(script.FULL.numbers) <= script.FULL.target - round(0.2 * script.FULL.target)
    assert max(script.QUICK.numbers) <= script.QUICK.target - round(0.2 * script.QUICK.target)


def test_the_summary_averages_seeds_and_leaves_other_rates_out(script: ModuleType) -> None:
    rows = [
        {"n": 0, "parts": "", "source": 0.9, "target": 0.5},
        {"n": 1, "parts": "all", "seed": 0, "target": 0.6, "share": 0.25, "forgotten": 0.1},
        {"n": 1, "parts": "all", "seed": 1, "target": 0.7, "share": 0.5, "forgotten": 0.3},
        {"n": 1, "parts": "all", "seed": 0, "rate": 0.5, "target": 0.1, "share": -1.0, "forgotten": 0.9},
    ]
    found = script.summary(rows)
    assert found == {"gap": 0.4, "void": False, "1 all": {"target": 0.65, "share": 0.375, "forgotten": 0.2}}
    rows[0]["target"] = 0.88
    assert script.summary(rows)["void"]


def test_overlap(script: ModuleType) -> None:
    one, other = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert script.overlap(one, other) == 0.5
    assert script.overlap(one & False, other & False) == 1.0
    assert script.overlap(one, other & False) == 0.0
