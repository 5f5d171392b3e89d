"""Real images alone, with the models of a run: python -m softness.rescore --models RUN --record FILE.json.

Nothing is trained. RUN is the `--out` of `contrast_agnostic.py`; which map of a model counts is what its validation
phantoms chose then. One seed per name of a model, as the run had it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from generalisation.presets import conditions

from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_json, write_json
from softness import real
from softness.arms import ARMS
from softness.score import Model, score_real
from softness.summary import choose_activation, real_table


def trained(run: Path) -> list[dict[str, Any]]:
    """Return, per scored model of all contrasts in a run: arm, seed, the map that counts, and its folder.

    Raises
    ------
    FileNotFoundError: no scores of such a model, or scores without their model.
    """
    found = []
    for scores in sorted(run.glob("trained/*/scores.json")):
        arm, contrast, seed = scores.parent.name.rsplit("-", 2)
        if contrast != "all":
            continue
        choice, _ = choose_activation(read_json(scores)["rows"])
        name = f"nnUNet_results/*/{ARMS[arm].trainer}__{arm}_{seed}__3d_fullres"
        folder = next(scores.parent.glob(name), None)
        if folder is None:
            raise FileNotFoundError(f"{scores.parent}: scores, but no model {name}")
        found.append({"arm": arm, "seed": int(seed), "choice": choice, "folder": folder})
    if not found:
        raise FileNotFoundError(f"{run}: no scores of a model of all contrasts (trained/<arm>-all-<seed>/scores.json)")
    return found


def scored(entry: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a model of `trained` with its real groups in place of its folder."""
    model = Model(entry["folder"], 0)
    known = {key: value for key, value in entry.items() if key != "folder"}
    return {**known, "real": [score_real(model, group) for group in groups]}


def main() -> None:
    """Predict the real images with every model and print a line per model and group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="--out of contrast_agnostic.py")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, cpu = time.time(), time.process_time()
    groups = real.groups()
    if not groups:
        parser.error("no real images: NNUNET_SPINE_TEST_DATA names no folder with any")
    # What cannot be recorded is said before hours of predictions, not after them.
    try:
        run = read_json(arguments.models / "result.json") if arguments.record else {}
        entries = trained(arguments.models.resolve())
    except (FileNotFoundError, SpineExtError) as error:
        parser.error(str(error))
    lines = real_table([scored(entry, groups) for entry in entries])
    for line in lines:
        print(json.dumps(line))
    if arguments.record:
        result = {
            "conditions": conditions(argparse.Namespace(), start), "cpu_s": round(time.process_time() - cpu, 1),
            "models": {"date": run["conditions"]["date"], "steps": run["steps"]}, "real": lines,
        }  # fmt: skip
        write_json(arguments.record, result)


if __name__ == "__main__":
    main()
