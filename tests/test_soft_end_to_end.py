"""Soft labels the whole way through the real commands: plan, prepare, train, validate, predict, measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from model_builder import CORD
from scipy.ndimage import gaussian_filter
from test_end_to_end import SUBJECTS, TINY, World, toy_case

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.io import read_json, read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DATASET = "Dataset978_Soft"
PLANS = "spineSoftToy"
TRAINER = "nnUNetTrainerSpineSoft"
MODEL = f"nnUNet_results/{DATASET}/{TRAINER}__{PLANS}__3d_fullres"
SLAB = 5


def soft_dataset(folder: Path) -> None:
    """Write the raw dataset: a soft cord whose first slices nobody knows; one case has its hard label only."""
    spec = DatasetSpec(dataset_id=978, name="Soft", channel_names={0: "MR"}, labels=CORD)
    cases = []
    for number, subject in enumerate(SUBJECTS):
        image, mask = toy_case(number, 0)
        soft = gaussian_filter((mask.array == 11).astype(np.float32), (1, 1, 0))
        hard = mask.with_array((soft > 0.5).astype(np.uint8))
        soft[..., :SLAB] = -1
        cases.append(RawCase(f"{subject}_0", subject, [image], hard))
        if subject != "bert":
            label = folder / "nnUNet_raw" / DATASET / "softLabelsTr" / f"{subject}_0.nii.gz"
            (folder / "soft").mkdir(exist_ok=True)
            write_volume(image.with_array(soft), folder / "soft" / label.name)
    write_raw_dataset(folder / "nnUNet_raw", spec, cases, folds=2, preprocessed_root=folder / "nnUNet_preprocessed")
    shutil.copytree(folder / "soft", folder / "nnUNet_raw" / DATASET / "softLabelsTr")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world with a trained model; its images lie in `in`."""
    world = World(tmp_path_factory.mktemp("soft_world"))
    soft_dataset(world.folder)
    world.call("nnUNetv2_plan_and_preprocess", "-d", "978", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    # A network of four steps may find no structure that soft values could lie beside.
    settings = (*TINY, "train.seed=1", "predict.support_mm=null")
    world.call("nnUNetv2_spine_plan", "-d", "978", "--name", PLANS, "--preset", "soft", "--set", *settings)
    printed = world.call("nnUNetv2_spine_preprocess_soft", "-d", "978", "-p", PLANS)
    assert "3 cases with a soft label, 1 with their hard label" in printed
    world.call(
        "nnUNetv2_train", "978", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", nnUNet_n_proc_DA="0"
    )  # fmt: skip
    (world.folder / "in").mkdir()
    for subject in SUBJECTS[:2]:
        name = f"{subject}_0_0000.nii.gz"
        shutil.copy(world.folder / "nnUNet_raw" / DATASET / "imagesTr" / name, world.folder / "in" / name)
    return world


def test_the_training_used_what_was_prepared_and_chose_an_activation(world: World) -> None:
    fold = world.folder / MODEL / "fold_0"
    log = next(fold.glob("training_log*.txt")).read_text()
    assert "Soft labels: 3 cases, 0 of them prepared now; 1 cases with their hard label (bert_0)." in log
    found = read_json(fold / "soft_validation.json")
    assert found["sections"] > 0
    soft = read_json(fold.parent / "plans.json")["spine_ext"]["soft"]
    assert soft["output"] == "linear"
    assert soft["activation"] == min(found["error_mm2"], key=found["error_mm2"].get)
    assert {f.suffix for f in (fold / "validation").iterdir()} == {".gz", ".json"}, "nnU-Net's own folder stays its own"


def test_soft_maps_lie_on_the_images_and_masks_are_where_they_exceed_a_half(world: World) -> None:
    world.call("nnUNetv2_spine_predict", "-i", "in", "-o", "out", "-m", MODEL, "-device", "cpu")
    for subject in SUBJECTS[:2]:
        image = read_volume(world.folder / "in" / f"{subject}_0_0000.nii.gz")
        soft = read_volume(world.folder / "out" / "soft" / f"{subject}_0.nii.gz")
        mask = read_volume(world.folder / "out" / f"{subject}_0.nii.gz")
        assert soft.same_grid(image)
        assert soft.array.dtype == np.float32
        assert ((soft.array >= 0) & (soft.array <= 1)).all()
        between = (soft.array > 0.001) & (soft.array < 0.999)
        assert between.sum() > 20, "a soft map, not a mask"
        np.testing.assert_array_equal(mask.array, soft.array > 0.5)


def test_stock_prediction_gives_the_same_masks_up_to_near_ties(world: World) -> None:
    world.call(
        "nnUNetv2_predict", "-d", "978", "-i", "in", "-o", "stock", "-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres",
        "-f", "0", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    world.call("nnUNetv2_spine_predict", "-i", "in", "-o", "clamped", "-m", MODEL, "-device", "cpu", "--crop", "off")
    for subject in SUBJECTS[:2]:
        stock, soft = (
            read_volume(world.folder / place / f"{subject}_0.nii.gz").array for place in ("stock", "clamped/soft")
        )
        activation = read_json(world.folder / MODEL / "plans.json")["spine_ext"]["soft"]["activation"]
        if activation == "clamp":
            differing = (stock > 0) != (soft > 0.5)
            assert np.abs(soft[differing] - 0.5).max(initial=0) < 2e-2


def probabilities(file: Path) -> np.ndarray:
    """Return what nnU-Net stored beside a mask, (K+1, z, y, x) in RAS."""
    with np.load(file) as stored:
        return np.asarray(stored["probabilities"])


def test_probabilities_that_stock_commands_store_and_average_are_soft_values(world: World) -> None:
    common = ("-d", "978", "-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres", "-f", "0", "-device", "cpu")
    common += ("-npp", "1", "-nps", "1", "--save_probabilities")
    for out, mirror in (("mirrored", ()), ("plain", ("--disable_tta",))):
        world.call("nnUNetv2_predict", "-i", "in", "-o", out, *common, *mirror)
    world.call("nnUNetv2_ensemble", "-i", "mirrored", "plain", "-o", "both", "-np", "1", "--save_npz")
    ours = ("nnUNetv2_spine_predict", "-i", "in", "-m", MODEL, "-device", "cpu", "--crop", "off")
    world.call(*ours, "-o", "ours", "--tta", "none")
    for subject in SUBJECTS[:2]:
        parts = [probabilities(world.folder / out / f"{subject}_0.npz") for out in ("mirrored", "plain")]
        soft = read_volume(world.folder / "ours" / "soft" / f"{subject}_0.nii.gz").to("RAS").array.transpose(2, 1, 0)
        # nnU-Net adds windows up in half precision, in which the weights of outer corners are nearly 0.
        assert np.mean(np.abs(parts[1][1] - soft) > 2e-2) < 1e-3
        mean = probabilities(world.folder / "both" / f"{subject}_0.npz")
        np.testing.assert_allclose(mean, (parts[0] + parts[1]) / 2, atol=1e-3)
        mask = read_volume(world.folder / "both" / f"{subject}_0.nii.gz").to("RAS").array.transpose(2, 1, 0)
        np.testing.assert_array_equal(mask == 1, mean[1] > mean[0])


def test_the_best_configuration_is_found_among_soft_models(world: World) -> None:
    world.call(
        "nnUNetv2_train", "978", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "--val", "--npz",
        nnUNet_n_proc_DA="0",
    )  # fmt: skip
    validation = world.folder / MODEL / "fold_0" / "validation"
    for file in validation.glob("*.npz"):
        stored = probabilities(file)
        # A softmax of linear outputs would be near 0.27 where nothing is, and near 0.73 inside.
        assert stored[1].min() == 0
        assert stored[0].max() > 0.95
        mask = read_volume(file.with_suffix(".nii.gz")).to("RAS").array.transpose(2, 1, 0)
        np.testing.assert_array_equal(mask == 1, stored[1] > stored[0])
    # A second model, so that there is something to average.
    other = "nnUNetTrainerSpineShiftSoft"
    shutil.copytree(world.folder / MODEL, world.folder / MODEL.replace(TRAINER, other))
    printed = world.call(
        "nnUNetv2_find_best_configuration", "978", "-p", PLANS, "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, other,
        "-np", "1",
    )  # fmt: skip
    assert "ensemble" in printed
    ensembles = world.folder / "nnUNet_results" / DATASET / "ensembles"
    for case in (f.name for f in validation.glob("*.nii.gz")):
        (together,) = ensembles.rglob(case)
        # Of twice the same model.
        np.testing.assert_array_equal(read_volume(together).array, read_volume(validation / case).array)


def test_a_soft_model_is_packed_installed_and_predicts_as_before(world: World) -> None:
    world.call(
        "nnUNetv2_export_model_to_zip", "-d", "978", "-o", "soft.zip", "-c", "3d_fullres", "-tr", TRAINER, "-p", PLANS,
        "-f", "0",
    )  # fmt: skip
    (world.folder / "elsewhere").mkdir()
    world.call("nnUNetv2_install_pretrained_model_from_zip", "soft.zip", nnUNet_results=str(world.folder / "elsewhere"))
    installed = MODEL.replace("nnUNet_results", "elsewhere")
    assert read_json(world.folder / installed / "plans.json")["spine_ext"]["soft"]["output"] == "linear"
    for out, model in (("before", MODEL), ("after", installed)):
        world.call("nnUNetv2_spine_predict", "-i", "in", "-o", out, "-m", model, "-device", "cpu")
    for subject in SUBJECTS[:2]:
        maps = [world.folder / out / "soft" / f"{subject}_0.nii.gz" for out in ("before", "after")]
        assert maps[0].read_bytes() == maps[1].read_bytes()


def test_areas_of_soft_maps_are_measured(world: World) -> None:
    soft = read_volume(world.folder / "nnUNet_raw" / DATASET / "softLabelsTr" / "anna_0.nii.gz")
    known = Volume(np.clip(soft.array, 0, 1), soft.affine)
    write_volume(known, world.folder / "known" / "anna_0.nii.gz")
    world.call("nnUNetv2_spine_csa", "-i", "known/anna_0.nii.gz", "-o", "areas.csv", "--mode", "pv")
    rows = (world.folder / "areas.csv").read_text().splitlines()
    header = rows[0].split(",")
    areas = [float(row.split(",")[header.index("area")]) for row in rows[1:]]
    # A straight column: the sum of its values times 1.5 x 1.5 mm².
    expected = known.array[..., SLAB:].sum(axis=(0, 1)).mean() * 2.25
    assert np.nanmedian(areas) == pytest.approx(expected, rel=1e-3)


def test_a_trainer_of_hard_labels_refuses_the_plans(world: World) -> None:
    text = world.call(
        "nnUNetv2_train", "978", "3d_fullres", "0", "-tr", "nnUNetTrainerSpine", "-p", PLANS, "-device", "cpu",
        fails=True, nnUNet_n_proc_DA="0",
    )  # fmt: skip
    assert "E-TRAINER-SOFT" in text
    assert json.dumps("soft") in (world.preprocessed.parent / DATASET / f"{PLANS}.json").read_text()
