"""Studies in bfloat16: what their trainings and predictions are told, and that nothing of two precisions is mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from model_builder import make_image, make_model

from nnunet_spine_ext.core.device import BF16_VERSION
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.journal import RUN
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.networks import precision
from nnunet_spine_ext.study.assemble import assemble
from nnunet_spine_ext.study.config import StudyConfig, read_config
from nnunet_spine_ext.study.images import images_of
from nnunet_spine_ext.study.models import models_of
from nnunet_spine_ext.study.steps import Ledger, Step

Steps = dict[str, Step]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives this machine's processor other instructions."""
    return lambda *flags: monkeypatch.setattr(precision, "_instructions", lambda: set(flags))


def steps(config: StudyConfig, folder: Path) -> Steps:
    return {step.name: step for step in assemble(config, folder).steps}


def keys(config: StudyConfig, folder: Path) -> dict[str, str]:
    ledger = Ledger(folder)
    return {name: ledger.key(step) for name, step in steps(config, folder).items()}


def test_auto_tells_trainings_and_predictions(processor: Callable[..., None], tmp_path: Path) -> None:
    processor("avx512_bf16")
    config = replace(read_config(None, "smoke"), precision="auto")
    assert config.bf16_version == BF16_VERSION
    found = steps(config, tmp_path)
    trainings = [step for name, step in found.items() if name.startswith(("train ", "fine-tune "))]
    assert len(trainings) > 3
    for step in trainings:
        assert "train.precision=auto" in step.arguments["settings"], step.name
    predictions = [step for name, step in found.items() if name.startswith("predict ")]
    assert predictions
    assert {step.arguments["precision"] for step in predictions} == {"auto"}


def test_bfloat16_has_keys_of_its_own_and_single_precision_those_of_earlier_studies(
    processor: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = read_config(None, "smoke")
    auto = replace(single, precision="auto")
    processor("avx2")
    plain = keys(single, tmp_path)
    assert keys(auto, tmp_path) == plain, "auto is single precision here"
    processor("amx_bf16")
    assert keys(single, tmp_path) == plain
    own = keys(auto, tmp_path)
    monkeypatch.setattr("nnunet_spine_ext.study.config.BF16_VERSION", BF16_VERSION + 1)
    later = keys(auto, tmp_path)
    changed = {name for name in plain if own[name] != plain[name]}
    computed = ("train ", "fine-tune ", "predict ")
    assert {name for name in plain if name.startswith(computed)} <= changed
    assert not any(name.startswith("make ") for name in changed)
    assert {name for name in own if later[name] != own[name]} == changed, "what is computed otherwise is done anew"


def test_a_gpu_has_its_own_precision(processor: Callable[..., None]) -> None:
    processor("avx512_bf16")
    config = replace(read_config(None, "smoke"), precision="auto")
    assert replace(config, device="cuda:1").bf16_version is None


@pytest.mark.parametrize(("source", "settings"), [("fp32", ()), ("auto", ("train.precision=fp32",))])
def test_what_is_fine_tuned_does_not_inherit_the_precision_of_a_given_source(
    source: str, settings: tuple[str, ...], processor: Callable[..., None], tmp_path: Path
) -> None:
    processor("avx512_bf16")
    config = read_config(None, "smoke")
    folder = make_model(tmp_path / "model")
    plans = json.loads((folder / "plans.json").read_text())
    if source != "fp32":
        plans["spine_ext"]["train"] = {"precision": source}
    (folder / "plans.json").write_text(json.dumps(plans))
    given = replace(config, models=replace(config.models, source=str(folder)))
    found = models_of(given, images_of(given, tmp_path), tmp_path)
    assert found._settings("finetuned") == settings
    assert found._settings("shift") == ()


def test_a_study_takes_no_other_word() -> None:
    with pytest.raises(UsageError, match="precision"):
        read_config(None, "smoke", ["precision=bf16"])


@pytest.mark.parametrize(("flags", "expected"), [(("avx2",), "fp32"), (("avx512_bf16",), "bf16")])
def test_the_record_of_a_prediction_says_what_auto_was(
    flags: tuple[str, ...],
    expected: str,
    processor: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(*flags)
    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_model(tmp_path / "model")
    assert not predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", precision="auto").failed
    assert json.loads((tmp_path / "out" / RUN).read_text())["options"]["precision"] == expected
    again = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", precision="auto", resume=True)
    assert again.skipped == ["a"]
    monkeypatch.setattr("nnunet_spine_ext.inference.options.BF16_VERSION", BF16_VERSION + 1)
    later = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", precision="auto", resume=True)
    assert bool(later.skipped) == (expected == "fp32")
    processor("avx2" if expected == "bf16" else "avx512_bf16")
    other = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", precision="auto", resume=True)
    assert not other.skipped, "a machine of the other kind predicts anew"
