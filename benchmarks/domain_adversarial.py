"""Do features still tell the scanner after adversarial training, and what does it cost on the source scanner?

    python benchmarks/domain_adversarial.py [--quick] [--out DIR] [--record FILE] [--losses dann cdan coral mmd paired]

Digital spines of the reference scanner, a small 2-D network, `nnUNetTrainerSpineShiftDANN`: every training sample is
taken by one of the six scanner profiles, and the scanner is the domain. One training per loss, and one (`none`) in
which the classifier only watches; all with the same data, seed, augmentation and number of steps (`paired` sees every
crop twice, with its mask once). Reported of each:

- probe: balanced accuracy of a new linear classifier on frozen features of subjects it has not seen, chance 1/6; of the
  same patches as each scanner takes them, without the rest of the augmentation;
- head: balanced accuracy of the training's own classifier in the last epoch, in which dropout is on;
- source: Dice of five validation spines on the reference scanner, mean over cases, vertebral bodies and discs, and its
  difference from `none`; scanners: the mean over the five others; both on whole volumes. A training of minutes learns
  little of the other classes.

The warm-up is the first fifth: a tenth of so few steps is too short for the classifier to learn anything.

Goals: probe within 5 points of chance, source Dice at most 0.003 lower. A run whose `none` has a source Dice below 0.5,
or a probe within 5 points of chance, is void: then there is nothing to lose, or nothing to take away. One seed and
small networks on a CPU: what holds here has to be repeated on a GPU. The last line is the summary.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import read_json, write_json

DATASET, NAME = 903, "Dataset903_Scanners"
CONFIGURATION, REFERENCE = "2d", "nako-siemens-3t"
LOSSES = ("none", "dann", "cdan", "coral", "mmd", "paired")
STRUCTURES = ("corpus", "disc")
PROBE_GOAL, DICE_GOAL, LEAST_DICE = 5.0, 0.003, 0.5


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    spines: int
    epochs: int
    steps: int
    batch: int = 12


FULL, QUICK = Size(30, 16, 25, 6), Size(9, 2, 10, 6)


def prepare(out: Path, size: Size) -> None:
    """Make spines, plan and preprocess; does nothing where that was done."""
    folders = {f"nnUNet_{n}": str(out / n) for n in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    os.environ |= {**folders, "nnUNet_compile": "f", "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1"}
    if (Path(folders["nnUNet_preprocessed"]) / NAME / f"nnUNetPlans_{CONFIGURATION}").is_dir():
        return
    here = Path(sys.executable).parent
    spines = [str(here / "nnUNetv2_spine_phantom"), "-o", folders["nnUNet_raw"], "--n", str(size.spines)]
    spines += ["-d", str(DATASET), "--name", NAME.partition("_")[2], "--region", "lumbar", "--folds", "3"]
    spines += ["--spacing", "1.5", "1.5", "4", "--width", "48", "--overwrite", "-q"]
    plans = [str(here / "nnUNetv2_plan_and_preprocess"), "-d", str(DATASET), "-c", CONFIGURATION, "-np", "1"]
    for command in (spines, [*plans, "-npfp", "1"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def settings_of(loss: str, size: Size, arguments: argparse.Namespace) -> list[str]:
    """Return the assignments of one training."""
    strength = 0.0 if loss == "none" else arguments.strength if loss in ("dann", "cdan") else None
    chosen = [f"domain.loss.name={'dann' if loss == 'none' else loss}", "domain.loss.warm_up=0.2", *arguments.set]
    chosen += [] if strength is None else [f"domain.loss.strength={strength}"]
    return [
        *chosen,
        f"train.num_epochs={size.epochs}",
        f"train.num_iterations_per_epoch={size.steps}",
        "train.num_val_iterations_per_epoch=2",
        "train.optimizer=adamw",
        "train.initial_lr=0.002",
        "train.weight_decay=0.01",
        "train.oversample_foreground=0.8",
        "train.mirror_axes=left-right",
        "train.plot_every=1000",
        "train.save_every=1000",
        f"train.seed={arguments.seed}",
        f"batch_size={size.batch}",
        "batch_dice=true",
        "network.base_features=12",
        "network.max_features=96",
        "network.max_stages=5",
        "network.convs_per_stage=1",
        "network.convs_per_decoder_stage=1",
        "patch.max_voxels=12000",
    ]


def trained(loss: str, size: Size, arguments: argparse.Namespace) -> Any:
    """Plan and train one variant; return the trainer."""
    import torch

    from nnunet_spine_ext.training.dann import nnUNetTrainerSpineShiftDANN
    from nnunet_spine_ext.training.plan import plan

    torch.set_num_threads(1)
    name = f"spineDomain{loss.capitalize()}"
    plan(
        str(DATASET), c=CONFIGURATION, name=name, preset="shift-dann", overwrite=True,
        assignments=settings_of(loss, size, arguments),
    )  # fmt: skip
    folder = Path(os.environ["nnUNet_preprocessed"]) / NAME
    plans = read_json(folder / f"{name}.json") | {"continue_training": False}
    # A run with other settings would be refused, rightly.
    shutil.rmtree(Path(os.environ["nnUNet_results"]) / NAME, ignore_errors=True)
    # For the training alone: nnU-Net's planning fails with it.
    os.environ["nnUNet_n_proc_DA"] = "0"
    trainer: Any = nnUNetTrainerSpineShiftDANN(
        plans, CONFIGURATION, 0, read_json(folder / "dataset.json"), torch.device("cpu")
    )
    trainer.disable_checkpointing = True
    trainer.run_training()
    return trainer


def dice_by_scanner(trainer: Any, *, limit: int) -> dict[str, float]:
    """Return the mean Dice over large structures and validation cases, per scanner, on whole volumes."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_spine_ext.augment.config import AugmentConfig
    from nnunet_spine_ext.augment.context import Context
    from nnunet_spine_ext.augment.keys import SampleKey
    from nnunet_spine_ext.augment.pipeline import Pipeline

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
        type(trainer).__name__, None,
    )  # fmt: skip
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    plans = trainer.plans_manager.plans
    spacing = tuple(float(s) for s in plans["original_median_spacing_after_transp"])
    labels = tuple(int(label) for label in trainer.label_manager.all_labels)
    scored = tuple(int(trainer.dataset_json["labels"][name]) for name in STRUCTURES)
    config = AugmentConfig.load({"scanners": {}})
    names = config.scanners.names if config.scanners is not None else ()
    scores: dict[str, list[float]] = {name: [] for name in names}
    _, validation = trainer.do_split()
    for case in validation[:limit]:
        data, truth, *_ = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)
        image, mask = torch.from_numpy(data[:])[None], torch.from_numpy(truth[:].astype(np.int16))[None]
        # The reader's slices keep their own distance in a 2-D configuration: voxels are those of the volume.
        context = Context(shape=tuple(image.shape[2:]), spacing=spacing, labels=labels)
        pipeline = Pipeline(config, context)
        keys = [SampleKey(0, case, 0, k) for k in range(len(names))]
        for key in keys:
            taken, _ = pipeline(image, mask, [key])
            with torch.no_grad():
                answer = predictor.predict_sliding_window_return_logits(taken[0]).argmax(dim=0)
            mix = config.scanners
            if mix is not None:
                scores[names[mix.index(key)]].append(_dice(answer.numpy(), mask[0, 0].numpy(), scored))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _dice(answer: np.ndarray, truth: np.ndarray, labels: tuple[int, ...]) -> float:
    values = []
    for label in labels:
        found, wanted = answer == label, truth == label
        if wanted.any():
            values.append(2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum()))
    return float(np.mean(values))


def measured(loss: str, size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with one loss and return what it led to."""
    start = time.process_time()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        trainer = trained(loss, size, arguments)
    seconds = time.process_time() - start
    dice = dice_by_scanner(trainer, limit=2 if arguments.quick else 5)
    probe = read_json(Path(trainer.output_folder) / "domain_probe.json")["probes"][-1]["score"]
    others = [value for name, value in dice.items() if name != REFERENCE]
    logged = trainer.logger.local_logger.my_fantastic_logging
    return {
        "probe": probe["accuracy"],
        "chance": probe["chance"],
        "probe_by_domain": probe["by_domain"],
        "probe_patches": probe["samples"],
        "probe_subjects": probe["groups"],
        "head": logged["domain_accuracy"][-1],
        "head_by_epoch": [round(value, 4) for value in logged["domain_accuracy"]],
        "source": dice[REFERENCE],
        "scanners": float(np.mean(others)),
        "dice": dice,
        "cpu_s": round(seconds, 1),
    }


def judged(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the run says about the goals."""
    base = found["none"]
    above = {loss: 100 * (row["probe"] - row["chance"]) for loss, row in found.items()}
    void = base["source"] < LEAST_DICE or above["none"] <= PROBE_GOAL
    result: dict[str, Any] = {"void": void}
    for loss, row in found.items():
        if loss != "none":
            lost = base["source"] - row["source"]
            result[loss] = {
                "above_chance": round(above[loss], 1),
                "source_loss": round(lost, 4),
                "others_gain": round(row["scanners"] - base["scanners"], 4),
                "probe_goal": above[loss] <= PROBE_GOAL,
                "dice_goal": lost <= DICE_GOAL,
            }
    return result


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    lines = ["| loss | probe | head | source Dice | other scanners | CPU s |", "|---|---|---|---|---|---|"]
    for loss, row in found.items():
        lines.append(
            f"| {loss} | {row['probe']:.3f} | {row['head']:.3f} | {row['source']:.4f} | {row['scanners']:.4f} "
            f"| {row['cpu_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Read the command line, train, print the table and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=(
            f"shows that it runs, meant for ten minutes at most: {QUICK.spines} spines, per loss {QUICK.epochs} epochs "
            f"of {QUICK.steps} steps; no claim"
        ),
    )
    parser.add_argument("--out", type=Path, default=Path("bench/domain_adversarial"))
    parser.add_argument("--record", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--losses", nargs="+", choices=LOSSES[1:], default=list(LOSSES[1:]))
    parser.add_argument("--strength", type=float, default=0.3, help="largest lambda of dann and cdan")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of all trainings")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    size = size if arguments.epochs is None else Size(size.spines, arguments.epochs, size.steps, size.batch)
    out = arguments.out.resolve() / ("quick" if arguments.quick else "full")
    prepare(out, size)
    found: dict[str, dict[str, Any]] = {}
    for loss in ("none", *arguments.losses):
        found[loss] = measured(loss, size, arguments)
        write_json(out / f"{loss}.json", found[loss], indent=1)
        print(table({loss: found[loss]}).splitlines()[-1], flush=True)
    print(table(found))
    verdict = judged(found)
    summary = {
        "benchmark": "domain_adversarial",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "quick": arguments.quick,
        "machine": f"{platform.machine()}, 1 thread",
        "size": vars(size) if hasattr(size, "__dict__") else {},
        "settings": arguments.set,
        "strength": arguments.strength,
        "seed": arguments.seed,
        "losses": found,
        "verdict": verdict,
    }
    write_json(arguments.record or out / "summary.json", summary, indent=1)
    words = "; ".join(
        f"{loss}: probe {row['above_chance']:+.1f} points from chance, source Dice {-row['source_loss']:+.4f}"
        for loss, row in verdict.items()
        if loss != "void"
    )
    print(f"domain_adversarial: {'VOID, ' if verdict['void'] else ''}{words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
