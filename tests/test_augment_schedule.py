"""Schedules: what ramps up, what stays clean, and what every sample gets from the first epoch on."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline

CONTEXT = Context(shape=(8, 8, 8), spacing=(1.0, 1.0, 1.0))


def fired(schedule: dict[str, Any], epoch: int, fraction: float | None = None, draws: int = 200) -> dict[str, int]:
    transforms = [{"name": "flip"}, {"name": "rotate", "p": 1.0, "degrees": 10.0}, {"name": "gamma", "p": 1.0}]
    pipeline = Pipeline({"schedule": schedule, "transforms": transforms}, CONTEXT)
    plan = pipeline.plan([SampleKey(0, "case", epoch, draw) for draw in range(draws)], fraction)
    names = [applied.name for sample in plan.samples for applied in sample]
    angles = {round(a.params["degrees"][0]) for s in plan.samples for a in s if a.name == "rotate"}
    assert angles == {10}, "geometry has its full strength"
    return {name: names.count(name) for name in ("flip", "rotate", "gamma")}


def test_the_ramp_leaves_geometry_alone() -> None:
    schedule = {"ramp_epochs": 10}
    assert fired(schedule, 0) == {"flip": 200, "rotate": 200, "gamma": 0}
    assert fired(schedule, 5) == {"flip": 200, "rotate": 200, "gamma": 200}


def test_clean_samples_are_moved_but_not_recoloured() -> None:
    counts = fired({"clean_share": 0.25}, 3)
    assert counts["flip"] == counts["rotate"] == 200
    assert counts["gamma"] == pytest.approx(150, abs=25)


@pytest.mark.parametrize(("fraction", "gamma"), [(None, 200), (0.89, 200), (0.9, 0), (0.995, 0)])
def test_the_clean_end(fraction: float | None, gamma: int) -> None:
    assert fired({"closing_clean_share": 0.1}, 3, fraction) == {"flip": 200, "rotate": 200, "gamma": gamma}
