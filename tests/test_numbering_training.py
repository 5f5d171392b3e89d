"""Training of the network that names vertebrae: data, augmentation, the run and its interruption, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_builder import lumbar, write_dataset
from safetensors import safe_open
from safetensors.torch import save_file

from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.cli import train_numbering as command
from nnunet_spine_ext.core.epochs import read_facts, read_log
from nnunet_spine_ext.core.errors import CaseError, NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_json, read_volume, write_json, write_volume
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.numbering.classifier import load_classifier
from nnunet_spine_ext.numbering.crops import CropSpec, cut_crops, normalized
from nnunet_spine_ext.numbering.model import read_numbering_model
from nnunet_spine_ext.numbering.targets import HEADS
from nnunet_spine_ext.numbering.training import loop
from nnunet_spine_ext.numbering.training.augment import PatchAugmentation, draw_cuts
from nnunet_spine_ext.numbering.training.data import cache_cases, open_numbered, refuse_positions
from nnunet_spine_ext.numbering.training.loop import losses, sampling_weights
from nnunet_spine_ext.numbering.training.run import TrainNumberingResult, train_numbering
from nnunet_spine_ext.numbering.training.settings import (
    AugmentSettings,
    NumberingTrainSettings,
    preset_names,
    read_settings,
)

TINY = (
    "crop.size=[12, 16, 8]", "crop.spacing=[9, 9, 9]", "network.width=2", "network.blocks=[1, 1]", "epochs=3",
    "batch_size=4", "validate_every=2", "learning_rate=1e-2",
)  # fmt: skip
SPEC = CropSpec((12, 16, 8), (9.0, 9.0, 9.0))
NO_CHANGE = {
    "pipeline": {"transforms": []}, "upper_cut": 0.0, "lower_cut": 0.0, "side_cut": 0.0, "drop_own": 0.0,
    "drop_all": 0.0, "drop_neighbours": 0.0,
}  # fmt: skip


@pytest.fixture
def dataset(nnunet_folders: dict[str, Path]) -> Path:
    """Four lumbar cases of four subjects, two folds."""
    cases = [(f"case{k}", lumbar(k)) for k in range(4)]
    return write_dataset(nnunet_folders["nnUNet_raw"], cases, contrast="T2w")


def _train(dataset: Path, out: Path, *more: str, **options: object) -> TrainNumberingResult:
    return train_numbering(dataset, o=out, preset="cpu", assignments=[*TINY, *more], device="cpu", **options)  # type: ignore[arg-type]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "fold_0.safetensors")


# --- the run ---


def test_a_training_leaves_a_model_a_table_and_a_state(dataset: Path, tmp_path: Path) -> None:
    result = _train(dataset, tmp_path / "m")
    assert result.exit_code == 0
    assert sorted(result.cases.done) == [f"case{k}" for k in range(4)]
    model = read_numbering_model(tmp_path / "m")
    assert (model.folds, model.contrasts, model.crop) == ((0,), ("T2w",), SPEC)
    trained = model.provenance["trained_on"]["0"]
    assert len(trained) == 2
    facts = result.folds["0"]
    assert facts["epochs"] == 3
    assert facts["metrics"]["single"]["vertebrae"] == 6
    assert set(facts["metrics"]["solved"]["regions"]) == {"L"}
    assert read_json(tmp_path / "m/training/fold_0/result.json") == json.loads(json.dumps(facts))
    with (tmp_path / "m/training/fold_0/log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [bool(row["accuracy"]) for row in rows] == [False, True, True]
    assert {f"loss_{name}" for name in HEADS} < set(rows[0])
    assert "perfect sequences" in result.render()
    assert (
        f"{result.folder}: 4 usable cases\nfold 0: trained on 2 cases, validated on 2 cases, 3 epochs"
        in result.render()
    )
    assert result.to_dict()["folds"]["0"]["epochs"] == 3
    image, semantic, instances = lumbar(1)
    assert len(load_classifier(tmp_path / "m", device="cpu").scores(image, instances, semantic)) == 3


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(dataset, tmp_path / "whole")
    real, calls = loop._Fold._train_epoch, []

    def stopped(self: loop._Fold) -> dict[str, float]:
        calls.append(self.epoch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(loop._Fold, "_train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        _train(dataset, tmp_path / "parts")
    assert not (tmp_path / "parts/numbering_model.json").exists()
    assert read_facts(tmp_path / "parts/training/fold_0/state.safetensors")["epoch"] == 2
    resumed = _train(dataset, tmp_path / "parts", resume=True)
    assert calls == [0, 1, 2, 2]
    first, second = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.folds["0"]["metrics"] == whole.folds["0"]["metrics"]
    logs = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(path.open(newline=""))]
        for path in (tmp_path / "whole/training/fold_0/log.csv", tmp_path / "parts/training/fold_0/log.csv")
    ]
    assert logs[0] == logs[1]
    # Finished: nothing is left to do.
    _train(dataset, tmp_path / "parts", resume=True)
    assert len(calls) == 4


def test_the_table_is_written_in_every_epoch_and_is_never_that_of_an_earlier_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(dataset, tmp_path / "m", "epochs=1")
    log, seen = tmp_path / "m/training/fold_0/log.csv", []

    def observed(self: loop._Fold) -> dict[str, float]:
        seen.append(len(read_log(log, 9)))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return dict.fromkeys(("loss", *HEADS), 0.0)

    monkeypatch.setattr(loop._Fold, "_train_epoch", observed)
    with pytest.raises(KeyboardInterrupt):
        _train(dataset, tmp_path / "m", "save_every=9", overwrite=True)
    assert seen == [0, 1, 2]
    assert not (log.parent / "state.safetensors").exists()


def test_states_of_earlier_versions_are_told_apart_by_their_hash_alone(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "m", "epochs=1")
    path = tmp_path / "m/training/fold_0/state.safetensors"
    with safe_open(path, framework="pt") as stored:
        facts = json.loads(stored.metadata()["spine_ext"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  not a mapping
    old = {key: facts[key] for key in ("version", "epoch", "cpu_seconds", "hash")}
    save_file(tensors, path, metadata={"spine_ext": json.dumps(old)})
    assert _train(dataset, tmp_path / "m", "epochs=1", resume=True).folds["0"]["epochs"] == 1
    with pytest.raises(SpineExtError, match="differs in settings, cases or files;"):
        _train(dataset, tmp_path / "m", "epochs=2", resume=True)
    save_file(tensors, path, metadata={"spine_ext": json.dumps(facts)})
    with pytest.raises(SpineExtError, match="differs in settings;"):
        _train(dataset, tmp_path / "m", "epochs=2", resume=True)
    splits = read_json(dataset / "splits_final.json")
    write_json(dataset / "splits_final.json", [splits[1], splits[0]])
    with pytest.raises(SpineExtError, match="differs in cases;"):
        _train(dataset, tmp_path / "m", "epochs=1", resume=True)


def test_a_model_folder_that_cannot_be_made_is_a_wrong_option(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(SpineExtError) as caught:
        _train(dataset, tmp_path / "a_file" / "model", "epochs=1")
    assert (caught.value.code, caught.value.exit_code) == ("E-OUT-FOLDER", 2)


def test_an_earlier_training_is_neither_overwritten_nor_mixed_unasked(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "m", "epochs=1")
    for options, code, more in (
        ({}, "E-TRAIN-EXISTS", ()),
        ({"resume": True}, "E-TRAIN-OTHER", ("learning_rate=1e-3",)),
        ({"resume": True, "overwrite": True}, "E-TRAIN-BOTH", ()),
        ({"f": ["1"]}, "E-MODEL-NUMBERING", ("network.width=3",)),
    ):
        with pytest.raises(SpineExtError) as caught:
            _train(dataset, tmp_path / "m", "epochs=1", *more, **options)
        assert caught.value.code == code
    (tmp_path / "m/training/fold_0/state.safetensors").write_bytes(b"nothing")
    with pytest.raises(SpineExtError) as caught:
        _train(dataset, tmp_path / "m", "epochs=1", resume=True)
    assert caught.value.code == "E-TRAIN-STATE"
    _train(dataset, tmp_path / "m", "epochs=1", "network.width=3", overwrite=True)
    _train(dataset, tmp_path / "m", "epochs=1", "network.width=3", f=["1"])
    model = read_numbering_model(tmp_path / "m")
    assert model.folds == (0, 1)
    assert model.network.width == 3
    assert not set(model.provenance["trained_on"]["0"]) & set(model.provenance["trained_on"]["1"])


def test_what_is_refused_changes_neither_state_nor_settings(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "m", "epochs=1")
    fold = tmp_path / "m/training/fold_0"

    def files() -> list[bytes]:
        return [(fold / name).read_bytes() for name in ("settings.json", "state.safetensors")]

    before = files()
    with pytest.raises(SpineExtError, match="E-TRAIN-OTHER"):
        _train(dataset, tmp_path / "m", "epochs=1", "learning_rate=1e-3", resume=True)
    assert files() == before
    for options in ({"overwrite": True}, {"resume": True}):
        with file_lock(fold / "lock", what="training"), pytest.raises(SpineExtError, match="E-OUT-LOCKED"):
            _train(dataset, tmp_path / "m", "epochs=2", **options)
        assert files() == before


def test_a_state_is_not_continued_on_other_masks(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "m", "epochs=1")
    path = dataset / "labelsTr/case1.nii.gz"
    # Newer, but the same: a dataset that was copied.
    path.touch()
    _train(dataset, tmp_path / "m", "epochs=1", resume=True)
    mask = read_volume(path)
    write_volume(mask.with_array(np.roll(mask.array, 2, axis=1)), path)
    with pytest.raises(SpineExtError, match="differs in files;") as caught:
        _train(dataset, tmp_path / "m", "epochs=1", resume=True)
    assert caught.value.code == "E-TRAIN-OTHER"


def test_a_small_network_learns_the_levels_of_a_few_spines(dataset: Path, tmp_path: Path) -> None:
    more = ["network.width=6", "epochs=14", "samples_per_epoch=48", "validate_every=14"]
    result = _train(dataset, tmp_path / "m", *more, f=["all"])
    metrics = result.folds["all"]["metrics"]
    assert metrics["single"]["accuracy"] == 1.0
    assert metrics["solved"]["perfect"] == 1.0
    assert read_numbering_model(tmp_path / "m").folds == (0,)


def test_the_command_says_what_is_wrong_and_ends_with_the_code(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["-d", "7", "-o", str(tmp_path / "m"), "-f", "9", "-device", "cpu"]) == 2
    assert "E-SPLIT-FOLD" in capsys.readouterr().err
    assert command.main(["-d", "8", "-device", "cpu"]) == 5
    words = ["-d", "7", "--preset", "cpu", "-device", "cpu", "--json", "-q", "--set", *TINY, "epochs=1"]
    assert command.main(words) == 0
    assert json.loads(capsys.readouterr().out)["folds"]["0"]["epochs"] == 1


# --- bad input ---


def test_a_dataset_without_instances_or_without_images_says_so(dataset: Path, tmp_path: Path) -> None:
    shutil.move(dataset / "imagesTr", tmp_path / "images")
    with pytest.raises(NoInputError, match=r"crop\.inputs=masks") as caught:
        _train(dataset, tmp_path / "m")
    assert caught.value.code == "E-TRAIN-IMAGES"
    result = _train(dataset, tmp_path / "m", "crop.inputs=masks", "epochs=1")
    assert result.exit_code == 0
    _, semantic, instances = lumbar(1)
    assert len(load_classifier(tmp_path / "m", device="cpu").scores(None, instances, semantic)) == 3
    shutil.rmtree(dataset / "instancesTr")
    with pytest.raises(NoInputError) as caught:
        _train(dataset, tmp_path / "n")
    assert caught.value.code == "E-TRAIN-INSTANCES"


def test_one_image_that_is_missing_costs_one_case(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    (dataset / "imagesTr/case2_0000.nii.gz").unlink()
    data = open_numbered(dataset, "image+masks")
    assert sorted(data.data.cases) == ["case0", "case1", "case3"]
    assert "case2 has no image" in caplog.text


def test_cases_without_an_instance_mask_are_left_out_with_a_warning(dataset: Path, tmp_path: Path) -> None:
    (dataset / "instancesTr/case0.nii.gz").unlink()
    result = _train(dataset, tmp_path / "m", "epochs=1")
    (warning,) = result.cases.warnings[dataset.name]
    assert (warning.code, warning.found) == ("W-TRAIN-NOINSTANCES", "no instance mask of 1 case: case0")
    assert "case0" in result.render()
    assert result.exit_code == 0


def test_another_grid_is_said_with_both_files(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "instancesTr/case0.nii.gz"
    mask = read_volume(path)
    write_volume(Volume(mask.array[:-1], mask.affine), path)
    image = dataset / "imagesTr/case1_0000.nii.gz"
    picture = read_volume(image)
    write_volume(Volume(picture.array[:-1], picture.affine), image)
    failed = _train(dataset, tmp_path / "m", "epochs=1", f="all").cases.failed
    assert {name: (p.code, p.file) for name, p in failed.items()} == {
        "case0": ("E-GEOM-GRID", str(path)), "case1": ("E-GEOM-GRID", str(dataset / "labelsTr/case1.nii.gz")),
    }  # fmt: skip
    assert failed["case0"].found.startswith(
        f"the mask in instancesTr has shape {mask.array[:-1].shape}, the image imagesTr/case0_0000"
    )
    assert "the image imagesTr/case1_0000.nii.gz (" in failed["case1"].found
    failed = _train(dataset, tmp_path / "n", "epochs=1", "crop.inputs=masks", f="all").cases.failed
    assert set(failed) == {"case0"}
    assert "the semantic mask labelsTr/case0.nii.gz (" in failed["case0"].found


def test_positions_instead_of_levels_are_refused(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "instancesTr/case3.nii.gz"
    instances = read_volume(path)
    array = instances.array.copy()
    for position, level in enumerate((22, 23, 24), start=1):
        array[array == level] = position
    write_volume(instances.with_array(array), path)
    with pytest.raises(CaseError, match="counted from the top, not numbered") as caught:
        _train(dataset, tmp_path / "m")
    assert caught.value.code == "E-NUM-POSITIONS"
    assert "C3 (id 3) on the sacrum" in caught.value.found
    # Without a sacrum their size says so; a sacrum far below says nothing.
    with pytest.raises(CaseError, match="cm³"):
        refuse_positions(instances.with_array(np.where(array == 26, 0, array)), path)
    apart = np.where(array > 2, 0, array)
    apart[array == 26] = 26
    small = Volume(np.where(apart == 26, 26, apart * (apart == 2)), np.diag([0.5, 1.2, 2.0, 1.0]))
    refuse_positions(small, path)


def test_unknown_ids_cost_their_case_and_all_of_them_the_training(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "instancesTr/case0.nii.gz"
    instances = read_volume(path)
    write_volume(instances.with_array(np.where(instances.array == 22, 99, instances.array)), path)
    result = _train(dataset, tmp_path / "m", "epochs=1")
    assert result.exit_code == 3
    assert result.cases.failed["case0"].code == "E-LABEL-UNKNOWN"
    assert "99" in result.cases.failed["case0"].found
    for k in range(1, 4):
        shutil.copy(path, dataset / f"instancesTr/case{k}.nii.gz")
    with pytest.raises(NoInputError, match="99") as caught:
        _train(dataset, tmp_path / "n")
    assert caught.value.code == "E-TRAIN-USABLE"


def test_contrasts_that_differ_are_a_warning(dataset: Path, tmp_path: Path) -> None:
    content = read_json(dataset / "cases.json")
    validated = read_json(dataset / "splits_final.json")[0]["val"]
    for case in validated:
        content["cases"][case]["contrast"] = "T1w"
    write_json(dataset / "cases.json", content)
    result = _train(dataset, tmp_path / "m", "epochs=1")
    found = [p for rows in result.cases.warnings.values() for p in rows]
    assert [p.code for p in found] == ["W-TRAIN-CONTRAST"]
    assert "T1w" in found[0].found
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("epochs=0", "E-CONFIG-RANGE"),
        ("augment.upper_cut=2", "E-CONFIG-RANGE"),
        ("loss.level=0", "E-CONFIG-RANGE"),
        ("balance=1.5", "E-CONFIG-RANGE"),
        ("network.width=0", "E-CONFIG-RANGE"),
        ("crop.size=[2, 2, 2]", "E-CONFIG-RANGE"),
        ("crop.inputs=picture", "E-CONFIG-VALUE"),
        ("epoch=3", "E-CONFIG-KEY"),
    ],
)
def test_settings_that_cannot_be_are_refused(assignment: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings("cpu", [assignment])
    assert caught.value.code == code


def test_presets_are_what_they_are_called() -> None:
    assert preset_names() == ["cpu", "paper"]
    paper = read_settings("paper")
    assert (paper.crop.size, paper.crop.spacing) == ((152, 168, 32), (0.75, 0.75, 1.65))
    assert (paper.epochs, paper.learning_rate) == (100, 1e-4)
    for name in ("paper", "cpu"):
        rates = [read_settings(name).learning_rate_at(k) for k in range(1, read_settings(name).epochs + 1)]
        assert rates == sorted(rates, reverse=True)
    for wrong in ("augmentation", "cpus"):
        with pytest.raises(UsageError, match="known: cpu, paper"):
            read_settings(wrong)
    assert paper.hash != read_settings("paper", ["augment.pipeline=shift"]).hash


# --- patches and augmentation ---


@pytest.fixture
def patches(dataset: Path, tmp_path: Path) -> np.ndarray:
    """Return widened patches of a case as they lie in the cache."""
    cases, failed = cache_cases(open_numbered(dataset, "image+masks"), SPEC, tmp_path / "cache", 1.5)
    assert not failed
    return cases["case1"].patches()


def _keys(count: int) -> list[SampleKey]:
    return [SampleKey(0, f"s{k}", 0, k) for k in range(count)]


def test_what_training_sees_without_augmentation_is_what_prediction_sees(dataset: Path, patches: np.ndarray) -> None:
    source = SPEC.widened(1.5).size
    augmentation = PatchAugmentation(AugmentSettings(**NO_CHANGE), SPEC, source)
    seen, left = augmentation(torch.from_numpy(patches), _keys(3))
    image, semantic, instances = (read_volume(dataset / p) for p in
        ("imagesTr/case1_0000.nii.gz", "labelsTr/case1.nii.gz", "instancesTr/case1.nii.gz"))  # fmt: skip
    expected = normalized(cut_crops(image, instances, semantic, "nnunet14", SPEC).data, "image+masks")
    np.testing.assert_allclose(seen.numpy(), expected, atol=0.02)
    assert left.tolist() == [1, 1, 1]


def test_pictures_that_end_take_image_and_masks_with_them(patches: np.ndarray) -> None:
    settings = AugmentSettings(**{**NO_CHANGE, "lower_cut": 1.0})
    augmentation = PatchAugmentation(settings, SPEC, SPEC.widened(1.5).size)
    batch = torch.from_numpy(np.repeat(patches[1:2], 40, axis=0))
    seen, left = augmentation(batch, _keys(40))
    cuts = [draw_cuts(key, settings, SPEC).picture[1][1] for key in _keys(40)]
    assert min(cuts) < 9 < max(cuts)
    for sample, stop, share in zip(seen, cuts, left.tolist(), strict=True):
        if share < 1 or stop > 11:
            assert not sample[:, :, stop:].any()
            assert sample[0, :, :stop].any()
    assert left.min() >= settings.least_own - 0.01
    assert left.min() < 0.98
    again, _ = augmentation(batch[:7], _keys(7))
    assert torch.equal(again, seen[:7])


def test_masks_may_be_missing_while_the_picture_goes_on(patches: np.ndarray) -> None:
    batch = torch.from_numpy(np.repeat(patches[1:2], 12, axis=0))
    source = SPEC.widened(1.5).size
    plain, _ = PatchAugmentation(AugmentSettings(**NO_CHANGE), SPEC, source)(batch, _keys(12))
    for name, layer in (("drop_own", 1), ("drop_all", 2)):
        seen, _ = PatchAugmentation(AugmentSettings(**{**NO_CHANGE, name: 1.0}), SPEC, source)(batch, _keys(12))
        assert not seen[:, layer].any()
        assert torch.equal(seen[:, 0], plain[:, 0])
    seen, _ = PatchAugmentation(AugmentSettings(**{**NO_CHANGE, "drop_neighbours": 1.0}), SPEC, source)(
        batch, _keys(12)
    )
    assert torch.equal(seen[:, :2], plain[:, :2])
    assert (seen[:, 2] >= seen[:, 1] - 1e-6).all()
    assert (seen[:, 2].sum(dim=(1, 2, 3)) < plain[:, 2].sum(dim=(1, 2, 3)) - 1).any()


def test_unchanged_files_are_cut_once(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_numbered(dataset, "image+masks")
    first, _ = cache_cases(data, SPEC, tmp_path / "cache", 1.2)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.npy")}
    path = dataset / "imagesTr/case0_0000.nii.gz"
    image = read_volume(path)
    write_volume(image.with_array(image.array * 2), path)
    second, _ = cache_cases(data, SPEC, tmp_path / "cache", 1.2)
    changed = [p.name for p in (tmp_path / "cache").glob("*.npy") if p.stat().st_mtime_ns != times[p.name]]
    assert changed == ["case0.npy"]
    assert first["case1"].names == second["case1"].names == ("L3", "L4", "L5")


def test_rare_levels_are_shown_more_often_and_unknown_answers_cost_nothing() -> None:
    names = ["L5"] * 16 + ["L6"]
    weights = {
        b: sampling_weights(names, NumberingTrainSettings(balance=b, balance_limit=8.0)) for b in (0.0, 0.5, 1.0)
    }
    ratios = {b: float(w[-1] / w[0]) for b, w in weights.items()}
    assert ratios == pytest.approx({0.0: 1.0, 0.5: 4.0, 1.0: 8.0})
    answers = {"level": torch.zeros(2, 26, requires_grad=True)}
    unknown = losses(answers, {"level": torch.tensor([-1, -1])}, 0.05)["level"]
    assert float(unknown.detach()) == 0.0
    half = losses(answers, {"level": torch.tensor([-1, 3])}, 0.0)["level"]
    assert float(half.detach()) == pytest.approx(np.log(26), rel=1e-5)
