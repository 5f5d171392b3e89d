"""What prediction does after the network: one code path with post-processing, in our command and in stock nnU-Net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_image, make_model, stock_predict
from spine_builder import Spine, build

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, read_volume, sha256
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference import managers, predictor
from nnunet_spine_ext.inference.phase_options import PhaseOptions
from nnunet_spine_ext.inference.phases import Phases
from nnunet_spine_ext.inference.postprocess import postprocess
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.training.plan import plan

NAME = "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"


def model_of(folder: Path, **settings: Any) -> Path:
    """Return a model of the 14 classes whose plans ask for phases."""
    return make_model(folder / NAME, labels=LABELS14, sided=SIDED14, predict=settings)


@pytest.fixture
def spine(monkeypatch: pytest.MonkeyPatch) -> Volume:
    """Let the network of our command answer with a spine, whatever the image; return its mask."""
    mask, _ = build(Spine(levels=("L4", "L5"), spacing=(4.0, 3.0, 3.0)))
    monkeypatch.setattr(predictor.SpinePredictor, "segment", lambda *_: mask)
    return mask


def test_predict_and_postprocess_write_the_same(tmp_path: Path, spine: Volume) -> None:
    make_image(tmp_path / "in" / "sub-1_T2w.nii.gz", shape=spine.shape, affine=spine.affine)
    out = tmp_path / "out"
    asked = {"snapshots": True, "bids": True}
    assert predict(tmp_path / "in", out, m=model_of(tmp_path), device="cpu", instances=True, **asked).exit_code == 0
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "sub-1_T2w.nii.gz").write_bytes((out / "sub-1_T2w.nii.gz").read_bytes())
    again = postprocess(tmp_path / "masks", tmp_path / "post", scheme="nnunet14", images=tmp_path / "in", **asked)
    assert again.exit_code == 0
    found = [f.relative_to(out) for f in out.rglob("*") if "sub-1" in f.name]
    assert len([f for f in found if (out / f).is_file()]) == 5 + 4
    assert all(sha256(out / f) == sha256(tmp_path / "post" / f) for f in found if (out / f).is_file())


def test_bids_names_without_instances(tmp_path: Path, spine: Volume) -> None:
    make_image(tmp_path / "in" / "sub-1_T2w.nii.gz", shape=spine.shape, affine=spine.affine)
    predict(tmp_path / "in", tmp_path / "out", m=model_of(tmp_path), device="cpu", bids=True)
    folder = tmp_path / "out" / "derivatives_seg" / "sub-1" / "anat"
    assert [f.name for f in folder.iterdir()] == ["sub-1_mod-T2w_seg-spine_msk.nii.gz"]
    for name in ("a_b", "a-b"):
        make_image(tmp_path / "twins" / f"{name}.nii.gz")
    with pytest.raises(UsageError, match="E-OUT-BIDS"):
        predict(tmp_path / "twins", tmp_path / "more", m=tmp_path / NAME, device="cpu", bids=True)


def test_options_of_phases_decide_about_resume(tmp_path: Path, spine: Volume) -> None:
    make_image(tmp_path / "in" / "a.nii.gz", shape=spine.shape, affine=spine.affine)
    model = model_of(tmp_path)

    def run(**options: bool) -> list[str]:
        return predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True, **options).done  # type: ignore[arg-type]

    assert run(instances=True) == ["a"]
    assert run(instances=True) == []
    # A picture means instances, but it is another run.
    assert run(snapshots=True) == ["a"]
    assert (tmp_path / "out" / "instances" / "a.nii.gz").is_file()
    assert run() == ["a"]
    assert not list((tmp_path / "out" / "instances").glob("*.nii.gz"))
    assert not list((tmp_path / "out" / "snapshots").glob("*.png"))


def test_the_plans_name_the_network_and_the_command_another(
    tmp_path: Path, spine: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(tmp_path / "in" / "a.nii.gz", shape=spine.shape, affine=spine.affine)
    model = model_of(tmp_path, instance_model=str(tmp_path / "planned"))
    with pytest.raises(SetupError, match="planned"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", instances=True)
    with pytest.raises(SetupError, match="given"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", instance_model=tmp_path / "given")
    # Who asks for no instances needs no network for them.
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu").done == ["a"]


# ---- plans ---------------------------------------------------------------------------------------------------------


def test_a_trained_model_can_be_told_to_number(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    plan(m=model, assignments=["predict.numbering=true", "predict.instance_model=/models/instances"])
    settings = json.loads((model / "plans.json").read_text())["spine_ext"]["predict"]
    assert settings == to_dict(PredictSettings(numbering=True, instance_model="/models/instances"))
    options = managers._phases_of(json.loads((model / "plans.json").read_text()))
    assert (options.instances, options.numbering, options.instance_model) == (True, True, "/models/instances")
    with pytest.raises(UsageError, match=r"did you mean .numbering"):
        plan(m=model, assignments=["predict.number=true"])


# ---- stock nnU-Net -------------------------------------------------------------------------------------------------


def test_stock_prediction_ends_at_once_without_the_network_that_its_plans_name(tmp_path: Path) -> None:
    model = model_of(tmp_path, instances=True, instance_model=str(tmp_path / "absent"))
    make_image(tmp_path / "in" / "a_0000.nii.gz")
    with pytest.raises(SetupError, match="absent"):
        stock_predict(model, [tmp_path / "in" / "a_0000.nii.gz"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_stock_prediction_ends_at_once_for_classes_without_bodies(tmp_path: Path) -> None:
    model = make_model(tmp_path / NAME, predict={"instances": True})
    make_image(tmp_path / "in" / "a_0000.nii.gz")
    with pytest.raises(UsageError, match="E-USE-SCHEME"):
        stock_predict(model, [tmp_path / "in" / "a_0000.nii.gz"], tmp_path / "out")


def test_a_numbering_model_sees_the_image_in_stock_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(tmp_path / "in" / "a_0000.nii.gz", affine=np.diag([-1.5, 1.5, 1.5, 1.0]))
    seen: list[Any] = []

    def run(self: Phases, semantic: Volume, folder: Path, case: str, given: Any) -> Any:
        seen.append((case, given, semantic))
        return semantic, []

    monkeypatch.setattr(Phases, "run", run)
    monkeypatch.setattr(managers, "check_phases", lambda *_: None)
    options = PhaseOptions(numbering=True, numbering_model="levels").completed()
    monkeypatch.setattr(managers, "_phases_of", lambda _: options)
    stock_predict(model_of(tmp_path, instances=True), [tmp_path / "in" / "a_0000.nii.gz"], tmp_path / "out")
    [(case, given, semantic)] = seen
    assert case == "a"
    assert np.array_equal(given.image.array, image.array)
    assert given.image.same_grid(image)
    assert semantic.same_grid(image)
    assert read_volume(tmp_path / "out" / "a.nii.gz").same_grid(image)


def test_an_image_that_is_gone_costs_the_instances_and_not_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PhaseOptions(instances=True, numbering=True, numbering_model="levels")
    reader = managers.SpineReaderWriter("nnunet14", options)
    monkeypatch.setattr(managers, "_without_instances", ["other"])
    affine = np.eye(4)
    properties = {
        "nibabel_stuff": {"original_affine": affine, "reoriented_affine": affine},
        "spine_image": str(tmp_path / "gone.nii.gz"),
    }
    reader.write_seg(np.ones((4, 5, 6), dtype=np.uint8), str(tmp_path / "out" / "a.nii.gz"), properties)
    assert read_volume(tmp_path / "out" / "a.nii.gz").shape == (6, 5, 4)
    assert "gone.nii.gz" in read_json(tmp_path / "out" / "qc" / "a.json")["error"]["found"]
