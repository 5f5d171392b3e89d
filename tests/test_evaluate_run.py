"""Folders in, tables out: matching of cases, labels, instances, grids, bad input, exit codes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from evaluation_folders import AFFINE, LABELS, Folders, instances, save, semantic

from nnunet_spine_ext.cli.evaluate import main
from nnunet_spine_ext.core.errors import NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.run import evaluate


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables_of_two_cases(folders: Folders) -> None:
    worse = semantic()
    worse[1:3] = 0
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), worse)
    result = folders.run()
    assert result.exit_code == 0
    assert sorted(p.name for p in folders.out.iterdir()) == ["metrics.csv", "summary.json", "summary.md"]
    values = folders.values()
    assert values["a", "cord", "dice"] == 1.0
    assert values["b", "cord", "dice"] == pytest.approx(2 * 6 / 14)
    assert values["b", "canal", "volume_error"] == pytest.approx(-2 * 2 * 3 * 4.5 / 1000)
    assert math.isnan(values["a", "disc", "dice"])
    content = folders.summary()
    cord = next(line for line in content["classes"] if line["label"] == "cord")["metrics"]["dice"]
    assert (cord["n"], cord["mean"]) == (2, pytest.approx((1 + 6 / 7) / 2))
    assert cord["sd"] == pytest.approx(np.std([1, 6 / 7], ddof=1))
    disc = next(line for line in content["classes"] if line["label"] == "disc")["metrics"]["assd"]
    assert (disc["n"], disc["mean"], disc["excluded_undefined"]) == (0, None, 2)
    assert content["cases"]["b"]["mean_over_classes"]["dice"] == pytest.approx(6 / 7)
    assert content["overall"]["dice"]["mean"] == pytest.approx((1 + 6 / 7) / 2)
    text = (folders.out / "summary.md").read_text(encoding="utf-8")
    assert "| 1 cord | 0.929 ± 0.101 [0.857, 1.000] (2) |" in text
    assert "| 1 cord | 0.929 ± 0.101 (2) |" in result.render()
    assert "In no reference and in no prediction: disc." in text
    assert content == result.to_dict()


def test_csv_columns_are_those_other_tools_read(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.run(metrics=("dice",))
    lines = (folders.out / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "case,label_id,label,metric,value,scope,status,region"
    assert lines[1] == "a,1,cord,dice,1.0,class,done,"
    assert len(lines) == 4


def test_same_input_same_bytes(folders: Folders, tmp_path: Path) -> None:
    folders.add("a", semantic(), semantic())
    folders.add_instances("a", instances(), instances())
    names = ("metrics.csv", "summary.json", "summary.md")
    folders.run()
    first = [(folders.out / name).read_bytes() for name in names]
    folders.run()
    assert first == [(folders.out / name).read_bytes() for name in names]
    assert tmp_path.name not in (folders.out / "metrics.csv").read_text(encoding="utf-8")


def test_instances_give_groups_and_levels(folders: Folders) -> None:
    found = instances()
    found[found == 20] = 21  # another number, the same place
    found[found == 119] = 0
    folders.add("a", semantic(), semantic())
    folders.add_instances("a", instances(), found)
    result = folders.run()
    values = folders.values()
    assert values["a", "vertebra", "pq"] == 1.0
    assert values["a", "disc", "rq"] == pytest.approx(2 / 3)
    assert values["a", "disc", "instance_dice"] == 1.0
    assert values["a", "L1", "level_dice"] == 1.0
    assert values["a", "disc T12", "level_dice"] == 0.0
    assert math.isinf(values["a", "disc T12", "level_assd"])
    content = folders.summary()
    assert [line["label"] for line in content["levels"]] == ["T12", "L1", "disc T12", "disc L1"]
    assert content["cases"]["a"]["instances"]["vertebra"] == {
        "matched": {"19": 19, "20": 21},
        "missed": [],
        "spurious": [],
    }
    assert content["cases"]["a"]["instances"]["disc"]["missed"] == [119]
    assert "| vertebra | 1.000 (1) |" in result.render()
    assert content["inputs"]["ref_instances"] == str(folders.ref_instances)


def test_all_instances_as_one_kind(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add_instances("a", instances() % 100 + 300, instances() % 100 + 300)
    result = folders.run()
    assert result.status == {"a": "failed"}
    folders.run(instance_ids="any", metrics=("pq", "level_dice"))
    assert folders.values()["a", "instance", "pq"] == 1.0
    assert folders.values()["a", "instance 319", "level_dice"] == 1.0


def test_instances_are_left_out_where_one_side_has_none(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    save(folders.ref_instances / "a.nii.gz", instances())
    result = folders.run()
    assert result.to_dict()["groups"] == []
    assert folders.summary()["options"]["instances"] is False
    assert folders.summary()["remarks"] == ["Instances are not scored: no instance masks of the predictions."]
    assert "no instance masks of the predictions" in result.render()
    assert folders.run(metrics=("dice",)).remarks == []


def test_masks_without_any_instances_need_no_remark(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    assert folders.run().remarks == []


def test_asking_for_instances_that_nobody_has_is_wrong_usage(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    with pytest.raises(UsageError, match="E-EVAL-INSTANCES"):
        folders.run(metrics=("pq", "level_dice"))
    assert not folders.out.exists()


def test_a_case_without_reference_instances_is_said(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), semantic())
    folders.add_instances("a", instances(), instances())
    save(folders.pred_instances / "b.nii.gz", instances())
    result = folders.run()
    assert result.exit_code == 0
    assert [problem.code for problem in result.summary.warnings["b"]] == ["W-EVAL-NOREF"]
    assert ("b", "vertebra", "pq") not in folders.values()


# --- missing and extra -----------------------------------------------------------------------------------------------


def test_missing_prediction_counts_as_failure(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), None)
    folders.add_instances("a", instances(), instances())
    folders.add_instances("b", instances(), None)
    result = folders.run()
    assert result.exit_code == 3
    assert result.status == {"a": "done", "b": "missing"}
    values = folders.values()
    assert values["b", "cord", "dice"] == 0.0
    assert math.isinf(values["b", "cord", "assd"])
    assert values["b", "vertebra", "pq"] == 0.0
    assert values["b", "T12", "level_dice"] == 0.0
    cord = next(line for line in folders.summary()["classes"] if line["label"] == "cord")["metrics"]
    assert (cord["dice"]["n"], cord["dice"]["mean"]) == (2, 0.5)
    assert (cord["assd"]["n"], cord["assd"]["excluded_infinite"]) == (1, 1)
    assert "labelsTs/b.nii.gz: no prediction" in result.render()
    assert "| b | missing | 0.000 |" in (folders.out / "summary.md").read_text(encoding="utf-8")


def test_missing_instances_count_as_failure_of_the_instances_only(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), semantic())
    folders.add_instances("a", instances(), instances())
    folders.add_instances("b", instances(), None)
    result = folders.run()
    assert result.exit_code == 3
    assert folders.values()["b", "cord", "dice"] == 1.0
    assert folders.values()["b", "vertebra", "pq"] == 0.0


def test_prediction_without_reference_is_a_warning(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    save(folders.pred / "b.nii.gz", semantic())
    result = folders.run()
    assert result.exit_code == 0
    assert "W-EVAL-EXTRA" in result.render()


def test_two_files_are_compared_whatever_their_names(folders: Folders) -> None:
    folders.add("truth", semantic(), None)
    save(folders.pred / "mine.mha", semantic())
    result = evaluate(folders.ref / "truth.nii.gz", folders.pred / "mine.mha", folders.out)
    assert result.status == {"truth": "done"}
    assert folders.values()["truth", "cord", "dice"] == 1.0


# --- labels ----------------------------------------------------------------------------------------------------------


def test_names_come_from_a_file_a_scheme_or_the_masks(folders: Folders, tmp_path: Path) -> None:
    folders.add("a", semantic(), semantic())
    write_json(tmp_path / "names.json", {"one": 1, "two": 2})
    assert {row.label for row in folders.run(labels=tmp_path / "names.json").rows} == {"one", "two"}
    assert "sacrum" in {row.label for row in folders.run(scheme="nnunet14").rows}
    (folders.ref.parent / "dataset.json").unlink()
    assert {row.label for row in folders.run().rows} == {"label 1", "label 2"}
    write_json(folders.pred / "dataset.json", {"labels": {"x": 1, "y": 2}})
    assert {row.label for row in folders.run().rows} == {"x", "y"}


def test_ignored_voxels_are_not_scored(folders: Folders) -> None:
    write_json(folders.ref.parent / "dataset.json", {"labels": {**LABELS, "ignore": 4}})
    ref, pred = semantic(), semantic()
    ref[9:12], pred[9:12] = 4, 1
    folders.add("a", ref, pred)
    folders.run()
    values = folders.values()
    assert values["a", "cord", "dice"] == 1.0
    assert not any(label == "ignore" for _, label, _ in values)


def test_whole_numbers_stored_as_floats_are_labels(folders: Folders) -> None:
    folders.add("a", semantic(), semantic().astype(np.float32))
    assert folders.run().exit_code == 0


# --- bad input -------------------------------------------------------------------------------------------------------


def unknown_id(array: np.ndarray) -> np.ndarray:
    array[0, 0, :3] = 77
    return array


def fractions(array: np.ndarray) -> np.ndarray:
    soft = array.astype(np.float32)
    soft[0, 0, :2] = 0.4, np.nan
    return soft


def negative(array: np.ndarray) -> np.ndarray:
    signed = array.astype(np.int16)
    signed[0, 0, 0] = -3
    return signed


def huge(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.int32)
    wide[0, 0, 0] = 2**30
    return wide


BAD_VALUES = {
    "unknown id": (unknown_id, "E-LABEL-UNKNOWN", "77 (3 voxels)"),
    "fractions": (fractions, "E-EVAL-FLOAT", "2 voxels"),
    "negative": (negative, "E-LABEL-UNKNOWN", "-3 (1 voxels)"),
    "huge": (huge, "E-LABEL-UNKNOWN", "1073741824 (1 voxels)"),
    "other shape": (lambda array: array[:-1], "E-GEOM-GRID", "13x12x6"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_prediction_fails_its_case_only(name: str, folders: Folders) -> None:
    spoil, code, text = BAD_VALUES[name]
    folders.add("bad", semantic(), spoil(semantic()))
    folders.add("good", semantic(), semantic())
    result = folders.run()
    assert result.exit_code == 3
    assert result.status == {"bad": "failed", "good": "done"}
    problem = result.summary.failed["bad"]
    assert (problem.code, Path(problem.file).name) == (code, "bad.nii.gz")
    assert text in problem.found
    assert {row.case for row in result.rows} == {"good"}
    assert "| bad | failed |" in (folders.out / "summary.md").read_text(encoding="utf-8")


def test_bad_reference_truncated_file_and_four_dimensions(folders: Folders) -> None:
    folders.add("good", semantic(), semantic())
    folders.add("reference", unknown_id(semantic()), semantic())
    folders.add("short", semantic(), semantic())
    content = (folders.pred / "short.nii.gz").read_bytes()
    (folders.pred / "short.nii.gz").write_bytes(content[: len(content) // 2])
    folders.add("four", semantic(), None)
    nib.save(nib.Nifti1Image(np.zeros((14, 12, 6, 2), np.uint8), AFFINE), folders.pred / "four.nii.gz")
    folders.add("twice", semantic(), semantic())
    save(folders.pred / "twice.mha", semantic())
    result = folders.run()
    assert result.exit_code == 3
    codes = {case: problem.code for case, problem in result.summary.failed.items()}
    assert codes == {
        "reference": "E-LABEL-UNKNOWN",
        "short": "E-IN-UNREADABLE",
        "four": "E-IN-DIM",
        "twice": "E-EVAL-TWICE",
    }
    assert result.summary.done == ["good"]


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


def test_grids_same_rounded_and_other(folders: Folders) -> None:
    folders.add("other", semantic(), semantic(), affine=shifted(3.0))
    folders.add("rounded", semantic(), semantic(), affine=shifted(0.02))
    folders.add("same", semantic(), semantic(), affine=shifted(1e-4))
    result = folders.run()
    assert result.status == {"other": "failed", "rounded": "done", "same": "done"}
    assert [p.code for p in result.summary.warnings["rounded"]] == ["W-GEOM-TOLERANCE"]
    assert "same" not in result.summary.warnings
    problem = result.summary.failed["other"]
    assert problem.code == "E-GEOM-GRID"
    assert "3 mm apart" in problem.found
    assert "--resample nearest" in problem.fix
    again = folders.run(resample="nearest")
    assert again.exit_code == 0
    assert [p.code for p in again.summary.warnings["other"]] == ["W-EVAL-RESAMPLED"]
    # One slice further right: two of three slices overlap.
    assert folders.values()["other", "cord", "dice"] == pytest.approx(2 / 3)
    assert folders.values()["rounded", "cord", "dice"] == 1.0


def test_another_orientation_is_resampled_exactly(folders: Folders) -> None:
    folders.add("a", semantic(), None)
    write_volume(Volume(semantic(), AFFINE).to("RAS"), folders.pred / "a.nii.gz")
    assert folders.run().status == {"a": "failed"}
    folders.run(resample="nearest")
    assert folders.values()["a", "cord", "dice"] == 1.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ref": "nowhere"}, UsageError),
        ({"pred": "nowhere"}, UsageError),
        ({"metrics": ("dise",)}, UsageError),
        ({"labels": "x.json", "scheme": "spineps"}, UsageError),
        ({"scheme": "spinneps"}, UsageError),
        ({"iou_threshold": 0.0}, UsageError),
        ({"nsd_tolerance": -1.0}, UsageError),
        ({"ref_instances": "nowhere", "pred_instances": "nowhere"}, UsageError),
    ],
    ids=str,
)
def test_wrong_usage_starts_nothing(change: dict[str, Any], error: type[SpineExtError], folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    with pytest.raises(error) as caught:
        evaluate(**{"ref": folders.ref, "pred": folders.pred, "o": folders.out, **change})
    assert caught.value.exit_code == 2
    assert not folders.out.exists()


def test_output_must_not_be_an_input(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    for folder in (folders.ref, folders.pred):
        with pytest.raises(UsageError, match="E-OUT-INPUT"):
            evaluate(folders.ref, folders.pred, folder)
    assert evaluate(folders.ref, folders.pred, folders.pred / "evaluation").exit_code == 0


def test_output_that_cannot_be_written(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.add("a", semantic(), semantic())
    # Permissions do not stop the administrator, who runs tests in containers.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SpineExtError, match="E-OUT-READONLY") as caught:
        folders.run()
    assert caught.value.exit_code == 5


def test_output_that_is_a_file(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.out.write_text("mine")
    with pytest.raises(SpineExtError, match="E-OUT-READONLY"):
        folders.run()
    assert folders.out.read_text() == "mine"


def test_regions_are_refused_with_a_hint(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    write_json(folders.ref.parent / "dataset.json", {"labels": {"background": 0, "all": [1, 2]}})
    with pytest.raises(UsageError, match="regions are not supported"):
        folders.run()


def test_no_usable_case_is_exit_code_4(folders: Folders) -> None:
    with pytest.raises(NoInputError) as caught:
        folders.run()
    assert caught.value.exit_code == 4
    folders.add("a", unknown_id(semantic()), semantic())
    assert folders.run().exit_code == 4


# --- command ---------------------------------------------------------------------------------------------------------


def test_command(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), None)
    words = ["-ref", str(folders.ref), "-pred", str(folders.pred), "-o", str(folders.out), "-q"]
    assert main([*words, "--json", "--metrics", "dice", "assd"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["cases"]["b"]["status"] == "missing"
    assert list(content["metrics"]) == ["dice", "assd"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--metrics", "dise"])
    assert caught.value.code == 2


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nnunet_spine_ext.cli.evaluate import build_parser; build_parser().format_help();"
        "print([m for m in ('torch', 'scipy', 'nibabel', 'SimpleITK', 'nnunetv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- real ------------------------------------------------------------------------------------------------------------


def test_lumbar_pair_takes_about_a_second_and_shows_the_swapped_codes(test_data: Path, tmp_path: Path) -> None:
    masks = test_data / "panoptica" / "semantic"
    evaluate(masks / "ref.nii.gz", masks / "pred.nii.gz", tmp_path / "first", scheme="spineps")
    start = time.process_time()
    result = evaluate(masks / "ref.nii.gz", masks / "pred.nii.gz", tmp_path / "scores", scheme="spineps")
    assert time.process_time() - start < 3
    dice = {row.label: row.value for row in result.rows if row.metric == "dice"}
    # This reference has the codes of cord and canal the wrong way round.
    assert dice["cord"] < 0.05
    assert dice["canal"] < 0.05
    assert dice["corpus"] > 0.97
    assert {row.metric for row in result.rows} == {m.name for m in METRICS.values() if m.scope == "class" and m.default}


def test_the_help_parts_names_of_metrics_from_what_they_mean() -> None:
    from nnunet_spine_ext.cli.evaluate import build_parser

    text = build_parser().format_help()
    for row in METRICS.values():
        assert re.search(rf"^  {row.name} +{re.escape(row.long_name)}", text, re.MULTILINE), row.name
