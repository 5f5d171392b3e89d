"""What the benchmark of radiomic features trains and sums up."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from house import ROOT

from nnunet_spine_ext.losses.radiomics import radiomic_features


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark as its command line does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("radiomics")
    sys.modules.pop("radiomics", None)


def row(arm: str, before: float, after: float) -> dict[str, Any]:
    return {"arm": arm, "mean_before": before, "mean_after": after}


def test_the_summary_tells_the_worst_of_all_and_what_is_missed(script: ModuleType) -> None:
    exact = {"straight-through": [1e-8, 2e-5], "soft, tau 8": [0.5, 0.5]}
    spent = {"straight-through": {"4 x 320 x 120": {"forward_and_back_ms": 60.0}}}
    rows = [
        row("straight-through, tau 4", 0.2, 0.01),
        row("straight-through, tau 4", 0.2, 0.1),
        row("hard (control)", 0.2, 0.21),
        row("soft, tau 8", 0.2, 0.4),
    ]
    found = script.summary(exact, [1e-4, 2e-4], spent, rows)
    assert found["toy"] == pytest.approx(2.0)
    assert found["control_change"] == pytest.approx(0.05)
    missed = {name for name, reached in found["reached"].items() if not reached}
    assert missed == {"accuracy", "toy", "control_change"}
    without = script.summary(exact, [0.0], spent, [])["reached"]
    assert not without["toy"], "what was not measured is not reached"
    assert not without["control_change"]


def test_only_the_arm_with_a_gradient_reaches_the_target(script: ModuleType) -> None:
    source = script._blotches((1, 1, 40, 36))
    goal = radiomic_features(source / 2 + 60, mode="hard")[0]

    def apart(image: torch.Tensor) -> float:
        return float(((radiomic_features(image, mode="hard")[0] - goal) / goal).abs().mean())

    before = apart(source)
    painted = script.optimise(source, goal, script.ARMS["straight-through, tau 4"], seed=0, steps=60)
    control = script.optimise(source, goal, script.ARMS["hard (control)"], seed=0, steps=10)
    assert apart(painted) < before / 2
    assert apart(control) == pytest.approx(before, rel=0.02)
