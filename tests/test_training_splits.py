"""Grouped splits: every way in which a split can be wrong is refused with names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.training.splits import grouped_fold, subjects_of

SUBJECT_OF = {"a_1": "anna", "a_2": "anna", "b_1": "bert", "b_2": "bert", "c_1": "cleo"}
GOOD = [{"train": ["b_1", "b_2", "c_1"], "val": ["a_1", "a_2"]}, {"train": ["a_1", "a_2"], "val": ["b_1", "c_1"]}]


def write(folder: Path, splits: list[dict[str, list[str]]]) -> Path:
    cases = {case: {"subject": subject, "labelled": True} for case, subject in SUBJECT_OF.items()}
    (folder / "cases.json").write_text(json.dumps({"version": 1, "cases": cases}))
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def test_a_good_fold_comes_back_as_written(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    assert grouped_fold(folder, 0, list(SUBJECT_OF)) == (GOOD[0]["train"], GOOD[0]["val"])
    assert grouped_fold(folder, 1, list(SUBJECT_OF)) == (GOOD[1]["train"], GOOD[1]["val"])


def test_all_takes_every_preprocessed_case_on_both_sides(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    (folder / "splits_final.json").unlink()
    train, validation = grouped_fold(folder, "all", ["c_1", "a_1"])
    assert train == validation == ["a_1", "c_1"]
    with pytest.raises(SetupError, match="no entry for stranger"):
        grouped_fold(folder, "all", ["a_1", "stranger"])


@pytest.mark.parametrize(
    ("split", "code", "named"),
    [
        ({"train": ["a_1", "b_1"], "val": ["a_2"]}, "E-SPLIT-LEAK", ("anna (a_1, a_2)", "splits_final.json")),
        ({"train": ["a_1", "x_9"], "val": ["b_1"]}, "E-SPLIT-CASE", ("x_9", "cases.json")),
        ({"train": ["a_1", "c_1"], "val": ["b_1"]}, "E-SPLIT-CASE", ("not preprocessed: c_1",)),
    ],
)
def test_a_wrong_split_is_refused_with_names(
    tmp_path: Path, split: dict[str, list[str]], code: str, named: tuple[str, ...]
) -> None:
    folder = write(tmp_path, [split])
    with pytest.raises(SetupError) as caught:
        grouped_fold(folder, 0, ["a_1", "a_2", "b_1", "b_2"])
    assert caught.value.code == code
    for text in named:
        assert text in str(caught.value)


@pytest.mark.parametrize("fold", [2, 7, -1])
def test_a_missing_fold_is_refused(tmp_path: Path, fold: int) -> None:
    with pytest.raises(SetupError, match="2 folds; expected a fold") as caught:
        grouped_fold(write(tmp_path, GOOD), fold, list(SUBJECT_OF))
    assert caught.value.code == "E-SPLIT-FOLD"


def test_missing_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="which subject") as caught:
        subjects_of(tmp_path)
    assert "train.splits=stock" in str(caught.value)
    (write(tmp_path, GOOD) / "splits_final.json").unlink()
    with pytest.raises(SetupError, match=r"splits_final\.json") as caught:
        grouped_fold(tmp_path, 0, list(SUBJECT_OF))
    assert caught.value.code == "E-SPLIT-FILE"
