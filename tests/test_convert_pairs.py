"""`nnUNetv2_spine_convert pairs`: pairing, label maps, bad input, and what nnU-Net says about the result."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import FILE_KINDS, make_bad
from nnunet_verdict import verify_with_nnunet

from nnunet_spine_ext.check.datasets import inspect_dataset
from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.dataset_conversion.labelmap import from_ids, parse_label_map
from nnunet_spine_ext.dataset_conversion.pairs import pairs
from nnunet_spine_ext.dataset_conversion.patterns import Pattern
from nnunet_spine_ext.dataset_conversion.report import ConversionResult, without_folders

SHAPE = (12, 10, 8)
AFFINE = np.array([[0, 0, 2.0, -10], [-1.5, 0, 0, 20], [0, 1.0, 0, 5], [0, 0, 0, 1]])


def _image(path: Path, seed: int = 0, affine: np.ndarray = AFFINE, shape: tuple[int, ...] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(400, 90, shape).clip(0).astype(np.int16)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def _mask(path: Path, ids: tuple[float, ...] = (1,), dtype: Any = np.uint8, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(SHAPE, dtype=dtype)
    for k, number in enumerate(ids):
        array[2 + 2 * k : 4 + 2 * k, 3:7, 2:6] = number
    nib.save(nib.Nifti1Image(array, affine, dtype=dtype), path)
    return path


def _source(folder: Path, subjects: tuple[str, ...] = ("anna", "bert", "cleo"), ids: tuple[int, ...] = (1,)) -> Path:
    for k, subject in enumerate(subjects):
        _image(folder / subject / "t2.nii.gz", k)
        _mask(folder / subject / "t2_seg.nii.gz", ids)
    return folder


def _convert(tmp_path: Path, **changes: Any) -> ConversionResult:
    base: dict[str, Any] = {
        "dataset_id": 501,
        "name": "Toy",
        "images": [str(tmp_path / "in" / "*" / "t2.nii.gz")],
        "labels": [str(tmp_path / "in" / "*" / "t2_seg.nii.gz")],
        "raw": tmp_path / "raw",
        "preprocessed": tmp_path / "pre",
    }
    return pairs(**(base | changes))


def _table(result: ConversionResult) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads((result.folder / "cases.json").read_text())["cases"]
    return cases


def _nothing_written(tmp_path: Path) -> bool:
    return not any(
        path for name in ("raw", "pre") if (tmp_path / name).is_dir() for path in (tmp_path / name).iterdir()
    )


# --- good input -----------------------------------------------------------------------------------------------------


def test_pairs_make_a_dataset_that_nnunet_accepts(tmp_path: Path) -> None:
    _source(tmp_path / "in", ("anna", "bert", "cleo", "dora"), ids=(3, 7))
    for k in range(2):
        _image(tmp_path / "other" / f"x{k}.nii.gz", 10 + k)
    result = _convert(
        tmp_path,
        label_map=["cord=7", "canal=3"],
        contrast=["T2w"],
        unlabelled=[str(tmp_path / "other")],
        test_subjects=["dora"],
        folds=3,
    )
    assert result.exit_code == 0, result.render()
    assert result.folder == tmp_path / "raw" / "Dataset501_Toy"
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "cord": 1, "canal": 2, "ignore": 3}
    assert description["numTraining"] == 5
    cases = _table(result)
    assert {case: row["labelled"] for case, row in cases.items()} == {
        "anna": True, "bert": True, "cleo": True, "dora": True, "x0": False, "x1": False,
    }  # fmt: skip
    assert cases["anna"]["contrast"] == "T2w"
    source = cases["anna"]["sources"][1]
    assert (source["role"], source["file"]) == ("label", "anna/t2_seg.nii.gz")
    assert source["sha256"] == hashlib.sha256((tmp_path / "in/anna/t2_seg.nii.gz").read_bytes()).hexdigest()
    splits = json.loads((tmp_path / "pre" / "Dataset501_Toy" / "splits_final.json").read_text())
    assert sorted(case for split in splits for case in split["val"]) == ["anna", "bert", "cleo"]
    assert all({"x0", "x1"} <= set(split["train"]) for split in splits)
    mask = read_volume(result.folder / "labelsTr" / "anna.nii.gz").array
    assert {int(k): int((mask == k).sum()) for k in np.unique(mask)} == {0: 960 - 64, 1: 32, 2: 32}
    assert set(np.unique(read_volume(result.folder / "labelsTr" / "x0.nii.gz").array)) == {3}
    assert (result.folder / "labelsTs" / "dora.nii.gz").is_file()
    assert inspect_dataset(result.folder).ok
    verify_with_nnunet(result.folder)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    trees = []
    for root in ("a", "b"):
        folder = _convert(tmp_path, raw=tmp_path / root, preprocessed=tmp_path / f"pre-{root}").folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        trees.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert trees[0] == trees[1]


def test_the_report_does_not_tell_where_the_sources_lie(tmp_path: Path) -> None:
    source = _source(tmp_path / "home" / "jane" / "in")
    (source / "bert" / "t2_seg.nii.gz").unlink()
    far = AFFINE.copy()
    far[0, 3] += 5e-4
    _mask(source / "anna" / "t2_seg.nii.gz", affine=far)
    label_map = tmp_path / "home" / "jane" / "map.json"
    label_map.write_text('{"cord": 1}')
    images, labels = f"{source}/*/t2.nii.gz", f"{source}/*/t2_seg.nii.gz"
    result = _convert(tmp_path, images=[images], labels=[labels], label_map=[str(label_map)])
    text = (result.folder / "conversion.json").read_text()
    assert "jane" not in text
    kept = json.loads(text)
    assert (kept["options"]["images"], kept["options"]["label_map"]) == (["*/t2.nii.gz"], ["map.json"])
    assert [(row["file"], row["expected"]) for row in kept["skipped"]] == [("bert/t2.nii.gz", "bert/t2_seg.nii.gz")]
    assert kept["used"][0]["warnings"][0]["file"] == "anna/t2_seg.nii.gz"
    assert "jane" not in (result.folder / "cases.json").read_text()
    # The console and --json name whole paths.
    assert result.to_dict()["skipped"][0]["file"] == str(source / "bert" / "t2.nii.gz")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/a/b/c.nii", "c.nii"),
        ("in /a/b: git annex get x", "in .: git annex get x"),
        ("look at /a/b/, and '/a/b//x/y'", "look at ., and 'x/y'"),
        ("/a/bc/d: not /x/a/b/d", "/a/bc/d: not /x/a/b/d"),
        ("in in/x.nii the in", "in x.nii the in"),
        ("/else/where/list.txt", "list.txt"),
        ([{"k": "/a/b"}, 5, None], [{"k": "."}, 5, None]),
    ],
)
def test_folders_are_cut_off(text: Any, kept: Any) -> None:
    assert without_folders(text, {"/a/b", "in", ""}) == kept


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _source(tmp_path / "in")
    (tmp_path / "in" / "anna" / "t2_seg.nii.gz").unlink()
    arguments = ["pairs", "501", "--name", "Toy", "--dry-run", "--raw", str(tmp_path / "raw")]
    arguments += ["--preprocessed", str(tmp_path / "pre"), "--label-map", "cord=1"]
    arguments += ["--images", str(tmp_path / "in/*/t2.nii.gz"), "--labels", str(tmp_path / "in/*/t2_seg.nii.gz")]
    assert main(arguments) == 3
    said = capsys.readouterr().out
    for words in ("bert  subject bert  train", "1 cord", "2 folds by subject", "5 asked for", "E-PAIR-NOMASK", "anna"):
        assert words in said
    assert "nothing was written" in said
    assert not (tmp_path / "raw").exists()
    assert not (tmp_path / "pre").exists()
    assert main([*arguments[:4], *arguments[5:], "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], answer["exit_code"], len(answer["used"])) == (True, 3, 2)


def test_folders_come_from_the_environment(tmp_path: Path, nnunet_folders: dict[str, Path]) -> None:
    _source(tmp_path / "in")
    result = _convert(tmp_path, raw=None, preprocessed=None)
    assert result.folder.parent == nnunet_folders["nnUNet_raw"]
    assert (nnunet_folders["nnUNet_preprocessed"] / "Dataset501_Toy" / "cases.json").is_file()


def test_without_folders_the_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SetupError, match="nnUNet_preprocessed") as caught:
        _convert(tmp_path, preprocessed=None)
    assert caught.value.exit_code == 5


def test_formats_and_orientations_mix(tmp_path: Path) -> None:
    _source(tmp_path / "in", ("anna",))
    bert = tmp_path / "in" / "bert"
    bert.mkdir()
    array = np.random.default_rng(5).normal(300, 50, SHAPE[::-1]).astype(np.float32)
    image, mask = sitk.GetImageFromArray(array), sitk.GetImageFromArray((array > 300).astype(np.uint8))
    for stored in (image, mask):
        stored.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(bert / "t2.mha"))
    # The same mask in another orientation: turned back without interpolation.
    sitk.WriteImage(sitk.DICOMOrient(mask, "PSR"), str(bert / "t2_seg.nii.gz"))
    result = _convert(tmp_path, images=[str(tmp_path / "in/*/t2.*")], labels=[str(tmp_path / "in/*/t2_seg.*")])
    assert result.exit_code == 0, result.render()
    written = read_volume(result.folder / "imagesTr" / "bert_0000.nii.gz")
    label = read_volume(result.folder / "labelsTr" / "bert.nii.gz")
    np.testing.assert_array_equal(label.affine, written.affine)
    np.testing.assert_array_equal(label.array, written.array > 300)


def test_a_mask_within_tolerance_takes_the_images_affine_with_a_warning(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    moved = AFFINE.copy()
    moved[2, 3] += 5e-4
    _mask(tmp_path / "in" / "bert" / "t2_seg.nii.gz", affine=moved)
    result = _convert(tmp_path)
    assert result.exit_code == 0
    assert [p.code for row in result.rows for p in row.warnings] == ["W-GEOM-GRID"]
    assert "W-GEOM-GRID" in result.render()
    stored = [nib.load(result.folder / name / "bert_0000.nii.gz").affine for name in ("imagesTr",)]
    np.testing.assert_array_equal(stored[0], nib.load(result.folder / "labelsTr" / "bert.nii.gz").affine)


def test_float_masks_with_whole_numbers_are_accepted(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    _mask(tmp_path / "in" / "bert" / "t2_seg.nii.gz", dtype=np.float32)
    result = _convert(tmp_path)
    assert result.exit_code == 0
    assert nib.load(result.folder / "labelsTr" / "bert.nii.gz").get_data_dtype() == np.uint8


def test_resample_nearest_is_explicit(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    coarse = tmp_path / "in" / "bert" / "t2_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])), coarse)
    refused = _convert(tmp_path, name="No")
    assert [(p.code, p.file) for p in refused.skipped] == [("E-GEOM-GRID", str(coarse))]
    assert "--resample nearest" in refused.skipped[0].fix
    result = _convert(tmp_path, dataset_id=502, resample="nearest")
    assert result.exit_code == 0
    assert [p.code for row in result.rows for p in row.warnings] == ["W-GEOM-RESAMPLED"]
    mask = read_volume(result.folder / "labelsTr" / "bert.nii.gz")
    assert mask.shape == SHAPE
    assert (mask.array[:11, :9, :7] == 1).all()


def test_several_sources_and_contrasts(tmp_path: Path) -> None:
    folder = _source(tmp_path / "in")
    for k, subject in enumerate(("anna", "bert")):
        _image(folder / subject / "t1.nii.gz", 20 + k)
        _mask(folder / subject / "t1_seg.nii.gz")
    _image(tmp_path / "single" / "scan.nii.gz", 30)
    _mask(tmp_path / "single" / "mask.nii.gz")
    result = _convert(
        tmp_path,
        images=[f"{folder}/*/t2.nii.gz", f"{folder}/*/t1.nii.gz", f"{tmp_path}/single/scan.nii.gz{{subject=dora}}"],
        labels=[f"{folder}/*/t2_seg.nii.gz", f"{folder}/*/t1_seg.nii.gz", f"{tmp_path}/single/mask.nii.gz{{site=A}}"],
        contrast=["T2w", "T1w", "T2w"],
        train_only=["dora"],
    )
    assert result.exit_code == 0, result.render()
    cases = _table(result)
    assert {case: row["subject"] for case, row in cases.items()} == {
        "anna_T1w": "anna", "anna_T2w": "anna", "bert_T1w": "bert", "bert_T2w": "bert", "cleo_T2w": "cleo",
        "dora_T2w": "dora",
    }  # fmt: skip
    assert cases["anna_T1w"]["contrast"] == "T1w"
    assert (cases["dora_T2w"]["site"], cases["dora_T2w"]["train_only"]) == ("A", True)
    splits = json.loads((result.folder / "splits_final.json").read_text())
    assert len(splits) == 3
    assert all("dora_T2w" in split["train"] for split in splits)


def test_channels_make_one_case(tmp_path: Path) -> None:
    folder = _source(tmp_path / "in")
    for k, subject in enumerate(("anna", "bert", "cleo")):
        _image(folder / subject / "t1.nii.gz", 20 + k)
    two = {"channel_name": ["T2w", "T1w"], "images": [f"{folder}/*/t2.nii.gz", f"{folder}/*/t1.nii.gz"]}
    result = _convert(tmp_path, **two)
    assert result.exit_code == 0
    assert len(list((result.folder / "imagesTr").iterdir())) == 6
    verify_with_nnunet(result.folder)
    (folder / "bert" / "t1.nii.gz").unlink()
    moved = AFFINE.copy()
    moved[0, 3] += 4
    _image(folder / "cleo" / "t1.nii.gz", affine=moved)
    found = {p.code: p for p in _convert(tmp_path, dataset_id=502, **two).skipped}
    assert found["E-CASE-CHANNELS"].expected == str(folder / "bert" / "t1.nii.gz")
    assert "image_0000, label" in found["E-CASE-CHANNELS"].found
    assert found["E-GEOM-GRID"].file == str(folder / "cleo" / "t1.nii.gz")
    assert "4 mm" in found["E-GEOM-GRID"].found


def test_acquisition_facts_come_from_the_sidecar(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    facts = {"Manufacturer": "Siemens", "MagneticFieldStrength": 3, "EchoTime": 0.1, "PatientName": "Anna Example"}
    (tmp_path / "in" / "anna" / "t2.json").write_text(json.dumps(facts))
    row = _table(_convert(tmp_path))["anna"]
    assert (row["manufacturer"], row["field_strength"], row["TE"], row["TR"]) == ("Siemens", 3, 100.0, None)
    assert "Example" not in json.dumps(row)


def test_images_without_masks_can_be_the_unlabelled_ones(tmp_path: Path) -> None:
    folder = _source(tmp_path / "in")
    _image(folder / "dora" / "t2.nii.gz", 9)
    pattern = f"{folder}/*/t2.nii.gz"
    result = _convert(tmp_path, unlabelled=[pattern])
    assert result.exit_code == 0, result.render()
    assert {row.case_id: row.kind for row in result.rows} == {
        "anna": "train", "bert": "train", "cleo": "train", "dora": "unlabelled",
    }  # fmt: skip


@pytest.mark.parametrize("folder_name", ["with space", "ümläut-脊", "$HOME", "a'b"])
def test_paths_with_strange_characters_work(tmp_path: Path, folder_name: str) -> None:
    folder = _source(tmp_path / folder_name, ("Jörg Ä", "bert(2)"))
    pattern = f"{folder}/*/t2.nii.gz"
    result = _convert(tmp_path, images=[pattern], labels=[f"{folder}/*/t2_seg.nii.gz"])
    assert sorted(row.case_id for row in result.rows) == ["Jorg-A", "bert-2"]
    assert sorted(row.subject for row in result.rows) == ["Jörg Ä", "bert(2)"]


# --- subjects and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "pattern", "subject_pattern", "expected"),
    [
        ("sub-01/ses-1/anat/sub-01_ses-1_T2w", "*/*/anat/*_T2w", None, ("sub-01", "sub-01_ses-1_sub-01_ses-1")),
        ("sub-01/anat/sub-01_T2w", "{subject}/anat/{subject}_T2w", None, ("sub-01", "sub-01")),
        ("siteA/p7/scan", "*/*/scan", "2", ("p7", "siteA_p7")),
        ("siteA/p7/scan", "{site}/{subject}/scan", None, ("p7", "siteA_p7")),
        ("x/p7_day2", "x/*", r"(p\d+)_", ("p7", "p7_day2")),
        ("x/p7_day2", "x/*", r"(?P<subject>p\d+)_(day)", ("p7", "p7_day2")),
        ("a/b/c/p7", "**/*", None, ("a", "a_b_c_p7")),
        ("a/b/c/p7", "**/{subject}", None, ("p7", "a_b_c_p7")),
    ],
)
def test_subject_and_case_id(
    tmp_path: Path, files: str, pattern: str, subject_pattern: str | None, expected: tuple[str, str]
) -> None:
    _image(tmp_path / "in" / f"{files}.nii.gz")
    _mask(tmp_path / "seg" / f"{files}.nii.gz")
    result = _convert(
        tmp_path,
        images=[f"{tmp_path}/in/{pattern}.nii.gz"],
        labels=[f"{tmp_path}/seg/{pattern}.nii.gz"],
        subject_pattern=subject_pattern,
        dry_run=True,
    )
    assert [(row.subject, row.case_id) for row in result.rows] == [expected], result.render()


def test_a_long_case_id_is_cut_and_stays_unique(tmp_path: Path) -> None:
    _source(tmp_path / "in", ("x" * 190 + "a", "x" * 190 + "b"))
    result = _convert(tmp_path)
    assert result.exit_code == 0
    assert len({row.case_id for row in result.rows}) == 2
    assert max(len(row.case_id) for row in result.rows) < 180


def test_pattern_matches_are_sorted_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b/t.nii.gz", "a/t.nii.gz", ".c/t.nii.gz", "a/.t.nii.gz", "a/t.txt", "a1/t.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {text: [m.relative for m in Pattern.parse(f"{tmp_path}/{text}").matches()] for text in (
        "*/t.nii.gz", "[!b]*/*", "a?/t.*", "**/*.txt", "{x}/t.nii.gz", "**",
    )}  # fmt: skip
    assert found == {
        "*/t.nii.gz": ["a/t.nii.gz", "a1/t.nii.gz", "b/t.nii.gz"],
        "[!b]*/*": ["a/t.nii.gz", "a1/t.nii.gz"],
        "a?/t.*": ["a1/t.nii.gz"],
        "**/*.txt": ["a/t.txt"],
        "{x}/t.nii.gz": ["a/t.nii.gz", "a1/t.nii.gz", "b/t.nii.gz"],
        "**": ["a/t.nii.gz", "a1/t.nii.gz", "b/t.nii.gz"],
    }


# --- label maps -----------------------------------------------------------------------------------------------------


def test_label_maps(tmp_path: Path) -> None:
    spineps = parse_label_map(["spineps:nnunet14"])
    assert spineps.scheme == "nnunet14"
    assert spineps.table[60] == 11
    assert spineps.table[50] == spineps.table[51] == 10
    assert spineps.sided_labels == ((4, 5), (6, 7), (8, 9))
    assert spineps.lost
    assert parse_label_map(["nnunet14"]).table == {n: n for n in range(1, 15)}
    custom = parse_label_map(["left horn=5", "Right Horn=2,3", "background=9"])
    assert custom.labels == {"left horn": 1, "Right Horn": 2}
    assert custom.table == {5: 1, 2: 2, 3: 2, 9: 0}
    assert custom.sided_labels == ((1, 2),)
    (tmp_path / "map.yaml").write_text("labels: {cord: [1, 4], l: 2, r: 3}\nsided: [[l, r]]\n")
    from_file = parse_label_map([str(tmp_path / "map.yaml")])
    assert from_file.table == {1: 1, 4: 1, 2: 2, 3: 3}
    assert from_file.sided_labels == ((2, 3),)
    (tmp_path / "flat.yaml").write_text("cord: 1\n")
    assert parse_label_map([str(tmp_path / "flat.yaml")]).labels == {"cord": 1}
    assert from_ids([0, 49, 7]).table == {7: 1, 49: 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cord"], "unknown label scheme"),
        (["spineps:spider"], "no such mapping"),
        (["cord=1", "cord=2"], "each name once"),
        (["cord=x"], "whole numbers"),
        (["cord=-1"], "0 or more"),
        (["cord=1", "canal=1"], "two classes"),
        (["cord=0"], "the background"),
        (["background=3"], "no class"),
        (["ignore=3"], "called ignore"),
        (["/no/such.yaml"], "no such file"),
    ],
)
def test_wrong_label_maps_are_usage_errors(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_label_map(words)


def test_without_a_label_map_ids_are_renumbered(tmp_path: Path) -> None:
    _source(tmp_path / "in", ids=(100, 49))
    result = _convert(tmp_path)
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "label_49": 1, "label_100": 2}
    assert {tuple(row.voxels.items()) for row in result.rows} == {((1, 32), (2, 32))}


# --- bad input: the file is named, siblings are processed, nothing is left under a final name ------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rewrite(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def _nan(path: Path) -> None:
    array = np.random.default_rng(0).normal(300, 50, SHAPE).astype(np.float32)
    array[3, 3, 3] = np.nan
    _rewrite(path, array)


def _rgb(path: Path) -> None:
    _rewrite(path, np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _sheared(path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] += 0.3
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16), None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nib.save(image, path)


def _conflict(path: Path) -> None:
    image = nib.load(path)
    moved = AFFINE.copy()
    moved[0, 3] += 7
    image.set_qform(moved, 1)
    path.write_bytes(gzip.compress(image.to_bytes()))


def _zero_pixdim(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:84] = bytes(4)  # pixdim[1]
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(gzip.compress(bytes(content)))


def _pointer(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/yy/SHA256E-s5--abc.nii.gz")


IMAGE_FAULTS = [
    (_truncate, "E-IN-TRUNCATED"),
    (lambda path: path.write_bytes(b""), "E-IN-EMPTY"),
    (lambda path: path.write_text("<html>please log in</html>"), "E-IN-FORMAT"),
    (_pointer, "E-IN-POINTER"),
    (_nan, "E-INT-NONFINITE"),
    (_rgb, "E-IN-DTYPE"),
    (lambda path: _rewrite(path, np.random.default_rng(0).normal(9, 2, (*SHAPE, 3)).astype("f4")), "E-IN-DIM"),
    (_sheared, "E-GEOM-SHEAR"),
    (_conflict, "E-GEOM-CONFLICT"),
    (_zero_pixdim, "E-GEOM-PIXDIM"),
    (lambda path: _rewrite(path, np.full(SHAPE, 7, np.int16)), "E-INT-CONSTANT"),
]

MASK_FAULTS = [
    (_truncate, "E-IN-TRUNCATED", ""),
    (lambda path: _mask(path, (1.0001,), np.float32), "E-LABEL-VALUE", "1.0001 (32 voxels)"),
    (lambda path: _mask(path, (-1,), np.int16), "E-LABEL-VALUE", "-1 (32 voxels)"),
    (lambda path: _mask(path, (1, 300), np.int32), "E-LABEL-UNKNOWN", "300 (32 voxels)"),
    (lambda path: _mask(path, affine=AFFINE @ np.diag([1.01, 1, 1, 1])), "E-GEOM-GRID", "mm from the image"),
    (lambda path: _rewrite(path, np.ones((5, 5, 5), np.uint8)), "E-GEOM-GRID", "(5, 5, 5)"),
    (lambda path: path.unlink(), "E-PAIR-NOMASK", "without a mask"),
]


# Kinds that a pattern such as `*/t2.*` finds once the file is called t2: files and links with an image's suffix.
FOUND_KINDS = sorted(
    set(FILE_KINDS) - {"missing", "missing_folder", "name_too_long", "directory", "unknown_suffix", "link_to_itself"}
)
# NaN is a warning in prediction and an error in training data.
REFUSED_KINDS = [kind for kind in FOUND_KINDS if FILE_KINDS[kind].startswith("E-") or kind in ("nan", "inf")]
USABLE_KINDS = [kind for kind in FOUND_KINDS if kind not in REFUSED_KINDS and kind != "odd_name"]


def _bad_bert(tmp_path: Path, kind: str) -> Path:
    """Convertible cases anna and cleo, and bert with a bad image; returns that image."""
    _source(tmp_path / "in", ("anna", "cleo"))
    bad = make_bad(kind, tmp_path / "bad")
    scan = tmp_path / "in" / "bert" / bad.name.replace("bad.", "t2.")
    scan.parent.mkdir()
    return bad.rename(scan)


def _convert_any_suffix(tmp_path: Path) -> ConversionResult:
    return _convert(tmp_path, images=[f"{tmp_path}/in/*/t2.*"], labels=[f"{tmp_path}/in/*/t2_seg.*"])


@pytest.mark.parametrize("kind", REFUSED_KINDS)
def test_every_file_that_the_gatekeeper_refuses_is_a_skipped_case(tmp_path: Path, kind: str) -> None:
    scan = _bad_bert(tmp_path, kind)
    if kind == "unreadable" and os.access(scan, os.R_OK):
        pytest.skip("root may read everything")
    _mask(scan.parent / "t2_seg.nii.gz")
    error = next(problem for problem in inspect(scan, role="training").problems if problem.severity == "error")
    _assert_only_bert_failed(tmp_path, _convert_any_suffix(tmp_path), error.code, scan.name)


@pytest.mark.parametrize("kind", USABLE_KINDS)
def test_every_file_that_the_gatekeeper_lets_pass_is_converted(tmp_path: Path, kind: str) -> None:
    scan = _bad_bert(tmp_path, kind)
    image = read_volume(scan)
    write_volume(image.with_array((image.array > 90).astype(np.uint8)), scan.parent / "t2_seg.nii.gz")
    result = _convert_any_suffix(tmp_path)
    assert result.exit_code == 0, result.render()
    said = [problem.code for row in result.rows for problem in row.warnings]
    assert said == ([FILE_KINDS[kind]] if FILE_KINDS[kind] else [])
    np.testing.assert_array_equal(read_volume(result.folder / "imagesTr" / "bert_0000.nii.gz").array, image.array)


def _assert_only_bert_failed(tmp_path: Path, result: ConversionResult, code: str, file: str) -> None:
    assert [problem.code for problem in result.skipped] == [code], result.render()
    problem = result.skipped[0]
    assert problem.file == str(tmp_path / "in" / "bert" / file)
    assert problem.found
    assert problem.expected
    assert problem.fix
    assert result.exit_code == 3
    assert sorted(p.name for p in (result.folder / "imagesTr").iterdir()) == ["anna_0000.nii.gz", "cleo_0000.nii.gz"]
    assert sorted(p.name for p in (result.folder / "labelsTr").iterdir()) == ["anna.nii.gz", "cleo.nii.gz"]
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset501_Toy"]
    kept = json.loads((result.folder / "conversion.json").read_text())["skipped"]
    assert [row["code"] for row in kept] == [one.code for one in result.skipped]
    assert str(tmp_path) not in json.dumps(kept)
    assert inspect_dataset(result.folder).ok


@pytest.mark.parametrize(("spoil", "code"), IMAGE_FAULTS, ids=[code for _, code in IMAGE_FAULTS])
def test_a_bad_image_is_named_and_its_siblings_are_converted(tmp_path: Path, spoil: Any, code: str) -> None:
    _source(tmp_path / "in")
    spoil(tmp_path / "in" / "bert" / "t2.nii.gz")
    _assert_only_bert_failed(tmp_path, _convert(tmp_path, label_map=["cord=1"]), code, "t2.nii.gz")


@pytest.mark.parametrize(("spoil", "code", "words"), MASK_FAULTS)
def test_a_bad_mask_is_named_and_its_siblings_are_converted(tmp_path: Path, spoil: Any, code: str, words: str) -> None:
    _source(tmp_path / "in")
    spoil(tmp_path / "in" / "bert" / "t2_seg.nii.gz")
    result = _convert(tmp_path, label_map=["cord=1"])
    file = "t2.nii.gz" if code == "E-PAIR-NOMASK" else "t2_seg.nii.gz"
    _assert_only_bert_failed(tmp_path, result, code, file)
    assert words in result.skipped[0].found


def test_prefer_settles_a_conflict(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    _conflict(tmp_path / "in" / "bert" / "t2.nii.gz")
    by_sform = _convert(tmp_path, prefer="sform")
    assert by_sform.exit_code == 0, by_sform.render()
    np.testing.assert_allclose(read_volume(by_sform.folder / "imagesTr" / "bert_0000.nii.gz").affine, AFFINE)
    by_qform = _convert(tmp_path, dataset_id=502, prefer="qform")
    assert [problem.code for problem in by_qform.skipped] == ["E-GEOM-GRID"]
    assert "7 mm" in by_qform.skipped[0].found


def test_strict_turns_warnings_into_skipped_cases(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    _mask(tmp_path / "in" / "bert" / "t2_seg.nii.gz", ids=())
    loose = _convert(tmp_path)
    assert loose.exit_code == 0
    assert [p.code for row in loose.rows for p in row.warnings] == ["W-LABEL-EMPTY"]
    strict = _convert(tmp_path, dataset_id=502, strict=True)
    assert [(p.code, p.severity) for p in strict.skipped] == [("W-LABEL-EMPTY", "error")]
    assert strict.exit_code == 3


def test_only_empty_masks_are_no_input(tmp_path: Path) -> None:
    for k, subject in enumerate(("anna", "bert")):
        _image(tmp_path / "in" / subject / "t2.nii.gz", k)
        _mask(tmp_path / "in" / subject / "t2_seg.nii.gz", ids=())
    with pytest.raises(NoInputError, match="only empty masks") as caught:
        _convert(tmp_path, label_map=["cord=1"])
    assert (caught.value.code, caught.value.exit_code) == ("E-LABEL-EMPTY", 4)
    assert _nothing_written(tmp_path)


def test_no_usable_case_is_exit_code_4(tmp_path: Path) -> None:
    for path in _source(tmp_path / "in").rglob("t2.nii.gz"):
        _truncate(path)
    result = _convert(tmp_path)
    assert result.exit_code == 4
    assert len(result.skipped) == 3
    assert "nothing was written" in result.render()
    assert _nothing_written(tmp_path)


def test_a_file_that_vanishes_after_it_was_found_is_a_skipped_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.dataset_conversion import conversion

    _source(tmp_path / "in")
    process = conversion._process

    def spoil_then_process(*arguments: Any) -> None:
        (tmp_path / "in" / "bert" / "t2.nii.gz").unlink()
        process(*arguments)

    monkeypatch.setattr(conversion, "_process", spoil_then_process)
    result = _convert(tmp_path)
    assert result.exit_code == 3
    assert [problem.code for problem in result.skipped] == ["E-IN-MISSING"]
    assert sorted(_table(result)) == ["anna", "cleo"]


def test_an_interrupt_leaves_nothing_under_the_final_name_and_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.dataset_conversion import conversion

    _source(tmp_path / "in")

    def interrupted(*_: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "open_image", interrupted)
    arguments = ["pairs", "501", "--name", "Toy", "--images", f"{tmp_path}/in/*/t2.nii.gz", "--labels"]
    arguments += [f"{tmp_path}/in/*/t2_seg.nii.gz", "--raw", f"{tmp_path}/raw", "--preprocessed", f"{tmp_path}/pre"]
    assert main(arguments) == 130
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [".Dataset501_Toy.partial"]
    assert list((tmp_path / "pre").iterdir()) == []


# --- wrong usage: exit code 2 (or 4), before anything is written ------------------------------------------------------


def _upper_twin(folder: Path) -> None:
    _image(folder / "ANNA" / "t2.nii.gz", 9)
    _mask(folder / "ANNA" / "t2_seg.nii.gz")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"images": []}, "E-PAIR-COUNT", "quotes"),
        ({"images": ["a", "b"], "labels": ["c"]}, "E-PAIR-COUNT", "2 image"),
        ({"contrast": ["a", "b", "c"]}, "E-PAIR-COUNT", "3 contrasts"),
        ({"labels": ["in/t2_seg.nii.gz"]}, "E-PAIR-WILDCARDS", "1 wildcard"),
        ({"labels": ["in/{subject}/t2_seg.nii.gz"]}, "E-PAIR-WILDCARDS", "subject"),
        ({"images": ["in/*/t3.nii.gz"]}, "E-PAIR-NOTHING", "t3"),
        ({"labels": ["in/*/nothing.nii.gz"]}, "E-PAIR-NOTHING", "nothing"),
        ({"images": ["in/{sub ject}/t2.nii.gz"]}, "E-PAIR-PATTERN", "sub ject"),
        ({"images": ["in/anna/t2.nii.gz"], "labels": ["in/anna/t2_seg.nii.gz"]}, "E-PAIR-SUBJECT", "quotes"),
        ({"subject_pattern": "7"}, "E-PAIR-SUBJECT", "'7'"),
        ({"subject_pattern": "("}, "E-PAIR-SUBJECT", "regular expression"),
        ({"test_subjects": ["ana"]}, "E-PAIR-SUBJECT", "did you mean 'anna'"),
        ({"test_subjects": ["anna"], "train_only": ["anna"]}, "E-PAIR-SUBJECT", "one of the two"),
        ({"images": ["in/*/t2.nii.gz"] * 2, "labels": ["in/*/t2_seg.nii.gz"] * 2}, "E-CASE-TWICE", "'anna'"),
        (
            {
                "images": ["in/*/t2.nii.gz"] * 2,
                "labels": ["in/*/t2_seg.nii.gz"] * 2,
                "contrast": ["T1w", "T2w"],
            },
            "E-PAIR-TWICE",
            "anna_T1w",
        ),
        ({"folds": 1}, "E-SPLIT-FOLDS", "2 or more"),
        ({"name": "a b"}, "E-DATASET-NAME", "a b"),
        ({"dataset_id": 5000}, "E-DATASET-ID", "5000"),
        ({"label_map": ["cord=1", "canal"]}, "E-LABEL-MAP", "canal"),
    ],
)
def test_wrong_usage_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], code: str, words: str
) -> None:
    _source(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    base = {"images": ["in/*/t2.nii.gz"], "labels": ["in/*/t2_seg.nii.gz"]}
    with pytest.raises(SpineExtError) as caught:
        _convert(tmp_path, **(base | changes))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.exit_code == (4 if code == "E-PAIR-NOTHING" else 2)
    assert _nothing_written(tmp_path)


def test_ids_that_differ_in_letter_case_are_refused_with_both_names(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    if (tmp_path / "in" / "ANNA").exists():
        pytest.skip("this file system does not tell letter case")
    _upper_twin(tmp_path / "in")
    with pytest.raises(UsageError, match=r"'anna'.*'ANNA'") as caught:
        _convert(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("E-CASE-TWICE", 2)


def test_an_existing_dataset_is_refused_by_name_and_replaced_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _source(tmp_path / "in")
    first = _convert(tmp_path)
    arguments = ["pairs", "501", "--name", "Other", "--images", f"{tmp_path}/in/*/t2.nii.gz", "--labels"]
    arguments += [f"{tmp_path}/in/*/t2_seg.nii.gz", "--raw", f"{tmp_path}/raw", "--preprocessed", f"{tmp_path}/pre"]
    assert main(arguments) == 2
    assert "Dataset501_Toy" in capsys.readouterr().err
    _image(tmp_path / "in" / "dora" / "t2.nii.gz", 8)
    _mask(tmp_path / "in" / "dora" / "t2_seg.nii.gz")
    with pytest.raises(UsageError, match="--overwrite"):
        _convert(tmp_path)
    assert len(_table(first)) == 3
    assert len(_table(_convert(tmp_path, overwrite=True))) == 4


@pytest.mark.parametrize("quiet", [("-q", "pairs"), ("pairs", "-q")], ids=str)
def test_quiet_may_stand_before_or_behind_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: tuple[str, ...]
) -> None:
    _source(tmp_path / "in")
    arguments = [*quiet, "501", "--name", "Toy", "--images", f"{tmp_path}/in/*/t2.nii.gz", "--labels"]
    arguments += [f"{tmp_path}/in/*/t2_seg.nii.gz", "--raw", f"{tmp_path}/raw", "--preprocessed", f"{tmp_path}/pre"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_after_a_dataset_was_replaced_its_old_fingerprint_is_not_used(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    first = _convert(tmp_path)
    assert first.render().endswith("next: nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres")
    (tmp_path / "pre" / first.folder.name / "dataset_fingerprint.json").write_text("{}")
    assert _convert(tmp_path, overwrite=True).render().endswith("-d 501 -c 3d_fullres --clean")


def test_a_dataset_is_not_replaced_by_itself(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    folder = _convert(tmp_path).folder
    images, labels = [f"{folder}/imagesTr/{{subject}}_0000.nii.gz"], [f"{folder}/labelsTr/{{subject}}.nii.gz"]
    with pytest.raises(UsageError, match="anna") as caught:
        _convert(tmp_path, images=images, labels=labels, overwrite=True)
    assert caught.value.code == "E-OUT-INPUT"
    assert _convert(tmp_path, dataset_id=502, images=images, labels=labels).exit_code == 0


# --- real images ----------------------------------------------------------------------------------------------------


def test_real_cord_volumes(test_data: Path, tmp_path: Path) -> None:
    result = pairs(
        77,
        name="Cord",
        images=[f"{test_data}/sct-errsm/*/t2/t2.nii.gz", f"{test_data}/sct-testing/t2/t2.nii.gz{{subject=errsm_30}}"],
        labels=[
            f"{test_data}/sct-errsm/*/t2/t2_manual_segmentation.nii.gz",
            f"{test_data}/sct-testing/t2/t2_seg-manual.nii.gz",
        ],
        label_map=["cord=1"],
        contrast=["T2w"],
        channel_name=["T2w"],
        train_only=["errsm_30"],
        raw=tmp_path / "raw",
        preprocessed=tmp_path / "pre",
    )
    # errsm_20 has an image but no mask.
    assert [(p.code, "errsm_20" in p.file) for p in result.skipped] == [("E-PAIR-NOMASK", True)]
    assert result.exit_code == 3
    assert {row.case_id: row.subject for row in result.rows} == {
        name: name for name in ("errsm_11", "errsm_18", "errsm_23", "errsm_30")
    }
    assert {row.case_id: row.voxels[1] for row in result.rows} == {
        "errsm_11": 13574, "errsm_18": 14655, "errsm_23": 12832, "errsm_30": 4275,
    }  # fmt: skip
    splits = json.loads((tmp_path / "pre" / "Dataset077_Cord" / "splits_final.json").read_text())
    assert sorted(split["val"] for split in splits) == [["errsm_11"], ["errsm_18"], ["errsm_23"]]
    assert all("errsm_30" in split["train"] for split in splits)
    source = read_volume(test_data / "sct-errsm" / "errsm_11" / "t2" / "t2.nii.gz")
    written = read_volume(result.folder / "imagesTr" / "errsm_11_0000.nii.gz")
    assert source.corner_error(written) < 1e-3
    np.testing.assert_array_equal(source.array, written.array)
    assert inspect_dataset(result.folder).ok
    verify_with_nnunet(result.folder)


def test_real_spineps_masks_become_the_training_classes(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "tptbox" / "sample_mri"
    result = pairs(
        78,
        name="Spine",
        images=[f"{folder}/sub-mri_label-6_T2w.nii.gz"],
        labels=[f"{folder}/sub-mri_seg-subreg_label-6_msk.nii.gz"],
        label_map=["spineps:nnunet14"],
        raw=tmp_path / "raw",
        preprocessed=tmp_path / "pre",
    )
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["spine_ext"] == {
        "version": 1, "scheme": "nnunet14", "sided_labels": [[4, 5], [6, 7], [8, 9]],
    }  # fmt: skip
    assert result.rows[0].subject == "sub-mri"
    assert not (result.folder / "splits_final.json").exists()


# --- soft labels -----------------------------------------------------------------------------------------------------


def _soft(path: Path, peak: float = 1.0, affine: np.ndarray = AFFINE) -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[2:4, 3:7, 2:6] = peak
    array[2:4, 2, 2:6] = 0.25
    array[:, :, 0] = -1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return array


def test_soft_labels_go_to_their_folder_on_the_images_grid(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    expected = _soft(tmp_path / "soft" / "anna" / "t2.nii.gz")
    turned = read_volume(tmp_path / "soft" / "anna" / "t2.nii.gz").to("LPI")
    write_volume(turned, tmp_path / "soft" / "bert" / "t2.nii.gz")
    result = _convert(tmp_path, label_map=["cord=1"], soft=[str(tmp_path / "soft" / "*" / "t2.nii.gz")], folds=2)
    assert result.exit_code == 0
    folder = result.folder / "softLabelsTr"
    assert sorted(path.name for path in folder.iterdir()) == ["anna.nii.gz", "bert.nii.gz"], "cleo has its mask alone"
    for case in ("anna", "bert"):
        stored = read_volume(folder / f"{case}.nii.gz")
        np.testing.assert_array_equal(stored.array, expected)
        assert stored.same_grid(read_volume(result.folder / "imagesTr" / f"{case}_0000.nii.gz"))
    assert "ignore" not in json.loads((result.folder / "dataset.json").read_text())["labels"]
    assert [source["role"] for source in _table(result)["anna"]["sources"]] == ["image_0000", "label", "soft"]
    verify_with_nnunet(result.folder)


@pytest.mark.parametrize(
    ("change", "code"), [({"peak": 1.7}, "E-SOFT-RANGE"), ({"affine": AFFINE @ np.diag([1, 1, 2, 1])}, "E-GEOM-GRID")]
)
def test_a_soft_label_that_does_not_fit_skips_its_case(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    _source(tmp_path / "in")
    for subject in ("anna", "bert"):
        _soft(tmp_path / "soft" / subject / "t2.nii.gz")
    _soft(tmp_path / "soft" / "cleo" / "t2.nii.gz", **change)
    _soft(tmp_path / "soft" / "dora" / "t2.nii.gz")
    result = _convert(tmp_path, label_map=["cord=1"], soft=[str(tmp_path / "soft" / "*" / "t2.nii.gz")], folds=2)
    assert sorted(problem.code for problem in result.skipped) == sorted([code, "E-PAIR-NOIMAGE"])
    assert sorted(_table(result)) == ["anna", "bert"]


def test_a_source_may_have_no_soft_labels_and_an_unlabelled_image_none(tmp_path: Path) -> None:
    _source(tmp_path / "in")
    for k, subject in enumerate(("anna", "bert", "cleo")):
        _image(tmp_path / "in" / subject / "t1.nii.gz", k + 5)
        _mask(tmp_path / "in" / subject / "t1_seg.nii.gz")
        _soft(tmp_path / "soft" / subject / "t2.nii.gz")
    (tmp_path / "in" / "cleo" / "t2_seg.nii.gz").unlink()
    result = _convert(
        tmp_path,
        images=[str(tmp_path / "in" / "*" / f"{name}.nii.gz") for name in ("t1", "t2")],
        labels=[str(tmp_path / "in" / "*" / f"{name}_seg.nii.gz") for name in ("t1", "t2")],
        soft=["-", str(tmp_path / "soft" / "*" / "t2.nii.gz")],
        contrast=["T1w", "T2w"],
        label_map=["cord=1"],
        unlabelled=[str(tmp_path / "in" / "cl*" / "t2.nii.gz")],
        folds=2,
    )
    assert sorted(p.name for p in (result.folder / "softLabelsTr").iterdir()) == [
        "anna_T2w.nii.gz",
        "bert_T2w.nii.gz",
    ]
    assert [(p.code, Path(p.file).parent.name) for p in result.skipped] == [("E-PAIR-NOMASK", "cleo")]


def test_soft_labels_need_one_class_and_as_many_patterns(tmp_path: Path) -> None:
    _source(tmp_path / "in", ids=(1, 2))
    pattern = [str(tmp_path / "soft" / "*" / "t2.nii.gz")]
    for changes, code in (
        ({"soft": pattern}, "E-PAIR-SOFT"),
        ({"soft": pattern, "label_map": ["cord=1", "canal=2"]}, "E-PAIR-SOFT"),
        ({"soft": [*pattern, *pattern], "label_map": ["cord=1", "background=2"]}, "E-PAIR-COUNT"),
    ):
        with pytest.raises(UsageError) as caught:
            _convert(tmp_path, **changes)
        assert caught.value.code == code
    assert not (tmp_path / "raw").exists()
