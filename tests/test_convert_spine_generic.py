"""`nnUNetv2_spine_convert spine_generic`: real trees, phantoms in the same layout, and every quirk of such trees."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_spine_generic import (
    LayoutScan,
    from_phantom,
    image_path,
    mask_path,
    sidecar_path,
    write_spine_generic,
)
from nnunet_verdict import verify_with_nnunet
from opened_files import count_opens

from nnunet_spine_ext.check.datasets import inspect_dataset
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core.errors import NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion import conversion
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spine_generic import spine_generic

SHAPE = (12, 10, 8)
AFFINE = np.array([[0.9, 0, 0, -5], [0, 0.9, 0, 3], [0, 0, 5.0, 0], [0, 0, 0, 1]])
SUBJECTS = ("unf01", "amu02", "beijingVerio01", "beijingVerio02")


def _scan(subject: str, contrast: str, seed: int = 0) -> LayoutScan:
    rng = np.random.default_rng([seed, *map(ord, subject + contrast)])
    image = Volume(rng.normal(400, 90, SHAPE).clip(1).astype(np.int16), AFFINE)
    cord, canal = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    canal[3:9, 2:8, :] = 1
    cord[4:7, 3 + int(rng.integers(2)) : 6, :] = 1
    return LayoutScan(subject, contrast, image, image.with_array(cord), image.with_array(canal))


def _scans(contrasts: tuple[str, ...] = ("T1w", "T2w"), subjects: tuple[str, ...] = SUBJECTS) -> list[LayoutScan]:
    return [_scan(subject, contrast) for subject in subjects for contrast in contrasts]


def _convert(tmp_path: Path, source: Path | None = None, **changes: Any) -> ConversionResult:
    folders = {"raw": tmp_path / "raw", "preprocessed": tmp_path / "pre"}
    return spine_generic(source or tmp_path / "in", 511, **(folders | changes))


def _table(result: ConversionResult) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads((result.folder / "cases.json").read_text())["cases"]
    return cases


def _only_skipped(result: ConversionResult) -> Any:
    assert len(result.skipped) == 1, result.render()
    return result.skipped[0]


# --- good trees -----------------------------------------------------------------------------------------------------


def test_a_tree_becomes_a_dataset_that_nnunet_accepts(tmp_path: Path) -> None:
    scans = _scans(("T1w", "T2star", "flip-1_mt-on_MTS"))
    write_spine_generic(tmp_path / "in", scans, quirks=["derived_images"])
    result = _convert(tmp_path, test_subjects=["amu02"], folds=3)
    assert result.exit_code == 0, result.render()
    cases = _table(result)
    assert sorted(cases) == sorted(scan.stem for scan in scans)
    row = cases["sub-unf01_flip-1_mt-on_MTS"]
    facts: dict[str, Any] = {
        "subject": "sub-unf01",
        "site": "unf",
        "manufacturer": "Siemens",
        "model": "Prisma-fit",
        "pathology": "HC",
    }
    facts |= {"field_strength": 3, "contrast": "flip-1_mt-on_MTS", "TR": 1500.0, "TE": 120.0, "label_source": "manual"}
    assert {key: row[key] for key in facts} == facts
    assert row["sources"] == [
        {"role": role, "file": file, "sha256": hashlib.sha256((tmp_path / "in" / file).read_bytes()).hexdigest()}
        for role, file in (
            ("image_0000", "sub-unf01/anat/sub-unf01_flip-1_mt-on_MTS.nii.gz"),
            ("label", "derivatives/labels/sub-unf01/anat/sub-unf01_flip-1_mt-on_MTS_label-SC_seg.nii.gz"),
        )
    ]
    assert "Somebody" not in (result.folder / "cases.json").read_text()
    assert {case: bool(row.get("test")) for case, row in cases.items()} == {c: "amu02" in c for c in cases}
    assert result.splits is not None
    for split in result.splits:
        sides = [{case.split("_")[0] for case in split[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
    for scan in scans:
        folder = "labelsTs" if scan.subject == "amu02" else "labelsTr"
        written = read_volume(result.folder / folder / f"{scan.stem}.nii.gz")
        np.testing.assert_array_equal(written.array, scan.cord.array)
    assert inspect_dataset(result.folder).ok
    verify_with_nnunet(result.folder)


def test_old_names_are_found_and_contrasts_get_their_present_name(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(("flip-1_mt-on_MTS", "T1w")), quirks=["old_names"])
    result = _convert(tmp_path, contrasts=["flip-1_mt-on_MTS"])
    assert result.exit_code == 0, result.render()
    row = _table(result)["sub-unf01_acq-MTon_MTS"]
    assert (row["contrast"], row["label_source"]) == ("flip-1_mt-on_MTS", "manual")
    assert len(result.rows) == len(SUBJECTS)
    assert any("contrasts left out: T1w (4)" in note for note in result.notes)


def test_the_present_name_wins_over_the_old_one(tmp_path: Path) -> None:
    scan = _scan("unf01", "T1w")
    root = write_spine_generic(tmp_path / "in", [scan, _scan("amu02", "T1w")])
    write_volume(scan.cord.with_array(np.ones(SHAPE, np.uint8)), mask_path(root, scan, "seg-manual"))
    result = _convert(tmp_path)
    assert result.rows[1].files["label"].endswith("_label-SC_seg.nii.gz")
    assert len(result.rows) == 2


def test_classes_are_painted_from_the_outside_in(tmp_path: Path) -> None:
    scans = _scans(("T2w",))
    write_spine_generic(tmp_path / "in", scans)
    result = _convert(tmp_path, classes=["cord", "canal"])
    assert result.exit_code == 0, result.render()
    assert json.loads((result.folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "cord": 1,
        "canal": 2,
    }
    for scan in scans:
        assert scan.canal is not None
        written = read_volume(result.folder / "labelsTr" / f"{scan.stem}.nii.gz").array
        np.testing.assert_array_equal(written == 1, scan.cord.array == 1)
        np.testing.assert_array_equal(written > 0, scan.canal.array == 1)
    assert _table(result)["sub-unf01_T2w"]["sources"][2]["role"] == "label-canal"
    assert not any(row.warnings for row in result.rows)


def test_classes_that_should_not_overlap_are_warned_of(tmp_path: Path) -> None:
    scans = _scans(("T2w",), SUBJECTS[:2])
    root = write_spine_generic(tmp_path / "in", scans)
    for scan in scans:
        assert scan.canal is not None
        write_volume(scan.canal, mask_path(root, scan, "label-CSF_seg"))
    result = _convert(tmp_path, classes=["csf", "cord"])
    count = int(scans[0].cord.array.sum())
    warning = next(row for row in result.rows if "unf01" in row.case_id).warnings[0]
    assert warning.code == "W-LABEL-OVERLAP"
    assert f"{count} voxels of the cord that are csf too" in warning.found


def test_another_folder_of_derivatives_and_its_order(tmp_path: Path) -> None:
    scans = _scans(("T2w",))
    root = write_spine_generic(tmp_path / "in", scans, quirks=["derived_images"])
    result = _convert(tmp_path, derivatives=["labels_softseg_bin"])
    assert result.rows[0].files["label"].startswith("derivatives/labels_softseg_bin/")
    mask_path(root, scans[0], "desc-softseg_label-SC_seg", "labels_softseg_bin").unlink()
    mixed = _convert(tmp_path, derivatives=["labels_softseg_bin", "labels"], overwrite=True)
    folders = {row.case_id: row.files["label"].split("/")[1] for row in mixed.rows}
    assert folders["sub-unf01_T2w"] == "labels"
    assert set(folders.values()) == {"labels", "labels_softseg_bin"}


def test_phantoms_convert_and_come_back_exactly(tmp_path: Path) -> None:
    from nnunet_spine_ext.phantom.protocols import protocol
    from nnunet_spine_ext.phantom.scan import ScanRequest, scan_subject

    coarse = tuple(protocol(name).with_spacing((2.5, 2.5, 5.0)) for name in ("t2w_sagittal", "t2star_axial"))
    request = ScanRequest(coarse, seed=3, region="cervical", supersample=1)
    scans = [from_phantom(scan, name) for k, name in enumerate(("unf01", "amu02")) for scan in scan_subject(request, k)]
    write_spine_generic(tmp_path / "in", scans)
    with count_opens(tmp_path / "in") as opened:
        result = _convert(tmp_path, classes=["cord", "canal"])
    assert {times for name, times in opened.items() if name.endswith(".nii.gz")} == {1}
    assert result.exit_code == 0, result.render()
    assert {row["contrast"] for row in _table(result).values()} == {"T2w", "T2star"}
    for scan in scans:
        written = read_volume(result.folder / "labelsTr" / f"{scan.stem}.nii.gz")
        assert written.same_grid(scan.image)
        np.testing.assert_array_equal(written.array == 1, scan.cord.array == 1)
    verify_with_nnunet(result.folder)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    result = _convert(tmp_path, dry_run=True)
    assert (result.written, len(result.rows)) == (False, 2 * len(SUBJECTS))
    assert not (tmp_path / "raw").exists() or not any((tmp_path / "raw").iterdir())


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    opened: list[Path] = []

    def interrupted(path: Path, **options: Any) -> Any:
        opened.append(path)
        if len(opened) == 6:
            raise KeyboardInterrupt
        return open_image(path, **options)

    monkeypatch.setattr(conversion, "open_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _convert(tmp_path)
    result = _convert(tmp_path, resume=True)
    assert (result.exit_code, result.resumed, len(result.rows)) == (0, 2, 2 * len(SUBJECTS))
    # Every file once, and the one that the interruption fell on.
    assert len(opened) == 2 * 2 * len(SUBJECTS) + 2


# --- real trees -----------------------------------------------------------------------------------------------------


def test_the_ivadomed_tree_converts(tmp_path: Path, test_data: Path) -> None:
    source = test_data / "ivadomed-testing"
    result = _convert(tmp_path, source)
    assert result.exit_code == 0, result.render()
    assert {case: row["contrast"] for case, row in _table(result).items()} == {
        "sub-unf01_T1w": "T1w", "sub-unf01_T2star": "T2star", "sub-unf01_T2w": "T2w",
    }  # fmt: skip
    row = _table(result)["sub-unf01_T2w"]
    # The table says "unknown" for everything: the JSON file beside the image speaks.
    assert [row[key] for key in ("site", "manufacturer", "model", "field_strength", "TR", "TE")] == [
        "IUGM", "Siemens", "Prisma_fit", 3, 1500.0, 120.0,
    ]  # fmt: skip
    assert (row["label_source"], row["pathology"]) == ("unknown", None)
    assert any("3 mask(s) do not say who made them" in note for note in result.notes)
    for case in _table(result):
        mask = source / "derivatives" / "labels" / "sub-unf01" / "anat" / f"{case}_seg-manual.nii.gz"
        np.testing.assert_array_equal(
            read_volume(result.folder / "labelsTr" / f"{case}.nii.gz").array, read_volume(mask).array
        )
    verify_with_nnunet(result.folder)


def test_images_that_are_missing_are_named_with_their_remedy(tmp_path: Path, test_data: Path) -> None:
    result = _convert(tmp_path, test_data / "spinegeneric-example")
    assert result.exit_code == 4
    assert not result.written
    assert len(result.skipped) == 17
    assert {problem.code for problem in result.skipped} == {"E-PAIR-NOIMAGE"}
    expected = {problem.expected for problem in result.skipped}
    assert str(test_data / "spinegeneric-example/sub-hamburg01/anat/sub-hamburg01_T2w.nii.gz") in expected
    assert all("git annex get sub-" in problem.fix for problem in result.skipped)


def test_the_example_converts_once_its_images_are_there(tmp_path: Path, test_data: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(test_data / "spinegeneric-example", source)
    # A small part of the real cohort: three subjects of two vendors, one without T2star.
    for subject in ("cardiff03", "mpicbs06", "oxfordFmrib07"):
        shutil.rmtree(source / f"sub-{subject}")
        shutil.rmtree(source / "derivatives" / "labels" / f"sub-{subject}")
    masks = sorted(source.glob("derivatives/labels/*/*/*_seg-manual.nii.gz"))
    for path in masks:
        mask = read_volume(path)
        array = mask.array.astype(np.int16) * 300 + np.arange(mask.shape[2], dtype=np.int16) + 20
        stem = path.name.replace("_seg-manual.nii.gz", "")
        write_volume(mask.with_array(array), source / path.parts[-3] / path.parts[-2] / f"{stem}.nii.gz")
    result = _convert(tmp_path)
    assert (result.exit_code, len(result.rows)) == (0, 8), result.render()
    table = _table(result)
    assert table["sub-juntendo750w01_T1w"]["manufacturer"] == "GE"
    assert table["sub-juntendo750w01_T1w"]["model"] == "MR750w"
    assert {row["site"] for row in table.values()} == {"hamburg", "juntendo750w", "unf"}
    for path in masks:
        written = read_volume(result.folder / "labelsTr" / path.name.replace("_seg-manual", ""))
        np.testing.assert_array_equal(written.array, read_volume(path).array)
    verify_with_nnunet(result.folder)


# --- what is not there ----------------------------------------------------------------------------------------------


def test_annex_files_without_content_get_one_row_each_and_others_go_on(tmp_path: Path) -> None:
    scans = _scans()
    root = write_spine_generic(tmp_path / "in", scans, quirks=["annex_link", "annex_pointer"])
    result = _convert(tmp_path)
    assert (result.exit_code, len(result.rows)) == (3, len(scans) - 2)
    image, mask = sorted(result.skipped, key=lambda problem: problem.file, reverse=True)
    assert {image.code, mask.code} == {"E-IN-POINTER"}
    assert image.file == str(image_path(root, scans[0]))
    assert image.fix == f"in {root}: git annex get sub-unf01/anat/sub-unf01_T1w.nii.gz"
    assert mask.fix.endswith("git annex get derivatives/labels/sub-amu02/anat/sub-amu02_T1w_label-SC_seg.nii.gz")
    mask_pattern = "derivatives/labels/sub-*/anat/sub-*_T1w_label-SC_seg.nii.gz"
    together = f"in {root}: git annex get {mask_pattern} sub-*/anat/sub-*_T1w.nii.gz"
    assert f"2 case(s) not fetched yet; all of them at once: {together}" in result.notes


def test_a_mask_without_image_is_told_and_the_original_is_no_substitute(tmp_path: Path) -> None:
    root = write_spine_generic(tmp_path / "in", _scans(), quirks=["missing_image"])
    result = _convert(tmp_path)
    problem = _only_skipped(result)
    assert (result.exit_code, problem.code) == (3, "E-PAIR-NOIMAGE")
    assert "sourcedata" in problem.found
    assert problem.expected == str(root / "sub-unf01" / "anat" / "sub-unf01_T1w.nii.gz")


def test_an_image_without_mask_is_told_and_a_soft_mask_is_named(tmp_path: Path) -> None:
    scans = _scans()
    root = write_spine_generic(tmp_path / "in", scans, quirks=["derived_images"])
    mask_path(root, scans[0]).unlink()
    problem = _only_skipped(_convert(tmp_path))
    assert problem.code == "E-PAIR-NOMASK"
    assert problem.expected == "derivatives/labels/sub-unf01/anat/sub-unf01_T1w_label-SC_seg.nii.gz"
    soft = _convert(tmp_path, derivatives=["labels_softseg", "labels"], overwrite=True)
    assert "labels_softseg_bin" in _only_skipped(soft).fix
    with pytest.raises(NoInputError, match=r"no mask of gm in labels; .*labels has masks of canal, cord: name these"):
        _convert(tmp_path, classes=["gm"], overwrite=True)
    with pytest.raises(NoInputError, match="no mask of cord in labels_softseg"):
        _convert(tmp_path, derivatives=["labels_softseg"], overwrite=True)


def test_a_class_without_mask_stops_the_case(tmp_path: Path) -> None:
    scans = _scans()
    root = write_spine_generic(tmp_path / "in", scans)
    mask_path(root, scans[0], "label-canal_seg").unlink()
    problem = _only_skipped(_convert(tmp_path, classes=["cord", "canal"]))
    assert "without a mask of the canal" in problem.found


def test_an_image_that_is_stored_twice_is_refused(tmp_path: Path) -> None:
    scans = _scans()
    root = write_spine_generic(tmp_path / "in", scans)
    write_volume(scans[0].image, root / scans[0].place / f"{scans[0].stem}.nii")
    assert _only_skipped(_convert(tmp_path)).code == "E-PAIR-AMBIGUOUS"


def test_diffusion_series_are_refused_unless_an_average_is_taken(tmp_path: Path) -> None:
    scans = _scans(("rec-average_dwi", "T1w"))
    write_spine_generic(tmp_path / "in", scans, quirks=["series"])
    default = _convert(tmp_path)
    assert default.exit_code == 0, default.render()
    assert any("dwi (1)" in note for note in default.notes)
    every = _convert(tmp_path, contrasts=["dwi"], overwrite=True)
    assert (every.exit_code, len(every.rows)) == (0, len(SUBJECTS))
    assert any("1 diffusion series (4-D) left aside" in note for note in every.notes)


def test_a_diffusion_series_alone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(("T1w",)), quirks=["series"])
    problem = _only_skipped(_convert(tmp_path, contrasts=["T1w", "dwi"]))
    assert problem.code == "E-IN-DIM"
    assert "rec-average_dwi" in problem.fix


def test_a_4d_image_without_gradient_table_is_found_by_its_header(tmp_path: Path) -> None:
    root = write_spine_generic(tmp_path / "in", _scans(("T1w",)), quirks=["series"])
    series = root / "sub-unf01" / "dwi" / "sub-unf01_dwi.nii.gz"
    shutil.copy(series, image_path(root, _scan("unf01", "T1w")))
    assert _only_skipped(_convert(tmp_path)).code == "E-IN-DIM"


def test_facts_that_nobody_states_are_null(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=["no_participants", "no_sidecar"])
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    row = _table(result)["sub-unf01_T1w"]
    keys = ("site", "manufacturer", "model", "field_strength", "TR", "TE", "pathology")
    assert [row[key] for key in keys] == [None] * len(keys)
    assert _table(result)["sub-unf01_T2w"]["manufacturer"] == "SIEMENS"
    assert any("no participants.tsv" in note for note in result.notes)
    assert any("1 image(s) without a readable JSON file" in note for note in result.notes)


# --- bad masks ------------------------------------------------------------------------------------------------------


def test_a_mask_with_fewer_slices_is_refused_or_resampled(tmp_path: Path) -> None:
    scans = _scans()
    write_spine_generic(tmp_path / "in", scans, quirks=["fewer_slices"])
    result = _convert(tmp_path)
    problem = _only_skipped(result)
    assert (result.exit_code, problem.code) == (3, "E-GEOM-GRID")
    assert "--resample nearest" in problem.fix
    moved = _convert(tmp_path, resample="nearest", overwrite=True)
    assert moved.exit_code == 0, moved.render()
    written = read_volume(moved.folder / "labelsTr" / f"{scans[0].stem}.nii.gz").array
    np.testing.assert_array_equal(written[:, :, 1:-1], scans[0].cord.array[:, :, 1:-1])
    assert not written[:, :, [0, -1]].any()


def test_a_soft_mask_given_as_a_hard_one_is_refused(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=["soft_mask"])
    problem = _only_skipped(_convert(tmp_path))
    assert problem.code == "E-LABEL-VALUE"
    assert "1.06" in problem.found
    assert "threshold the mask" in problem.fix


def test_a_mask_of_several_structures_is_refused(tmp_path: Path) -> None:
    scans = _scans()
    root = write_spine_generic(tmp_path / "in", scans)
    write_volume(scans[0].cord.with_array(scans[0].cord.array * 2), mask_path(root, scans[0]))
    problem = _only_skipped(_convert(tmp_path))
    assert problem.code == "E-LABEL-UNKNOWN"
    assert f"2 ({int(scans[0].cord.array.sum())} voxels)" in problem.found


# --- masks made by a model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quirk", ["model_mask", "broken_model_sidecar"])
def test_masks_of_a_model_are_trained_on_and_never_validated(tmp_path: Path, quirk: str) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=[quirk])
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    row = _table(result)["sub-unf01_T1w"]
    said = "spinalcordtoolbox: sct_deepseg -task seg_sc_contrast_agnostic"
    assert (row["label_source"], row["label_made_by"], row["train_only"]) == ("model", {"cord": [said]}, True)
    assert result.splits is not None
    assert all("sub-unf01_T1w" not in split["val"] for split in result.splits)
    assert any("sub-unf01_T2w" in split["val"] for split in result.splits)
    assert any("1 case(s) with a mask made by a model" in note and "sct_deepseg" in note for note in result.notes)
    allowed = _convert(tmp_path, allow_model_labels=True, overwrite=True)
    assert allowed.splits is not None
    assert any("sub-unf01_T1w" in split["val"] for split in allowed.splits)


def test_a_mask_of_a_model_is_no_truth_for_a_test(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=["model_mask"])
    result = _convert(tmp_path, test_subjects=["unf01"])
    problem = _only_skipped(result)
    assert problem.code == "E-LABEL-MODEL"
    assert "seg_sc_contrast_agnostic" in problem.found
    assert "--allow-model-labels" in problem.fix
    assert [row.case_id for row in result.rows if row.kind == "test"] == ["sub-unf01_T2w"]
    allowed = _convert(tmp_path, test_subjects=["unf01"], allow_model_labels=True, overwrite=True)
    assert (allowed.exit_code, sum(row.kind == "test" for row in allowed.rows)) == (0, 2)


def test_a_corrected_mask_is_manual_and_a_silent_one_unknown(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=["corrected_mask"])
    corrected = _table(_convert(tmp_path))["sub-unf01_T1w"]
    assert (corrected["label_source"], corrected["label_made_by"]["cord"]) == ("manual", ["sct_deepseg_sc", "Manual"])
    sidecar_path(mask_path(tmp_path / "in", _scan("unf01", "T1w"))).unlink()
    silent = _convert(tmp_path, test_subjects=["unf01"], overwrite=True)
    assert _table(silent)["sub-unf01_T1w"]["label_source"] == "unknown"
    assert any("1 mask(s) do not say who made them" in note for note in silent.notes)


# --- subjects -------------------------------------------------------------------------------------------------------


def test_exclusions_by_site_by_section_and_what_they_do_not_find(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    lists = tmp_path / "exclude.yml"
    lists.write_text("csa_t1:\n- sub-unf01  # motion\ncsa_t2:\n- beijingVerio  # TR=2\n- sub-nobody09\n")
    result = _convert(tmp_path, exclude=[f"{lists}:csa_t2"])
    assert {row.subject for row in result.rows} == {"sub-unf01", "sub-amu02"}
    assert result.exit_code == 0
    assert any("2 subject(s) left out: sub-beijingVerio01, sub-beijingVerio02" in note for note in result.notes)
    assert any(note.startswith("warning: --exclude: 1 entries") and "sub-nobody09" in note for note in result.notes)
    every = _convert(tmp_path, exclude=[str(lists)], overwrite=True)
    assert {row.subject for row in every.rows} == {"sub-amu02"}


def test_a_file_in_an_exclusion_list_takes_its_subject_out(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    (tmp_path / "reg.yml").write_text("FILES_REG:\n- /mnt/x/data_processed/sub-unf01/sub-unf01_T2w.nii.gz # bad\n")
    result = _convert(tmp_path, exclude=[str(tmp_path / "reg.yml")])
    assert "sub-unf01" not in {row.subject for row in result.rows}


def test_inclusion_lists_name_subjects_sites_or_images(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    (tmp_path / "use.yml").write_text("mine:\n- beijingVerio\n- sub-unf01/anat/sub-unf01_T2w_seg-manual.nii.gz\n")
    result = _convert(tmp_path, include=[str(tmp_path / "use.yml")])
    found = {row.case_id for row in result.rows}
    assert found == {f"sub-beijingVerio0{k}_{c}" for k in (1, 2) for c in ("T1w", "T2w")} | {"sub-unf01_T2w"}


def test_the_frozen_test_list_and_who_of_it_is_absent(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    frozen, out = tmp_path / "frozen.yaml", tmp_path / "out.yml"
    frozen.write_text("# frozen\ntest:\n- sub-unf01\n- sub-barcelona06\n- sub-amu02\n")
    out.write_text("- sub-amu02\n")
    result = _convert(tmp_path, test_list=frozen, exclude=[str(out)])
    assert {row.subject for row in result.rows if row.kind == "test"} == {"sub-unf01"}
    assert any("1 subject(s) are not here: sub-barcelona06" in note for note in result.notes)
    assert any("1 test subject(s) are left out: sub-amu02" in note for note in result.notes)


def test_a_subject_in_two_lists_of_one_file_is_refused(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    (tmp_path / "split.yaml").write_text("test: [sub-unf01]\ntrain: [sub-amu02, sub-unf01]\nval: []\n")
    with pytest.raises(UsageError, match="in test and in train: sub-unf01"):
        _convert(tmp_path, test_list=tmp_path / "split.yaml")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"classes": ["chord"]}, "E-PAIR-CLASS"),
        ({"classes": ["cord", "cord"]}, "E-PAIR-CLASS"),
        ({"contrasts": ["T3w"]}, "E-PAIR-CONTRAST"),
        ({"derivatives": ["label"]}, "E-PAIR-SOURCE"),
        ({"source": Path("nowhere")}, "E-PAIR-SOURCE"),
        ({"test_subjects": ["nobody01"]}, "E-PAIR-SUBJECT"),
        ({"folds": 1}, "E-SPLIT-FOLDS"),
    ],
)
def test_wrong_wishes_start_nothing(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    write_spine_generic(tmp_path / "in", _scans(("T1w",), SUBJECTS[:2]))
    with pytest.raises(SpineExtError) as error:
        _convert(tmp_path, **changes)
    assert (error.value.code, error.value.exit_code) == (code, 2)
    assert not (tmp_path / "raw").exists()


def test_the_command(tmp_path: Path, nnunet_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    write_spine_generic(tmp_path / "in", _scans(), quirks=["model_mask"])
    arguments = ["spine_generic", str(tmp_path / "in"), "511", "--classes", "cord", "canal", "--contrasts", "T1w"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Dataset511_SpineGeneric: 4 case(s) of 4 subject(s): 3 train, 1 train only" in said
    assert "never validated or tested against" in said
    assert (nnunet_folders["nnUNet_raw"] / "Dataset511_SpineGeneric" / "dataset.json").is_file()
