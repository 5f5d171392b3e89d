"""The whole way through the real commands: plan, train, validate, predict, ensemble, export; one toy dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from house import ROOT
from model_builder import LABELS14, SIDED14

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.io import read_json, read_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import separate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DATASET = "Dataset977_Toy"
PLANS = "spineToy"
TRAINER = "nnUNetTrainerSpine"
SUBJECTS = ("anna", "bert", "cleo", "dora")
TINY = (
    "train.num_epochs=2", "train.num_iterations_per_epoch=2", "train.num_val_iterations_per_epoch=1",
    "train.optimizer=adamw", "train.initial_lr=0.003", "train.plot_every=2", "train.save_every=1",
    "network.base_features=4", "network.max_stages=3", "network.convs_per_stage=1",
    "network.convs_per_decoder_stage=1", "patch.max_voxels=14000", "batch_size=2",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Folders of one run, and how to call a command in it."""

    folder: Path

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / DATASET

    @property
    def model(self) -> Path:
        return self.folder / "nnUNet_results" / DATASET / f"{TRAINER}__{PLANS}__3d_fullres"

    def call(self, command: str, *arguments: object, fails: bool = False, **variables: str) -> str:
        """Run one of the installed commands and return what it printed."""
        folders = {n: str(self.folder / n) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        env = {**os.environ, **folders, "nnUNet_extTrainer": str(ROOT / "trainers"), **variables}
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [str(program), *map(str, arguments)], cwd=self.folder, env=env, capture_output=True, text=True, timeout=900
        )
        text = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}\n{text}"
        return text

    def train(self, *arguments: str, fails: bool = False) -> str:
        # No augmentation processes; with none of them planning would crash, so this is set for training alone.
        return self.call(
            "nnUNetv2_train", "977", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", *arguments,
            fails=fails, nnUNet_n_proc_DA="0",
        )  # fmt: skip

    def predict(self, source: Path, out: Path, processes: int, *options: str, fails: bool = False) -> str:
        return self.call(
            "nnUNetv2_predict", "-d", "977", "-i", source, "-o", out, "-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres",
            "-f", "0", "-device", "cpu", "-npp", processes, "-nps", processes, *options, fails=fails,
        )  # fmt: skip


def toy_case(subject: int, contrast: int) -> tuple[Volume, Volume]:
    """Return image and mask of a pile of boxes: three bodies with discs between them and processes on both sides."""
    rng = np.random.default_rng([subject, contrast])
    mask = np.zeros((24, 30, 32), dtype=np.uint8)
    for level in range(3):
        low = 2 + 10 * level
        mask[7:17, 16:26, low : low + 7] = 10
        mask[7:17, 16:26, low + 7 : low + 10] = 14
        mask[7:17, 16:26, low + 6 : low + 8] = np.where(mask[7:17, 16:26, low + 6 : low + 8] > 0, 13, 0)
        mask[8:16, 6:9, low : low + 6] = 2
        mask[10:14, 2:6, low : low + 5] = 3
        # In RAS the first axis grows to the right: left structures come first.
        for left, rows in ((4, slice(9, 12)), (6, slice(4, 6)), (8, slice(6, 8))):
            mask[2:7, rows, low : low + 5] = left
            mask[17:22, rows, low : low + 5] = left + 1
    mask[8:16, 10:15, :] = 12
    mask[10:14, 11:14, :] = 11
    mask[7:17, 16:26, :2] = 1
    levels = rng.uniform(100, 900, size=15)
    levels[0] = 30
    image = levels[mask] + rng.normal(0, 15, size=mask.shape)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    return Volume(np.maximum(image, 0).astype(np.float32), affine), Volume(mask, affine)


def toy_dataset(folder: Path) -> None:
    """Write the raw dataset: two cases per subject, so that a split by case would leak."""
    spec = DatasetSpec(
        dataset_id=977,
        name="Toy",
        channel_names={0: "MR"},
        labels=LABELS14,
        scheme="nnunet14",
        sided_labels=tuple((a, b) for a, b in SIDED14),
    )

    def cases() -> Iterator[RawCase]:
        for number, subject in enumerate(SUBJECTS):
            for contrast in range(2):
                image, label = toy_case(number, contrast)
                yield RawCase(f"{subject}_{contrast}", subject, [image], label)

    write_raw_dataset(folder / "nnUNet_raw", spec, cases(), folds=2, preprocessed_root=folder / "nnUNet_preprocessed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world with a trained model whose raw dataset is gone."""
    world = World(tmp_path_factory.mktemp("world"))
    toy_dataset(world.folder)
    world.call(
        "nnUNetv2_plan_and_preprocess", "-d", "977", "-c", "3d_fullres", "-np", "1", "-npfp", "1",
        "--verify_dataset_integrity",
    )  # fmt: skip
    settings = [word for assignment in TINY for word in ("--set", assignment)]
    printed = world.call("nnUNetv2_spine_plan", "-d", "977", "--name", PLANS, *settings)
    assert f"next: nnUNetv2_train 977 3d_fullres 0 -tr {TRAINER} -p {PLANS}" in printed
    (world.folder / "in").mkdir()
    raw = world.folder / "nnUNet_raw" / DATASET
    for case in ("anna_0", "bert_1"):
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", world.folder / "in")
    shutil.rmtree(raw)
    (world.folder / "training.txt").write_text(world.train())
    return world


def test_training_keeps_subjects_apart_without_the_raw_data(world: World) -> None:
    log = (world.folder / "training.txt").read_text()
    assert "Split 0, grouped by subject: 4 training and 4 validation cases." in log
    split = read_json(world.preprocessed / "splits_final.json")[0]
    validated = {f.name.removesuffix(".nii.gz") for f in (world.model / "fold_0/validation").glob("*.nii.gz")}
    assert validated == set(split["val"])
    assert not {c.split("_")[0] for c in validated} & {c.split("_")[0] for c in split["train"]}


def test_the_model_carries_its_settings(world: World) -> None:
    settings = read_json(world.model / "plans.json")["spine_ext"]
    assert settings["train"]["num_epochs"] == 2
    assert settings["data"] == {"scheme": "nnunet14", "sided_labels": SIDED14, "regions": []}
    assert settings["reference"]["0"]["cases"] == 4
    assert len(settings["reference"]["0"]["channels"][0]["mean"]) == 33
    assert len(json.dumps(settings)) < 100_000


def test_validation_writes_nothing_of_ours(world: World) -> None:
    world.call("nnUNetv2_spine_plan", "-m", world.model, "--set", "predict.instances=true")
    plans = world.preprocessed / f"{PLANS}.json"
    before = plans.read_text()
    asked = json.loads(before)
    asked["spine_ext"]["predict"]["instances"] = True
    plans.write_text(json.dumps(asked))
    shutil.rmtree(world.model / "fold_0/validation")
    world.train("--val")
    plans.write_text(before)
    written = {f.name for f in (world.model / "fold_0/validation").iterdir()}
    cases = read_json(world.preprocessed / "splits_final.json")[0]["val"]
    assert written == {f"{c}.nii.gz" for c in cases} | {"summary.json"}


@pytest.fixture(scope="module")
def predicted(world: World) -> list[Path]:
    """Return two folders that stock nnUNetv2_predict filled, with and without worker processes, numbers asked for."""
    world.call("nnUNetv2_spine_plan", "-m", world.model, "--set", "predict.numbering=true")
    outputs = [world.folder / "out_workers", world.folder / "out_sequential"]
    for out, processes in zip(outputs, (1, 0), strict=True):
        # nnU-Net's ensembling wants the class probabilities beside the masks.
        world.predict(world.folder / "in", out, processes, "--save_probabilities")
    return outputs


def test_stock_prediction_writes_instances_in_every_process_layout(world: World, predicted: list[Path]) -> None:
    for case in ("anna_0", "bert_1"):
        image = read_volume(world.folder / "in" / f"{case}_0000.nii.gz")
        for kind in ("", "instances/"):
            files = [out / f"{kind}{case}.nii.gz" for out in predicted]
            masks = [read_volume(file) for file in files]
            assert masks[0].same_grid(image)
            assert np.array_equal(masks[0].array, masks[1].array)
            assert files[0].read_bytes() == files[1].read_bytes()
    for out in predicted:
        assert {f.name for f in out.iterdir() if f.is_dir()} == {"instances", "centroids", "qc"}
        assert "numbering" in read_json(out / "qc" / "anna_0.json")


@pytest.mark.parametrize("processes", [0, 1])
def test_stock_prediction_names_a_truncated_file(world: World, processes: int) -> None:
    source = world.folder / f"broken_{processes}"
    source.mkdir()
    whole = world.folder / "in" / "anna_0_0000.nii.gz"
    content = whole.read_bytes()
    (source / "cut_0000.nii.gz").write_bytes(content[: len(content) // 2])
    out = world.folder / f"out_broken_{processes}"
    printed = world.predict(source, out, processes, fails=True)
    assert "cut_0000.nii.gz" in printed
    assert "E-IN-TRUNCATED" in printed
    assert not (out / "cut.nii.gz").exists()


def test_stock_commands_accept_the_model(world: World, predicted: list[Path]) -> None:
    common = ("-p", PLANS, "-c", "3d_fullres", "-f", "0")
    world.call("nnUNetv2_find_best_configuration", "977", *common, "-tr", TRAINER, "-np", "1", "--disable_ensembling")
    ensembled, final = (world.folder / n for n in ("ensembled", "final"))
    world.call("nnUNetv2_ensemble", "-i", *predicted, "-o", ensembled, "-np", "1")
    rules = next(world.model.rglob("postprocessing.pkl"))
    world.call(
        "nnUNetv2_apply_postprocessing", "-i", ensembled, "-o", final, "-pp_pkl_file", rules, "-np", "1",
        "-plans_json", world.model / "plans.json", "-dataset_json", world.model / "dataset.json",
    )  # fmt: skip
    for case in ("anna_0", "bert_1"):
        alone, together = (read_volume(f / f"{case}.nii.gz") for f in (predicted[0], ensembled))
        # nnU-Net's ensemble does not clean masks up, as the instance step of the predictions has done.
        cleaned = separate(together, "nnunet14").semantic
        assert np.count_nonzero(alone.array != cleaned.array) <= 1e-3 * alone.array.size
        assert (final / f"{case}.nii.gz").is_file()
    package = world.folder / "model.zip"
    world.call(
        "nnUNetv2_export_model_to_zip", "-d", "977", "-o", package, "-c", "3d_fullres", "-tr", TRAINER, "-p", PLANS,
        "-f", "0",
    )  # fmt: skip
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        plans = next(n for n in names if n.endswith("plans.json"))
        assert json.loads(archive.read(plans))["spine_ext"]["data"]["scheme"] == "nnunet14"
    assert any(n.endswith("checkpoint_final.pth") for n in names)
    assert any(n.endswith("progress.png") for n in names)


def test_resume_goes_on_and_refuses_other_settings(world: World) -> None:
    fold = world.model / "fold_0"
    (fold / "checkpoint_final.pth").unlink()
    world.train("--c")
    assert (fold / "checkpoint_final.pth").is_file()
    settings = [word for assignment in (*TINY, "train.weight_decay=0.5") for word in ("--set", assignment)]
    world.call("nnUNetv2_spine_plan", "-d", "977", "--name", PLANS, *settings, "--overwrite")
    stamp = (fold / "checkpoint_final.pth").stat().st_mtime_ns
    printed = world.train("--c", fails=True)
    assert "E-MODEL-SETTINGS" in printed
    assert str(world.model / "plans.json") in printed
    assert (fold / "checkpoint_final.pth").stat().st_mtime_ns == stamp


def test_augmentation_on_the_device_trains_and_predicts_through_the_commands(world: World) -> None:
    trainer, plans = "nnUNetTrainerSpineShift", "spineToyShift"
    printed = world.call(
        "nnUNetv2_spine_plan", "-d", "977", "-p", PLANS, "--name", plans, "--preset", "shift",
        "--set", "augment.ramp_epochs=0", "--set", "train.num_val_iterations_per_epoch=1",
    )  # fmt: skip
    assert f"-tr {trainer} -p {plans}" in printed
    refused = world.call(
        "nnUNetv2_train", "977", "3d_fullres", "0", "-tr", TRAINER, "-p", plans, "-device", "cpu", fails=True
    )
    assert "E-TRAINER-AUGMENT" in refused
    # With a worker process: batches are prepared ahead.
    world.call(
        "nnUNetv2_train", "977", "3d_fullres", "0", "-tr", trainer, "-p", plans, "-device", "cpu",
        nnUNet_n_proc_DA="1",
    )  # fmt: skip
    model = world.preprocessed.parent.parent / "nnUNet_results" / DATASET / f"{trainer}__{plans}__3d_fullres"
    assert read_json(model / "plans.json")["spine_ext"]["augment"]["hash"]
    assert read_json(model / "fold_0/validation/summary.json")["metric_per_case"]
    out = world.folder / "shifted"
    world.call(
        "nnUNetv2_predict", "-d", "977", "-i", world.folder / "in", "-o", out, "-tr", trainer, "-p", plans,
        "-c", "3d_fullres", "-f", "0", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    assert sorted(f.name for f in out.glob("*.nii.gz")) == ["anna_0.nii.gz", "bert_1.nii.gz"]
