"""nnUNetv2_spine_csa: files and folders, companions, tables, pictures, faults of single cases."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from section_builder import straight_cord

from nnunet_spine_ext.cli.csa import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import cross_sectional_area
from nnunet_spine_ext.measure.csa_picture import section_picture
from nnunet_spine_ext.measure.csa_run import csa
from nnunet_spine_ext.measure.points import PointList, write_points
from nnunet_spine_ext.render.drawing import Dots, Line, Text
from nnunet_spine_ext.render.profile import Band, profile


@pytest.fixture
def cords(tmp_path: Path) -> Path:
    """Return a folder of two cords, thin and wide."""
    folder = tmp_path / "cords"
    for name, radius in (("a", 4.0), ("b", 6.0)):
        write_volume(straight_cord(radius=radius), folder / f"{name}.nii.gz")
    return folder


def disc_volume(heights: dict[int, int]) -> Volume:
    """Return disc voxels beside the cord."""
    cord = straight_cord()
    array = np.zeros(cord.shape, np.uint8)
    for value, height in heights.items():
        array[12, 20, height] = value
    return cord.with_array(array)


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_folder_becomes_one_table_and_a_record(cords: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "area.csv"
    run = csa(cords, out)
    found = rows(out)
    assert [row["case"] for row in found] == ["a"] * 30 + ["b"] * 30
    expected = cross_sectional_area(straight_cord(radius=6.0))
    assert [float(row["area"]) for row in found[30:]] == pytest.approx(expected.area)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record == run.to_dict()
    assert (record["done"], record["rows"], record["options"]["mode"]) == (["a", "b"], {"a": 30, "b": 30}, "sct")
    first = out.read_bytes()
    csa(cords, out)
    assert out.read_bytes() == first


def test_one_bad_case_does_not_stop_the_others(cords: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cords / "c.nii.gz").write_bytes((cords / "a.nii.gz").read_bytes()[:400])
    labels = straight_cord()
    labels.array[0, 0, 0] = 2
    write_volume(labels, cords / "d.nii.gz")
    write_volume(labels, cords / "e.nii.gz")
    write_volume(labels, cords / "e.nii")
    out = tmp_path / "area.csv"
    assert main(["-i", str(cords), "-o", str(out)]) == 3
    assert {row["case"] for row in rows(out)} == {"a", "b"}
    failed = json.loads(out.with_suffix(".json").read_text())["failed"]
    assert {case: problem["code"] for case, problem in failed.items()} == {
        "c": "E-IN-TRUNCATED",
        "d": "E-CSA-LABEL",
        "e": "E-CSA-TWICE",
    }
    assert failed["d"]["file"].endswith("d.nii.gz")
    assert "2 done, 0 skipped, 3 failed" in capsys.readouterr().out
    assert main(["-i", str(cords / "d.nii.gz"), "-o", str(out), "--label", "1"]) == 0


def test_when_no_case_is_left_the_exit_code_says_so(cords: Path, tmp_path: Path) -> None:
    out = tmp_path / "area.csv"
    (cords / "b.nii.gz").write_bytes(b"nothing")
    assert main(["-q", "-i", str(cords / "b.nii.gz"), "-o", str(out)]) == 4
    assert not out.exists()


def test_a_four_dimensional_file_is_a_failed_case(cords: Path, tmp_path: Path) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.uint8), np.eye(4)), cords / "f.nii.gz")
    assert csa(cords, tmp_path / "area.csv").failed["f"].code == "E-IN-DIM"


def test_a_class_of_a_soft_map_of_several_is_measured(tmp_path: Path) -> None:
    import nibabel as nib

    cord = straight_cord(radius=6.0)
    classes = np.stack([straight_cord(radius=3.0).array, cord.array], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(classes, cord.affine), tmp_path / "a.nii.gz")
    run = csa(tmp_path / "a.nii.gz", tmp_path / "area.csv", mode="pv", soft_class=2)
    assert run.tables["a"].area == pytest.approx(cross_sectional_area(cord, mode="pv").area)
    assert "--class N" in csa(tmp_path / "a.nii.gz", tmp_path / "area.csv").failed["a"].fix
    failed = csa(tmp_path / "a.nii.gz", tmp_path / "area.csv", soft_class=3).failed["a"]
    assert (failed.code, failed.found) == ("E-CSA-CLASS", "2 classes")
    for wrong, said in (({"soft_class": 1, "label": 1}, "--class and --label"), ({"soft_class": 0}, "from 1")):
        with pytest.raises(UsageError, match=said):
            csa(tmp_path / "a.nii.gz", tmp_path / "area.csv", **wrong)
    torn = nib.Nifti1Image(classes, cord.affine)
    torn.set_sform(cord.affine, 1)
    torn.set_qform(cord.affine @ np.diag([2, 1, 1, 1]), 1)
    nib.save(torn, tmp_path / "a.nii.gz")
    assert csa(tmp_path / "a.nii.gz", tmp_path / "area.csv", soft_class=2).failed["a"].code.startswith("E-GEOM")


def test_a_volume_of_one_slice_has_an_area(tmp_path: Path) -> None:
    cord = straight_cord()
    write_volume(Volume(cord.array[:, :, 5:6], cord.affine), tmp_path / "a.nii.gz")
    run = csa(tmp_path / "a.nii.gz", tmp_path / "area.csv")
    assert run.exit_code == 0
    assert run.tables["a"].area == pytest.approx(cross_sectional_area(cord).area[5:6], rel=1e-3)
    assert any("one slice alone" in note for note in run.notes["a"])


def test_what_nobody_has_foreseen_fails_one_case(cords: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.measure import csa_run

    def broken(volume: Volume, **options: object) -> object:
        if volume.array.sum() > straight_cord().array.sum():
            raise IndexError("out of range")
        return cross_sectional_area(volume, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(csa_run, "cross_sectional_area", broken)
    run = csa(cords, tmp_path / "area.csv")
    assert (run.done, run.failed["b"].code, run.exit_code) == (["a"], "E-INTERNAL", 3)
    assert {row["case"] for row in rows(tmp_path / "area.csv")} == {"a"}


def test_soft_maps_with_odd_values_are_measured_and_told(tmp_path: Path) -> None:
    soft = straight_cord().array * np.float32(0.5)
    soft[0, 0, 3], soft[1, 1, 3] = -0.1, np.nan
    write_volume(Volume(soft, np.eye(4)), tmp_path / "soft" / "a.nii.gz")
    write_volume(Volume(np.zeros_like(soft), np.eye(4)), tmp_path / "soft" / "empty.nii.gz")
    run = csa(tmp_path / "soft", tmp_path / "area.csv", mode="pv")
    assert run.exit_code == 0
    assert run.to_dict()["rows"] == {"a": 30, "empty": 0}
    assert run.notes["empty"] == ["no cord"]
    assert any("negative" in note for note in run.notes["a"])
    assert any("no number" in note for note in run.notes["a"])
    assert {problem.code for problem in run.warnings["a"]} >= {"W-CSA-NOTE"}


def test_levels_of_every_source(cords: Path, tmp_path: Path) -> None:
    heights = {4: 24, 5: 15, 6: 7}
    labelled = straight_cord()
    level = np.select([np.arange(30) <= 7, np.arange(30) <= 15, np.arange(30) <= 24], [6, 5, 4], 3)
    for case in ("a", "b"):
        write_volume(disc_volume(heights), tmp_path / "discs" / f"{case}.nii.gz")
        write_volume(
            labelled.with_array((labelled.array * level).astype(np.uint8)), tmp_path / "levels" / f"{case}.mha"
        )
        discs = {100 + value - 1: (12.0, 20.0, float(height)) for value, height in heights.items()}
        write_points(tmp_path / "points" / f"{case}.json", PointList(discs, labelled), "poi")
        instances = disc_volume({100 + value - 1: height for value, height in heights.items()})
        write_volume(instances, tmp_path / "out" / "instances" / f"{case}.nii.gz")
    tables = {}
    for number, (option, folder) in enumerate(
        (("levels", "levels"), ("discs", "discs"), ("discs", "points"), ("instances", "out/instances"))
    ):
        out = tmp_path / f"{number}.csv"
        assert csa(cords, out, perlevel=True, **{option: tmp_path / folder}).exit_code == 0
        tables[folder] = out.read_text()
    assert len(set(tables.values())) == 1
    found = rows(tmp_path / "0.csv")
    assert [(row["case"], row["name"], row["slices"]) for row in found[:4]] == [
        ("a", "C3", "5"),
        ("a", "C4", "9"),
        ("a", "C5", "8"),
        ("a", "C6", "8"),
    ]
    write_json(tmp_path / "out" / "qc" / "b.json", {"numbered": False})
    run = csa(cords, tmp_path / "x.csv", instances=tmp_path / "out" / "instances")
    assert {case: problem.code for case, problem in run.failed.items()} == {"b": "E-CSA-UNNUMBERED"}


def test_a_range_of_levels_is_one_row_per_case(cords: Path, tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_volume(disc_volume({4: 24, 5: 15}), tmp_path / "discs" / f"{case}.nii.gz")
    out = tmp_path / "area.csv"
    arguments = ["-q", "-i", str(cords), "-o", str(out), "--discs", str(tmp_path / "discs"), "--level-range", "C3:C4"]
    assert main(arguments) == 0
    assert [(row["case"], row["level"], row["slices"]) for row in rows(out)] == [("a", "3:4", "14"), ("b", "3:4", "14")]
    assert main([*arguments, "--perlevel", "--ddof", "1"]) == 0
    assert [row["level"] for row in rows(out)] == ["3", "4"] * 2


def test_a_json_beside_a_mask_of_discs_is_its_sidecar(cords: Path, tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_volume(disc_volume({4: 24, 5: 15}), tmp_path / "discs" / f"{case}.nii.gz")
        (tmp_path / "discs" / f"{case}.json").write_text('{"Author": "somebody"}')
    run = csa(cords, tmp_path / "area.csv", discs=tmp_path / "discs")
    assert run.tables.keys() == {"a", "b"}


def test_points_may_lie_beside_the_cords(cords: Path, tmp_path: Path) -> None:
    points = {100 + value - 1: (12.0, 20.0, float(height)) for value, height in {4: 24, 5: 15}.items()}
    for case in ("a", "b"):
        write_points(cords / f"{case}.json", PointList(points, straight_cord()), "poi")
    run = csa(cords, tmp_path / "area.csv", discs=cords)
    assert run.tables.keys() == {"a", "b"}


def test_levels_without_a_slice_are_told(cords: Path, tmp_path: Path) -> None:
    for case in "ab":
        write_volume(disc_volume({4: 24, 5: 15, 6: 7}), tmp_path / "discs" / f"{case}.nii.gz")
    run = csa(cords, tmp_path / "area.csv", discs=tmp_path / "discs", level_range="C4:T1")
    assert [p.found for p in run.warnings["a"] if "no slice" in p.found] == ["no slice of C7, T1"]
    run = csa(cords, tmp_path / "area.csv", discs=tmp_path / "discs", level_range="C4:C6")
    assert not [p for p in run.warnings.get("a", []) if "no slice" in p.found]


def test_a_table_of_an_earlier_run_does_not_stay(cords: Path, tmp_path: Path) -> None:
    out = tmp_path / "area.csv"
    csa(cords, out)
    for case in "ab":
        (cords / f"{case}.nii.gz").write_bytes(b"nothing")
    assert csa(cords, out).exit_code == 4
    assert not out.exists()
    assert out.with_suffix(".json").exists()
    mine = tmp_path / "mine.csv"
    mine.write_text("case,area\n")
    assert csa(cords, mine).exit_code == 4
    assert mine.read_text() == "case,area\n", "no table of ours"


def test_a_case_without_its_companion_fails_alone(cords: Path, tmp_path: Path) -> None:
    write_volume(disc_volume({4: 24}), tmp_path / "discs" / "a.nii.gz")
    run = csa(cords, tmp_path / "area.csv", discs=tmp_path / "discs")
    assert run.done == ["a"]
    assert run.failed["b"].code == "E-CSA-COMPANION"


def test_a_centreline_of_a_file(cords: Path, tmp_path: Path) -> None:
    run = csa(cords / "a.nii.gz", tmp_path / "area.csv", centreline=cords / "b.nii.gz", area_only=True)
    assert run.done == ["a"]
    assert rows(tmp_path / "area.csv")[0]["solidity"] == ""


def test_a_dry_run_writes_nothing(cords: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "area.csv"
    assert main(["-i", str(cords), "-o", str(out), "--qc", str(tmp_path / "qc"), "--dry-run"]) == 0
    assert "would measure per slice, mode sct, 2 cases" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cords"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"mode": "voxels"}, "E-CSA-MODE"),
        ({"smoothing": -1.0}, "E-CSA-SMOOTHING"),
        ({"perlevel": True}, "E-CSA-OPTION"),
        ({"level_range": "2:3"}, "E-CSA-OPTION"),
        ({"discs": "cords", "levels": "cords"}, "E-CSA-OPTION"),
        ({"discs": "cords", "level_range": "3:2"}, "E-CSA-LEVELRANGE"),
        ({"ddof": 2}, "E-CSA-OPTION"),
        ({"discs": "cords/a.nii.gz"}, "E-CSA-FILES"),
        ({"discs": "nowhere"}, "E-CSA-FILES"),
        ({"o": "area.txt"}, "E-OUT-FILE"),
        ({"i": "nowhere"}, "E-CSA-FILES"),
    ],
)
def test_wrong_options_start_nothing(
    cords: Path, tmp_path: Path, options: dict[str, object], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        csa(**({"i": "cords", "o": "area.csv"} | options))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cords"]


def test_an_empty_folder_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(NoInputError, match="E-CSA-EMPTY"):
        csa(tmp_path / "in", tmp_path / "area.csv")


def test_the_record_never_replaces_an_input(tmp_path: Path, cords: Path) -> None:
    write_json(tmp_path / "area.json", [])
    with pytest.raises(UsageError, match="E-OUT-INPUT"):
        csa(cords / "a.nii.gz", tmp_path / "area.csv", discs=tmp_path / "area.json")


def test_what_the_disk_refuses_is_a_setup_error(cords: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="E-OUT-WRITE"):
        csa(cords, tmp_path / "file" / "area.csv")
    with pytest.raises(SetupError, match="E-OUT-WRITE"):
        csa(cords, tmp_path / "area.csv", qc=tmp_path / "file")


def test_a_picture_per_case(cords: Path, tmp_path: Path) -> None:
    csa(cords, tmp_path / "area.csv", qc=tmp_path / "qc")
    assert sorted(path.name for path in (tmp_path / "qc").iterdir()) == ["a.png", "b.png"]
    picture = Image.open(tmp_path / "qc" / "a.png")
    assert min(picture.size) > 400
    empty = cross_sectional_area(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)))
    assert Image.open(io.BytesIO(section_picture(empty, "nothing"))).size == picture.size


def test_the_profile_shows_gaps_levels_and_doubtful_slices() -> None:
    values = [80.0, 82.0, np.nan, 84.0, 86.0]
    bands = [Band("C3", 3, 4), Band("C4", 0, 1)]
    drawing = profile([0, 1, 2, 3, 4], values, title="a", unit="mm²", along="slice", bands=bands, marked=[4])
    lines = [shape for shape in drawing.shapes if isinstance(shape, Line) and shape.style == "whisker"]
    # Two pieces, the gap between them is not bridged.
    assert len(lines) == 2
    dots = {shape.style: shape.points for shape in drawing.shapes if isinstance(shape, Dots)}
    assert (len(dots["dots"]), len(dots["beyond"])) == (3, 1)
    # The head is on the left.
    assert dots["beyond"][0][0] < dots["dots"][0][0]
    names = [shape.text for shape in drawing.shapes if isinstance(shape, Text)]
    assert {"C3", "C4", "100", "0"} <= set(names)
    assert drawing.name == "a: 4 of 5 slices measured"
