"""`nnUNetv2_spine_convert spine_generic --soft`: averages of a subject's contrasts, and soft masks that lie there."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from layout_spine_generic import LayoutScan, mask_path, write_spine_generic
from nnunet_verdict import verify_with_nnunet

from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core.cases import DatasetSpec, RawCase
from nnunet_spine_ext.core.dataset import write_raw_dataset
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.soft_labels import read_classes
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spine_generic import spine_generic
from nnunet_spine_ext.dataset_conversion.spine_generic_cases import Found
from nnunet_spine_ext.dataset_conversion.spine_generic_soft import visible_shares, with_soft
from nnunet_spine_ext.soft.ground_truth import soft_ground_truth

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from soft_ground_truth import Contrast, mask_of

CONTRASTS = {
    "T1w": Contrast((1.0, 1.0, 1.0), 4.8, (1.3, -0.7), 30.0, 20.0),
    "T2w": Contrast((0.8, 0.8, 0.8), 5.0, (0.0, 0.0), 24.0, 22.0),
    "T2star": Contrast((0.9, 0.9, 5.0), 5.3, (-0.8, 0.6), 20.0, 25.0),
}
SUBJECTS = ("unf01", "amu02")


def _scan(subject: str, contrast: str) -> LayoutScan:
    cord = mask_of(CONTRASTS[contrast], wide_mm=34)
    rng = np.random.default_rng([*map(ord, subject + contrast)])
    return LayoutScan(
        subject, contrast, cord.with_array(rng.normal(400, 90, cord.shape).clip(1).astype(np.int16)), cord
    )


def _scans(contrasts: tuple[str, ...] = tuple(CONTRASTS), subjects: tuple[str, ...] = SUBJECTS) -> list[LayoutScan]:
    return [_scan(subject, contrast) for subject in subjects for contrast in contrasts]


def _convert(tmp_path: Path, **changes: Any) -> ConversionResult:
    folders = {"raw": tmp_path / "raw", "preprocessed": tmp_path / "pre", "soft": "average"}
    return spine_generic(tmp_path / "in", 511, **(folders | changes))


def _cases(result: ConversionResult) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads((result.folder / "cases.json").read_text())["cases"]
    return cases


def _soft(result: ConversionResult, case: str, kind: str = "Tr") -> Volume:
    return read_volume(result.folder / f"softLabels{kind}" / f"{case}.nii.gz")


# --- averages -------------------------------------------------------------------------------------------------------


def test_all_contrasts_of_a_subject_become_soft_labels(tmp_path: Path) -> None:
    scans = _scans()
    write_spine_generic(tmp_path / "in", scans)
    result = _convert(tmp_path, test_subjects=["amu02"])
    assert result.exit_code == 0, result.render()
    masks = {f"sub-unf01_{name}": _scan("unf01", name).cord for name in sorted(CONTRASTS)}
    masks = {name: mask.with_array(mask.array.astype(np.float32)) for name, mask in masks.items()}
    expected = soft_ground_truth(masks)
    for name, mask in masks.items():
        soft, hard = _soft(result, name), read_volume(result.folder / "labelsTr" / f"{name}.nii.gz")
        image = read_volume(result.folder / "imagesTr" / f"{name}_0000.nii.gz")
        assert soft.array.dtype == np.float32
        np.testing.assert_array_equal(soft.affine, image.affine)
        # Headers are stored in single precision.
        np.testing.assert_allclose(soft.array, expected.soft[name].array, atol=2e-5)
        valid = soft.array >= 0
        assert ((soft.array > 0.02) & (soft.array < 0.98)).sum() > 100
        np.testing.assert_array_equal(hard.array[valid], soft.array[valid] > 0.5)
        # Where nobody can say, the hard label stays what was drawn.
        np.testing.assert_array_equal(hard.array[~valid], mask.array[~valid])
    assert (_soft(result, "sub-unf01_T1w").array == -1).any()
    assert sorted(path.name for path in (result.folder / "softLabelsTs").iterdir()) == [
        f"sub-amu02_{name}.nii.gz" for name in sorted(CONTRASTS)
    ]
    verify_with_nnunet(result.folder)


def test_cases_json_says_what_a_soft_label_was_made_of(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans())
    row = _cases(_convert(tmp_path))["sub-unf01_T2star"]
    assert row["soft_labels"] is True
    assert row["soft"]["made_of"] == [f"sub-unf01_{name}" for name in ("T1w", "T2star", "T2w")]
    assert row["soft"]["reference"] == "sub-unf01_T2w"
    np.testing.assert_allclose(row["soft"]["shift_mm"], [0.8, -0.6], atol=0.2)
    assert row["soft"]["dice"] > 0.9
    roles = {source["role"]: source for source in row["sources"]}
    assert set(roles) == {"image_0000", "label", "soft-cord-sub-unf01_T1w", "soft-cord-sub-unf01_T2w"}
    assert all(len(source["sha256"]) == 64 for source in row["sources"])


def test_a_subject_with_one_contrast_has_hard_labels_and_it_is_said(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", [*_scans(subjects=("unf01",)), _scan("amu02", "T2w")])
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    assert not (result.folder / "softLabelsTr" / "sub-amu02_T2w.nii.gz").exists()
    assert "soft_labels" not in _cases(result)["sub-amu02_T2w"]
    assert any("1 of 4 case(s) have hard labels only" in note and "sub-amu02_T2w" in note for note in result.notes)


def test_sessions_are_not_averaged_with_one_another() -> None:
    def case(session: str, contrast: str) -> Candidate:
        name = f"sub-a_ses-{session}_{contrast}"
        image, mask = (
            Source(role, Path(f"{name}{end}.nii.gz"), name) for role, end in (("image_0000", ""), ("label", "_m"))
        )
        return Candidate(name, "a", (image,), mask, {})

    cases = [case(session, contrast) for session in ("1", "2") for contrast in ("T1w", "T2w")]
    found = with_soft(Found(cases), "average", Path(), ["cord"]).cases
    assert [[source.role for source in one.extras] for one in found] == [
        ["soft-cord-sub-a_ses-1_T2w"],
        ["soft-cord-sub-a_ses-1_T1w"],
        ["soft-cord-sub-a_ses-2_T2w"],
        ["soft-cord-sub-a_ses-2_T1w"],
    ]


def test_masks_of_models_are_no_part_of_an_average(tmp_path: Path) -> None:
    scans = _scans()
    write_spine_generic(tmp_path / "in", scans, quirks=["model_mask"])
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    cases = _cases(result)
    assert "soft_labels" not in cases["sub-unf01_T1w"]
    assert cases["sub-unf01_T2w"]["soft"]["made_of"] == ["sub-unf01_T2star", "sub-unf01_T2w"]
    used = _convert(tmp_path, allow_model_labels=True, overwrite=True)
    assert len(_cases(used)["sub-unf01_T2w"]["soft"]["made_of"]) == 3


def test_a_bad_mask_gets_no_soft_label_and_spoils_none(tmp_path: Path) -> None:
    scans = _scans(subjects=("unf01",))
    leak = mask_of(Contrast((1.0, 1.0, 1.0), 11.0, (1.3, -0.7), 30.0, 20.0), wide_mm=34)
    bad = LayoutScan("unf01", "T1w", scans[0].image, leak)
    write_spine_generic(tmp_path / "in", [bad, *scans[1:], _scan("amu02", "T2w")])
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    cases = _cases(result)
    assert "soft_labels" not in cases["sub-unf01_T1w"]
    assert list(cases["sub-unf01_T2w"]["soft"]["left_out"]) == ["sub-unf01_T1w"]
    row = next(row for row in result.rows if row.case_id == "sub-unf01_T1w")
    assert [warning.code for warning in row.warnings] == ["W-SOFT-OUTLIER"]
    hard = read_volume(result.folder / "labelsTr" / "sub-unf01_T1w.nii.gz")
    np.testing.assert_array_equal(hard.array, leak.array)


def test_a_subject_whose_masks_disagree_is_left_out_with_the_reason(tmp_path: Path) -> None:
    leak = mask_of(Contrast((1.0, 1.0, 1.0), 11.0, (1.3, -0.7), 30.0, 20.0), wide_mm=34)
    scans = _scans(("T1w", "T2w"))
    write_spine_generic(tmp_path / "in", [LayoutScan("unf01", "T1w", scans[0].image, leak), *scans[1:]])
    result = _convert(tmp_path)
    assert result.exit_code == 3
    assert {problem.code for problem in result.skipped} == {"E-SOFT-DISAGREE"}
    assert sorted(_cases(result)) == ["sub-amu02_T1w", "sub-amu02_T2w"]


def test_a_mask_on_another_grid_gives_a_soft_label_on_the_image(tmp_path: Path) -> None:
    scans = _scans(subjects=("unf01",))
    root = write_spine_generic(tmp_path / "in", [*scans, _scan("amu02", "T2w")])
    straight = _convert(tmp_path)
    path = mask_path(root, scans[0])
    # The same mask in a smaller field of view, and stored in another order of axes.
    mask = read_volume(path)
    write_volume(mask.crop((slice(6, 30), slice(6, 30), slice(0, 30))).to("PIR"), path)
    result = _convert(tmp_path, resample="nearest", overwrite=True)
    assert result.exit_code == 0, result.render()
    np.testing.assert_allclose(_soft(result, "sub-unf01_T1w").array, _soft(straight, "sub-unf01_T1w").array, atol=1e-4)


def test_a_run_that_was_ended_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.core.dataset import DatasetWriter

    write_spine_generic(tmp_path / "in", _scans())
    whole = _convert(tmp_path)
    expected = {path.name: path.read_bytes() for path in (whole.folder / "softLabelsTr").iterdir()}
    again = {"raw": tmp_path / "raw2", "preprocessed": tmp_path / "pre2"}
    add, count = DatasetWriter.add, [0]

    def dying(self: DatasetWriter, *args: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        add(self, *args, **options)

    monkeypatch.setattr(DatasetWriter, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        _convert(tmp_path, **again)
    monkeypatch.setattr(DatasetWriter, "add", add)
    result = _convert(tmp_path, resume=True, **again)
    assert result.resumed == 3
    assert {path.name: path.read_bytes() for path in (result.folder / "softLabelsTr").iterdir()} == expected


# --- soft masks that lie there --------------------------------------------------------------------------------------


def _write_soft(root: Path, scan: LayoutScan, ending: str = "label-SC_softseg", scale: float = 1.0) -> np.ndarray:
    soft = scan.cord.array.astype(np.float32) * np.float32(scale)
    inside = soft > 0
    soft[inside] *= np.random.default_rng(1).uniform(0.3, 1, inside.sum()).astype(np.float32)
    soft[:, :, :2] = 0
    write_volume(scan.cord.with_array(soft), mask_path(root, scan, ending, "labels_softseg"))
    return soft


def test_soft_masks_of_a_folder_are_taken_as_they_are(tmp_path: Path) -> None:
    scans = _scans(("T1w", "T2w"))
    root = write_spine_generic(tmp_path / "in", scans)
    stored = {scan.stem: _write_soft(root, scan) for scan in scans[:3]}
    result = _convert(tmp_path, soft="labels_softseg")
    assert result.exit_code == 0, result.render()
    for name, soft in stored.items():
        written = _soft(result, name).array
        # Slices without cord are outside of what was averaged.
        assert (written[:, :, :2] == -1).all()
        np.testing.assert_allclose(written[:, :, 2:], soft[:, :, 2:], atol=1e-6)
        hard = read_volume(result.folder / "labelsTr" / f"{name}.nii.gz").array
        np.testing.assert_array_equal(hard[:, :, 2:], soft[:, :, 2:] > 0.5)
    assert _cases(result)["sub-unf01_T1w"]["soft"] == {"method": "stored", "slices_ignored": 2}
    assert any("1 of 4 case(s) have hard labels only (no soft mask in labels_softseg)" in n for n in result.notes)


def test_soft_masks_above_one_are_clamped_and_others_refused(tmp_path: Path) -> None:
    scans = _scans(("T1w", "T2w"))
    root = write_spine_generic(tmp_path / "in", scans)
    for scan, scale in zip(scans, (1.06, 1.0, 100.0, 1.0), strict=True):
        _write_soft(root, scan, "softseg", scale)
    result = _convert(tmp_path, soft="labels_softseg")
    assert result.exit_code == 3
    assert [problem.code for problem in result.skipped] == ["E-SOFT-VALUE"]
    assert _soft(result, "sub-unf01_T1w").array.max() <= 1
    row = next(row for row in result.rows if row.case_id == "sub-unf01_T1w")
    assert [warning.code for warning in row.warnings] == ["W-SOFT-SCALE"]


def test_a_soft_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    scans = _scans(("T1w", "T2w"))
    root = write_spine_generic(tmp_path / "in", scans)
    for scan in scans:
        _write_soft(root, scan)
    path = mask_path(root, scans[0], "label-SC_softseg", "labels_softseg")
    write_volume(read_volume(path).crop((slice(2, 30), slice(0, 34), slice(0, 30))), path)
    result = _convert(tmp_path, soft="labels_softseg")
    assert [(problem.code, Path(problem.file)) for problem in result.skipped] == [("E-GEOM-GRID", path)]


# --- several classes ------------------------------------------------------------------------------------------------


def _with_canal(scan: LayoutScan) -> LayoutScan:
    wide = CONTRASTS[scan.contrast]
    canal = mask_of(replace(wide, radius=wide.radius + 3.2), wide_mm=34)
    return replace(scan, canal=canal)


def _classes(result: ConversionResult, case: str) -> np.ndarray:
    return read_classes(result.folder / "softLabelsTr" / f"{case}.nii.gz")[0]


def test_cord_and_canal_are_averaged_each_and_share_their_voxels(tmp_path: Path) -> None:
    scans = [_with_canal(scan) for scan in _scans()]
    write_spine_generic(tmp_path / "in", scans)
    result = _convert(tmp_path, classes=["cord", "canal"])
    assert result.exit_code == 0, result.render()
    case = "sub-unf01_T2w"
    cord, canal = _classes(result, case)
    known = cord >= 0
    np.testing.assert_array_equal(known, canal >= 0)
    alone = _convert(tmp_path, overwrite=True)
    np.testing.assert_allclose(cord[known], _soft(alone, case).array[known], atol=1e-6)
    filled = {scan.stem: scan.canal for scan in scans[:3]}
    whole = soft_ground_truth({n: m.with_array(m.array.astype(np.float32)) for n, m in filled.items()}).soft[case].array
    # Both together are the canal's own average; the ring between them is the canal's.
    np.testing.assert_allclose((cord + canal)[known], np.maximum(whole, cord)[known], atol=3e-5)
    assert ((canal > 0.02) & (canal < 0.98) & (cord > 0.02)).any()


def test_hard_labels_of_several_classes_are_what_takes_most_of_a_voxel(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", [_with_canal(scan) for scan in _scans(("T1w", "T2w"))])
    result = _convert(tmp_path, classes=["canal", "cord"])
    case = "sub-unf01_T1w"
    canal, cord = _classes(result, case)
    hard = read_volume(result.folder / "labelsTr" / f"{case}.nii.gz").array
    known = canal >= 0
    rest = 1 - canal - cord
    expected = np.where(np.maximum(canal, cord) > rest, np.where(canal >= cord, 1, 2), 0)
    np.testing.assert_array_equal(hard[known], expected[known])
    assert set(np.unique(hard)) == {0, 1, 2}
    facts = _cases(result)[case]["soft"]
    assert facts["method"] == "average"
    assert {name: len(one["made_of"]) for name, one in facts["classes"].items()} == {"canal": 2, "cord": 2}
    verify_with_nnunet(result.folder)


def test_a_case_without_a_soft_mask_of_every_class_has_hard_labels_only(tmp_path: Path) -> None:
    scans = [_with_canal(scan) for scan in _scans(("T1w", "T2w"))]
    root = write_spine_generic(tmp_path / "in", scans)
    for scan in scans:
        _write_soft(root, scan)
    for scan in scans[:2]:
        _write_soft(root, replace(scan, cord=scan.canal), "label-canal_softseg")
    result = _convert(tmp_path, soft="labels_softseg", classes=["cord", "canal"])
    assert result.exit_code == 0, result.render()
    names = sorted(path.name for path in (result.folder / "softLabelsTr").iterdir())
    assert names == [f"{scan.stem}.nii.gz" for scan in scans[:2]]
    assert any("2 of 4 case(s)" in n and "no soft mask of cord and canal each" in n for n in result.notes)
    cord, canal = _classes(result, scans[0].stem)
    assert (cord + canal <= 1 + 1e-6).all()


def test_shares_of_structures_within_one_another() -> None:
    masks = {"cord": [0.5, 1.0, 0.7, -1.0], "canal": [0.8, 1.0, 0.6, 1.0], "csf": [0.4, 0.0, 0.6, 0.0]}
    (cord, canal, csf), known = visible_shares({name: np.array(v, np.float32) for name, v in masks.items()})
    assert known.tolist() == [True, True, True, False]
    assert cord.tolist() == pytest.approx([0.5, 1.0, 0.7, -1.0])
    # What the cord leaves of a voxel is all that the CSF can have; the canal holds both.
    assert csf.tolist() == pytest.approx([0.4, 0.0, 0.3, -1.0])
    assert canal.tolist() == pytest.approx([0.0, 0.0, 0.0, -1.0])


# --- usage ----------------------------------------------------------------------------------------------------------


def test_wrong_wishes_are_usage_errors(tmp_path: Path) -> None:
    write_spine_generic(tmp_path / "in", _scans(("T1w", "T2w")))
    with pytest.raises(UsageError, match="E-PAIR-SOURCE") as caught:
        _convert(tmp_path, soft="label_softseg")
    assert "label_softseg" in str(caught.value)


def test_the_command_has_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spine_generic(tmp_path / "in", _scans(("T1w", "T2w")))
    environment = {"nnUNet_raw": tmp_path / "raw", "nnUNet_preprocessed": tmp_path / "pre"}
    with pytest.MonkeyPatch.context() as patch:
        for key, folder in environment.items():
            patch.setenv(key, str(folder))
        assert main(["spine_generic", str(tmp_path / "in"), "512", "--soft", "average", "--dry-run"]) == 0
        assert not (tmp_path / "raw").exists()
        assert main(["spine_generic", str(tmp_path / "in"), "512", "--soft", "average"]) == 0
    assert (tmp_path / "raw" / "Dataset512_SpineGeneric" / "softLabelsTr" / "sub-unf01_T1w.nii.gz").exists()


# --- the writer -----------------------------------------------------------------------------------------------------


def _raw(soft: list[np.ndarray], *, labelled: bool = True) -> RawCase:
    image = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    label = image.with_array(np.zeros((4, 4, 4), np.uint8)) if labelled else None
    return RawCase("a", "s", [image], label, soft=[Volume(array, np.eye(4)) for array in soft])


def test_several_classes_share_one_file(tmp_path: Path) -> None:
    spec = DatasetSpec(5, "Two", {0: "MRI"}, {"cord": 1, "canal": 2})
    first, second = np.full((4, 4, 4), 0.25), np.full((4, 4, 4), -1.0)
    folder = write_raw_dataset(tmp_path, spec, [_raw([first, second])])
    stored = np.asarray(nib.load(folder / "softLabelsTr" / "a.nii.gz").dataobj)
    assert stored.shape == (4, 4, 4, 2)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored[..., 0], first)
    np.testing.assert_array_equal(stored[..., 1], second)


@pytest.mark.parametrize(
    "case",
    [
        _raw([np.full((4, 4, 4), 1.5)]),
        _raw([np.full((4, 4, 4), np.nan)]),
        _raw([np.full((4, 4, 4), -0.5)]),
        _raw([np.zeros((4, 4, 4)), np.zeros((4, 4, 4))]),
        _raw([np.zeros((4, 4, 4))], labelled=False),
    ],
)
def test_the_writer_refuses_what_is_no_soft_label(case: RawCase, tmp_path: Path) -> None:
    spec = DatasetSpec(5, "One", {0: "MRI"}, {"cord": 1}, ignore=True)
    with pytest.raises(CaseError, match="E-CASE-SOFT"):
        write_raw_dataset(tmp_path, spec, [case])


def test_the_writer_refuses_soft_labels_on_another_grid(tmp_path: Path) -> None:
    spec = DatasetSpec(5, "One", {0: "MRI"}, {"cord": 1})
    with pytest.raises(CaseError, match="E-GEOM-GRID"):
        write_raw_dataset(tmp_path, spec, [_raw([np.zeros((4, 4, 3))])])
