"""What few samples of another scanner give a trained model, and what they take from it.

    python benchmarks/finetune.py --out bench/finetune [--quick] [--seeds 1] [--record FILE]

A 2-D sagittal network learns from lumbar phantoms of the reference scanner, then goes on from there with 1, 5 and 10
phantoms of another one (ge-1.5t: coarser voxels, noise, shading, other contrast), training its norm layers, its
decoder or all. Nothing is augmented: there must be a gap to recover. Dice is the mean over vertebral bodies, discs,
canal and spinous processes of phantoms that no training saw, of both scanners; `share` is the part of the gap between
the model on its own scanner and on the other one that is recovered. With five samples, further learning rates are
tried beside that of the rule, as shares of the source's. The schedule is that of `nnUNetv2_spine_finetune_plan`. CPU
seconds, one thread. The last line is the summary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from generalisation.domains import command
from generalisation.presets import conditions

from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.phantom.generate import phantom
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.finetune import nnUNetTrainerSpineFinetune
from nnunet_spine_ext.training.finetune_plan import finetune_plan
from nnunet_spine_ext.training.plan import plan

SCANNER = "ge-1.5t"
SCORED = {"corpus": 10, "disc": 14, "canal": 12, "spinous": 3}
PARTS = ("norm", "decoder", "all")
RATES = (0.01, 0.5)
RATES_AT = 5
# A smaller one between the scanners has no shares.
LEAST_GAP = 0.05
CONFIGURATION = "2d"
# id, name, scanner, seed of the first spine; the numbers of spines are the size's.
DATASETS = {
    "source": (961, "Source", None, 0),
    "target": (962, "Target", SCANNER, 1000),
    "source test": (963, "SourceTest", None, 2000),
    # The same spines: a harder or an easier one must not pass for a harder or an easier scanner.
    "target test": (964, "TargetTest", SCANNER, 2000),
}


@dataclass(frozen=True)
class Size:
    """Spines to train the source on, to choose from, and to test on each scanner; schedule of the source; arms."""

    source: int
    target: int
    test: int
    epochs: int
    iterations: int
    numbers: tuple[int, ...]
    spacing: tuple[float, float, float] = (2.0, 2.0, 5.0)


FULL = Size(source=10, target=13, test=3, epochs=30, iterations=15, numbers=(1, 5, 10))
QUICK = Size(source=4, target=4, test=1, epochs=3, iterations=4, numbers=(1, 2))


def folders(out: Path) -> None:
    """Point nnU-Net's folders into `out`, and keep it from starting processes."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (out / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(out / name)
    os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)


def make_data(out: Path, size: Size) -> None:
    """Make the phantoms that are not there yet."""
    counts = {"source": size.source, "target": size.target, "source test": size.test, "target test": size.test}
    for kind, (number, name, scanner, seed) in DATASETS.items():
        if not (out / "nnUNet_raw" / f"Dataset{number}_{name}").exists():
            phantom(
                out / "nnUNet_raw", n=counts[kind], seed=seed, region="lumbar", spacing=size.spacing,
                scanner=[scanner] if scanner else [], dataset_id=number, name=name, pathologies=False, width=70.0,
            )  # fmt: skip


def train_source(out: Path, size: Size) -> tuple[Path, float]:
    """Plan, preprocess and train the source model once; return its folder and CPU seconds of the training."""
    folder = out / "nnUNet_results" / "Dataset961_Source" / f"nnUNetTrainerSpine__bench__{CONFIGURATION}"
    if not (folder / "fold_0" / "checkpoint_final.pth").is_file():
        words = ["-d", "961", "-c", CONFIGURATION, "-np", "1", "-npfp", "1"]
        subprocess.run([command("nnUNetv2_plan_and_preprocess"), *words], check=True, stdout=subprocess.DEVNULL)
        settings = {
            "train.num_epochs": size.epochs, "train.num_iterations_per_epoch": size.iterations,
            "train.num_val_iterations_per_epoch": 1, "train.optimizer": "adamw", "train.initial_lr": 0.003,
            "train.weight_decay": 0.01, "train.plot_every": 1000, "train.save_every": 1000, "train.seed": 1,
            "train.mirror": "false", "train.augmentation": "mirror",
            "network.base_features": 12, "network.max_features": 96, "network.max_stages": 5,
            "network.convs_per_decoder_stage": 1, "patch.size": "[96, 64]", "batch_size": 8, "batch_dice": "true",
        }  # fmt: skip
        assignments = [f"{key}={value}" for key, value in settings.items()]
        plan("961", c=CONFIGURATION, name="bench", assignments=assignments, overwrite=True)
        train(out, nnUNetTrainerSpine, "Dataset961_Source", "bench")
    return folder, float(read_json(out / "seconds.json")["bench"])


def train(out: Path, kind: type[nnUNetTrainerSpine], dataset: str, name: str) -> Path:
    """Train fold 0 of plans in this process; return the model's folder and note the CPU seconds."""
    folder = out / "nnUNet_preprocessed" / dataset
    plans = read_json(folder / f"{name}.json") | {"continue_training": False}
    os.environ["nnUNet_n_proc_DA"] = "0"
    start = time.process_time()
    with quiet(out / "training.log"):
        trainer = kind(plans, CONFIGURATION, 0, read_json(folder / "dataset.json"), torch.device("cpu"))
        trainer.run_training()
    del os.environ["nnUNet_n_proc_DA"]
    times = out / "seconds.json"
    seconds = round(time.process_time() - start, 1)
    write_json(times, (read_json(times) if times.exists() else {}) | {name: seconds})
    return Path(trainer.output_folder_base)


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what nnU-Net prints to a file."""
    with log.open("a") as stream, contextlib.redirect_stdout(stream):
        yield


def scores(out: Path, model: Path) -> dict[str, float]:
    """Return the Dice of a model on the test phantoms of both scanners."""
    predictor = SpinePredictor(device=torch.device("cpu"), tta="none", progress=False)
    with quiet(out / "training.log"):
        predictor.initialize_from_model(load_model(model, ("0",)))
    found = {}
    for kind in ("source test", "target test"):
        number, name, _, _ = DATASETS[kind]
        raw = out / "nnUNet_raw" / f"Dataset{number}_{name}"
        dice = []
        for label in sorted((raw / "labelsTr").glob("*.nii.gz")):
            image = raw / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
            predicted = predictor.segment(*predictor.prepare([image])).array
            dice.append(mean(overlap(predicted == k, read_volume(label).array == k) for k in SCORED.values()))
        found[kind.split()[0]] = round(mean(dice), 4)
    return found


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice coefficient; 1 for two empty masks."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * float((one & other).sum()) / total if total else 1.0


def arms(size: Size, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is trained: numbers and parts with the rule's schedule, then other rates for one number."""
    listed = [{"n": n, "parts": parts, "seed": seed} for seed in seeds for n in size.numbers for parts in PARTS]
    if RATES_AT in size.numbers:
        listed += [{"n": RATES_AT, "parts": "all", "seed": seeds[0], "rate": rate} for rate in RATES]
    return listed


def run_arm(out: Path, model: Path, arm: dict[str, Any], rate: float) -> dict[str, Any]:
    """Fine-tune once and score; `rate` is the source's learning rate."""
    name = "ft_" + "_".join(str(value).replace(".", "") for value in arm.values())
    folder = model.parent.parent / "Dataset962_Target" / f"nnUNetTrainerSpineFinetune__{name}__{CONFIGURATION}"
    assignments = [f"train.initial_lr={arm['rate'] * rate}"] if "rate" in arm else []
    options = {key: arm[key] for key in ("n", "seed", "parts")}
    planned = finetune_plan(model, "962", name=name, assignments=assignments, overwrite=True, **options)
    for step in planned.next_steps[:-1]:
        words = step.removeprefix("next: ").split()
        subprocess.run([command(words[0]), *words[1:], "-np", "1"], check=True, stdout=subprocess.DEVNULL)
    if not (folder / "fold_0" / "checkpoint_final.pth").is_file():
        train(out, nnUNetTrainerSpineFinetune, "Dataset962_Target", name)
    train_settings = read_json(planned.path)["spine_ext"]["train"]
    schedule = {key: train_settings[key] for key in ("num_epochs", "initial_lr")}
    return {**arm, **schedule, **scores(out, folder), "seconds": read_json(out / "seconds.json")[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, models and scores; a rerun resumes")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=(
            f"shows that it runs, meant for ten minutes at most: {QUICK.source} spines, {QUICK.epochs} epochs "
            f"of {QUICK.iterations} steps, {' and '.join(map(str, QUICK.numbers))} spines of the other scanner; "
            "no claim"
        ),
    )
    parser.add_argument("--seeds", type=int, default=1, help="selections per number (default: 1)")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    start = time.time()
    size, out = (QUICK if arguments.quick else FULL), arguments.out.resolve()
    folders(out)
    make_data(out, size)
    model, seconds = train_source(out, size)
    rate = read_json(model / "plans.json")["spine_ext"]["train"]["initial_lr"]
    base = {"n": 0, "parts": "", **scores(out, model), "seconds": seconds}
    rows = [base]
    print(json.dumps(base), flush=True)
    for arm in arms(size, range(arguments.seeds)):
        row = run_arm(out, model, arm, rate)
        gap = base["source"] - base["target"]
        row["share"] = round((row["target"] - base["target"]) / gap, 3) if gap >= LEAST_GAP else None
        row["forgotten"] = round(base["source"] - row["source"], 4)
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {"rows": rows, "size": size.__dict__, "conditions": conditions(arguments, start)}
    write_json(out / "result.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary(rows) | {"minutes": result["conditions"]["minutes"]}))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the gap before, and target Dice, share and forgetting per number and parts, averaged over seeds."""
    base, ruled = rows[0], [row for row in rows[1:] if "rate" not in row]
    table = {}
    for key in dict.fromkeys((row["n"], row["parts"]) for row in ruled):
        same = [row for row in ruled if (row["n"], row["parts"]) == key]
        names = ("target", "share", "forgotten")
        table[f"{key[0]} {key[1]}"] = {
            name: None if any(row[name] is None for row in same) else round(mean(row[name] for row in same), 4)
            for name in names
        }
    return {
        "gap": round(base["source"] - base["target"], 4),
        "void": base["source"] - base["target"] < LEAST_GAP,
        **table,
    }


if __name__ == "__main__":
    sys.exit(main())
