"""The choice of the activation by section areas of validation cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import CORD
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import SUBJECTS, make_trainer
from test_training_soft import DATASET, SHAPE, SHORT, give

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.soft.store import soft_file, write_soft
from nnunet_spine_ext.training.settings import settings_from_plans, settings_hash
from nnunet_spine_ext.training.soft import nnUNetTrainerSpineSoft
from nnunet_spine_ext.training.soft_validation import (
    FILE,
    Predicted,
    area_errors,
    choose,
    predicted,
    section_axis,
    store,
)
from nnunet_spine_ext.training.stored_settings import keep_what_the_model_has


def cord(overshoot: float = 1.0) -> Predicted:
    """A column of 3 x 3 voxels along axis 1, soft at one side; its lower third is not known."""
    values = np.zeros((1, 8, 12, 8), np.float32)
    values[0, 2:5, :, 2:5] = 1
    values[0, 5, :, 2:5] = 0.5
    valid = np.ones((8, 12, 8), np.float32)
    valid[:, :4] = 0
    outputs = np.concatenate([1 - overshoot * values, overshoot * values])
    return Predicted(outputs, values, valid, axis=1, spacing=(0.8, 2.0, 1.0))


def test_areas_are_those_of_supervised_slices() -> None:
    found = area_errors([cord(), cord()], floor=0.5)
    assert found is not None
    assert (found["cases"], found["sections"]) == (2, 16)
    assert found["error_mm2"] == {"clamp": 0, "norm_relu": 0}
    assert found["largest"] == 1


def test_a_network_that_overshoots_wants_to_be_divided() -> None:
    found = area_errors([cord(overshoot=1.5)], floor=0.5)
    assert found is not None
    # Cut at 1, the three half voxels of a slice are .75: .25 * 3 voxels of .8 mm² too much.
    assert found["error_mm2"]["clamp"] == pytest.approx(0.6)
    assert found["error_mm2"]["norm_relu"] == pytest.approx(0, abs=1e-5)


def test_one_hot_voxel_makes_division_too_small() -> None:
    case = cord()
    case.outputs[1, 0, 11, 0] = 3.0
    found = area_errors([case], floor=0.5)
    assert found is not None
    assert found["error_mm2"]["clamp"] < found["error_mm2"]["norm_relu"]


def test_background_counts_only_where_prediction_keeps_it() -> None:
    case = cord()
    case.outputs[1] += 0.02
    case.outputs[0] -= 0.02
    everywhere, near = (area_errors([case], floor=0.5, support=reach) for reach in (None, 1.0))
    assert everywhere is not None
    assert near is not None
    # .02 in 52 voxels without cord and in 3 at its soft side, of .8 mm² each; within 1 mm there are far fewer.
    assert everywhere["error_mm2"]["clamp"] == pytest.approx(0.02 * 55 * 0.8, rel=1e-3)
    assert near["error_mm2"]["clamp"] < everywhere["error_mm2"]["clamp"] / 2


def test_without_a_section_nothing_is_found() -> None:
    empty = Predicted(np.zeros((2, 4, 4, 4)), np.zeros((1, 4, 4, 4)), np.ones((4, 4, 4)), 0, (1.0, 1.0, 1.0))
    assert area_errors([empty], floor=0.5) is None
    assert area_errors([], floor=0.5) is None


def test_folds_decide_together_and_the_model_keeps_the_choice(tmp_path: Path) -> None:
    assert choose(tmp_path) is None
    plans: dict[str, Any] = {"spine_ext": {"soft": {"output": "linear"}}}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    hashed = settings_hash(plans)
    for fold, sections, clamp, divided, expected in ((0, 10, 2.0, 1.0, "norm_relu"), (1, 90, 1.0, 1.5, "clamp")):
        (tmp_path / f"fold_{fold}").mkdir()
        errors = {"sections": sections, "error_mm2": {"clamp": clamp, "norm_relu": divided}}
        assert store(tmp_path / f"fold_{fold}", errors) == expected
        stored = json.loads((tmp_path / "plans.json").read_text())
        soft = settings_from_plans(stored).soft
        assert soft is not None
        assert soft.activation == expected
        assert settings_hash(stored) == hashed, "the weights do not depend on it"
    # A fold that starts writes plans.json anew from plans that do not know it.
    keep_what_the_model_has(str(tmp_path), plans)
    kept = settings_from_plans(plans).soft
    assert kept is not None
    assert kept.activation == "clamp"


def test_sections_are_axial_whatever_the_order_of_the_axes(nnunet_folders: dict[str, Path]) -> None:
    """nnU-Net puts the coarsest axis first; slices are still counted from the feet up."""

    def turned(plans: dict[str, Any]) -> None:
        plans |= {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}
        plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 3.0, 5.0]

    trainer = make_trainer(
        nnUNetTrainerSpineSoft, nnunet_folders["nnUNet_preprocessed"], labels=CORD, sided=[], change=turned
    )
    trainer.initialize()
    folder = Path(trainer.preprocessed_dataset_folder)
    write_soft(soft_file(folder, "a_1"), np.zeros((1, *SHAPE)), np.ones(SHAPE), {}, SHAPE)
    (case,) = predicted(trainer, ["a_1"])
    assert (case.axis, case.spacing) == (2, (2.0, 3.0, 5.0))
    assert case.outputs.shape == (2, *SHAPE)


@pytest.mark.parametrize("letters", ["RAS", "LPI", "PSR", "SLA", "AIL"])
def test_sections_are_axial_whatever_the_order_of_a_file(letters: str, tmp_path: Path) -> None:
    """nnU-Net's default reader turns no image: only its geometry says which axis goes up."""
    image = Volume(np.zeros((5, 6, 7), np.float32), affine=np.diag([2.0, 3.0, 4.0, 1.0])).to(letters)
    path = tmp_path / "image.nii.gz"
    write_volume(image, path)
    expected = 2 - next(axis for axis, letter in enumerate(letters) if letter in "IS")
    plans = {"image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2]}
    array, properties = SimpleITKIO().read_images([str(path)])
    assert section_axis(properties, plans) == expected
    assert array.shape[1 + expected] == 7
    plans["transpose_forward"] = [2, 0, 1]
    assert array.transpose(0, 3, 1, 2).shape[1 + section_axis(properties, plans)] == 7
    _, properties = NibabelIO().read_images([str(path)])
    assert section_axis(properties, plans | {"image_reader_writer": "NibabelIO"}) == [2, 0, 1].index(expected)
    array, properties = NibabelIOWithReorient().read_images([str(path)])
    plans["image_reader_writer"] = "NibabelIOWithReorient"
    assert array.transpose(0, 3, 1, 2).shape[1 + section_axis(properties, plans)] == 7


def test_training_ends_with_a_choice(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    raw = nnunet_folders["nnUNet_raw"] / DATASET / "softLabelsTr"
    for case in SUBJECTS:
        give(raw, case, np.random.default_rng(0).random(SHAPE))
    # nnU-Net's own part exports in processes; ours is what is tested.
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    trainer = make_trainer(
        nnUNetTrainerSpineSoft, nnunet_folders["nnUNet_preprocessed"], settings={"train": SHORT}, labels=CORD, sided=[]
    )
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder)
    found = json.loads((folder / FILE).read_text())
    assert found["cases"] == 1
    assert found["sections"] == SHAPE[0]
    # By hand, from what the network says.
    trainer.set_deep_supervision_enabled(False)
    assert not trainer.network.training
    soft = settings_from_plans(json.loads((folder.parent / "plans.json").read_text())).soft
    assert soft is not None
    assert soft.activation == min(found["error_mm2"], key=found["error_mm2"].get)
    assert "prediction takes" in Path(trainer.log_file).read_text()
    # Without soft files nothing is chosen, and nothing is invented.
    for file in Path(trainer.preprocessed_dataset_folder).glob("*_soft_seg.b2nd"):
        file.unlink()
    trainer.perform_actual_validation()
    assert "1 cases without a prepared soft label" in Path(trainer.log_file).read_text()
    assert torch.isfinite(torch.tensor(found["largest"]))
