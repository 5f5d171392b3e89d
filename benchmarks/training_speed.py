"""Epoch time of whole trainings, per trainer and number of workers, on a generated data set of phantoms.

    python benchmarks/training_speed.py [--quick] [--out DIR] [--device cpu|cuda] [--workers 2 4 12] [--record FILE]

Real `nnUNetv2_train` runs of a few short epochs, one after another, with `nnUNet_n_proc_DA` workers: nnUNetTrainer,
nnUNetTrainerDA5, nnUNetTrainerSpine, nnUNetTrainerSpineShift, and SmaugLab's trainer in its environment if that is
there. All share plans, folds and preprocessed data. Each is subclassed only to make epochs short, to write no
checkpoint and to skip the final validation; a sixth of the steps is validation, as in nnU-Net. Ours augments as in most
epochs of a long training: at full strength, and not yet on clean samples alone. Epoch times are from the training log,
without the first epoch, in which workers start. On a CPU the network, patch and number of steps are tiny: the figures
show that everything runs, and say nothing about a GPU. The last line is the summary.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
DATASET, NAME, PLANS = 902, "Dataset902_Speed", "nnUNetSpeedPlans"
CONFIGURATION = "3d_fullres"
STOCK = "nnUNetTrainer"

_SUBCLASS = '''"""{base} with short epochs."""

import os
from dataclasses import replace

from {module} import {base}


class {name}({base}):
    def initialize(self):
        super().initialize()
        pipeline = getattr(getattr(self, "augmentation", None), "pipeline", None)
        if pipeline is not None:
            # What most epochs of a long training are: neither the ramp at its start nor the clean end.
            flat = {{"ramp_epochs": 0, "ramp_share": 0.0, "closing_clean_share": 0.0}}
            schedule = replace(pipeline.config.schedule, **flat)
            pipeline.config = replace(pipeline.config, schedule=schedule)
        self.num_epochs = int(os.environ["SPEED_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["SPEED_STEPS"])
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 5)
        self.disable_checkpointing = True

    def perform_actual_validation(self, *args, **kwargs):
        pass
'''


@dataclass(frozen=True)
class Trainer:
    """A trainer, and where it comes from."""

    base: str
    module: str
    smauglab: bool = False

    @property
    def name(self) -> str:
        """The subclass with short epochs."""
        return f"{self.base}_Speed"


_VARIANTS = "nnunetv2.training.nnUNetTrainer.variants.data_augmentation"
TRAINERS = (
    Trainer(STOCK, "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"),
    Trainer("nnUNetTrainerDA5", f"{_VARIANTS}.nnUNetTrainerDA5"),
    Trainer("nnUNetTrainerSpine", "nnunet_spine_ext.training.base"),
    Trainer("nnUNetTrainerSpineShift", "nnunet_spine_ext.training.shift"),
    Trainer("nnUNetTrainerDAExtGPU", "smauglab.trainers.nnUNetTrainerDAExt", smauglab=True),
)


def run(command: list[str], log: Path, environment: dict[str, str]) -> str:
    """Run a command and return what it printed; stop with its last lines if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    with log.open("a") as stream:
        stream.write(f"\n$ {' '.join(command)}\n{done.stdout}")
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-15:]))
        sys.exit(f"{command[0]} ended with {done.returncode}; see {log}")
    return done.stdout


def environment_of(out: Path) -> dict[str, str]:
    """Return the variables that the commands get."""
    folders = {f"nnUNet_{n}": str(out / n) for n in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    return {**os.environ, **folders, "nnUNet_compile": "f", "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1"}


def write_trainers(out: Path, environment: dict[str, str], smauglab: Path) -> list[Trainer]:
    """Write the subclasses, in a folder per environment, and return the trainers that can run."""
    found = []
    for trainer in TRAINERS:
        if trainer.smauglab and not smauglab.exists():
            continue
        folder = out / ("trainers_smauglab" if trainer.smauglab else "trainers")
        folder.mkdir(parents=True, exist_ok=True)
        text = _SUBCLASS.format(base=trainer.base, module=trainer.module, name=trainer.name)
        (folder / f"{trainer.name}.py").write_text(text)
        found.append(trainer)
    environment["nnUNet_extTrainer"] = str(out / "trainers")
    return found


def make_data(out: Path, environment: dict[str, str], *, tiny: bool) -> dict[str, Any]:
    """Make phantoms, plan and preprocess them, and write the plans that all trainers use; return patch and batch."""
    log, here = out / "log.txt", Path(sys.executable).parent
    spacing = ("2", "2", "4") if tiny else ("0.9", "0.9", "1.5")
    number, region = ("5", "lumbar") if tiny else ("20", "whole")
    command = [str(here / "nnUNetv2_spine_phantom"), "-o", environment["nnUNet_raw"], "--n", number]
    command += ["-d", str(DATASET), "--name", NAME.partition("_")[2], "--region", region]
    run([*command, "--spacing", *spacing, "--overwrite"], log, environment)
    run(
        [str(here / "nnUNetv2_plan_and_preprocess"), "-d", str(DATASET), "-c", CONFIGURATION, "-np", "1", "-npfp", "1"],
        log,
        environment,
    )
    folder = Path(environment["nnUNet_preprocessed"]) / NAME
    plans = read_json(folder / "nnUNetPlans.json")
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    if tiny:
        shrink(configuration)
    write_json(folder / f"{PLANS}.json", plans)
    return {"patch_size": configuration["patch_size"], "batch_size": configuration["batch_size"]}


def shrink(configuration: dict[str, Any]) -> None:
    """Make patch and network so small that a CPU trains a step in seconds."""
    configuration["patch_size"], configuration["batch_size"] = [16, 48, 48], 2
    network = configuration["architecture"]["arch_kwargs"]
    stages = 3
    network["n_stages"], network["features_per_stage"] = stages, [8, 16, 32]
    for key in ("kernel_sizes", "n_conv_per_stage"):
        network[key] = network[key][:stages]
    network["strides"] = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: stages - 1]


def epoch_times(
    trainer: Trainer, workers: int, args: argparse.Namespace, environment: dict[str, str]
) -> tuple[list[float], float]:
    """Train, and return the seconds of every epoch but the first, and those of all processors for everything."""
    own = {**environment, "nnUNet_n_proc_DA": str(workers)}
    own |= {"SPEED_EPOCHS": str(args.epochs), "SPEED_STEPS": str(args.steps)}
    interpreter = Path(sys.executable)
    if trainer.smauglab:
        interpreter = args.smauglab
        own["nnUNet_extTrainer"] = str(args.out / "trainers_smauglab")
    command = [str(interpreter.parent / "nnUNetv2_train"), str(DATASET), CONFIGURATION, "0", "-tr", trainer.name]
    before = processor_seconds()
    printed = run([*command, "-p", PLANS, "-device", args.device], args.out / "log.txt", own)
    found = [float(value) for value in re.findall(r"Epoch time: ([0-9.]+) s", printed)]
    if len(found) != args.epochs:
        sys.exit(f"{trainer.base}: {len(found)} epoch times in the log, {args.epochs} expected")
    return found[1:], processor_seconds() - before


def processor_seconds() -> float:
    """Return the seconds of all processors that the commands so far took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Read the command line, make the data, train, print a line per run and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two epochs, the first number of workers only")
    parser.add_argument("--out", type=Path, default=Path("bench/training_speed"))
    parser.add_argument("--record", type=Path, help="also write the summary to this JSON file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 12])
    parser.add_argument("--epochs", type=int, help="of each training, the first not counted")
    parser.add_argument("--steps", type=int, help="training steps per epoch")
    parser.add_argument("--smauglab", type=Path, default=ROOT / ".oracles" / "smauglab" / "bin" / "python")
    args = parser.parse_args()
    args.out = args.out.resolve()
    tiny = args.device == "cpu"
    args.epochs = args.epochs or (2 if args.quick else 4)
    args.steps = args.steps or (5 if tiny else 50 if args.quick else 250)
    workers = args.workers[:1] if args.quick else args.workers
    if args.epochs < 2:
        parser.error("--epochs: at least 2, the first is not counted")
    environment = environment_of(args.out)
    trainers = write_trainers(args.out, environment, args.smauglab)
    sizes = make_data(args.out, environment, tiny=tiny)
    rows: list[dict[str, Any]] = []
    for number in workers:
        for trainer in trainers:
            seconds, processor = epoch_times(trainer, number, args, environment)
            row = {"trainer": trainer.base, "workers": number, "epoch_s": round(statistics.median(seconds), 2)}
            rows.append({**row, "whole_run_cpu_s": round(processor, 1)})
            stock = next(r["epoch_s"] for r in rows if r["workers"] == number and r["trainer"] == STOCK)
            rows[-1]["over_stock"] = round(rows[-1]["epoch_s"] / stock, 3)
            print(json.dumps(rows[-1]), flush=True)
    summary = {
        "date": datetime.date.today().isoformat(), "device": args.device, "cores": os.cpu_count(),
        "tiny": tiny, "quick": args.quick, "epochs": args.epochs, "steps": args.steps, **sizes, "rows": rows,
        "missing": [t.base for t in TRAINERS if t not in trainers],
    }  # fmt: skip
    if tiny:
        summary["note"] = "tiny network on a CPU: shows that everything runs, no figure for a GPU"
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "training_speed.json", summary)
    if args.record:
        write_json(args.record, summary)
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
