"""`nnUNetv2_spine_soft_gt`: one subject, many subjects, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_spine_ext.cli.soft_gt import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.soft.run import soft_gt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from soft_ground_truth import Contrast, mask_of

CONTRASTS = {
    "T2w": Contrast((1.0, 1.0, 1.0), 5.0, (0.0, 0.0), 24.0, 22.0),
    "T1w": Contrast((1.1, 1.1, 1.1), 4.8, (1.3, -0.7), 33.0, 20.0),
    "T2star": Contrast((0.9, 0.9, 5.0), 5.3, (-0.8, 0.6), 20.0, 25.0),
}


def _masks(folder: Path, prefix: str = "", suffix: str = "") -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, contrast in CONTRASTS.items():
        found[name] = folder / f"{prefix}{name}{suffix}.nii.gz"
        write_volume(mask_of(contrast, wide_mm=34), found[name])
    return found


def _words(masks: dict[str, Path]) -> list[str]:
    return [f"{name}={path}" for name, path in masks.items()]


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _table(folder: Path, subjects: tuple[str, ...] = ("sub-1", "sub-2", "sub-3")) -> Path:
    lines = ["subject,contrast,mask,image"]
    for subject in subjects:
        for name, path in _masks(folder / subject).items():
            lines.append(f"{subject},{name},{path.relative_to(folder)},")
    table = folder / "masks.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def _codes(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [line["problem"]["code"] if line["status"] == "failed" else "done" for line in lines]


# --- one subject ----------------------------------------------------------------------------------------------------


def test_one_subject_gets_labels_table_picture_and_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = _masks(tmp_path / "in")
    image = read_volume(masks["T1w"])
    write_volume(image.with_array((image.array * 100 + 50).astype(np.int16)), tmp_path / "t1.nii.gz")
    out = tmp_path / "out"
    words = ["-o", str(out), "-i", *_words(masks), "--images", f"T1w={tmp_path / 't1.nii.gz'}", "--reference", "T2w"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "3 masks, reference T2w" in printed
    assert "1 done, 0 skipped, 0 failed" in printed
    assert sorted(_digests(out)) == [
        "cases.jsonl", "coverage.nii.gz", "qc.csv", "qc.png", "soft/T1w.nii.gz", "soft/T2star.nii.gz",
        "soft/T2w.nii.gz", "soft_gt.json", "union.nii.gz",
    ]  # fmt: skip
    for name, path in masks.items():
        soft, mask = nib.load(out / "soft" / f"{name}.nii.gz"), nib.load(path)
        assert soft.get_data_dtype() == np.float32
        assert soft.shape == mask.shape
        np.testing.assert_array_equal(soft.affine, mask.affine)
    with (out / "qc.csv").open() as stream:
        rows = {row["contrast"]: row for row in csv.DictReader(stream)}
    assert rows["T2w"]["reference"] == "yes"
    assert float(rows["T1w"]["shift_x"]) == pytest.approx(-1.3, abs=0.15)
    content = json.loads((out / "soft_gt.json").read_text())
    assert content["masks"]["T1w"]["sha256"] == hashlib.sha256(masks["T1w"].read_bytes()).hexdigest()
    assert content["masks"]["T1w"]["file"] == "T1w.nii.gz"
    assert content["options"]["reference"] == "T2w"
    assert str(tmp_path) not in (out / "soft_gt.json").read_text()
    from PIL import Image

    picture = np.asarray(Image.open(out / "qc.png"))
    assert picture.ndim == 3
    # The label glows in every row, and the mask's outline is there.
    assert ((picture[..., 0] > 220) & (picture[..., 1] > 180) & (picture[..., 2] < 150)).sum() > 3000
    assert (picture == (0, 230, 255)).all(axis=-1).sum() > 300


def test_the_result_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "out"), "-i", *_words(_masks(tmp_path / "in")), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["done"] == ["out"]
    assert content["exit_code"] == 0


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    words = _words(_masks(tmp_path / "in"))
    for name in ("a", "b"):
        soft_gt(tmp_path / name, i=words, rotation=True)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_raters_share_one_label(tmp_path: Path) -> None:
    mask = mask_of(CONTRASTS["T2w"], wide_mm=34)
    words = []
    for k, name in enumerate(("anna", "ben", "cleo")):
        array = mask.array.copy()
        array[12 + k] = 0
        write_volume(mask.with_array(array), tmp_path / f"{name}.nii.gz")
        words.append(f"{name}={tmp_path / name}.nii.gz")
    for method in ("average", "staple"):
        out = tmp_path / method
        assert main(["-o", str(out), "-i", *words, "--raters", "--method", method, "--min-dice", "0.5"]) == 0
        assert [path.name for path in (out / "soft").iterdir()] == ["raters.nii.gz"]
        assert not (out / "union.nii.gz").exists()
    assert "sensitivity" in json.loads((tmp_path / "staple" / "soft_gt.json").read_text())["staple"]


def test_values_that_are_no_zero_and_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = _masks(tmp_path / "in")
    plain = soft_gt(tmp_path / "plain", i=_words(masks))
    mask = read_volume(masks["T1w"])
    write_volume(mask.with_array((mask.array * 255).astype(np.uint8)), masks["T1w"])
    scaled = soft_gt(tmp_path / "scaled", i=_words(masks))
    assert [problem.code for problem in scaled.warnings["scaled"]] == ["W-SOFT-SCALE"]
    assert not plain.warnings
    first, second = (read_volume(tmp_path / name / "soft" / "T1w.nii.gz").array for name in ("plain", "scaled"))
    np.testing.assert_array_equal(first, second)
    write_volume(mask.with_array((mask.array * 3 + (np.arange(mask.shape[2]) % 2)).astype(np.uint8)), masks["T1w"])
    assert main(["-o", str(tmp_path / "labelled"), "-i", *_words(masks)]) == 4
    assert "E-SOFT-LABEL" in capsys.readouterr().out


def test_a_mask_that_lies_elsewhere_is_left_out_and_said_so(tmp_path: Path) -> None:
    masks = _masks(tmp_path / "in")
    mask = read_volume(masks["T1w"])
    affine = mask.affine.copy()
    affine[2, 3] += 200
    write_volume(Volume(mask.array, affine), masks["T1w"])
    result = soft_gt(tmp_path / "out", i=_words(masks))
    assert result.exit_code == 0
    assert [problem.code for problem in result.warnings["out"]] == ["W-SOFT-APART"]
    assert not (tmp_path / "out" / "soft" / "T1w.nii.gz").exists()
    rows = (tmp_path / "out" / "qc.csv").read_text().splitlines()
    assert [row for row in rows if row.startswith("T1w,no,")]


@pytest.mark.parametrize(
    ("kind", "code"),
    [("series", "E-IN-DIM"), ("sheared", "E-GEOM-SHEAR"), ("cut", "E-IN-TRUNCATED"), ("missing", "E-IN-MISSING"),
     ("empty", "E-SOFT-EMPTY"), ("nan", "E-INT-NONFINITE")],
)  # fmt: skip
def test_masks_that_cannot_be_used_end_their_subject_with_the_reason(tmp_path: Path, kind: str, code: str) -> None:
    masks = _masks(tmp_path / "in")
    path = masks["T1w"]
    mask = read_volume(path)
    if kind == "series":
        nib.save(nib.Nifti1Image(np.stack([mask.array] * 2, axis=-1), mask.affine), path)
    elif kind == "sheared":
        affine = mask.affine.copy()
        affine[0, 1] += 0.2
        image = nib.Nifti1Image(mask.array, affine)
        image.set_qform(None, code=0)
        nib.save(image, path)
    elif kind == "cut":
        path = path.with_suffix("")
        write_volume(mask, path)
        path.write_bytes(path.read_bytes()[:-5000])
        masks["T1w"] = path
    elif kind == "missing":
        path.unlink()
    elif kind == "empty":
        write_volume(mask.with_array(np.zeros_like(mask.array)), path)
    else:
        write_volume(mask.with_array(np.where(mask.array > 0, np.nan, 0).astype(np.float32)), path)
    result = soft_gt(tmp_path / "out", i=_words(masks))
    assert result.exit_code == 4
    assert result.failed["out"].code == code
    assert _codes(tmp_path / "out" / "cases.jsonl") == [code]
    assert not (tmp_path / "out" / "soft").exists()


def test_a_scan_that_is_not_its_masks_is_not_drawn_and_it_is_said(tmp_path: Path) -> None:
    masks = _masks(tmp_path / "in")
    result = soft_gt(tmp_path / "out", i=_words(masks), images=[f"T1w={masks['T2w']}", f"T2w={tmp_path / 'no.nii.gz'}"])
    assert result.exit_code == 0
    assert [problem.code for problem in result.warnings["out"]] == ["W-SOFT-IMAGE", "W-SOFT-IMAGE"]


# --- many subjects --------------------------------------------------------------------------------------------------


def test_a_bad_subject_is_a_line_in_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "in")
    (tmp_path / "in" / "sub-2" / "T1w.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["-o", str(out), "--table", str(table)]) == 3
    assert "FAILED sub-2" in capsys.readouterr().out
    assert _codes(out / "cases.jsonl")[0::2] == ["done", "done"]
    assert _codes(out / "cases.jsonl")[1].startswith("E-IN-")
    assert (out / "sub-1" / "soft" / "T2star.nii.gz").exists()
    assert not (out / "sub-2").exists()
    with (out / "qc.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["subject"] for row in rows] == ["sub-1"] * 3 + ["sub-3"] * 3


def test_resume_keeps_what_is_whole_and_does_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.soft import run

    table, out = _table(tmp_path / "in"), tmp_path / "out"
    made = run.soft_ground_truth
    calls: list[int] = []

    def dying(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(run, "soft_ground_truth", dying)
    with pytest.raises(KeyboardInterrupt):
        soft_gt(out, table=table)
    with pytest.raises(UsageError, match="E-SOFT-EXISTS"):
        soft_gt(out, table=table)
    result = soft_gt(out, table=table, resume=True)
    assert (result.skipped, result.done) == (["sub-1", "sub-2"], ["sub-3"])
    whole = tmp_path / "whole"
    soft_gt(whole, table=table)
    assert _digests(out) == _digests(whole)
    # A changed input, a damaged output, other options: done again.
    other = read_volume(tmp_path / "in" / "sub-1" / "T1w.nii.gz")
    write_volume(other.with_array(np.roll(other.array, 1, axis=0)), tmp_path / "in" / "sub-1" / "T1w.nii.gz")
    (out / "sub-3" / "qc.png").write_bytes(b"")
    result = soft_gt(out, table=table, resume=True)
    assert (result.skipped, result.done) == (["sub-2"], ["sub-1", "sub-3"])
    assert soft_gt(out, table=table, resume=True).skipped == ["sub-1", "sub-2", "sub-3"]
    assert soft_gt(out, table=table, resume=True, trim_mm=2.0).done == ["sub-1", "sub-2", "sub-3"]
    assert soft_gt(out, table=table, overwrite=True).done == ["sub-1", "sub-2", "sub-3"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".yaml", ".json"])
def test_tables_of_every_kind_say_the_same(tmp_path: Path, suffix: str) -> None:
    table = _table(tmp_path / "in", ("sub-1",))
    if suffix == ".tsv":
        table.with_suffix(suffix).write_text(table.read_text().replace(",", "\t"))
    elif suffix in (".yaml", ".json"):
        entries = {name: f"sub-1/{name}.nii.gz" for name in CONTRASTS}
        content: dict[str, Any] = {"sub-1": entries | {"T1w": {"mask": entries["T1w"], "image": entries["T1w"]}}}
        table.with_suffix(suffix).write_text(json.dumps(content))
    result = soft_gt(tmp_path / "out", table=table.with_suffix(suffix))
    assert result.done == ["sub-1"]
    assert (tmp_path / "out" / "sub-1" / "soft" / "T1w.nii.gz").exists()


def test_a_bids_tree(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for subject in ("unf01", "amu02"):
        place = root / "derivatives" / "labels" / f"sub-{subject}" / "anat"
        _masks(place, f"sub-{subject}_", "_label-SC_seg")
        _masks(root / f"sub-{subject}" / "anat", f"sub-{subject}_")
    second = root / "derivatives" / "labels" / "sub-unf01" / "ses-2" / "anat"
    _masks(second, "sub-unf01_ses-2_", "_label-SC_seg")
    result = soft_gt(tmp_path / "out", bids=root, reference="T2w")
    assert result.done == ["sub-amu02", "sub-unf01", "sub-unf01_ses-2"]
    assert sorted(path.name for path in (tmp_path / "out" / "sub-unf01" / "soft").iterdir()) == [
        "T1w.nii.gz", "T2star.nii.gz", "T2w.nii.gz",
    ]  # fmt: skip
    assert not result.warnings
    with pytest.raises(NoInputError, match="E-SOFT-NOTHING") as caught:
        soft_gt(tmp_path / "none", bids=root, ending="seg-manual")
    assert "there are: label-SC_seg" in caught.value.fix


def test_a_subject_without_the_reference_takes_its_own(tmp_path: Path) -> None:
    table = _table(tmp_path / "in", ("sub-1", "sub-2"))
    lines = [line for line in table.read_text().splitlines() if not line.startswith("sub-2,T2w")]
    table.write_text("\n".join(lines))
    result = soft_gt(tmp_path / "out", table=table, reference="T2w", weights=["T2w=2"])
    assert result.done == ["sub-1", "sub-2"]
    assert json.loads((tmp_path / "out" / "sub-2" / "soft_gt.json").read_text())["reference"] == "T1w"


# --- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "E-SOFT-INPUT"),
        (["-i", "a=a.nii.gz", "--table", "t.csv"], "E-SOFT-INPUT"),
        (["-i", "a=a.nii.gz", "a=b.nii.gz"], "E-SOFT-INPUT"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--images", "c=c.nii.gz"], "E-SOFT-INPUT"),
        (["--table", "none.csv"], "E-SOFT-INPUT"),
        (["--table", "t.txt"], "E-SOFT-INPUT"),
        (["--table", "t.csv", "--images", "a=b"], "E-SOFT-INPUT"),
        (["--bids", "nowhere"], "E-SOFT-INPUT"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--weights", "a"], "E-SOFT-INPUT"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--reference", "c"], "E-SOFT-NAME"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--weights", "c=2"], "E-SOFT-NAME"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--method", "staple"], "E-SOFT-OPTION"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--trim-mm", "-1"], "E-SOFT-OPTION"),
        (["-i", "a=a.nii.gz", "b=b.nii.gz", "--raters", "--reference", "a"], "E-SOFT-OPTION"),
    ],
)
def test_wrong_calls(
    tmp_path: Path, words: list[str], code: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("subject")
    assert main(["-o", "out", *words]) == 2
    assert code in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "subject,contrast\nsub-1,T1w\n"),
        ("b.csv", "subject,contrast,mask\nsub-1,,x.nii.gz\n"),
        ("c.csv", "subject,contrast,mask\n../up,T1w,x.nii.gz\n"),
        ("d.csv", "subject,contrast,mask\nsub-1,a/b,x.nii.gz\n"),
        ("e.yaml", "- sub-1\n- sub-2\n"),
        ("f.yaml", "sub-1: {T1w: {image: x.nii.gz}}\n"),
        ("g.yaml", "sub-1: {T1w: ["),
    ],
)
def test_wrong_tables_are_usage_errors(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="E-SOFT-INPUT"):
        soft_gt(tmp_path / "out", table=tmp_path / name)


def test_an_empty_table_is_no_input(tmp_path: Path) -> None:
    for name, text in (("a.csv", "subject,contrast,mask\n"), ("b.yaml", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(NoInputError, match="E-SOFT-NOTHING"):
            soft_gt(tmp_path / "out", table=tmp_path / name)


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    words = _words(_masks(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    with (
        file_lock(tmp_path / "out" / ".nnunet_spine.lock", what="busy"),
        pytest.raises(SetupError, match="E-OUT-LOCKED"),
    ):
        soft_gt(tmp_path / "out", i=words)


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="E-OUT-FOLDER"):
        soft_gt(tmp_path / "file" / "out", i=_words(_masks(tmp_path / "in")))


# --- what lies there already ----------------------------------------------------------------------------------------


def test_a_mask_that_is_no_longer_given_leaves_no_label_behind(tmp_path: Path) -> None:
    masks, out = _masks(tmp_path / "in"), tmp_path / "out"
    soft_gt(out, i=_words(masks))
    (out / "soft" / "mine.nii.gz").write_bytes(b"not ours")
    soft_gt(out, i=_words(masks)[:2], overwrite=True)
    assert sorted(path.name for path in (out / "soft").iterdir()) == ["T1w.nii.gz", "T2w.nii.gz", "mine.nii.gz"]
    # The same when a table has lost a row, and when a subject fails that was done.
    table, out = _table(tmp_path / "many", ("sub-1", "sub-2")), tmp_path / "out2"
    soft_gt(out, table=table)
    table.write_text("\n".join(line for line in table.read_text().splitlines() if "sub-1,T2star" not in line))
    (tmp_path / "many" / "sub-2" / "T1w.nii.gz").write_bytes(b"no image")
    result = soft_gt(out, table=table, resume=True)
    assert (result.done, list(result.failed)) == (["sub-1"], ["sub-2"])
    assert not (out / "sub-1" / "soft" / "T2star.nii.gz").exists()
    assert not [path for path in (out / "sub-2").rglob("*") if path.is_file()]
    assert "sub-2" not in (out / "qc.csv").read_text()


@pytest.mark.parametrize("place", ["soft/T1w.nii.gz", "soft/drawn.nii.gz", "union.nii.gz"])
def test_a_mask_is_never_replaced_by_its_own_result(tmp_path: Path, place: str) -> None:
    masks, out = _masks(tmp_path / "in"), tmp_path / "out"
    (out / place).parent.mkdir(parents=True)
    masks["T1w"] = masks["T1w"].rename(out / place)
    before = _digests(out)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="in the place of a result"):
            soft_gt(out, i=_words(masks), overwrite=overwrite)
    assert _digests(out) == before


def test_files_that_another_program_left_are_not_replaced(tmp_path: Path) -> None:
    words, out = _words(_masks(tmp_path / "in")), tmp_path / "out"
    out.mkdir()
    (out / "qc.csv").write_text("somebody's")
    with pytest.raises(UsageError, match="E-SOFT-EXISTS"):
        soft_gt(out, i=words)
    assert (out / "qc.csv").read_text() == "somebody's"
    assert soft_gt(out, i=words, overwrite=True).exit_code == 0


def test_a_first_run_without_results_stands_in_nobodys_way(tmp_path: Path) -> None:
    masks, out = _masks(tmp_path / "in"), tmp_path / "out"
    wrong = [f"T2w={masks['T2w']}", "T1w=misspelt.nii.gz"]
    assert soft_gt(out, i=wrong).exit_code == 4
    assert soft_gt(out, i=_words(masks)).exit_code == 0


def test_no_folder_of_the_user_gets_into_the_sidecar(tmp_path: Path) -> None:
    masks, out = _masks(tmp_path / "Doe^Jane"), tmp_path / "out"
    volume = read_volume(masks["T1w"])
    write_volume(volume.with_array(volume.array * 255), masks["T1w"])
    result = soft_gt(out, i=_words(masks))
    assert [problem.code for problem in result.warnings["out"]] == ["W-SOFT-SCALE"]
    text = (out / "soft_gt.json").read_text()
    assert json.loads(text)["warnings"][0]["file"] == "T1w.nii.gz"
    assert "Doe" not in text


@pytest.mark.real
def test_real_masks_of_one_subject(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "sct-testing"
    files = {"T1w": "t1/t1w_seg-manual", "T2w": "t2/t2_seg-manual", "T2star": "t2s/t2s_seg"}
    files |= {"MTon": "mt/mt1_seg", "MToff": "mt/mt0_seg"}
    result = soft_gt(tmp_path / "out", i=[f"{name}={folder / file}.nii.gz" for name, file in files.items()])
    assert result.exit_code == 0, result.render()
    content = json.loads((tmp_path / "out" / "soft_gt.json").read_text())
    # Another session: 5 mm to the side; its two uppermost slices lie above all other masks.
    assert content["masks"]["T2star"]["overlap"] == {"slices": 9, "labelled": 8, "first_and_last": [0, 7]}
    assert content["quality"]["area_std_soft"] < content["quality"]["area_std_mask"] / 10
    assert all(row["used"] for row in content["masks"].values())
