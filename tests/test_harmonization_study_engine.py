"""Configurations, steps, test slices and scores of an evaluation of harmonization, without any training."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_spine_ext.core.errors import CaseError, NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.harmonize.cyclegan.settings import RadiomicSettings, read_settings
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, read_harmonizer, write_harmonizer
from nnunet_spine_ext.harmonize.segmenting.settings import read_settings as read_segmenter_settings
from nnunet_spine_ext.harmonize.selection import SELECTION_FILE
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import SliceFacts, SliceSet
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.study.assemble import assemble as assemble_study
from nnunet_spine_ext.study.config import read_config as read_study_config
from nnunet_spine_ext.study.harmonization import scoring, testing
from nnunet_spine_ext.study.harmonization.arms import ARMS
from nnunet_spine_ext.study.harmonization.assemble import assemble
from nnunet_spine_ext.study.harmonization.collect import collect
from nnunet_spine_ext.study.harmonization.config import HarmonizationConfig, preset_names, read_config
from nnunet_spine_ext.study.harmonization.data import RAW, make_vendor
from nnunet_spine_ext.study.harmonization.run import evaluate
from nnunet_spine_ext.study.harmonization.testing import pairs_of, read_saved, save_slices, to_show
from nnunet_spine_ext.study.harmonization.trained import harmonizer_settings
from nnunet_spine_ext.study.steps import Ledger, Outcome

ROLES = {"ours": "target", "theirs": "source", "new": "unseen"}
CUT = SliceSettings(size=(64, 64), spacing=2.0)


def _slices() -> SliceSet:
    """Two patients of each vendor, two slices each: bright discs on grey, vendors differ in brightness."""
    facts, images, masks = [], [], []
    y, x = np.indices((64, 64))
    for vendor_number, vendor in enumerate(ROLES):
        for patient in range(2):
            for index in range(2):
                disc = ((y - 4 * patient) % 16 < 4 + index) & (abs(x - 32) < 9)
                images.append(np.where(disc, 200.0, 60.0 + 30 * vendor_number) + (x + y) % 7)
                masks.append(disc.astype(np.uint8))
                position = 4.0 * index
                facts.append(
                    SliceFacts("D", f"{vendor}{patient}", f"{vendor}-{patient}", vendor, index, position, True)
                )
    return SliceSet(np.stack(images).astype(np.float32), np.stack(masks), tuple(facts), (2.0, 2.0))


class _Threshold:
    """A segmenter that takes everything above 190 for disc."""

    name, digest, spacing = "threshold", "0", 2.0

    def __call__(self, images: Tensor) -> Tensor:
        return torch.sigmoid((images - 190.0) / 2.0)


class _Darker:
    """A harmonizer that takes something away, so that all discs are lost."""

    def __call__(self, images: Tensor) -> Tensor:
        return (images - 50.0).clamp(0, 255)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with test slices; models are stand-ins."""
    save_slices(tmp_path / testing.TEST_SLICES, _slices(), ROLES, CUT)
    monkeypatch.setattr(scoring, "_segmenter", lambda *_: _Threshold())
    monkeypatch.setattr(scoring, "_harmonizer", lambda *_: _Darker())
    return tmp_path


def _score(study: Path, arm: str, **others: Any) -> dict[str, list[dict[str, Any]]]:
    arguments: dict[str, Any] = {
        "arm": arm, "scores": f"{arm}.json", "harmonizer": None if arm == "none" else "model", "segmenters": {"a": "a"},
        "main": "a", "radiomics": RadiomicSettings(roi=(64, 24)), "show": True, "device": "cpu",
    }  # fmt: skip
    scoring.score_arm(study, **(arguments | others))
    content: dict[str, list[dict[str, Any]]] = read_json(study / f"{arm}.json")
    return content


def test_all_presets_can_be_read_and_assembled(tmp_path: Path) -> None:
    assert set(preset_names()) == {"cpu", "full", "smoke"}
    for name in preset_names():
        made = assemble(read_config(name), tmp_path)
        steps = [step.name for step in made.steps]
        assert len(set(steps)) == len(steps)
        for place, step in enumerate(made.steps):
            assert set(step.needs) <= set(steps[:place]), step.name


@pytest.mark.parametrize("name", ["cpu", "full", "smoke"])
def test_no_two_segmenters_of_a_preset_are_the_same(name: str) -> None:
    plans = read_config(name).segmenters.values()
    networks = [read_segmenter_settings(plan.preset, plan.settings).network for plan in plans]
    assert len({repr(network) for network in networks}) == len(networks)


def test_features_of_an_earlier_configuration_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / SELECTION_FILE).write_text("{}")
    made, ledger = assemble(read_config("smoke"), tmp_path), Ledger(tmp_path)
    for step in made.steps:
        ledger.key(step)
    collect(tmp_path, made, ledger, Outcome())
    assert not (tmp_path / SELECTION_FILE).exists()


@pytest.mark.parametrize("travelling", [True, False])
def test_phantoms_to_test_on_are_nobody_who_is_trained_on(tmp_path: Path, travelling: bool) -> None:
    config = read_config("smoke", [f"phantoms.travelling={str(travelling).lower()}"])
    subjects: dict[str, set[str]] = {}
    made = assemble(config, tmp_path)
    for step in made.steps:
        if step.work is make_vendor:
            arguments = {**step.arguments, "spines": 1}
            make_vendor(**arguments)
            folder = next((tmp_path / RAW).glob(f"Dataset{arguments['dataset']:03d}_*"))
            rows = read_json(folder / "cases.json")["cases"].values()
            subjects[arguments["title"]] = {row["subject"] for row in rows}
    trained = set().union(*(names for title, names in subjects.items() if title.endswith("Training")))
    tested = [names for title, names in subjects.items() if title.endswith("Test")]
    assert trained
    assert len(tested) > 1
    assert not trained & set().union(*tested)
    assert len(set().union(*tested)) == (1 if travelling else len(tested))


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = evaluate(tmp_path / "new", preset="smoke", dry_run=True)
    assert "train full, seed 0" in (result.planned or [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("arms=[nyul]", "nyul"),
        ("arms=[none, nyull]", "nyull"),
        ("arms=[none, none]", "none"),
        ("seeds=[]", "[]"),
        ("segmenter=deep", "deep"),
        ("segmenters={}", "none"),
        ("phantoms.sources=[]", "siemens-essenza alone"),
        ("phantoms.sources=[philips-interra]", "philips-interra"),
        ("phantoms.unseen=[siemens-essenza]", "siemens-essenza"),
        ("phantoms.test=1", "1"),
        ("by_arm={whole: []}", "whole"),
        ("given={datasets: [a], target: [b]}", "both"),
        ("bootstrap=-1", "-1"),
        ("phantom.test=2", "phantom"),
        ("segmenters.unet.settings=[slices.spacing=1.0]", "slices.spacing=1.0"),
        ("harmonizer.settings=[slices.scaling=minmax]", "slices.scaling=minmax"),
        ("by_arm={nyul: [slices.fit=resize]}", "slices.fit=resize"),
        ("by_arm={nyul: [epochs=3]}", "by_arm.nyul epochs"),
        ("by_arm={none: [epochs=3]}", "by_arm.none"),
        ("harmonizer.settings=[baseline.region=slice]", "harmonizer.settings baseline.region"),
        ("phantoms.unseen=[Siemens-Essenza]", "Siemens-Essenza"),
    ],
)
def test_wrong_configurations_are_refused_with_what_was_found(assignment: str, found: str) -> None:
    with pytest.raises(UsageError) as error:
        read_config("smoke", [assignment])
    assert found in str(error.value)


def test_a_fault_is_looked_for_where_it_is(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("phantoms: {sources: [philips-intera]}\n")
    bad.write_text("phantoms: {sources: [philips-intera], sauce: 1}\n")
    for path, assignments, blamed in (
        ("smoke", ["phantoms.sauce=1"], "--set: phantoms"),
        (str(good), ["seed=3"], "--set"),
        (str(good), ["arms=[nyul]"], "--set: arms"),
        (str(bad), [], f"{bad}: phantoms"),
        (str(bad), ["bootstrap=10"], f"{bad}: phantoms"),
    ):
        with pytest.raises(UsageError) as error:
            read_config(path, assignments)
        assert error.value.file == blamed


def test_unknown_presets_name_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        read_config("smok")
    assert "smoke" in error.value.fix


def test_arms_switch_off_what_they_are_without() -> None:
    config = read_config("cpu")
    trained = [arm for arm in ARMS.values() if arm.kind == "cyclegan"]
    found = {arm.name: read_settings(*harmonizer_settings(config, arm, 3)) for arm in trained}
    whole = found["full"]
    assert whole.seed == 3
    assert whole.slices == config.slices
    assert (whole.weights.target_dice, whole.weights.source_dice, whole.weights.radiomics) == (20.0, 10.0, 10.0)
    assert not found["cyclegan"].weights.segmented
    assert found["cyclegan"].weights.radiomics == 0
    assert (found["rf"].weights.segmented, found["rf"].weights.radiomics) == (False, 10.0)
    assert (found["seg"].weights, found["seg"].dice_terms) == (replace(whole.weights, radiomics=0), whole.dice_terms)
    assert (found["sy"].weights.target_dice, found["sy"].weights.source_dice) == (20.0, 0)
    assert set(found["no-cycle"].dice_terms) == {"identity", "harmonization"}
    assert set(found["no-identity"].dice_terms) == {"cycle", "harmonization"}
    assert set(found["no-harmonization"].dice_terms) == {"cycle", "identity"}


def test_a_changed_setting_touches_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    def keys(config: HarmonizationConfig) -> dict[str, str]:
        ledger = Ledger(tmp_path)
        return {step.name: ledger.key(step) for step in assemble(config, tmp_path).steps}

    def changed(assignment: str) -> set[str]:
        before, after = keys(read_config("smoke")), keys(read_config("smoke", [assignment]))
        return {name for name, key in after.items() if before.get(name) != key}

    assert changed("by_arm={full: [epochs=3]}") == {"train full, seed 0", "score full, seed 0"}
    assert not changed("bootstrap=7")
    tested = changed("phantoms.test=3")
    assert "cut slices to test on" in tested
    assert not any(name.startswith(("train", "fit")) for name in tested)
    assert not any("Training" in name for name in tested)
    judged = changed("segmenters.unet.settings=[epochs=3]")
    assert {"train segmenter unet, seed 0", "train full, seed 0", "score nyul, seed 0"} <= judged
    assert not any(name.startswith(("scan", "train segmenter small")) for name in judged)


def test_slices_come_back_as_they_were_saved(tmp_path: Path) -> None:
    slices = _slices()
    save_slices(tmp_path / "slices.npz", slices, ROLES, CUT)
    first = (tmp_path / "slices.npz").read_bytes()
    save_slices(tmp_path / "slices.npz", slices, ROLES, CUT)
    assert (tmp_path / "slices.npz").read_bytes() == first
    found, roles, settings = read_saved(tmp_path / "slices.npz")
    assert settings == CUT
    assert roles == ROLES
    assert found.facts == slices.facts
    assert np.array_equal(found.images, slices.images)
    (tmp_path / "slices.npz").write_bytes(b"nothing")
    with pytest.raises(CaseError) as error:
        read_saved(tmp_path / "slices.npz")
    assert error.value.code == "E-STUDY-TABLE"


def test_pairs_are_target_slices_of_other_patients_in_the_same_place() -> None:
    slices = _slices()
    pairs = pairs_of(slices, ROLES)
    assert set(pairs) == set(range(len(slices)))
    for ours, theirs in pairs.items():
        own, other = slices.facts[ours], slices.facts[theirs]
        assert other.vendor == "ours"
        assert own.subject != other.subject
        assert own.position == other.position
        if own.vendor != "ours":
            assert own.subject[-1] == other.subject[-1]


def test_patients_whom_the_target_scanned_too_are_compared_with_themselves() -> None:
    slices = _slices()
    facts = tuple(replace(fact, subject=fact.subject[-1]) for fact in slices.facts)
    same = SliceSet(slices.images, slices.masks, facts, slices.spacing)
    for ours, theirs in pairs_of(same, ROLES).items():
        own, other = facts[ours], facts[theirs]
        assert other.vendor == "ours"
        assert (own.subject == other.subject) == (own.vendor != "ours")
        assert own.position == other.position


def test_one_slice_per_vendor_is_shown_the_target_first() -> None:
    slices = _slices()
    chosen = to_show(slices, ROLES)
    assert [slices.facts[row].vendor for row in chosen] == ["ours", "theirs", "new"]
    # The second slice has more disc.
    assert {slices.facts[row].index for row in chosen} == {1}


def test_slices_as_they_are_are_scored_with_every_segmenter(study: Path) -> None:
    found = _score(study, "none", segmenters={"a": "a", "b": "b"})
    assert len(found["segmentation"]) == 2 * len(_slices())
    assert {row["segmenter"] for row in found["segmentation"]} == {"a", "b"}
    assert {row["role"] for row in found["radiomics"]} == {"target", "source", "unseen"}
    assert not found["geometry"]
    assert all(row["f1"] == 1.0 and 0.9 < row["dice"] < 1 for row in found["segmentation"])


def test_a_harmonizer_that_loses_discs_is_found_out(study: Path) -> None:
    found = _score(study, "full")
    assert {row["role"] for row in found["segmentation"]} == {"source", "unseen"}
    assert all(row["recall"] == 0.0 and row["reference_pixels"] > 0 for row in found["segmentation"])
    assert all(row["volume_change"] == pytest.approx(1.0) for row in found["geometry"])
    assert not any(row["passed"] for row in found["geometry"])
    assert all("disc" in row["why"] or "area" in row["why"] for row in found["geometry"])
    # A shift of grey values alone moves no edge.
    assert all(row["edge_correlation"] > 0.99 for row in found["geometry"])


def test_errors_of_features_are_those_against_the_pair(study: Path) -> None:
    found = _score(study, "none")
    assert len(found["radiomics"]) == 5 * len(_slices())
    for row in found["radiomics"]:
        assert row["error"] == pytest.approx(abs(row["value"] - row["reference"]) / abs(row["reference"]))
    again = _score(study, "none")
    assert json.dumps(again) == json.dumps(found)


def _cut(study: Path, monkeypatch: pytest.MonkeyPatch, slices: SliceSet, **others: Any) -> dict[str, Any]:
    monkeypatch.setattr(testing, "read_slices", lambda *_args, **_kwargs: slices)
    monkeypatch.setattr(testing, "slices_of", lambda *_args, **_kwargs: CUT)
    arguments: dict[str, Any] = {
        "datasets": ["scans"], "part": "Tr", "key": "vendor", "target": ["Ours"], "unseen": ["new"], "values": None,
        "slices": SliceSettings(spacing=2.0), "grid": "segmenter", "trained": [],
    }  # fmt: skip
    return testing.cut_slices(study, **(arguments | others))


def test_slices_without_discs_are_not_tested_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = _slices()
    assert slices.masks is not None
    slices.masks[0] = 0
    said = _cut(tmp_path, monkeypatch, slices)
    assert said["slices"] == {"new": 4, "ours": 3, "theirs": 4}
    found, roles, _ = read_saved(tmp_path / testing.TEST_SLICES)
    assert len(found) == 11
    assert roles == ROLES


def test_test_scans_without_discs_or_of_one_vendor_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = _slices()
    empty = SliceSet(slices.images, np.zeros(slices.images.shape, np.uint8), slices.facts, slices.spacing)
    for bad in (empty, slices.subset([0, 1, 2]), slices.subset([4, 5, 6])):
        with pytest.raises(NoInputError) as error:
            _cut(tmp_path, monkeypatch, bad)
        assert error.value.code == "E-STUDY-DATA"


def test_nobody_is_trained_and_tested_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    rows = {"a": {"subject": "ours-0"}, "b": {"subject": "else"}, "c": {"subject": "theirs-1", "test": True}}
    (folder / "cases.json").write_text(json.dumps({"cases": rows}))
    with pytest.raises(CaseError) as error:
        _cut(tmp_path, monkeypatch, _slices(), trained=["training"])
    assert error.value.code == "E-STUDY-SUBJECTS"
    assert "ours-0" in error.value.found
    assert "theirs-1" not in error.value.found


# --- the strategy of the cross-scanner study -------------------------------------------------


def _harmonizer(folder: Path) -> Path:
    model = HarmonizerModel("cyclegan", SliceSettings(spacing=2.0), (2.0, 2.0), ("a",))
    write_harmonizer(folder, model, {"generator.safetensors": {"w": torch.zeros(1)}})
    return folder


def test_the_study_harmonizes_where_a_harmonizer_is_given(tmp_path: Path) -> None:
    made = assemble_study(read_study_config(None, "smoke"), tmp_path)
    assert "models.harmonizer" in made.unavailable["harmonized"]
    folder = _harmonizer(tmp_path / "model")
    config = read_study_config(None, "smoke", [f"models.harmonizer={folder}"])
    made = assemble_study(config, tmp_path)
    assert "harmonized" not in made.unavailable
    run = next(run for run in made.runs if run.strategy == "harmonized")
    step = next(step for step in made.steps if step.name == run.predict)
    options = step.arguments["options"]
    assert options["harmonize_model"] == str(folder)
    assert (options["match"], options["tta"], options["adapt"]) == ("cyclegan", "none", "none")
    assert set(options) <= set(inspect.signature(predict).parameters)
    others = [s for s in made.steps if s.work is step.work and s is not step]
    assert not any("harmonize_model" in s.arguments["options"] for s in others)


def test_another_harmonizer_is_another_prediction(tmp_path: Path) -> None:
    folder = _harmonizer(tmp_path / "model")
    config = read_study_config(None, "smoke", [f"models.harmonizer={folder}"])

    def keys() -> dict[str, str]:
        ledger = Ledger(tmp_path)
        return {step.name: ledger.key(step) for step in assemble_study(config, tmp_path).steps}

    before = keys()
    write_harmonizer(folder, replace(read_harmonizer(folder), key="model"), {"generator.safetensors": {}})
    after = keys()
    changed = {name for name in after if before[name] != after[name]}
    assert changed == {"predict harmonized, seed 0", "score harmonized, seed 0"}


def test_a_folder_that_is_no_harmonizer_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as error:
        assemble_study(read_study_config(None, "smoke", [f"models.harmonizer={tmp_path}"]), tmp_path / "out")
    assert error.value.code == "E-MODEL-HARMONIZER"


def test_a_baseline_in_place_of_a_network_stops_the_study_before_its_first_step(tmp_path: Path) -> None:
    write_harmonizer(tmp_path, HarmonizerModel("nyul", SliceSettings(spacing=2.0), (2.0, 2.0), ("a",)), {})
    with pytest.raises(SetupError) as error:
        assemble_study(read_study_config(None, "smoke", [f"models.harmonizer={tmp_path}"]), tmp_path / "out")
    assert error.value.code == "E-MATCH-HARMONIZER"
