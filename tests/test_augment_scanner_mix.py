"""Scanners as a part of a configuration: each takes as many samples, whatever else the configuration does."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.profiles import parse_scanner, profile_names
from nnunet_spine_ext.augment.scanner_config import scanner_config
from nnunet_spine_ext.augment.scanner_mix import ScannerMix
from nnunet_spine_ext.core.errors import UsageError

CONTEXT = Context(shape=(8, 24, 20), spacing=(3.0, 1.0, 1.0), labels=tuple(range(15)))
REFERENCE = "nako-siemens-3t"


def keys(count: int, *, epoch: int = 0, seed: int = 3) -> list[SampleKey]:
    return [SampleKey(seed, f"case{k}", epoch, k) for k in range(count)]


def patches(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(count, 1, *CONTEXT.shape), torch.randint(0, 15, (count, 1, *CONTEXT.shape))


def test_the_preset_holds_the_six_profiles() -> None:
    config = AugmentConfig.load("scanners")
    assert config.scanners is not None
    assert list(config.scanners.names) == profile_names()
    assert len(config.scanners.names) == 6
    assert AugmentConfig.load(config.to_dict()) == config, "written out it means the same"


def test_configurations_without_scanners_keep_their_hash() -> None:
    assert AugmentConfig.load("shift").hash == "5d2a7772e3ce545b"
    assert "scanners" not in AugmentConfig.load("shift").to_dict()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_scanners_take_turns_in_an_order_that_changes(count: int) -> None:
    mix = ScannerMix.from_dict({"profiles": profile_names()[:count]})
    found = [mix.index(key) for key in keys(count * 20)]
    rounds = [found[k : k + count] for k in range(0, len(found), count)]
    assert all(sorted(turn) == list(range(count)) for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1
    assert found == [mix.index(key) for key in keys(count * 20)]
    assert found != [mix.index(key) for key in keys(count * 20, epoch=1)]


def test_the_case_does_not_matter_to_the_turn() -> None:
    mix = ScannerMix.from_dict({})
    assert [mix.index(SampleKey(1, case, 0, 4)) for case in ("a", "b")] == [mix.index(SampleKey(1, "c", 0, 4))] * 2


def test_a_sample_is_taken_as_the_scanner_takes_it() -> None:
    config = AugmentConfig.load({"scanners": {"profiles": [REFERENCE, "ge-1.5t"]}})
    pipeline, chosen = Pipeline(config, CONTEXT), keys(6)
    images, labels = patches(6)
    out, _ = pipeline(images, labels, chosen)
    assert config.scanners is not None
    for k, key in enumerate(chosen):
        if config.scanners.names[config.scanners.index(key)] == REFERENCE:
            assert torch.equal(out[k], images[k]), "the reference changes nothing"
            continue
        single = Pipeline(scanner_config(parse_scanner("ge-1.5t"), spacing=CONTEXT.spacing), CONTEXT)
        expected, _ = single(images[k : k + 1], labels[k : k + 1], [key])
        assert torch.allclose(out[k], expected[0], atol=1e-5)


def test_neither_ramp_nor_clean_samples_take_the_scanner_away() -> None:
    schedule = {"ramp_epochs": 100, "clean_share": 1.0}
    config = AugmentConfig.load({"schedule": schedule, "transforms": [{"name": "gamma", "p": 1.0}], "scanners": {}})
    plan = Pipeline(config, CONTEXT).plan(keys(12))
    assert config.scanners is not None
    quiet = [
        config.scanners.names[config.scanners.index(k)] for k, s in zip(plan.keys, plan.samples, strict=True) if not s
    ]
    assert Counter(quiet) == {REFERENCE: 2}


def test_a_record_replays_scanners() -> None:
    pipeline = Pipeline("scanners", CONTEXT)
    images, labels = patches(6)
    plan = pipeline.plan(keys(6))
    again = Plan.from_record(plan.record)
    assert torch.equal(pipeline.apply(images, labels, plan)[0], pipeline.apply(images, labels, again)[0])


def test_another_scanner_takes_the_same_sample() -> None:
    config = AugmentConfig.load("scanners")
    mix = config.scanners
    assert mix is not None
    first = keys(60)
    second = [mix.other(key) for key in first]
    pairs = [(mix.index(a), mix.index(b)) for a, b in zip(first, second, strict=True)]
    assert all(a != b for a, b in pairs)
    assert {b for _, b in pairs} == set(range(6)), "any of the others"
    pipeline = Pipeline(config, CONTEXT)
    plans = [pipeline.plan(side) for side in (first, second)]
    geometry = [
        [[a.params for a in sample if a.name in ("rotate", "scale", "flip")] for sample in plan.samples]
        for plan in plans
    ]
    assert any(geometry[0])
    assert geometry[0] == geometry[1], "positions of the two are the same"
    images, labels = patches(60)
    again = Plan.from_record(json.loads(json.dumps(plans[1].record)))
    assert torch.equal(pipeline.apply(images, labels, plans[1])[0], pipeline.apply(images, labels, again)[0])


def test_a_scanner_that_a_mix_does_not_have_is_refused() -> None:
    mix = ScannerMix.from_dict({"profiles": ["ge-3t", "ge-1.5t"]})
    for number in (-1, 2):
        with pytest.raises(UsageError, match="0 to 1"):
            mix.index(SampleKey(0, "a", 0, 0, scanner=number))
    with pytest.raises(UsageError, match="two at least"):
        ScannerMix.from_dict({"profiles": ["ge-3t"]}).other(SampleKey(0, "a", 0, 0))


def test_two_scanners_do_not_see_the_same_noise() -> None:
    config = AugmentConfig.load({"scanners": {"profiles": ["ge-1.5t", "philips-1.5t"], "jitter": 0.2}})
    assert config.scanners is not None
    key = SampleKey(0, "a", 0, 0)
    plan = Pipeline(config, CONTEXT).plan([key, config.scanners.other(key)])
    seeds = [{a.params["seed"] for a in sample if "seed" in a.params} for sample in plan.samples]
    assert all(seeds)
    assert not seeds[0] & seeds[1]


def test_severity_zero_changes_nothing() -> None:
    config = AugmentConfig.load({"scanners": {"severity": 0}})
    assert not any(Pipeline(config, CONTEXT).plan(keys(6)).samples)


def test_jitter_varies_what_a_scanner_does() -> None:
    one = [SampleKey(0, case, 0, 0) for case in "ab"]
    for jitter, equal in ((0.0, True), (0.5, False)):
        config = AugmentConfig.load({"scanners": {"profiles": ["siemens-1.5t"], "jitter": jitter}})
        plan = Pipeline(config, CONTEXT).plan(one)
        first, second = ({a.name: a.params.get("sigma", a.params.get("gamma")) for a in s} for s in plan.samples)
        assert (first == second) == equal


def test_a_profile_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shipped = ScannerMix.from_dict({"profiles": ["ge-3t"]}).profiles[0].to_dict()
    path.write_text("\n".join(f"{key}: {value!r}" for key, value in (shipped | {"name": "mine"}).items()))
    config = AugmentConfig.load({"scanners": {"profiles": [str(path), "ge-3t"]}})
    path.unlink()
    written = AugmentConfig.load(config.to_dict()).scanners
    assert written is not None
    assert written.names == ("mine", "ge-3t"), "plans need no file"


def test_each_component_has_a_severity_in_trainings_too() -> None:
    one = {"profiles": ["ge-1.5t"], "severity": {"noise": 0, "bias": 2.5}}
    config = AugmentConfig.load({"scanners": one})
    assert config.scanners is not None
    (scanner,) = config.scanners.scanners
    assert scanner == parse_scanner("ge-1.5t:noise=0:bias=2.5")
    assert AugmentConfig.load(json.loads(json.dumps(config.to_dict()))) == config
    names = {a.name for a in Pipeline(config, CONTEXT).plan(keys(1)).samples[0]}
    without = {"profiles": ["ge-1.5t"], "severity": {"noise": 0, "bias": 0}}
    fewer = {a.name for a in Pipeline({"scanners": without}, CONTEXT).plan(keys(1)).samples[0]}
    assert names - fewer == {"bias_spline"}


def test_a_profile_may_have_severities_of_its_own_or_lie_between_two() -> None:
    texts = ["ge-1.5t", "ge-1.5t:all=0:noise=2", "ge-3t..philips-1.5t@0.25"]
    mix = ScannerMix.from_dict({"profiles": texts})
    assert mix.names == tuple(parse_scanner(text).text for text in texts)
    for text, scanner in zip(texts, mix.scanners, strict=True):
        assert replace(scanner.shifted, name="", description="") == replace(
            parse_scanner(text).shifted, name="", description=""
        )
    assert ScannerMix.from_dict(mix.to_dict()) == mix


def test_weights_say_how_often_a_scanner_is_drawn() -> None:
    mix = ScannerMix.from_dict({"profiles": ["ge-3t", "ge-1.5t", "philips-3t"], "weights": [3, 0, 1]})
    found = Counter(mix.index(key) for key in keys(2000))
    assert set(found) == {0, 2}
    assert found[0] / 2000 == pytest.approx(0.75, abs=0.04)
    assert {mix.index(mix.other(key)) for key in keys(200)} == {0, 2}
    alone = ScannerMix.from_dict({"profiles": ["ge-3t", "ge-1.5t"], "weights": [1, 0], "blend": 0.5})
    assert {alone.scanner(key) for key in keys(20)} == {alone.scanners[0]}
    with pytest.raises(UsageError, match="two at least"):
        alone.other(keys(1)[0])
    assert ScannerMix.from_dict(mix.to_dict()) == mix


def test_blended_samples_lie_between_their_scanner_and_another() -> None:
    given = {"profiles": [REFERENCE, "siemens-1.5t"], "blend": 0.5}
    mix = ScannerMix.from_dict(given)
    field = [mix.scanner(key).shifted.field_strength for key in keys(60)]
    own = [mix.scanners[mix.index(key)].shifted.field_strength for key in keys(60)]
    middle = (3.0 * 1.5) ** 0.5
    assert all(abs(a - b) <= abs(middle - b) + 1e-9 for a, b in zip(field, own, strict=True)), "nearest to their own"
    assert len({round(value, 3) for value in field}) > 30
    config = AugmentConfig.load({"scanners": given})
    pipeline = Pipeline(config, CONTEXT)
    images, labels = patches(6)
    plan = pipeline.plan(keys(6))
    assert all(plan.samples), "samples of the reference, too, have something of the other scanner"
    again = Plan.from_record(json.loads(json.dumps(plan.record)))
    assert torch.equal(pipeline.apply(images, labels, plan)[0], pipeline.apply(images, labels, again)[0])
    assert AugmentConfig.load(config.to_dict()) == config


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"profils": []}, "profils"),
        ({"profiles": ["ge-3"]}, "did you mean 'ge-3t'"),
        ({"profiles": []}, "none"),
        ({"profiles": ["ge-3t", "ge-3t"]}, "ge-3t more than once"),
        ({"profiles": "ge-3t"}, "a list"),
        ({"severity": 5}, "0 to 4"),
        ({"severity": True}, "a number"),
        ({"severity": {"nois": 2}}, "did you mean 'noise'"),
        ({"severity": {"noise": 5}}, "0 to 4"),
        ({"profiles": ["ge-3t:nois=2"]}, "did you mean 'noise'"),
        ({"profiles": ["ge-3t", "ge-1.5t"], "weights": [1]}, "2 of 0 or more"),
        ({"profiles": ["ge-3t", "ge-1.5t"], "weights": [0, 0]}, "one of them above 0"),
        ({"weights": "even"}, "a list of numbers"),
        ({"blend": 0.6}, "0 to 0.5"),
        ({"profiles": ["ge-1.5t:noise=2"], "severity": {"noise": 1.5}}, "one of the two"),
        ({"jitter": 1.0}, "0 to 0.9"),
        ({"weighting": "no"}, "true or false"),
        ([], "a mapping"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        AugmentConfig.load({"scanners": wrong})


def test_files_of_profiles_lie_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = parse_scanner("ge-1.5t").profile.to_dict()
    for folder, noise in ((tmp_path / "sub", 0.05), (tmp_path, 0.03)):
        folder.mkdir(exist_ok=True)
        (folder / "ours.yaml").write_text(json.dumps({**numbers, "name": "ours", "noise": noise}))
    (tmp_path / "sub" / "mix.json").write_text(
        json.dumps({"scanners": {"profiles": ["ours.yaml", "ours.yaml:bias=0"]}})
    )
    monkeypatch.chdir(tmp_path)
    mix = AugmentConfig.load("sub/mix.json").scanners
    assert mix is not None
    assert [profile.noise for profile in mix.profiles] == pytest.approx([0.05, 0.05])
    assert ScannerMix.from_dict({"profiles": ["ours.yaml"]}).profiles[0].noise == 0.03
