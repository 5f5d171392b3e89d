"""Levels from corrupted answers of a labelling network: our path solver, enumeration, and SPINEPS' on the same answers.

    make spineps
    python benchmarks/numbering.py --out bench/numbering

Spines with 11 to 13 thoracic and 4 to 6 lumbar vertebrae in four fields of view, with answers of six heads of which a
tenth has nothing to do with the vertebra (`numbering_spines.py`). Counts sequences that are right from end to end. The
solver is compared with enumeration of all sequences; SPINEPS' solver with the best path that its own rules allow. Where
the environment `.oracles/spineps` is missing, its rows are left out. Times are CPU time. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from level_enumeration import best_two, random_case
from numbering_spines import COUNTS, NATURAL, VIEWS, Case, draw_case

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.labels import vertebra_id
from nnunet_spine_ext.numbering.interface import NumberingSettings
from nnunet_spine_ext.numbering.levels import INDEX, LEVELS
from nnunet_spine_ext.numbering.path import Evidence, LevelPath, best_path
from nnunet_spine_ext.numbering.rules import PathRules
from nnunet_spine_ext.numbering.scoring import combine

PEER = Path(".oracles/spineps/bin/python")
GOAL_MS = 5.0
TABLES = ("level", "region", "group", "relative", "t13", "visible")
SETTINGS = NumberingSettings()


def solve(case: Case, prior: float, *, geometry: bool) -> LevelPath:
    """Return the path for one spine; with geometry, distances between vertebrae and the sacrum are known, too."""
    level, relative = combine(case.scores, SETTINGS.weights)
    gaps = np.zeros(len(level) - 1) if geometry else None
    evidence = Evidence(level, relative, gaps, 0.0 if geometry and case.sacrum else None)
    path = best_path(evidence, PathRules().cheaper(prior))
    if path is None:
        sys.exit(f"no path for {case.names}")
    return path


def rates(cases: list[Case], right: Callable[[int], bool]) -> dict[str, Any]:
    """Return perfect sequences per counts and per view, their mean, and their mean weighted by natural frequency."""
    good = np.array([right(k) for k in range(len(cases))])
    by_counts = {c: float(good[[case.counts == c for case in cases]].mean()) for c in COUNTS}
    weights = np.array([NATURAL[c] for c in COUNTS])
    return {
        "counts": {name: round(value, 4) for name, value in by_counts.items()},
        "views": {v: round(float(good[[case.view == v for case in cases]].mean()), 4) for v in VIEWS},
        "mean": round(float(np.mean(list(by_counts.values()))), 4),
        "natural": round(float((weights * list(by_counts.values())).sum() / weights.sum()), 4),
    }


def ours(cases: list[Case]) -> dict[str, Any]:
    result = {}
    for name, prior, geometry in (
        ("no prior", 0.0, False),
        ("no prior, distances and sacrum", 0.0, True),
        ("default", SETTINGS.prior_with_scores, False),
        ("default, distances and sacrum", SETTINGS.prior_with_scores, True),
        ("full prior, distances and sacrum", 1.0, True),
    ):
        paths = [solve(case, prior, geometry=geometry) for case in cases]
        row = rates(cases, lambda k, paths=paths: paths[k].best.levels == cases[k].names)
        row["withheld"] = withheld(cases, paths)
        result[name] = row
    return result


def withheld(cases: list[Case], paths: list[LevelPath]) -> dict[str, float]:
    """Return the share of spines with a level below the least probability, and how many of the others are right."""
    sure = []
    for path in paths:
        columns = [INDEX[name] for name in path.best.levels]
        sure.append(path.posterior[np.arange(len(columns)), columns].min() >= SETTINGS.min_posterior)
    right = [path.best.levels == case.names for case, path in zip(cases, paths, strict=True)]
    answered = [r for r, s in zip(right, sure, strict=True) if s]
    return {
        "share": round(1 - float(np.mean(sure)), 4),
        "right_of_answered": round(float(np.mean(answered)), 4) if answered else 0.0,
    }


def peer(cases: list[Case], out: Path, random: int) -> dict[str, Any] | None:
    """Return SPINEPS' answers as ids per spine, with times and its own losses; None without its environment."""
    if not PEER.exists():
        return None
    tables = {f"{k}.{t}": getattr(case.scores, t) for k, case in enumerate(cases) for t in TABLES}
    heads, answers = out / "heads.npz", out / "answers.json"
    np.savez(heads, **tables)
    script = Path(__file__).with_name("numbering_peer.py")
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(PEER), str(script), str(heads), str(answers), str(random)], check=True, env=environment)
    return read_json(answers)


def exactness(count: int) -> dict[str, int]:
    """Compare with enumeration: best sequences and margins that differ."""
    rng = np.random.default_rng(0)
    wrong = margins = 0
    for _ in range(count):
        evidence, rules = random_case(rng)
        levels, score, second = best_two(evidence, rules)
        path = best_path(evidence, rules)
        if path is None:
            wrong += bool(np.isfinite(score))
            continue
        wrong += path.best.levels != levels or abs(path.best.score - score) > 1e-9
        margin = score - second
        margins += not (path.margin == margin or abs(path.margin - margin) < 1e-9)
    return {"cases": count, "suboptimal": wrong, "wrong_margins": margins}


def milliseconds(repeats: int) -> dict[str, float]:
    """CPU time per spine: best and second-best sequence, alternatives, probabilities."""
    rng = np.random.default_rng(1)
    result = {}
    for count in (7, 17, 26):
        evidence = [
            Evidence(rng.normal(size=(count, len(LEVELS))), rng.normal(size=(count, 6)), rng.random(count - 1), 0.0)
            for _ in range(repeats)
        ]
        best_path(evidence[0])
        begin = time.process_time()
        for one in evidence:
            best_path(one)
        result[str(count)] = round((time.process_time() - begin) / repeats * 1e3, 3)
    return result


def show(title: str, row: dict[str, Any]) -> None:
    cells = " ".join(f"{row['counts'][name]:7.3f}" for name in COUNTS)
    print(f"{title:44s} {cells} {row['mean']:7.3f} {row['natural']:8.3f}")


def compare(corrupted: float, *, jointly: bool, per_cell: int, out: Path, random: int) -> dict[str, Any]:
    """Run everything on one set of spines."""
    rng = np.random.default_rng(2)
    cells = [(c, v) for c in COUNTS for v in VIEWS for _ in range(per_cell)]
    cases = [draw_case(rng, c, v, corrupted, jointly=jointly) for c, v in cells]
    print(f"\n{corrupted:.0%} of answers corrupted, {'a vertebra at a time' if jointly else 'each by itself'}")
    print(f"{'perfect sequences':44s} {' '.join(f'{name:>7s}' for name in COUNTS)}    mean  natural")
    result: dict[str, Any] = {"cases": len(cases), "ours": ours(cases)}
    for name, row in result["ours"].items():
        show(f"ours, {name}", row)
    answers = peer(cases, out, random)
    if answers is None:
        print("SPINEPS: no environment (make spineps)")
        return result
    truth = [[vertebra_id(name) for name in case.names] for case in cases]
    result["spineps"] = {"version": answers["spineps"], "random": answers["random"], "classes": {}}
    for kind, rows in answers["answers"].items():
        row = rates(cases, lambda k, rows=rows: rows[k] == truth[k])
        row["ms"] = round(answers["seconds"][kind] * 1e3, 3)
        result["spineps"]["classes"][kind] = row
        show(f"SPINEPS {answers['spineps']}, {kind} classes", row)
    random_paths = answers["random"]
    worse = f"{random_paths['suboptimal']} of {random_paths['cases']}"
    print(f"SPINEPS, random costs: {worse} paths suboptimal by its own rules")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer spines: a minute")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    quick = arguments.quick
    exact = exactness(3_000 if quick else 100_000)
    print(
        f"against enumeration: {exact['suboptimal']} of {exact['cases']} suboptimal, {exact['wrong_margins']} margins"
    )
    times = milliseconds(20 if quick else 200)
    print(f"ms per spine: {', '.join(f'{n} vertebrae {ms:.2f}' for n, ms in times.items())}")
    sets = {}
    for name, corrupted, jointly in (
        ("clean", 0.0, False),
        ("10 % of answers", 0.1, False),
        ("10 % of vertebrae", 0.1, True),
    ):
        sets[name] = compare(
            corrupted, jointly=jointly, per_cell=10 if quick else 100, out=arguments.out, random=200 if quick else 2000
        )
    result = {
        "enumeration": exact,
        "ms_per_spine": times,
        "sets": sets,
        "reached": exact["suboptimal"] == exact["wrong_margins"] == 0 and max(times.values()) <= GOAL_MS,
    }
    write_json(arguments.out / "numbering.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    summary = {"suboptimal": exact["suboptimal"], "of": exact["cases"], "ms": times, "reached": result["reached"]}
    summary |= {name: row["ours"]["default, distances and sacrum"]["natural"] for name, row in sets.items()}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
