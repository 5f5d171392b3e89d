"""Test-time training on other scanners: what it gains, what it costs, and what its guards stop.

    python benchmarks/test_time_training.py --out bench/test_time_training [--quick] [--augment gin nnunet] [--lr 1e-4]

Small 2-D networks of 14 classes are trained on lumbar phantoms of one scanner, with random appearance (preset `gin`,
which consistency asks for) or with nnU-Net's augmentation. The same test spines, scanned by that scanner and by others,
are predicted without adaptation, with consistency, with tent, and, as negative controls, with what tent gives without
its guards, and with ten steps of ten times its learning rate, without prior and guards. Dice is the mean over the
classes that the unadapted model finds on its own scanner (0.2 and more), on the grid of the files. Goal: no case of an
offered method is worse than unadapted by more than 0.005. Seconds are CPU time of one thread. The last line is the
summary.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.io import read_volume, write_bytes, write_json
from nnunet_spine_ext.core.threads import set_frugal_cpu
from nnunet_spine_ext.inference.adaptation.interface import AdaptOutcome, adapt, using
from nnunet_spine_ext.inference.adaptation.settings import AdaptSettings, ConsistencySettings, TentSettings
from nnunet_spine_ext.inference.predictor import SpinePredictor

SOURCE = "nako-siemens-3t"
SCANNERS = (SOURCE, "ge-3t", "ge-1.5t", "philips-1.5t")
DATASET, NAME, CONFIGURATION, TRAINER = 941, "AdaptSource", "2d", "nnUNetTrainerSpineShift"
SPACING = ("1.5", "1.5", "4")
# Mean Dice at home from which a class counts as learned.
LEARNED = 0.2
# An adapted case may be worse by this much in Dice.
GOAL = 0.005
TEST_SEED = 100_000


@dataclass(frozen=True)
class Size:
    """How much: spines to train on and to test on, schedule, scanners, epochs and patches of consistency."""

    train: int = 16
    test: int = 3
    epochs: int = 24
    iterations: int = 40
    scanners: tuple[str, ...] = SCANNERS
    consistency: tuple[int, int] = (12, 16)


QUICK = Size(train=4, test=1, epochs=3, iterations=10, scanners=(SOURCE, "ge-1.5t"), consistency=(2, 4))


def preset(size: Size, augment: str) -> dict[str, Any]:
    """Return the recipe of the network and its training."""
    train = {
        "num_epochs": size.epochs, "num_iterations_per_epoch": size.iterations, "num_val_iterations_per_epoch": 1,
        "optimizer": "adamw", "initial_lr": 0.003, "weight_decay": 0.01, "oversample_foreground": 0.5,
        "mirror_axes": "left-right", "save_every": size.epochs, "plot_every": size.epochs, "seed": 0,
    }  # fmt: skip
    return {
        "description": "test-time training", "train": train, "augment": {"config": augment}, "batch_dice": True,
        "network": {"base_features": 12, "max_features": 96, "max_stages": 5, "convs_per_decoder_stage": 1},
        "patch": {"size": [128, 96]}, "batch_size": 8,
    }  # fmt: skip


class Commands:
    """Runs commands of this interpreter's environment on folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (folder / name).mkdir(exist_ok=True)
            self.environment[name] = str(folder / name)
        self.environment["nnUNet_extTrainer"] = str(trainers_folder())
        self.environment.pop("nnUNet_n_proc_DA", None)
        set_frugal_cpu(self.environment)

    def run(self, name: str, *words: object, training: bool = False) -> None:
        environment = self.environment | ({"nnUNet_n_proc_DA": "0"} if training else {})
        command = [str(Path(sys.executable).with_name(name)), *map(str, words)]
        print(" ".join(command[:1] + command[1:]), flush=True)
        with (self.folder / "log.txt").open("a") as stream:
            subprocess.run(command, check=True, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def make_data(commands: Commands, size: Size) -> dict[str, Path]:
    """Make phantoms to train on, and the same test spines once per scanner; return the test sets. Done once."""
    raw = commands.folder / "nnUNet_raw"
    scan = ["--region", "lumbar", "--spacing", *SPACING, "--healthy", "-q"]
    done = commands.folder / f"data_{size.train}_{size.test}.json"
    tests = {name: raw / f"Dataset{950 + k}_Test{k}" for k, name in enumerate(size.scanners)}
    if done.exists() and set(json.loads(done.read_text())) >= set(size.scanners):
        return tests
    commands.run("nnUNetv2_spine_phantom", "-o", raw, "-d", DATASET, "--name", NAME, "--n", size.train, "--folds",
                 max(2, size.train // 2), "--scanner", SOURCE, "--overwrite", *scan)  # fmt: skip
    for number, scanner in enumerate(size.scanners):
        commands.run("nnUNetv2_spine_phantom", "-o", raw, "-d", 950 + number, "--name", f"Test{number}", "--n",
                     size.test, "--seed", TEST_SEED, "--scanner", scanner, "--overwrite", *scan)  # fmt: skip
    commands.run("nnUNetv2_plan_and_preprocess", "-d", DATASET, "-c", CONFIGURATION, "-np", 1, "-npfp", 1)
    write_json(done, list(size.scanners))
    return tests


def train(commands: Commands, size: Size, augment: str) -> Path:
    """Train one network, once; return its folder."""
    plans = f"adapt_{augment}_{size.epochs}_{size.iterations}".replace(".", "_")
    results = commands.folder / "nnUNet_results" / f"Dataset{DATASET}_{NAME}"
    model = results / f"{TRAINER}__{plans}__{CONFIGURATION}"
    if (model / "fold_0" / "checkpoint_final.pth").exists():
        return model
    shutil.rmtree(model, ignore_errors=True)
    recipe = commands.folder / f"{plans}.yaml"
    write_bytes(recipe, yaml.safe_dump(preset(size, augment)).encode())
    commands.run("nnUNetv2_spine_plan", "-d", DATASET, "-c", CONFIGURATION, "--name", plans, "--preset", recipe,
                 "--overwrite")  # fmt: skip
    commands.run("nnUNetv2_train", DATASET, CONFIGURATION, 0, "-tr", TRAINER, "-p", plans, "-device", "cpu",
                 training=True)  # fmt: skip
    return model


@contextlib.contextmanager
def timed(figures: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    figures[name] = round(time.process_time() - start, 2)


def dice_of(found: Any, truth: Any) -> dict[int, float]:
    """Return the Dice of each class of the truth."""
    scores = {}
    for label in np.unique(truth[truth > 0]):
        a, b = found == label, truth == label
        scores[int(label)] = round(2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum())), 5)
    return scores


def score_learned(rows: list[dict[str, Any]]) -> list[int]:
    """Add to each row of one model the mean Dice over the classes that it learned; return these.

    Classes that it does not find at home, unadapted, would only dilute what adaptation does to the others.
    """
    home = [row["classes"] for row in rows if row["strategy"] == "none" and row["scanner"] == SOURCE]
    labels = sorted({label for classes in home for label in classes})
    learned = [n for n in labels if statistics.mean(c[n] for c in home if n in c) >= LEARNED]
    for row in rows:
        shown = [dice for label, dice in row["classes"].items() if label in learned]
        row["dice"] = round(statistics.mean(shown), 5) if shown else 0.0
    return learned


def settings_of(size: Size, lr: float | None) -> dict[str, tuple[str, AdaptSettings]]:
    """Return the methods, with their settings."""
    epochs, patches = size.consistency
    consistency = ConsistencySettings(epochs=epochs, patches=patches)
    base = AdaptSettings(consistency=consistency if lr is None else replace(consistency, lr=lr))
    wild = TentSettings(steps=10, lr=10 * base.tent.lr, prior=0.0)
    return {
        "consistency": ("consistency", base),
        "tent": ("tent", base),
        "tent wild": ("tent", replace(base, tent=wild)),
    }


def score_case(
    predictor: SpinePredictor, image: Path, mask: Path, methods: dict[str, tuple[str, AdaptSettings]]
) -> list[dict[str, Any]]:
    """Return one row per strategy: Dice, seconds, whether guards let it pass, loss before and after."""
    truth = read_volume(mask).array
    rows: list[dict[str, Any]] = []

    def row(strategy: str, outcome: AdaptOutcome | None, parameters: Any) -> None:
        if parameters is not None or not rows:
            with using(predictor, parameters), timed(took, "predict"):
                classes = dice_of(predictor.segment(data, dict(properties)).array, truth)
        else:
            classes = rows[0]["classes"]
        record = {} if outcome is None else outcome.record
        loss = record["folds"][0]["loss"] if record.get("folds") else [None]
        rows.append(
            {"case": mask.name.removesuffix(".nii.gz"), "strategy": strategy, "classes": classes,
             "predict_s": took["predict"], "adapt_s": took.get(strategy.removesuffix(" unguarded"), 0.0),
             "kept": None if outcome is None else outcome.kept, "loss_first": loss[0], "loss_last": loss[-1],
             "guards": {g["guard"]: g.get("value") for g in record.get("guards", [])}}
        )  # fmt: skip

    with contextlib.redirect_stdout(None):
        data, properties = predictor.prepare([image])
        took: dict[str, float] = {}
        row("none", None, None)
        for name, (method, settings) in methods.items():
            with timed(took, name):
                outcome = adapt(predictor, data, settings, method=method)  # type: ignore[arg-type]
            row(name, outcome, outcome.parameters)
            row(f"{name} unguarded", outcome, outcome.trained or None)
    return rows


def summarise(rows: list[dict[str, Any]], offered: tuple[str, ...]) -> dict[str, Any]:
    """Return per model and strategy: Dice at home and elsewhere, mean and worst change, cases kept, seconds."""
    result: dict[str, Any] = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        base = {(row["scanner"], row["case"]): row["dice"] for row in own if row["strategy"] == "none"}
        for strategy in dict.fromkeys(row["strategy"] for row in own):
            chosen = [row for row in own if row["strategy"] == strategy]
            changes = [row["dice"] - base[row["scanner"], row["case"]] for row in chosen]
            home = [row["dice"] for row in chosen if row["scanner"] == SOURCE]
            away = [row["dice"] for row in chosen if row["scanner"] != SOURCE]
            result[f"{model}: {strategy}"] = {
                "source": round(statistics.mean(home), 4),
                "others": round(statistics.mean(away), 4),
                "mean_change": round(statistics.mean(changes), 4),
                "worst_change": round(min(changes), 4),
                "best_change": round(max(changes), 4),
                "worse_by_goal": sum(change < -GOAL for change in changes),
                "cases": len(chosen),
                "kept": sum(bool(row["kept"]) for row in chosen),
                "adapt_s": round(statistics.mean(row["adapt_s"] for row in chosen), 1),
                "predict_s": round(statistics.mean(row["predict_s"] for row in chosen), 2),
            }
    names = [name for name in result if name.split(": ")[1] in offered]
    result["goal"] = {
        "never worse by more than": GOAL,
        "reached": all(result[name]["worse_by_goal"] == 0 for name in names),
        "worst": min(result[name]["worst_change"] for name in names),
    }
    return result


def markdown(summary: dict[str, Any]) -> str:
    """Return the summary as a table."""
    lines = [
        "| model | Dice, own scanner | others | mean change | worst | kept | adapt [CPU s] |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in summary.items():
        if name != "goal":
            cells = [entry[k] for k in ("source", "others", "mean_change", "worst_change")]
            lines.append(
                f"| {name} | {' | '.join(map(str, cells))} | {entry['kept']}/{entry['cases']} | {entry['adapt_s']} |"
            )
    return "\n".join(lines)


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def conditions(arguments: argparse.Namespace, start: float) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.time() - start) / 60, 1),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "nnunetv2", "nnunet_spine_ext")},
        "options": {k: v for k, v in vars(arguments).items() if k not in ("out", "record")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, weights and scores; a rerun resumes")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=(
            f"shows that it runs, meant for ten minutes at most: {QUICK.train} spines, {QUICK.epochs} epochs "
            f"of {QUICK.iterations} steps, {len(QUICK.scanners)} scanners, {QUICK.test} test spine each; no claim"
        ),
    )
    parser.add_argument("--augment", nargs="+", default=["gin"], help="augmentation of the models (default: gin)")
    parser.add_argument("--lr", type=float, nargs="+", default=[], help="learning rates of consistency besides 1e-5")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    start = time.time()
    size = QUICK if arguments.quick else Size()
    torch.set_num_threads(1)
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    commands = Commands(folder)
    tests = make_data(commands, size)
    rows: list[dict[str, Any]] = []
    methods = settings_of(size, None)
    methods |= {f"consistency {lr:g}": settings_of(size, lr)["consistency"] for lr in arguments.lr}
    learned: dict[str, list[int]] = {}
    for augment in arguments.augment:
        own: list[dict[str, Any]] = []
        predictor = SpinePredictor(device=torch.device("cpu"), progress=False, tta="none")
        with contextlib.redirect_stdout(None):
            predictor.initialize_from_trained_model_folder(train(commands, size, augment), None)
        for scanner, test in tests.items():
            for mask in sorted((test / "labelsTr").glob("*.nii.gz")):
                image = test / "imagesTr" / mask.name.replace(".nii.gz", "_0000.nii.gz")
                found = score_case(predictor, image, mask, methods)
                own += [{"model": augment, "scanner": scanner, **row} for row in found]
                shown = {row["strategy"]: round(statistics.mean(row["classes"].values()), 4) for row in found}
                print(scanner, shown, flush=True)
            write_json(folder / f"cases_{augment}.json", own)
        learned[augment] = score_learned(own)
        rows += own
    summary = summarise(rows, ("consistency", "tent"))
    write_rows(folder / "cases.csv", rows)
    result = {"classes": learned, "summary": summary, "conditions": conditions(arguments, start), "rows": rows}
    write_json(folder / "result.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    print(f"\n{markdown(summary)}\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
