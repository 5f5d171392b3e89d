"""The columns none, match and TTA of the study on real volumes: cord models, six simulated scanners.

    python benchmarks/real_cord.py --out CORD
    python benchmarks/study_real_cord.py --cord CORD --out DIR [--folds 0 1 2] [--step-size 1] [--quick]

Every fold of `real_cord.py` predicts the subject that it never saw, at the source and at five scanners that
`augment.scanner_config` simulates on the real volume: contrast, noise and shading are a scanner's, resolution is taken
away, the grid stays. Three subjects give wide intervals. `--quick`: one fold, two scanners. Last line: the summary.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.study.analysis import analyse
from nnunet_spine_ext.study.records import CASE_COLUMNS, GAP_COLUMNS, write_rows
from nnunet_spine_ext.study.run import study

NAME = "Dataset900_Cord"
MODEL = "nnUNetTrainerSpine__spineCpu__3d_fullres"
STRATEGIES = ("none", "match", "tta", "match+tta")


def left_out(cord: Path, fold: int, folder: Path) -> Path:
    """Copy the case that a fold left out into a dataset of its own."""
    raw = cord / "raw" / NAME
    (case,) = read_json(cord / "preprocessed" / NAME / "splits_final.json")[fold]["val"]
    for kind, ending in (("images", "_0000"), ("labels", "")):
        (folder / f"{kind}Ts").mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / f"{kind}Tr" / f"{case}{ending}.nii.gz", folder / f"{kind}Ts")
    table = read_json(raw / "cases.json")
    write_json(folder / "cases.json", {**table, "cases": {case: table["cases"][case]}})
    return folder


def run_fold(cord: Path, fold: int, out: Path, *, step_size: float, quick: bool) -> Path:
    """Study the left-out case of a fold with the model of that fold; return the folder."""
    config: dict[str, Any] = {
        "given": {"dataset": str(left_out(cord, fold, out / f"data_{fold}")), "simulate": True},
        "models": {"source": str(cord / "results" / NAME / MODEL)},
        "folds": [str(fold)],
        "strategies": list(STRATEGIES),
        "components": {"single": False, "pairs": False},
        "bootstrap": 100,
        "device": "cpu",
        "step_size": step_size,
    }
    if quick:
        config["scanners"] = ["ge-1.5t", "philips-1.5t"]
    file = out / f"fold_{fold}.yaml"
    file.write_text(yaml.safe_dump(config))
    folder = out / f"fold_{fold}"
    study(file, folder, resume=True)
    return folder


def joined(folders: list[Path], out: Path) -> Path:
    """Put the rows of all folds into one folder, which can be analysed as one study."""
    out.mkdir(parents=True, exist_ok=True)
    for name, columns in (("cases.csv", CASE_COLUMNS), ("gaps.csv", GAP_COLUMNS)):
        rows: list[dict[str, str]] = []
        for folder in folders:
            with (folder / name).open(newline="") as stream:
                rows += list(csv.DictReader(stream))
        write_rows(out / name, columns, rows)
    write_json(out / "study.json", read_json(folders[0] / "study.json"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cord", type=Path, required=True, help="output of real_cord.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step-size", type=float, default=0.5, help="of the sliding window, in windows (nnU-Net: 0.5)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", type=Path, help="also write the summary to this JSON file")
    arguments = parser.parse_args()
    cord, out = arguments.cord.resolve(), arguments.out.resolve()
    if not (cord / "results" / NAME / MODEL).is_dir():
        sys.exit(f"no cord model in {cord}: run benchmarks/real_cord.py --out {cord} first")
    out.mkdir(parents=True, exist_ok=True)
    folds = arguments.folds[:1] if arguments.quick else arguments.folds
    folders = [run_fold(cord, fold, out, step_size=arguments.step_size, quick=arguments.quick) for fold in folds]
    found = analyse(joined(folders, out / "all"))
    print(found.render())
    summary = {
        "folds": folds,
        "quick": arguments.quick,
        "step_size": arguments.step_size,
        "void": found.void,
        **_dice(out / "all"),
    }
    if arguments.record:
        write_json(arguments.record, summary)
    print(json.dumps(summary))


def _dice(folder: Path) -> dict[str, Any]:
    """Return the mean Dice of every strategy by scanner."""
    with (folder / "cases.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["factor"] == "scanner"]
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault(row["strategy"], {}).setdefault(row["scanner"], []).append(float(row["dice"]))
    means = {name: {s: round(sum(v) / len(v), 4) for s, v in found.items()} for name, found in values.items()}
    return {"dice": means}


if __name__ == "__main__":
    main()
