"""nnUNetv2_spine_csa_drift: what changed between two models, what is listed, when the exit code says so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from area_cohort import AFFINE, SHAPE, Cohort, levels_map, save, soft_cord, write_cases

from nnunet_spine_ext.cli.csa_drift import main
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.evaluate.cord.drift import DriftGroup, DriftReport, csa_drift

WOBBLE = (0.1, -0.2, 0.15, -0.1, 0.2, -0.15, 0.05)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Seven subjects; the second model reads T2w 3 mm² larger and T1w as before."""
    made = Cohort(tmp_path)
    for k, by in enumerate(WOBBLE):
        true = 70.0 + 1.5 * k
        before = {"T1w": true + by, "T2w": true - by}
        made.add(f"s{k}", true, before, other={"T1w": true + by / 2, "T2w": true - by + 3})
    return made


def run(cohort: Cohort, **options: Any) -> DriftReport:
    given = {"cases": cohort.ref / "cases.json", "mode": "pv"} | options
    return csa_drift(cohort.pred, cohort.other, cohort.out, **given)


def by_contrast(report: DriftReport) -> dict[str, DriftGroup]:
    return {group.contrast: group for group in report.groups}


def test_the_contrast_that_changed_is_found_and_the_other_is_not(cohort: Cohort) -> None:
    report = run(cohort, margin=1.0)
    assert report.exit_code == 0
    groups = by_contrast(report)
    assert list(groups) == ["all", "T1w", "T2w"]
    assert groups["T2w"].mean_difference == pytest.approx(3.0, abs=0.01)
    assert groups["T1w"].mean_difference == pytest.approx(-np.mean(WOBBLE) / 2, abs=0.01)
    assert groups["all"].mean_difference == pytest.approx((3 - np.mean(WOBBLE) / 2) / 2, abs=0.01)
    assert [groups[c].pair.equivalence.equivalent for c in ("all", "T1w", "T2w")] == [False, True, False]
    assert (groups["all"].images, groups["all"].subjects, groups["all"].limits.repeated) == (14, 7, True)
    assert groups["T2w"].pair.paired.p == pytest.approx(2 / 2**7)
    assert groups["T2w"].pair.p_corrected == pytest.approx(3 * 2 / 2**7)
    assert {row.case for row in report.changed} == {f"s{k}_T2w" for k in range(7)}
    text = (cohort.out / "csa_drift.md").read_text(encoding="utf-8")
    assert "equivalence is not shown for T2w." in text


def test_the_spread_over_contrasts_of_both_models_is_compared(cohort: Cohort) -> None:
    group = by_contrast(run(cohort))["all"]
    expected = [np.std([by, -by], ddof=1) for by in WOBBLE], [np.std([by / 2, 3 - by], ddof=1) for by in WOBBLE]
    assert group.a_std == pytest.approx(np.mean(expected[0]), abs=0.01)
    assert group.b_std == pytest.approx(np.mean(expected[1]), abs=0.01)
    assert (group.spread.n, group.spread.rank_biserial) == (7, -1.0)
    assert by_contrast(run(cohort, ddof=0))["all"].a_std == pytest.approx(group.a_std / math.sqrt(2), rel=1e-6)


def test_with_references_the_errors_are_compared(cohort: Cohort) -> None:
    assert by_contrast(run(cohort))["T2w"].errors.n == 0
    group = by_contrast(run(cohort, ref=cohort.ref))["T2w"]
    expected = np.mean([abs(3 - by) - abs(by) for by in WOBBLE])
    assert group.errors.mean_difference == pytest.approx(expected, abs=0.02)
    assert (group.errors.n, group.errors.rank_biserial) == (7, -1.0)
    table = cohort.base / "areas.csv"
    lines = [f"{case},{70 + 1.5 * int(subject[1])}" for case, subject, _ in cohort.rows]
    table.write_text("\n".join(["case,area", *lines]), encoding="utf-8")
    again = by_contrast(run(cohort, ref=table))["T2w"]
    assert again.errors.mean_difference == pytest.approx(expected, abs=0.02)


def test_the_exit_code_follows_only_the_bound_that_was_asked_for(cohort: Cohort) -> None:
    assert run(cohort).exit_code == 0
    assert run(cohort, fail_above=3.1).exit_code == 0
    report = run(cohort, fail_above=2.9)
    assert report.exit_code == 3
    assert [group.contrast for group in report.exceeded] == ["T2w"]
    assert "above 2.9 mm²" in (cohort.out / "csa_drift.md").read_text(encoding="utf-8")


def test_a_bound_cannot_be_met_by_losing_the_cord(cohort: Cohort) -> None:
    for case, *_ in cohort.rows:
        save(cohort.other / f"{case}.nii.gz", np.zeros(SHAPE, np.float32))
    report = run(cohort, fail_above=100.0)
    assert report.exit_code == 3
    assert len(report.exceeded) == 3
    assert len(report.changed) == 14
    assert "no area" in (cohort.out / "csa_drift.md").read_text(encoding="utf-8")


def test_a_bound_cannot_be_met_by_losing_some_cords(cohort: Cohort) -> None:
    lost = [case for case, _, contrast in cohort.rows if contrast == "T1w"][:3]
    for case in lost:
        save(cohort.other / f"{case}.nii.gz", np.zeros(SHAPE, np.float32))
    assert run(cohort).exit_code == 0, "without a bound nobody asked"
    report = run(cohort, fail_above=100.0)
    assert (report.exceeded, report.exit_code) == ([], 3)
    assert [row.case for row in report.lost] == lost
    said = (cohort.out / "csa_drift.md").read_text(encoding="utf-8")
    a, b = report.names
    assert f"all slices: {b} finds no cord in 3 of 14 images in which {a} does." in said
    stored = json.loads((cohort.out / "csa_drift.json").read_text(encoding="utf-8"))
    assert stored["lost"] == [{"case": case, "range": "all slices"} for case in lost]


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_cord_that_is_lost_in_a_range_of_levels_is_found_either_way(cohort: Cohort, side: str) -> None:
    for case, *_ in cohort.rows:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    folder = cohort.pred if side == "a" else cohort.other
    save(folder / "s0_T1w.nii.gz", np.zeros(SHAPE, np.float32))
    report = run(cohort, fail_above=100.0, levels=cohort.base / "levels", level_range=["C2:C3"])
    assert [row.case for row in report.lost] == ["s0_T1w"]
    assert report.exit_code == 3


def test_a_model_that_finds_less_of_the_cord_is_listed(cohort: Cohort) -> None:
    save(cohort.other / "s0_T1w.nii.gz", soft_cord(70.05, range(1, 7)))
    report = run(cohort, changed_above=5.0)
    assert [row.case for row in report.changed] == ["s0_T1w"]
    group = by_contrast(report)["T1w"]
    assert (group.a_slices, group.b_slices, group.both_slices) == (70, 66, 66)
    assert "(6 slices of 10 and 6)" in (cohort.out / "csa_drift.md").read_text(encoding="utf-8")


def test_an_image_without_cord_for_both_has_not_changed(cohort: Cohort) -> None:
    for folder in (cohort.pred, cohort.other):
        save(folder / "s0_T1w.nii.gz", np.zeros(SHAPE, np.float32))
    report = run(cohort, margin=1.0)
    assert {row.case for row in report.changed} == {f"s{k}_T2w" for k in range(7)}
    text = (cohort.out / "csa_drift.md").read_text(encoding="utf-8")
    assert "In 1 of 14 neither finds cord." in text
    save(cohort.other / "s0_T1w.nii.gz", soft_cord(70.0))
    assert "s0_T1w" in {row.case for row in run(cohort, margin=1.0).changed}


def test_what_the_reference_does_not_say_is_not_called_lost(cohort: Cohort) -> None:
    """Unknown slices count for nobody; slices beyond the reference are no difference between the models."""
    unknown = soft_cord(70.0)
    unknown[:, :, 4:] = -1
    save(cohort.ref / "s0_T1w.nii.gz", unknown)
    save(cohort.ref / "s1_T1w.nii.gz", soft_cord(71.5, range(1, 5)))
    wrong = soft_cord(70.05)
    wrong[:, :, 4:] = 0
    save(cohort.other / "s0_T1w.nii.gz", wrong)
    report = run(cohort, ref=cohort.ref, changed_above=5.0)
    rows = {row.case: row for row in report.rows}
    found = [(r.slices, r.a_slices, r.b_slices, r.both_slices) for r in (rows["s0_T1w"], rows["s1_T1w"])]
    assert found == [(3, 3, 3, 3), (4, 10, 10, 10)]
    assert report.changed == []


def test_files_hold_what_the_report_says(cohort: Cohort) -> None:
    report = run(cohort, names=["v1", "v2"], ref=cohort.ref)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    stored = json.loads((cohort.out / "csa_drift.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["names"] == ["v1", "v2"]
    rows = {row["case"]: row for row in cohort.read("csa_drift.csv")}
    assert len(rows) == 14
    assert float(rows["s0_T2w"]["difference"]) == pytest.approx(3.0, abs=0.01)
    assert (rows["s0_T2w"]["changed"], rows["s0_T1w"]["changed"]) == ("True", "False")
    tests = cohort.read("csa_drift_tests.csv")
    assert [row["contrast"] for row in tests] == ["all", "T1w", "T2w"]
    assert float(tests[2]["limits_bias"]) == pytest.approx(3.0, abs=0.01)
    assert {p.name for p in (cohort.out / "plots").iterdir()} == set(report.pictures)
    assert len(report.pictures) == 4
    text = (cohort.out / "csa_drift.md").read_text(encoding="utf-8")
    for words in ("# Cord area: v1 and v2", "absolute error, v2 − v1", "7 of 14 differ", "STD of a subject"):
        assert words in text
    first = [(cohort.out / name).read_bytes() for name in ("csa_drift.json", "csa_drift.csv", "csa_drift.md")]
    run(cohort, names=["v1", "v2"], ref=cohort.ref)
    assert first == [(cohort.out / name).read_bytes() for name in ("csa_drift.json", "csa_drift.csv", "csa_drift.md")]


def test_equal_outputs_do_not_differ(cohort: Cohort) -> None:
    report = csa_drift(cohort.pred, cohort.ref, cohort.out, mode="pv", fail_above=0.5)
    assert report.exit_code == 0
    for case, *_ in cohort.rows:
        (cohort.other / f"{case}.nii.gz").write_bytes((cohort.pred / f"{case}.nii.gz").read_bytes())
    report = run(cohort, fail_above=0.0)
    assert report.exit_code == 0
    group = by_contrast(report)["all"]
    assert group.mean_difference == 0
    assert (group.pair.equivalence.equivalent, group.pair.paired.reason) == (True, "all differences are zero")
    assert report.changed == []


def test_levels_limit_the_comparison(cohort: Cohort) -> None:
    array = soft_cord(70.05)
    array[:, :, 1:5] = soft_cord(90.0)[:, :, 1:5]
    save(cohort.other / "s0_T1w.nii.gz", array)
    for case, *_ in cohort.rows:
        save(cohort.base / "levels" / f"{case}.nii.gz", levels_map())
    report = run(cohort, levels=cohort.base / "levels", level_range=["C2:C3", "C4"])
    rows = {row.range: row for row in report.rows if row.case == "s0_T1w"}
    assert rows["C2:C3"].difference == pytest.approx(-0.05, abs=0.01)
    assert rows["C4"].difference == pytest.approx(19.9, abs=0.2)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_image_that_one_folder_lacks_is_left_out_and_said(cohort: Cohort) -> None:
    (cohort.other / "s0_T1w.nii.gz").unlink()
    report = run(cohort)
    assert report.exit_code == 3
    assert report.summary.failed["s0_T1w"].code == "E-EVAL-MISSING"
    assert len(report.rows) == 13


def test_another_grid_fails_the_case(cohort: Cohort) -> None:
    moved = AFFINE.copy()
    moved[1, 3] += 0.4
    save(cohort.other / "s0_T1w.nii.gz", soft_cord(70.0), moved)
    report = run(cohort)
    assert report.summary.failed["s0_T1w"].code == "E-GEOM-GRID"
    assert run(cohort, resample="nearest").exit_code == 0


def test_without_contrasts_all_images_are_compared(cohort: Cohort) -> None:
    report = csa_drift(cohort.pred, cohort.other, cohort.out, mode="pv")
    assert [group.contrast for group in report.groups] == ["all"]
    assert report.groups[0].subjects == 14
    assert any("No contrast is known" in note for note in report.notes)


def test_a_subject_with_one_contrast_has_no_spread(cohort: Cohort) -> None:
    write_cases(cohort.ref / "cases.json", [row for row in cohort.rows if row[0] != "s0_T1w"])
    report = run(cohort)
    assert by_contrast(report)["all"].spread.n == 6
    assert "W-EVAL-NOSUBJECT" in {p.code for p in report.summary.warnings["s0_T1w"]}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"fail_above": -1.0}, "E-EVAL-RANGE"),
        ({"changed_above": math.nan}, "E-EVAL-RANGE"),
        ({"margin": -1.0}, "E-EVAL-RANGE"),
        ({"names": ["one"]}, "E-COMPARE-NAMES"),
        ({"cases": "nowhere.json"}, "E-EVAL-CASES"),
        ({"ref": "nowhere"}, "E-EVAL-FOLDER"),
        ({"ref": "nowhere.csv"}, "E-EVAL-CORD-TABLE"),
        ({"level_range": ["C2"]}, "E-EVAL-CORD-NOLEVELS"),
    ],
)
def test_wrong_options_are_refused(cohort: Cohort, options: Any, code: str) -> None:
    with pytest.raises(UsageError) as error:
        run(cohort, **options)
    assert error.value.code == code
    assert not cohort.out.exists()


def test_the_same_folder_twice_and_an_empty_one_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        csa_drift(cohort.pred, cohort.pred, cohort.out)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NoInputError):
        csa_drift(cohort.pred, tmp_path / "nothing", cohort.out)
    with pytest.raises(UsageError) as error:
        csa_drift(cohort.pred, cohort.other, cohort.pred)
    assert error.value.code == "E-OUT-INPUT"


def test_the_command(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["-a", str(cohort.pred), "-b", str(cohort.other), "-o", str(cohort.out), "--mode", "pv"]
    assert main([*folders, "--cases", str(cohort.ref / "cases.json"), "--fail-above", "1"]) == 3
    assert "mean difference" in capsys.readouterr().out
    assert main([*folders, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
