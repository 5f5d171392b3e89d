"""Trains every arm with every seed, scores all test sets, and says what the paired differences are and how sure."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generalisation.arms import Arm, Job, Schedule, run_jobs
from generalisation.crossed import crossed
from generalisation.domains import Case
from generalisation.score_arm import Scorer
from nnunet_spine_ext.core.io import read_json, write_json

WIDEST = 0.004
"""A difference whose interval is wider is undecided."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """One data set to train on: name of the data set, its plans, and the test sets by name."""

    dataset: str
    plans: str
    sets: Mapping[str, list[Case]]


def collect(
    folder: Path, source: Source, arms: Sequence[Arm], seeds: Sequence[int], schedule: Schedule, parallel: int
) -> Rows:
    """Return one row per arm, seed, test set, case and structure; trainings and scores that exist are kept."""
    torch.set_num_threads(1)
    scorer: Scorer | None = None
    made = folder / "nnUNet_preprocessed" / source.dataset
    plans = {arm.name: arm.plans(made, source.plans) for arm in arms}
    jobs = [Job(arm, source.dataset, plans[arm.name], seed, arm.schedule(schedule)) for seed in seeds for arm in arms]
    rows: Rows = []
    start = time.time()
    for done, (job, weights, figures) in enumerate(run_jobs(folder, jobs, parallel), start=1):
        stored = weights.with_name("scores.json")
        wanted = [figures["identity"], {name: [case[0] for case in cases] for name, cases in source.sets.items()}]
        if stored.exists() and read_json(stored)["wanted"] == wanted:
            own = read_json(stored)["rows"]
        else:
            scorer = scorer or Scorer(
                made, source.plans, "3d_fullres", folder / "cache" / source.dataset,
                step=0.75, device=schedule.device,
            )  # fmt: skip
            trained = torch.load(weights, weights_only=True)
            own = scorer.score(trained["network_weights"], dict(source.sets))
            write_json(stored, {"wanted": wanted, "rows": own, "cpu_s": trained["cpu_s"]}, indent=None)
        rows += [{"arm": job.arm.name, "seed": job.seed, **row} for row in own]
        left = (time.time() - start) / done * (len(jobs) - done)
        first = next(iter(source.sets))
        mean = np.mean([row["dice"] for row in own if row["set"] == first])
        print(f"{done}/{len(jobs)} {job.name}: {first} Dice {mean:.4f}; about {left / 60:.0f} min left", flush=True)
    return rows


def per_case(rows: Rows, arm: str, name: str) -> np.ndarray:
    """Return Dice averaged over structures, (seeds, cases), in order of seed and case."""
    table: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["arm"] == arm and row["set"] == name:
            table[row["seed"], row["case"]].append(row["dice"])
    seeds, cases = sorted({seed for seed, _ in table}), sorted({case for _, case in table})
    return np.array([[np.mean(table[seed, case]) for case in cases] for seed in seeds])


def compare(rows: Rows, arms: Sequence[str], sets: Sequence[str], baseline: str) -> list[dict[str, Any]]:
    """Return, per test set, the mean Dice of every arm and the paired differences from the baseline and from peers."""
    table = []
    for name in sets:
        values = {arm: per_case(rows, arm, name) for arm in arms}
        entry: dict[str, Any] = {"set": name, "cases": int(values[baseline].shape[1])}
        entry["dice"] = {arm: round(float(v.mean()), 4) for arm, v in values.items()}
        entry["differences"] = {
            f"{a} - {b}": difference(values[a] - values[b])
            for a in arms
            for b in arms
            if a != b and (b == baseline or a == "ours")
        }
        table.append(entry)
    return table


def difference(values: np.ndarray) -> dict[str, Any]:
    """Return what is known of a mean paired difference (seeds, cases)."""
    plain: dict[str, Any] = {"mean": round(float(values.mean()), 4), "by_seed": values.mean(axis=1).round(4).tolist()}
    if min(values.shape) < 2:
        return plain | {"interval": None, "verdict": "no interval: fewer than two seeds or cases"}
    result = crossed(values)
    plain["interval"] = [round(result.lower, 4), round(result.upper, 4)]
    if result.width > WIDEST:
        plain["verdict"] = "undecided"
        plain["seeds_to_decide"] = result.seeds_for(WIDEST)
    else:
        plain["verdict"] = "decided"
    return plain


def markdown(table: Sequence[dict[str, Any]], arms: Sequence[str], baseline: str) -> str:
    """Return the table as text: Dice of every arm, and differences with their one-sided 95 % bounds."""
    pairs = list(table[0]["differences"])
    lines = ["| test set | cases | " + " | ".join([*arms, *pairs]) + " |", "|---" * (2 + len(arms) + len(pairs)) + "|"]
    for entry in table:
        cells = [f"{entry['dice'][arm]:.4f}" for arm in arms]
        for pair in pairs:
            found = entry["differences"][pair]
            bounds = "" if found["interval"] is None else " ({:+.4f} to {:+.4f})".format(*found["interval"])
            cells.append(f"{found['mean']:+.4f}{bounds}")
        lines.append(f"| {entry['set']} | {entry['cases']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
