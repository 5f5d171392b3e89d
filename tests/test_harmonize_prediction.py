"""`--match cyclegan`: scans harmonized by a network, then predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harmonizer_builder import fail_slices, make_harmonizer
from model_builder import make_model, stock_predict
from slice_cohort import spine

from nnunet_spine_ext.cli import predict as command
from nnunet_spine_ext.core.errors import SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.reference import average_curves, curves_of_files
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.inference.harmonize import apply
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.training.plan import plan


@pytest.fixture(scope="module")
def harmonizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_harmonizer(tmp_path_factory.mktemp("harmonizers") / "siemens", add=0.4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset901_Toy" / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"
    return make_model(folder, patch=(32, 32, 8), spacing=(1.0, 1.0, 4.0))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    image, _ = spine(2)
    file = tmp_path / "in" / "case.nii.gz"
    write_volume(image.to("RAS"), file)
    return file


def journal_of(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
    return {row["case"]: row for row in rows}


def plans_of(model: Path, **predicting: Any) -> None:
    plans = json.loads((model / "plans.json").read_text())
    plans["spine_ext"]["predict"] |= predicting
    (model / "plans.json").write_text(json.dumps(plans))


def test_it_is_what_applying_and_then_predicting_gives(
    model: Path, harmonizer: Path, scan: Path, tmp_path: Path
) -> None:
    call: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none"}
    result = predict(scan, tmp_path / "out", **call, match="cyclegan", harmonize_model=harmonizer)
    assert (result.exit_code, result.done) == (0, ["case"])
    row = journal_of(tmp_path / "out")["case"]
    assert row["intensity"] == {
        "method": "cyclegan",
        "channels": [{"skipped": False, "why": "", "before": None, "after": None}],
    }
    assert (row["harmonization"]["harmonized"], row["harmonization"]["failed"]) == (5, 0)
    assert "rows" not in row["harmonization"]
    quality = json.loads((tmp_path / "out/qc/case.json").read_text())
    assert len(quality["harmonization"]["rows"]) == 5
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["options"]["match"] == "cyclegan"
    assert facts["phase_models"]["harmonizer"]["folder"] == "siemens"
    apply(scan, tmp_path / "harmonized", m=harmonizer, device="cpu")
    predict(tmp_path / "harmonized/case.nii.gz", tmp_path / "two", **call)
    predict(scan, tmp_path / "plain", **call)
    masks = {name: read_volume(tmp_path / name / "case.nii.gz") for name in ("out", "two", "plain")}
    np.testing.assert_array_equal(masks["out"].array, masks["two"].array)
    assert not np.array_equal(masks["out"].array, masks["plain"].array), "the test would show nothing"
    assert masks["out"].same_grid(read_volume(scan))


def test_it_is_that_of_padded_scans_too(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    image = read_volume(scan)
    padded = tmp_path / "padded/case.nii.gz"
    write_volume(Volume(np.pad(image.array, ((0, 0), (16, 0), (0, 9))), image.affine), padded)
    call: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none"}
    predict(padded, tmp_path / "out", **call, match="cyclegan", harmonize_model=harmonizer)
    apply(padded, tmp_path / "harmonized", m=harmonizer, device="cpu")
    predict(tmp_path / "harmonized/case.nii.gz", tmp_path / "two", **call)
    masks = [read_volume(tmp_path / name / "case.nii.gz") for name in ("out", "two")]
    np.testing.assert_array_equal(masks[0].array, masks[1].array)


@pytest.mark.parametrize("orientation", ["PIR", "LAS", "IPL"])
def test_how_a_scan_is_stored_does_not_matter(
    model: Path, harmonizer: Path, scan: Path, tmp_path: Path, orientation: str
) -> None:
    image = read_volume(scan)
    turn = np.deg2rad(14)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    tilted = Volume(image.array, rotation @ image.affine)
    write_volume(tilted, tmp_path / "tilted/case.nii.gz")
    write_volume(tilted.to(orientation), tmp_path / "turned/case.nii.gz")
    for name in ("tilted", "turned"):
        place = tmp_path / name
        predict(place / "case.nii.gz", place / "out", m=model, device="cpu", match="cyclegan",
                harmonize_model=harmonizer)  # fmt: skip
    first, second = (read_volume(tmp_path / name / "out/case.nii.gz") for name in ("tilted", "turned"))
    assert second.same_grid(read_volume(tmp_path / "turned/case.nii.gz"))
    np.testing.assert_array_equal(first.array, second.to("RAS").array)


def test_slices_that_fail_are_predicted_as_they_are(model: Path, scan: Path, tmp_path: Path) -> None:
    broken = make_harmonizer(tmp_path / "broken", add=None, epochs=(1, 2))
    result = predict(scan, tmp_path / "out", m=model, device="cpu", match="cyclegan", harmonize_model=broken)
    assert [problem.code for problem in result.warnings["case"]] == ["W-HARMONIZE-GATE"]
    assert [note.code for note in result.notes] == ["W-HARMONIZE-UNFINISHED"]
    row = journal_of(tmp_path / "out")["case"]
    assert row["intensity"]["channels"][0]["why"] == "no slice passed the geometry gate"
    predict(scan, tmp_path / "plain", m=model, device="cpu")
    assert (tmp_path / "out/case.nii.gz").read_bytes() == (tmp_path / "plain/case.nii.gz").read_bytes()


def test_a_scan_of_which_too_few_slices_pass_is_predicted_as_it_is(
    model: Path, harmonizer: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_slices(monkeypatch, 0, 1, 2)
    call: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none"}
    result = predict(scan, tmp_path / "out", **call, match="cyclegan", harmonize_model=harmonizer)
    assert [problem.code for problem in result.warnings["case"]] == ["W-HARMONIZE-VOLUME"]
    row = journal_of(tmp_path / "out")["case"]
    assert row["intensity"]["channels"][0]["why"] == "only 2 of 5 slices that passed the geometry gate"
    assert row["harmonization"]["refused"] is True
    predict(scan, tmp_path / "plain", **call)
    assert (tmp_path / "out/case.nii.gz").read_bytes() == (tmp_path / "plain/case.nii.gz").read_bytes()
    plans_of(model, gate={"min_passed": 0.4})
    predict(scan, tmp_path / "lax", **call, match="cyclegan", harmonize_model=harmonizer)
    assert journal_of(tmp_path / "lax")["case"]["harmonization"]["harmonized"] == 2


def test_what_is_cut_away_as_empty_stays_empty(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    image = read_volume(scan)
    padded = Volume(np.pad(image.array, ((0, 0), (6, 0), (0, 9))), image.affine)
    write_volume(padded, tmp_path / "padded/case.nii.gz")
    plans_of(model, match="cyclegan", harmonize_model=str(harmonizer))
    predictor = SpinePredictor(device=torch.device("cpu"), tta="none")
    predictor.initialize_from_trained_model_folder(str(model), None, "checkpoint_final.pth")
    first, own = predictor.prepare([tmp_path / "padded/case.nii.gz"])
    assert own["shape_after_cropping_and_before_resampling"] == tuple(reversed(image.shape))
    second, _ = predictor.prepare([scan])
    assert first.shape == second.shape
    # Slices scale by themselves, and empty margins move their percentiles a little.
    assert float((first - second).abs().mean()) < 0.1


def test_plans_decide_and_resume_sees_another_network(
    model: Path, harmonizer: Path, scan: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        plan(m=str(model), assignments=["predict.match=cyclegan"])
    assert caught.value.code == "E-USE-HARMONIZER"
    plan(m=str(model), assignments=["predict.match=cyclegan", f"predict.harmonize_model={harmonizer}"])
    call: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none", "resume": True}
    out = tmp_path / "out"
    assert predict(scan, out, **call).done == ["case"]
    assert journal_of(out)["case"]["harmonization"]["harmonized"] == 5
    assert predict(scan, out, **call).skipped == ["case"]
    other = make_harmonizer(tmp_path / "other", add=0.2)
    assert predict(scan, out, **call, harmonize_model=other).done == ["case"]
    plan(m=str(model), assignments=["predict.gate.edge_correlation=1.0"])
    assert predict(scan, out, **call).done == ["case"]
    assert journal_of(out)["case"]["harmonization"]["harmonized"] == 0
    assert predict(scan, tmp_path / "none", **call, match="none").done == ["case"]
    assert "harmonization" not in journal_of(tmp_path / "none")["case"]


def test_distances_from_the_training_images_are_told_where_there_is_a_reference(
    model: Path, harmonizer: Path, scan: Path, tmp_path: Path
) -> None:
    files = {str(seed): [tmp_path / "training" / f"{seed}.nii.gz"] for seed in range(3)}
    for seed, (file,) in enumerate(files.values()):
        write_volume(spine(seed)[0], file)
    reference = average_curves(curves_of_files(files))
    plans = json.loads((model / "plans.json").read_text())
    plans["spine_ext"]["reference"] = {"0": reference}
    (model / "plans.json").write_text(json.dumps(plans))
    image = read_volume(scan)
    noise = 0.2 * np.ptp(image.array) * np.random.default_rng(0).normal(size=image.shape)
    write_volume(
        image.with_array(np.where(image.array == 0, 0, np.abs(image.array + noise))), scan.parent / "noisy.nii.gz"
    )
    predict(scan.parent, tmp_path / "out", m=model, device="cpu", match="cyclegan", harmonize_model=harmonizer)
    cases = journal_of(tmp_path / "out")
    channel, noisy = (cases[name]["intensity"]["channels"][0] for name in ("case", "noisy"))
    assert channel["before"]["body"] >= 0
    assert channel["after"]["body"] != channel["before"]["body"]
    assert not channel["noise"]["beyond"]
    assert noisy["noise"]["beyond"]
    warned = {name: "W-MATCH-NOISE" in {w["code"] for w in case["warnings"]} for name, case in cases.items()}
    assert warned == {"case": False, "noisy": True}, "noise is not reduced here, so it is told"


def test_full_views_have_the_scan_as_it_came(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scan, out, m=model, device="cpu", match="cyclegan", harmonize_model=harmonizer, tta="full",
            views=["intensity"], all_views=True)  # fmt: skip
    names = journal_of(out)["case"]["views"]["names"]
    assert any("match" in name for name in names), names


def test_stock_prediction_stops_with_a_message(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    plans_of(model, match="cyclegan", harmonize_model=str(harmonizer))
    with pytest.raises(SetupError) as caught:
        stock_predict(model, [scan], tmp_path / "stock")
    assert caught.value.code == "E-MATCH-STOCK"
    assert "cyclegan" in caught.value.found


def refused(scan: Path, out: Path, **call: Any) -> SpineExtError:
    with pytest.raises(SpineExtError) as caught:
        predict(scan, out, device="cpu", **call)
    assert not out.exists()
    return caught.value


def test_what_cannot_work_is_refused(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert refused(scan, out, m=model, match="cyclegan").code == "E-USE-HARMONIZER"
    assert "--match body" in refused(scan, out, m=model, match="body", harmonize_model=harmonizer).found
    assert "--match none" in refused(scan, out, m=model, harmonize_model=harmonizer).found
    call: dict[str, Any] = {"match": "cyclegan", "harmonize_model": harmonizer}
    two = make_model(tmp_path / "Dataset902_Two" / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres", channels=2)
    assert "2 channels" in refused(scan, out, m=two, **call).found
    ct = make_model(tmp_path / "Dataset903_CT" / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres")
    plans = json.loads((ct / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    (ct / "plans.json").write_text(json.dumps(plans))
    assert "a model of CT" in refused(scan, out, m=ct, **call).found
    assert refused(scan, out, m=model, match="cyclegan", harmonize_model=model).code == "E-MODEL-HARMONIZER"


def test_harmonizers_without_a_network_are_for_applying(model: Path, scan: Path, tmp_path: Path) -> None:
    from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, write_harmonizer

    write_harmonizer(tmp_path / "nyul", HarmonizerModel("nyul", SliceSettings(spacing=1.0), (1, 1), ("Siemens",)), {})
    error = refused(scan, tmp_path / "out", m=model, match="cyclegan", harmonize_model=tmp_path / "nyul")
    assert (error.code, error.exit_code) == ("E-MATCH-HARMONIZER", 5)


def test_one_ct_among_the_scans_is_named(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    image = read_volume(scan)
    write_volume(image.with_array(np.round(image.array - 1000)), scan.with_name("ct.nii.gz"))
    call: dict[str, Any] = {"m": model, "device": "cpu", "match": "cyclegan", "harmonize_model": harmonizer}
    rehearsed = predict(scan.parent, tmp_path / "out", **call, dry_run=True)
    assert (rehearsed.exit_code, list(rehearsed.planned)) == (3, ["case"])
    result = predict(scan.parent, tmp_path / "out", **call)
    assert (result.exit_code, result.done) == (3, ["case"])
    assert rehearsed.failed["ct"] == result.failed["ct"]
    assert result.failed["ct"].code == "E-HARMONIZE-CT"


def test_masks_and_images_never_share_a_folder(model: Path, harmonizer: Path, scan: Path, tmp_path: Path) -> None:
    predict(scan, tmp_path / "masks", m=model, device="cpu")
    apply(scan, tmp_path / "images", m=harmonizer, device="cpu")
    kept = [(tmp_path / name / "case.nii.gz").read_bytes() for name in ("masks", "images")]
    with pytest.raises(UsageError) as first:
        apply(scan, tmp_path / "masks", m=harmonizer, device="cpu")
    with pytest.raises(UsageError) as second:
        predict(scan, tmp_path / "images", m=model, device="cpu")
    assert (first.value.code, second.value.code) == ("E-OUT-FOLDER", "E-OUT-FOLDER")
    assert "masks" in first.value.found
    assert "images" in second.value.found
    assert [(tmp_path / name / "case.nii.gz").read_bytes() for name in ("masks", "images")] == kept


def test_the_command_knows_both_options() -> None:
    parsed = command.build_parser().parse_args(
        ["-i", "x", "-o", "y", "-m", "z", "--match", "cyclegan", "--harmonize-model", "h"]
    )
    assert (parsed.match, parsed.harmonize_model) == ("cyclegan", "h")
