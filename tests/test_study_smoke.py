"""The smallest whole study, through the command: every table with all its columns, killed and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_spine_ext.study.records import CASE_COLUMNS, FAILURE_COLUMNS, GAP_COLUMNS, VERTEBRA_COLUMNS

pytestmark = pytest.mark.slow
TABLES = {
    "cases.csv": CASE_COLUMNS,
    "vertebrae.csv": VERTEBRA_COLUMNS,
    "gaps.csv": GAP_COLUMNS,
    "failures.csv": FAILURE_COLUMNS,
}


def _run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "-c",
        f"from nnunet_spine_ext.cli.study import main; raise SystemExit(main({_words(folder, options)!r}))",
    ]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def _words(folder: Path, options: tuple[str, ...]) -> list[str]:
    return ["--preset", "smoke", "--jobs", "2", "-o", str(folder), *options]


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        return list(reader.fieldnames or ()), list(reader)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was killed while it trained, and gone on with."""
    folder = tmp_path_factory.mktemp("study") / "out"
    command = ["-c", f"from nnunet_spine_ext.cli.study import main; main({_words(folder, ())!r})"]
    child = subprocess.Popen([sys.executable, *command], start_new_session=True)
    log = folder / "logs"
    end = time.monotonic() + 600
    while not list(log.glob("train-*")) and child.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
    assert child.poll() is None, "the study ended before it trained"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = {path.name for path in (folder / "steps").glob("*.json")}
    assert "plan-and-preprocess.json" in done
    stamps = {name: (folder / "steps" / name).stat().st_mtime_ns for name in done}
    refused = _run(folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    result = _run(folder, "--resume")
    # Its networks have hardly begun to learn: no gap, and one strategy is there to be refused.
    assert result.returncode == 3, result.stderr[-3000:]
    assert {name: (folder / "steps" / name).stat().st_mtime_ns for name in done} == stamps
    (folder / "console.txt").write_text(result.stdout)
    return folder


def test_every_table_has_its_columns_and_every_strategy_its_rows(folder: Path) -> None:
    rows = {}
    for name, columns in TABLES.items():
        header, rows[name] = _rows(folder / name)
        assert tuple(header) == columns
    facts = json.loads((folder / "study.json").read_text())
    lost = [row for row in rows["failures.csv"] if row["step"] != "not available"]
    assert not lost, lost
    assert [row["strategy"] for row in rows["failures.csv"]] == ["harmonized"]
    found = {row["strategy"] for row in rows["cases.csv"]}
    assert found == set(facts["config"]["strategies"]) - {"harmonized"}
    scanner = [row for row in rows["cases.csv"] if row["factor"] == "scanner" and row["strategy"] == "none"]
    assert len(scanner) == 3 * 3
    curve = {row["n"] for row in rows["cases.csv"] if row["factor"] == "samples"}
    assert curve == {"0", "1", "2"}
    assert {row["components"] for row in rows["cases.csv"] if row["factor"] == "component"} == {
        "field", "manufacturer", "noise", "contrast", "resolution", "bias",
    }  # fmt: skip
    assert all(float(row["seconds"]) > 0 and int(row["forward_passes"]) > 0 for row in rows["cases.csv"])
    matched = {
        name: [(row["noise_reduced"], row["matched"]) for row in rows["cases.csv"] if row["strategy"] == name]
        for name in ("none", "match")
    }
    assert set(matched["none"]) == {("0", "0")}
    assert "1" in {changed for both in matched["match"] for changed in both}
    assert all(0 < float(row["ceiling_dice"]) <= 1 and row["quantile_distance"] for row in rows["gaps.csv"])


def test_tables_figures_and_page_are_written(folder: Path) -> None:
    for number in (1, 2, 3, 4):
        header, _ = _rows(folder / "tables" / f"table{number}.csv")
        assert header
        assert (folder / "tables" / f"table{number}.md").read_text()
    header, rows = _rows(folder / "tables" / "table3.csv")
    assert {"nako-siemens-3t", "philips-3t", "ge-1.5t", "share"} <= set(header)
    assert {row["key"].partition("@")[0] for row in rows} >= {"none", "match", "tta", "match+tta", "finetuned"}
    for number in range(1, 7):
        assert list((folder / "figures").glob(f"figure{number}*.svg"))
        assert list((folder / "figures").glob(f"figure{number}*.png"))
    assert (folder / "index.html").is_file()
    said = (folder / "console.txt").read_text()
    assert "VOID" in said
    assert "not available: harmonized" in said


def test_a_finished_study_does_nothing_again(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in TABLES}
    result = _run(folder, "--resume")
    assert "0 steps done" in result.stdout
    assert {name: (folder / name).read_bytes() for name in TABLES} == before


def test_another_strategy_does_only_its_own_steps(folder: Path) -> None:
    result = _run(folder, "--resume", "--set", "strategies=[none, mirror]")
    assert "2 steps done" in result.stdout, result.stdout + result.stderr
    _, rows = _rows(folder / "cases.csv")
    assert {row["strategy"] for row in rows if row["factor"] == "scanner"} == {"none", "mirror"}
