"""Train on one kind of scan, test on seven others: T1w, T2w and CT phantoms as sources, eight domains as tests.

    make peers
    python benchmarks/cross_domain.py --out bench/cross_domain [--preset cpu|gpu] [--seeds N] [--quick]

For every source and arm: the Dice in the source domain, and the relative gain over nnU-Net's default augmentation,
(Dice - stock) / stock, averaged over the seven other domains. A domain in which stock finds next to nothing makes huge
ratios, so the mean of the differences is given too. Goals: a gain no smaller than SmaugLab's in the same run, and a
change in the source domain of at least -0.002; void for arms whose source Dice is below 0.80. Phantoms are made with
the signal equations that our augmentation knows, and ours is told the tissue of each label; `in_domain.py` and
`phantom_to_real.py` ask real volumes. The last line is the summary.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from generalisation.arms import arms
from generalisation.compare import Source, collect, compare, markdown
from generalisation.configs import our_augmentation
from generalisation.domains import DOMAINS, dataset, make_phantoms, phantom_cases, preprocess
from generalisation.presets import ARMS_HELP, PLANS, RunSize, conditions, parser, run_size

from nnunet_spine_ext.core.io import write_json

SOURCES = ("T1w", "T2w", "CT")
BASELINE = "nnunet"
# Below this Dice of the baseline a ratio says nothing.
LEAST_BASELINE = 0.02
LEAST_SOURCE_DICE = 0.80


def sources(folder: Path, arguments: Any) -> tuple[list[Source], RunSize]:
    """Make phantoms of all domains, plan and preprocess the three sources."""
    run = run_size(arguments, test=6)
    make_phantoms(folder, run.size, SOURCES, list(DOMAINS), run.parallel)
    preprocess(folder, SOURCES, run.network, PLANS, our_augmentation())
    tests = {name: phantom_cases(folder, name) for name in DOMAINS}
    made = []
    for number, name in enumerate(SOURCES):
        ordered = {name: tests[name], **{other: cases for other, cases in tests.items() if other != name}}
        made.append(Source(dataset(SOURCES, number), PLANS, ordered))
    return made, run


def gains(table: list[dict[str, Any]], source: str, names: list[str]) -> dict[str, Any]:
    """Return per arm: Dice in the source domain and its change, mean Dice elsewhere, mean gain in both senses."""
    own = next(entry for entry in table if entry["set"] == source)["dice"]
    others = [entry["dice"] for entry in table if entry["set"] != source]
    usable = [dice for dice in others if dice[BASELINE] >= LEAST_BASELINE]
    result = {}
    for name in names:
        relative = [(dice[name] - dice[BASELINE]) / dice[BASELINE] for dice in usable]
        absolute = [dice[name] - dice[BASELINE] for dice in others]
        result[name] = {
            "source_dice": own[name],
            "void": min(own[name], own[BASELINE]) < LEAST_SOURCE_DICE,
            "in_domain_change": round(own[name] - own[BASELINE], 4),
            "other_dice": round(sum(dice[name] for dice in others) / len(others), 4),
            "relative_gain": round(sum(relative) / len(relative), 4) if relative else None,
            "absolute_gain": round(sum(absolute) / len(absolute), 4),
            "domains_in_ratio": len(usable),
        }
    return result


def main() -> None:
    options = parser(__doc__, seeds=1)
    options.add_argument("--arms", nargs="+", default=[BASELINE, "smauglab", "ours"], help=ARMS_HELP)
    arguments = options.parse_args()
    if BASELINE not in arguments.arms:
        options.error(f"--arms must hold {BASELINE}: gains are over it")
    start = time.time()
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen, missing = arms(sys.executable, arguments.arms)
    for name in missing:
        print(f"{name} is left out: its environment is not there (make peers)", flush=True)
    made, run = sources(folder, arguments)
    names = [arm.name for arm in chosen]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    summary: dict[str, Any] = {}
    tables = {}
    for name, source in zip(SOURCES, made, strict=True):
        rows = collect(folder, source, chosen, seeds, run.schedule, arguments.parallel or run.parallel)
        tables[name] = compare(rows, names, list(source.sets), BASELINE)
        summary[name] = gains(tables[name], name, names)
        print(f"\nsource {name}\n{markdown(tables[name], names, BASELINE)}\n", flush=True)
    result = {"summary": summary, "missing": missing, "conditions": conditions(arguments, start), "tables": tables}
    write_json(folder / "result.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary | {"missing": missing, "minutes": result["conditions"]["minutes"]}))


if __name__ == "__main__":
    main()
