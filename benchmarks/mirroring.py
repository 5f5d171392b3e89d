"""Does test-time mirroring change what has a side? Stock prediction with and without it, Dice of the sided labels.

    make demo
    python benchmarks/mirroring.py --out bench/mirroring

Takes a trained model with sided labels and a data set to test on, by default those of the demo, and predicts twice with
`nnUNetv2_predict_from_modelfolder`: as the model is (mirrored left-right inside the network, sided channels exchanged,
and by nnU-Net along the other axes that it allows), and with all mirroring off. Where training had mirrored without
exchanging labels, left and right would be mixed up and the difference large. The last line is the summary.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from generalisation.presets import conditions

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.threads import set_frugal_cpu

GOAL = 0.002
_DEMO_MODEL = "nnUNet_results/Dataset901_DemoTrain/nnUNetTrainerSpine__spineDemo__3d_fullres"
_DEMO_TEST = "nnUNet_raw/Dataset902_DemoTest"


def run(words: list[str], values: dict[str, str], log: Path) -> None:
    with log.open("a") as stream:
        stream.write(f"\n$ {' '.join(words)}\n")
        stream.flush()
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=values, check=False).returncode
    if code:
        sys.exit(f"{words[0]} ended with {code}; see {log}")


def sided_dice(scores: Path, names: set[str]) -> dict[tuple[str, str], float]:
    """Return Dice per case and sided label."""
    with (scores / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "dice" and row["label"] in names]
    return {(row["case"], row["label"]): float(row["value"]) for row in rows if row["value"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of `make demo` (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="another model folder")
    parser.add_argument("--test", type=Path, help="another raw data set with imagesTr and labelsTr")
    parser.add_argument("-f", "--fold", default="0")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    start = time.time()
    model, test = arguments.model or arguments.demo / _DEMO_MODEL, arguments.test or arguments.demo / _DEMO_TEST
    for folder in (model, test):
        if not folder.is_dir():
            sys.exit(f"{folder} is not there: run make demo first, or name --model and --test")
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    values = dict(os.environ) | {f"nnUNet_{n}": str(out / n) for n in ("raw", "preprocessed", "results")}
    values |= {"nnUNet_extTrainer": str(trainers_folder()), "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    set_frugal_cpu(values)
    dataset = read_json(model / "dataset.json")
    pairs = dataset["spine_ext"]["sided_labels"]
    names = {name for name, label in dataset["labels"].items() if any(label in pair for pair in pairs)}
    found: dict[str, dict[tuple[str, str], float]] = {}
    for kind in ("mirrored", "plain"):
        copy = out / kind / "model"
        shutil.copytree(model, copy)
        settings = ["--set", f"predict.mirror={'true' if kind == 'mirrored' else 'false'}"]
        run(
            ["nnUNetv2_spine_plan", "-m", str(copy), *settings, "--set", "predict.instances=false"], values, out / "log"
        )
        words = ["-i", str(test / "imagesTr"), "-o", str(out / kind / "masks"), "-m", str(copy), "-f", arguments.fold]
        words += ["-device", arguments.device, "-npp", "1", "-nps", "1"] + ["--disable_tta"] * (kind == "plain")
        run(["nnUNetv2_predict_from_modelfolder", *words], values, out / "log")
        scores = out / kind / "scores"
        words = ["-ref", str(test / "labelsTr"), "-pred", str(out / kind / "masks"), "-o", str(scores)]
        run(["nnUNetv2_spine_evaluate", *words, "--metrics", "dice"], values, out / "log")
        found[kind] = sided_dice(scores, names)
    summary = {"epochs": _epochs(model), **summarise(found["mirrored"], found["plain"])}
    if arguments.record:
        write_json(arguments.record, summary | {"conditions": conditions(arguments, start)})
    print(json.dumps(summary))


def _epochs(model: Path) -> int | None:
    """Return how long a model of ours was trained; None for those of others."""
    train = read_json(model / "plans.json").get("spine_ext", {}).get("train", {})
    return train.get("num_epochs")


def summarise(mirrored: dict[tuple[str, str], float], plain: dict[tuple[str, str], float]) -> dict[str, Any]:
    """Return mean sided Dice both ways, their difference, and whether it is below the goal."""
    keys = sorted(mirrored.keys() & plain.keys())
    if not keys:
        sys.exit("no sided label was scored both ways")
    a, b = (np.array([table[key] for key in keys]) for table in (mirrored, plain))
    labels = sorted({label for _, label in keys})
    by_label = {label: [round(float(t[[k[1] == label for k in keys]].mean()), 4) for t in (a, b)] for label in labels}
    return {
        "values": len(keys),
        "sided_dice_mirrored": round(float(a.mean()), 4),
        "sided_dice_plain": round(float(b.mean()), 4),
        "difference": round(float((a - b).mean()), 4),
        "goal": f"below {GOAL} either way",
        "reached": bool(abs((a - b).mean()) < GOAL),
        "by_label_mirrored_plain": by_label,
    }


if __name__ == "__main__":
    main()
