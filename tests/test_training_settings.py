"""Settings under plans["spine_ext"]: what is refused, what the hash sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from house import ROOT

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.core.config import set_by_path, to_dict
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.losses.domain import DomainLossSettings
from nnunet_spine_ext.losses.registry import LossSettings
from nnunet_spine_ext.training.domain_settings import DomainSettings
from nnunet_spine_ext.training.finetune_settings import FinetuneSettings
from nnunet_spine_ext.training.presets import NetworkPreset, PatchPreset, preset_names
from nnunet_spine_ext.training.settings import (
    AugmentSettings,
    SoftSettings,
    SpineSettings,
    TrainSettings,
    settings_from_plans,
    settings_hash,
    store_settings,
)


def plans_with(**content: Any) -> dict[str, Any]:
    return {"plans_name": "toy", "spine_ext": content}


def test_no_settings_are_the_default_settings() -> None:
    assert settings_from_plans({}) == SpineSettings()
    assert settings_from_plans(plans_with()).train == TrainSettings()


def test_stored_settings_come_back(recwarn: pytest.WarningsRecorder) -> None:
    settings = SpineSettings(preset="cpu", train=TrainSettings(num_epochs=3, seed=1))
    plans: dict[str, Any] = {}
    store_settings(plans, settings)
    assert settings_from_plans(plans) == settings
    assert not recwarn.list


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"train": {"num_epoch": 3}}, "did you mean 'num_epochs'?"),
        ({"trian": {}}, "did you mean 'train'?"),
        ({"predict": {"instance": True}}, "did you mean 'instances'?"),
        ({"train": {"optimizer": "admw"}}, "did you mean 'adamw'?"),
        ({"augment": {"clean_shar": 0.5}}, "did you mean 'clean_share'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(content: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError, match="plans toy spine_ext") as caught:
        settings_from_plans(plans_with(**content))
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    "train",
    [
        {"num_epochs": "many"},
        {"num_epochs": 2.5},
        {"num_epochs": True},
        {"mirror": 1},
        {"initial_lr": "fast"},
        {"initial_lr": False},
        {"seed": "1e3"},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(train: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        settings_from_plans(plans_with(train=train))
    assert caught.value.code == "E-CONFIG-VALUE"
    assert next(iter(train)) in caught.value.file


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("3E4", 3e4), ("1.5e-3", 1.5e-3), ("2", 2.0)])
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    content: dict[str, Any] = {}
    set_by_path(content, f"train.initial_lr={text}")
    assert settings_from_plans(plans_with(**content)).train.initial_lr == value


def test_the_hash_of_no_settings_is_that_of_the_defaults() -> None:
    plans: dict[str, Any] = {}
    store_settings(plans, SpineSettings())
    assert settings_hash(plans) == settings_hash({}) == settings_hash(plans_with(train={"num_epochs": 1000}))


def test_the_hash_sees_training_and_not_what_leaves_the_weights_alone() -> None:
    base = settings_hash({})
    for content in (
        {"predict": {"instances": True}},
        {"data": {"scheme": "nnunet14", "sided_labels": [[4, 5]]}},
        {"reference": {"0": {"cases": 4}}},
        {"train": {"precision": "fp32"}},
    ):
        assert settings_hash(plans_with(**content)) == base, content
    trainings = ({"num_epochs": 999}, {"seed": 0}, {"precision": "auto"})
    for content in (*({"train": values} for values in trainings), {"preset": "cpu"}):
        assert settings_hash(plans_with(**content)) != base, content


def settings_of(kind: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield keys and defaults of a dataclass; of groups within it, except a loss, those of the group."""
    for item in fields(kind):
        group = get_type_hints(kind)[item.name]
        if is_dataclass(group) and item.name != "loss":
            yield from settings_of(group, f"{prefix}.{item.name}")
        else:
            yield f"{prefix}.{item.name}", item.default


def test_the_reference_page_lists_every_setting_with_its_default() -> None:
    rows, section = {}, ""
    for line in (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        # The networks of instances, levels and slices have settings of their own, with keys of the same kind.
        others = ("Instance", "Fusion", "Numbering", "Harmonizer", "Slice")
        if line.startswith("| `") and not section.startswith(others):
            key, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[key.strip("`")] = rest
    parts = {
        "train": TrainSettings, "augment": AugmentSettings, "soft": SoftSettings, "soft.loss": LossSettings,
        "predict": PredictSettings, "domain": DomainSettings, "domain.loss": DomainLossSettings,
    }  # fmt: skip
    for prefix, kind in parts.items():
        for key, default in settings_of(kind, prefix):
            if key.endswith(".loss"):
                continue
            cell = rows[key][0]
            # As YAML, `off` would be False.
            stated = cell if isinstance(default, str) else yaml.safe_load(cell)
            stated = tuple(stated) if isinstance(default, tuple) else stated
            assert (float(stated) if isinstance(default, float) else stated) == default, key
    wanted = {f"network.{f.name}" for f in fields(NetworkPreset)} | {f"patch.{f.name}" for f in fields(PatchPreset)}
    missing = (
        wanted | {"batch_size", "spacing"} | {f.name for f in fields(SpineSettings)} | set(preset_names())
    ) - set(rows)
    assert missing <= {"version", "train", "augment", "soft", "domain", "predict"}, missing
    assert {f"finetune.{f.name}" for f in fields(FinetuneSettings)} <= set(rows)
    kinds = {"train": TrainSettings, "augment": AugmentSettings, "predict": PredictSettings}
    known = {key for prefix, kind in kinds.items() for key, _ in settings_of(kind, prefix)}
    assert {key for key in rows if key.startswith(("train.", "augment.", "predict."))} == known


def test_the_hash_sees_the_effect_of_an_augmentation_and_not_how_it_was_written() -> None:
    settings = AugmentSettings(config={"transforms": [{"name": "gamma"}]}, clean_share=0.25)
    hashes = [settings_hash(plans_with(augment=to_dict(s))) for s in (settings, settings.written_out())]
    assert hashes[0] == hashes[1]
    other = {"config": {"transforms": [{"name": "gamma", "p": 0.9}]}, "clean_share": 0.25}
    assert len({*hashes, settings_hash({}), settings_hash(plans_with(augment=other))}) == 3


def test_a_preset_written_out_needs_no_preset(tmp_path: Path) -> None:
    named = AugmentSettings(config="shift")
    assert AugmentConfig.load(named.written_out().config) == AugmentConfig.load("shift")
    assert named.without_files() == named, "presets may be improved until the training starts"
    file = tmp_path / "mine.yaml"
    file.write_text("transforms: [{name: gamma}]")
    inside = AugmentSettings(config=str(file)).without_files()
    file.unlink()
    assert [t.name for t in inside.effective().transforms] == ["gamma"]
