"""Cost of augmentation: ours, nnU-Net's default and DA5, SmaugLab's default and paper presets, in one interleaved run.

    python benchmarks/augmentation.py [--quick] [--out DIR] [--record FILE] [--device cpu|cuda] [--arms NAME ...]

Every arm augments the same crops of a digital spine, one after another for every seed, with one thread; milliseconds
of the processor count, because machines are shared. Crops are those that nnU-Net's loader makes for the patch; what
comes out is the patch with labels of full resolution. Two figures per arm: the mean of the seeds, and the expected
value, which is what is always done plus the cost of each transform alone times its probability (an upper bound for
arms that fuse transforms). SmaugLab runs in an environment of its own (`make .oracles/smauglab/.installed`), its
geometry in the loader and the rest on the batch, as its trainer does. Arms whose software is not there are named as
missing in the summary. Volume operations, memory passes and host reads are counted by `dispatch_counter.py`. The last
line is the summary.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before torch is imported: it asks only once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import augmentation_measure as measure
import numpy as np
import torch
from augmentation_arms import Arm, Local, NnUNet, Ours, Peer, Remote, expected_ms
from augmentation_data import MAIN, SHAPES, Setting, initial, patches
from augmentation_device import device_counts
from augmentation_report import goals, table
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.migrate import import_config
from nnunet_spine_ext.augment.transform import STAGES, registry
from nnunet_spine_ext.core.io import write_json

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "ours_shift", "ours_smauglab_default", "ours_smauglab_paper", "ours_nnunet", "nnunet_default", "nnunet_da5",
    "smauglab_default", "smauglab_paper", "batchaug",
)  # fmt: skip
LABELS = (6, 26, 50)
_DA5_SCALE = (0.7, 1.43)


def seeds_for(setting: Setting, scale: float, *, quick: bool) -> tuple[int, int]:
    """Return the number of seeds as configured, and of those for each transform alone (0: not measured)."""
    full = (200, 6) if setting == MAIN else (30, 2) if setting.shape == MAIN.shape else (10, 0)
    if quick:
        return (16, 2) if setting == MAIN else (3, 0)
    if scale < 1 and setting != MAIN:
        return max(3, round(scale * full[0])), 0
    return max(3, round(scale * full[0])), max(2, round(scale * full[1])) if full[1] else 0


# --- the arms --------------------------------------------------------------------------------------------------------


def make_arms(wanted: Sequence[str], peer: Peer | None) -> tuple[dict[str, Arm], dict[str, str]]:
    """Return the arms that can run, and why the others cannot."""
    arms: dict[str, Arm] = {}
    missing: dict[str, str] = {}
    if "ours_shift" in wanted:
        arms["ours_shift"] = Local(Ours(AugmentConfig.load("shift"), mirror=True))
    configs = peer.ask("about")["configs"] if peer else {}
    for name in ("smauglab_default", "smauglab_paper"):
        if f"ours_{name}" not in wanted:
            continue
        try:
            arms[f"ours_{name}"] = Local(Ours(imported(Path(configs[name]))))
        except KeyError as error:
            missing[f"ours_{name}"] = f"its list is read from SmaugLab's file: {error!r}"
    if "ours_nnunet" in wanted:
        arms["ours_nnunet"] = Local(Ours(AugmentConfig.load("nnunet"), mirror=True))
    if "nnunet_default" in wanted:
        arms["nnunet_default"] = Local(NnUNet(nnUNetTrainer))
    if "nnunet_da5" in wanted:
        arms["nnunet_da5"] = Local(NnUNet(nnUNetTrainerDA5), _DA5_SCALE)
    for name in ("smauglab_default", "smauglab_paper"):
        if name in wanted and peer:
            arms[name] = Remote(peer, name)
        elif name in wanted:
            missing[name] = "no environment with SmaugLab: make .oracles/smauglab/.installed"
    if "batchaug" in wanted:
        there = importlib.util.find_spec("batchaug") is not None
        missing["batchaug"] = f"{'importable, but' if there else 'not importable:'} no arm for it could be tested yet"
    return arms, missing


def imported(path: Path) -> AugmentConfig:
    """Return our configuration for one of SmaugLab's, geometry included."""
    return import_config(path).config


# --- measuring -------------------------------------------------------------------------------------------------------


def prepare(arms: Mapping[str, Arm], peer: Peer | None, setting: Setting, whole: measure.Patch, folder: Path) -> None:
    """Give every arm its crop of a setting."""
    for arm in arms.values():
        arm.load(whole.centre(initial(setting.shape, arm.scale)))
    if peer:
        path = folder / "patch.npz"
        np.savez(path, image=whole.image.numpy(), labels=whole.labels.numpy())
        source = initial(setting.shape, Remote.scale)
        peer.ask("load", path=str(path), shape=setting.shape, spacing=whole.spacing, source=source, device="cpu")


def interleaved(arms: Mapping[str, Arm], count: int) -> dict[str, list[dict[str, float]]]:
    """Return milliseconds per part for every seed; all arms take turns, and each turn begins with another one."""
    names = list(arms)
    for name in names:
        for seed in (10_000, 10_001):
            arms[name].time(seed)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(count):
        first = seed % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(arms[name].time(seed))
    return found


def forced(arms: Mapping[str, Arm], count: int) -> dict[str, dict[str, float]]:
    """Return the mean milliseconds of every transform alone, `BASE` among them; the arms take turns."""
    listed = {name: [measure.BASE, *arm.transforms()] for name, arm in arms.items()}
    sums = {name: dict.fromkeys(items, 0.0) for name, items in listed.items()}
    for seed in range(-1, count):
        for place in range(max(len(items) for items in listed.values())):
            for name, items in listed.items():
                if place < len(items):
                    spent = sum(arms[name].time(20_000 + seed, items[place]).values())
                    # The first time something is built.
                    sums[name][items[place]] += spent / count if seed >= 0 else 0.0
    return sums


def measure_setting(arms: Mapping[str, Arm], setting: Setting, count: int, alone: int) -> dict[str, dict[str, Any]]:
    """Return the figures of every arm in one setting, with as many seeds as configured and for each transform alone."""
    times = interleaved(arms, count)
    each = forced(arms, alone) if alone else {}
    found: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        totals = [sum(parts.values()) for parts in times[name]]
        row: dict[str, Any] = {
            "seeds": count,
            "cpu_ms": round(statistics.mean(totals), 2),
            "cpu_ms_standard_error": round(statistics.stdev(totals) / count**0.5, 2),
            "parts": {p: round(statistics.mean(t[p] for t in times[name]), 2) for p in times[name][0]},
        }
        if name in each:
            chances, base = arm.transforms(), each[name].pop(measure.BASE)
            row["expected_cpu_ms"] = round(expected_ms(base, each[name], chances), 2)
            row["always"] = round(base, 2)
            row["alone"] = {k: {"p": round(chances[k], 4), "cpu_ms": round(v - base, 2)} for k, v in each[name].items()}
        seen = range(max(3, count // 8))
        row["counts"] = averaged([arm.count(seed) for seed in seen])
        row["everything"] = averaged([arm.count(seed, measure.EVERYTHING) for seed in range(2)])
        if isinstance(arm, Local) and isinstance(arm.runner, Ours):
            patch = arm.runner.patch
            row["on_device"] = device_counts(arm.runner, patch, range(min(count, 24)))
            row["on_device_everything"] = device_counts(arm.runner, patch, range(2), measure.EVERYTHING)
        memory = [m for seed in seen if (m := arm.memory(seed)) is not None]
        row["peak_extra_batches"] = round(max(memory), 2) if memory else None
        found[name] = row
    return found


def averaged(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every count."""
    return {key: round(statistics.mean(row[key] for row in rows), 1) for key in rows[0]}


def everything_on(whole: measure.Patch) -> dict[str, Any]:
    """Return counts with all registered transforms of a stage at once, and of all stages at once."""
    named: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for name, kind in registry().items():
        named[kind.stage].append(name)
    named["all stages"] = [name for names in list(named.values()) for name in names]
    found = {}
    patch = whole.centre(initial(whole.shape, (0.85, 1.25)))
    for stage, names in named.items():
        arm = Local(Ours(AugmentConfig.from_dict({"transforms": [{"name": n, "p": 1.0} for n in names]})))
        arm.load(patch)
        found[stage] = {
            "processor": averaged([arm.count(seed) for seed in range(2)]),
            "device": device_counts(arm.runner, patch, range(2)),
            "transforms": names,
        }
    return found


# --- the run ---------------------------------------------------------------------------------------------------------


def hardware() -> dict[str, Any]:
    """Return what the run was measured on and with, in general words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": model,
        "threads": 1,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2", "numpy")},
    }


def run(args: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """Measure everything that was asked for."""
    from augmentation_operators import check

    arms, missing = make_arms(args.arms, peer)
    if "smauglab_default" not in args.arms and "smauglab_paper" not in args.arms:
        peer = None
    whole: dict[str, Any] = {"hardware": hardware(), "missing": missing}
    if peer:
        whole["hardware"]["smauglab"] = {k: v for k, v in peer.ask("about").items() if k != "configs"}
    results: dict[str, Any] = {}
    whole["checks"] = {"ours": check(args.seeds)}
    if peer:
        whole["checks"]["smauglab"] = peer.ask("checks", number=20, draws=200)
    print(json.dumps(whole["checks"], indent=1), flush=True)
    with tempfile.TemporaryDirectory() as name:
        for shape in args.shapes:
            source = tuple(map(max, *(initial(shape, arm.scale) for arm in (*arms.values(), Remote))))
            made = patches(shape, tuple(args.labels), source)
            for setting, patch in made.items():
                prepare(arms, peer, setting, patch, Path(name))
                results[setting.name] = measure_setting(
                    arms, setting, *seeds_for(setting, args.scale, quick=args.quick)
                )
                print(table(setting, results[setting.name]), flush=True)
                if setting == MAIN and "ours_shift" in arms:
                    whole["everything_by_stage"] = everything_on(patch)
                    count = 16 if args.quick else max(16, round(100 * args.scale))
                    whole["label_cost_cpu_ms"] = label_cost(arms, made, count)
                # Written as it grows: the largest settings take longest, and come last.
                save(args, {"results": results, **whole, "goals": goals(results, whole), "complete": False})
    return {"results": results, **whole, "goals": goals(results, whole), "complete": True}


def save(args: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """Write what was found."""
    args.out.mkdir(parents=True, exist_ok=True)
    for path in (args.out / "augmentation.json", args.record):
        if path:
            write_json(path, found)


def label_cost(arms: Mapping[str, Arm], of: Mapping[Setting, measure.Patch], count: int) -> dict[str, Any]:
    """Return the cost of our arms by number of labels, interleaved, with the same draws for each number."""
    copies: dict[str, Arm] = {}
    for name, arm in arms.items():
        for setting, whole in of.items():
            if isinstance(arm, Local) and isinstance(arm.runner, Ours):
                copies[f"{name}/{setting.labels}"] = Local(Ours(arm.runner.config))
                copies[f"{name}/{setting.labels}"].load(whole.centre(initial(setting.shape, arm.scale)))
    found: dict[str, dict[str, float]] = {}
    for key, rows in (interleaved(copies, count) if copies else {}).items():
        name, _, labels = key.partition("/")
        found.setdefault(name, {})[labels] = round(statistics.mean(sum(parts.values()) for parts in rows), 3)
    return found


def main() -> int:
    """Read the command line, measure, print tables and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few seeds, the smaller patch only")
    parser.add_argument("--out", type=Path, default=Path("bench/augmentation"))
    parser.add_argument("--record", type=Path, help="also write everything to this JSON file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--arms", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--labels", type=int, nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="number of seeds, in parts of the usual 200, 30 and 10"
    )
    parser.add_argument("--seeds", type=int, help="of the checks that a seed decides all")
    parser.add_argument("--smauglab", type=Path, default=ROOT / ".oracles" / "smauglab" / "bin" / "python")
    args = parser.parse_args()
    args.seeds = args.seeds or (50 if args.quick else 1000)
    args.shapes = SHAPES[:1] if args.quick else SHAPES
    measure.one_thread()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda, but torch finds no such device")
    needs = any("smauglab" in name for name in args.arms) and args.smauglab.exists()
    peer = Peer(args.smauglab) if needs else None
    try:
        if args.device == "cuda":
            from augmentation_cuda import run_cuda

            found = run_cuda(make_arms(args.arms, peer), peer)
            found["hardware"] = hardware()
        else:
            found = run(args, peer)
    finally:
        if peer:
            peer.close()
    save(args, found)
    summary = {"quick": args.quick, "device": args.device, "goals": found["goals"], "missing": found["missing"]}
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
