"""The instance step beside SPINEPS 2.1.3: how exact, how fast, how much memory, and what errors of the network do.

    make spineps
    python benchmarks/instances.py --out bench/instances [--quick | --preset NAME] [--record FILE]

One digital spine per case, C2 to sacrum at 0.75 x 0.75 x 1.65 mm (PIR), about 10 million voxels; both programs get
the same mask, one after the other, in processes of one thread. SPINEPS runs its own instance phase and post-processing
with its defaults, without levels; an oracle stands in for its network and answers each cutout with the truth, or in a
chosen way wrongly (`instancing/oracle.py`). Ours runs without a network, and with the same oracle. Without SPINEPS'
environment ours runs alone.

Seconds are those of the processor, without the oracle's; memory is the peak above what was resident after import, mask
included, without the oracle's two arrays; PQ is panoptic quality of vertebrae at IoU 0.5 by this package's evaluation,
which equals panoptica's. Runs are kept in the folder of `--out` and done again only when the code, the mask or the
oracle changed. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from instancing.oracle import Condition
from instancing.phantoms import CASES
from instancing.running import OURS, ROOT, SPINEPS, Bench

from nnunet_spine_ext.core.io import write_json

FREE, PERFECT = "network-free", "perfect"
SECONDS_CLEAN, SECONDS_NOISE, MEMORY_MIB, IMPORT_S = 1.5, 3.0, 150.0, 1.0
PQ_ORACLE, PQ_FREE = 0.99, 0.95
# Bytes per voxel that a process holds for the oracle: truth and classes, beside the mask that the program gets.
HARNESS = 2
# Cases whose seconds are a goal; the others run once.
TIMED = ("clean", "flips", "noise")
# PQ is compared with three digits: what differs less is equal.
EQUAL = 0.0005
MODES = ("shift", "merge", "empty", "miss", "boundary", "swap_post")


@dataclass(frozen=True)
class Preset:
    """Which cases, which wrong answers on the clean one, how often the timed cases run."""

    cases: tuple[str, ...]
    errors: tuple[Condition, ...]
    repeats: int


def errors(
    modes: Sequence[str], shares: Sequence[float], dropout: Sequence[float], seeds: int
) -> tuple[Condition, ...]:
    """Return independent and correlated errors with every share, and dropout with its own."""
    found = [
        Condition(mode, share, seed, correlated)
        for mode in modes
        for correlated in (False, True)
        for share in shares
        for seed in range(seeds)
    ]
    return (*found, *(Condition("dropout", share, seed) for share in dropout for seed in range(seeds)))


ALL = tuple(CASES)
PRESETS = {
    "full": Preset(ALL, errors(MODES, (0.5, 0.8), (0.5, 1.0), 1), 3),
    "cases": Preset(ALL, (), 1),
    "errors": Preset(("clean",), errors(MODES, (0.4, 0.5, 0.6, 0.8), (0.4, 0.5, 0.8, 1.0), 3), 1),
    "quick": Preset(
        ("clean", "fused12", "missing_2bodies", "two", "flips"),
        (*errors(("shift", "merge", "swap_post"), (0.6,), (), 1), Condition("dropout", 1.0)),
        1,
    ),
}


def run_case(bench: Bench, case: str, repeats: int, sides: Sequence[str]) -> dict[str, Any]:
    """Run all programs on one case and return the row of the table."""
    row: dict[str, Any] = {"title": CASES[case].title}
    perfect = [Condition()]
    for side, key, conditions in ((SPINEPS, SPINEPS, perfect), (OURS, FREE, []), (OURS, "oracle", perfect)):
        if key in sides:
            result = bench.run(case, side, conditions, repeats if case in TIMED else 1)
            row["mvoxel"] = round(result["voxels"] / 1e6, 1)
            row[key] = _figures(result, FREE if not conditions else PERFECT)
    print(line(row), flush=True)
    return row


def _figures(result: dict[str, Any], condition: str) -> dict[str, Any]:
    found = result["conditions"][condition]
    seconds = found.get("seconds") or [a + b for a, b in zip(found["instance_s"], found["post_s"], strict=True)]
    figures = {
        "pq": found["pq"]["vertebra"],
        "disc_pq": found["pq"].get("disc", {}).get("pq"),
        "endplate_pq": found["pq"].get("endplate", {}).get("pq"),
        "seconds": round(statistics.median(seconds), 2),
        "peak_mib": round(found["peak_mib"] - HARNESS * result["voxels"] / 2**20, 1),
        "import_s": round(result["import_s"], 2),
        "import_mib": round(result["import_mib"]),
        "cutouts": found["asked"],
    }
    if "post_s" in found:
        figures["post_s"] = round(statistics.median(found["post_s"]), 2)
    for key in ("pq_of_mask", "pq_before_post", "warnings"):
        if found.get(key):
            figures[key] = found[key]
    if found.get("error"):
        figures["error"] = found["error"].strip().splitlines()[-1]
    if "torch_imported" in result:
        figures["torch_imported"] = result["torch_imported"]
    return figures


def line(row: dict[str, Any]) -> str:
    """One line of the table: PQ, seconds and MiB of each program."""
    mvoxel = f"{row['mvoxel']:.1f}" if "mvoxel" in row else ""
    cells = [f"{row['title']:32} {mvoxel:>4}"]
    for side in (SPINEPS, FREE, "oracle"):
        found = row.get(side)
        if found is None:
            cells.append(" " * 25)
            continue
        # What was stopped, or failed, has no instances to score.
        quality = "  –   " if found.get("error") else f"{found['pq']['pq']:.4f}"
        cells.append(f"{quality} {found['seconds']:6.2f} s {found['peak_mib']:5.0f} MiB")
    return " | ".join(cells)


def run_errors(bench: Bench, conditions: Sequence[Condition], sides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run the clean mask with wrong answers; return the PQ of each program by condition."""
    rows: dict[str, dict[str, Any]] = {condition.name: {} for condition in conditions}
    for side, key in ((SPINEPS, SPINEPS), (OURS, "oracle")):
        for mode in dict.fromkeys(condition.mode for condition in conditions if key in sides):
            result = bench.run("clean", side, [condition for condition in conditions if condition.mode == mode], 1)
            for name, found in result["conditions"].items():
                rows[name][key] = {"pq": found["pq"]["vertebra"]["pq"], "hit": found["hit"], "asked": found["asked"]}
                if found["error"]:
                    rows[name][key]["error"] = found["error"]
                print(f"{key:12} {name:26} PQ {rows[name][key]['pq']:.4f}, {found['hit']} wrong answers", flush=True)
    return rows


def curves(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, by error and share, the mean PQ of each program, and whether ours is as good with every seed."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        groups.setdefault(name.partition("#")[0], []).append(row)
    found = {}
    for name, members in groups.items():
        entry: dict[str, Any] = {
            side: round(statistics.fmean(row[side]["pq"] for row in members), 4)
            for side in (SPINEPS, "oracle")
            if all(side in row for row in members)
        }
        if len(entry) == 2:
            entry["as_good"] = all(row["oracle"]["pq"] >= row[SPINEPS]["pq"] - EQUAL for row in members)
        found[name] = entry
    return found


def summarise(cases: dict[str, dict[str, Any]], wrong: dict[str, dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """Return the figures with the goals and which are reached."""
    goals: dict[str, Any] = {}
    for side, least in ((FREE, PQ_FREE), ("oracle", PQ_ORACLE)):
        found = {name: row[side] for name, row in cases.items() if side in row}
        if not found:
            continue
        low = sorted(name for name, figures in found.items() if figures["pq"]["pq"] < least)
        goals[f"{side}: PQ of at least {least}"] = {"reached": not low, "below": low}
        memory = {name: figures["peak_mib"] for name, figures in found.items()}
        largest = max(memory, key=lambda name: memory[name])
        goals[f"{side}: at most {MEMORY_MIB:g} MiB on the clean mask"] = {
            "reached": memory.get("clean", 0) <= MEMORY_MIB, "clean": memory.get("clean"),
            "largest": [largest, memory[largest]],
        }  # fmt: skip
        for name, most in (("clean", SECONDS_CLEAN), ("flips", SECONDS_NOISE), ("noise", SECONDS_NOISE)):
            if name in found:
                seconds = found[name]["seconds"]
                goals[f"{side}: {name} in at most {most:g} s"] = {"reached": seconds <= most, "seconds": seconds}
        if side == FREE:
            one = next(iter(found.values()))
            goals[f"import in at most {IMPORT_S:g} s without torch"] = {
                "reached": one["import_s"] <= IMPORT_S and not one["torch_imported"], "seconds": one["import_s"],
            }  # fmt: skip
    curve = curves(wrong)
    judged = {name: entry["as_good"] for name, entry in curve.items() if "as_good" in entry}
    if judged:
        worse = sorted(name for name, good in judged.items() if not good)
        goals["errors of the network: at least SPINEPS' PQ in each"] = {"reached": not worse, "worse": worse}
    return {
        "spineps": "2.1.3",
        "spine_seed": bench.seed,
        "goals": goals,
        "reached": all(goal["reached"] for goal in goals.values()),
        "cases": cases,
        "errors": curve,
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--quick", action="store_true", help="the same as --preset quick")
    parser.add_argument("--cases", nargs="+", choices=ALL, help="instead of the preset's")
    parser.add_argument("--sides", nargs="+", choices=(SPINEPS, FREE, "oracle"), default=[SPINEPS, FREE, "oracle"])
    parser.add_argument("--no-errors", action="store_true", help="leave wrong answers out")
    parser.add_argument("--seed", type=int, default=0, help="of the spine; another one has other sizes and shapes")
    parser.add_argument("--again", action="store_true", help="do everything again")
    parser.add_argument("--spineps", type=Path, default=ROOT / ".oracles" / "spineps" / "bin" / "python")
    parser.add_argument("--record", type=Path, help="also write the summary to this JSON file")
    parser.add_argument("--note", default="", help="a sentence for the record, such as how busy the machine was")
    arguments = parser.parse_args()
    preset = PRESETS["quick" if arguments.quick else arguments.preset]
    sides = list(arguments.sides)
    if SPINEPS in sides and not arguments.spineps.exists():
        print(f"{arguments.spineps} is missing (make spineps): ours runs alone")
        sides.remove(SPINEPS)
    bench = Bench(arguments.out.resolve(), arguments.spineps, arguments.seed, again=arguments.again)
    print(f"{'mask, million voxels':37} | SPINEPS: PQ, CPU, memory  | ours, network-free         | ours, oracle")
    rows = {case: run_case(bench, case, preset.repeats, sides) for case in arguments.cases or preset.cases}
    wrong = run_errors(bench, () if arguments.no_errors else preset.errors, sides)
    summary = summarise(rows, wrong, bench)
    for name, entry in summary["errors"].items():
        print(f"{name:26} " + "  ".join(f"{side} {value}" for side, value in entry.items()))
    for goal, verdict in summary["goals"].items():
        print(f"{'reached' if verdict['reached'] else 'MISSED ':8} {goal}  {verdict}")
    if arguments.note:
        summary["note"] = arguments.note
    write_json(arguments.out / "instances.json", summary)
    if arguments.record:
        write_json(arguments.record, summary)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
