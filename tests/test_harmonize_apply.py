"""`nnUNetv2_spine_harmonize apply`: folders of scans, isolated, resumable, on their own grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harmonizer_builder import fail_slices, make_harmonizer
from slice_cohort import spine

from nnunet_spine_ext.cli import harmonize as command
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, sha256, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.volumes import WHOLE
from nnunet_spine_ext.inference.harmonize import apply
from nnunet_spine_ext.render import before_after
from nnunet_spine_ext.report.collect import collect


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_harmonizer(tmp_path_factory.mktemp("models") / "harmonizer")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for k, orientation in enumerate(("RAS", "PIR", "LIP")):
        image, _ = spine(k)
        write_volume(image.to(orientation), folder / f"case{k}_0000.nii.gz")
    return folder


def journal(folder: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    return {row["case"]: row for row in rows}


def test_a_folder_of_scans_keeps_names_and_grids(model: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = apply(scans, out, m=model, device="cpu", snapshots=True)
    assert (result.exit_code, result.done) == (0, ["case0_0000", "case1_0000", "case2_0000"])
    for name in result.done:
        scan, made = read_volume(scans / f"{name}.nii.gz"), read_volume(out / f"{name}.nii.gz")
        np.testing.assert_allclose(made.affine, scan.affine)
        assert made.shape == scan.shape
        # A tenth of the range of [-1, 1] is a twentieth of the scan's.
        assert 20 < float(np.median(made.array - scan.array)) < 80
        assert (out / "snapshots" / f"{name}.png").is_file()
        quality = json.loads((out / "qc" / f"{name}.json").read_text())["harmonization"]
        assert quality["method"] == "cyclegan"
        assert len(quality["rows"]) == 5
        assert quality["edge_correlation"] > 0.95
        row = journal(out)[name]
        assert row["status"] == "done"
        assert row["harmonization"]["harmonized"] == 5
        assert set(row["outputs"]) == {f"{name}.nii.gz", f"qc/{name}.json", f"snapshots/{name}.png"}
    facts = json.loads((out / "run.json").read_text())
    assert facts["harmonizer"]["target"] == ["Siemens"]
    assert facts["options"]["gate"]["weakest"] == 0.8


def test_every_channel_is_harmonized_and_none_is_left_out(model: Path, scans: Path, tmp_path: Path) -> None:
    image, _ = spine(3)
    write_volume(image, scans / "case0_0001.nii.gz")
    write_volume(image, scans / "case0.nii.gz")
    wanted = ["case0", "case0_0000", "case0_0001", "case1_0000", "case2_0000"]
    rehearsed = apply(scans, tmp_path / "out", m=model, device="cpu", dry_run=True)
    assert rehearsed.planned["case0_0001"] == [str(scans / "case0_0001.nii.gz")]
    result = apply(scans, tmp_path / "out", m=model, device="cpu")
    assert (result.exit_code, result.done) == (0, wanted)
    assert sorted(p.name.removesuffix(".nii.gz") for p in (tmp_path / "out").glob("*.nii.gz")) == wanted
    write_volume(image, scans / "CASE0.nii")
    with pytest.raises(UsageError) as caught:
        apply(scans, tmp_path / "twice", m=model, device="cpu")
    assert caught.value.code == "E-IN-TWICE"


def test_images_are_not_reported_as_masks(model: Path, scans: Path, tmp_path: Path) -> None:
    apply(scans / "case2_0000.nii.gz", tmp_path / "out", m=model, device="cpu")
    with pytest.raises(NoInputError) as caught:
        collect(tmp_path / "out")
    assert caught.value.code == "E-REPORT-IMAGES"


def test_equal_runs_give_equal_bytes(model: Path, scans: Path, tmp_path: Path) -> None:
    for name in "ab":
        apply(scans, tmp_path / name, m=model, device="cpu")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.nii.gz"))
    files += sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("qc/*.json"))
    assert len(files) == 6
    for file in files:
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file)


def test_a_generator_that_draws_nonsense_changes_nothing_and_is_told(scans: Path, tmp_path: Path) -> None:
    broken = make_harmonizer(tmp_path / "broken", add=None, epochs=(1, 3))
    result = apply(scans / "case2_0000.nii.gz", tmp_path / "out", m=broken, device="cpu")
    assert result.exit_code == 0
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out/case2_0000.nii.gz").array, read_volume(scans / "case2_0000.nii.gz").array
    )
    codes = [problem.code for problem in result.warnings["case2_0000"]]
    assert codes == ["W-HARMONIZE-GATE"]
    passed, total = result.slices
    assert passed == 0 < total
    assert f"0 of {total} slices harmonized, the others are as they were" in result.render()
    assert result.to_dict()["slices"] == {"harmonized": 0, "of": total}
    assert "5 of 5 slices" in result.warnings["case2_0000"][0].found
    assert "nothing was harmonized" in result.warnings["case2_0000"][0].fix
    assert [note.code for note in result.notes] == ["W-HARMONIZE-UNFINISHED"]
    # Limits that let everything pass are the user's own choice.
    lax = ["edge_correlation=-1", "weakest=-1", "kept=-1"]
    again = apply(scans / "case2_0000.nii.gz", tmp_path / "lax", m=broken, device="cpu", assignments=lax)
    assert not again.warnings


def test_a_scan_of_which_too_few_slices_pass_is_left_alone_and_told(
    model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_slices(monkeypatch, 1, 2, 3)
    drawn: dict[int, str] = {}
    real = before_after.before_after
    monkeypatch.setattr(before_after, "before_after", lambda *a, notes, **o: drawn.update(notes) or real(*a, **o))
    scan, out = scans / "case2_0000.nii.gz", tmp_path / "out"
    result = apply(scan, out, m=model, device="cpu", snapshots=True)
    assert (result.exit_code, result.done, result.slices) == (0, ["case2_0000"], (0, 5))
    np.testing.assert_array_equal(read_volume(out / "case2_0000.nii.gz").array, read_volume(scan).array)
    warning = result.warnings["case2_0000"][0]
    assert warning.code == "W-HARMONIZE-VOLUME"
    assert "2 of 5 slices that passed" in warning.found
    assert "1 (for the test)" in warning.found
    row = journal(out)["case2_0000"]
    assert row["harmonization"]["refused"] is True
    assert (row["harmonization"]["harmonized"], row["harmonization"]["failed"]) == (0, 3)
    assert [problem["code"] for problem in row["warnings"]] == ["W-HARMONIZE-VOLUME"]
    rows = json.loads((out / "qc/case2_0000.json").read_text())["harmonization"]["rows"]
    assert [one["why"] for one in rows] == [WHOLE, *["for the test"] * 3, WHOLE]
    assert drawn == dict.fromkeys(range(5), "not harmonized")
    # Every slice for itself, as the user wants it.
    lax = apply(scan, tmp_path / "lax", m=model, device="cpu", assignments=["min_passed=0.4"])
    assert lax.slices == (2, 5)
    assert lax.warnings["case2_0000"][0].code == "W-HARMONIZE-GATE"
    assert journal(tmp_path / "lax")["case2_0000"]["harmonization"]["refused"] is False
    with pytest.raises(UsageError, match="min_passed"):
        apply(scan, tmp_path / "wrong", m=model, device="cpu", assignments=["min_passed=2"])


def test_one_bad_file_leaves_the_others_alone(model: Path, scans: Path, tmp_path: Path) -> None:
    (scans / "case1_0000.nii.gz").write_bytes(b"<html>log in first</html>")
    image, _ = spine()
    write_volume(Volume(np.round(image.array - 1000), image.affine), scans / "ct.nii.gz")
    rehearsed = apply(scans, tmp_path / "out", m=model, device="cpu", dry_run=True)
    assert (rehearsed.exit_code, sorted(rehearsed.failed)) == (3, ["case1_0000", "ct"])
    assert not (tmp_path / "out").exists()
    result = apply(scans, tmp_path / "out", m=model, device="cpu")
    assert (result.exit_code, result.done) == (3, ["case0_0000", "case2_0000"])
    assert result.failed["ct"].code == "E-HARMONIZE-CT"
    assert result.failed["ct"].file.endswith("ct.nii.gz")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["case0_0000.nii.gz", "case2_0000.nii.gz"]
    assert journal(tmp_path / "out")["case1_0000"]["status"] == "failed"


@pytest.mark.parametrize("change", ["nothing", "image", "result", "limits", "model"])
def test_resume_verifies_instead_of_trusting(model: Path, scans: Path, tmp_path: Path, change: str) -> None:
    out, options, chosen = tmp_path / "out", {}, model
    apply(scans, out, m=model, device="cpu")
    if change == "image":
        image, _ = spine(7)
        write_volume(image, scans / "case1_0000.nii.gz")
    elif change == "result":
        (out / "case1_0000.nii.gz").write_bytes(b"")
    elif change == "limits":
        options["assignments"] = ["weakest=0.5"]
    elif change == "model":
        chosen = make_harmonizer(tmp_path / "other", add=0.2)
    result = apply(scans, out, m=chosen, device="cpu", resume=True, **options)
    every = ["case0_0000", "case1_0000", "case2_0000"]
    expected = {"nothing": [], "image": every[1:2], "result": every[1:2], "limits": every, "model": every}[change]
    assert result.done == expected
    assert result.exit_code == 0


def test_an_interrupted_case_leaves_nothing_and_is_done_again(
    model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.inference import harmonize

    calls = iter(range(9))
    real = harmonize.harmonize_volume

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(harmonize, "harmonize_volume", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(scans, tmp_path / "out", m=model, device="cpu")
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["case0_0000.nii.gz"]
    result = apply(scans, tmp_path / "out", m=model, device="cpu", resume=True)
    assert (result.skipped, result.done) == (["case0_0000"], ["case1_0000", "case2_0000"])


def test_what_cannot_work_is_refused_before_anything_is_written(model: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SetupError) as caught:
        apply(scans, out, m=tmp_path / "nothing", device="cpu")
    assert caught.value.code == "E-MODEL-HARMONIZER"
    with pytest.raises(SetupError):
        apply(scans, out, m=model, segmenter=tmp_path / "nothing", device="cpu")
    with pytest.raises(UsageError) as wrong:
        apply(scans, out, m=model, device="cpu", assignments=["weekest=0.5"])
    assert "weakest" in wrong.value.fix
    with pytest.raises(UsageError):
        apply(scans, scans, m=model, device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError):
        apply(tmp_path / "empty", out, m=model, device="cpu")
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"slices": {"size": [96, 96], "spacing": None}}, "E-HARMONIZE-SPACING"),
        ({"spacing": [0.0, 0.0]}, "E-MODEL-HARMONIZER"),
        ({"settings": {"generator": 5}}, "E-CONFIG-VALUE"),
    ],
)
def test_a_damaged_description_is_refused_before_anything_is_written(
    scans: Path, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    broken = make_harmonizer(tmp_path / "broken")
    content = json.loads((broken / "model.json").read_text()) | change
    (broken / "model.json").write_text(json.dumps(content))
    with pytest.raises(SetupError) as caught:
        apply(scans, tmp_path / "out", m=broken, device="cpu")
    assert caught.value.code == code
    assert str(broken / "model.json") in caught.value.file
    assert not (tmp_path / "out").exists()


def test_the_command_does_the_same(model: Path, scans: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["apply", "-i", str(scans), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu", "--json"]
    assert command.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["done"] == ["case0_0000", "case1_0000", "case2_0000"]


def test_a_segmenter_of_discs_has_a_say(model: Path, scans: Path, tmp_path: Path) -> None:
    import torch

    from nnunet_spine_ext.harmonize.segmenter import SegmenterModel, write_segmenter
    from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
    from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape

    torch.manual_seed(0)
    shape = SliceNetworkShape(features=(4, 8))
    network = shape.build()
    discs = tmp_path / "discs"
    write_segmenter(
        discs, SegmenterModel(network=shape, slices=SliceSettings(size=(96, 96), spacing=0.8)), network.state_dict()
    )
    plain = apply(scans, tmp_path / "plain", m=model, device="cpu")
    result = apply(scans, tmp_path / "out", m=model, device="cpu", segmenter=discs, resume=True)
    assert result.done == plain.done
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert len(facts["segmenter"]) == 64
    row = journal(tmp_path / "out")["case0_0000"]
    assert row["harmonization"]["volume_change"] is not None
    assert journal(tmp_path / "plain")["case0_0000"]["harmonization"]["volume_change"] is None
    assert row["fingerprint"] != journal(tmp_path / "plain")["case0_0000"]["fingerprint"]


def test_real_scans_keep_their_grids_and_edges(model: Path, test_data: Path, tmp_path: Path) -> None:
    names = (
        "sct-errsm/errsm_11/t2/t2.nii.gz",
        "sct-testing/t1/t1w.nii.gz",
        "tptbox/sample_mri/sub-mri_label-6_T2w.nii.gz",
    )
    for k, name in enumerate(names):
        scan = read_volume(test_data / name)
        result = apply(test_data / name, tmp_path / str(k), m=model, device="cpu")
        assert result.exit_code == 0
        made = read_volume(next((tmp_path / str(k)).glob("*.nii.gz")))
        assert made.same_grid(scan, 1e-3)
        found = journal(tmp_path / str(k))[result.done[0]]["harmonization"]
        assert found["edge_correlation"] >= 0.97
        assert found["harmonized"] >= 0.9 * found["slices"]
