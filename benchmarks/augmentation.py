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
from augmentation_data import Setting, initial, patches
from augmentation_device import device_counts
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.transform import STAGES, registry
from nnunet_spine_ext.core.io import write_json

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "ours_shift", "ours_smauglab_default", "ours_smauglab_paper", "ours_nnunet", "nnunet_default", "nnunet_da5",
    "smauglab_default", "smauglab_paper", "batchaug",
)  # fmt: skip
SHAPES = ((64, 128, 128), (128, 128, 128))
LABELS = (6, 26, 50)
MAIN = Setting(SHAPES[0], 6)
_DA5_SCALE = (0.7, 1.43)


def seeds_for(setting: Setting, *, quick: bool) -> tuple[int, int]:
    """Return the number of seeds as configured, and of those for each transform alone."""
    if quick:
        return (16, 2) if setting == MAIN else (3, 0)
    if setting == MAIN:
        return 200, 6
    return (40, 3) if setting.shape == MAIN.shape else (16, 0)


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
        except (ImportError, KeyError) as error:
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
    """Return our configuration for one of SmaugLab's, geometry included.

    Raises ImportError where the importer is not there yet.
    """
    from nnunet_spine_ext.augment import migrate

    found: Any = migrate.import_config(path)
    config = getattr(found, "config", found)
    return config if isinstance(config, AugmentConfig) else AugmentConfig.load(config)


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


def measure_setting(arms: Mapping[str, Arm], setting: Setting, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Return the figures of every arm in one setting."""
    count, alone = seeds_for(setting, quick=quick)
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
        seen = range(min(count, 24 if setting == MAIN else 8))
        row["counts"] = averaged([arm.count(seed) for seed in seen])
        row["everything"] = averaged([arm.count(seed, measure.EVERYTHING) for seed in range(2 if quick else 4)])
        if isinstance(arm, Local) and isinstance(arm.runner, Ours):
            patch = arm.runner.patch
            row["on_device"] = device_counts(arm.runner, patch, seen)
            row["on_device_everything"] = device_counts(arm.runner, patch, range(2 if quick else 4), measure.EVERYTHING)
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


# --- the report ------------------------------------------------------------------------------------------------------


def table(setting: Setting, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of one setting as lines."""
    lines = [f"\n{setting.name}: {max(r['seeds'] for r in rows.values())} seeds; * everything on"]
    lines.append(
        f"{'arm':24s}{'CPU ms':>9s}{'+-':>6s}{'expected':>10s}{'vol ops':>9s}{'passes':>8s}{'reads':>7s}"
        f"{'vol ops*':>10s}{'passes*':>9s}{'reads*':>8s}{'memory':>8s}  parts"
    )
    for name, row in rows.items():
        c, e = row["counts"], row["everything"]
        expected = f"{row['expected_cpu_ms']:.1f}" if "expected_cpu_ms" in row else "-"
        memory = "-" if row["peak_extra_batches"] is None else f"{row['peak_extra_batches']:.1f}"
        parts = " + ".join(f"{k} {v:.1f}" for k, v in row["parts"].items())
        lines.append(
            f"{name:24s}{row['cpu_ms']:9.1f}{row['cpu_ms_standard_error']:6.1f}{expected:>10s}"
            f"{c['volume_operations']:9.1f}{c['memory_passes']:8.1f}{c['host_reads']:7.1f}"
            f"{e['volume_operations']:10.1f}{e['memory_passes']:9.1f}{e['host_reads']:8.1f}{memory:>8s}  {parts}"
        )
    for name, row in rows.items():
        if "on_device" in row:
            for what, c in (("", row["on_device"]), (", everything on", row["on_device_everything"])):
                lines.append(
                    f"{name} on a device{what}: {c['volume_operations']:.1f} volume operations, "
                    f"{c['memory_passes']:.1f} passes, {c['host_reads']:.0f} reads"
                )
    for own, theirs in (
        ("ours_smauglab_default", "smauglab_default"), ("ours_smauglab_paper", "smauglab_paper"),
        ("ours_nnunet", "nnunet_default"),
    ):  # fmt: skip
        if own in rows and theirs in rows:
            lines.append(f"{theirs} / {own}: {ratio(rows, theirs, own)}")
    return "\n".join(lines)


def ratio(rows: Mapping[str, Mapping[str, Any]], theirs: str, own: str) -> dict[str, float]:
    """Return how many times more another arm costs."""
    found = {"mean": round(rows[theirs]["cpu_ms"] / rows[own]["cpu_ms"], 2)}
    if "expected_cpu_ms" in rows[own] and "expected_cpu_ms" in rows[theirs]:
        found["expected"] = round(rows[theirs]["expected_cpu_ms"] / rows[own]["expected_cpu_ms"], 2)
    return found


def goals(results: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every goal with its figure; without a figure where an arm is missing."""
    main = results.get(MAIN.name, {})
    found = []

    def add(goal: str, value: float | None, *, most: float | None = None, least: float | None = None) -> None:
        reached = None
        if value is not None:
            reached = (most is None or value <= most) and (least is None or value >= least)
        found.append({"goal": goal, "value": value, "reached": reached})

    for own, theirs, least, most in (
        ("ours_smauglab_default", "smauglab_default", 6.0, 44.0), ("ours_nnunet", "nnunet_default", 4.0, 27.0),
    ):  # fmt: skip
        both = own in main and theirs in main
        add(f"{own}: CPU-ms <= {most:g}", main[own]["cpu_ms"] if own in main else None, most=most)
        value = ratio(main, theirs, own) if both else {}
        add(f"{theirs} / {own}, mean >= {least:g}", value.get("mean"), least=least)
        add(f"{theirs} / {own}, expected >= {least:g}", value.get("expected"), least=least)
    for where, key in (("a processor", "everything"), ("a device", "on_device_everything")):
        shift = main.get("ours_shift", {}).get(key, {})
        add(f"ours_shift, everything on, {where}: host reads 0", shift.get("host_reads"), most=0)
        add(f"ours_shift, everything on, {where}: volume operations <= 25", shift.get("volume_operations"), most=25)
        add(f"ours_shift, everything on, {where}: memory passes <= 45", shift.get("memory_passes"), most=45)
    for name in ("ours_shift", "ours_smauglab_default"):
        cost = whole.get("label_cost_cpu_ms", {}).get(name, {})
        value = round(cost["50"] / cost["6"], 3) if {"6", "50"} <= cost.keys() else None
        add(f"{name}: cost at 50 labels / at 6, same seeds <= 1.05", value, most=1.05)
    physics = whole.get("checks", {}).get("ours")
    if physics:
        add("alias after 0.3 x resolution <= 0.01", max(physics["alias"].values()), most=0.01)
        add("error of the delivered blur <= 2 %", round(100 * abs(physics["blur_sd_requested_1"] - 1), 3), most=2)
        add("noisy air, mean / sd, 1.913 +- 0.01", physics["noisy_air"]["mean_over_sd"], least=1.903, most=1.923)
        add("spread of air under bias 0.5 <= 1.02", physics["air_spread_under_bias"], most=1.02)
        seeds = physics["reproducible"]
        add("same seed bit-equal, of all", seeds["same_seed"], least=seeds["number"])
        add("unchanged by the neighbour, of all", seeds["other_neighbour"], least=seeds["number"])
    return found


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
    with tempfile.TemporaryDirectory() as name:
        for shape in args.shapes:
            source = tuple(map(max, *(initial(shape, arm.scale) for arm in (*arms.values(), Remote))))
            made = patches(shape, tuple(args.labels), source)
            for setting, patch in made.items():
                prepare(arms, peer, setting, patch, Path(name))
                results[setting.name] = measure_setting(arms, setting, quick=args.quick)
                print(table(setting, results[setting.name]), flush=True)
                if setting == MAIN and "ours_shift" in arms:
                    whole["everything_by_stage"] = everything_on(patch)
            if shape == MAIN.shape:
                whole["label_cost_cpu_ms"] = label_cost(arms, made, 16 if args.quick else 100)
    whole["checks"] = {"ours": check(args.seeds)}
    if peer:
        whole["checks"]["smauglab"] = peer.ask("checks", number=20, draws=200)
    print(json.dumps(whole["checks"], indent=1))
    return {"results": results, **whole, "goals": goals(results, whole)}


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
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "augmentation.json", found)
    if args.record:
        write_json(args.record, found)
    summary = {"quick": args.quick, "device": args.device, "goals": found["goals"], "missing": found["missing"]}
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
