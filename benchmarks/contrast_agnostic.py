"""Do soft labels make the area of the cord independent of the contrast? Six contrasts, true areas, four ways to train.

    python benchmarks/contrast_agnostic.py --out bench/contrast_agnostic [--preset cpu|full] [--quick]

Digital spines in the six contrasts of the Spine-Generic protocol, each on its own grid, the subject moved a little
between scans. Every image has a mask as a rater would draw it, at the border that this image shows
(`softness/rater.py`); `nnunet_spine_ext.soft` makes soft ground truth of the six. Arms: `hard_all` (nnU-Net's loss on
that ground truth binarised at 0.5), `soft_all` (adaptive wing), `soft_all_dice_loss` (soft Dice and BCE),
`soft_per_contrast` (a model per contrast), `soft_all_weighted`, `soft_all_wing_dice` and `soft_all_wing_sigmoid`
(adaptive wing with its weight map, with soft Dice, or of a sigmoid), `soft_all_cross_entropy`, and `hard_own`
(nnU-Net's loss on the mask of each image). They share plan, augmentation, optimizer, number of steps and seeds.

Tested on unseen subjects, contrasts that were never trained on, compressed and lesioned cords, a volume below the cord
and one of noise alone. True areas are those of the tubes that the phantoms are painted from. Goals: half the standard
deviation of the area over contrasts of `hard_all`'s, a lower absolute error, Dice not worse, nothing in noise. Real
images of one subject in several contrasts are added where NNUNET_SPINE_TEST_DATA has them; they have no truth. A rerun
continues. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from generalisation.presets import conditions
from softness import data, real
from softness.arms import ARMS, Arm, Job, Work, jobs_of, run_jobs
from softness.sizes import SIZES
from softness.summary import (
    choose_activation,
    markdown,
    marked,
    picture,
    real_table,
    summarise,
    table,
    times,
)

from nnunet_spine_ext.core.io import write_bytes, write_json
from nnunet_spine_ext.render.drawing import png

PICTURED = "sct"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=Path, required=True, help="folder for data, models and scores; a rerun resumes")
    result.add_argument(
        "--preset",
        choices=("cpu", "full"),
        default="cpu",
        help="cpu: three arms, one seed, an hour on two free cores; full: all, three seeds (default: %(default)s)",
    )
    result.add_argument("--quick", action="store_true", help="a few steps only, within ten minutes; no claim")
    result.add_argument("--arms", nargs="+", choices=tuple(ARMS), help="default: those of the preset")
    result.add_argument("--seeds", type=int, help="trainings per arm (default: those of the preset)")
    result.add_argument("--first-seed", type=int, default=1, help="others, to confirm what was chosen on these")
    result.add_argument("--epochs", type=int, help="of every training (default: those of the preset)")
    result.add_argument(
        "--precision",
        choices=("fp32", "auto"),
        default="fp32",
        help="of all trainings; auto: bfloat16 on an x86 CPU that has it (default: %(default)s)",
    )
    result.add_argument("--parallel", type=int, help="trainings at the same time (default: 2)")
    result.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    result.add_argument("--record", type=Path, help="also write the result to this JSON file")
    return result


def collect(work: Work, jobs: list[Job], parallel: int) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Do all jobs; return what each left, by arm and seed, and say how far the run is."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    start = time.time()
    for done, (job, result) in enumerate(run_jobs(work, jobs, parallel), start=1):
        found.setdefault((job.arm.name, job.seed), []).append(result)
        left = (time.time() - start) / done * (len(jobs) - done)
        cpu = result["figures"]["cpu_s"] / 60
        print(f"{done}/{len(jobs)} {job.name}: {cpu:.1f} CPU min to train; about {left / 60:.0f} min left", flush=True)
    return found


def results(found: dict[tuple[str, int], list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all rows with the area that counts, and per arm and seed: the choice of map, figures, real groups."""
    rows, entries = [], []
    for (arm, seed), parts in sorted(found.items()):
        own = [row for part in parts for row in part["rows"]]
        choice, errors = choose_activation(own)
        rows += marked(arm, seed, own, choice)
        entries.append(
            {
                "arm": arm, "seed": seed, "choice": choice, "validation_error": errors,
                "training": [part["figures"] for part in parts], "real": [g for part in parts for g in part["real"]],
            }
        )  # fmt: skip
    return rows, entries


def main() -> None:
    arguments = parser().parse_args()
    start = time.time()
    size = SIZES["quick" if arguments.quick else arguments.preset]
    size = replace(size, epochs=arguments.epochs or size.epochs, parallel=arguments.parallel or size.parallel)
    chosen: list[Arm] = [ARMS[name] for name in arguments.arms or size.arms]
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data.make(folder, size)
    data.preprocess(folder, size.network, list(dict.fromkeys(arm.dataset for arm in chosen)))
    print(f"data ready after {(time.time() - start) / 60:.1f} min", flush=True)
    seeds = range(arguments.first_seed, arguments.first_seed + (arguments.seeds or size.seeds))
    groups = [] if arguments.quick else real.groups()
    work = Work(folder, arguments.device, size.step, data.test_cases(folder), groups)
    jobs = jobs_of(chosen, seeds, size.epochs, size.iterations, arguments.precision)
    rows, entries = results(collect(work, jobs, size.parallel))
    names = [arm.name for arm in chosen]
    tables = table(rows, names)
    text = markdown(tables)
    print(text)
    summary = summarise(rows, names)
    seconds = times(rows)
    print("CPU seconds per volume, as predicted and without crop mode:", json.dumps(seconds))
    real_lines = real_table(entries)
    for line in real_lines:
        print(json.dumps(line))
    write_bytes(folder / "areas.png", png(picture(rows, names, PICTURED), scale=2.0))
    (folder / "result.md").write_text(text + "\n")
    training = [{k: v for k, v in entry.items() if k != "real"} for entry in entries]
    result = {
        "summary": summary, "conditions": conditions(arguments, start), "steps": size.epochs * size.iterations,
        "training": training, "tables": tables, "times": seconds, "real": real_lines,
    }  # fmt: skip
    write_json(folder / "result.json", result | {"rows": rows})
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary | {"quick": arguments.quick, "minutes": result["conditions"]["minutes"]}))


if __name__ == "__main__":
    main()
