"""nnUNetv2_spine_evaluate --csa: areas of known cords, spread over contrasts, levels, tables of areas, bad input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from area_cohort import AFFINE, SHAPE, Cohort, hard_cord, levels_map, save, soft_cord, write_cases

from nnunet_spine_ext.cli.evaluate import main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.agreement import limits_of_agreement
from nnunet_spine_ext.evaluate.cases import on_grid_of
from nnunet_spine_ext.evaluate.cord.analysis import ImageRow, Plan, analyse
from nnunet_spine_ext.evaluate.cord.areas import parse_ranges, read_areas
from nnunet_spine_ext.evaluate.cord.evaluation import CordEvaluation
from nnunet_spine_ext.evaluate.cord.pictures import bands_of
from nnunet_spine_ext.evaluate.run import evaluate
from nnunet_spine_ext.evaluate.statistic import Resampling
from nnunet_spine_ext.render.agreement import Points, bland_altman, density, violins
from nnunet_spine_ext.render.drawing import Dots, Line, Outline
from nnunet_spine_ext.render.plots import Group
from nnunet_spine_ext.render.scales import Axis

AREAS = {"a": (70.0, 71.0, 69.0), "b": (76.0, 77.5, 76.5), "c": (82.0, 80.0, 83.0)}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Three subjects in two contrasts with soft maps; true area, area in T1w, area in T2w."""
    made = Cohort(tmp_path)
    for subject, (true, first, second) in AREAS.items():
        made.add(subject, true, {"T1w": first, "T2w": second})
    return made


def run(cohort: Cohort, **options: Any) -> CordEvaluation:
    result = evaluate(cohort.ref, cohort.pred, cohort.out, csa=True, **({"mode": "pv"} | options))
    assert isinstance(result, CordEvaluation)
    return result


def content(cohort: Cohort) -> dict[str, Any]:
    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    return dict(json.loads((cohort.out / "csa.json").read_text(encoding="utf-8"), parse_constant=refuse))


# --- values ----------------------------------------------------------------------------------------------------------


def test_areas_errors_and_spread_are_those_of_the_cords(cohort: Cohort) -> None:
    result = run(cohort)
    assert result.exit_code == 0
    rows = {row["case"]: row for row in cohort.read("csa.csv")}
    for subject, (true, *predicted) in AREAS.items():
        for contrast, area in zip(("T1w", "T2w"), predicted, strict=True):
            row = rows[f"{subject}_{contrast}"]
            assert float(row["csa"]) == pytest.approx(area, rel=1e-4)
            assert float(row["csa_reference"]) == pytest.approx(true, rel=1e-4)
            assert float(row["csa_error"]) == pytest.approx(area - true, abs=0.01)
            assert float(row["csa_absolute_error"]) == pytest.approx(abs(area - true), abs=0.01)
            assert float(row["soft_relative_volume_error"]) == pytest.approx(100 * (area - true) / true, abs=0.01)
            assert (row["map"], row["slices"], row["csa_coverage"]) == ("soft", "10", "1.0")
    subjects = {row["subject"]: row for row in cohort.read("csa_subjects.csv")}
    for subject, (_, first, second) in AREAS.items():
        assert float(subjects[subject]["std"]) == pytest.approx(np.std([first, second], ddof=1), abs=0.01)
        assert float(subjects[subject]["reference_std"]) == pytest.approx(0, abs=1e-9)
    found = content(cohort)["ranges"][0]
    stds = [float(row["std"]) for row in subjects.values()]
    assert found["std"]["mean"] == pytest.approx(np.mean(stds))
    assert found["std"]["subjects"] == 3
    assert found["std"]["ci_low"] <= found["std"]["mean"] <= found["std"]["ci_high"]
    assert content(cohort) == json.loads(json.dumps(result.to_dict()))


def test_population_standard_deviation_on_request(cohort: Cohort) -> None:
    run(cohort, ddof=0)
    first = cohort.read("csa_subjects.csv")[0]
    assert float(first["std"]) == pytest.approx(np.std(AREAS["a"][1:]), abs=0.01)
    assert "ddof 0" in (cohort.out / "csa.md").read_text(encoding="utf-8")


def test_dice_and_volume_error_are_those_at_one_half(cohort: Cohort) -> None:
    run(cohort)
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "c_T2w")
    true, found = hard_cord(82.0).sum(), hard_cord(83.0).sum()
    assert float(row["relative_volume_error"]) == pytest.approx(100 * (found - true) / true)
    assert float(row["dice"]) == pytest.approx(2 * min(true, found) / (true + found))


def test_mode_sct_does_not_see_a_weaker_map_and_mode_pv_does(cohort: Cohort) -> None:
    save(cohort.pred / "a_T1w.nii.gz", soft_cord(71.0, scale=0.8))
    run(cohort)
    physical = float(next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")["csa"])
    run(cohort, mode="sct")
    toolbox = float(next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")["csa"])
    assert physical == pytest.approx(0.8 * 71.0, rel=1e-3)
    assert toolbox == pytest.approx(71.0, rel=5e-3)


def test_same_input_same_bytes_in_one_process_and_in_two(cohort: Cohort) -> None:
    names = ("csa.csv", "csa_subjects.csv", "csa_tests.csv", "csa.md", "csa.json", "plots/csa_all-slices.png")
    run(cohort)
    first = [(cohort.out / name).read_bytes() for name in names]
    run(cohort, jobs=2)
    assert first == [(cohort.out / name).read_bytes() for name in names]


def test_the_soft_folder_of_a_prediction_is_taken_unless_told_otherwise(cohort: Cohort) -> None:
    for case, *_ in cohort.rows:
        save(cohort.pred / "soft" / f"{case}.nii.gz", soft_cord(60.0))
    run(cohort)
    assert {round(float(row["csa"])) for row in cohort.read("csa.csv")} == {60}
    assert content(cohort)["inputs"]["pred"].endswith("soft")
    run(cohort, maps="hard")
    assert 60 not in {round(float(row["csa"])) for row in cohort.read("csa.csv")}


def test_a_label_map_knows_its_cord_by_name_or_by_option(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.add("a", 70.0, {"T1w": 72.0}, soft=False)
    for folder in (cohort.ref, cohort.pred):
        array = 11 * hard_cord(70.0)
        array[:3] = 12
        save(folder / "a_T1w.nii.gz", array)
    result = run(cohort)
    assert result.exit_code == 4
    assert result.summary.failed["a_T1w"].code == "E-EVAL-CORD"
    run(cohort, cord="11")
    expected = cohort.read("csa.csv")[0]["csa"]
    write_json(cohort.base / "names.json", {"canal": 12, "cord": 11})
    run(cohort, labels=cohort.base / "names.json")
    assert cohort.read("csa.csv")[0]["csa"] == expected
    assert float(expected) == pytest.approx(hard_cord(70.0)[:, :, 3].sum() * 0.64)
    with_canal = run(cohort, labels=cohort.base / "names.json", cord="canal")
    assert with_canal.rows[0].area != pytest.approx(float(expected))
    assert run(cohort, labels=cohort.base / "names.json", cord="brain").exit_code == 4


def test_soft_maps_of_several_classes_give_their_cord(cohort: Cohort) -> None:
    write_json(cohort.pred / "dataset.json", {"labels": {"background": 0, "canal": 1, "cord": 2}})
    for case, *_ in cohort.rows:
        classes = np.stack([soft_cord(90.0), soft_cord(60.0)], axis=3)
        (cohort.pred / "soft").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(classes, AFFINE), cohort.pred / "soft" / f"{case}.nii.gz")
    assert run(cohort).exit_code == 0
    assert {round(float(row["csa"])) for row in cohort.read("csa.csv")} == {60}
    run(cohort, cord="canal")
    assert {round(float(row["csa"])) for row in cohort.read("csa.csv")} == {90}
    write_json(cohort.pred / "dataset.json", {"labels": {"background": 0, "cord": 1}})
    assert run(cohort).summary.failed["a_T1w"].code == "E-IN-DIM"


# --- slices and levels -----------------------------------------------------------------------------------------------


def test_slices_that_the_reference_does_not_know_do_not_count(cohort: Cohort) -> None:
    array = soft_cord(70.0)
    array[:, :, 6:] = -1
    save(cohort.ref / "a_T1w.nii.gz", array)
    wrong = soft_cord(71.0)
    wrong[:, :, 6:] = 0
    wrong[4:28, 4:24, 7] = 1
    save(cohort.pred / "a_T1w.nii.gz", wrong)
    run(cohort)
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")
    assert (row["slices"], row["reference_slices"]) == ("5", "5")
    assert float(row["csa_error"]) == pytest.approx(1.0, abs=0.05)
    assert float(row["soft_relative_volume_error"]) == pytest.approx(100 / 70, abs=0.1)
    assert float(row["assd"]) < 0.1


@pytest.mark.parametrize("orientation", ["PIR", "LPS", "SAR"])
def test_the_way_a_file_is_stored_changes_nothing(cohort: Cohort, orientation: str) -> None:
    array = soft_cord(70.0)
    array[:, :, 8:] = -1
    save(cohort.ref / "a_T1w.nii.gz", array)
    save(cohort.pred / "a_T1w.nii.gz", soft_cord(71.0, range(3, 11)))
    expected = [(row.case, row.area, row.reference, row.slices) for row in run(cohort, mode="sct").rows]
    for folder in (cohort.ref, cohort.pred):
        for path in folder.glob("*.nii.gz"):
            write_volume(read_volume(path).to(orientation), path)
    found = [(row.case, row.area, row.reference, row.slices) for row in run(cohort, mode="sct").rows]
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert np.array([row[1:] for row in found]) == pytest.approx(np.array([row[1:] for row in expected]))
    assert found[0][3] == 5


def test_without_references_only_contrasts_are_compared(cohort: Cohort) -> None:
    result = evaluate(cohort.pred, cohort.pred, cohort.out, csa=True, mode="pv", cases=cohort.ref / "cases.json")
    assert isinstance(result, CordEvaluation)
    assert result.exit_code == 0
    assert result.ranges[0].std.n == 3
    text = (cohort.out / "csa.md").read_text(encoding="utf-8")
    assert "Prediction against reference" not in text
    assert "coverage" not in text
    assert not (cohort.out / "plots" / "reference_all-slices.png").exists()


def test_a_prediction_that_ends_early_shows_in_the_coverage(cohort: Cohort) -> None:
    save(cohort.pred / "a_T1w.nii.gz", soft_cord(71.0, range(1, 6)))
    run(cohort)
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")
    assert (row["slices"], row["reference_slices"], row["csa_coverage"]) == ("5", "10", "0.5")
    assert float(row["csa_error"]) == pytest.approx(1.0, abs=0.05)


def test_a_faint_slice_is_no_cord(cohort: Cohort) -> None:
    array = soft_cord(71.0)
    array[:, :, 11] = soft_cord(71.0, scale=0.2)[:, :, 5]
    save(cohort.pred / "a_T1w.nii.gz", array)
    save(cohort.ref / "a_T1w.nii.gz", np.maximum(array, soft_cord(70.0)))
    run(cohort, mode="sct")
    assert next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")["slices"] == "10"


def test_areas_by_vertebral_level(cohort: Cohort) -> None:
    array = soft_cord(71.0)
    array[:, :, 1:5] = soft_cord(90.0)[:, :, 1:5]
    for case, *_ in cohort.rows:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    save(cohort.pred / "a_T1w.nii.gz", array)
    run(cohort, levels=cohort.base / "levels", level_range=["C2:C3", "4", "T1"])
    rows = {r["range"]: r for r in cohort.read("csa.csv") if r["case"] == "a_T1w"}
    assert float(rows["C2:C3"]["csa"]) == pytest.approx(71.0, rel=1e-3)
    assert float(rows["C4"]["csa"]) == pytest.approx(90.0, rel=1e-2)
    assert (rows["C2:C3"]["slices"], rows["C4"]["slices"], rows["T1"]["slices"]) == ("6", "4", "0")
    assert rows["T1"]["csa"] == ""
    assert {one["name"] for one in content(cohort)["ranges"]} == {"C2:C3", "C4", "T1"}


def test_a_span_and_a_list_of_the_same_levels_keep_tables_and_pictures_apart(cohort: Cohort) -> None:
    for case, *_ in cohort.rows:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    result = run(cohort, levels=cohort.base / "levels", level_range=["C2:C4", "2,4"], latex="mean")
    assert [one.name for one in result.ranges] == ["C2:C4", "C2,C4"]
    labels = re.findall(r"\\label\{(.*)\}", (cohort.out / "csa.tex").read_text(encoding="utf-8"))
    assert len(set(labels)) == 2
    assert labels[0] == "tab:csa-C2-C4"
    assert {"csa_C2-C4.png", "csa_C2_C4.png"} <= {path.name for path in (cohort.out / "plots").iterdir()}
    assert len(result.pictures) == len(set(result.pictures)) == 2 * 2 * 3


def test_levels_from_point_files(cohort: Cohort) -> None:
    from nnunet_spine_ext.measure.points import PointList, write_points

    grid = Volume(np.zeros(SHAPE, np.uint8), AFFINE)
    for case, *_ in cohort.rows:
        middle = [float(n // 2) for n in SHAPE[:2]]
        points = {103: (*middle, 7.0), 104: (*middle, 3.0)}
        write_points(cohort.base / "points" / f"{case}.json", PointList(points, grid), "poi")
    run(cohort, discs=cohort.base / "points", level_range=["C3", "C4"])
    rows = {row["range"]: row for row in cohort.read("csa.csv") if row["case"] == "a_T1w"}
    assert rows["C4"]["slices"] == "4"
    assert rows["C4"]["csa"]


def test_sidecars_beside_disc_masks_are_no_points(cohort: Cohort) -> None:
    discs = np.zeros(SHAPE, np.uint8)
    discs[SHAPE[0] // 2, SHAPE[1] // 2, 3], discs[SHAPE[0] // 2, SHAPE[1] // 2, 7] = 5, 4
    for case, *_ in cohort.rows:
        save(cohort.base / "discs" / f"{case}.nii.gz", discs)
        write_json(cohort.base / "discs" / f"{case}.json", {"Name": "a sidecar"})
    result = run(cohort, discs=cohort.base / "discs", level_range=["C4"])
    assert result.exit_code == 0
    assert next(row for row in cohort.read("csa.csv") if row["case"] == "a_T1w")["slices"] == "4"


def test_faint_slices_are_not_told_where_they_do_not_count(cohort: Cohort) -> None:
    soft = soft_cord(70.0)
    soft[:, :, 1:3] *= 0.1
    save(cohort.pred / "a_T1w.nii.gz", soft)
    result = run(cohort, mode="sct")
    assert not [p for p in result.summary.warnings.get("a_T1w", []) if "full strength" in p.found]


def test_levels_that_are_missing_fail_their_case_only(cohort: Cohort) -> None:
    for case, *_ in cohort.rows[1:]:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    result = run(cohort, levels=cohort.base / "levels", level_range=["C2:C3"])
    assert result.exit_code == 3
    assert result.summary.failed["a_T1w"].code == "E-EVAL-CORD-LEVELS"
    assert len(result.summary.done) == 5


def test_ranges_are_named_alike_whatever_their_spelling() -> None:
    assert [one.name for one in parse_ranges(["2:3", "c2:c3", "T1", "3,5"])] == ["C2:C3", "T1", "C3,C5"]
    assert [one.name for one in parse_ranges([])] == ["all slices"]


# --- a table of areas as reference -----------------------------------------------------------------------------------


def test_a_table_of_areas_stands_for_the_references(cohort: Cohort) -> None:
    table = cohort.base / "areas.csv"
    lines = [f"{case},{AREAS[subject][0]}" for case, subject, _ in cohort.rows]
    table.write_text("\n".join(["case,area", *lines]), encoding="utf-8")
    evaluate(table, cohort.pred, cohort.out, csa=True, mode="pv", cases=cohort.ref / "cases.json")
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "c_T1w")
    assert float(row["csa_error"]) == pytest.approx(-2.0, abs=0.05)
    assert row["dice"] == row["reference_slices"] == ""


def test_a_table_by_slice_is_compared_in_the_slices_that_both_have(cohort: Cohort) -> None:
    table = cohort.base / "areas.csv"
    lines = [f"a_T1w,{k},{70 if k < 5 else 50},{4 if k < 5 else 3}" for k in range(1, 9)]
    table.write_text("\n".join(["case,slice,area,level", *lines, "a_T1w,9,,3"]), encoding="utf-8")
    evaluate(table, cohort.pred, cohort.out, csa=True, mode="pv", level_range=["C4", "C3"])
    rows = {row["range"]: row for row in cohort.read("csa.csv")}
    assert float(rows["C4"]["csa_error"]) == pytest.approx(1.0, abs=0.05)
    assert float(rows["C3"]["csa_error"]) == pytest.approx(21.0, abs=0.05)
    assert (rows["C3"]["slices"], rows["C3"]["reference_slices"]) == ("4", "4")


def test_an_area_that_is_not_known_is_counted_and_left_out(cohort: Cohort) -> None:
    table = cohort.base / "areas.csv"
    lines = [f"{case},{'nan' if case == 'a_T1w' else 75}" for case, *_ in cohort.rows]
    table.write_text("\n".join(["case,area", *lines]), encoding="utf-8")
    result = evaluate(table, cohort.pred, cohort.out, csa=True, mode="pv", cases=cohort.ref / "cases.json")
    assert isinstance(result, CordEvaluation)
    found = result.ranges[0].statistics["all"]["csa_error"]
    assert (found.n, found.excluded_undefined) == (5, 1)


@pytest.mark.parametrize(
    "text",
    ["", "case,area\na,-1\n", "case,area\na,inf\n", "case,area\na,big\n", "name,area\na,1\n", "case,volume\na,1\n",
     "case,area\na,1\na,2\n", "case,slice,area\na,1.5,70\n", "case,slice,area\na,1,70\na,1,71\n", "area,case\n70\n"],
)  # fmt: skip
def test_a_wrong_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "areas.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_areas(tmp_path / "areas.csv")
    assert error.value.code == "E-EVAL-CORD-TABLE"


def test_tables_of_other_commands_are_tables_of_areas(tmp_path: Path) -> None:
    (tmp_path / "levels.csv").write_text("case,level,name,slices,mean_area,std_area\na,2:3,C2:C3,6,71.5,0.2\n")
    table = read_areas(tmp_path / "levels.csv")
    assert table.mean("a", parse_ranges(["2:3"])[0]) == 71.5
    assert math.isnan(table.mean("a", parse_ranges(["C4"])[0]))


# --- subjects and contrasts ------------------------------------------------------------------------------------------


def test_subjects_and_contrasts_from_a_table(cohort: Cohort) -> None:
    (cohort.ref / "cases.json").unlink()
    write_cases(cohort.base / "who.csv", cohort.rows)
    result = run(cohort, cases=cohort.base / "who.csv")
    assert result.ranges[0].contrasts == ("T1w", "T2w")
    assert result.ranges[0].std.n == 3


def test_without_contrasts_nothing_is_said_about_their_spread(cohort: Cohort) -> None:
    (cohort.ref / "cases.json").unlink()
    result = run(cohort)
    assert result.exit_code == 0
    assert result.ranges[0].std.n == 0
    assert any("No contrast is known" in note for note in result.notes)
    text = (cohort.out / "csa.md").read_text(encoding="utf-8")
    assert "Spread over contrasts" not in text
    assert "Prediction against reference" in text
    write_cases(cohort.ref / "cases.json", cohort.rows)
    [note] = run(cohort, contrast="contrsat").remarks
    assert "key contrsat, has contrast" in note


def test_a_subject_with_one_contrast_has_no_spread_and_leaves_the_anova(cohort: Cohort) -> None:
    cohort.add("d", 75.0, {"T1w": 76.0})
    result = run(cohort)
    found = result.ranges[0]
    alone = next(row for row in found.subject_rows if row.subject == "d")
    assert (alone.contrasts, alone.complete) == (1, False)
    assert math.isnan(alone.std)
    assert (found.std.n, found.std.excluded_undefined) == (3, 1)
    assert (found.anova.subjects, found.anova.incomplete, found.icc.incomplete) == (3, 1, 1)
    [pair] = found.pairs
    assert (pair.paired.n, pair.limits.n, pair.fit.n) == (3, 3, 3)
    assert pair.limits.bias == pytest.approx(0.0, abs=0.02)
    assert "1 with one only" in (cohort.out / "csa.md").read_text(encoding="utf-8")


def test_losing_a_contrast_does_not_improve_the_spread_of_the_complete(tmp_path: Path) -> None:
    made = Cohort(tmp_path)
    for name, areas in (("a", (70, 70, 90)), ("b", (60, 62, 80)), ("c", (75, 75, 76))):
        made.add(name, 70.0, dict(zip(("DWI", "T1w", "T2w"), map(float, areas), strict=True)))
    before = run(made).ranges[0]
    assert "only subjects with all" not in (made.out / "csa.md").read_text(encoding="utf-8")
    assert before.complete_std.mean == before.std.mean
    save(made.pred / "a_T2w.nii.gz", np.zeros(SHAPE, np.float32))
    after = run(made).ranges[0]
    assert after.std.mean < before.std.mean
    expected = [np.std([60, 62, 80], ddof=1), np.std([75, 75, 76], ddof=1)]
    assert after.complete_std.mean == pytest.approx(np.mean(expected), rel=0.01)
    assert after.complete_std.n == 2
    assert "predictions, only subjects with all 3" in (made.out / "csa.md").read_text(encoding="utf-8")


def test_levels_that_a_cord_lacks_are_said(cohort: Cohort) -> None:
    for case, *_ in cohort.rows:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    result = run(cohort, levels=cohort.base / "levels", level_range=["C2:C6", "C2:C3"])
    notes = [problem.found for problem in result.summary.warnings["a_T1w"]]
    assert [note for note in notes if note.startswith("no slice")] == ["no slice of C5, C6 in C2:C6"]


def test_a_table_that_was_measured_in_another_mode_is_said(cohort: Cohort) -> None:
    from nnunet_spine_ext.measure.csa_run import csa

    table = cohort.base / "areas.csv"
    csa(cohort.ref, table, mode="pv")
    for mode, count in (("sct", 1), ("pv", 0)):
        result = evaluate(table, cohort.pred, cohort.out, csa=True, mode=mode, cases=cohort.ref / "cases.json")
        assert isinstance(result, CordEvaluation)
        assert len([text for text in result.remarks if "measured in mode pv" in text]) == count


def test_a_case_without_a_contrast_counts_in_all_only(cohort: Cohort) -> None:
    write_cases(cohort.ref / "cases.json", [*cohort.rows[:-1], ("c_T2w", "c", "")])
    result = run(cohort)
    assert result.ranges[0].statistics["all"]["csa"].n == 6
    assert result.ranges[0].statistics["T2w"]["csa"].n == 2
    assert any("not known" in note and "c_T2w" in note for note in result.notes)


def test_an_unknown_subject_is_said(cohort: Cohort) -> None:
    write_cases(cohort.ref / "cases.json", cohort.rows[:-1])
    result = run(cohort)
    assert [p.code for p in result.summary.warnings["c_T2w"]] == ["W-EVAL-NOSUBJECT"]


def test_two_images_of_one_contrast_are_averaged_and_that_is_said(cohort: Cohort) -> None:
    write_cases(cohort.ref / "cases.json", [(case, "a" if s == "b" else s, c) for case, s, c in cohort.rows])
    result = run(cohort)
    assert result.ranges[0].table.shape == (2, 2)
    assert result.ranges[0].table[0, 0] == pytest.approx((71.0 + 77.5) / 2, rel=1e-3)
    assert any("averaged" in note for note in result.notes)


@pytest.mark.parametrize("text", ["case,who\na,b\n", "case,subject\na,b\na,c\n", "case,subject\na,\n"])
def test_a_wrong_table_of_cases_is_refused(cohort: Cohort, text: str) -> None:
    (cohort.base / "who.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        run(cohort, cases=cohort.base / "who.csv")
    assert error.value.code == "E-EVAL-CASES"


# --- statistics over contrasts ---------------------------------------------------------------------------------------


def test_a_contrast_that_reads_larger_is_found(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, ("T1w", "T2w", "T2star"))
    wobble = (0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.05)
    for k, by in enumerate(wobble):
        true = 70.0 + k
        cohort.add(f"s{k}", true, {"T1w": true + by, "T2w": true - by, "T2star": true + 3 + by / 2})
    result = run(cohort, margin=1.0, latex="mean")
    found = result.ranges[0]
    pairs = {(pair.a, pair.b): pair for pair in found.pairs}
    assert set(pairs) == {("T1w", "T2star"), ("T1w", "T2w"), ("T2star", "T2w")}
    apart, same = pairs["T1w", "T2star"], pairs["T1w", "T2w"]
    assert apart.paired.mean_difference == pytest.approx(3.0, abs=0.1)
    assert (apart.paired.p, apart.p_corrected) == (pytest.approx(2 / 2**7), pytest.approx(3 * 2 / 2**7))
    assert (apart.equivalence.equivalent, same.equivalence.equivalent) == (False, True)
    assert same.paired.p > 0.05
    assert found.anova.p < 1e-6
    assert found.icc.agreement < found.icc.consistency - 0.1
    by_contrast = {row.contrast: row for row in found.against}
    assert by_contrast["T2star"].limits.bias == pytest.approx(3.0, abs=0.1)
    assert by_contrast["all"].limits.repeated
    assert by_contrast["all"].icc.reason.startswith("several images")
    # Subjects, not images, are what is tested and resampled.
    assert (by_contrast["all"].limits.n, by_contrast["all"].equivalence.n) == (21, 7)
    assert found.statistics["all"]["csa_error"].subjects == 7
    assert all(math.isfinite(side) for side in by_contrast["T2star"].icc.agreement_interval)
    assert len(cohort.read("csa_tests.csv")) == 3
    text = (cohort.out / "csa.md").read_text(encoding="utf-8")
    for words in ("F(2, 12) =", "Greenhouse-Geisser", "ICC(A,1)", "not shown", "yes (p"):
        assert words in text
    tex = (cohort.out / "csa.tex").read_text(encoding="utf-8")
    assert "T2star" in tex
    assert "²" not in tex
    assert {p.name for p in (cohort.out / "plots").iterdir()} == set(result.pictures)
    assert len(result.pictures) == 6


def test_p_values_are_corrected_over_the_pairs_of_all_ranges() -> None:
    rows = [
        ImageRow(f"s{k}_{contrast}", f"s{k}", contrast, name, 70.0 + k + more + 0.01 * k * k)
        for name in ("C2:C3", "C4")
        for k in range(7)
        for contrast, more in (("T1w", 0.0), ("T2w", 0.1 * k + 0.2))
    ]
    found = analyse(rows, Plan(correction="bonferroni", resampling=Resampling({}, 0)))
    assert [one.name for one in found] == ["C2:C3", "C4"]
    for one in found:
        assert one.pairs[0].paired.p == pytest.approx(2 / 2**7)
        assert one.pairs[0].p_corrected == pytest.approx(2 * 2 / 2**7)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_empty_prediction_has_no_area_and_is_said(cohort: Cohort) -> None:
    save(cohort.pred / "a_T1w.nii.gz", np.zeros(SHAPE, np.float32))
    result = run(cohort)
    assert result.exit_code == 0
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")
    assert (row["csa"], row["csa_error"], row["csa_coverage"], row["dice"]) == ("", "", "0.0", "0.0")
    assert any("nothing above one half" in note and "a_T1w" in note for note in result.notes)
    assert result.ranges[0].statistics["all"]["csa_error"].excluded_undefined == 1


def test_a_missing_prediction_counts_as_one_and_makes_the_exit_code_3(cohort: Cohort) -> None:
    (cohort.pred / "a_T1w.nii.gz").unlink()
    result = run(cohort)
    assert result.exit_code == 3
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")
    assert (row["status"], row["csa"], row["csa_coverage"], row["dice"]) == ("missing", "", "0.0", "0.0")


def test_a_soft_map_on_another_grid_is_refused_or_resampled(cohort: Cohort) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.4
    save(cohort.pred / "a_T1w.nii.gz", soft_cord(71.0), moved)
    result = run(cohort)
    assert result.exit_code == 3
    assert result.summary.failed["a_T1w"].code == "E-GEOM-GRID"
    again = run(cohort, resample="nearest")
    assert again.exit_code == 0
    assert "linearly" in str(again.summary.warnings["a_T1w"][0])
    row = next(r for r in cohort.read("csa.csv") if r["case"] == "a_T1w")
    assert float(row["csa"]) == pytest.approx(71.0, rel=1e-2)


def test_soft_maps_are_interpolated_and_masks_are_not(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.4
    ref, other = Volume(soft_cord(70.0), AFFINE), Volume(soft_cord(71.0), moved)
    soft, _ = on_grid_of(ref, other, tmp_path, "nearest", soft=True)
    assert soft[1:] == pytest.approx((other.array[1:] + other.array[:-1]) / 2, abs=1e-6)
    hard, _ = on_grid_of(ref, other, tmp_path, "nearest")
    assert set(np.unique(hard)) <= set(np.unique(other.array))


def test_values_that_are_no_numbers_are_said(cohort: Cohort) -> None:
    array = soft_cord(71.0)
    array[0, 0, 0] = math.nan
    save(cohort.pred / "a_T1w.nii.gz", array)
    result = run(cohort)
    assert "1 voxels that are no number" in str(result.summary.warnings["a_T1w"][0])
    assert result.exit_code == 0


def test_values_on_another_scale_fail_their_case(cohort: Cohort) -> None:
    save(cohort.pred / "a_T1w.nii.gz", 255 * soft_cord(71.0))
    result = run(cohort)
    assert result.exit_code == 3
    problem = result.summary.failed["a_T1w"]
    assert problem.code == "E-CSA-RANGE"
    assert problem.file.endswith("a_T1w.nii.gz")


def test_an_unreadable_file_fails_its_case_only(cohort: Cohort) -> None:
    (cohort.pred / "a_T1w.nii.gz").write_bytes(b"nothing")
    result = run(cohort)
    assert result.exit_code == 3
    assert len(result.summary.done) == 5


def test_a_prediction_without_a_reference_is_said(cohort: Cohort) -> None:
    save(cohort.pred / "x.nii.gz", soft_cord(71.0))
    result = run(cohort)
    assert [p.code for p in result.summary.warnings["x"]] == ["W-EVAL-EXTRA"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"ddof": 2}, "E-EVAL-RANGE"),
        ({"margin": 0.0}, "E-EVAL-RANGE"),
        ({"margin": math.inf}, "E-EVAL-RANGE"),
        ({"mode": "exact"}, "E-EVAL-RANGE"),
        ({"correction": "none at all"}, "E-EVAL-RANGE"),
        ({"bootstrap": -1}, "E-EVAL-RANGE"),
        ({"jobs": 0}, "E-EVAL-RANGE"),
        ({"level_range": ["C9"]}, "E-CSA-LEVELRANGE"),
        ({"level_range": ["C2:C3"]}, "E-EVAL-CORD-NOLEVELS"),
        ({"levels": "somewhere", "discs": "elsewhere"}, "E-EVAL-CORD-SOURCES"),
        ({"levels": "nowhere", "level_range": ["C2"]}, "E-EVAL-FOLDER"),
        ({"maps": "soft"}, "E-EVAL-CORD-SOFT"),
        ({"levels": "somewhere"}, "E-EVAL-CORD-NORANGE"),
        ({"metrics": ["dice"]}, "E-EVAL-CORD-OPTION"),
        ({"regions": True}, "E-EVAL-CORD-OPTION"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(cohort: Cohort, options: Any, code: str) -> None:
    with pytest.raises(UsageError) as error:
        run(cohort, **options)
    assert error.value.code == code
    assert not cohort.out.exists()


def test_options_of_areas_need_csa(cohort: Cohort) -> None:
    with pytest.raises(UsageError) as error:
        evaluate(cohort.ref, cohort.pred, cohort.out, margin=1.0)
    assert (error.value.code, "--csa" in error.value.fix) == ("E-EVAL-CORD-OPTION", True)


def test_the_command_says_what_it_did(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--csa", "-ref", str(cohort.ref), "-pred", str(cohort.pred), "-o", str(cohort.out), "--mode", "pv"]
    assert main(arguments) == 0
    assert "STD across contrasts" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranges"][0]["contrasts"] == ["T1w", "T2w"]
    assert main([*arguments, "--metrics", "dice"]) == 2


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_violin_shows_every_value_and_stays_inside_them() -> None:
    values = tuple(enumerate([70.0, 72.0, 73.0, 73.5, 75.0, 80.0, math.nan]))
    drawing = violins([Group("T1w", values), Group("few", values[:3])], Axis("area", "mm²"), "Areas")
    dots = [shape for shape in drawing.shapes if isinstance(shape, Dots)]
    outlines = [shape for shape in drawing.shapes if isinstance(shape, Outline)]
    assert [len(one.points) for one in dots] == [6, 3]
    assert len(outlines) == 1
    xs, ends = [x for x, _ in outlines[0].points], [x for x, _ in dots[0].points]
    assert (min(xs), max(xs)) == (pytest.approx(min(ends)), pytest.approx(max(ends)))


def test_bands_of_agreement_lie_where_the_differences_are() -> None:
    differences = (1.0, 3.0, 2.0, 0.5)
    limits = limits_of_agreement(differences)
    points = Points("all", (70.0, 72.0, 75.0, 80.0), differences, "mean of both", "error")
    bands = bands_of(limits)
    assert f"limits {limits.low:.2f} to {limits.high:.2f}" in bands.note
    shapes = bland_altman([(points, bands)], "mm²", "agreement").shapes
    [dots] = [shape for shape in shapes if isinstance(shape, Dots)]
    low, high = sorted(shape.y1 for shape in shapes if isinstance(shape, Line) and shape.style == "limit")
    [bias] = [shape.y1 for shape in shapes if isinstance(shape, Line) and shape.style == "bias"]
    heights = [y for _, y in dots.points]
    assert bias == pytest.approx(np.mean(heights))
    # Up is larger.
    assert int(np.argmin(heights)) == 1
    scale = (heights[0] - heights[1]) / 2.0
    assert (high - bias, bias - low) == (pytest.approx(1.96 * limits.sd * scale, rel=1e-3),) * 2


def test_the_density_is_that_of_scipy() -> None:
    from scipy.stats import gaussian_kde

    values = [70.0, 72.0, 73.0, 73.5, 75.0, 80.0]
    places, heights = density(values)
    expected = gaussian_kde(values)(places)
    assert heights == pytest.approx((expected / expected.max()).tolist())


# --- real cords ------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(("source", "file"), [("levels", "t2_seg-manual_labeled"), ("discs", "labels")])
def test_levels_of_a_real_cord_give_the_means_of_the_measuring_command(
    test_data: Path, tmp_path: Path, source: str, file: str
) -> None:
    from nnunet_spine_ext.measure.csa_run import csa

    folder = test_data / "sct-testing" / "t2"
    ref, pred = (folder / f"t2_seg-{name}.nii.gz" for name in ("manual", "deepseg_sc-3d"))
    given: dict[str, Any] = {source: folder / f"{file}.nii.gz", "level_range": "C3:C4"}
    for name, path in (("ref", ref), ("pred", pred)):
        csa(path, tmp_path / f"{name}.csv", area_only=True, **given)
    for name in ("ref", "pred", "levels"):
        (tmp_path / name).mkdir()
    (tmp_path / "ref" / "a.nii.gz").write_bytes(ref.read_bytes())
    (tmp_path / "pred" / "a.nii.gz").write_bytes(pred.read_bytes())
    (tmp_path / "levels" / "a.nii.gz").write_bytes((folder / f"{file}.nii.gz").read_bytes())
    given = {source: tmp_path / "levels", "level_range": ["C3:C4"]}
    result = evaluate(tmp_path / "ref", tmp_path / "pred", tmp_path / "out", csa=True, **given)
    assert isinstance(result, CordEvaluation)
    [row] = result.rows
    assert row.reference == pytest.approx(
        read_areas(tmp_path / "ref.csv").mean("t2_seg-manual", parse_ranges(["3:4"])[0])
    )
    own = read_areas(tmp_path / "pred.csv").mean("t2_seg-deepseg_sc-3d", parse_ranges(["3:4"])[0])
    assert row.area == pytest.approx(own, rel=1e-3)
    assert row.coverage == 1.0
    assert 0.97 < row.scores["dice"] < 0.99
