"""Train on phantoms alone, test on real volumes: cord masks of T2w, T1w and T2*w scans, and the TPTBox MR pair.

    python benchmarks/phantom_to_real.py --out bench/phantom_to_real [--preset cpu|gpu] [--quick]

The phantoms are T2w and T1w turbo spin echoes, gradient echoes and MPRAGE of the cervical and the thoracic spine, as
six scanners would take them; our trainer adds its augmentation. No real voxel is trained on. Needs the real images that
NNUNET_SPINE_TEST_DATA points to. The last line is the summary.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from generalisation.arms import arms
from generalisation.compare import Source, collect, compare
from generalisation.configs import our_augmentation
from generalisation.domains import Mixture, dataset, make_mixture, preprocess, real_cases
from generalisation.presets import ARMS_HELP, PLANS, conditions, parser, run_size

from nnunet_spine_ext.core.io import write_json

NAME = "Phantoms"
PROTOCOLS = ("t2w_sagittal", "t1w_sagittal", "t2star_axial", "t1w_iso")
SCANNERS = ("nako-siemens-3t", "philips-3t", "ge-3t", "siemens-1.5t", "ge-1.5t", "philips-1.5t")
GOAL = 0.80
GOAL_SET = "real T2w"


def main() -> None:
    options = parser(__doc__, seeds=1)
    options.add_argument("--arms", nargs="+", default=["nnunet", "ours"], help=ARMS_HELP)
    arguments = options.parse_args()
    data = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if not data:
        sys.exit("set NNUNET_SPINE_TEST_DATA to the folder of real images")
    if GOAL_SET not in real_cases(Path(data)):
        sys.exit(f"{data} lacks the volumes of {GOAL_SET!r}")
    start = time.time()
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen, missing = arms(sys.executable, arguments.arms)
    run = run_size(arguments, test=0, cpu_epochs=24)
    count, spacing = (4, 2.0) if arguments.quick else (12, 1.5) if arguments.preset == "cpu" else (60, 1.0)
    mixture = Mixture(NAME, count, spacing, 80.0, ("cervical", "thoracic"), PROTOCOLS, SCANNERS)
    make_mixture(folder, mixture, run.parallel)
    preprocess(folder, [NAME], run.network, PLANS, our_augmentation())
    sets = real_cases(Path(data))
    source = Source(dataset([NAME], 0), PLANS, sets)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows = collect(folder, source, chosen, seeds, run.schedule, arguments.parallel or run.parallel)
    names = [arm.name for arm in chosen]
    table = compare(rows, names, list(sets), names[0])
    by_case = _by_case(rows)
    for line in by_case:
        print(json.dumps(line))
    summary: dict[str, Any] = {"goal": f"cord Dice {GOAL_SET} >= {GOAL} with --preset gpu", "preset": arguments.preset}
    for name in names:
        cord = [r["dice"] for r in rows if r["arm"] == name and r["structure"] == "cord" and r["set"] == GOAL_SET]
        summary[name] = round(sum(cord) / len(cord), 4)
    result = {"summary": summary, "missing": missing, "conditions": conditions(arguments, start), "table": table}
    write_json(folder / "result.json", result | {"rows": rows})
    if arguments.record:
        write_json(arguments.record, result | {"cases": by_case})
    print(json.dumps(summary | {"minutes": result["conditions"]["minutes"]}))


def _by_case(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per volume and structure: Dice of every arm, averaged over seeds."""
    table: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        key = (row["set"], row["case"], row["structure"])
        table.setdefault(key, {}).setdefault(row["arm"], []).append(row["dice"])
    return [
        {"set": a, "case": b, "structure": c, **{arm: round(sum(v) / len(v), 4) for arm, v in values.items()}}
        for (a, b, c), values in table.items()
    ]


if __name__ == "__main__":
    main()
