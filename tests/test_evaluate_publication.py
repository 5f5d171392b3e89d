"""The tables of the SPINEPS paper: numbers against independent code, marks, counts, what is left out, exit codes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import wilcoxon
from spine_masks import LEVELS, Cohort, shaved, spine, write_mask
from test_evaluate_cohort import check_latex

from nnunet_spine_ext.cli.tables import main
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.evaluate.publication import FILES, Publication, tables
from nnunet_spine_ext.evaluate.run import evaluate

RAW, POST = [3, 2, 1, 2, 3, 2, 2, 1, 3], [2, 1, 0, 1, 1, 0, 1, 0, 2]
SPACING = (1.5, 1.0, 1.0)
VERTEBRA = list(range(2, 11))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path, len(RAW))


def cells(out: Path, number: int) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of a CSV by section, structure, metric, folder and region."""
    with (out / f"table{number}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {(r["section"], r["structure"], r["metric"], r["model"], r["region"]): r for r in rows}


def strict(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


# --- numbers ---------------------------------------------------------------------------------------------------------


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def assd(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...] = SPACING) -> float:
    """Boundary voxels by erosion, distances by a distance transform: another way than the product's."""
    edges = [mask & ~binary_erosion(mask) for mask in (a, b)]
    there = distance_transform_edt(~edges[1], sampling=spacing)[edges[0]].mean()
    return float((there + distance_transform_edt(~edges[0], sampling=spacing)[edges[1]].mean()) / 2)


def holm(p: dict[Any, float]) -> dict[Any, float]:
    """Step down, written for this test."""
    tested = sorted((value, str(key), key) for key, value in p.items() if not math.isnan(value))
    found, largest = dict.fromkeys(p, math.nan), 0.0
    for rank, (value, _, key) in enumerate(tested):
        largest = max(largest, min(1.0, value * (len(tested) - rank)))
        found[key] = largest
    return found


def expected(rows: list[int]) -> dict[tuple[str, str, str], list[float]]:
    """Values of every case for some rows of tables 2 and 3."""
    semantic, instances = spine()
    found: dict[tuple[str, str, str], list[float]] = {}

    def add(section: str, structure: str, metric: str, value: float) -> None:
        found.setdefault((section, structure, metric), []).append(value)

    for lost in rows:
        pred, pred_instances = shaved(semantic, instances, lost)
        for name, ids in (("Vertebra", VERTEBRA), ("IVD", [14]), ("Spinal canal", [12])):
            add("Global structure-wise", name, "DSC", dice(np.isin(semantic, ids), np.isin(pred, ids)))
        for name, ids in (("Articularis inferior", [8, 9]), ("Vertebra corpus", [10])):
            own, other = np.isin(semantic, ids), np.isin(pred, ids)
            add("Vertebra substructures", name, "DSC", dice(own, other))
            add("Vertebra substructures", name, "ASSD", assd(own, other))
        for name, offset in (("Vertebra", 0), ("IVD", 100)):
            pairs = [(instances == offset + level, pred_instances == offset + level) for level in LEVELS]
            overlap = [(a & b).sum() / (a | b).sum() for a, b in pairs]
            hits = [pair for pair, iou in zip(pairs, overlap, strict=True) if iou >= 0.5]
            quality = [iou for iou in overlap if iou >= 0.5]
            rq = len(hits) / (len(hits) + 0.5 * (2 * len(pairs) - 2 * len(hits)))
            sq = float(np.mean(quality)) if hits else 0.0
            add("Instance-wise", name, "RQ", rq)
            add("Instance-wise", name, "SQ", sq)
            add("Instance-wise", name, "PQ", rq * sq)
            add("Instance-wise", name, "DSC", float(np.mean([dice(a, b) for a, b in hits])) if hits else 0.0)
            add("Instance-wise", name, "ASSD", float(np.mean([assd(a, b) for a, b in hits])) if hits else math.inf)
    return found


def test_numbers_equal_independent_code(cohort: Cohort) -> None:
    folders = [cohort.predict("raw", RAW), cohort.predict("post", POST)]
    result = tables(folders, cohort.out, ref=cohort.ref, names=("raw", "post"))
    assert result.exit_code == 0
    wanted = {"raw": expected(RAW), "post": expected(POST)}
    checked = 0
    for number in (2, 3):
        found = cells(cohort.out, number)
        raw_p = {}
        for section, structure, metric, model, _ in found:
            values = wanted[model].get((section, structure, metric))
            row = found[section, structure, metric, model, ""]
            if values is None:
                continue
            checked += 1
            assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-9), (structure, metric)
            assert float(row["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-9)
            assert (row["n"], row["undefined"], row["infinite"]) == (str(len(RAW)), "0", "0")
            if model == "post" and row["p"]:
                differences = np.subtract(values, wanted["raw"][section, structure, metric])
                assert float(row["p"]) == pytest.approx(wilcoxon(differences).pvalue)
                assert int(row["pairs"]) == len(RAW)
        raw_p = {key: float(row["p"] or "nan") for key, row in found.items() if row["model"] == "post"}
        for key, value in holm(raw_p).items():
            assert float(found[key]["p_corrected"] or "nan") == pytest.approx(value, nan_ok=True)
    assert checked == 2 * (3 + 10 + 2 + 4 + 1)


def test_layout_marks_and_caption(cohort: Cohort) -> None:
    tables([cohort.predict("raw", RAW), cohort.predict("post", POST)], cohort.out, ref=cohort.ref)
    assert {path.name for path in cohort.out.iterdir() if path.is_file()} == set(FILES)
    text = (cohort.out / "table2.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    start = lines.index("| Structure | Metric | raw | post |")
    titles = [[part.strip() for part in line.split("|")[1:3]] for line in lines[start + 2 : start + 17]]
    assert titles == [
        ["**Global structure-wise**", ""], ["Vertebra", "↑ DSC"], ["IVD", "↑ DSC"], ["Spinal canal", "↑ DSC"],
        ["**Instance-wise**", ""], ["Vertebra", "↑ DSC"], ["", "↑ RQ"], ["", "↑ SQ"], ["", "↑ PQ"], ["", "↓ ASSD [mm]"],
        ["IVD", "↑ DSC"], ["", "↑ RQ"], ["", "↑ SQ"], ["", "↑ PQ"], ["", "↓ ASSD [mm]"],
    ]  # fmt: skip
    # Nine pairs, all better: p = 2 / 2^9, times ten tests. The canal and RQ do not differ and are not tested.
    row = next(line for line in lines if line.startswith("| Vertebra | ↑ DSC"))
    assert "*" not in row.split("|")[3]
    assert row.split("|")[4].strip().endswith("\\*†")
    canal = next(line for line in lines if line.startswith("| Spinal canal"))
    assert canal == "| Spinal canal | ↑ DSC | 1.000 ± 0.000 | 1.000 ± 0.000 |"
    for words in (
        "9 cases of 9 subjects", "IoU ≥ 0.5", "boundary voxels", "matched instances of a case, then over cases",
        "against raw over subjects, Holm's correction over the 10 tests",
        "the paper does not say whether means are over cases, or over the instances", "whether the ASSD is in mm",
    ):  # fmt: skip
        assert words in text, words
    tex = (cohort.out / "table2.tex").read_text(encoding="utf-8")
    check_latex(tex)
    assert tex.isascii()
    assert "$\\uparrow$ DSC" in tex
    line = next(line for line in tex.splitlines() if line.startswith("Vertebra & "))
    assert "^{*\\dagger}" in line.split(" & ")[3]
    third = (cohort.out / "table3.md").read_text(encoding="utf-8")
    order = ["Arcus vertebrae", "Spinous process", "Articularis inferior", "Articularis superior", "Costal process"]
    places = [third.index(f"| {title} |") for title in [*order, "Vertebra corpus", "Endplate"]]
    assert places == sorted(places)
    assert "In no reference and in no prediction: Sacrum." in third


def test_regions_have_their_columns_and_their_best(cohort: Cohort) -> None:
    """Bodies of lumbar vertebrae are cut, those of the others are right."""
    semantic, instances = spine()
    lumbar = np.isin(instances, (20, 21, 120, 121))
    for case in cohort.cases:
        found = np.where(lumbar & np.isin(semantic, (10, 14)), 0, semantic)
        found[2:8, 1:4, 8 * 4 :] = semantic[2:8, 1:4, 8 * 4 :]
        write_mask(cohort.base / "cut" / f"{case}.nii.gz", found)
    result = tables(
        [cohort.predict("whole", [0] * len(RAW), instances=False), cohort.base / "cut"], cohort.out, ref=cohort.ref
    )
    table = cells(cohort.out, 5)
    corpus = {
        (model, region): table["Vertebra substructures", "Vertebra corpus", "DSC", model, region]
        for model in ("whole", "cut")
        for region in ("cervical", "thoracic", "lumbar")
    }
    assert float(corpus["cut", "cervical"]["mean"]) == float(corpus["cut", "thoracic"]["mean"]) == 1.0
    # Half of the rows: 2 * 3 / (6 + 3).
    assert float(corpus["cut", "lumbar"]["mean"]) == pytest.approx(2 / 3)
    assert [corpus["cut", region]["best"] for region in ("cervical", "thoracic", "lumbar")] == ["True", "True", "False"]
    assert {corpus["whole", region]["best"] for region in ("cervical", "thoracic", "lumbar")} == {"False"}
    assert corpus["cut", "lumbar"]["pairs"] == str(len(RAW))
    assert float(corpus["cut", "lumbar"]["p"]) == pytest.approx(wilcoxon([-1 / 3] * len(RAW)).pvalue)
    assert not corpus["whole", "lumbar"]["pairs"]
    assert corpus["cut", "cervical"]["reason"] == "all differences are zero"
    text = (cohort.out / "table5.md").read_text(encoding="utf-8")
    assert text.count("| Structure | Metric | Cervical region | Thoracic region | Lumbar region |") == 2
    assert "## whole" in text
    assert "## cut" in text
    check_latex((cohort.out / "table5.tex").read_text(encoding="utf-8"))
    # Neither folder has instances: no instance-wise rows, and a word on it.
    assert not any(key[0] == "Instance-wise" for key in cells(cohort.out, 2))
    assert any("Table 2 has no instance-wise part" in remark for remark in result.remarks)


def test_regions_that_no_case_has(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, 3, levels=(19, 20, 21))
    result = tables([cohort.predict("a", [1, 1, 2])], cohort.out, ref=cohort.ref)
    table = next(one for one in result.tables if one.number == 5)
    assert [column.region for column in table.parts[0].columns] == ["thoracic", "lumbar"]
    assert "No case has a cervical part: no column for it." in table.remarks
    assert "In none of these regions: Sacrum." in table.remarks
    # One folder: nothing to test and nothing to be better than.
    assert all(cell.tested is None for one in result.tables for *_, cell in one.cells())
    assert not any(cell.best for *_, cell in result.tables[0].cells())
    assert "Wilcoxon" not in (cohort.out / "table2.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("chosen", ["assd", "assd_in_voxels"])
def test_other_distances(cohort: Cohort, chosen: Any) -> None:
    tables([cohort.predict("raw", RAW)], cohort.out, ref=cohort.ref, assd=chosen)
    row = cells(cohort.out, 3)["Vertebra substructures", "Vertebra corpus", "ASSD", "raw", ""]
    text = (cohort.out / "table3.md").read_text(encoding="utf-8")
    if chosen == "assd":
        assert "↓ ASSD [mm]" in text
        assert "marching cubes" in text
        return
    semantic, instances = spine()
    values = [assd(semantic == 10, shaved(semantic, instances, k)[0] == 10, (1.0, 1.0, 1.0)) for k in RAW]
    assert float(row["mean"]) == pytest.approx(np.mean(values))
    assert "↓ ASSD [voxels]" in text


# --- what is lacking -------------------------------------------------------------------------------------------------


def test_missing_predictions_count_as_empty_and_are_said(cohort: Cohort) -> None:
    lost = [*POST[:-1], -1]
    result = tables([cohort.predict("raw", RAW), cohort.predict("post", lost)], cohort.out, ref=cohort.ref)
    assert result.exit_code == 3
    assert [problem.code for problem in result.summary.failed.values()] == ["E-EVAL-MISSING"]
    row = cells(cohort.out, 3)["Vertebra substructures", "Vertebra corpus", "DSC", "post", ""]
    semantic, instances = spine()
    values = [dice(semantic == 10, shaved(semantic, instances, k)[0] == 10) for k in POST[:-1]]
    assert float(row["mean"]) == pytest.approx(np.mean([*values, 0.0]))
    row = cells(cohort.out, 3)["Vertebra substructures", "Vertebra corpus", "ASSD", "post", ""]
    assert (row["n"], row["infinite"], row["pairs"], row["best"]) == ("8", "1", "8", "True")
    text = (cohort.out / "table3.md").read_text(encoding="utf-8")
    assert "(8, −1)" in text
    assert "8 of 9" not in text
    check_latex((cohort.out / "table3.tex").read_text(encoding="utf-8"))
    assert strict(cohort.out / "tables.json")["run"]["exit_code"] == 3


def test_the_best_distance_is_over_the_cases_that_all_have(cohort: Cohort) -> None:
    """b fails in the hard cases and would win by that."""
    hard = [1, 1, 1, 1, 1, 1, 3, 3, 3]
    a, b = cohort.predict("a", hard), cohort.predict("b", [1, 1, 1, 1, 1, 2, -1, -1, -1])
    tables([a, b], cohort.out, ref=cohort.ref)
    rows = [cells(cohort.out, 3)["Vertebra substructures", "Vertebra corpus", "ASSD", m, ""] for m in "ab"]
    assert float(rows[1]["mean"]) < float(rows[0]["mean"])
    assert [row["best"] for row in rows] == ["True", "False"]


def test_failed_cases_are_listed_and_leave_the_others(cohort: Cohort) -> None:
    a, b = cohort.predict("a", RAW), cohort.predict("b", POST)
    moved = np.diag([1.5, 1.0, 1.0, 1.0])
    moved[0, 3] = 40
    write_mask(b / "case3.nii.gz", spine()[0], moved)
    result = tables([a, b], cohort.out, ref=cohort.ref)
    assert result.exit_code == 3
    assert {name: problem.code for name, problem in result.summary.failed.items()} == {"case3 (b)": "E-GEOM-GRID"}
    row = cells(cohort.out, 2)["Global structure-wise", "Vertebra", "DSC", "b", ""]
    assert (row["n"], row["pairs"]) == ("8", "8")
    assert "| a (n = 9) | b (n = 8) |" in (cohort.out / "table2.md").read_text(encoding="utf-8")


def test_nothing_usable_is_exit_code_4(cohort: Cohort) -> None:
    a = cohort.predict("a", RAW)
    for case in cohort.cases:
        (a / f"{case}.nii.gz").write_bytes(b"no image")
    result = tables([a], cohort.out, ref=cohort.ref)
    assert result.exit_code == 4
    assert len(result.summary.failed) == len(RAW)
    assert strict(cohort.out / "tables.json")["tables"][0]["cells"] == []
    assert "0 done" in result.render()


def test_without_reference_instances_there_is_no_table_5_and_none_of_before(cohort: Cohort) -> None:
    a = cohort.predict("a", RAW)
    tables([a], cohort.out, ref=cohort.ref)
    assert (cohort.out / "table5.md").is_file()
    (cohort.base / "instancesTs").rename(cohort.base / "elsewhere")
    result = tables([a], cohort.out, ref=cohort.ref)
    assert result.exit_code == 0
    assert not list(cohort.out.glob("table5.*"))
    assert any(remark.startswith("No table 5: a has no scores by region") for remark in result.remarks)
    tables([a], cohort.out, ref=cohort.ref, ref_instances=cohort.base / "elsewhere")
    assert (cohort.out / "table5.md").is_file()
    assert cells(cohort.out, 2)["Instance-wise", "Vertebra", "PQ", "a", ""]["n"] == str(len(RAW))


def test_predictions_that_are_counted_get_regions_from_the_references(cohort: Cohort) -> None:
    a = cohort.predict("a", RAW)
    tables([a], cohort.out, ref=cohort.ref)
    before = (cohort.out / "table5.csv").read_bytes()
    for case in cohort.cases:
        counted = np.zeros_like(spine()[1])
        for k, level in enumerate(LEVELS):
            for offset in (0, 100, 200):
                counted[spine()[1] == offset + level] = offset + k + 1
        write_mask(a / "instances" / f"{case}.nii.gz", counted)
        write_json(a / "qc" / f"{case}.json", {"numbered": False})
    result = tables([a], cohort.out, ref=cohort.ref)
    assert (cohort.out / "table5.csv").read_bytes() == before
    assert result.exit_code == 0
    # References that are counted say nothing about regions.
    for case in cohort.cases:
        write_json(cohort.base / "qc" / f"{case}.json", {"numbered": False})
    result = tables([a], cohort.out, ref=cohort.ref)
    assert not (cohort.out / "table5.csv").exists()
    assert {problem.code for found in result.summary.warnings.values() for problem in found} == {"W-EVAL-NOREGION"}


def test_one_folder_without_instances(cohort: Cohort) -> None:
    a, b = cohort.predict("a", RAW, instances=False), cohort.predict("b", POST)
    result = tables([a, b], cohort.out, ref=cohort.ref)
    found = cells(cohort.out, 2)
    own, other = (found["Instance-wise", "IVD", "RQ", name, ""] for name in "ab")
    assert (own["mean"], own["n"], other["pairs"], other["best"]) == ("", "0", "", "False")
    assert any("no instance-wise values of a" in remark for remark in result.remarks)
    check_latex((cohort.out / "table2.tex").read_text(encoding="utf-8"))
    elsewhere = a / "other"
    (b / "instances").rename(elsewhere)
    tables([a, b], cohort.out, ref=cohort.ref, pred_instances=[elsewhere, elsewhere])
    assert cells(cohort.out, 2)["Instance-wise", "IVD", "RQ", "a", ""]["n"] == str(len(RAW))


# --- other inputs ----------------------------------------------------------------------------------------------------


def test_evaluations_are_taken_as_they_are(cohort: Cohort) -> None:
    folders = [cohort.predict("raw", RAW), cohort.predict("post", POST)]
    first = tables(folders, cohort.out, ref=cohort.ref)
    ready = [Path(folder) for folder in first.folders]
    assert [folder.name for folder in ready] == ["1_raw", "2_post"]
    # They are called as they were: without the number of their folder.
    again = tables(ready, cohort.base / "again")
    assert again.to_dict()["names"] == ["raw", "post"]
    for number in (2, 3, 5):
        name = f"table{number}.csv"
        assert (cohort.out / name).read_bytes() == (cohort.base / "again" / name).read_bytes()
    assert again.exit_code == 0
    mixed = tables([ready[0], folders[1]], cohort.base / "mixed", ref=cohort.ref, names=("raw", "post"))
    assert mixed.tables[0] == first.tables[0] or mixed.to_dict()["tables"][0] == first.to_dict()["tables"][0]


def test_evaluations_that_lack_something(cohort: Cohort) -> None:
    raw, post, made = cohort.predict("raw", RAW), cohort.predict("post", POST), cohort.base / "made"
    evaluate(cohort.ref, raw, made)
    with pytest.raises(UsageError, match="E-TABLES-EVALUATION") as caught:
        tables([made], cohort.out)
    assert "scores of single labels" in str(caught.value)
    evaluate(cohort.ref, raw, made, structures="spineps", metrics=("dice", "assd"))
    with pytest.raises(UsageError, match="no assd_voxel"):
        tables([made], cohort.out)
    result = tables([made], cohort.out, assd="assd")
    assert any("No table 5" in remark for remark in result.remarks)
    evaluate(cohort.ref, raw, made, structures="spineps", metrics=("dice", "assd", "pq"), iou_threshold=0.7)
    with pytest.raises(UsageError, match="different iou_threshold"):
        tables([made, post], cohort.out, ref=cohort.ref, assd="assd")


def test_evaluations_of_other_cases_are_paired_where_they_can_be(cohort: Cohort) -> None:
    first = tables([cohort.predict("raw", RAW), cohort.predict("post", POST)], cohort.out, ref=cohort.ref)
    (cohort.ref / "case0.nii.gz").unlink()
    (cohort.base / "post" / "case0.nii.gz").unlink()
    fewer = tables([cohort.base / "post"], cohort.base / "fewer", ref=cohort.ref)
    result = tables([first.folders[0], fewer.folders[0]], cohort.base / "both", names=("raw", "post"))
    assert result.exit_code == 3
    assert {name: problem.code for name, problem in result.summary.failed.items()} == {"case0 (post)": "E-TABLES-ONLY"}
    row = cells(cohort.base / "both", 2)["Global structure-wise", "Vertebra", "DSC", "post", ""]
    assert (row["n"], row["pairs"]) == ("8", "8")


def test_spider_references_and_predictions_of_14_classes(cohort: Cohort) -> None:
    """References know vertebra, disc and canal, as for table 2; one model was trained on them, the other on parts."""
    write_json(cohort.base / "dataset.json", {"labels": {"background": 0, "vertebra": 1, "disc": 2, "canal": 3}})
    table = np.zeros(15, np.uint8)
    table[VERTEBRA], table[14], table[[11, 12]] = 1, 2, 3
    for case in cohort.cases:
        write_mask(cohort.ref / f"{case}.nii.gz", table[cohort.semantic])
        write_mask(cohort.base / "baseline" / f"{case}.nii.gz", table[cohort.semantic])
    parts = cohort.predict("parts", [0] * len(RAW))
    options: dict[str, Any] = {"ref": cohort.ref, "pred_labels": ("same", "nnunet14")}
    result = tables([cohort.base / "baseline", parts], cohort.out, **options)
    assert result.exit_code == 0
    found = {key: row["mean"] for key, row in cells(cohort.out, 3).items()}
    assert set(found.values()) == {"1.0"}
    assert {key[1] for key in found} == {"Vertebra", "IVD", "Spinal canal"}
    assert any("cord in it" in remark for remark in result.remarks)
    with pytest.raises(UsageError, match="--pred-labels with 3 values for 2 folders"):
        tables([cohort.base / "baseline", parts], cohort.out, ref=cohort.ref, pred_labels=("same", "same", "same"))


def test_structures_of_ones_own(cohort: Cohort) -> None:
    write_json(cohort.base / "s.json", {"cord": ["cord"], "posterior | elements_%": ["arcus", "spinous process"]})
    tables([cohort.predict("a", RAW)], cohort.out, ref=cohort.ref, structures=cohort.base / "s.json", names=("m|_&",))
    found = cells(cohort.out, 3)
    assert [key[:3] for key in found] == [
        ("Global structure-wise", "Spinal cord", "DSC"),
        ("Other structures", "Posterior | elements_%", "DSC"),
        ("Other structures", "Posterior | elements_%", "ASSD"),
    ]
    text = (cohort.out / "table3.md").read_text(encoding="utf-8")
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    tex = (cohort.out / "table3.tex").read_text(encoding="utf-8")
    check_latex(tex)
    assert r"elements\_\%" in tex
    assert r"m\textbar{}\_\&" in tex


def test_subjects_are_the_units_of_tests(cohort: Cohort) -> None:
    write_json(
        cohort.base / "cases.json", {"cases": {c: {"subject": f"s{k // 3}"} for k, c in enumerate(cohort.cases)}}
    )
    folders = [cohort.predict("raw", RAW), cohort.predict("post", POST)]
    key = ("Global structure-wise", "Vertebra", "DSC", "post", "")
    tables(folders, cohort.out, ref=cohort.ref)
    row = cells(cohort.out, 2)[key]
    assert (row["pairs"], row["p"], row["n"]) == ("3", "", "9")
    assert "at least 6 are needed" in row["reason"]
    assert "9 cases of 3 subjects" in (cohort.out / "table2.md").read_text(encoding="utf-8")
    tables(folders, cohort.out, ref=cohort.ref, unit="case", correction="none")
    row = cells(cohort.out, 2)[key]
    assert row["pairs"] == "9"
    assert row["p"] == row["p_corrected"]


# --- wrong usage and the command -------------------------------------------------------------------------------------


def test_wrong_usage(cohort: Cohort, tmp_path: Path) -> None:
    a = cohort.predict("a", RAW)
    (tmp_path / "empty").mkdir()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ref": None}, "E-TABLES-REF"),
        ({"names": ("x", "y")}, "E-COMPARE-NAMES"),
        ({"assd": "hd95"}, "E-TABLES-RANGE"),
        ({"unit": "scan"}, "E-TABLES-RANGE"),
        ({"correction": "fdr"}, "E-TABLES-RANGE"),
        ({"structures": "labels"}, "E-TABLES-RANGE"),
        ({"pred": [a, a]}, "E-COMPARE-FOLDERS"),
        ({"pred": []}, "E-COMPARE-FOLDERS"),
        ({"pred": [tmp_path / "nowhere"]}, "E-EVAL-FOLDER"),
        ({"pred_instances": (a, a)}, "E-TABLES-COUNT"),
        ({"o": a}, "E-OUT-INPUT"),
    )
    for changed, code in cases:
        options: dict[str, Any] = {"pred": [a], "o": cohort.out, "ref": cohort.ref, **changed}
        with pytest.raises(UsageError, match=code):
            tables(**options)
        assert not cohort.out.exists(), code
    with pytest.raises(NoInputError, match="E-EVAL-EMPTY"):
        tables([a, tmp_path / "empty"], cohort.out, ref=cohort.ref)
    assert not cohort.out.exists()


def test_same_input_same_bytes(cohort: Cohort) -> None:
    folders = [cohort.predict("raw", RAW), cohort.predict("post", POST)]
    tables(folders, cohort.out, ref=cohort.ref)
    first = [(cohort.out / name).read_bytes() for name in FILES]
    tables(folders, cohort.out, ref=cohort.ref)
    assert first == [(cohort.out / name).read_bytes() for name in FILES]


def test_command(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = cohort.predict("a", RAW), cohort.predict("b", [*POST[:-1], -1])
    words = ["-ref", str(cohort.ref), "-pred", str(a), str(b), "-o", str(cohort.out)]
    assert main([*words, "--names", "ours, raw", "ours"]) == 3
    printed = capsys.readouterr().out
    assert "| Structure | Metric | ours, raw | ours |" in printed
    assert "Table 5, ours, raw" in printed
    assert "17 done, 1 missing or failed" in printed
    assert main([*words, "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content == read_json(cohort.out / "tables.json")
    assert [table["number"] for table in content["tables"]] == [2, 3, 5]
    assert main(["-pred", str(a), "-o", str(cohort.out)]) == 2
    assert "E-TABLES-REF" in capsys.readouterr().err
    assert isinstance(tables([a], cohort.out, ref=cohort.ref), Publication)
