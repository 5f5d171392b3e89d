"""Segmenters of slices: settings, split, training and its interruption, the model folder, gradients, bad input."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from slice_cohort import dataset, spine

from nnunet_spine_ext.core.errors import NoInputError, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.harmonize.segmenter import NetworkSegmenter, load_segmenter, read_segmenter
from nnunet_spine_ext.harmonize.segmenting.augment import deformed
from nnunet_spine_ext.harmonize.segmenting.data import split_slices
from nnunet_spine_ext.harmonize.segmenting.loop import SegmenterTraining, batches_of
from nnunet_spine_ext.harmonize.segmenting.scores import mean_scores, slice_scores
from nnunet_spine_ext.harmonize.segmenting.settings import (
    SegmenterSettings,
    SliceAugmentSettings,
    preset_names,
    read_settings,
)
from nnunet_spine_ext.harmonize.slice_set import DISC, UNKNOWN, SliceFacts, SliceSet
from nnunet_spine_ext.training.slice_segmenter import SegmenterResult, segmenter

LEARNING = (
    "slices.size=[64, 64]", "slices.spacing=1.5", "network.features=[8, 16, 16]", "network.convolutions=1",
    "epochs=40", "batch_size=2", "bce_weight=1", "learning_rate=2e-2", "final_learning_rate=1e-3", "test=0.2",
)  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects of the target, one of another vendor."""
    rows = [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(5)]
    return dataset(tmp_path_factory.mktemp("raw"), [*rows, {"case": "g0", "manufacturer": "GE"}])


def _train(raw: Path, folder: Path, *more: str, preset: str = "smoke", **options: Any) -> SegmenterResult:
    options = {"target": ["Siemens"], "device": "cpu"} | options
    return segmenter([raw], o=folder, preset=preset, assignments=more, **options)


@pytest.fixture(scope="module")
def trained(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmenterResult]:
    folder = tmp_path_factory.mktemp("models") / "discs"
    return folder, _train(raw, folder, *LEARNING)


# Settings


def test_the_presets_are_the_papers_where_it_says() -> None:
    full, paper = read_settings(), read_settings("paper")
    assert full == SegmenterSettings(description=full.description)
    assert (full.epochs, full.batch_size, full.optimizer, full.learning_rate) == (400, 8, "adam", 1e-3)
    assert (paper.network.kind, paper.network.architecture, paper.network.encoder) == ("smp", "Unet", "resnet34")
    assert (paper.slices.size, paper.slices.fit, paper.slices.scaling) == ((320, 320), "resize", "minmax")
    assert preset_names() == ["cpu", "full", "paper", "smoke"]
    assert len({read_settings(name).hash for name in preset_names()}) == 4


def test_the_learning_rate_falls_to_its_end() -> None:
    settings = SegmenterSettings(epochs=5, learning_rate=1e-2, final_learning_rate=2e-3)
    assert [settings.learning_rate_of(k) for k in range(5)] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])


@pytest.mark.parametrize(
    ("assignment", "code", "hint"),
    [
        ("epoch=3", "E-CONFIG-KEY", "did you mean 'epochs'"),
        ("epochs=0", "E-CONFIG-RANGE", "epochs=0"),
        ("slices_per_epoch=0", "E-CONFIG-RANGE", "slices_per_epoch=0"),
        ("final_learning_rate=1", "E-CONFIG-RANGE", "final_learning_rate=1"),
        ("validation=0", "E-CONFIG-RANGE", "validation=0"),
        ("test=0.8", "E-CONFIG-RANGE", "test=0.8"),
        ("network.features=[8]", "E-CONFIG-RANGE", "two resolutions"),
        ("network.architecture=Linknet", "E-CONFIG-VALUE", "Unet"),
        ("encoder_weights=resnet34.pth", "E-CONFIG-RANGE", "encoder_weights"),
        ("augment.rotation=90", "E-CONFIG-RANGE", "rotation=90"),
        ("slices.size=[30, 30]", "E-SLICE-SETTINGS", "multiples of 4"),
    ],
)
def test_wrong_settings_are_refused(assignment: str, code: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as error:
        read_settings("cpu" if "test" not in assignment else "full", ["validation=0.2", assignment])
    assert error.value.code == code


def test_deeplab_is_not_trained_on_single_slices() -> None:
    network = ("network.kind=smp", "network.architecture=DeepLabV3")
    assert read_settings("full", [*network, "batch_size=2"]).batch_size == 2
    with pytest.raises(UsageError, match="batch_size=1 for DeepLabV3"):
        read_settings("full", [*network, "batch_size=1"])


def test_a_loss_of_nothing_and_an_unknown_preset_are_refused() -> None:
    with pytest.raises(UsageError, match="weights of the loss"):
        SegmenterSettings(dice_weight=0, iou_weight=0)
    with pytest.raises(UsageError, match="did you mean 'full'"):
        read_settings("ful")


# Who is trained, validated and tested on


def _set(subjects: int, *, slices: int = 3, discs: bool = True, labelled: bool = True) -> SliceSet:
    n = subjects * slices
    masks = np.zeros((n, 8, 8), np.uint8)
    masks[:, 2:4] = DISC if discs else 0
    facts = tuple(
        SliceFacts("D", f"c{k // slices}", f"s{k // slices}", "A", k % slices, 0.0, labelled=labelled) for k in range(n)
    )
    return SliceSet(np.zeros((n, 8, 8), np.float32), masks if labelled else None, facts, (1.0, 1.0))


def test_the_papers_patients_are_divided_as_in_the_paper() -> None:
    data = split_slices(_set(169), 14 / 169, 15 / 169, seed=0)
    parts = (data.train, data.validation, data.test)
    assert [len(part.subjects) for part in parts] == [140, 14, 15]
    assert len({name for part in parts for name in part.subjects}) == 169
    assert data.to_dict()["test"] == {"subjects": list(data.test.subjects), "slices": 45}


def test_a_split_depends_on_the_seed_alone() -> None:
    one, same, other = (split_slices(_set(20), 0.2, 0.2, seed).validation.subjects for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize(("subjects", "sizes"), [(2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1])])
def test_few_subjects_are_trained_on_first(subjects: int, sizes: list[int]) -> None:
    data = split_slices(_set(subjects), 0.1, 0.1, seed=0)
    assert [len(part.subjects) for part in (data.train, data.validation, data.test)] == sizes


def test_a_large_share_to_validate_on_leaves_somebody_to_test_on() -> None:
    data = split_slices(_set(3), 0.8, 0.1, seed=0)
    assert [len(part.subjects) for part in (data.train, data.validation, data.test)] == [1, 1, 1]
    data = split_slices(_set(3), 0.8, 0.0, seed=0)
    assert [len(part.subjects) for part in (data.train, data.validation, data.test)] == [1, 2, 0]


def test_no_batch_is_a_single_slice_but_where_all_are() -> None:
    for count, size, sizes in ((9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (1, 4, [1])):
        batches = batches_of(np.arange(count), size)
        assert [len(batch) for batch in batches] == sizes
        assert np.concatenate(batches).tolist() == list(range(count))


def test_slices_that_nothing_can_be_learned_from_are_refused() -> None:
    with pytest.raises(UsageError, match="1 subject") as single:
        split_slices(_set(1), 0.1, 0.1, seed=0)
    assert single.value.code == "E-SPLIT-SUBJECTS"
    for slices, hint in ((_set(3, discs=False), "no disc"), (_set(3, labelled=False), "without masks")):
        with pytest.raises(NoInputError, match=hint) as error:
            split_slices(slices, 0.1, 0.1, seed=0)
        assert error.value.code == "E-SEG-NODISC"


# Scores, augmentation


def test_scores_by_hand() -> None:
    chance = torch.tensor([[0.9, 0.6, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0]])[:, None, None]
    target = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]])[:, None, None]
    known = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    row, empty = slice_scores(chance, target, known)
    assert empty is None
    assert row == pytest.approx({"dice": 2.6 / 3.9, "iou": 1 / 3, "f1": 0.5, "precision": 0.5, "recall": 0.5})
    assert mean_scores([row, None])["slices"] == 1
    assert mean_scores([None])["dice"] is None


def test_nothing_found_scores_nothing() -> None:
    shape = (1, 1, 2, 2)
    row = slice_scores(torch.zeros(shape), torch.ones(shape), torch.ones(shape, dtype=torch.bool))[0]
    assert row == dict.fromkeys(("dice", "iou", "f1", "precision", "recall"), 0.0)


def test_augmentation_moves_image_and_mask_alike_and_says_what_is_unknown() -> None:
    masks = torch.zeros(4, 1, 40, 60, dtype=torch.uint8)
    masks[:, :, 12:24, 20:44] = DISC
    images = masks.float() * 255
    settings = SliceAugmentSettings(rotation=20, scaling=0.2, shift=0.1)
    moved, marked = deformed(images, masks, settings, np.random.default_rng(0))
    assert moved.shape == images.shape
    assert marked.dtype == torch.uint8
    assert set(marked.unique().tolist()) == {0, DISC, UNKNOWN}
    assert ((moved > 127.5) == (marked == DISC)).float().mean() > 0.98
    sizes = (marked == DISC).flatten(1).sum(1) / (masks == DISC).flatten(1).sum(1)
    assert ((sizes > 0.6) & (sizes < 1.5)).all()
    assert len({tuple(m.flatten().tolist()) for m in marked}) == 4
    again = deformed(images, masks, settings, np.random.default_rng(0))
    assert torch.equal(again[0], moved)
    same = deformed(images, masks, SliceAugmentSettings(), np.random.default_rng(0))
    assert same[0] is images


def test_a_turn_keeps_the_form_in_slices_that_are_not_square() -> None:
    """A square stays one: turning coordinates from -1 to 1 of unequal sides would shear it."""
    masks = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    masks[:, :, 12:28, 32:48] = DISC
    rng = np.random.default_rng(3)
    _, marked = deformed(masks.float(), masks, SliceAugmentSettings(rotation=45), rng)
    y, x = np.nonzero((marked[0, 0] == DISC).numpy())
    cov = np.cov(np.stack([y, x]))
    assert cov[0, 0] == pytest.approx(cov[1, 1], rel=0.05)
    assert abs(cov[0, 1]) < 0.05 * cov[0, 0]


# Training


def test_a_segmenter_learns_to_find_discs(trained: tuple[Path, SegmenterResult]) -> None:
    _, result = trained
    assert result.exit_code == 0
    assert result.outcome["validation"]["f1"] > 0.9
    assert result.outcome["test"]["f1"] > 0.9
    # Of five slices of a subject the outer two have no disc.
    assert result.outcome["test"]["slices"] == 3
    assert [len(row["subjects"]) for row in result.sides.values()] == [3, 1, 1]
    assert "test, 3 slices with discs: dice 0.9" in result.render()
    assert json.loads(json.dumps(result.to_dict()))["sides"]["train"]["slices"] == 15


def test_a_scan_that_cannot_be_read_is_left_out_and_makes_the_exit_code_3(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "raw", [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(3)])
    (folder / "imagesTr" / "s1_0000.nii.gz").write_bytes(b"nothing")
    result = _train(folder, tmp_path / "model")
    assert result.exit_code == 3
    assert "s1_0000.nii.gz" in result.render()
    assert result.sides["train"]["subjects"] + result.sides["validation"]["subjects"] in (["s0", "s2"], ["s2", "s0"])


def test_the_folder_says_what_the_model_is(trained: tuple[Path, SegmenterResult]) -> None:
    folder, result = trained
    model = read_segmenter(folder)
    assert model.target == ("Siemens",)
    assert model.slices.spacing == 1.5
    assert model.provenance["split"] == result.sides
    assert model.provenance["result"]["validation"] == result.outcome["validation"]
    rows = list(csv.DictReader((folder / "training/log.csv").open(encoding="utf-8")))
    assert [int(row["epoch"]) for row in rows] == list(range(40))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    best = max(rows, key=lambda row: float(row["dice"]))
    assert int(best["epoch"]) + 1 == result.outcome["best_epoch"]


def test_a_loaded_segmenter_is_frozen_and_gradients_reach_the_slices(trained: tuple[Path, SegmenterResult]) -> None:
    folder, _ = trained
    loaded = load_segmenter(folder)
    assert (loaded.name, loaded.spacing) == ("discs", 1.5)
    assert len(loaded.digest) == 64
    slices = (torch.rand(2, 1, 50, 46) * 255).requires_grad_()
    chance = loaded(slices)
    assert chance.shape == slices.shape
    assert ((chance >= 0) & (chance <= 1)).all()
    chance.sum().backward()
    assert slices.grad is not None
    assert (slices.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training


def test_slices_with_other_pixels_are_resampled_there_and_back(trained: tuple[Path, SegmenterResult]) -> None:
    own, fine = load_segmenter(trained[0]), load_segmenter(trained[0], spacing=0.75)
    assert (own.spacing, fine.spacing) == (1.5, 0.75)
    slices = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8) * 255, scale_factor=8, mode="bilinear")
    halved = torch.nn.functional.interpolate(slices, size=(32, 32), mode="bilinear", antialias=True)
    expected = torch.nn.functional.interpolate(own(halved), size=(64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(fine(slices), expected)
    # A hair's breadth is no reason to blur.
    assert torch.equal(load_segmenter(trained[0], spacing=1.501)(slices), own(slices))


def test_the_gradient_is_the_slope(trained: tuple[Path, SegmenterResult]) -> None:
    loaded = load_segmenter(trained[0])
    loaded.network.double()
    torch.manual_seed(0)
    slices = (torch.rand(1, 1, 16, 16, dtype=torch.float64) * 255).requires_grad_()

    def found(images: torch.Tensor) -> torch.Tensor:
        # Not through the call, whose answer is single precision.
        total: torch.Tensor = loaded.network(images).sigmoid().sum()
        return total

    loaded(slices).sum().backward()
    direction = torch.randn_like(slices)
    step = 1e-3
    slope = (found(slices + step * direction) - found(slices - step * direction)) / (2 * step)
    assert slices.grad is not None
    assert (slices.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_equal_trainings_give_equal_bytes_and_a_stopped_one_goes_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("epochs=4", "augment.rotation=10", "network.features=[4, 8]", "optimizer=sgd")
    _train(raw, tmp_path / "whole", *more)
    once = SegmenterTraining._one_epoch

    def stop(self: SegmenterTraining) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        once(self)

    with monkeypatch.context() as patched:
        patched.setattr(SegmenterTraining, "_one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            _train(raw, tmp_path / "halved", *more)
    with pytest.raises(SetupError, match=r"without segmenter\.json"):
        load_segmenter(tmp_path / "halved")
    _train(raw, tmp_path / "halved", *more, resume=True)
    whole, halved = load_file(tmp_path / "whole/fold_0.safetensors"), load_file(tmp_path / "halved/fold_0.safetensors")
    assert all(torch.equal(whole[name], halved[name]) for name in whole)
    assert (tmp_path / "whole/segmenter.json").read_bytes() == (tmp_path / "halved/segmenter.json").read_bytes()
    before = (tmp_path / "halved/fold_0.safetensors").read_bytes()
    assert _train(raw, tmp_path / "halved", *more, resume=True).outcome["epochs"] == 4
    assert (tmp_path / "halved/fold_0.safetensors").read_bytes() == before


def test_the_best_epoch_is_kept(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = SegmenterTraining.scores
    kept = {}

    def falling(self: SegmenterTraining, slices: SliceSet) -> dict[str, Any]:
        if self.epoch == 2:
            kept.update({name: value.clone() for name, value in self.network.state_dict().items()})
        return scores(self, slices) | {"dice": {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3}[self.epoch]}

    monkeypatch.setattr(SegmenterTraining, "scores", falling)
    result = _train(raw, tmp_path / "m", "epochs=4")
    assert result.outcome["best_epoch"] == 2
    written = load_file(tmp_path / "m/fold_0.safetensors")
    assert all(torch.equal(written[name], kept[name]) for name in written)


# Bad input


def test_an_earlier_training_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    _train(raw, tmp_path / "m")
    with pytest.raises(UsageError) as error:
        _train(raw, tmp_path / "m")
    assert error.value.code == "E-TRAIN-EXISTS"
    with pytest.raises(UsageError) as other:
        _train(raw, tmp_path / "m", "epochs=3", resume=True)
    assert other.value.code == "E-TRAIN-OTHER"
    assert other.value.found == "a training that differs in settings"
    assert read_segmenter(tmp_path / "m").provenance["settings"]["epochs"] == 2
    with pytest.raises(UsageError, match="E-TRAIN-BOTH"):
        _train(raw, tmp_path / "m", "epochs=3", resume=True, overwrite=True)
    assert read_segmenter(tmp_path / "m").provenance["settings"]["epochs"] == 2
    assert _train(raw, tmp_path / "m", "epochs=3", overwrite=True).outcome["epochs"] == 3


def test_a_segmenter_never_goes_into_the_folder_of_a_harmonizer(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UsageError, match=r"a harmonizer.*E-TRAIN-FOLDER"):
        _train(raw, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name != raw.name] == ["model.json"]


def test_a_segmenter_whose_training_was_interrupted_is_told(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/settings.json").write_text("{}")
    with pytest.raises(SetupError, match="whose training was not finished"):
        read_segmenter(tmp_path)


def test_a_state_that_is_damaged_or_in_use_is_refused(raw: Path, tmp_path: Path) -> None:
    _train(raw, tmp_path / "m")
    folder = tmp_path / "m/training"
    with file_lock(folder / "lock", what="training a segmenter"), pytest.raises(SetupError) as held:
        _train(raw, tmp_path / "m", resume=True)
    assert held.value.code == "E-OUT-LOCKED"
    best = (folder / "best.safetensors").read_bytes()
    (folder / "best.safetensors").unlink()
    with pytest.raises(SetupError, match="best epoch") as gone:
        _train(raw, tmp_path / "m", resume=True)
    assert gone.value.code == "E-TRAIN-STATE"
    (folder / "best.safetensors").write_bytes(best)
    (folder / "state.safetensors").write_bytes(b"half")
    with pytest.raises(SetupError) as error:
        _train(raw, tmp_path / "m", resume=True)
    assert error.value.code == "E-TRAIN-STATE"


def test_a_training_that_diverges_says_so(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nnunet_spine_ext.losses.dice_iou.DiceIoULoss.forward",
        lambda *_: torch.tensor(float("nan"), requires_grad=True),
    )
    with pytest.raises(SetupError) as error:
        _train(raw, tmp_path / "m")
    assert error.value.code == "E-TRAIN-DIVERGED"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"target": ["Simens"]}, "E-SLICE-VENDOR"),
        ({"key": "vendor"}, "E-SLICE-KEY"),
        ({"device": "gpu"}, "E-USE-DEVICE"),
        ({"target": ["GE"]}, "E-SPLIT-SUBJECTS"),
    ],
)
def test_wrong_options_are_refused(raw: Path, tmp_path: Path, options: dict[str, Any], code: str) -> None:
    with pytest.raises(SpineExtError) as error:
        _train(raw, tmp_path / "m", **options)
    assert error.value.code == code
    assert not (tmp_path / "m").exists()


def test_two_subjects_leave_nobody_to_test_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = dataset(tmp_path, [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(2)])
    with caplog.at_level(logging.WARNING):
        result = _train(raw, tmp_path / "m")
    assert "nobody is left to test on" in caplog.text
    assert result.outcome["test"]["slices"] == 0
    assert "test," not in result.render()


def test_scans_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    image, mask = spine()
    rows: list[dict[str, Any]] = [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(3)]
    flat = {"case": "flat", "manufacturer": "Siemens", "image": image.with_array(image.array * 0), "mask": mask}
    result = _train(dataset(tmp_path, [*rows, flat]), tmp_path / "m")
    assert any("flat" in str(problem) for problem in result.problems)
    assert "flat" in result.render()


def test_folders_that_are_no_segmenter_are_refused(trained: tuple[Path, SegmenterResult], tmp_path: Path) -> None:
    folder, _ = trained

    def copied(name: str) -> Path:
        target = tmp_path / name
        target.mkdir()
        for file in ("segmenter.json", "fold_0.safetensors"):
            (target / file).write_bytes((folder / file).read_bytes())
        return target

    absent, version, key, cut, other = (copied(n) for n in ("absent", "version", "key", "cut", "other"))
    (absent / "fold_0.safetensors").unlink()
    content = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
    (version / "segmenter.json").write_text(json.dumps(content | {"format_version": 2}))
    (key / "segmenter.json").write_text(json.dumps(content | {"netwrk": 2}))
    (cut / "fold_0.safetensors").write_bytes((folder / "fold_0.safetensors").read_bytes()[:200])
    save_file({"body": torch.zeros(1)}, other / "fold_0.safetensors")
    cases = (
        (tmp_path / "nothing", "E-MODEL-SEGMENTER", "no such folder"), (absent, "E-MODEL-SEGMENTER", "no such file"),
        (version, "E-MODEL-SEGMENTER", "format version 2"), (key, "E-CONFIG-KEY", "did you mean 'network'"),
        (cut, "E-MODEL-SEGMENTER", "cannot be read"), (other, "E-MODEL-SEGMENTER", "another network"),
    )  # fmt: skip
    for path, code, hint in cases:
        with pytest.raises(SetupError, match=hint) as error:
            load_segmenter(path)
        assert error.value.code == code


def test_digests_tell_models_apart(trained: tuple[Path, SegmenterResult], raw: Path, tmp_path: Path) -> None:
    _train(raw, tmp_path / "discs")
    one, same, other = load_segmenter(trained[0]), load_segmenter(trained[0]), load_segmenter(tmp_path / "discs")
    assert one.digest == same.digest != other.digest
    # What resamples slices answers otherwise.
    own, coarse = (load_segmenter(trained[0], spacing=mm) for mm in (1.5, 3.0))
    assert own.digest == one.digest != coarse.digest
    assert isinstance(one, NetworkSegmenter)
