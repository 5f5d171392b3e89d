"""Averaging over views: the numbers of a plain computation, early stops, and every kind of model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import CORD, LABELS14, SIDED14, make_flat_model, make_image, make_model
from soft_model import TWO, make_soft_model

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference import tta
from nnunet_spine_ext.inference.activation import Activation, check_aggregate
from nnunet_spine_ext.inference.meaning import Exclusive, Meaning, Overlapping, Soft, meaning_of
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.preparation import quickly
from nnunet_spine_ext.inference.stopping import EarlyStop, dice_of
from nnunet_spine_ext.inference.tta import Averaged, average_views
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.inference.views import Composed, Gamma, make_views

SHAPE = (6, 7, 5)
NAMES = ["a", "b", "c"]
LINEAR = Soft(Activation("clamp"))
SIGMOID = Soft(Activation("sigmoid"))


def random_outputs(count: int, heads: int = 4, scale: float = 2.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(heads, *SHAPE, generator=generator) * scale for _ in range(count)]


def averaged(
    outputs: list[torch.Tensor], meaning: Meaning, *, uncertainty: bool = False, structures: Any = NAMES, **options: Any
) -> Averaged:
    views = [Composed((Gamma(1 + n / 10),)) for n in range(len(outputs))]
    given = {view.name: output.clone() for view, output in zip(views, outputs, strict=True)}

    def answer(view: Composed) -> torch.Tensor:
        return given[view.name]

    settings = ViewSettings(**({"stop": False} | options))
    return average_views(answer, views, meaning, settings, structures=structures, uncertainty=uncertainty)


def test_the_mean_is_that_of_probabilities() -> None:
    outputs = random_outputs(5)
    stack = torch.stack(outputs)
    hard = averaged(outputs, Exclusive())
    assert torch.allclose(hard.outputs.softmax(dim=0), stack.softmax(dim=1).mean(dim=0), atol=1e-5)
    regions = averaged(outputs, Overlapping(), structures=["a", "b", "c", "d"])
    assert torch.allclose(regions.outputs.sigmoid(), stack.sigmoid().mean(dim=0), atol=1e-5)
    linear = averaged(outputs, LINEAR)
    assert torch.allclose(linear.outputs, stack.mean(dim=0), atol=1e-5)
    sigmoid = averaged(outputs, SIGMOID)
    assert torch.allclose(sigmoid.outputs.sigmoid(), stack.sigmoid().mean(dim=0), atol=1e-5)


def test_entropy_weights_count_sure_views_more() -> None:
    outputs = random_outputs(4)
    chance = torch.stack(outputs).softmax(dim=1)
    entropy = torch.special.entr(chance).sum(dim=1) / np.log(4)
    weights = torch.exp(-entropy / 0.25)[:, None]
    expected = (weights * chance).sum(dim=0) / weights.sum(dim=0)
    found = averaged(outputs, Exclusive(), aggregate="entropy")
    assert torch.allclose(found.outputs.softmax(dim=0), expected, atol=1e-5)
    assert not torch.allclose(found.outputs.softmax(dim=0), chance.mean(dim=0), atol=1e-3)
    # Weights are one per voxel: sums of linear values stay sums.
    linear = averaged([torch.cat([1 - o[1:].sum(dim=0, keepdim=True), o[1:]]) for o in outputs], LINEAR,
                      aggregate="entropy").outputs  # fmt: skip
    assert torch.allclose(linear.sum(dim=0), torch.ones(SHAPE), atol=1e-4)


def test_geometric_mean() -> None:
    outputs = random_outputs(4, scale=1.0)
    logs = torch.stack(outputs).log_softmax(dim=1).clamp(min=np.log(1e-4)).mean(dim=0)
    found = averaged(outputs, Exclusive(), aggregate="geometric").outputs
    assert torch.allclose(found.softmax(dim=0), logs.softmax(dim=0), atol=1e-5)
    regions = averaged(outputs, Overlapping(), aggregate="geometric", structures=["a", "b", "c", "d"]).outputs
    assert torch.allclose(regions, torch.stack(outputs).mean(dim=0), atol=1e-4)


def test_linear_models_have_no_geometric_mean() -> None:
    with pytest.raises(UsageError) as caught:
        check_aggregate(Activation("clamp"), "geometric")
    assert caught.value.code == "E-USE-AGGREGATE"
    for activation in (None, Activation("sigmoid")):
        check_aggregate(activation, "geometric")
    check_aggregate(Activation("norm_relu"), "entropy")


def test_entropy_and_mutual_information() -> None:
    # Everywhere the mean is a coin toss: because the views toss one, or because each is sure of another thing.
    tossing = [torch.zeros(2, *SHAPE)] * 2
    sure = torch.zeros(2, *SHAPE)
    sure[0] = 30
    found = averaged(tossing, Exclusive(), uncertainty=True, structures=["a"])
    assert found.entropy is not None
    assert found.information is not None
    assert torch.allclose(found.entropy, torch.ones(SHAPE))
    assert found.information.max() < 1e-6
    found = averaged([sure, sure.flip(0)], Exclusive(), uncertainty=True, structures=["a"])
    assert found.entropy is not None
    assert found.information is not None
    assert torch.allclose(found.entropy, torch.ones(SHAPE))
    assert torch.allclose(found.information, torch.ones(SHAPE), atol=1e-4)
    assert averaged(tossing, Exclusive(), structures=["a"]).entropy is None


@pytest.mark.parametrize("aggregate", ["mean", "entropy", "geometric"])
@pytest.mark.parametrize(
    "meaning", [Exclusive(), Overlapping(), LINEAR, SIGMOID], ids=["hard", "regions", "linear", "sigmoid"]
)
def test_uncertainty_lies_between_0_and_1(meaning: Meaning, aggregate: str) -> None:
    if meaning is LINEAR and aggregate == "geometric":
        return
    structures = ["a", "b", "c", "d"] if isinstance(meaning, Overlapping) else NAMES
    found = averaged(random_outputs(5), meaning, uncertainty=True, aggregate=aggregate, structures=structures)
    assert found.entropy is not None
    assert found.information is not None
    assert found.information.min() >= 0
    assert (found.information <= found.entropy + 1e-6).all()
    assert found.entropy.max() <= 1 + 1e-6
    assert found.entropy.std() > 0


@pytest.mark.parametrize("meaning", [Exclusive(), Overlapping(), LINEAR], ids=["hard", "regions", "linear"])
def test_slab_by_slab_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch, meaning: Meaning) -> None:
    structures = ["a", "b", "c", "d"] if isinstance(meaning, Overlapping) else NAMES
    whole = averaged(random_outputs(4), meaning, uncertainty=True, aggregate="entropy", structures=structures)
    monkeypatch.setattr(tta, "_AT_ONCE", 1)
    parts = averaged(random_outputs(4), meaning, uncertainty=True, aggregate="entropy", structures=structures)
    assert torch.allclose(whole.outputs, parts.outputs, atol=1e-5)
    assert whole.entropy is not None
    assert parts.entropy is not None
    assert torch.allclose(whole.entropy, parts.entropy, atol=1e-5)
    assert whole.stability == parts.stability
    assert whole.agreement == parts.agreement


def one_hot(labels: torch.Tensor, sure: float = 20.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0).float() * sure


def test_it_stops_when_two_views_in_a_row_change_nothing() -> None:
    labels = torch.zeros(SHAPE)
    labels[:, :3] = 1
    calm = one_hot(labels)
    other = one_hot(labels.flip(1))
    stopped = averaged([calm] * 6, Exclusive(), stop=True)
    assert len(stopped.views) == 3
    assert stopped.planned == 6
    assert stopped.agreement == (1.0, 1.0)
    assert stopped.record()["stopped_early"] is True
    assert len(averaged([calm] * 6, Exclusive(), stop=True, stop_after=1).views) == 2
    assert len(averaged([calm] * 6, Exclusive(), stop=False).views) == 6
    # What changes the mean starts the count anew: one against one is a tie, then the other wins, then it stays.
    restless = averaged([calm, *[other] * 7], Exclusive(), stop=True)
    assert len(restless.views) == 5
    assert restless.agreement[2:] == (1.0, 1.0)
    assert max(restless.agreement[:2]) < 0.8


def test_one_small_structure_that_changes_is_enough_to_go_on() -> None:
    labels = torch.zeros(SHAPE)
    labels[:, :3] = 1
    flickering = labels.clone()
    flickering[0, 6, 0] = 2
    outputs = [one_hot(labels), one_hot(flickering), one_hot(flickering), one_hot(labels), one_hot(labels)]
    found = averaged(outputs, Exclusive(), stop=True)
    assert 0.0 in found.agreement
    assert len(found.views) > 3


def test_an_image_without_any_structure_stops_at_once() -> None:
    found = averaged([one_hot(torch.zeros(SHAPE))] * 6, Exclusive(), stop=True)
    assert len(found.views) == 3
    assert found.stability == {}


def test_stability_is_dice_with_the_mean_and_variation_of_size() -> None:
    large, small = torch.zeros(SHAPE), torch.zeros(SHAPE)
    large[:4], small[:2] = 1, 1
    found = averaged([one_hot(large), one_hot(large), one_hot(small)], Exclusive()).stability
    assert set(found) == {"a"}
    volume = [4, 4, 2]
    assert found["a"]["dice"] == pytest.approx((1 + 1 + 4 / 6) / 3, abs=1e-4)
    assert found["a"]["volume_cv"] == pytest.approx(np.std(volume) / np.mean(volume), abs=1e-4)


def test_dice_of_overlapping_structures() -> None:
    one = torch.zeros(2, *SHAPE, dtype=torch.bool)
    one[:, :4] = True
    other = one.clone()
    other[1, :2] = False
    assert dice_of(one, one, 2).tolist() == [1, 1]
    assert dice_of(one, other, 2).tolist() == pytest.approx([1, 2 * 2 / (4 + 2)])
    assert dice_of(one[:, :0], one[:, :0], 2).size == 0, "neither has any"


def stripes(*edges: int) -> list[torch.Tensor]:
    """Return the masks of a running mean, of one structure that ends at these rows of 100."""
    rows = torch.arange(100)[:, None, None].expand(100, 2, 2)
    return [(rows < edge).to(torch.uint8) for edge in edges]


def stops_after(
    masks: list[torch.Tensor], kinds: Any = ("intensity",), planned: Any = ("intensity",), **options: Any
) -> int:
    early = EarlyStop(ViewSettings(**options), planned, 1)
    return next((n for n, mask in enumerate(masks, start=1) if early.add(mask, kinds)), 0)


def test_an_unsure_network_is_done_when_its_mean_moves_half_as_far_as_at_first() -> None:
    # It never comes to rest: every view moves the mask by more than a hundredth.
    unsure = stripes(60, 70, 62, 66, 63, 66, 64, 66, 64)
    assert stops_after(unsure) == 5
    assert stops_after(unsure, stop_share=0.0) == 0
    assert stops_after(unsure, stop=False) == 0
    assert stops_after(stripes(*[60] * 8), stop_share=0.0, stop_dice=1.0) == 0
    assert stops_after(stripes(*[60] * 8), stop_dice=1.0) == 5
    assert stops_after(stripes(60, 70, 62, 70, 62, 70, 62, 70)) == 0, "views that contradict each other go on"
    assert stops_after(stripes(60, 63, 61, 68, 60, 68, 61)) == 0, "later views that move it more go on"


def test_views_of_every_kind_are_seen_before_small_moves_end_it() -> None:
    unsure = stripes(60, 70, 62, 66, 63, 66, 64, 66, 64)
    assert stops_after(unsure, planned=("intensity", "resolution")) == 0
    assert stops_after(unsure, kinds=("intensity", "resolution"), planned=("intensity", "resolution")) == 5


def test_the_meaning_of_a_model() -> None:
    assert isinstance(meaning_of(None, regions=False), Exclusive)
    assert isinstance(meaning_of(None, regions=True), Overlapping)
    assert isinstance(meaning_of(Activation("clamp"), regions=False), Soft)


# ---- with models ----


def predictor(model: Path, **options: Any) -> SpinePredictor:
    made = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    made.initialize_from_trained_model_folder(model, None)
    return made


def predict_data(made: SpinePredictor, image: Path) -> torch.Tensor:
    return made.predict_logits_from_preprocessed_data(made.prepare([image])[0])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a_0000.nii.gz"
    make_image(path, shape=(22, 20, 18))
    return path


@pytest.fixture(scope="module")
def sided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "sided", labels=LABELS14, sided=SIDED14)


def test_full_is_the_mean_over_all_its_views(sided: Path, image: Path) -> None:
    full = predictor(sided, tta="full", views=ViewSettings(stop=False))
    found = full.posterior(full.prepare([image])[0])
    assert full.averaged is not None
    assert len(full.averaged.views) == 17
    plain = predictor(sided, tta="none")
    data = plain.prepare([image])[0]
    axes = full.allowed_mirroring_axes
    assert axes is not None
    around = tta.surroundings_of(full.plans_manager.plans, full.configuration_manager, axes)
    assert around.sided_axis == 2
    assert around.mirror_axes == (0, 1)
    expected = torch.zeros_like(found)
    for view in make_views(ViewSettings(), around):
        outputs = plain.predict_logits_from_preprocessed_data(view.forward(data))
        expected += view.backward(outputs, data.shape[1:]).softmax(dim=0) / 17
    assert torch.allclose(found, expected, atol=1e-5)


def test_networks_of_two_dimensions_see_all_kinds_of_views(tmp_path: Path) -> None:
    make_image(tmp_path / "a.nii.gz", shape=(22, 20, 6))
    model = make_flat_model(tmp_path / "model")
    full = predictor(model, tta="full", views=ViewSettings(stop=False))
    data = full.prepare([tmp_path / "a.nii.gz"])[0]
    found = full.posterior(data)
    assert full.averaged is not None
    around = tta.surroundings_of(full.plans_manager.plans, full.configuration_manager, (0,))
    # Axes of the volume: slices are never mirrored, and the last axis is left-right.
    assert (around.mirror_axes, around.sided_axis, around.through_plane) == ((1,), 2, 0)
    views = make_views(ViewSettings(), around)
    assert {view.kind for view in views} == {"mirror", "intensity", "resolution"}
    assert list(full.averaged.views) == [view.name for view in views]
    plain = predictor(model, tta="none")
    expected = torch.zeros_like(found)
    for view in views:
        outputs = plain.predict_logits_from_preprocessed_data(view.forward(data))
        expected += view.backward(outputs, data.shape[1:]).softmax(dim=0) / len(views)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, plain.posterior(data), atol=1e-3)


def test_only_the_image_itself_equals_no_augmentation(sided: Path, image: Path) -> None:
    plain = predictor(sided, tta="none")
    expected = plain.posterior(plain.prepare([image])[0])
    assert plain.averaged is None
    one = predictor(sided, tta="full", views=ViewSettings(limit=1))
    assert torch.allclose(one.posterior(one.prepare([image])[0]), expected, atol=1e-5)
    assert one.passes == plain.passes > 0


def test_passes_are_counted_for_all_kinds(sided: Path, image: Path) -> None:
    plain, mirror = predictor(sided, tta="none"), predictor(sided, tta="mirror")
    for made in (plain, mirror):
        predict_data(made, image)
    # Three axes; the left-right one inside the network.
    assert mirror.passes == 8 * plain.passes
    predict_data(mirror, image)
    assert mirror.passes == 8 * plain.passes, "a new case is counted anew"


def test_looks_that_are_to_be_quick_do_not_mirror(sided: Path, image: Path) -> None:
    made = predictor(sided, tta="mirror")
    plain = predictor(sided, tta="none", step_size=1.0)
    predict_data(plain, image)
    data = made.prepare([image])[0]
    with quickly(made):
        made.predict_logits_from_preprocessed_data(data)
    assert made.passes == plain.passes, "one pass per window, though the network mirrors left and right"
    made.prepare([image])
    padded, _ = made._padded(data)
    with torch.inference_mode():
        assert made._look(padded) is not None
    assert made.passes == plain.passes


def test_folds_take_part(tmp_path: Path, image: Path) -> None:
    model = make_soft_model(tmp_path / "model", folds=2)
    settings = ViewSettings(stop=False, kinds=("mirror",))
    both = predictor(model, tta="full", views=settings, crop="off")
    found = predict_data(both, image)
    each = []
    for fold in ("0", "1"):
        made = SpinePredictor(device=torch.device("cpu"), progress=False, tta="full", views=settings, crop="off")
        made.initialize_from_trained_model_folder(model, [fold])
        each.append(predict_data(made, image))
    assert both.passes == 2 * 8 * predictor_windows(model, image)
    assert torch.allclose(found, (each[0] + each[1]) / 2, atol=1e-5)
    assert not torch.allclose(each[0], each[1], atol=1e-2)


def predictor_windows(model: Path, image: Path) -> int:
    made = SpinePredictor(device=torch.device("cpu"), progress=False, tta="none", crop="off")
    made.initialize_from_trained_model_folder(model, ["0"])
    predict_data(made, image)
    return made.passes


def test_soft_models_are_averaged_as_values(tmp_path: Path, image: Path) -> None:
    model = make_soft_model(tmp_path / "model", labels=TWO)
    made = predictor(model, tta="full", views=ViewSettings(stop=False))
    data, properties = made.prepare([image])
    outputs = made.predict_logits_from_preprocessed_data(data)
    assert torch.allclose(outputs.sum(dim=0), torch.ones(outputs.shape[1:]), atol=1e-4)
    answer = made.soft(data, properties)
    assert len(answer.soft) == 2
    assert answer.mask.array.max() > 0
    assert made.averaged is not None
    assert set(made.averaged.stability) <= {"cord", "canal"}
    posterior = made.posterior(data)
    assert posterior.min() >= 0
    assert posterior.max() <= 1


def test_regions_are_averaged_as_sigmoids(tmp_path: Path, image: Path) -> None:
    model = make_model(tmp_path / "model", labels=CORD)
    dataset = json.loads((model / "dataset.json").read_text())
    dataset |= {"labels": {"background": 0, "spine": [1, 2], "cord": [2]}, "regions_class_order": [1, 2]}
    (model / "dataset.json").write_text(json.dumps(dataset))
    made = predictor(model, tta="full", views=ViewSettings(limit=4, stop=False), uncertainty=True)
    data, properties = made.prepare([image])
    mask = made.segment(data, properties)
    assert set(np.unique(mask.array)) <= {0, 1, 2}
    assert made.averaged is not None
    assert set(made.averaged.stability) <= {"spine", "cord"}
    assert made.averaged.stability
    plain = predictor(model, tta="none")
    assert made.posterior(data).shape == plain.posterior(data).shape == (2, *data.shape[1:])


def test_crop_mode_answers_as_the_whole_volume_around_structures(tmp_path: Path) -> None:
    from nnunet_spine_ext.core.io import write_volume
    from nnunet_spine_ext.core.volume import Volume

    array = np.random.default_rng(0).normal(100, 10, (72, 64, 24)).astype(np.float32)
    array[12:16, 10:14, :] = 1000
    write_volume(Volume(array, np.eye(4)), tmp_path / "a.nii.gz")
    model = make_soft_model(tmp_path / "seeing", seeing=True, threshold=12)
    settings = ViewSettings(stop=False, kinds=("mirror", "intensity"), limit=6)
    whole, cropped = (predictor(model, tta="full", views=settings, crop=crop) for crop in ("off", "on"))
    one, other = predict_data(whole, tmp_path / "a.nii.gz"), predict_data(cropped, tmp_path / "a.nii.gz")
    structure = one[1] > 0.2
    assert structure.any()
    assert (one - other)[:, structure].abs().max() < 1e-5
    assert cropped.passes < whole.passes / 2
    resized = predictor(model, tta="full", views=ViewSettings(stop=False, kinds=("resolution",)), crop="on")
    values = predict_data(resized, tmp_path / "a.nii.gz")
    assert torch.isfinite(values).all()
    assert (values[1] > 0.5).sum() == pytest.approx(float((one[1] > 0.5).sum()), rel=0.3)
    empty = tmp_path / "empty.nii.gz"
    write_volume(Volume(np.random.default_rng(0).uniform(90, 110, (40, 40, 24)).astype(np.float32), np.eye(4)), empty)
    nothing = predictor(model, tta="full", views=settings, crop="on")
    predict_data(nothing, empty)
    assert [problem.code for problem in nothing.warnings] == ["W-OUT-CROP"]


def test_equal_runs_give_equal_bytes(sided: Path, image: Path) -> None:
    one, other = (predict_data(predictor(sided, tta="full"), image) for _ in range(2))
    assert torch.equal(one, other)


def test_settings_come_from_the_plans(tmp_path: Path, image: Path) -> None:
    model = make_model(tmp_path / "model", predict={"views": {"limit": 2, "kinds": ["intensity"]}})
    made = predictor(model, tta="full")
    predict_data(made, image)
    assert made.averaged is not None
    assert made.averaged.views == ("plain", "gamma0.85")
    assert made.averaged.record()["planned"] == 2


def test_what_matching_left_out_is_a_view(sided: Path, image: Path) -> None:
    made = predictor(sided, tta="full", views=ViewSettings(stop=False, kinds=("intensity",)))
    data, _ = made.prepare([image])
    assert made.unmatched is None
    made.unmatched = data.flip(1)
    made.predict_logits_from_preprocessed_data(data)
    assert made.averaged is not None
    assert {"match0", "match0.5"} <= set(made.averaged.views)
    made.prepare([image])
    assert made.unmatched is None, "the next case has its own"


def test_what_is_kept_of_a_view_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    pack: Callable[..., Any] = tta._Packed.of

    def counted(marks: torch.Tensor) -> Any:
        packed = pack(marks)
        held.append(len(packed.content))
        return packed

    monkeypatch.setattr(tta._Packed, "of", counted)
    labels = torch.zeros(40, 40, 40)
    labels[10:30, 10:30, 10:30] = 1
    averaged([one_hot(labels)] * 6, Exclusive())
    assert len(held) == 6
    # One byte in twenty voxels; probabilities of fifteen classes take sixty bytes per voxel.
    assert max(held) < labels.numel() / 20
