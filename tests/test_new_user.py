"""What a first user stumbled over, so that nobody does again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_dataset_json, make_image, make_model, make_plans

from nnunet_spine_ext.cli import predict as predict_command
from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, dataset_writer
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.training.plan import plan


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "preprocessed" / "Dataset901_Toy"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    (folder / "dataset.json").write_text(json.dumps(make_dataset_json(LABELS14, SIDED14)))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder


@pytest.mark.parametrize(
    "assignment", ["train.num_epochs=-3", "train.initial_lr=-1", "train.oversample_foreground=2", "batch_size=0"]
)
def test_values_out_of_range_are_refused(planned: Path, assignment: str) -> None:
    with pytest.raises(UsageError, match=assignment.rpartition(".")[2].partition("=")[0]) as caught:
        plan("901", name="mine", assignments=[assignment])
    assert caught.value.code == "E-CONFIG-RANGE"
    assert not (planned / "mine.json").exists()


def test_plan_prints_every_change_and_keeps_the_sides(planned: Path) -> None:
    result = plan("901", name="mine", preset="cpu", assignments=["train.num_epochs=9"])
    assert "train.num_epochs: 1000 -> 9" in result.changes
    assert "train.optimizer: sgd -> adamw" in result.changes
    assert json.loads((planned / "mine.json").read_text())["spine_ext"]["data"] == {
        "scheme": "nnunet14",
        "sided_labels": SIDED14,
        "regions": [],
    }


@pytest.mark.parametrize("step", [0.0, -1.0, 3.0])
def test_a_wrong_step_is_refused_before_any_work(tmp_path: Path, step: float) -> None:
    model = make_model(tmp_path / "model")
    make_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(UsageError, match="step_size"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", step_size=step)
    assert not (tmp_path / "out").exists()


def test_quiet_still_says_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "model")
    make_image(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu", "-q"]
    assert predict_command.main(arguments) == 3
    printed = capsys.readouterr()
    assert "b.nii.gz" in printed.err
    assert printed.out == ""


def test_replacing_a_planned_dataset_warns_of_its_old_plans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = tmp_path / "raw"
    spec = DatasetSpec(
        dataset_id=77, name="Toy", channel_names={0: "MRI"}, labels={"background": 0, "cord": 1}, scheme="custom"
    )
    for overwrite in (False, True):
        with dataset_writer(raw, spec, preprocessed_root=tmp_path / "pre", overwrite=overwrite) as writer:
            for case in ("a", "b"):
                image = make_image(tmp_path / f"{case}.nii.gz")
                label = image.with_array((image.array > 400).astype(np.uint8))
                writer.add(RawCase(case_id=case, subject=case, images=[image], label=label))
        (tmp_path / "pre" / spec.folder_name / "dataset_fingerprint.json").write_text("{}")
    assert "--clean" in caplog.text
