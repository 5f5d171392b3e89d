"""Does augmentation cost anything on the scanner that was trained on, and what does it give on others?

    make peers                                            # once: SmaugLab in an environment of its own
    python benchmarks/in_domain.py --out bench/in_domain [--preset cpu|gpu] [--data phantom|cord] [--quick]

nnU-Net's default augmentation, SmaugLab's default and ours: one data set, one split, one network, loss, optimizer and
number of steps, and the same seeds. Tested on unseen cases of the same kind of scan, on phantoms of seven other kinds,
on the same scans corrupted by torchio (`generalisation/corruptions.yaml`, fixed beforehand) and on real volumes.

Differences are paired over seeds and cases; the interval is between the two one-sided 95 % bounds (`crossed.py`). One
that is wider than 0.004 is called undecided. A run whose source Dice under nnU-Net's default is below 0.80 is void.
Phantoms are made with the signal equations that our augmentation uses, and ours is told what tissue each label is, as
its users would tell it: what speaks for us on phantoms has to be confirmed by the corruptions and the real volumes. A
peer that has not learned its own source domain (below 0.80) says nothing about others, so comparisons with it are void
too. What was chosen by looking at one run has to be confirmed with another --first-seed and --test-seed. The last line
is the summary.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from generalisation.arms import HERE, PEER_PYTHON, arms
from generalisation.compare import Source, collect, compare, markdown
from generalisation.configs import our_augmentation
from generalisation.cord import CLASSES, cord_sources
from generalisation.domains import (
    DOMAINS,
    corrupted_sets,
    dataset,
    make_phantoms,
    phantom_cases,
    preprocess,
    real_cases,
)
from generalisation.presets import ARMS_HELP, PLANS, RunSize, conditions, parser, run_size

from nnunet_spine_ext.core.io import write_json

BASELINE = "nnunet"
LEAST_SOURCE_DICE = 0.80
NON_INFERIORITY = -0.002
# Cases of the other test sets: their means are compared, their number is what time allows.
OTHER_CASES = 3


def phantom_sources(folder: Path, arguments: Any) -> tuple[list[Source], RunSize]:
    """Make the phantoms, plan and preprocess; return the source with all its test sets, the source's own first."""
    run = run_size(arguments, test=16)
    make_phantoms(folder, run.size, ["T2w"], list(DOMAINS), run.parallel)
    preprocess(folder, ["T2w"], run.network, PLANS, our_augmentation())
    sets = {"T2w": phantom_cases(folder, "T2w")}
    sets |= {name: phantom_cases(folder, name)[:OTHER_CASES] for name in DOMAINS if name != "T2w"}
    if PEER_PYTHON.exists():
        corrupted = corrupted_sets(folder, "T2w", PEER_PYTHON, HERE / "corruptions.yaml")
        sets |= {name: cases[:OTHER_CASES] for name, cases in corrupted.items()}
    data = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if data:
        sets |= real_cases(Path(data))
    if arguments.quick:
        # Scoring would take longer than training; two cases of the source, for an interval.
        sets = {name: cases[: 2 if name == "T2w" else 1] for name, cases in sets.items()}
    return [Source(dataset(["T2w"], 0), PLANS, sets)], run


def verdict(table: list[dict[str, Any]], source: str) -> dict[str, Any]:
    """Return what the run says about the two claims: no loss in the source domain, no less than the peer elsewhere."""
    own = next(entry for entry in table if entry["set"] == source)
    dice = own["dice"]
    result: dict[str, Any] = {"source_dice": dice, "void": dice[BASELINE] < LEAST_SOURCE_DICE}
    found = own["differences"].get(f"ours - {BASELINE}")
    if found:
        reached = "void" if result["void"] else _reached(found)
        result["in_domain"] = {**found, "goal": f"lower bound >= {NON_INFERIORITY}", "reached": reached}
    for key in [key for key in own["differences"] if key.startswith("ours - smauglab")]:
        others = [(entry["set"], entry["differences"][key]["mean"]) for entry in table if entry["set"] != source]
        result[key] = {
            "void": dice[key.removeprefix("ours - ")] < LEAST_SOURCE_DICE,
            "sets": len(others),
            "not_below": sum(mean >= 0 for _, mean in others),
            "mean": round(sum(mean for _, mean in others) / len(others), 4),
            "below": {name: mean for name, mean in others if mean < 0},
        }
    return result


def _reached(found: dict[str, Any]) -> str:
    """Return whether a difference keeps above the margin; one that is known too badly is undecided."""
    low, high = found["interval"] or (float("-inf"), float("inf"))
    if high < NON_INFERIORITY:
        return "missed"
    return "met" if low >= NON_INFERIORITY and found["verdict"] == "decided" else "undecided"


def main() -> None:
    options = parser(__doc__, seeds=5)
    options.add_argument(
        "--data", choices=("phantom", "cord"), default="phantom", help="phantoms, or real T2w with cord masks"
    )
    options.add_argument("--arms", nargs="+", default=[BASELINE, "smauglab", "ours"], help=ARMS_HELP)
    arguments = options.parse_args()
    if BASELINE not in arguments.arms:
        options.error(f"--arms must hold {BASELINE}: differences are from it")
    start = time.time()
    folder = (arguments.out / arguments.data).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen, missing = arms(sys.executable, arguments.arms, CLASSES if arguments.data == "cord" else None)
    for name in missing:
        print(f"{name} is left out: its environment is not there (make peers)", flush=True)
    sources, run = (phantom_sources if arguments.data == "phantom" else cord_sources)(folder, arguments)
    first = arguments.first_seed
    seeds = range(first, first + (2 if arguments.quick else arguments.seeds))
    parallel = arguments.parallel or run.parallel
    rows = [row for source in sources for row in collect(folder, source, chosen, seeds, run.schedule, parallel)]
    names = [arm.name for arm in chosen]
    table = compare(rows, names, list(sources[0].sets), BASELINE)
    text = markdown(table, names, BASELINE)
    print(text)
    summary = verdict(table, next(iter(sources[0].sets)))
    result = {"summary": summary, "missing": missing, "conditions": conditions(arguments, start), "table": table}
    write_json(folder / "result.json", result | {"rows": rows})
    (folder / "result.md").write_text(text + "\n")
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary | {"missing": missing, "minutes": result["conditions"]["minutes"]}))


if __name__ == "__main__":
    main()
