"""`nnUNetv2_spine_demo`: the main job end to end on phantoms, through the commands a user types."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.errors import EXIT_INTERNAL, EXIT_OK, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.threads import set_frugal_cpu

logger = logging.getLogger(__name__)

TRAIN_ID, TEST_ID = 901, 902
TRAIN_NAME, TEST_NAME = "DemoTrain", "DemoTest"
PLANS = "spineDemo"
# Falling below means that something broke; docs/reference/results.md has what the demo reaches with its default seed.
FLOORS = {"dice corpus": 0.88, "dice disc": 0.82, "pq vertebra": 0.70}
# Fine enough for articular processes (mm in the sagittal plane, twice; between slices).
SPACING = (2.0, 2.0, 4.0)
_MARKER = ".spine_demo"


@dataclass
class DemoResult:
    """Scores on phantoms that training never saw, and the page that shows them."""

    report: Path
    scores: dict[str, float]
    seconds: float
    below: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 1 when a score is below its floor."""
        return EXIT_INTERNAL if self.below else EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        lines = [f"{name}: {value:.3f} (floor {FLOORS[name]:.2f})" for name, value in self.scores.items()]
        lines += [f"BELOW ITS FLOOR: {name}" for name in self.below]
        return "\n".join([f"finished in {self.seconds / 60:.1f} minutes", *lines, f"open {self.report}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {"report": str(self.report), "scores": self.scores, "floors": FLOORS, "seconds": self.seconds}


def demo(
    o: str | Path = "demo",
    *,
    n: int = 24,
    n_test: int = 3,
    epochs: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> DemoResult:
    """Make phantoms, plan, train, predict phantoms that were not trained on, separate, score and report.

    Parameters
    ----------
    o: folder for everything; a folder of an earlier demo is emptied first.
    n, n_test: spines for training and for the test. epochs: None for the preset's own number.

    Raises
    ------
    UsageError: the folder holds something else. SetupError: a step failed; its log is named.
    """
    start = time.perf_counter()
    folder = Path(o).resolve()
    _empty(folder)
    steps = _Steps(folder)
    raw = folder / "nnUNet_raw"
    scan = ["--region", "lumbar", "--spacing", *map(str, SPACING), "--healthy", "--jobs", "2"]
    # Two spines to validate are enough for a look; the others train.
    folds = max(2, n // 2)
    steps.run("make phantoms to train on", "nnUNetv2_spine_phantom", "-o", raw, "-d", TRAIN_ID, "--name", TRAIN_NAME,
              "--n", n, "--seed", seed, "--folds", folds, *scan)  # fmt: skip
    steps.run("make other phantoms to test on", "nnUNetv2_spine_phantom", "-o", raw, "-d", TEST_ID, "--name", TEST_NAME,
              "--n", n_test, "--seed", seed + 100_000, *scan)  # fmt: skip
    steps.run("plan and preprocess (stock nnU-Net)", "nnUNetv2_plan_and_preprocess", "-d", TRAIN_ID, "-c", "3d_fullres",
              "-np", 1, "-npfp", 1, "--verify_dataset_integrity")  # fmt: skip
    settings = [f"--set=train.num_epochs={epochs}"] if epochs else []
    steps.run("choose a recipe", "nnUNetv2_spine_plan", "-d", TRAIN_ID, "--name", PLANS, "--preset", "demo", *settings)
    steps.run("train (stock nnU-Net, our trainer)", "nnUNetv2_train", TRAIN_ID, "3d_fullres", 0,
              "-tr", "nnUNetTrainerSpine", "-p", PLANS, "-device", device, training=True)  # fmt: skip
    model = folder / "nnUNet_results" / f"Dataset{TRAIN_ID}_{TRAIN_NAME}" / f"nnUNetTrainerSpine__{PLANS}__3d_fullres"
    test = raw / f"Dataset{TEST_ID}_{TEST_NAME}"
    images, predicted, scores = test / "imagesTr", folder / "predicted", folder / "scores"
    steps.run("let stock prediction write instances, too", "nnUNetv2_spine_plan", "-m", model,
              "--set", "predict.instances=true")  # fmt: skip
    steps.run("predict one spine (stock nnU-Net)", "nnUNetv2_predict", "-i", _first(images, folder / "one"),
              "-o", folder / "predicted_stock", "-d", TRAIN_ID, "-c", "3d_fullres", "-tr", "nnUNetTrainerSpine",
              "-p", PLANS, "-f", 0, "-device", device, "-npp", 0, "-nps", 0)  # fmt: skip
    steps.run("predict all test spines, separate vertebrae and discs", "nnUNetv2_spine_predict", "-i", images,
              "-o", predicted, "-m", model, "--instances", "-device", device)  # fmt: skip
    steps.run("score", "nnUNetv2_spine_evaluate", "-ref", test / "labelsTr", "-pred", predicted, "-o", scores)
    steps.run("report", "nnUNetv2_spine_report", predicted, "-i", images, "--evaluation", scores,
              "--title", "Demo: lumbar phantoms", "-o", folder / "report.html")  # fmt: skip
    result = _result(folder, scores, time.perf_counter() - start)
    write_json(folder / "demo.json", result.to_dict())
    return result


class _Steps:
    """Runs commands in the demo's own environment; each step is announced with the line a user would type."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        self.count = 0
        self.environment = _environment(folder)

    def run(self, title: str, *words: object, training: bool = False) -> None:
        """Run one command; raises SetupError with the last lines of its log when it fails."""
        self.count += 1
        command = [str(word) for word in words]
        logger.info("%d. %s\n     %s", self.count, title, shlex.join(command))
        environment = dict(self.environment)
        if training:
            # nnU-Net's single-threaded loader saves worker processes; its planning refuses this setting.
            environment["nnUNet_n_proc_DA"] = "0"
        executable = Path(sys.executable).with_name(command[0])
        if not executable.exists():
            executable = Path(shutil.which(command[0]) or command[0])
        with self.log.open("a") as stream:
            stream.write(f"\n$ {shlex.join(command)}\n")
            stream.flush()
            code = subprocess.run(
                [str(executable), *command[1:]], stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode
        if code:
            tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])
            raise SetupError(
                "E-DEMO-STEP",
                file=self.log,
                found=f"{command[0]} ended with {code}: {tail}",
                expected="every step to succeed",
                fix="read the log; nnUNetv2_spine_doctor checks the installation",
            )


def _environment(folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
        environment[name] = str(folder / name)
    environment["nnUNet_extTrainer"] = str(trainers_folder())
    environment |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "PYTHONUNBUFFERED": "1"}
    set_frugal_cpu(environment)
    environment.pop("nnUNet_n_proc_DA", None)
    return environment


def _empty(folder: Path) -> None:
    """Make the folder, or empty it if an earlier demo made it."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARKER).exists())):
        raise UsageError(
            "E-DEMO-FOLDER",
            file=folder,
            found="something that no demo made",
            expected="a new folder or that of an earlier demo",
            fix="choose another -o",
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


def _first(images: Path, folder: Path) -> Path:
    """Copy the first image into a folder of its own: stock prediction takes folders only."""
    folder.mkdir()
    shutil.copy(sorted(images.glob("*.nii.gz"))[0], folder)
    return folder


def _result(folder: Path, scores: Path, seconds: float) -> DemoResult:
    summary = read_json(scores / "summary.json")
    found = {name: _score(summary, *name.split()) for name in FLOORS}
    below = [name for name, value in found.items() if not value >= FLOORS[name]]
    return DemoResult(folder / "report.html", found, seconds, below)


def _score(summary: dict[str, Any], metric: str, label: str) -> float:
    """Return the mean of a metric for a class or a group from the evaluation's summary; NaN if it has none."""
    for row in (*summary["classes"], *summary["groups"]):
        if row["label"] == label and row["metrics"].get(metric, {}).get("mean") is not None:
            return float(row["metrics"][metric]["mean"])
    return float("nan")
