"""The configuration: strict, complete, with a hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_spine_ext.augment.config import AugmentConfig, Group, Schedule, preset_names
from nnunet_spine_ext.augment.profiles import load_profile
from nnunet_spine_ext.augment.transform import Transform, build, find
from nnunet_spine_ext.core.errors import UsageError

FULL = {
    "version": 1,
    "order": "random",
    "schedule": {"ramp_epochs": 10, "clean_share": 0.25},
    "transforms": [
        {"name": "gamma", "p": 0.3, "gamma": [0.7, 1.5]},
        {"one_of": [{"name": "sqrt", "p": 1}, {"name": "exp", "p": 2e-1}], "p": 0.2},
        {"some_of": [{"name": "sin"}, {"name": "gamma"}, {"name": "log1p"}], "count": [1, 2]},
    ],
}


def test_a_configuration_reads_back() -> None:
    config = AugmentConfig.load(FULL)
    again = AugmentConfig.load(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.hash == config.hash
    assert isinstance(config.transforms[1], Group)


def test_hash_follows_effect_not_spelling() -> None:
    assert (
        AugmentConfig.load({"transforms": [{"name": "gamma"}]}).hash
        == AugmentConfig.load({"order": "config", "transforms": [{"p": 0.3, "name": "gamma"}], "version": 1}).hash
    )
    assert (
        AugmentConfig.load({"transforms": [{"name": "gamma", "p": 0.31}]}).hash
        != AugmentConfig.load({"transforms": [{"name": "gamma"}]}).hash
    )


def test_streams_are_names_with_numbers_from_the_second_on() -> None:
    streams = [stream for stream, _ in AugmentConfig.load(FULL).flat()]
    assert streams == ["gamma", "sqrt", "exp", "sin", "gamma#2", "log1p"]


def test_files_and_presets(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("transforms:\n  - {name: gamma, p: 0.5}\n")
    assert AugmentConfig.load(path) == AugmentConfig.load({"transforms": [{"name": "gamma", "p": 0.5}]})
    assert AugmentConfig.load(str(path)) == AugmentConfig.load(path)
    assert AugmentConfig.load("none").transforms == ()
    for name in preset_names():
        assert AugmentConfig.load(name).hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformz": []}, "did you mean 'transforms'"),
        ({"order": "radom"}, "did you mean 'random'"),
        ({"version": 2}, "E-CONFIG-VALUE"),
        ({"transforms": {"name": "gamma"}}, "a list of transforms"),
        ({"transforms": ["gamma"]}, "a mapping"),
        ({"transforms": [{"p": 0.5}]}, "no name"),
        ({"transforms": [{"name": "gama"}]}, "did you mean 'gamma'"),
        ({"transforms": [{"name": "gamma", "gama": 1}]}, "did you mean 'gamma'"),
        ({"transforms": [{"name": "gamma", "p": 1.5}]}, "E-CONFIG-RANGE"),
        ({"transforms": [{"name": "gamma", "p": "often"}]}, "E-CONFIG-VALUE"),
        ({"transforms": [{"name": "gamma", "gamma": [2, 1]}]}, "lower bound"),
        ({"transforms": [{"name": "gamma", "gamma": 0}]}, "outside the limits"),
        ({"transforms": [{"name": "gamma", "where": "in_label"}]}, "E-CONFIG-VALUE"),
        ({"transforms": [{"name": "gamma", "where": {"in_label": 0.5}}]}, "did you mean 'in_labels'"),
        ({"transforms": [{"name": "gamma", "where": {"in_labels": 0.7, "out_labels": 0.7}}]}, "sum to at most 1"),
        ({"transforms": [{"name": "signal_equations", "sequences": ["t2"]}]}, "did you mean"),
        ({"transforms": [{"name": "domain_transfer", "domains": ["t2wx"]}]}, "did you mean 't2w'"),
        ({"transforms": [{"one_of": []}]}, "a list of transforms"),
        ({"transforms": [{"one_of": [{"name": "gamma", "p": 0}]}]}, "p above 0"),
        ({"transforms": [{"one_of": [{"name": "gamma"}], "count": 1}]}, "one of the two"),
        ({"transforms": [{"one_of": [{"one_of": [{"name": "gamma"}]}]}]}, "a group in a group"),
        ({"transforms": [{"some_of": [{"name": "gamma"}], "count": 2}]}, "outside the limits"),
        ({"transforms": [{"one_of": [{"name": "gamma"}], "p": [0, 1]}]}, "a number"),
        ({"schedule": {"ramp_epoch": 3}}, "did you mean 'ramp_epochs'"),
        ({"schedule": {"clean_share": 2}}, "0 to 1"),
        ({"schedule": {"ramp_epochs": -1}}, "0 or more"),
        ({"schedule": {"clean_stages": ["wrap"]}}, "did you mean 'warp'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AugmentConfig.load({**FULL, **change})


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="none"):
        AugmentConfig.load("nnoe")


def test_strength_rises_over_the_ramp() -> None:
    schedule = Schedule(ramp_epochs=10, start=0.2)
    assert schedule.strength(0) == pytest.approx(0.2)
    assert schedule.strength(5) == pytest.approx(0.6)
    assert schedule.strength(10) == schedule.strength(999) == 1
    share = Schedule(ramp_share=0.2)
    assert [share.strength(0, fraction) for fraction in (0, 0.1, 0.2, 1)] == pytest.approx([0, 0.5, 1, 1])
    assert share.strength(0) == 1, "the length of the training is unknown"
    assert Schedule(ramp_epochs=10, ramp_share=0.2).strength(2, 0.15) == pytest.approx(0.2), "the weaker counts"


def test_the_closing_phase_is_the_last_part() -> None:
    schedule = Schedule(closing_clean_share=0.1)
    assert [schedule.closing(f) for f in (None, 0.0, 0.89, 0.9, 1.0)] == [False, False, False, True, True]
    assert not Schedule().closing(1.0)


def test_a_transform_that_names_no_stage_is_not_registered() -> None:
    class Nothing(Transform):
        pass

    with pytest.raises(UsageError, match="E-AUG-NAME"):
        find("nothing")
    with pytest.raises(ValueError, match="unknown stage"):

        class Wrong(Transform, stage="tables"):
            pass


def test_numbers_and_lists_become_ranges_in_python_too() -> None:
    assert build("gamma", {"gamma": 1.2}).to_dict()["gamma"] == 1.2


@pytest.mark.parametrize(
    ("content", "use"),
    [
        ({"kind": "a sheet", "version": 1, "record": {}}, "--replay"),
        (load_profile("ge-1.5t").to_dict(), "scanners"),
        ({"GPU": {}}, "--import"),
        ({"CPU": {}}, "--import"),
        ({"RedistributeTransform": {"probability": 0.5}}, "--import"),
        ({"plans_name": "nnUNetPlans", "configurations": {}}, "--plans"),
    ],
)
def test_a_file_of_another_kind_is_told_what_takes_it(content: dict[str, Any], use: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=use) as caught:
        AugmentConfig.load(file)
    assert (caught.value.code, caught.value.file) == ("E-CONFIG-KIND", str(file))
    if use != "scanners":
        with pytest.raises(UsageError, match=use) as caught:
            load_profile(file)
        assert (caught.value.code, caught.value.file) == ("E-CONFIG-KIND", str(file))
