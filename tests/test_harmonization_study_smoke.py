"""The smallest whole evaluation of harmonization, through the command: killed, and gone on with."""

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

from nnunet_spine_ext.study.harmonization.measured import (
    GEOMETRY_COLUMNS,
    RADIOMICS_COLUMNS,
    SEGMENTATION_COLUMNS,
    TRAINING_COLUMNS,
)

pytestmark = pytest.mark.slow
ARMS = ("none", "nyul", "cyclegan", "full")
TABLES = {
    "segmentation.csv": SEGMENTATION_COLUMNS,
    "radiomics.csv": RADIOMICS_COLUMNS,
    "geometry.csv": GEOMETRY_COLUMNS,
    "trainings.csv": TRAINING_COLUMNS,
}


def _command(folder: Path, *options: str) -> list[str]:
    arms = f"arms=[{', '.join(ARMS)}]"
    words = ["evaluate", "--preset", "smoke", "-o", str(folder), "--set", arms, "bootstrap=50", *options]
    code = (
        f"from nnunet_spine_ext.cli.harmonize import main\nif __name__ == '__main__': raise SystemExit(main({words!r}))"
    )
    return [sys.executable, "-c", code]


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        return list(reader.fieldnames or ()), list(reader)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that was killed while it trained, and gone on with."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    child = subprocess.Popen(_command(folder), start_new_session=True)
    end = time.monotonic() + 600
    while not list(folder.glob("steps/score-nyul*")) and child.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    assert child.poll() is None, "the evaluation ended before it was killed"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "steps").glob("*.json")}
    assert not any(name.startswith("score-full") for name in done)
    refused = subprocess.run(_command(folder), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    result = subprocess.run(_command(folder, "--resume"), capture_output=True, text=True, check=False)
    # Networks have hardly begun to learn: there is no gap.
    assert result.returncode == 3, result.stderr[-3000:]
    assert {name: (folder / "steps" / name).stat().st_mtime_ns for name in done} == done
    (folder / "console.txt").write_text(result.stdout)
    return folder


def test_every_table_has_its_columns_and_every_arm_its_rows(folder: Path) -> None:
    rows = {}
    for name, columns in TABLES.items():
        header, rows[name] = _rows(folder / name)
        assert tuple(header) == columns
    assert not _rows(folder / "failures.csv")[1]
    assert {row["arm"] for row in rows["segmentation.csv"]} == set(ARMS)
    assert {row["arm"] for row in rows["geometry.csv"]} == set(ARMS) - {"none"}
    roles = {row["vendor"]: row["role"] for row in rows["segmentation.csv"]}
    assert roles == {
        "siemens-essenza": "target", "philips-intera": "source", "philips-ingenia-cx": "source",
        "siemens-amira": "unseen",
    }  # fmt: skip
    assert {row["feature"] for row in rows["radiomics.csv"]} == {
        "Idmn", "Correlation", "SumEntropy", "DifferenceEntropy", "ShortRunEmphasis",
    }  # fmt: skip
    trained = {row["name"]: row for row in rows["trainings.csv"]}
    assert set(trained) == {"unet", "small", "nyul", "cyclegan", "full"}
    assert all(int(trained[name]["parameters"]) > 100 for name in ("unet", "small", "cyclegan", "full"))


def test_figures_of_the_paper_are_there(folder: Path) -> None:
    for number in range(7, 13):
        assert (folder / "figures" / f"figure{number}.png").is_file(), number
        assert f'id="figure{number}"' in (folder / "index.html").read_text()


def test_the_console_says_every_number_with_its_interval(folder: Path) -> None:
    said = (folder / "console.txt").read_text()
    assert "VOID" in said
    for line in ("no harmonization: Dice 0.", "CycleGAN +RF +Seg: Dice 0.", "SumEntropy: relative error 0."):
        start = said.index(line)
        assert "[" in said[start : said.index("\n", start)], line
    facts = json.loads((folder / "evaluation.json").read_text())
    assert facts["segmenter"] == "unet"
    assert facts["seconds_of_steps"]["train full, seed 0"] > 0
