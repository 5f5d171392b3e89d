"""The exit code of a run says what happened to its cases."""

from __future__ import annotations

import json

import pytest

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.summary import RunSummary

ERROR = Problem("error", "E-X", "b.nii", "7", "3", "count again")
WARNING = Problem("warning", "W-X", "a.nii", "5", "3", "look")


@pytest.mark.parametrize(
    ("done", "skipped", "failed", "code"),
    [
        ([], [], [], 4),
        ([], [], ["b"], 4),
        (["a"], [], [], 0),
        ([], ["a"], [], 0),
        (["a"], [], ["b"], 3),
        ([], ["a"], ["b"], 3),
        (["a"], ["c"], ["b"], 3),
    ],
)
def test_exit_code(done: list[str], skipped: list[str], failed: list[str], code: int) -> None:
    summary = RunSummary(done=done, skipped=skipped)
    for case in failed:
        summary.fail(case, ERROR)
    assert summary.exit_code == code
    assert summary.to_dict()["exit_code"] == code


def test_warnings_do_not_change_the_exit_code_and_are_kept() -> None:
    summary = RunSummary(done=["a"])
    summary.warn("a")
    assert summary.warnings == {}
    summary.warn("a", WARNING)
    summary.warn("a", WARNING, WARNING)
    assert len(summary.warnings["a"]) == 3
    assert summary.exit_code == 0


def test_text_names_every_failure_with_its_remedy() -> None:
    summary = RunSummary(title="predict", done=["a"])
    summary.warn("a", WARNING)
    summary.fail("b", ERROR)
    lines = summary.render().splitlines()
    assert lines[0] == "predict"
    assert lines[1] == f"WARNING a: {WARNING}"
    assert lines[2] == f"FAILED b: {ERROR}"
    assert "count again" in lines[2]
    assert lines[3] == "1 done, 0 skipped, 1 failed"
    assert RunSummary().render() == "0 done, 0 skipped, 0 failed"


def test_json_holds_the_same() -> None:
    summary = RunSummary(done=["a"], skipped=["c"])
    summary.fail("b", ERROR)
    summary.warn("a", WARNING)
    content = json.loads(json.dumps(summary.to_dict()))
    assert content["done"] == ["a"]
    assert content["skipped"] == ["c"]
    assert content["failed"]["b"]["code"] == "E-X"
    assert content["warnings"]["a"][0]["severity"] == "warning"
