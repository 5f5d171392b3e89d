"""Schedules: what ramps up, what stays clean, and what every sample gets from the first epoch on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.settings import AugmentSettings

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


LISTED = {"transforms": [{"name": "rotate", "p": 1.0, "degrees": 5.0}, {"name": "contrast", "p": 1.0}]}


def names(config: dict[str, Any], epoch: int = 3, fraction: float | None = None) -> list[tuple[str, ...]]:
    own = {"schedule": {}, "transforms": [{"name": "rotate", "p": 1.0}, {"name": "gamma", "p": 1.0}], **config}
    plan = Pipeline(own, CONTEXT).plan([SampleKey(0, "case", epoch, draw) for draw in range(100)], fraction)
    return [tuple(applied.name for applied in sample) for sample in plan.samples]


def test_clean_samples_have_a_list_of_their_own() -> None:
    found = names({"schedule": {"clean_share": 0.3}, "clean": LISTED})
    assert set(found) == {("rotate", "gamma"), ("rotate", "contrast")}
    assert found.count(("rotate", "contrast")) == pytest.approx(30, abs=15)
    assert names({"schedule": {"clean_share": 0.3}, "clean": LISTED}) == found
    closing = {"schedule": {"closing_clean_share": 0.1}, "clean": LISTED}
    assert set(names(closing, fraction=0.8)) == {("rotate", "gamma")}
    assert set(names(closing, fraction=0.95)) == {("rotate", "contrast")}


def test_the_list_of_clean_samples_has_its_full_strength_from_the_first_epoch_on() -> None:
    config = {"schedule": {"ramp_epochs": 10, "clean_share": 0.3}, "clean": LISTED}
    assert set(names(config, epoch=0)) == {("rotate",), ("rotate", "contrast")}


def test_a_preset_a_file_and_a_mapping_say_the_list_of_clean_samples(tmp_path: Path) -> None:
    (tmp_path / "clean.json").write_text(json.dumps(LISTED))
    (tmp_path / "own.json").write_text(json.dumps({"transforms": [], "clean": "clean.json"}))
    config = AugmentConfig.load(tmp_path / "own.json")
    assert config.clean == AugmentConfig.load(LISTED)
    assert AugmentConfig.load(config.to_dict()) == config
    assert AugmentConfig.load({"clean": "nnunet"}).clean == AugmentConfig.load("nnunet")
    assert [name for name, _ in AugmentConfig.load({**LISTED, "clean": LISTED}).flat()] == ["rotate", "contrast"] * 2


def test_a_configuration_without_a_list_of_clean_samples_keeps_its_hash() -> None:
    assert "clean" not in AugmentConfig.load(LISTED).to_dict()
    assert AugmentConfig.load({**LISTED, "clean": LISTED}).hash != AugmentConfig.load(LISTED).hash


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ("nnunett", "did you mean 'nnunet'"),
        ("nowhere.yaml", "no such file"),
        ("shift", "clean: shift: schedule inside"),
        ({**LISTED, "schedule": {"ramp_epochs": 3}}, "clean: schedule inside"),
        ({**LISTED, "scanners": {}}, "scanners inside"),
        ({**LISTED, "clean": LISTED}, "clean inside"),
        ({}, "clean: no transforms"),
        ({"order": "random"}, "no transforms"),
        (LISTED["transforms"], "clean: a list; expected a preset, a file, or a mapping with transforms"),
        ({"transforms": [{"name": "contrst"}]}, "did you mean 'contrast'"),
        ({"transforms": [{"name": "contrast", "channels": [3]}]}, "channel"),
        (3, "a int"),
    ],
)
def test_lists_of_clean_samples_that_cannot_be_meant(clean: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline({"transforms": [], "clean": clean}, CONTEXT)


def test_a_file_that_is_its_own_list_of_clean_samples(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps({**LISTED, "clean": "own.json"}))
    with pytest.raises(UsageError, match="clean inside"):
        AugmentConfig.load(tmp_path / "own.json")


def test_scanners_take_clean_samples_too_and_records_make_them_again() -> None:
    context = Context(shape=(16, 16), spacing=(1.0, 1.0))
    config = {**LISTED, "schedule": {"clean_share": 0.5}, "clean": LISTED, "scanners": {"profiles": ["ge-3t"]}}
    pipeline = Pipeline(config, context)
    plan = pipeline.plan([SampleKey(0, "case", 3, draw) for draw in range(8)])
    assert all(len(sample) > 2 for sample in plan.samples)
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    again = Plan.from_record(json.loads(json.dumps(plan.record)))
    assert pipeline.apply(images, None, plan)[0].equal(pipeline.apply(images, None, again)[0])


def test_both_lists_change_together(tmp_path: Path) -> None:
    config = AugmentConfig.load({**LISTED, "clean": LISTED})
    assert [e.name for e in config.with_entries(lambda entries: entries[:1]).clean.transforms] == ["rotate"]
    flips = {"transforms": [{"name": "flip"}, *LISTED["transforms"]]}
    settings = AugmentSettings(config={**flips, "clean": flips})
    assert [name for name, _ in settings.effective().flat()] == ["rotate", "contrast"] * 2
    group = {"transforms": [{"one_of": [{"name": "flip"}, {"name": "gamma"}]}]}
    with pytest.raises(UsageError, match="flip in a group"):
        AugmentSettings(config={**LISTED, "clean": group}).effective()
    named = AugmentSettings(config={**LISTED, "clean": "nnunet"})
    written = named.without_files()
    assert written.config["clean"] == {
        k: v for k, v in AugmentConfig.load("nnunet").to_dict().items() if k != "schedule"
    }
    assert written.written_out() == named.written_out()
