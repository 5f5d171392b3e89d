"""Real T2w volumes, real cord masks: train on some subjects, predict the one that was left out.

    python benchmarks/real_cord.py --out DIR [--folds 0 1 2] [--quick]

Everything goes through the commands a user types: convert, plan_and_preprocess, plan, train, predict (stock and ours),
evaluate. Needs the real images that NNUNET_SPINE_TEST_DATA points to. One fold trains for about 25 CPU-minutes;
`--quick` trains one fold for a few minutes only and makes no claim about Dice. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.threads import set_frugal_cpu

DATASET, NAME = 900, f"Dataset{900}_Cord"
LEFT_OUT = ("11", "18", "23")
PLANS = "spineCpu"


def run(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command, return CPU and wall seconds; stop with its last lines if it fails."""
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("a") as stream:
        stream.write(f"\n$ {' '.join(command)}\n")
        stream.flush()
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        print("".join(log.read_text().splitlines(keepends=True)[-15:]))
        sys.exit(f"{command[0]} ended with {code}; see {log}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.time() - start


def set_environment(out: Path) -> None:
    # The commands of this interpreter's environment, whether or not it was activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folders = {f"nnUNet_{n}": str(out / n) for n in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    trainers = subprocess.run(["nnUNetv2_spine_env"], capture_output=True, text=True, check=True).stdout
    path = next(line for line in trainers.splitlines() if line.startswith("export nnUNet_extTrainer="))
    found = subprocess.run(
        ["bash", "-c", f"{path}; echo $nnUNet_extTrainer"], capture_output=True, text=True, check=True
    )
    os.environ.update(folders | {"nnUNet_extTrainer": found.stdout.strip(), "nnUNet_def_n_proc": "1"})
    set_frugal_cpu(os.environ)


def convert_and_plan(data: Path, log: Path, settings: list[str]) -> None:
    errsm, testing = data / "sct-errsm", data / "sct-testing"
    run(
        [
            "nnUNetv2_spine_convert", "pairs", str(DATASET), "--name", "Cord", "--overwrite", "--contrast", "T2w",
            "--images", f"{errsm}/errsm_[12][138]/t2/t2.nii.gz", f"{testing}/t2/t2.nii.gz{{subject=errsm_30}}",
            "--labels", f"{errsm}/errsm_[12][138]/t2/t2_manual_segmentation.nii.gz",
            f"{testing}/t2/t2_seg-manual.nii.gz",
            "--label-map", "cord=1", "--train-only", "errsm_30", "--folds", "3",
        ],
        log,
    )  # fmt: skip
    run(["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "3d_fullres", "-np", "1", "-npfp", "1"], log)
    command = ["nnUNetv2_spine_plan", "-d", str(DATASET), "--name", PLANS, "--preset", "cpu", "--overwrite"]
    run([*command, *(f"--set={s}" for s in settings)], log)


def left_out_case(fold: int) -> str:
    split = read_json(Path(os.environ["nnUNet_preprocessed"]) / NAME / "splits_final.json")[fold]
    (case,) = split["val"]
    return str(case)


def label_border(mask: np.ndarray) -> np.ndarray:
    """Voxels whose neighbourhood holds both classes."""
    return binary_dilation(mask > 0) & binary_dilation(mask == 0)


def compare(stock: Path, ours: Path) -> dict[str, Any]:
    """Count voxels that differ, and those of them away from label borders and from the edges of the volume."""
    a, b = read_volume(stock), read_volume(ours)
    different = a.array != b.array
    inside = np.zeros(a.shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return {
        "different_voxels": int(different.sum()),
        "share": float(different.mean()),
        "away_from_borders_and_edges": int((different & ~label_border(a.array) & inside).sum()),
        "corner_error_mm": a.corner_error(b),
    }


def predict_and_compare(fold: int, out: Path, log: Path) -> dict[str, Any]:
    case = left_out_case(fold)
    raw = Path(os.environ["nnUNet_raw"]) / NAME
    source, reference = out / f"in_{fold}", out / f"ref_{fold}"
    for folder, file in (
        (source, raw / "imagesTr" / f"{case}_0000.nii.gz"),
        (reference, raw / "labelsTr" / f"{case}.nii.gz"),
    ):
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    model = [
        "-d",
        str(DATASET),
        "-c",
        "3d_fullres",
        "-tr",
        "nnUNetTrainerSpine",
        "-p",
        PLANS,
        "-f",
        str(fold),
        "-device",
        "cpu",
    ]
    timings = {}
    folders = {kind: out / f"{kind}_{fold}" for kind in ("stock", "half", "single")}
    timings["stock"] = run(
        ["nnUNetv2_predict", "-i", str(source), "-o", str(folders["stock"]), *model, "-npp", "0", "-nps", "0"], log
    )
    for kind in ("half", "single"):
        command = ["nnUNetv2_spine_predict", "-i", str(source), "-o", str(folders[kind]), *model, "--accumulate", kind]
        timings[kind] = run(command, log)
    row: dict[str, Any] = {"case": case, "predict_cpu_s": {k: round(v[0], 1) for k, v in timings.items()}}
    for kind, folder in folders.items():
        scores = out / f"scores_{kind}_{fold}"
        run(
            [
                "nnUNetv2_spine_evaluate",
                "-ref",
                str(reference),
                "-pred",
                str(folder),
                "-o",
                str(scores),
                "--metrics",
                "dice",
                "assd",
            ],
            log,
        )
        row[f"dice_{kind}"] = value_of(scores / "metrics.csv", "dice")
        row[f"assd_mm_{kind}"] = value_of(scores / "metrics.csv", "assd")
    for kind in ("half", "single"):
        row[f"{kind}_against_stock"] = compare(folders["stock"] / f"{case}.nii.gz", folders[kind] / f"{case}.nii.gz")
    return row


def value_of(table: Path, metric: str) -> float:
    import csv

    with table.open() as stream:
        values = [float(row["value"]) for row in csv.DictReader(stream) if row["metric"] == metric]
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--record", type=Path, help="also write the summary to this JSON file")
    arguments = parser.parse_args()
    data = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if not data:
        sys.exit("set NNUNET_SPINE_TEST_DATA to the folder of real images")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    settings, folds = arguments.settings, arguments.folds
    if arguments.quick:
        settings, folds = [*settings, "train.num_epochs=3", "train.num_iterations_per_epoch=40"], folds[:1]
    set_environment(out)
    convert_and_plan(Path(data), log, settings)
    rows = []
    for fold in folds:
        # The single-threaded loader is for training only: planning refuses it.
        os.environ["nnUNet_n_proc_DA"] = "0"
        command = ["nnUNetv2_train", str(DATASET), "3d_fullres", str(fold), "-tr", "nnUNetTrainerSpine", "-p", PLANS]
        cpu, wall = run([*command, "-device", "cpu"], log)
        del os.environ["nnUNet_n_proc_DA"]
        row = {"fold": fold, "train_cpu_min": round(cpu / 60, 2), "train_wall_min": round(wall / 60, 2)}
        rows.append(row | predict_and_compare(fold, out, log))
        print(json.dumps(rows[-1]), flush=True)
    summary = {
        "folds": len(rows),
        "quick": arguments.quick,
        "mean_dice_stock": round(float(np.mean([r["dice_stock"] for r in rows])), 4),
        "mean_dice_ours": round(float(np.mean([r["dice_single"] for r in rows])), 4),
        "max_train_cpu_min": max(r["train_cpu_min"] for r in rows),
        "half_different_voxels": sum(r["half_against_stock"]["different_voxels"] for r in rows),
        "single_different_share_max": max(r["single_against_stock"]["share"] for r in rows),
    }
    if arguments.record:
        write_json(arguments.record, {"summary": summary, "rows": rows})
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
