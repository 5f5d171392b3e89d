"""Is a network that was trained in bfloat16 on a CPU as good as one that was trained in single precision, and how fast?

    python benchmarks/training_precision.py --out bench/training_precision [--quick]

`nnUNetTrainerSpineShift` on T2w phantoms, each seed twice: in single precision and in bfloat16, as `train.precision:
auto` does it; data, plans, schedule and random numbers are the same. Both are tested in single precision, on unseen
phantoms of that kind and of three others, and on real volumes where NNUNET_SPINE_TEST_DATA has them. Differences are
paired over seeds and cases, with both one-sided 95 % bounds (`generalisation/crossed.py`). Trainings run one after the
other, by turns and with one thread, so that their times can be compared. The last line is the summary.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import torch
from generalisation.arms import Arm
from generalisation.compare import Source, collect, compare, markdown
from generalisation.configs import our_augmentation
from generalisation.domains import dataset, make_phantoms, phantom_cases, preprocess, real_cases
from generalisation.presets import PLANS, conditions, parser, run_size

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.networks.precision import has_bf16

SOURCE, OTHERS = "T2w", ("T1w", "T2starw", "STIR")
# Of each other kind of scan; their number is what time allows.
OTHER_CASES = 4
SINGLE, BF16 = "fp32", "bf16"
TRAINER = "nnunet_spine_ext.training.shift:nnUNetTrainerSpineShift"


def main() -> None:
    options = parser(__doc__, seeds=3)
    arguments = options.parse_args()
    if arguments.parallel or arguments.precision != SINGLE or arguments.preset != "cpu":
        options.error("both precisions are trained on a CPU, one after the other: leave the option out")
    if not has_bf16(torch.device("cpu")):
        print(json.dumps({"measured": False, "why": "this CPU does not compute in bfloat16, as far as can be told"}))
        return
    start = time.time()
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = run_size(arguments, test=16)
    make_phantoms(folder, run.size, [SOURCE], [SOURCE, *OTHERS], run.parallel)
    preprocess(folder, [SOURCE], run.network, PLANS, our_augmentation())
    sets = {SOURCE: phantom_cases(folder, SOURCE)}
    sets |= {name: phantom_cases(folder, name)[:OTHER_CASES] for name in OTHERS}
    if data := os.environ.get("NNUNET_SPINE_TEST_DATA"):
        sets |= real_cases(Path(data))
    if arguments.quick:
        sets = {name: cases[:2] for name, cases in sets.items()}
    source = Source(dataset([SOURCE], 0), PLANS, sets)
    first = arguments.first_seed
    seeds = range(first, first + (2 if arguments.quick else arguments.seeds))
    arms = [Arm(precision, TRAINER, sys.executable, precision=precision) for precision in (SINGLE, BF16)]
    rows = collect(folder, source, arms, seeds, run.schedule, 1)
    table = compare(rows, [SINGLE, BF16], list(sets), SINGLE)
    print(markdown(table, [SINGLE, BF16], SINGLE))
    seconds = {arm.name: cpu_seconds(folder, source.dataset, arm.name, seeds) for arm in arms}
    own = table[0]
    summary = {
        "source_dice": own["dice"], "difference": own["differences"][f"{BF16} - {SINGLE}"], "cpu_s": seconds,
        "time_ratio": round(seconds[BF16] / seconds[SINGLE], 3),
    }  # fmt: skip
    facts = conditions(arguments, start)
    facts["options"] |= {"precision": [SINGLE, BF16], "seeds": len(seeds)}
    result = {"summary": summary, "conditions": facts, "table": table}
    write_json(folder / "result.json", result | {"rows": rows})
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary | {"quick": arguments.quick, "minutes": facts["minutes"]}))


def cpu_seconds(folder: Path, data: str, arm: str, seeds: Iterable[int]) -> float:
    """Return the mean CPU time of the trainings of an arm with these seeds."""
    files = [folder / "trained" / f"{data}-{arm}-{seed}" / "scores.json" for seed in seeds]
    return round(fmean(read_json(file)["cpu_s"] for file in files), 1)


if __name__ == "__main__":
    main()
