"""Training of the instance network: data, cutouts, settings, folds, the run and its interruption, bad input."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from spine_builder import Spine, build

from nnunet_spine_ext.cli import train_instances as command
from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.errors import CaseError, NoInputError, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_json, write_volume
from nnunet_spine_ext.core.labels import convert_labels, scheme
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances.cutouts import CutoutSpec
from nnunet_spine_ext.instances.encoding import ENCODINGS, encode
from nnunet_spine_ext.instances.model import load_instance_model, read_instance_model
from nnunet_spine_ext.instances.training.dataset import open_dataset
from nnunet_spine_ext.instances.training.fold import FoldTraining
from nnunet_spine_ext.instances.training.fusion import panoptic_quality
from nnunet_spine_ext.instances.training.grids import GridStore, grid_case
from nnunet_spine_ext.instances.training.loss import instance_loss, region_mask
from nnunet_spine_ext.instances.training.places import publishing
from nnunet_spine_ext.instances.training.run import TrainInstancesResult, _write_fold, train_instances
from nnunet_spine_ext.instances.training.sampler import (
    epoch_order,
    narrowed,
    places_of,
    plain_cutout,
    training_cutout,
)
from nnunet_spine_ext.instances.training.settings import InstanceTrainSettings, preset_names, read_settings
from nnunet_spine_ext.instances.whole import classes_of_whole

SPEC = CutoutSpec((24, 32, 16), (5.0, 5.0, 6.0))
TINY = (
    "cutout.size=[24, 32, 16]", "cutout.spacing=[5, 5, 6]", "network.width=2", "network.multipliers=[1, 2]",
    "epochs=3", "cutouts_per_epoch=4", "validation_cutouts=2", "fusion_cases=0", "validate_every=2",
)  # fmt: skip
LUMBAR = Spine(levels=("L3", "L4", "L5"), spacing=(3.0, 3.0, 3.0))


def _case(name: str, subject: str, spine: Spine = LUMBAR) -> RawCase:
    semantic, instances = build(spine)
    image = semantic.with_array(np.zeros(semantic.shape, dtype=np.float32))
    return RawCase(name, subject, [image], semantic, instances)


@pytest.fixture
def dataset(nnunet_folders: dict[str, Path]) -> Path:
    """Four cases of four subjects, two folds."""
    labels = {name: k for k, name in scheme("nnunet14").labels.items() if k}
    spec = DatasetSpec(7, "Toy", {0: "T2w"}, labels, "nnunet14", ((4, 5), (6, 7), (8, 9)))
    cases = [
        _case(f"case{k}", f"s{k}", Spine(("L3", "L4", "L5"), (3.0, 3.0, 3.0), lordosis=8 + 2 * k)) for k in range(4)
    ]
    return write_raw_dataset(nnunet_folders["nnUNet_raw"], spec, cases, folds=2)


def _train(dataset: Path, *more: str, **options: Any) -> TrainInstancesResult:
    return train_instances(str(dataset), preset="cpu", assignments=[*TINY, *more], device="cpu", **options)


def _weights(folder: Path, fold: int = 0) -> bytes:
    return (folder / f"fold_{fold}.safetensors").read_bytes()


# Settings


def test_the_preset_paper_is_appendix_a() -> None:
    settings = read_settings()
    assert settings.cutout == CutoutSpec((248, 304, 64), (0.75, 0.75, 1.65), "onehot")
    assert (settings.epochs, settings.batch_size, settings.network.width) == (300, 2, 8)
    assert settings.learning_rate_of(0) == 1e-4
    assert settings.learning_rate_of(299) == pytest.approx(1e-6)
    steps = np.diff([settings.learning_rate_of(k) for k in range(300)])
    assert np.allclose(steps, steps[0])
    assert settings == InstanceTrainSettings(description=settings.description)


def test_presets_load_and_differ() -> None:
    assert preset_names() == ["cpu", "paper"]
    assert len({read_settings(name).hash for name in preset_names()}) == 2


@pytest.mark.parametrize(
    ("preset", "assignments", "code", "hint"),
    [
        ("papre", [], "E-PRESET", "did you mean 'paper'"),
        ("cpu", ["epoch=3"], "E-CONFIG-KEY", "did you mean 'epochs'"),
        ("cpu", ["epochs=0"], "E-CONFIG-RANGE", "epochs=0"),
        ("cpu", ["cutout.size=[10, 8, 8]"], "E-INST-SPEC", "multiples of 8"),
        ("cpu", ["cutout.encoding=onehott"], "E-INST-ENCODING", "onehot"),
        ("cpu", ["network.multipliers=[1, 1, 1, 1, 1]"], "E-CONFIG-RANGE", "5 resolutions"),
        ("cpu", ["final_learning_rate=1"], "E-CONFIG-RANGE", "final_learning_rate=1"),
        ("cpu", ["epochs"], "E-CONFIG-SET", "key=value"),
    ],
)
def test_wrong_settings_are_refused(preset: str, assignments: list[str], code: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as error:
        read_settings(preset, assignments)
    assert error.value.code == code


# Cases on the grid, cutouts


def test_a_case_keeps_its_vertebrae_on_the_grid() -> None:
    semantic, instances = build(LUMBAR)
    case = grid_case("a", semantic, instances.array, CutoutSpec((24, 32, 16), (3.0, 3.0, 3.0)))
    assert [number for number, _ in case.seeds] == [1, 2, 3]
    vertebrae = (semantic.array >= 2) & (semantic.array <= 10)
    for number in (1, 2, 3):
        assert (case.vertebrae == number).sum() == ((instances.array == number) & vertebrae).sum()
    for number, place in case.seeds:
        assert case.labels[place] == 10
        assert case.vertebrae[place] == number
    heights = [place[1] for _, place in case.seeds]
    assert heights == sorted(heights), "I grows to the feet"


def test_ids_are_brought_into_order_from_head_to_tail() -> None:
    """T13 has a larger id than L1."""
    semantic, instances = build(LUMBAR)
    named = np.zeros_like(instances.array)
    for ours, theirs in ((1, 28), (2, 20), (3, 21)):
        named[instances.array == ours] = theirs
    case = grid_case("a", semantic, named, SPEC)
    assert [number for number, _ in case.seeds] == [1, 2, 3]
    assert case.seeds[0][1][1] < case.seeds[1][1][1] < case.seeds[2][1][1]


def test_orientation_does_not_matter() -> None:
    semantic, instances = build(LUMBAR)
    turned = Volume(semantic.array, semantic.affine).to("PIR"), Volume(instances.array, instances.affine).to("PIR")
    first, second = grid_case("a", semantic, instances.array, SPEC), grid_case("a", turned[0], turned[1].array, SPEC)
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.vertebrae, second.vertebrae)
    assert first.seeds == second.seeds


def test_bodies_of_whole_vertebrae_are_what_lies_before_the_canal() -> None:
    semantic, instances = build(LUMBAR)
    whole = semantic.array.copy()
    whole[(whole >= 2) & (whole <= 10)] = 10
    spec = CutoutSpec((24, 32, 16), (3.0, 3.0, 3.0), "body")
    case = grid_case("a", semantic.with_array(whole), instances.array, spec, substructures=False)
    truth = grid_case("a", semantic, instances.array, spec)
    for (_, ours), (_, theirs) in zip(case.seeds, truth.seeds, strict=True):
        assert np.abs(np.subtract(ours, theirs)).max() <= 1
    # As the separation tells them, also by a cord alone; with neither, all of a vertebra counts.
    fine = CutoutSpec((24, 32, 16), (1.0, 1.0, 3.0), "body")
    whole[whole == 12] = 0
    for kept in (whole, np.where(whole == 11, 0, whole)):
        case = grid_case("a", semantic.with_array(kept), instances.array, fine, substructures=False)
        if 11 in kept:
            ids = convert_labels(semantic.array, "nnunet14", "whole_vertebrae")
            parted = classes_of_whole(semantic.with_array(np.where(ids == 3, 0, ids)), "whole_vertebrae")
            bodies = grid_case("a", parted, instances.array, fine)
        else:
            bodies = grid_case("a", semantic.with_array(kept), instances.array, fine)
        assert case.seeds == bodies.seeds


def test_cutouts_show_the_neighbours() -> None:
    semantic, instances = build(LUMBAR)
    case = grid_case("a", semantic, instances.array, SPEC)
    places = places_of(["a"], {"a": case.seeds})
    answers = [set(np.unique(plain_cutout(case, place, SPEC)[1])) for place in places]
    assert answers == [{0, 2, 3}, {0, 1, 2, 3}, {0, 1, 2}]
    labels, target = plain_cutout(case, places[1], SPEC)
    assert labels.shape == target.shape == SPEC.size
    centre = tuple(n // 2 for n in SPEC.size)
    assert target[centre] == 2
    wide = plain_cutout(case, places[1], CutoutSpec((48, 64, 24), SPEC.spacing))[1]
    assert [(wide == answer).sum() for answer in (1, 2, 3)] == [(case.vertebrae == k).sum() for k in (1, 2, 3)]


def test_training_cutouts_shift_and_repeat() -> None:
    semantic, instances = build(LUMBAR)
    case = grid_case("a", semantic, instances.array, SPEC)
    place = places_of(["a"], {"a": case.seeds})[1]
    quiet = read_settings("cpu", [*TINY, *(f"augment.{k}=0" for k in _AUGMENTATIONS)])
    rng = np.random.default_rng
    still = read_settings("cpu", [*TINY, *(f"augment.{k}=0" for k in _AUGMENTATIONS), "jitter_mm=0"])
    assert np.array_equal(training_cutout(case, place, still, rng(0))[0], plain_cutout(case, place, SPEC)[0])
    far = read_settings("cpu", [*TINY, *(f"augment.{k}=0" for k in _AUGMENTATIONS), "jitter_mm=12"])
    cutouts = [training_cutout(case, place, far, rng(k))[0] for k in range(6)]
    assert len({cutout.tobytes() for cutout in cutouts}) > 2
    assert np.array_equal(training_cutout(case, place, far, rng(3))[0], cutouts[3])
    for settings in (quiet, read_settings("cpu", [*TINY, *(f"augment.{k}=1" for k in _AUGMENTATIONS)])):
        labels, target = training_cutout(case, place, settings, rng(1))
        assert labels.shape == target.shape == SPEC.size


def test_narrow_windows_hold_all_vertebrae_and_keep_their_height() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for first, last in ((3, 12), (9, 30)):
        labels = np.zeros((40, 16, 32), dtype=np.uint8)
        labels[first:last, 2:9, 14:20] = 10
        labels[:, 12:, :] = 12
        pairs.append((labels, rng.integers(0, 4, labels.shape, dtype=np.uint8) * (labels == 10)))
    cut = narrowed(pairs)
    assert [labels.shape for labels, _ in cut] == [(24, 16, 8)] * 2
    for (labels, target), (before, wanted) in zip(cut, pairs, strict=True):
        assert (labels == 10).sum() == (before == 10).sum()
        assert np.bincount(target.reshape(-1))[1:].tolist() == np.bincount(wanted.reshape(-1))[1:].tolist()
    empty = (np.zeros((40, 16, 32), dtype=np.uint8),) * 2
    assert narrowed([pairs[0], empty])[0][0].shape == (40, 16, 32)


_AUGMENTATIONS = ("scaling", "erosion", "resampling", "label_drop", "vertical_crop", "flip")


def test_an_epoch_shows_everything_once_and_differs_from_the_next() -> None:
    settings = read_settings("paper")
    orders = [epoch_order(10, settings, "0", epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[2], epoch_order(10, settings, "0", 2))
    assert not np.array_equal(orders[0], epoch_order(10, settings, "1", 0))
    few = read_settings("paper", ["cutouts_per_epoch=25"])
    assert np.bincount(epoch_order(10, few, "0", 0)).tolist().count(3) == 5


# Loss


def test_the_loss_is_smallest_where_the_answer_is_right() -> None:
    target = torch.tensor([0, 1, 2, 3]).repeat(16)[:64].reshape(1, 4, 4, 4)
    right = 20.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    good, wrong = instance_loss(right, target), instance_loss(-right, target)
    assert max(float(part) for part in good) < 0.05
    assert min(float(part) for part in wrong) > 0.5


def test_what_is_no_vertebra_does_not_count_when_told_so() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 15, (1, 4, 4, 4), dtype=torch.uint8)
    counts = region_mask(labels, "vertebrae")
    assert counts is not None
    assert region_mask(labels, "all") is None
    target = torch.where(counts, torch.randint(0, 4, labels.shape), 0)
    logits = torch.randn(1, 4, 4, 4, 4)
    other = torch.where(counts[:, None], logits, torch.randn_like(logits))
    first, second = instance_loss(logits, target, counts), instance_loss(other, target, counts)
    assert [float(a) for a in first] == pytest.approx([float(b) for b in second])
    everything = instance_loss(logits, target), instance_loss(other, target)
    assert float(everything[0][0]) != pytest.approx(float(everything[1][0]))


def test_panoptic_quality_counts_as_it_should() -> None:
    truth = np.repeat([0, 1, 2, 3], 10)
    assert panoptic_quality(truth, truth)["pq"] == 1.0
    assert panoptic_quality(truth * 0, truth) == {"pq": 0.0, "rq": 0.0, "sq": 0.0}
    assert panoptic_quality(truth * 0, truth * 0)["pq"] == 1.0
    merged = np.where(truth == 2, 1, truth)
    # 1 is half of its instance: no match. 3 is found.
    assert panoptic_quality(merged, truth) == pytest.approx({"pq": 0.4, "rq": 0.4, "sq": 1.0})


# The run


def test_it_trains_a_model_that_the_instance_phase_loads(dataset: Path) -> None:
    result = _train(dataset, f=("0", "1"))
    assert result.exit_code == 0
    assert result.folder == dataset.parent.parent / "nnUNet_results" / "Dataset007_Toy" / "instances"
    model = read_instance_model(result.folder)
    assert model.folds == (0, 1)
    assert model.cutout == SPEC
    assert set(model.provenance["trained_on"]) == {"0", "1"}
    assert not set(model.provenance["trained_on"]["0"]) & set(
        json.loads((result.folder / "training/fold_0/settings.json").read_text())["val"]
    )
    assert load_instance_model(result.folder).spec == SPEC
    with (result.folder / "training/fold_0/log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["dice"] == ""
    assert 0 <= float(rows[1]["dice"]) <= 1
    assert rows[-1]["dice"] != ""
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert "fold 1: trained on 2 cases, validated on 2 cases, 3 epochs" in result.render()
    json.dumps(result.to_dict())


def test_in_the_end_whole_cases_are_separated_with_and_without_the_network(dataset: Path, tmp_path: Path) -> None:
    result = _train(dataset, "fusion_cases=1", "narrow=1", o=tmp_path)
    scores = result.folds["0"]["fusion"]
    assert list(scores["cases"]) == [json.loads((tmp_path / "training/fold_0/settings.json").read_text())["val"][0]]
    assert 0 <= scores["pq"] <= 1
    assert scores["pq_without"] > 0.9
    assert "without the network" in result.render()
    assert json.loads((tmp_path / "training/fold_0/result.json").read_text())["fusion"] == scores


def test_it_is_repeatable_and_the_seed_matters(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, o=tmp_path / "a")
    _train(dataset, o=tmp_path / "b")
    _train(dataset, "seed=1", o=tmp_path / "c")
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")
    assert _weights(tmp_path / "a") != _weights(tmp_path / "c")


def test_interrupted_and_resumed_gives_the_same_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(dataset, o=tmp_path / "whole")
    original = FoldTraining._train

    def stopped(self: FoldTraining) -> tuple[float, float]:
        if self.epoch == 2:
            original(self)
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(FoldTraining, "_train", stopped)
    with pytest.raises(KeyboardInterrupt):
        _train(dataset, o=tmp_path / "parts")
    assert not (tmp_path / "parts/instance_model.json").exists(), "no half-trained model looks finished"
    monkeypatch.undo()
    _train(dataset, o=tmp_path / "parts", resume=True)
    assert _weights(tmp_path / "parts") == _weights(tmp_path / "whole")
    logs = [(tmp_path / name / "training/fold_0/log.csv").read_text() for name in ("parts", "whole")]
    assert [line.rpartition(",")[0] for line in logs[0].splitlines()] == [
        line.rpartition(",")[0] for line in logs[1].splitlines()
    ]


def test_a_model_folder_that_cannot_be_made_is_a_wrong_option(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(UsageError, match="E-OUT-FOLDER"):
        _train(dataset, o=tmp_path / "a_file" / "model")


def test_what_is_there_is_kept_unless_told_otherwise(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, o=tmp_path)
    before = _weights(tmp_path)
    with pytest.raises(UsageError, match="--resume") as error:
        _train(dataset, o=tmp_path)
    assert error.value.code == "E-TRAIN-EXISTS"
    with pytest.raises(UsageError, match=r"differs in settings; .* with --overwrite") as error:
        _train(dataset, "seed=1", o=tmp_path, resume=True)
    assert error.value.code == "E-TRAIN-OTHER"
    with pytest.raises(UsageError, match="one of them") as error:
        _train(dataset, o=tmp_path, resume=True, overwrite=True)
    assert error.value.code == "E-TRAIN-BOTH"
    assert _weights(tmp_path) == before
    assert _train(dataset, o=tmp_path, resume=True).folds["0"]["epochs"] == 3
    assert _weights(tmp_path) == before
    _train(dataset, "seed=1", o=tmp_path, overwrite=True)
    assert _weights(tmp_path) != before


def test_another_model_in_the_folder_is_refused_at_once_or_replaced(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(dataset, "epochs=1", o=tmp_path)
    monkeypatch.setattr("nnunet_spine_ext.instances.training.run._prepare", _never)
    with pytest.raises(SetupError, match="another size") as error:
        _train(dataset, "epochs=1", "network.width=4", o=tmp_path, f="1")
    assert error.value.code == "E-MODEL-INSTANCE"
    model = (tmp_path / "instance_model.json").read_bytes()
    (tmp_path / "instance_model.json").write_text("{}")
    with pytest.raises(SetupError, match="format version"):
        _train(dataset, "epochs=1", o=tmp_path, overwrite=True)
    (tmp_path / "instance_model.json").write_bytes(model)
    monkeypatch.undo()
    _train(dataset, "epochs=1", "network.width=4", o=tmp_path, f="1", overwrite=True)
    found = read_instance_model(tmp_path)
    assert (found.folds, found.network.width, list(found.provenance["trained_on"])) == ((1,), 4, ["1"])
    assert len(load_instance_model(tmp_path)._networks) == 1


def test_what_is_refused_changes_neither_state_nor_settings(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, "epochs=1", o=tmp_path)
    fold = tmp_path / "training/fold_0"

    def files() -> list[bytes]:
        return [(fold / name).read_bytes() for name in ("settings.json", "state.safetensors")]

    before = files()
    with pytest.raises(UsageError, match="E-TRAIN-OTHER"):
        _train(dataset, "epochs=1", "seed=1", o=tmp_path, resume=True)
    assert files() == before
    for options in ({"overwrite": True}, {"resume": True}):
        with file_lock(fold / "lock", what="training"), pytest.raises(SetupError, match="E-OUT-LOCKED"):
            _train(dataset, "epochs=2", o=tmp_path, **options)
        assert files() == before


def test_a_fold_that_ends_waits_for_another_that_writes_the_model(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training").mkdir()
    with ExitStack() as other:
        other.enter_context(file_lock(tmp_path / "training/lock", what="writing"))
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            other.close()

        monkeypatch.setattr("nnunet_spine_ext.core.lock.time.sleep", sleep)
        _train(dataset, "epochs=1", o=tmp_path)
    assert len(waited) == 1
    assert read_instance_model(tmp_path).folds == (0,)


def test_folds_that_end_at_once_are_all_in_the_model(dataset: Path, tmp_path: Path) -> None:
    settings = read_settings("cpu", TINY)
    data = open_dataset(dataset, "onehot")
    network = settings.network.build(settings.cutout)

    def finish(number: int) -> None:
        training: Any = SimpleNamespace(name=str(number), settings=settings, network=network)
        with publishing(tmp_path):
            _write_fold(training, data, {"train": [f"case{number}"], "val": []}, tmp_path)

    threads = [Thread(target=finish, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model = read_instance_model(tmp_path)
    assert model.folds == tuple(range(6))
    assert model.provenance["trained_on"] == {str(k): [f"case{k}"] for k in range(6)}


def test_an_imported_model_gets_no_folds_of_ours(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, "epochs=1", o=tmp_path)
    path = tmp_path / "instance_model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"provenance": {"source": "SPINEPS"}}))
    with pytest.raises(SetupError, match="imported from SPINEPS") as error:
        _train(dataset, "epochs=1", o=tmp_path, f="1")
    assert error.value.code == "E-TRAIN-IMPORTED"
    assert read_instance_model(tmp_path).folds == (0,)


def test_a_state_is_not_continued_on_other_masks(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, "epochs=1", o=tmp_path)
    split = json.loads((tmp_path / "training/fold_0/settings.json").read_text())
    _train(dataset, "epochs=1", o=tmp_path, resume=True)
    _hole(dataset / f"labelsTr/{split['val'][0]}.nii.gz")
    _train(dataset, "epochs=1", o=tmp_path, resume=True)
    _hole(dataset / f"labelsTr/{split['train'][0]}.nii.gz")
    with pytest.raises(UsageError, match="differs in masks") as error:
        _train(dataset, "epochs=1", o=tmp_path, resume=True)
    assert error.value.code == "E-TRAIN-OTHER"
    _train(dataset, "epochs=1", o=tmp_path, overwrite=True)
    _train(dataset, "epochs=1", o=tmp_path, resume=True)


def _hole(path: Path) -> None:
    """Take one class out of a mask."""
    mask = read_volume(path)
    write_volume(mask.with_array(np.where(mask.array == 3, 0, mask.array).astype(mask.array.dtype)), path)


def test_a_damaged_state_is_named(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, o=tmp_path)
    state = tmp_path / "training/fold_0/state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(SetupError, match="--overwrite") as error:
        _train(dataset, o=tmp_path, resume=True)
    assert error.value.code == "E-TRAIN-STATE"


def test_all_cases_can_go_into_one_network(dataset: Path) -> None:
    result = _train(dataset, f="all")
    assert result.folder.name == "instances_all"
    assert read_instance_model(result.folder).provenance["trained_on"]["0"] == [f"case{k}" for k in range(4)]


def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    """The loss of a toy falls by more than a quarter."""
    plain = [f"augment.{name}=0" for name in _AUGMENTATIONS]
    more = ("epochs=12", "cutouts_per_epoch=6", "network.width=4", "learning_rate=0.01", "loss_region=vertebrae")
    _train(dataset, *more, *plain, o=tmp_path)
    with (tmp_path / "training/fold_0/log.csv").open() as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert np.mean(losses[-2:]) < 0.75 * np.mean(losses[:2])


def test_the_cache_is_used_and_follows_the_masks(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(dataset, "onehot")
    store = GridStore(tmp_path, data.table, SPEC, substructures=True, memory=0)
    for case in data.cases.values():
        assert store.add(case) == 3
    monkeypatch.setattr("nnunet_spine_ext.instances.training.grids.make_case", _never)
    again = GridStore(tmp_path, data.table, SPEC, substructures=True)
    for case in data.cases.values():
        again.add(case)
    assert np.array_equal(again["case1"].labels, store["case1"].labels)
    path = data.cases["case1"].semantic
    mask = read_volume(path)
    changed = mask.array.copy()
    changed[changed == 3] = 0
    write_volume(mask.with_array(changed), path)
    with pytest.raises(AssertionError, match="made again"):
        again.add(data.cases["case1"])
    (tmp_path / "case2.npz").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="made again"):
        again.add(data.cases["case2"])


def _never(*_: Any, **__: Any) -> None:
    msg = "made again"
    raise AssertionError(msg)


@pytest.mark.parametrize("name", ENCODINGS)
def test_encoding_on_the_device_is_the_encoding_of_prediction(dataset: Path, tmp_path: Path, name: str) -> None:
    data = open_dataset(dataset, "body")
    store = GridStore(tmp_path / "cache", data.table, SPEC, substructures=True)
    store.add(data.cases["case0"])
    from nnunet_spine_ext.instances.training.fold import FoldData

    settings = read_settings("cpu", [*TINY, f"cutout.encoding={name}"])
    fold = FoldTraining(settings, "0", FoldData(store, ("case0",), ()), tmp_path, torch.device("cpu"))
    labels = np.random.default_rng(0).integers(0, 15, (4, 8, 4), dtype=np.uint8)
    assert np.array_equal(fold._encoded(torch.from_numpy(labels)[None])[0].numpy(), encode(labels, name))


# Masks of whole vertebrae


def test_masks_like_spiders_train_with_their_encoding(nnunet_folders: dict[str, Path]) -> None:
    spec = DatasetSpec(8, "Whole", {0: "T2w"}, {"vertebra": 1, "disc": 2, "canal": 3})
    cases = []
    for k in range(2):
        case = _case(f"c{k}", f"s{k}")
        assert case.label is not None
        mask = np.zeros(case.label.shape, dtype=np.uint8)
        mask[(case.label.array >= 2) & (case.label.array <= 10)] = 1
        mask[case.label.array == 14] = 2
        mask[(case.label.array == 12) | (case.label.array == 11)] = 3
        case.label = case.label.with_array(mask)
        cases.append(case)
    folder = write_raw_dataset(nnunet_folders["nnUNet_raw"], spec, cases, folds=2)
    with pytest.raises(UsageError, match=r"cutout\.encoding=body") as error:
        _train(folder)
    assert error.value.code == "E-INST-ENCODING"
    result = _train(folder, "cutout.encoding=body")
    assert read_instance_model(result.folder).cutout.encoding == "body"


# Bad input


def test_a_dataset_without_instances_is_refused(dataset: Path) -> None:
    for path in (dataset / "instancesTr").iterdir():
        path.unlink()
    with pytest.raises(NoInputError, match="nnUNetv2_spine_phantom") as error:
        _train(dataset)
    assert error.value.code == "E-TRAIN-INSTANCES"


def test_one_bad_case_is_named_and_the_others_go_on(dataset: Path) -> None:
    path = dataset / "instancesTr/case0.nii.gz"
    mask = read_volume(path)
    write_volume(Volume(mask.array[:-1], mask.affine), path)
    strange = dataset / "instancesTr/case1.nii.gz"
    array = read_volume(strange).array.copy()
    array[array == 2] = 77
    write_volume(mask.with_array(array) if array.shape == mask.shape else Volume(array, mask.affine), strange)
    result = _train(dataset, f="all")
    assert result.exit_code == 3
    assert {name: problem.code for name, problem in result.cases.failed.items()} == {
        "case0": "E-GEOM-GRID", "case1": "E-LABEL-UNKNOWN",
    }  # fmt: skip
    assert "77" in str(result.cases.failed["case1"])
    grid = result.cases.failed["case0"]
    assert grid.file == str(path)
    assert "the instance mask has shape" in grid.found
    assert "the semantic mask labelsTr/case0.nii.gz (" in grid.found
    assert "the image" not in str(grid)
    assert f"{result.folder}: 2 usable cases\nfold all: trained on 2 cases, validated on the same, " in result.render()
    assert result.cases.done == ["case2", "case3"]


def test_a_case_without_a_vertebra_is_left_out_with_a_warning(dataset: Path) -> None:
    path = dataset / "instancesTr/case2.nii.gz"
    mask = read_volume(path)
    write_volume(mask.with_array(np.zeros_like(mask.array)), path)
    result = _train(dataset, f="all")
    assert result.exit_code == 0
    assert result.cases.warnings["case2"][0].code == "W-TRAIN-NOVERTEBRA"
    assert "case2" not in result.cases.done


def test_no_usable_case_is_an_error(dataset: Path) -> None:
    for path in (dataset / "instancesTr").iterdir():
        mask = read_volume(path)
        write_volume(mask.with_array(np.zeros_like(mask.array)), path)
    with pytest.raises(NoInputError) as error:
        _train(dataset, f="all")
    assert error.value.code == "E-TRAIN-NOCASE"


@pytest.mark.parametrize(("fold", "hint"), [("7", "0 to 1"), ("x", "numbers"), (["all", "0"], "alone")])
def test_unknown_folds_are_refused_before_anything_is_done(dataset: Path, fold: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as error:
        _train(dataset, f=fold)
    assert error.value.code == "E-SPLIT-FOLD"
    assert not (dataset.parent.parent / "nnUNet_results/Dataset007_Toy").exists()


def test_splits_that_leak_are_refused(dataset: Path) -> None:
    write_json(dataset / "splits_final.json", [{"train": ["case0", "case1"], "val": ["case1"]}])
    with pytest.raises(UsageError, match="s1") as error:
        _train(dataset)
    assert error.value.code == "E-SPLIT-WRONG"


def test_without_a_file_of_splits_subjects_stay_together(dataset: Path) -> None:
    (dataset / "splits_final.json").unlink()
    facts = json.loads((dataset / "cases.json").read_text())
    for k in range(4):
        facts["cases"][f"case{k}"]["subject"] = f"s{k // 2}"
    write_json(dataset / "cases.json", facts)
    result = _train(dataset)
    settings = json.loads((result.folder / "training/fold_0/settings.json").read_text())
    assert sorted([settings["train"], settings["val"]]) == [["case0", "case1"], ["case2", "case3"]]


def test_cases_without_an_instance_mask_are_left_out_of_the_folds(dataset: Path) -> None:
    (dataset / "instancesTr/case0.nii.gz").unlink()
    (dataset / "cases.json").unlink()
    result = _train(dataset)
    settings = json.loads((result.folder / "training/fold_0/settings.json").read_text())
    assert sorted([*settings["train"], *settings["val"]]) == ["case1", "case2", "case3"]
    (warning,) = result.cases.warnings[dataset.name]
    assert (warning.code, warning.found) == ("W-TRAIN-NOINSTANCES", "no instance mask of 1 case: case0")
    train, val = len(settings["train"]), len(settings["val"])
    assert {train, val} == {1, 2}
    assert (result.folds["0"]["training_cases"], result.folds["0"]["validation_cases"]) == (train, val)
    words = {1: "1 case", 2: "2 cases"}
    assert f"fold 0: trained on {words[train]}, validated on {words[val]}, 3 epochs" in result.render()
    assert "case0" in result.render()
    assert result.exit_code == 0


def test_classes_that_are_no_spine_are_refused(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    description["spine_ext"]["scheme"] = "custom"
    description["labels"] = {"background": 0, "liver": 1}
    write_json(dataset / "dataset.json", description)
    with pytest.raises(UsageError, match="liver") as error:
        _train(dataset)
    assert error.value.code == "E-TRAIN-CLASSES"


def test_an_unknown_dataset_names_the_nearest(dataset: Path) -> None:
    with pytest.raises(SetupError, match="Dataset007_Toy") as error:
        train_instances("Dataset007_Toi", device="cpu")
    assert error.value.code == "E-DATASET-FOLDER"


def test_folders_of_nnunet_that_are_not_set_are_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(SetupError, match="nnUNet_results"):
        _train(dataset)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SetupError, match="nnUNet_raw"):
        train_instances("7", device="cpu")


def test_a_case_that_changes_while_it_is_used_is_named(dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(dataset, "onehot")
    store = GridStore(tmp_path, data.table, SPEC, substructures=True, memory=0)
    for case in data.cases.values():
        store.add(case)
    (tmp_path / "case0.npz").unlink()
    with pytest.raises(CaseError, match="--resume"):
        store["case0"]


def test_the_command_is_a_thin_shell(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-d", "7", "--preset", "cpu", "-device", "cpu", "--set", *TINY, "--json"]
    assert command.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["folds"]["0"]["epochs"] == 3
    assert command.main(arguments) == 2
    assert command.main(["-d", "7", "-device", "cuda:9", "--preset", "cpu"]) == 5


def test_errors_survive_the_shell(dataset: Path) -> None:
    with pytest.raises(SpineExtError, match="E-USE-DEVICE"):
        train_instances("7", device="gpu")
