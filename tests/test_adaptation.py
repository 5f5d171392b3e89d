"""Test-time training: its geometry, its losses, its guards, and that a predictor forgets every case."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import CORD, LABELS14, SIDED14, make_flat_model, make_image, make_model
from soft_model import make_soft_model
from torch import nn

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.inference.adaptation import affine, guards, interface, objectives, training
from nnunet_spine_ext.inference.adaptation.guards import Assessment, Views, compare, count_vertebrae, tripped
from nnunet_spine_ext.inference.adaptation.interface import adapt, using
from nnunet_spine_ext.inference.adaptation.patches import PatchSource
from nnunet_spine_ext.inference.adaptation.settings import (
    AdaptSettings,
    ConsistencySettings,
    GuardSettings,
    TentSettings,
)
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.networks.precision import prepare_for_bf16
from nnunet_spine_ext.training.presets import read_preset

FAST = AdaptSettings(
    consistency=ConsistencySettings(epochs=3, patches=2, lr=1e-3),
    tent=TentSettings(steps=3, patches=2, lr=1e-3),
    guards=GuardSettings(agreement=1.0, patches=2),
)
METHODS = ("consistency", "tent")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 14 classes, sided ones among them, with two folds."""
    folder = make_model(tmp_path_factory.mktemp("models") / "sided", labels=LABELS14, sided=SIDED14)
    add_fold(folder)
    return folder


def add_fold(folder: Path) -> None:
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    torch.manual_seed(11)
    # A layer stands under several names.
    made: dict[int, torch.Tensor] = {}
    noise = {}
    for key, value in checkpoint["network_weights"].items():
        noise[key] = made.setdefault(value.data_ptr(), value + 0.05 * torch.randn(value.shape))
    (folder / "fold_1").mkdir()
    torch.save(checkpoint | {"network_weights": noise}, folder / "fold_1/checkpoint_final.pth")


def open_model(folder: Path) -> SpinePredictor:
    predictor = SpinePredictor(device=torch.device("cpu"), progress=False)
    predictor.initialize_from_trained_model_folder(folder, None)
    return predictor


def prepared(predictor: SpinePredictor, folder: Path, **options: Any) -> torch.Tensor:
    file = folder / "a_0000.nii.gz"
    make_image(file, **options)
    return predictor.prepare([file])[0]


def bytes_of(parameters: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in parameters.items()}


# --- affine copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(12, 16, 20), (24, 18)])
def test_what_comes_back_from_an_affine_copy_is_where_it_was(patch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    margin = affine.margins(patch, 0.1)
    places = torch.meshgrid(*[torch.arange(n + 2 * m) for n, m in zip(patch, margin, strict=True)], indexing="ij")
    # Linear in every axis, so that linear interpolation is exact.
    context = sum((k + 1.0) * place for k, place in enumerate(places))[None, None].double()
    middle = context[(..., *[slice(m, m + n) for n, m in zip(patch, margin, strict=True)])]
    for _ in range(5):
        matrix = affine.draw_affine(rng, len(patch), 0.1)
        copy = affine.forward(context, matrix, patch)
        found, valid = affine.backward(copy, matrix)
        assert 0.2 < valid.double().mean() < 1
        assert torch.allclose(found[valid], middle[valid], atol=1e-6)
        assert not torch.allclose(copy, middle, atol=0.5)


def test_the_identity_changes_nothing_inside() -> None:
    context = torch.rand(1, 2, 10, 12, 14)
    identity = np.eye(3, 4)
    copy = affine.forward(context, identity, (6, 8, 10))
    assert torch.allclose(copy, context[:, :, 2:8, 2:10, 2:12], atol=1e-6)
    found, valid = affine.backward(copy, identity)
    assert bool(valid.all())
    assert torch.allclose(found, copy, atol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_map_mirrors_however_strong(dimensions: int) -> None:
    rng = np.random.default_rng(3)
    strongest = np.full((dimensions, dimensions + 1), -affine.LIMIT * 0.1) + np.eye(dimensions, dimensions + 1)
    drawn = [affine.draw_affine(rng, dimensions, 0.1) for _ in range(300)]
    assert all(np.linalg.det(matrix[:, :dimensions]) > 0 for matrix in [strongest, *drawn])
    assert max(abs(m - np.eye(dimensions, dimensions + 1)).max() for m in drawn) <= affine.LIMIT * 0.1 + 1e-12


# --- patches -----------------------------------------------------------------------------------------------------


def test_patches_lie_around_structures_and_inside_the_image() -> None:
    data = torch.arange(20 * 18 * 16, dtype=torch.float32).reshape(1, 20, 18, 16)
    labels = np.zeros((20, 18, 16), dtype=np.uint8)
    labels[17, 2, 8], labels[10:12, 9, 8] = 1, 2
    source = PatchSource(data, labels, (8, 8, 8), (2, 2, 2), torch.device("cpu"))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        patch = source.draw(rng)
        assert patch.image.shape == (1, 1, 8, 8, 8)
        assert patch.context.shape == (1, 1, 12, 12, 12)
        assert bool(patch.inside.all())
        corner = np.unravel_index(int(patch.image[0, 0, 0, 0, 0]), labels.shape)
        seen.add(tuple(int(v) for v in corner))
        inner = labels[tuple(slice(c, c + 8) for c in corner)]
        assert inner.any()
    assert (12, 0, 4) in seen, "around the rare structure, moved inside"
    # As often as the large one, though it has one voxel only.
    assert len(seen) == 3


def test_images_smaller_than_a_patch_are_padded_and_say_so() -> None:
    source = PatchSource(torch.ones(1, 5, 20), np.ones((5, 20), dtype=np.uint8), (8, 8), (1, 1), torch.device("cpu"))
    patch = source.draw(np.random.default_rng(0))
    assert patch.inside[0, 0, :, 0].tolist() == [False, True, True, True, True, True, False, False]
    assert torch.equal(patch.image > 0, patch.inside)


def test_a_plane_is_taken_for_a_network_of_two_dimensions() -> None:
    data = torch.arange(6, dtype=torch.float32)[None, :, None, None].expand(1, 6, 10, 12)
    labels = np.zeros((6, 10, 12), dtype=np.uint8)
    labels[4, 5, 6] = 3
    patch = PatchSource(data, labels, (8, 8), (1, 1), torch.device("cpu")).draw(np.random.default_rng(0))
    assert patch.image.shape == (1, 1, 8, 8)
    assert bool((patch.image == 4).all())


# --- what is made smaller ----------------------------------------------------------------------------------------


def test_soft_dice_is_one_for_equal_answers_only_and_leaves_absent_structures_out() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand((1, 3, 6, 6, 6), generator=generator)
    a[:, 2] = 0
    everywhere = torch.ones(1, 1, 6, 6, 6)
    assert objectives.soft_dice(a, a, everywhere) == pytest.approx(1)
    shifted = objectives.soft_dice(a, a.roll(1, 2), everywhere)
    assert shifted is not None
    assert float(shifted) < 0.9
    assert objectives.soft_dice(torch.zeros_like(a), torch.zeros_like(a), everywhere) is None
    valid = everywhere.clone()
    valid[..., 3:] = 0
    b = a.clone()
    b[..., 3:] = torch.rand((1, 3, 6, 6, 3), generator=generator)
    assert objectives.soft_dice(a, b, valid) == pytest.approx(1), "what does not hold in both does not count"


@pytest.mark.parametrize("regions", [False, True])
def test_entropy_is_zero_for_the_certain_and_one_for_the_undecided(regions: bool) -> None:
    inside = torch.ones(1, 1, 4, 4)
    undecided = torch.full((1, 4, 4, 4), 0.5 if regions else 0.25)
    certain = torch.zeros(1, 4, 4, 4)
    certain[:, 1] = 1
    assert objectives.entropy(undecided, inside, regions=regions) == pytest.approx(1)
    assert objectives.entropy(certain, inside, regions=regions) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("regions", [False, True])
def test_the_prior_resists_a_structure_that_disappears(regions: bool) -> None:
    prior = torch.tensor([0.7, 0.2, 0.1])
    same = objectives.divergence(prior, prior, regions=regions)
    little = objectives.divergence(prior, torch.tensor([0.72, 0.19, 0.09]), regions=regions)
    gone = objectives.divergence(prior, torch.tensor([0.8, 0.2, 0.0]), regions=regions)
    assert same == pytest.approx(0, abs=1e-6)
    assert 0 < little < 0.01
    assert gone > 0.3


# --- the training ------------------------------------------------------------------------------------------------


def test_a_student_is_a_copy_that_can_be_trained_though_the_network_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Dropout3d(0.9), nn.Conv3d(4, 2, 1))
    student = training.student_of(network, torch.device("cpu"), regions=False)
    image = torch.rand(1, 1, 5, 5, 5)
    assert torch.equal(student(image), student(image)), "dropout rests, as in prediction"
    student(image).sum().backward()
    gradients = [parameter.grad for parameter in student.network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_laid_out_for_bfloat16_is_copied_with_its_normalizations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_spine_ext.networks.precision.has_bf16", lambda _: True)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, 2, 1))
    plain = deepcopy(network)
    prepare_for_bf16(network, torch.device("cpu"))
    student = training.student_of(network, torch.device("cpu"), regions=False)
    assert not any("forward" in module.__dict__ for module in student.network.modules())
    image = torch.rand(1, 1, 5, 5, 5)
    assert torch.equal(student(image), plain(image)), "single precision, as if it had never been laid out"
    student(image).square().sum().backward()
    scale = training.norm_parameters(student.network)[0]
    assert scale.grad is not None
    assert network[1].weight.grad is None
    with torch.no_grad():
        scale.mul_(2)
    assert not torch.equal(student(torch.ones(1, 1, 5, 5, 5)), network(torch.ones(1, 1, 5, 5, 5)))


@pytest.mark.parametrize("method", METHODS)
def test_every_fold_learns_from_its_own_parameters(model: Path, tmp_path: Path, method: Any) -> None:
    predictor = open_model(model)
    data = prepared(predictor, tmp_path)
    outcome = adapt(predictor, data, FAST, method=method)
    assert outcome.kept
    assert outcome.parameters is not None
    assert len(outcome.parameters) == 2
    for own, learned in zip(predictor.list_of_parameters, outcome.parameters, strict=True):
        changed = {key for key in own if not torch.equal(own[key], learned[key])}
        norms = {key for key in own if ".norm." in key or ".all_modules.1." in key}
        assert changed, "nothing was learned"
        assert changed <= norms if method == "tent" else changed - norms
        assert max(float((own[key] - learned[key]).abs().max()) for key in own) < 0.01
    assert [len(fold["loss"]) for fold in outcome.record["folds"]] == [3, 3]
    if method == "tent":  # the same patches in every step
        assert all(fold["loss"][-1] < fold["loss"][0] for fold in outcome.record["folds"])
    assert [guard["guard"] for guard in outcome.record["guards"]] == ["volume", "vertebrae", "agreement"]
    json.dumps(outcome.record)
    assert predictor.passes == outcome.record["forward_passes"] > 2 * 3 * 2, "what it costs is counted"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_gives_the_same_bytes_and_the_seed_counts(model: Path, tmp_path: Path, method: Any) -> None:
    predictor = open_model(model)
    data = prepared(predictor, tmp_path)
    first, second = (adapt(predictor, data.clone(), FAST, method=method).trained for _ in range(2))
    assert [bytes_of(p) for p in first] == [bytes_of(p) for p in second]
    other = adapt(predictor, data, AdaptSettings(FAST.consistency, FAST.tent, FAST.guards, seed=1), method=method)
    assert bytes_of(other.trained[0]) != bytes_of(first[0])


def assert_it_learns(predictor: SpinePredictor, data: torch.Tensor, method: Any) -> dict[str, Any]:
    """Train longer; the first and the last steps tell, whatever each draws."""
    settings = AdaptSettings(
        consistency=ConsistencySettings(epochs=12, patches=4, lr=1e-2), tent=FAST.tent, guards=FAST.guards
    )
    outcome = adapt(predictor, data, settings, method=method)
    for fold in outcome.record["folds"]:
        assert np.mean(fold["loss"][-2:]) < np.mean(fold["loss"][:2])
    return outcome.record


def test_consistency_makes_copies_agree(model: Path, tmp_path: Path) -> None:
    predictor = open_model(model)
    assert_it_learns(predictor, prepared(predictor, tmp_path), "consistency")


def test_it_can_be_called_in_inference_mode(model: Path, tmp_path: Path) -> None:
    predictor = open_model(model)
    data = prepared(predictor, tmp_path)
    expected = adapt(predictor, data, FAST, method="tent").trained
    with torch.inference_mode():
        predictor.network = deepcopy(predictor.network)
        found = adapt(predictor, data * 1, FAST, method="tent").trained
    assert [bytes_of(p) for p in found] == [bytes_of(p) for p in expected]


@pytest.mark.parametrize("method", METHODS)
def test_a_predictor_is_as_before_even_when_training_breaks_off(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    predictor = open_model(model)
    data = prepared(predictor, tmp_path)
    expected = predictor.predict_logits_from_preprocessed_data(data)
    before = [bytes_of(p) for p in predictor.list_of_parameters]
    network = bytes_of(predictor.network.state_dict())
    step, calls = training._step, []

    def broken(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError
        return step(*arguments)

    monkeypatch.setattr(training, "_step", broken)
    with pytest.raises(RuntimeError):
        adapt(predictor, data, FAST, method=method)
    monkeypatch.setattr(training, "_step", step)
    outcome = adapt(predictor, data, FAST, method=method)

    def fail() -> None:
        with using(predictor, outcome.parameters):
            assert not torch.equal(predictor.predict_logits_from_preprocessed_data(data), expected)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [bytes_of(p) for p in predictor.list_of_parameters] == before
    assert bytes_of(predictor.network.state_dict()) != network, "of the fold that was predicted with last: the second"
    assert bytes_of(predictor.network.state_dict()) == before[0]
    assert torch.equal(predictor.predict_logits_from_preprocessed_data(data), expected)


def test_numbers_that_are_not_finite_are_not_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inconsistency = training.inconsistency

    def broken(*arguments: Any, **options: Any) -> Any:
        loss = inconsistency(*arguments, **options)
        return None if loss is None else loss * float("nan")

    monkeypatch.setattr(training, "inconsistency", broken)
    predictor = open_model(model)
    outcome = adapt(predictor, prepared(predictor, tmp_path), FAST, method="consistency")
    assert outcome.parameters is None
    assert not outcome.kept
    assert [w.code for w in outcome.warnings] == ["W-ADAPT-DIVERGED"]


def test_a_model_that_answers_with_nan_finds_nothing_to_learn_from(model: Path, tmp_path: Path) -> None:
    predictor = open_model(model)
    predictor.list_of_parameters[1]["decoder.seg_layers.1.bias"][:] = float("nan")
    outcome = adapt(predictor, prepared(predictor, tmp_path), FAST, method="consistency")
    assert outcome.parameters is None
    assert [w.code for w in outcome.warnings] == ["W-ADAPT-EMPTY"]


def test_a_training_without_anything_to_learn_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "inconsistency", lambda *_, **__: None)
    predictor = open_model(model)
    outcome = adapt(predictor, prepared(predictor, tmp_path), FAST, method="consistency")
    assert outcome.parameters is None
    assert not outcome.kept
    assert [w.code for w in outcome.warnings] == ["W-ADAPT-NOTHING"]
    assert outcome.record["kept"] is False
    assert [fold["loss"] for fold in outcome.record["folds"]] == [[None] * 3] * 2


def test_too_little_memory_gives_the_unadapted_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        msg = "CUDA out of memory. Tried to allocate 2 GiB"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(interface, "learn_consistency", full)
    predictor = open_model(model)
    outcome = adapt(predictor, prepared(predictor, tmp_path), FAST, method="consistency")
    assert outcome.parameters is None
    assert outcome.warnings[0].code == "W-ADAPT-MEMORY"
    assert "2 GiB" in outcome.warnings[0].found


def test_no_structure_means_no_training(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", labels=CORD)
    predictor = open_model(folder)
    for own in predictor.list_of_parameters:
        own["decoder.seg_layers.1.bias"][:] = torch.tensor([50.0, 0.0])
    outcome = adapt(predictor, prepared(predictor, tmp_path), FAST, method="tent")
    assert not outcome.kept
    assert [w.code for w in outcome.warnings] == ["W-ADAPT-EMPTY"]


# --- guards ------------------------------------------------------------------------------------------------------


def assessment(volume: int = 1000, vertebrae: int | None = 8, agreement: float | None = 0.8) -> Assessment:
    return Assessment(np.zeros((1, 1, 1)), volume, vertebrae, agreement)


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (assessment(1290, 9, 0.8), []),
        (assessment(710, 7, 0.9), []),
        (assessment(1300), ["volume"]),
        (assessment(700), ["volume"]),
        (assessment(vertebrae=10), ["vertebrae"]),
        (assessment(vertebrae=6), ["vertebrae"]),
        (assessment(agreement=0.7999), ["agreement"]),
        (assessment(agreement=None), ["agreement"]),
        (assessment(0, 0, None), ["volume", "vertebrae", "agreement"]),
    ],
)
def test_each_guard_trips_beyond_its_limit(after: Assessment, names: list[str]) -> None:
    verdicts = compare(assessment(), after, GuardSettings())
    assert [v.guard for v in verdicts if not v.passed] == names
    problem = tripped(verdicts)
    assert (problem is None) == (not names)
    words = {"volume": "volume changed by", "vertebrae": "vertebrae changed by", "agreement": "agreement between views"}
    for name in names:
        assert problem is not None
        assert words[name] in problem.found
        assert "limit" in problem.found
    assert problem is None or problem.code == "W-ADAPT-GUARD"


def test_guards_that_cannot_be_asked_say_so() -> None:
    verdicts = compare(assessment(vertebrae=None, agreement=None), assessment(vertebrae=None), GuardSettings())
    assert all(v.passed for v in verdicts)
    assert [bool(v.to_dict().get("skipped")) for v in verdicts] == [False, True, True]


def test_vertebrae_are_counted_in_any_order_of_axes() -> None:
    labels = np.zeros((60, 24, 20), dtype=np.uint8)  # z, y, x
    for start in (4, 24, 44):
        labels[start : start + 12, 6:18, 4:16] = 10
    spacing = (2.0, 2.0, 2.5)
    assert count_vertebrae(labels, "nnunet14", spacing, (0, 1, 2)) == 3
    forward = (2, 0, 1)
    turned = labels.transpose(forward)
    assert count_vertebrae(turned, "nnunet14", [spacing[a] for a in forward], forward) == 3
    assert count_vertebrae(labels, "custom", spacing, (0, 1, 2)) is None


def test_agreement_knows_sides() -> None:
    # A network that calls the first half of an axis left and the other half right: exchanged, a mirrored one agrees.
    def sided(image: torch.Tensor) -> torch.Tensor:
        left = torch.linspace(1, 0, image.shape[-1]).expand(image.shape[0], 1, *image.shape[2:])
        return torch.cat([torch.zeros_like(left), left, 1 - left], dim=1)

    source = PatchSource(torch.rand(1, 8, 8), np.ones((8, 8)), (8, 8), (1, 1), torch.device("cpu"))
    patches = [source.draw(np.random.default_rng(0))]
    right = guards.agreement(sided, patches, Views((), (1, ((1, 2),))), regions=False)
    wrong = guards.agreement(sided, patches, Views((1,), None), regions=False)
    assert right == pytest.approx(1)
    assert wrong is not None
    assert wrong < 0.8


# --- prediction --------------------------------------------------------------------------------------------------


def set_plans(folder: Path, **adapt_settings: Any) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    plans["spine_ext"]["predict"]["adapt"] = adapt_settings
    (folder / "plans.json").write_text(json.dumps(plans))


def journal(folder: Path) -> dict[str, Any]:
    return {row["case"]: row for row in map(json.loads, (folder / "cases.jsonl").read_text().splitlines())}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        make_image(tmp_path / "in" / f"{name}_0000.nii.gz", seed=seed, shape=(20, 18, 16))
    return tmp_path / "in"


@pytest.mark.parametrize("method", METHODS)
def test_each_case_is_learned_anew_and_recorded(tmp_path: Path, images: Path, method: Any) -> None:
    folder = make_model(tmp_path / "model", labels=CORD)
    numbers = {"lr": 0.02, "patches": 2}
    set_plans(folder, **{method: numbers, "guards": {"volume": 10.0, "agreement": 1.0}})
    off = predict(images, tmp_path / "off", m=folder, device="cpu")
    both = predict(images, tmp_path / "both", m=folder, device="cpu", adapt=method, adapt_steps=4)
    predict(images / "b_0000.nii.gz", tmp_path / "alone", m=folder, device="cpu", adapt=method, adapt_steps=4)
    assert off.exit_code == both.exit_code == 0
    masks = {name: (tmp_path / name / "b.nii.gz").read_bytes() for name in ("off", "both", "alone")}
    assert masks["both"] == masks["alone"] != masks["off"]
    row = journal(tmp_path / "both")["b"]["adaptation"]
    assert row["method"] == method
    assert row["kept"]
    assert len(row["folds"][0]["loss"]) == 4
    assert row["settings"]["lr"] == 0.02
    assert row["guards"][1] == {"guard": "vertebrae", "skipped": "a model without a class of vertebral bodies"}
    assert "adaptation" not in journal(tmp_path / "off")["b"]


def test_a_tripped_guard_gives_the_unadapted_bytes_and_a_warning(tmp_path: Path, images: Path) -> None:
    folder = make_model(tmp_path / "model", labels=CORD)
    set_plans(folder, consistency={"epochs": 2, "patches": 1}, guards={"volume": 0.0})
    predict(images, tmp_path / "off", m=folder, device="cpu")
    result = predict(images, tmp_path / "on", m=folder, device="cpu", adapt="consistency")
    for name in "ab":
        assert (tmp_path / "off" / f"{name}.nii.gz").read_bytes() == (tmp_path / "on" / f"{name}.nii.gz").read_bytes()
        row = journal(tmp_path / "on")[name]
        assert [w["code"] for w in row["warnings"]] == ["W-ADAPT-GUARD"]
        assert row["warnings"][0]["file"].endswith(f"{name}_0000.nii.gz")
        assert "limit 0%" in row["warnings"][0]["found"]
        assert not row["adaptation"]["kept"]
    assert result.exit_code == 0


@pytest.mark.parametrize("method", METHODS)
def test_models_of_regions_are_adapted(tmp_path: Path, method: Any) -> None:
    folder = make_model(tmp_path / "model", labels={"background": 0, "both": 1, "cord": 2})
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "both": [1, 2], "cord": 2}, "regions_class_order": [1, 2]}
    (folder / "dataset.json").write_text(json.dumps(content))
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    weights = checkpoint["network_weights"]
    for key in list(weights):
        if ".seg_layers." in key:
            weights[key] = weights[key][:2].clone()
    torch.save(checkpoint, folder / "fold_0/checkpoint_final.pth")
    predictor = open_model(folder)
    assert_it_learns(predictor, prepared(predictor, tmp_path), method)


@pytest.mark.parametrize("method", METHODS)
def test_networks_of_two_dimensions_are_adapted(tmp_path: Path, method: Any) -> None:
    folder = make_flat_model(tmp_path / "model")
    predictor = open_model(folder)
    data = prepared(predictor, tmp_path, shape=(24, 20, 6))
    assert data.ndim == 4
    record = assert_it_learns(predictor, data, method)
    assert record["guards"][1]["value"] is not None


def test_slices_are_as_far_apart_as_those_of_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_flat_model(tmp_path / "model")
    make_image(tmp_path / "in" / "a_0000.nii.gz", shape=(24, 20, 6), affine=np.diag([1.0, 1.0, 4.5, 1.0]))
    seen = []

    def count(labels: Any, scheme: str, spacing: Any, forward: Any) -> int:
        seen.append([float(size) for size in spacing])
        return 0

    monkeypatch.setattr(interface, "count_vertebrae", count)
    predict(tmp_path / "in", tmp_path / "out", m=folder, device="cpu", tta="none", adapt="tent", adapt_steps=1)
    assert seen
    assert all(spacing == [4.5, 1.0, 1.0] for spacing in seen)


def test_equal_runs_give_equal_records_beside_the_mask(tmp_path: Path, images: Path) -> None:
    folder = make_model(tmp_path / "model", labels=CORD)
    for out in ("one", "other"):
        predict(images, tmp_path / out, m=folder, device="cpu", tta="none", adapt="tent", adapt_steps=1)
    texts = [(tmp_path / out / "qc" / "a.json").read_text() for out in ("one", "other")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["adaptation"]["method"] == "tent"
    assert "seconds" not in json.loads(texts[0])["adaptation"]
    assert journal(tmp_path / "one")["a"]["adaptation"]["seconds"] >= 0


# --- the preset to train for it ----------------------------------------------------------------------------------


def test_the_preset_gin_gives_every_sample_another_appearance_and_leaves_labels_alone() -> None:
    config = AugmentConfig.load(read_preset("gin").augment["config"]).to_dict()["transforms"]
    assert {item["name"]: item["p"] for item in config} == {"rotate": 0.2, "scale": 0.2, "gin": 1.0}
    image = torch.rand(1, 1, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = (image > 0.5).to(torch.int16)
    keys = [SampleKey(seed=1, case="a", epoch=0, draw=draw) for draw in range(12)]
    line = Pipeline("gin", Context((12, 16, 16), (1.0, 1.0, 1.0), labels=range(2)))
    results = [line(image, labels, [key]) for key in keys]
    unmoved = [result for result, moved in results if torch.equal(moved.to(labels.dtype), labels)]
    assert 4 <= len(unmoved) <= 12, "rotations and scalings are rare"
    assert len({round(float((result * image).mean()), 4) for result in unmoved}) == len(unmoved)
    assert all(result.isfinite().all() and not torch.allclose(result, image, atol=0.01) for result in unmoved)


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_soft_models_are_refused_before_any_work(tmp_path: Path, images: Path) -> None:
    folder = make_soft_model(tmp_path / "model")
    with pytest.raises(SetupError) as error:
        predict(images, tmp_path / "out", m=folder, device="cpu", adapt="tent")
    assert error.value.code == "E-ADAPT-SOFT"
    assert not (tmp_path / "out").exists()
    predictor = open_model(folder)
    with pytest.raises(SetupError, match="E-ADAPT-SOFT"):
        adapt(predictor, torch.zeros(1, 16, 16, 16), method="tent")


def test_networks_without_scales_are_refused_by_tent(tmp_path: Path) -> None:
    predictor = open_model(make_model(tmp_path / "model", labels=CORD))
    predictor.network = nn.Conv3d(1, 2, 1)
    with pytest.raises(SetupError, match="E-ADAPT-NORM"):
        adapt(predictor, torch.zeros(1, 16, 16, 16), method="tent")


def test_wrong_options_are_refused(model: Path, tmp_path: Path, images: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"adapt_steps": 3}, "E-USE-ADAPT"),
        ({"adapt": "tent", "adapt_steps": 11}, "E-CONFIG-RANGE"),
        ({"adapt": "consistency", "adapt_steps": 0}, "E-CONFIG-RANGE"),
        ({"adapt": "tents"}, "E-USE-CHOICE"),
    ]
    for options, code in wrong:
        with pytest.raises(UsageError) as error:
            predict(images, tmp_path / "out", m=model, device="cpu", **options)
        assert error.value.code == code
    predictor = open_model(model)
    with pytest.raises(UsageError, match="consistency"):
        adapt(predictor, torch.zeros(1, 16, 16, 16), method="consistncy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 0.2}, {"epochs": 0}, {"lr": float("nan")}, {"patches": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ConsistencySettings(**wrong)
