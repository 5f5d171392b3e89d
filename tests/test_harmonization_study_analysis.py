"""From rows of an evaluation of harmonization to tables, figures, goals and the page."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harmonization_cohort import DICE, ERRORS, FEATURES, OWN, VENDORS, write_evaluation

from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.study.harmonization import pictures as drawn
from nnunet_spine_ext.study.harmonization.analysis import analyse
from nnunet_spine_ext.study.harmonization.arms import ARMS, TABLE_3, TABLE_4
from nnunet_spine_ext.study.harmonization.measured import read_measured
from nnunet_spine_ext.study.harmonization.overlap import overlap
from nnunet_spine_ext.study.harmonization.pictures import checkerboard, pictures, read_shown
from nnunet_spine_ext.study.harmonization.results import Results
from nnunet_spine_ext.study.records import write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation, analysed."""
    folder = write_evaluation(tmp_path_factory.mktemp("evaluation"))
    analyse(folder, bootstrap=200)
    return folder


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_soft_dice_and_thresholded_f1_are_two_numbers() -> None:
    probability = np.array([[0.9, 0.6, 0.4, 0.1]])
    found = overlap(probability, np.array([[1, 1, 1, 0]], dtype=np.uint8))
    assert found.dice == pytest.approx(2 * 1.9 / (2.0 + 3))
    assert found.f1 == pytest.approx(2 * 2 / (2 + 3))
    assert found.iou == pytest.approx(2 / 3)
    assert (found.precision, found.recall) == (1.0, pytest.approx(2 / 3))
    assert (found.reference_pixels, found.predicted_pixels) == (3, 2)


def test_hard_maps_have_one_dice_and_one_f1() -> None:
    rng = np.random.default_rng(0)
    truth, found = (rng.random((20, 20)) > 0.6 for _ in range(2))
    one = overlap(found.astype(float), truth.astype(np.uint8))
    assert one.dice == pytest.approx(one.f1)
    assert one.iou == pytest.approx(one.f1 / (2 - one.f1))


@pytest.mark.parametrize(
    ("probability", "mask", "expected"),
    [
        (0.0, 0, {"dice": math.nan, "f1": math.nan, "precision": math.nan, "recall": math.nan}),
        (1.0, 0, {"dice": 0.0, "f1": 0.0, "iou": 0.0, "precision": 0.0, "recall": math.nan}),
        (0.0, 1, {"dice": 0.0, "f1": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0}),
        (1.0, 255, {"dice": math.nan, "f1": math.nan, "precision": math.nan, "recall": math.nan}),
    ],
)
def test_empty_masks_are_defined(probability: float, mask: int, expected: dict[str, float]) -> None:
    found = overlap(np.full((4, 4), probability), np.full((4, 4), mask, dtype=np.uint8))
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, nan_ok=True), name


def test_maps_and_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        overlap(np.zeros((4, 4)), np.zeros((4, 5), dtype=np.uint8))


def test_tables_of_the_paper_have_their_rows_and_the_values_that_were_written(folder: Path) -> None:
    third = _table(folder, "table3")
    assert [row["arm"] for row in third] == list(TABLE_3)
    assert [(row["s_x"], row["s_y"]) for row in third] == [("–", "–"), ("–", "yes"), ("yes", "yes")]
    fourth = _table(folder, "table4")
    assert [row["arm"] for row in fourth] == list(TABLE_4)
    for row in (*third, *fourth):
        assert float(row["dice"]) == pytest.approx(DICE[row["arm"]], abs=1e-6)
        assert float(row["dice_low"]) < float(row["dice"]) < float(row["dice_high"])
        assert float(row["against_full"]) == pytest.approx(DICE[row["arm"]] - DICE["full"], abs=1e-6)
    fifth = _table(folder, "table5")
    assert [row["arm"] for row in fifth] == [
        "none", "none", "zscore", "histogram", "nyul", "cyclegan", "rf", "seg", "full", "none",
    ]  # fmt: skip
    assert float(fifth[-1]["dice"]) == pytest.approx(OWN, abs=1e-6)
    second, seventh = _table(folder, "table2"), _table(folder, "table7")
    assert [row["segmenter"] for row in second] == ["unet", "small"]
    assert second[0]["parameters"] == "123456"
    assert [float(row["dice"]) for row in second] == pytest.approx([OWN, OWN - 0.1], abs=1e-6)
    assert [float(row["dice"]) for row in seventh] == pytest.approx([DICE["none"], DICE["none"] - 0.1], abs=1e-6)


def test_shares_of_the_gap_are_those_of_the_means(folder: Path) -> None:
    results = Results(read_measured(folder), 200)
    gap = OWN - DICE["none"]
    assert results.gap(results.others).value == pytest.approx(gap, abs=1e-6)
    found = results.recovered("full", results.others)
    assert found.value == pytest.approx((DICE["full"] - DICE["none"]) / gap, abs=1e-6)
    assert found.low < found.value < found.high
    assert results.recovered("none", results.others).value == pytest.approx(0.0, abs=1e-9)
    assert results.unseen == ("avanto",)


def test_errors_by_feature_and_vendor_are_in_the_heat_map(folder: Path) -> None:
    with (folder / "figures" / "figure11.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["vendor"] for row in rows} == {"all", *VENDORS} - {"essenza"}
    assert len(rows) == 4 * 4 * len(FEATURES)
    for row in rows:
        assert float(row["error"]) == pytest.approx(ERRORS.get(row["arm"], 0.05), abs=1e-6)
    means = {row["title"]: row for row in _table(folder, "radiomics-mean")}
    assert float(means["CycleGAN +RF +Seg"]["SumEntropy"]) == pytest.approx(0.0, abs=1e-6)
    assert float(_table(folder, "radiomics")[-1]["Idmn"]) == pytest.approx(0.005, abs=1e-6)


def test_goals_are_reached_or_missed_by_what_was_measured(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    found = {goal["goal"].split(" ")[0]: goal["status"] for goal in summary["goals"]}
    assert [goal["status"] for goal in summary["goals"]] == [
        "reached", "reached", "reached", "reached", "reached", "reached", "missed",
    ], found  # fmt: skip
    assert not summary["void"]


def test_goals_are_missed_where_values_say_so(tmp_path: Path) -> None:
    errors = dict.fromkeys(DICE, 0.03)
    write_evaluation(tmp_path, dice=DICE | {"full": 0.8}, errors=errors, shown=False)
    summary = analyse(tmp_path, bootstrap=50)
    found = {goal.key: goal.status for goal in summary.goals}
    assert found == {
        "recovered": "missed", "recovered-unseen": "missed", "radiomics": "missed", "radiomics-mean": "reached",
        "nyul": "missed", "edges": "reached", "volume": "missed",
    }  # fmt: skip
    assert summary.exit_code == 0


def test_a_method_that_is_as_good_as_nyul_is_not_nearer(tmp_path: Path) -> None:
    write_evaluation(tmp_path, errors=dict.fromkeys(DICE, 0.03), shown=False)
    found = {goal.key: goal for goal in analyse(tmp_path, bootstrap=50).goals}["nyul"]
    assert found.value.value == 0.0
    assert found.status == "missed"


def test_the_change_of_area_says_on_how_many_slices_it_rests(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    rows = _rewrite(tmp_path / "geometry.csv", lambda row: row | {"volume_change": ""} if row["slice"] == "0" else row)
    every = [row for row in rows if row["arm"] == "full"]
    known = sum(row["volume_change"] != "" for row in every)
    assert 0 < known < len(every)
    found = {goal.key: goal for goal in analyse(tmp_path, bootstrap=50).goals}["volume"]
    assert found.where.startswith(f"on {known} of {len(every)} slices")


def test_areas_too_large_and_too_small_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    pixels = {"intera": "150", "ingenia": "50"}
    _rewrite(
        tmp_path / "segmentation.csv", lambda row: row | {"predicted_pixels": pixels.get(row["vendor"], "100")}
    )  # fmt: skip
    results = Results(read_measured(tmp_path), 20)
    assert results.area_error("full", ["intera", "ingenia"]).value == pytest.approx(0.5)
    # Nor do those of two slices of one patient.
    pixels = {"0": "150", "1": "50", "2": "100"}
    _rewrite(tmp_path / "segmentation.csv", lambda row: row | {"predicted_pixels": pixels[row["slice"]]})
    assert Results(read_measured(tmp_path), 20).area_error("full", ["intera"]).value == pytest.approx(1 / 3)


def test_people_scanned_by_two_vendors_have_two_errors_of_area(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    pixels = {"intera": "150", "ingenia": "50"}
    _rewrite(
        tmp_path / "segmentation.csv",
        lambda row: row | {"predicted_pixels": pixels.get(row["vendor"], "100"), "subject": row["subject"][-1]},
    )
    assert Results(read_measured(tmp_path), 20).area_error("full", ["intera", "ingenia"]).value == pytest.approx(0.5)


def test_errors_of_the_mean_of_two_seeds_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    for name in ("segmentation", "radiomics"):
        path = tmp_path / f"{name}.csv"
        header, *lines = path.read_text().splitlines()
        path.write_text("\n".join([header, *lines, *("1" + line[1:] for line in lines)]) + "\n")
    _rewrite(
        tmp_path / "radiomics.csv",
        lambda row: row | {"value": str(float(row["reference"]) * (0.9 if row["seed"] == "0" else 1.1))},
    )
    results = Results(read_measured(tmp_path), 20)
    assert results.seeds == ("0", "1")
    assert results.error_of_mean("full", "Idmn", results.others).value == pytest.approx(0.1)


def _rewrite(path: Path, rule: Callable[[dict[str, str]], dict[str, str]]) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        columns = tuple(reader.fieldnames or ())
        rows = [rule(row) for row in reader]
    write_rows(path, columns, rows)
    return rows


def test_an_evaluation_without_a_gap_is_void(tmp_path: Path) -> None:
    write_evaluation(tmp_path, dice={"none": 0.9, "full": 0.92}, shown=False)
    summary = analyse(tmp_path, bootstrap=50)
    assert summary.void
    assert summary.exit_code == 3
    assert summary.goals[0].status == "void"
    # Where the segmenter tells nothing apart, its areas say nothing either.
    assert {goal.key: goal.status for goal in summary.goals}["volume"] == "void"
    assert "VOID" in (tmp_path / "index.html").read_text()


def test_arms_that_were_not_run_are_said_to_be_not_measured(tmp_path: Path) -> None:
    write_evaluation(tmp_path, dice={"none": 0.7, "nyul": 0.8}, shown=False)
    summary = analyse(tmp_path, bootstrap=50)
    assert [goal.status for goal in summary.goals if goal.key == "recovered"] == ["not measured"]
    assert [row["dice"] for row in _table(tmp_path, "table3")] == ["", "", ""]
    assert {goal.where for goal in summary.goals} == {"arm full was not evaluated: add it to arms"}
    assert "with CycleGAN +RF +Seg" not in summary.render()
    assert re.search(r"^Idmn: relative error 0\.0800 .*with Nyúl, 0\.2.* as it is$", summary.render(), re.MULTILINE)


def test_slices_that_the_gate_would_not_pass_are_marked_in_the_pictures(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    shown = read_shown(tmp_path)
    assert shown["full"].title(1, "+RF +Seg") == "+RF +Seg"
    marked = dataclasses.replace(shown["full"], refused=(False, True, False, False))
    marked.save(tmp_path / drawn.SHOWN / "full.npz")
    again = read_shown(tmp_path)
    assert [again["full"].title(k, "a") for k in range(4)] == ["a", "a *", "a", "a"]
    before, after = (
        {one.slug: one.pixels for one in pictures(found, ("essenza",))} for found in (shown, again)
    )  # fmt: skip
    assert not any(np.array_equal(before[slug], after[slug]) for slug in ("figure9", "figure10", "figure12"))


def test_a_goal_names_the_arm_that_it_lacks(tmp_path: Path) -> None:
    write_evaluation(tmp_path, dice={"none": 0.7, "full": 0.8}, shown=False)
    where = {goal.key: goal.where for goal in analyse(tmp_path, bootstrap=50).goals}
    assert where["nyul"] == "arm nyul was not evaluated: add it to arms"
    assert "arm" not in where["recovered"]
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    write_json(tmp_path / "evaluation.json", facts | {"config": {"arms": ["none", "full", "nyul"]}})
    summary = analyse(tmp_path, bootstrap=50)
    assert {g.key: g.where for g in summary.goals}["nyul"] == "arm nyul has no scores, see failures.csv"
    assert "(arm nyul has no scores, see failures.csv)" in summary.render()


def test_equal_rows_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    analyse(tmp_path, bootstrap=200)
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(names) > 30
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_page_holds_everything_and_calls_nothing(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    for slug in (
        "figure9",
        "figure10",
        "figure11",
        "figure12",
        "dice",
        "table2",
        "table3",
        "table4",
        "table5",
        "table7",
    ):
        assert f'id="{slug}"' in page, slug
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#|data:image/png;base64,)", page)
    for number in (9, 10, 12):
        assert (folder / "figures" / f"figure{number}.png").read_bytes()[:4] == b"\x89PNG"


def test_slices_of_the_target_are_shown_as_they_are_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: dict[str, list[list[str]]] = {}

    def record(slug: str, title: str, text: str, rows: list[list[Any]], shown: list[list[str]]) -> None:
        assert [len(row) for row in rows] == [len(row) for row in shown], (slug, title, text)
        captions[slug] = shown

    monkeypatch.setattr(drawn, "_picture", record)
    pictures(read_shown(folder), ("essenza",))
    assert captions["figure9"][0] == captions["figure12"][0] == ["essenza"]
    assert captions["figure9"][1] == ["intera", "Nyul", "CycleGAN", "+RF +Seg"]
    # There is nothing to weave it with.
    assert [row[0] for row in captions["figure10"]] == ["intera", "ingenia", "avanto"]


def test_segmenters_of_the_paper_stand_beside_its_numbers_on_both_sides(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    path = tmp_path / "segmentation.csv"
    path.write_text(path.read_text().replace(",small,", ",resnet34-deeplabv3,"))
    analyse(tmp_path, bootstrap=20)
    found = {name: _table(tmp_path, name)[1] for name in ("table2", "table7")}
    assert {row["segmenter"] for row in found.values()} == {"resnet34-deeplabv3"}
    assert (found["table2"]["paper"], found["table7"]["paper"]) == ("0.921", "0.862")


def test_figures_that_are_not_there_are_named(tmp_path: Path, folder: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    summary = analyse(tmp_path, bootstrap=20)
    for said in (summary.render(), (tmp_path / "index.html").read_text(), str(summary.to_dict()["missing"])):
        assert "Figures 7 and 8 are left out" in said
        assert "9, 10, 12 left out" in said
    assert "12 left out" not in (folder / "index.html").read_text()


def test_the_page_says_how_features_were_measured_here(tmp_path: Path) -> None:
    write_evaluation(tmp_path, shown=False)
    analyse(tmp_path, bootstrap=20)
    assert "bins of" not in (tmp_path / "index.html").read_text()
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    facts["radiomics"] = {"roi": [96, 40], "bin_width": 16.0, "scaling": "robust"}
    (tmp_path / "evaluation.json").write_text(json.dumps(facts))
    analyse(tmp_path, bootstrap=20)
    page = (tmp_path / "index.html").read_text()
    assert "bins of 16, in a window of 96 × 40 pixels around the discs, scaled to 0-255 by its percentiles" in page
    assert "forgives every change of contrast" in page


def test_a_checkerboard_shows_both_images_and_nothing_else() -> None:
    one, other = np.zeros((16, 32)), np.ones((16, 32))
    woven = checkerboard(one, other, squares=8)
    assert woven.mean() == 0.5
    assert (woven[:4, :4], woven[0, 4]) == (pytest.approx(0.0), 1.0)


def test_slices_to_show_come_back_as_they_were_saved(folder: Path) -> None:
    shown = read_shown(folder)
    assert list(shown) == list(ARMS)
    assert shown["full"].vendors == tuple(VENDORS)
    assert shown["full"].images.shape == shown["full"].probabilities.shape == (4, 64, 64)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError) as empty:
        analyse(tmp_path)
    assert empty.value.code == "E-STUDY-RESULTS"
    write_evaluation(tmp_path)
    with pytest.raises(UsageError):
        analyse(tmp_path, bootstrap=-1)
    (tmp_path / "shown" / "full.npz").write_bytes(b"PK")
    with pytest.raises(CaseError) as broken:
        analyse(tmp_path)
    assert broken.value.file.endswith("full.npz")
    path = tmp_path / "segmentation.csv"
    text = path.read_text()
    for bad in (text.replace("dice", "mice"), text.replace("0.7", "many"), text + "1,2\n"):
        path.write_text(bad)
        with pytest.raises(CaseError) as found:
            read_measured(tmp_path)
        assert found.value.code == "E-STUDY-TABLE"
