"""`nnUNetv2_spine_check`: files, folders, patterns and datasets, with truthful exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import FILE_KINDS, make_bad, make_good

from nnunet_spine_ext.check.run import check
from nnunet_spine_ext.cli.check import main
from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume, write_volumes
from nnunet_spine_ext.core.volume import Volume


def _three(folder: Path) -> Path:
    """Return a folder with a good file, one with a warning and a bad one."""
    make_good(folder, "a.nii.gz")
    make_bad("no_codes", folder).rename(folder / "b.nii.gz")
    make_bad("truncated_gz", folder / "deeper").rename(folder / "deeper" / "c.nii.gz")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    make_good(folder / ".hidden")
    return folder


def test_a_folder_is_walked_and_every_file_judged(tmp_path: Path) -> None:
    report = check([_three(tmp_path)])
    assert [(item.path.name, item.status) for item in report.items] == [
        ("a.nii.gz", "ok"),
        ("b.nii.gz", "warning"),
        ("c.nii.gz", "error"),
    ]
    assert report.exit_code == 3
    text = report.render()
    assert "12x14x10  0.6x0.7x3.3 mm  PIR  sagittal  int16  1..199" in text
    assert "W-GEOM-NOCODE" in text
    assert text.splitlines()[-1] == "3 checked: 1 ok, 1 with warnings, 1 with errors"


@pytest.mark.parametrize("kind", [kind for kind, code in FILE_KINDS.items() if code.startswith("E-")])
def test_one_bad_file_does_not_keep_its_siblings_from_being_checked(kind: str, tmp_path: Path) -> None:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    bad, good = make_bad(kind, tmp_path / "bad"), make_good(tmp_path / "good")
    report = check([bad, good])
    assert [item.status for item in report.items] == ["error", "ok"]
    assert report.exit_code == 3
    # A folder is walked, not read: what is missing there are images.
    assert {"directory": "E-IN-NOIMAGE"}.get(kind, FILE_KINDS[kind]) in report.render()


def test_exit_codes(tmp_path: Path) -> None:
    good, warned = make_good(tmp_path), make_bad("no_codes", tmp_path / "w")
    bad = make_bad("zero_bytes", tmp_path / "b")
    assert check([good]).exit_code == 0
    assert check([good, warned]).exit_code == 0
    assert check([good, warned], strict=True).exit_code == 3
    assert check([good, bad]).exit_code == 3
    assert check([bad, tmp_path / "nothing"]).exit_code == 4


def test_patterns_are_expanded_and_files_are_looked_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_good(tmp_path / name, "t2.nii.gz")
        make_good(tmp_path / name, "t1.nii.gz")
    pattern = f"{tmp_path}/*/t2.nii.gz"
    report = check([pattern, tmp_path / "one" / "t2.nii.gz"], jobs=2)
    assert [item.path.parent.name for item in report.items] == ["one", "two"]
    unmatched = check([f"{tmp_path}/*/t9.nii.gz"])
    assert unmatched.items[0].problems[0].code == "E-IN-MISSING"


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    path = make_good(tmp_path, "scan[1].nii.gz")
    assert check([path]).exit_code == 0


def test_a_folder_without_images_is_no_usable_input(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here", encoding="utf-8")
    report = check([tmp_path])
    assert [p.code for p in report.items[0].problems] == ["E-IN-NOIMAGE"]
    assert report.exit_code == 4


def test_role_auto_goes_by_folder_names(tmp_path: Path) -> None:
    make_bad("nan", tmp_path / "imagesTr")
    make_bad("nan", tmp_path / "imagesTs")
    make_bad("empty_mask", tmp_path / "labelsTr")
    found = {item.path.parent.name: [p.code for p in item.problems] for item in check([tmp_path]).items}
    assert found == {
        "imagesTr": ["E-INT-NONFINITE"],
        "imagesTs": ["W-INT-NONFINITE"],
        "labelsTr": ["W-LABEL-EMPTY"],
    }
    everything = check([tmp_path], role="image")
    assert [p.code for item in everything.items for p in item.problems if item.path.parent.name == "labelsTr"] == [
        "E-INT-CONSTANT"
    ]


def test_prefer_reaches_the_gatekeeper(tmp_path: Path) -> None:
    path = make_bad("conflict", tmp_path)
    assert check([path]).exit_code == 4
    assert check([path], prefer="sform").exit_code == 0


@pytest.mark.parametrize("options", [{"role": "mask"}, {"jobs": 0}])
def test_wrong_options_are_usage_errors(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check([make_good(tmp_path)], **options)  # type: ignore[arg-type]


def _dataset(root: Path) -> Path:
    image = read_volume(make_good(root / "source"))
    mask = image.with_array((image.array > 150).astype(np.uint8))
    spec = DatasetSpec(501, "Toy", {0: "T2w"}, {"bone": 1})
    cases = [RawCase(f"case_{n}", f"subject_{n}", [image], mask) for n in range(5)]
    return write_raw_dataset(root / "raw", spec, cases)


def test_a_raw_dataset_is_checked_as_a_whole(tmp_path: Path) -> None:
    folder = _dataset(tmp_path)
    report = check([folder])
    assert [(item.path, item.status) for item in report.items] == [(folder, "ok")]
    assert "5 training and 0 test cases, 5 subjects" in report.render()
    assert [item.path for item in check([folder.parent]).items] == [folder]
    image = folder / "imagesTr" / "case_2_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:900])
    broken = check([folder])
    assert broken.exit_code == 4
    assert "E-IN-TRUNCATED" in broken.render()
    assert str(image) in broken.render()


def _soft(root: Path, **values: float) -> Path:
    """Return a dataset with a soft label for every case: the mask, half as much at its rim; `values` set one voxel."""
    folder = _dataset(root)
    (folder / "softLabelsTr").mkdir()
    for mask in (folder / "labelsTr").glob("*.nii.gz"):
        volume = read_volume(mask)
        soft = volume.array.astype(np.float32)
        soft[::2] *= 0.5
        case = mask.name.removesuffix(".nii.gz")
        if case in values:
            soft[0, 0, 0] = values[case]
        write_volume(volume.with_array(soft), folder / "softLabelsTr" / mask.name)
    return folder


def _codes(folder: Path) -> list[str]:
    return [problem.code for item in check([folder]).items for problem in item.problems]


def test_soft_labels_of_a_dataset_are_looked_at(tmp_path: Path) -> None:
    assert _codes(_soft(tmp_path / "fine", case_0=-1.0)) == []
    wrong = _soft(tmp_path / "wrong", case_0=-0.4, case_1=100.0, case_2=1.06, case_3=float("nan"))
    assert _codes(wrong) == ["E-SOFT-RANGE", "E-SOFT-RANGE", "W-SOFT-OVERSHOOT", "E-SOFT-RANGE"]


def test_soft_labels_belong_to_a_case_and_its_grid(tmp_path: Path) -> None:
    folder = _soft(tmp_path)
    soft = folder / "softLabelsTr"
    volume = read_volume(soft / "case_0.nii.gz")
    write_volume(Volume(volume.array, volume.affine @ np.diag([1, 1, 2, 1])), soft / "case_0.nii.gz")
    write_volumes([volume, volume], soft / "case_1.nii.gz")
    (soft / "case_2.nii.gz").write_bytes((soft / "case_2.nii.gz").read_bytes()[:200])
    (soft / "case_3.nii.gz").rename(soft / "nobody.nii.gz")
    write_volume(volume.with_array(np.zeros_like(volume.array)), soft / "case_4.nii.gz")
    found = _codes(folder)
    assert found == ["E-GEOM-GRID", "E-SOFT-CLASSES", "E-SOFT-READ", "W-SOFT-EMPTY", "E-PAIR-NOIMAGE", "W-SOFT-LACKING"]


def test_soft_labels_of_another_kind_of_file_are_told(tmp_path: Path) -> None:
    """Trainers look for .nii.gz, whatever the images are."""
    folder = _soft(tmp_path)
    first = min((folder / "softLabelsTr").iterdir())
    first.rename(first.with_name(first.name.removesuffix(".gz")))
    assert _codes(folder) == ["E-SOFT-SUFFIX", "W-SOFT-LACKING"]


def test_soft_labels_without_a_fraction_are_told(tmp_path: Path) -> None:
    folder = _soft(tmp_path)
    for mask in (folder / "labelsTr").glob("*.nii.gz"):
        volume = read_volume(mask)
        write_volume(volume.with_array(volume.array.astype(np.float32)), folder / "softLabelsTr" / mask.name)
    assert _codes(folder) == ["W-SOFT-BINARY"]


def test_command_prints_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _three(tmp_path)
    assert main([str(folder)]) == 3
    assert "E-IN-TRUNCATED" in capsys.readouterr().out
    assert main([str(folder), "--json", "--strict"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert [item["status"] for item in content["items"]] == ["ok", "error", "error"]
    assert content["items"][0]["orientation"] == "PIR"
    assert content["exit_code"] == 3
    assert main([str(make_good(tmp_path / "fine"))]) == 0
