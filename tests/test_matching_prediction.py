"""Matching of intensities in prediction: our command, stock prediction, one pass and two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import make_model, stock_predict
from soft_model import make_soft_model

from nnunet_spine_ext.cli import predict as command
from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.contrast import contrast_of, says_ct
from nnunet_spine_ext.harmonize.reference import average_curves, curves_of_files, reference_of
from nnunet_spine_ext.inference import preparation
from nnunet_spine_ext.inference.managers import SpinePreprocessor
from nnunet_spine_ext.inference.matching import STANDARDISE, match_case, put_together, quieted_case, score_case
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.preparation import _heads, quickly, structure_posteriors
from nnunet_spine_ext.inference.reading import read_case
from nnunet_spine_ext.training.plan import plan

NAME = "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"
SHAPE = (24, 20, 18)
_TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = _TURN[:, [2, 0, 1]] * [2.0, 1.0, 1.2]
FLIPPED = np.diag([-1.0, 1.0, -2.0, 1.0])
ANISOTROPIC = np.diag([3.0, 0.7, 0.9, 1.0])


def body(seed: int = 0, *, shape: Sequence[int] = SHAPE, affine: Any = None, gain: float = 1, offset: float = 0,
         gamma: float = 1) -> Volume:  # fmt: skip
    """A body of smooth tissue with a bright cord, in air; other scanners by gain, offset and gamma."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    tissue = gaussian_filter(rng.normal(size=shape), 1.5)
    array = 400 + 100 * tissue / tissue.std()
    middle = [n // 2 for n in shape]
    cord = slice(middle[0] - 3, middle[0] + 3), slice(middle[1] - 3, middle[1] + 3)
    array[cord] = 1400 + 60 * tissue[cord] / tissue.std()
    places = np.indices(shape)
    radius = sum(((p - m) / (0.42 * n)) ** 2 for p, m, n in zip(places[:2], middle[:2], shape[:2], strict=True))
    array[radius > 1] = rng.uniform(3, 9, size=int((radius > 1).sum()))
    scaled = 2000 * (array.clip(1) / 2000) ** gamma * gain + offset
    return Volume(np.rint(scaled).astype(np.int16), np.eye(4) if affine is None else affine)


def reference_for(folder: Path, *, channels: int = 1, seeds: Sequence[int] = range(4), shape: Any = SHAPE) -> Any:
    """The reference of a few bodies, with the cord as a structure."""
    files: dict[str, list[Path]] = {}
    labels = {}
    for seed in seeds:
        files[f"c{seed}"] = [folder / f"c{seed}_{c:04d}.nii.gz" for c in range(channels)]
        for c, file in enumerate(files[f"c{seed}"]):
            write_volume(body(seed, shape=shape, gain=1 + c), file)
        labels[f"c{seed}"] = folder / f"c{seed}_label.nii.gz"
        image = body(seed, shape=shape)
        write_volume(image.with_array((image.array > 1000).astype(np.uint8)), labels[f"c{seed}"])
    return average_curves(curves_of_files(files, labels=labels, structures={"cord": (1,)}))


def with_reference(model: Path, reference: Any, **changes: Any) -> Path:
    """Put a reference into the plans of a model, as training does."""
    plans = json.loads((model / "plans.json").read_text())
    plans.setdefault("spine_ext", {})["reference"] = {"0": reference}
    plans["spine_ext"].setdefault("predict", {}).update(changes)
    (model / "plans.json").write_text(json.dumps(plans))
    return model


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return reference_for(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def model(tmp_path: Path, reference: Any) -> Path:
    """A model of cords with the reference."""
    return with_reference(make_model(tmp_path / "Dataset901_Toy" / NAME), reference)


@pytest.fixture
def seeing(tmp_path: Path, reference: Any) -> Path:
    """A soft model that finds what is bright, so that a first prediction has something to find."""
    folder = tmp_path / "Dataset902_Seeing" / "nnUNetTrainerSpineSoft__nnUNetPlans__3d_fullres"
    return with_reference(make_soft_model(folder, seeing=True, threshold=2.0), reference)


def journal_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in map(json.loads, (out / "cases.jsonl").read_text().splitlines())}


def case_of(folder: Path, volume: Volume, name: str = "case") -> Path:
    write_volume(volume, folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


# ---- of a case that was read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["body", "nyul", "cdf"])
def test_a_scan_of_the_training_scanner_stays_as_it_is_bit_by_bit(tmp_path: Path, reference: Any, method: Any) -> None:
    data, properties = read_case([case_of(tmp_path, body(1))])
    found = match_case(data, properties, reference_of(plans_with(reference), ()), method)
    assert found.data is data
    assert found.skipped
    assert found.standardise == (None,)


def plans_with(reference: Any) -> dict[str, Any]:
    return {"spine_ext": {"reference": {"0": reference}}}


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, FLIPPED, ANISOTROPIC], ids=["ras", "oblique", "flip", "thick"])
def test_matching_works_on_the_grid_as_it_was_read(tmp_path: Path, reference: Any, affine: Any) -> None:
    image = body(2, affine=affine, gamma=0.6, gain=3, offset=40)
    data, properties = read_case([case_of(tmp_path, image)])
    found = match_case(data, properties, reference_of(plans_with(reference), ()), "body")
    assert not found.skipped
    assert found.data.shape == data.shape
    # A map keeps the order of intensities, voxel by voxel: nothing was turned or moved.
    order = np.argsort(data[0], axis=None, kind="stable")
    assert (np.diff(found.data[0].ravel()[order]) >= -1e-2).all()
    before, after = (found.facts["channels"][0][key]["body"] for key in ("before", "after"))
    assert after < before / 2


def test_channels_are_matched_one_by_one(tmp_path: Path) -> None:
    both = reference_of(plans_with(reference_for(tmp_path, channels=2)), ())
    assert both is not None
    files = [
        case_of(tmp_path / "in", body(1), "c_0000"),
        case_of(tmp_path / "in", body(1, gain=2, gamma=0.5), "c_0001"),
    ]
    data, properties = read_case(files)
    found = match_case(data, properties, both, "body")
    assert [channel["skipped"] for channel in found.facts["channels"]] == [True, False]
    assert np.array_equal(found.data[0], data[0])
    assert not np.array_equal(found.data[1], data[1])
    assert found.standardise[0] is None
    assert found.standardise[1] == both.channels[1].normalisation
    with pytest.raises(UsageError) as caught:
        match_case(data[:1], properties, both, "body")
    assert caught.value.code == "E-MATCH-CHANNELS"


def test_what_nnunet_cuts_away_stays_what_it_cuts_away(tmp_path: Path, reference: Any) -> None:
    image = body(2, gamma=0.6, offset=40)
    padded = np.pad(image.array, ((5, 3), (0, 0), (2, 0)))
    data, properties = read_case([case_of(tmp_path, Volume(padded, np.eye(4)))])
    found = match_case(data, properties, reference_of(plans_with(reference), ()), "body")
    assert not found.skipped
    filled = [np.flatnonzero((a != 0).any(axis=(1, 2))) for a in (data[0], found.data[0])]
    assert np.array_equal(filled[0], filled[1])
    assert not found.data[0][:, :, :5].any()


def test_a_matched_image_is_normalised_as_training_images_were(model: Path, tmp_path: Path) -> None:
    predictor = loaded(model)
    data, properties = read_case([case_of(tmp_path, body(2, gamma=0.6))])
    own, _ = predictor.preprocess(data, {**properties, STANDARDISE: (None,)})
    moments = (300.0, 150.0)
    fixed, after = predictor.preprocess(data, {**properties, STANDARDISE: (moments,)})
    assert isinstance(predictor.configuration_manager.preprocessor_class(verbose=False), SpinePreprocessor)
    expected = (data - moments[0]) / moments[1]
    assert np.allclose(fixed.numpy(), expected, atol=1e-4)
    assert not np.allclose(own.numpy(), expected, atol=1e-2)
    assert STANDARDISE not in after


def loaded(model: Path, **options: Any) -> SpinePredictor:
    predictor = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    predictor.initialize_from_trained_model_folder(model, None)
    return predictor


# ---- our command -------------------------------------------------------------------------------------------------


def test_every_case_is_compared_with_the_training_images(model: Path, tmp_path: Path) -> None:
    case_of(tmp_path / "in", body(1), "near")
    case_of(tmp_path / "in", body(2, gamma=0.3, offset=30), "far")
    out = tmp_path / "out"
    result = predict(tmp_path / "in", out, m=model, device="cpu", tta="none")
    found = {case: row["intensity"]["channels"][0] for case, row in journal_of(out).items()}
    assert found["near"]["before"]["in_distribution"]
    assert not found["far"]["before"]["in_distribution"]
    assert [w["code"] for w in journal_of(out)["far"]["warnings"]] == ["W-MATCH-FAR"]
    assert [w.code for w in result.warnings["far"]] == ["W-MATCH-FAR"]
    qc = json.loads((out / "qc" / "far.json").read_text())
    assert qc["intensity"] == journal_of(out)["far"]["intensity"]
    assert "qc/far.json" in journal_of(out)["far"]["outputs"]


def test_a_case_in_distribution_gives_the_same_mask_with_matching(model: Path, tmp_path: Path) -> None:
    case_of(tmp_path / "in", body(1))
    masks = {}
    for method in ("none", "body", "nyul", "cdf"):
        predict(tmp_path / "in", tmp_path / method, m=model, device="cpu", tta="none", match=method)
        masks[method] = (tmp_path / method / "case.nii.gz").read_bytes()
        row = journal_of(tmp_path / method)["case"]["intensity"]
        assert row["method"] == method
        assert row["channels"][0]["skipped"]
    assert len(set(masks.values())) == 1


@pytest.mark.parametrize("affine", [OBLIQUE, FLIPPED, ANISOTROPIC], ids=["oblique", "flipped", "anisotropic"])
def test_the_mask_has_the_grid_of_the_image(seeing: Path, tmp_path: Path, affine: Any) -> None:
    image = body(2, affine=affine, gamma=0.6, gain=3)
    case_of(tmp_path / "in", image)
    predict(tmp_path / "in", tmp_path / "out", m=seeing, device="cpu", tta="none", match="anchored")
    mask = read_volume(tmp_path / "out" / "case.nii.gz")
    assert mask.same_grid(image)
    truth = body(2, affine=affine).array > 1000
    assert 2 * (mask.array.astype(bool) & truth).sum() / (mask.array.sum() + truth.sum()) > 0.6


def test_options_and_plans_decide_and_resume_sees_them(model: Path, tmp_path: Path, reference: Any) -> None:
    case_of(tmp_path / "in", body(2, gamma=0.6))
    call: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none", "resume": True}
    out = tmp_path / "out"
    assert predict(tmp_path / "in", out, **call).done == ["case"]
    assert predict(tmp_path / "in", out, **call).skipped == ["case"]
    assert predict(tmp_path / "in", out, **call, match="none").skipped == ["case"]
    assert predict(tmp_path / "in", out, **call, match="body").done == ["case"]
    assert predict(tmp_path / "in", out, **call, match="cdf").done == ["case"]
    assert json.loads((out / "run.json").read_text())["options"]["match"] == "cdf"
    with_reference(model, reference, match="body")
    assert predict(tmp_path / "in", out, **call).done == ["case"]
    assert journal_of(out)["case"]["intensity"]["method"] == "body"
    assert predict(tmp_path / "in", tmp_path / "other", **call, match="none").done == ["case"]
    assert journal_of(tmp_path / "other")["case"]["intensity"]["method"] == "none"


def test_a_stock_model_is_matched_once_it_has_a_reference(tmp_path: Path, reference: Any) -> None:
    stock = make_model(
        tmp_path / "Dataset903_Stock" / "nnUNetTrainer__nnUNetPlans__3d_fullres", trainer="nnUNetTrainer"
    )
    case_of(tmp_path / "in", body(2, gamma=0.6))
    predict(tmp_path / "in", tmp_path / "plain", m=stock, device="cpu", tta="none")
    assert "intensity" not in journal_of(tmp_path / "plain")["case"]
    assert not (tmp_path / "plain" / "qc").exists()
    plans = json.loads((stock / "plans.json").read_text())
    (stock / "plans.json").write_text(json.dumps(plans | plans_with(reference)))
    predict(tmp_path / "in", tmp_path / "matched", m=stock, device="cpu", tta="none", match="body")
    assert not journal_of(tmp_path / "matched")["case"]["intensity"]["channels"][0]["skipped"]
    assert read_volume(tmp_path / "matched/case.nii.gz").same_grid(read_volume(tmp_path / "in/case.nii.gz"))


def contrast_warnings(out: Path, case: str) -> list[str]:
    return [w["found"] for w in journal_of(out)[case]["warnings"] if w["code"] == "W-MATCH-CONTRAST"]


@pytest.mark.parametrize("method", ["none", "body", "anchored"])
def test_a_scan_of_another_contrast_is_a_warning(seeing: Path, tmp_path: Path, reference: Any, method: Any) -> None:
    with_reference(seeing, reference | {"contrast": "T2w"})
    for name, gamma in (("near", 1.0), ("far", 0.6), ("alike", 1.0), ("sub-1_T1w_0000", 1.0), ("sub-2_T2w", 1.0)):
        case_of(tmp_path / "in", body(1, gamma=gamma), name)
    case_of(tmp_path / "in", body(1), "untold")
    told = {"near": "T1w", "far": "T1w", "alike": "t2", "sub-2_T2w": None}
    (tmp_path / "cases.json").write_text(json.dumps({"cases": {k: {"contrast": v} for k, v in told.items()}}))
    predict(tmp_path / "in", tmp_path / "out", m=seeing, device="cpu", tta="none", match=method)
    found = {case: contrast_warnings(tmp_path / "out", case) for case in journal_of(tmp_path / "out")}
    fixes = {
        w["fix"] for row in journal_of(tmp_path / "out").values() for w in row["warnings"] if "CONTRAST" in w["code"]
    }
    # What is not matched need not be told to go without matching.
    assert ["--match none" in fix for fix in fixes] == [method != "none"]
    expected = ["a scan of contrast T1w; the reference is of T2w"]
    assert {case for case, warnings in found.items() if warnings} == {"near", "far", "sub-1_T1w"}
    assert found["near"] == found["far"] == found["sub-1_T1w"] == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("CT", "ct ", "CTA", "CBCT", "NCCT", "HRCT", "4DCT", "PET/CT", "CT-lumbar", "ct_thorax", "lumbar CT"), True),
        (("T2w", "t2 TSE", "T1w_CTspine", "MT-on", "MPRAGE", "STIR", "sagittal PDw", "T1w-FLAIR", "GRE-T1w"), False),
        (("", " Unknown", None, "other", "ctrl", "contrast", "contact", "T2w (CT matched)"), None),
    ],
)
def test_what_a_contrast_says_of_ct(words: tuple[str | None, ...], expected: bool | None) -> None:
    assert {word: says_ct(word) for word in words} == dict.fromkeys(words, expected)


def test_contrasts_that_are_not_known_for_sure_are_not_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a_0000.nii.gz", "T1w.nii.gz", "sub-1_MTS.nii.gz", "flip-1_mt-on_MTS_0000.nii.gz", "my_t1.nii.gz"):
        assert contrast_of(tmp_path / "in" / name, "T2w") is None
    assert contrast_of(tmp_path / "in" / "sub-1_T1w.nii.gz", None) == "T1w"
    assert contrast_of(tmp_path / "in" / "sub-1_T2w.nii.gz", "t2") == "t2"
    assert contrast_of(tmp_path / "in" / "sub-1_T2w.nii.gz", "t2_SPACE") is None, "another vocabulary"
    assert contrast_of(tmp_path / "in" / "sub-1_T1w_0000.nii.gz", "T2w", 2) is None, "which channel?"
    assert contrast_of("", "T2w") is None
    (tmp_path / "cases.json").write_text('{"cases": {"a": 3}}')
    assert contrast_of(tmp_path / "in" / "a.nii.gz", "T2w") is None
    assert "contrasts of scans stay unknown" in caplog.text


def other_reference(reference: Any) -> Any:
    """Return a reference of images that were twice as bright."""
    changed = json.loads(json.dumps(reference))
    for channel in changed["channels"]:
        channel["low"], channel["high"] = 2 * channel["low"], 2 * channel["high"]
        channel["normalisation"] = [2 * n for n in channel["normalisation"]]
    return changed


@pytest.mark.parametrize("method", ["body", "anchored"])
def test_preparing_a_case_is_what_prediction_does(seeing: Path, tmp_path: Path, reference: Any, method: Any) -> None:
    with_reference(seeing, reference, match=method)
    plans = json.loads((seeing / "plans.json").read_text())
    plans["spine_ext"]["reference"]["1"] = other_reference(reference)
    (seeing / "plans.json").write_text(json.dumps(plans))
    predictor = loaded(seeing)
    file = case_of(tmp_path, body(2, gamma=0.6, gain=3))
    data, _ = predictor.prepare([file])
    own = reference_of(plans, ["0"])
    assert own is not None
    expected = preparation.Preparation(predictor, own, method)(*predictor.read([file]), str(file)).data
    assert torch.equal(data, expected)
    both = reference_of(plans, [])
    assert both is not None
    mean = preparation.Preparation(predictor, both, method)(*predictor.read([file]), str(file)).data
    assert not torch.allclose(data, mean, atol=1e-3), "the test would show nothing"


# ---- two passes --------------------------------------------------------------------------------------------------


def test_structures_of_a_quick_look_lie_where_they_are(seeing: Path, tmp_path: Path) -> None:
    predictor = loaded(seeing, tta="mirror")
    image = body(2, affine=OBLIQUE, shape=(30, 26, 20))
    data, properties = predictor.read([case_of(tmp_path, image)])
    prepared, own = predictor.preprocess(data, properties)
    found = structure_posteriors(predictor, prepared, own)
    assert list(found) == ["cord"]
    truth = image.to("RAS").array > 1000
    assert found["cord"].shape == truth.shape
    assert 2 * ((found["cord"] > 0.5) & truth).sum() / ((found["cord"] > 0.5).sum() + truth.sum()) > 0.6


def test_a_quick_look_leaves_the_predictor_as_it_was(seeing: Path) -> None:
    predictor = loaded(seeing, tta="mirror")
    before = (predictor.list_of_parameters, predictor.tile_step_size, predictor.use_mirroring, predictor.tta)
    with quickly(predictor):
        assert (predictor.tile_step_size, predictor.use_mirroring, predictor.tta) == (1.0, False, "none")
        assert len(predictor.list_of_parameters) == 1
    assert (predictor.list_of_parameters, predictor.tile_step_size, predictor.use_mirroring, predictor.tta) == before


def test_anchored_matching_aligns_structures_better_than_the_body_does(tmp_path: Path) -> None:
    shape = (48, 40, 36)
    folder = tmp_path / "Dataset902_Seeing" / "nnUNetTrainerSpineSoft__nnUNetPlans__3d_fullres"
    large = with_reference(make_soft_model(folder, seeing=True, threshold=2.0), reference_for(tmp_path, shape=shape))
    image = body(2, shape=shape, gamma=0.7, gain=2, offset=30)
    # A tight field of view without air, half of it cord: quantiles of the body mislead.
    tight = Volume(image.array[16:32, 13:27], np.eye(4))
    predictor = loaded(large, tta="none")
    own = reference_of(predictor.plans_manager.plans, ())
    assert own is not None
    data, properties = predictor.read([case_of(tmp_path, tight)])
    goal = float(own.channels[0].absolute(own.channels[0].structures["cord"].mean).mean())
    cord = np.zeros(tight.shape, bool)
    cord[5:11, 4:10] = True
    off = {}
    for method in ("body", "anchored"):
        posteriors = {"cord": cord.astype(np.float16)} if method == "anchored" else None
        found = match_case(data, properties, own, method, posteriors=posteriors)
        assert not found.skipped
        off[method] = abs(float(found.data[0].transpose(2, 1, 0)[cord].mean()) - goal) / own.channels[0].width
    assert off["anchored"] < off["body"]


def test_a_scan_that_is_left_alone_is_predicted_once(seeing: Path, tmp_path: Path) -> None:
    case_of(tmp_path / "in", body(1))
    for method in ("body", "anchored"):
        predict(tmp_path / "in", tmp_path / method, m=seeing, device="cpu", tta="none", match=method)  # type: ignore[arg-type]
    rows = {method: journal_of(tmp_path / method)["case"] for method in ("body", "anchored")}
    assert rows["anchored"]["forward_passes"] == rows["body"]["forward_passes"] > 0
    assert rows["anchored"]["intensity"]["method"] == "anchored"
    assert rows["anchored"]["intensity"]["channels"] == rows["body"]["intensity"]["channels"]
    assert (tmp_path / "anchored/case.nii.gz").read_bytes() == (tmp_path / "body/case.nii.gz").read_bytes()


def test_a_first_look_that_finds_nothing_falls_back_to_the_body_and_says_so(tmp_path: Path, reference: Any) -> None:
    folder = tmp_path / "Dataset902_Seeing" / "nnUNetTrainerSpineSoft__nnUNetPlans__3d_fullres"
    blind = with_reference(make_soft_model(folder, seeing=True, threshold=20.0), reference)
    case_of(tmp_path / "in", body(2, gamma=0.6, gain=3))
    predict(tmp_path / "in", tmp_path / "out", m=blind, device="cpu", tta="none", match="anchored")
    row = journal_of(tmp_path / "out")["case"]
    unsure = [warning["found"] for warning in row["warnings"] if warning["code"] == "W-MATCH-UNSURE"]
    assert unsure == ["a first prediction that found no structure of cord"]
    assert row["intensity"]["fallback"] == "body"
    predict(tmp_path / "in", tmp_path / "body", m=blind, device="cpu", tta="none", match="body")
    assert (tmp_path / "out/soft/case.nii.gz").read_bytes() == (tmp_path / "body/soft/case.nii.gz").read_bytes()


@pytest.mark.parametrize(("what", "warned"), [("cord", False), ("little", True), ("skin", True)])
def test_a_first_look_that_finds_little_or_something_else_is_a_warning(tmp_path: Path, what: str, warned: bool) -> None:
    shape = (40, 32, 36)
    folder = tmp_path / "Dataset902_Seeing" / "nnUNetTrainerSpineSoft__nnUNetPlans__3d_fullres"
    model = with_reference(make_soft_model(folder, seeing=True, threshold=2.0), reference_for(tmp_path, shape=shape))
    image = body(2, shape=shape).array.copy()
    cord = image > 1000
    if what != "cord":
        image[cord] = 400
    if what == "little":
        cord[:, :, 6:] = False
        image[cord] = 1400
    if what == "skin":
        # Near a surface coil: brighter than all else, not as bright as a cord.
        image[4:10, 10:22] = 900
    scan = body(2, shape=shape).with_array(np.rint(3 * 2000 * (image / 2000.0) ** 0.6).astype(np.int16))
    case_of(tmp_path / "in", scan)
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", tta="none", match="anchored")
    unsure = [w.found for w in result.warnings.get("case", []) if w.code == "W-MATCH-UNSURE"]
    facts = journal_of(tmp_path / "out")["case"]["intensity"]
    assert [found.startswith("too little of the structures") for found in unsure] == [True] * warned
    # Found it was, and the journal has by how much it decided.
    assert "fallback" not in facts
    assert (facts["channels"][0]["confidence"] < 0.5) is warned


def test_a_view_without_matching_lies_on_the_same_grid(seeing: Path, tmp_path: Path) -> None:
    image = body(2, gamma=0.6, gain=3)
    case_of(tmp_path / "in", Volume(np.pad(image.array, ((4, 0), (0, 3), (0, 0))), OBLIQUE))
    predict(tmp_path / "in", tmp_path / "out", m=seeing, device="cpu", tta="full", all_views=True, match="body")
    row = journal_of(tmp_path / "out")["case"]
    assert any("match0" in name for name in row["views"]["names"])
    assert row["intensity"]["channels"][0]["skipped"] is False
    predict(tmp_path / "in", tmp_path / "plain", m=seeing, device="cpu", tta="full", all_views=True)
    assert not any("match0" in name for name in journal_of(tmp_path / "plain")["case"]["views"]["names"])


def test_regions_have_channels_of_their_own() -> None:
    content = {"labels": {"background": 0, "spine": [1, 2, 3], "disc": [2], "cord": 3, "ignore": 4}}
    plans = {"spine_ext": {"data": {"scheme": "custom"}}}
    predictor = SimpleNamespace(dataset_json=content, plans_manager=SimpleNamespace(plans=plans))
    assert _heads(predictor, regions=True) == {"disc": (1,), "cord": (2,)}  # type: ignore[arg-type]
    classes = {"labels": {"background": 0, "vertebral body": 1, "disc": 2, "cord": 3}}
    predictor.dataset_json = classes
    assert _heads(predictor, regions=False) == {"corpus": (1,), "disc": (2,), "cord": (3,)}  # type: ignore[arg-type]


# ---- stock prediction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["body", "nyul", "cdf"])
def test_stock_prediction_gives_the_same_mask(seeing: Path, tmp_path: Path, reference: Any, method: Any) -> None:
    file = case_of(tmp_path / "in", body(2, gamma=0.5, gain=3, affine=OBLIQUE), "case_0000")
    with_reference(seeing, reference, match=method)
    predict(tmp_path / "in", tmp_path / "ours", m=seeing, device="cpu", accumulate="single")
    stock_predict(seeing, [file], tmp_path / "stock")
    assert not journal_of(tmp_path / "ours")["case"]["intensity"]["channels"][0]["skipped"]
    ours, stock = (read_volume(tmp_path / who / "case.nii.gz") for who in ("ours", "stock"))
    assert ours.same_grid(stock)
    assert ours.array.any()
    assert np.array_equal(ours.array, stock.array)
    with_reference(seeing, reference, match="none")
    stock_predict(seeing, [file], tmp_path / "unmatched")
    assert not np.array_equal(read_volume(tmp_path / "unmatched/case.nii.gz").array, stock.array)


def noisy(seed: int = 2) -> Volume:
    """A body with much more noise than those of the reference."""
    image = body(seed)
    noise = np.random.default_rng(seed).normal(size=(2, *image.shape)) * 150
    return image.with_array(np.hypot(image.array + noise[0], noise[1]).astype(np.int16))


def test_a_noisy_scan_is_smoothed_by_both_commands_alike(seeing: Path, tmp_path: Path, reference: Any) -> None:
    file = case_of(tmp_path / "in", noisy(), "case_0000")
    with_reference(seeing, reference, match="noise")
    predict(tmp_path / "in", tmp_path / "ours", m=seeing, device="cpu", accumulate="single")
    (row,) = journal_of(tmp_path / "ours")["case"]["intensity"]["channels"]
    assert row["skipped"]
    assert row["noise"]["after"] < row["noise"]["level"]
    stock_predict(seeing, [file], tmp_path / "stock")
    ours, stock = (read_volume(tmp_path / who / "case.nii.gz") for who in ("ours", "stock"))
    assert np.array_equal(ours.array, stock.array)
    with_reference(seeing, reference, match="none")
    stock_predict(seeing, [file], tmp_path / "as_it_is")
    assert not np.array_equal(read_volume(tmp_path / "as_it_is/case.nii.gz").array, stock.array)


def test_a_run_says_what_matching_did(seeing: Path, tmp_path: Path) -> None:
    case_of(tmp_path / "in", noisy(), "noisy")
    case_of(tmp_path / "in", body(1), "usual")
    case_of(tmp_path / "in", body(2, gamma=0.6), "dark")
    (tmp_path / "in" / "damaged.nii.gz").write_bytes(b"no image")
    call: dict[str, Any] = {"m": seeing, "device": "cpu", "tta": "none", "match": "body"}
    found = predict(tmp_path / "in", tmp_path / "out", **call)
    assert sorted(found.done) == ["dark", "noisy", "usual"]
    told = found.to_dict()["matching"]
    assert told == {"cases": 3, "noise_reduced": 1, "matched": 2, "unchanged": 1}
    text = "matching, cases done now: 3 (noise reduced: 1, intensities matched: 2, left as they are: 1)"
    assert text in found.render()
    without = predict(tmp_path / "in", tmp_path / "other", **call | {"match": "none"})
    assert "matching" not in without.to_dict()
    assert "matching, cases" not in without.render()


def test_no_view_has_the_noise_back(seeing: Path, tmp_path: Path) -> None:
    case_of(tmp_path / "in", noisy())
    predict(tmp_path / "in", tmp_path / "out", m=seeing, device="cpu", tta="full", all_views=True, match="noise")
    row = journal_of(tmp_path / "out")["case"]
    assert row["intensity"]["channels"][0]["noise"]["after"] is not None
    assert not any("match" in name for name in row["views"]["names"])


def test_views_of_weaker_matching_have_less_noise_too(seeing: Path, tmp_path: Path, reference: Any) -> None:
    image = noisy()
    bent = image.with_array(np.rint(4000 * (image.array / 4000) ** 0.4).astype(np.int16))
    predictor = loaded(seeing, tta="full")
    own = reference_of(json.loads((seeing / "plans.json").read_text()), ["0"])
    assert own is not None
    raw, properties = predictor.read([case_of(tmp_path, bent)])
    (quiet,) = quieted_case(raw, properties, own)
    assert quiet.changed
    expected, _ = predictor.preprocess(put_together(raw, [quiet.image]), properties)
    prepared = preparation.Preparation(predictor, own, "body")(raw, properties, "case")
    assert not prepared.facts["intensity"]["channels"][0]["skipped"]
    assert predictor.unmatched is not None
    assert torch.equal(predictor.unmatched, expected)


def test_stock_prediction_names_the_scan_that_it_cannot_match(model: Path, tmp_path: Path, reference: Any) -> None:
    with_reference(model, reference, match="body")
    image = body(1)
    file = case_of(tmp_path / "in", image.with_array((image.array - 1024).astype(np.int16)), "ct_0000")
    with pytest.raises(CaseError) as caught:
        stock_predict(model, [file], tmp_path / "out")
    assert (caught.value.code, caught.value.file) == ("E-MATCH-CT", str(file))


def test_stock_prediction_stops_where_matching_needs_a_prediction(model: Path, tmp_path: Path, reference: Any) -> None:
    with_reference(model, reference, match="anchored")
    file = case_of(tmp_path / "in", body(2), "case_0000")
    with pytest.raises(SetupError) as caught:
        stock_predict(model, [file], tmp_path / "out")
    assert caught.value.code == "E-MATCH-STOCK"
    assert "needs a prediction before preprocessing" in str(caught.value)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_model_without_reference_is_told_how_to_get_one(tmp_path: Path) -> None:
    bare = make_model(tmp_path / "Dataset901_Toy" / NAME)
    case_of(tmp_path / "in", body(1))
    for dry_run in (True, False):
        with pytest.raises(SetupError) as caught:
            predict(tmp_path / "in", tmp_path / "out", m=bare, device="cpu", match="body", dry_run=dry_run)
        assert caught.value.code == "E-MATCH-REFERENCE"
        assert f"nnUNetv2_spine_reference -m {bare}" in caught.value.fix
    assert not (tmp_path / "out").exists()
    with pytest.raises(SetupError) as caught:
        plan(m=str(bare), assignments=["predict.match=body"])
    assert caught.value.code == "E-MATCH-REFERENCE"


@pytest.mark.parametrize("damaged", [{"version": 2, "cases": 3}, "text", None])
def test_a_damaged_reference_does_not_stop_who_does_not_want_it(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: Any
) -> None:
    with_reference(model, damaged)
    case_of(tmp_path / "in", body(1))
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", tta="none").done == ["case"]
    assert "reference in its plans is damaged" in caplog.text
    with pytest.raises(SetupError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", match="body")
    assert caught.value.code == "E-MATCH-REFERENCE"


def test_models_of_ct_are_not_matched(model: Path, tmp_path: Path) -> None:
    content = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "CT"}}))
    case_of(tmp_path / "in", body(1))
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", match="cdf")
    assert caught.value.code == "E-MATCH-CT"
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", tta="none")
    assert "intensity" not in journal_of(tmp_path / "out")["case"]


def test_a_ct_fails_alone_and_is_predicted_without_matching(model: Path, tmp_path: Path) -> None:
    image = body(1)
    case_of(tmp_path / "in", image.with_array((image.array - 1024).astype(np.int16)), "ct")
    case_of(tmp_path / "in", image, "mr")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", tta="none", match="body")
    assert (result.done, list(result.failed)) == (["mr"], ["ct"])
    assert result.failed["ct"].code == "E-MATCH-CT"


def test_anchored_matching_needs_structures(tmp_path: Path, reference: Any) -> None:
    other = with_reference(make_model(tmp_path / "one" / NAME, labels={"background": 0, "lesion": 1}), reference)
    case_of(tmp_path / "in", body(1))
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=other, device="cpu", match="anchored")
    assert (caught.value.code, caught.value.fix) == ("E-MATCH-STRUCTURES", "use --match body")
    old = {key: value for key, value in reference.items() if key != "channels"}
    old["channels"] = [
        {key: channel[key] for key in ("mean", "spread", "low", "high")} for channel in reference["channels"]
    ]
    first = with_reference(make_model(tmp_path / "two" / NAME), old | {"version": 1})
    with pytest.raises(UsageError, match="nnUNetv2_spine_reference"):
        predict(tmp_path / "in", tmp_path / "out", m=first, device="cpu", match="anchored")


def test_another_preprocessor_is_refused(model: Path, tmp_path: Path) -> None:
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["preprocessor_name"] = "MyPreprocessor"
    (model / "plans.json").write_text(json.dumps(plans))
    case_of(tmp_path / "in", body(1))
    with pytest.raises(SetupError) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", match="body", dry_run=True)
    assert caught.value.code == "E-MATCH-PREPROCESSOR"


@pytest.mark.parametrize("option", ["match", "tta", "adapt"])
def test_ways_that_do_not_exist_are_refused(model: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        predict(tmp_path, tmp_path / "out", m=model, **{option: "histogram"})
    assert (caught.value.code, caught.value.file) == ("E-USE-CHOICE", f"--{option}")


def test_plans_take_a_matching_only_where_it_works(model: Path) -> None:
    assert plan(m=str(model), assignments=["predict.match=body"], dry_run=True).changes == [
        "predict.match: none -> body"
    ]
    with pytest.raises(UsageError):
        plan(m=str(model), assignments=["predict.match=histogram"])
    plan(m=str(model), assignments=["predict.match=anchored"])
    assert json.loads((model / "plans.json").read_text())["spine_ext"]["predict"]["match"] == "anchored"


@pytest.mark.parametrize("value", [0, 7])
def test_constant_images_stay_as_they_are(tmp_path: Path, reference: Any, value: int) -> None:
    own = reference_of(plans_with(reference), ())
    assert own is not None
    data, properties = read_case([case_of(tmp_path, Volume(np.full(SHAPE, value, np.int16), np.eye(4)))])
    found = match_case(data, properties, own, "body")
    assert found.data is data
    assert [w.code for w in found.warnings] == ["W-MATCH-FLAT"]
    assert np.isfinite(score_case(data, properties, own)[0]["channels"][0]["before"]["body"])


def test_metal_does_not_move_the_rest(tmp_path: Path, reference: Any) -> None:
    own = reference_of(plans_with(reference), ())
    assert own is not None
    image = body(2, gamma=0.6)
    spiked = image.array.astype(np.float32)
    spiked[10:12, 8, 9] *= 20
    results = []
    for name, array in (("plain", image.array.astype(np.float32)), ("metal", spiked)):
        data, properties = read_case([case_of(tmp_path, Volume(array, np.eye(4)), name)])
        results.append(match_case(data, properties, own, "body").data)
    same = spiked == image.array
    plain, metal = (found[0].transpose(2, 1, 0) for found in results)
    width = own.channels[0].width
    tissue = same & (image.array > 100)
    assert np.median(np.abs(plain - metal)[same]) < 0.02 * width
    shares = np.linspace(0.01, 0.99, 33)
    assert np.abs(np.quantile(plain[tissue], shares) - np.quantile(metal[tissue], shares)).max() < 0.02 * width
    spine = same & (body(2).array > 1000)
    assert spine.sum() > 500
    assert np.abs(plain - metal)[spine].max() < 0.02 * width


def test_scores_of_channels_are_named(tmp_path: Path) -> None:
    both = reference_of(plans_with(reference_for(tmp_path, channels=2)), ())
    assert both is not None
    files = [case_of(tmp_path / "in", body(2, gamma=g), f"c_000{c}") for c, g in enumerate((1, 0.2))]
    data, properties = read_case(files)
    facts, warnings = score_case(data, properties, both)
    assert len(facts["channels"]) == 2
    assert [w.found.partition(":")[0] for w in warnings] == ["channel 1"]


def test_the_command_line_has_the_options() -> None:
    parsed = command.build_parser().parse_args(
        ["-i", "x", "-o", "y", "-m", "z", "--match", "anchored", "--tta", "full", "--adapt", "tent", "--uncertainty"]
    )
    assert (parsed.match, parsed.tta, parsed.adapt, parsed.uncertainty) == ("anchored", "full", "tent", True)
