"""`nnUNetv2_spine_reference`: a reference for a model that has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_spine_ext.cli.reference import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.reference import reference_of
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.training.reference import GIVEN, ReferenceResult, reference

SHAPE = (24, 26, 12)


def case(seed: int) -> tuple[Volume, Volume]:
    """Return an image of a body with a bright cord in it, and the mask of the cord."""
    rng = np.random.default_rng(seed)
    image = rng.rayleigh(4, SHAPE)
    image[4:20, 4:22] = rng.normal(300, 60, (16, 18, 12)).clip(80)
    mask = np.zeros(SHAPE, np.uint8)
    mask[9:14, 9:14] = 1
    image[mask > 0] += 400
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return Volume(image.astype(np.float32), affine), Volume(mask, affine)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("imagesTr", "labelsTr", "model"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate("abc"):
        image, mask = case(seed)
        write_volume(image, tmp_path / "imagesTr" / f"{name}_0000.nii.gz")
        write_volume(mask, tmp_path / "labelsTr" / f"{name}.nii.gz")
    cases = {"version": 1, "cases": {name: {"subject": name, "contrast": "T2w"} for name in "abc"}}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    content = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "cord": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "model" / "dataset.json").write_text(json.dumps(content))
    (tmp_path / "model" / "plans.json").write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {}}))
    return tmp_path


def plans_of(data: Path) -> dict[str, object]:
    return dict(json.loads((data / "model" / "plans.json").read_text()))


def test_a_stock_model_gets_a_reference_and_nothing_else(data: Path) -> None:
    result = reference(str(data / "model"), str(data / "imagesTr"), labels=str(data / "labelsTr"))
    assert (result.exit_code, result.warnings) == (0, [])
    plans = plans_of(data)
    assert set(plans) == {"plans_name", "configurations", "spine_ext"}
    assert predict_settings(plans) is None, "stock prediction goes on as before"
    stored = reference_of(plans, ["0"])
    assert stored is not None
    assert (stored.cases, stored.contrast, stored.spacing) == (3, "T2w", (2.0, 2.0, 3.0))
    channel = stored.channels[0]
    assert set(channel.structures) == {"cord", "region"}
    assert channel.structures["cord"].cases == 3
    # The cord is 400 brighter than what surrounds it.
    assert channel.absolute(channel.structures["cord"].mean[16]) == pytest.approx(700, rel=0.1)
    assert channel.distance is not None
    assert channel.normalisation is not None
    mean, sd = np.mean([case(seed)[0].array.mean() for seed in range(3)]), case(0)[0].array.std()
    assert channel.normalisation == pytest.approx((mean, sd), rel=0.05)
    assert len(json.dumps(plans["spine_ext"])) < 5_000


def test_a_dry_run_writes_nothing_and_a_second_run_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (data / "model" / "plans.json").read_bytes()
    arguments = ["-m", str(data / "model"), "-i", str(data / "imagesTr"), "-l", str(data / "labelsTr")]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would write the reference of 3 case(s)" in capsys.readouterr().out
    assert (data / "model" / "plans.json").read_bytes() == before
    assert main(arguments) == 0
    with pytest.raises(UsageError, match="E-REFERENCE-EXISTS"):
        reference(str(data / "model"), str(data / "imagesTr"))
    assert main([*arguments, "--overwrite", "--contrast", "T1w", "--json"]) == 0
    stored = reference_of(plans_of(data), ["0"])
    assert stored is not None
    assert stored.contrast == "T1w"


def test_a_reference_of_version_1_is_replaced(data: Path) -> None:
    channel = {"mean": [0.0] * 33, "spread": [0.1] * 33, "low": 1.0, "high": 2.0}
    old = {"version": 1, "cases": 4, "probabilities": [], "channels": [channel]}
    (data / "model" / "plans.json").write_text(json.dumps({"spine_ext": {"version": 1, "reference": {"0": old}}}))
    read = reference_of(plans_of(data), ["0"])
    assert read is not None
    assert (read.version, read.channels[0].structures, read.distance) == (1, {}, None)
    reference(str(data / "model"), str(data / "imagesTr"))
    assert set(plans_of(data)["spine_ext"]["reference"]) == {GIVEN}  # type: ignore[index]


@pytest.mark.parametrize("stored", [{"0": {"version": 2, "cases": 3}}, {"0": "text"}, {"0": None}, ["list"]])
def test_a_damaged_reference_is_replaced(data: Path, stored: object, caplog: pytest.LogCaptureFixture) -> None:
    plans = plans_of(data) | {"spine_ext": {"version": 1, "reference": stored}}
    (data / "model" / "plans.json").write_text(json.dumps(plans))
    assert reference(str(data / "model"), str(data / "imagesTr")).written
    assert "is damaged" in caplog.text
    assert reference_of(plans_of(data), ["0"]) is not None


def test_a_folder_of_masks_that_is_not_there_is_refused(data: Path) -> None:
    before = (data / "model" / "plans.json").read_bytes()
    with pytest.raises(NoInputError, match="E-REFERENCE-LABELS"):
        reference(str(data / "model"), str(data / "imagesTr"), labels=str(data / "labelTr"))
    assert (data / "model" / "plans.json").read_bytes() == before


def test_other_cases_are_used_when_one_is_broken(data: Path) -> None:
    (data / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
    (data / "labelsTr" / "c.nii.gz").unlink()
    result = reference(str(data / "model"), str(data / "imagesTr"), labels=str(data / "labelsTr"))
    assert result.exit_code == 3
    assert set(result.failed) == {"b"}
    assert [problem.code for problem in result.warnings] == ["W-REFERENCE-MASK"]
    assert result.reference["cases"] == 2
    assert result.reference["channels"][0]["structures"]["cord"]["cases"] == 1
    assert "failed: b" in result.render()


@pytest.mark.parametrize(
    ("kind", "code"),
    [("zeros", "E-INT-CONSTANT"), ("constant", "E-INT-CONSTANT"), ("nan", "E-INT-NONFINITE"), ("ct", "E-REFERENCE-CT")],
)
def test_what_prediction_would_refuse_does_not_widen_the_limits(data: Path, kind: str, code: str) -> None:
    alone = reference(str(data / "model"), str(data / "imagesTr"), dry_run=True)
    image, _ = case(7)
    array = {
        "zeros": np.zeros(SHAPE),
        "constant": np.full(SHAPE, 7.0),
        "nan": np.full(SHAPE, np.nan),
        "ct": np.where(image.array < 80, -1000.0, image.array - 300),
    }[kind]
    write_volume(image.with_array(array.astype(np.float32)), data / "imagesTr" / "z_0000.nii.gz")
    found = reference(str(data / "model"), str(data / "imagesTr"), dry_run=True)
    assert found.failed["z"].code == code
    assert found.exit_code == 3
    assert found.reference == alone.reference
    if kind == "ct":
        folder = str(data / "model"), str(data / "imagesTr")
        assert not reference(*folder, contrast="T2w", dry_run=True).failed, "it is known to be none"
        assert not reference(*folder, contrast="CT", dry_run=True).failed, "all are"
        content = json.loads((data / "model" / "dataset.json").read_text()) | {"channel_names": {"0": "CT"}}
        (data / "model" / "dataset.json").write_text(json.dumps(content))
        assert "z" not in reference(str(data / "model"), str(data / "imagesTr"), dry_run=True).failed


def test_contrasts_tell_what_is_a_ct_and_values_where_they_do_not(data: Path) -> None:
    folder = str(data / "model"), str(data / "imagesTr")
    for file in sorted((data / "imagesTr").iterdir()):
        image = read_volume(file)
        write_volume(image.with_array(np.where(image.array < 80, -1000, image.array).astype(np.float32)), file)
    names = [case.name.removesuffix("_0000.nii.gz") for case in sorted((data / "imagesTr").iterdir())]
    (data / "cases.json").unlink()
    with pytest.raises(NoInputError, match=r"--contrast \[E-REFERENCE-CT\].*E-REFERENCE-CASES"):
        reference(*folder, dry_run=True)

    def told(*contrasts: object) -> ReferenceResult:
        cases = {name: {"contrast": contrast} for name, contrast in zip(names, contrasts, strict=True)}
        (data / "cases.json").write_text(json.dumps({"version": 1, "cases": cases}))
        return reference(*folder, dry_run=True)

    result = told("CT", "CT", "CT")
    assert (result.failed, result.reference["contrast"]) == ({}, "CT"), "a model of CT under another name"
    assert not told("CT", "CT", "unknown").failed
    result = told("T2w", "CT", 2)
    assert {case: error.code for case, error in result.failed.items()} == dict.fromkeys(names[1:], "E-REFERENCE-CT")
    (data / "cases.json").unlink()
    for name in names:
        (data / "imagesTr" / f"{name}_0000.nii.gz").rename(data / "imagesTr" / f"sub-{name}_T2w_0000.nii.gz")
    result = reference(*folder, dry_run=True)
    assert (result.failed, result.reference["contrast"]) == ({}, "T2w"), "as prediction takes a scan of this name"


def test_what_the_gate_warns_of_and_refuses_is_told(data: Path) -> None:
    content = json.loads((data / "model" / "dataset.json").read_text()) | {"channel_names": {"0": "T1w", "1": "T2w"}}
    (data / "model" / "dataset.json").write_text(json.dumps(content))
    first = sorted((data / "imagesTr").iterdir())
    for file in first:
        write_volume(read_volume(file), file.with_name(file.name.replace("_0000", "_0001")))
    image = read_volume(first[0])
    holes = image.array.astype(np.float32)
    holes[0, 0, 0] = np.nan
    write_volume(image.with_array(holes), first[0])
    write_volume(Volume(image.array[:9], image.affine), first[1].with_name(first[1].name.replace("_0000", "_0001")))
    result = reference(str(data / "model"), str(data / "imagesTr"), dry_run=True)
    assert "W-INT-NONFINITE" in [problem.code for problem in result.warnings]
    assert {error.code for error in result.failed.values()} == {"E-GEOM-CHANNELS"}
    assert result.reference["cases"] == 2


def test_masks_on_another_grid_and_classes_that_are_no_structures(data: Path) -> None:
    write_volume(Volume(np.ones((3, 3, 3), np.uint8), np.eye(4)), data / "labelsTr" / "a.nii.gz")
    result = reference(str(data / "model"), str(data / "imagesTr"), labels=str(data / "labelsTr"), dry_run=True)
    assert [(problem.code, problem.file) for problem in result.warnings] == [
        ("W-REFERENCE-GRID", str(data / "labelsTr" / "a.nii.gz"))
    ]
    assert "another grid" in result.render()
    assert result.to_dict()["warnings"][0]["code"] == "W-REFERENCE-GRID"
    assert result.reference["channels"][0]["structures"]["cord"]["cases"] == 2
    content = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (data / "model" / "dataset.json").write_text(json.dumps(content))
    for labels in (None, str(data / "labelsTr")):
        result = reference(str(data / "model"), str(data / "imagesTr"), labels=labels, dry_run=True)
        assert [problem.code for problem in result.warnings] == ["W-REFERENCE-STRUCTURES"]
        assert result.reference["channels"][0]["structures"] == {}


def test_no_model_and_no_usable_image(data: Path) -> None:
    with pytest.raises(SetupError, match="E-MODEL-FOLDER"):
        reference(str(data / "nowhere"), str(data / "imagesTr"))
    for name in "abc":
        (data / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(NoInputError, match="E-REFERENCE-CASES"):
        reference(str(data / "model"), str(data / "imagesTr"))
