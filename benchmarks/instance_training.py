"""Is an instance network that was trained on a CPU better than none, where posterior elements have grown together?

    python benchmarks/instance_training.py --out bench/instance_training [--quick] [--record FILE] [--preset cpu]

Trains an instance network on digital spines (fold 0 of 5, see `instance_training_data.py`), and separates spines that
it never saw, clean and with fused facets: with the network, without (`free`), and with true answers on the network's
grid in place of the network (`perfect`: what its coarse voxels and the fusion allow). Panoptic quality of the
vertebrae (IoU above 0.5), and the share of the voxels of articular processes that went to the right vertebra. What is
finished in --out is kept: a run that was stopped goes on. `--quick` trains for two short epochs, which shows that it
runs and nothing else. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from instance_training_data import FIRST_TEST, KINDS, SPACING, spine_masks, write_training_data

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.io import read_json, sha256, write_json
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances.cutout_inference import InferenceOptions
from nnunet_spine_ext.instances.cutout_network import CutoutAnswer
from nnunet_spine_ext.instances.cutouts import Cutout, CutoutSpec, ModelGrid
from nnunet_spine_ext.instances.interface import separate
from nnunet_spine_ext.instances.model import load_instance_model
from nnunet_spine_ext.instances.training.fusion import panoptic_quality, vertebrae_of
from nnunet_spine_ext.instances.training.grids import grid_case
from nnunet_spine_ext.instances.training.run import train_instances

# Most steps of the preset cpu see narrow windows, as the fast mode does; votes count by their probability.
PREDICTION = InferenceOptions(device="cpu", mode="fast", soft=True)
ARMS = ("network", "free", "perfect")
GOAL_CPU_MINUTES = 40.0
QUICK = ("epochs=2", "cutouts_per_epoch=4", "validation_cutouts=2", "fusion_cases=0")


class Perfect:
    """The true vertebrae on the grid of a network, in its place."""

    def __init__(self, spec: CutoutSpec, semantic: Volume, truth: np.ndarray[Any, Any]) -> None:
        self.spec = spec
        self._vertebrae = grid_case("truth", semantic, truth, spec).vertebrae

    def predict(self, grid: ModelGrid, cutouts: Sequence[Cutout]) -> list[CutoutAnswer]:
        """Answer with the vertebra at the middle of each cutout and its neighbours."""
        answers = []
        for cutout in cutouts:
            box = cutout.inside(grid)
            middle = tuple(first + n // 2 for first, n in zip(cutout.start, cutout.size, strict=True))
            centre = int(self._vertebrae[middle])
            away = self._vertebrae[box].astype(int) - centre
            labels = np.where((self._vertebrae[box] > 0) & (abs(away) < 2) & (centre > 0), away + 2, 0)
            answers.append(CutoutAnswer(box, labels.astype(np.uint8)))
        return answers


def test_spine(seed: int, kind: str, predictor: Any) -> dict[str, Any]:
    """Separate one spine with both arms; return their scores and CPU seconds."""
    semantic, instances = spine_masks(seed, kind)
    truth = vertebrae_of(instances.array, semantic.array)
    facets = (semantic.array >= 6) & (semantic.array <= 9) & (truth > 0)
    row: dict[str, Any] = {}
    perfect = Perfect(predictor.spec, semantic, truth)
    for arm, used in zip(ARMS, (predictor, None, perfect), strict=True):
        start = time.process_time()
        result = separate(semantic, "nnunet14", predictor=used)
        seconds = time.process_time() - start
        found = vertebrae_of(result.instances.array, semantic.array)
        scores = panoptic_quality(found, truth)
        row[arm] = {
            **{key: round(value, 4) for key, value in scores.items()},
            "facets": round(_right(found, truth, facets), 4),
            "voxels": round(_right(found, truth, truth > 0), 4),
            "cpu_seconds": round(seconds, 2),
            "warnings": [problem.code for problem in result.warnings],
        }
    return row


def _right(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], where: np.ndarray[Any, Any]) -> float:
    """Share of voxels whose vertebra is the one that most voxels of their true vertebra went to, one to one."""
    width = int(found.max()) + 1
    table = np.bincount(truth.reshape(-1).astype(np.intp) * width + found.reshape(-1))
    table = np.pad(table, (0, -len(table) % width)).reshape(-1, width)
    table[:, 0] = 0
    partner = table.argmax(axis=1)
    # A vertebra that was merged into a neighbour has lost: the larger one keeps the number.
    for number in np.unique(partner[1:]):
        rivals = np.flatnonzero(partner == number)
        partner[rivals[rivals != rivals[table[rivals, number].argmax()]]] = -1
    return float((found[where] == partner[truth[where]]).mean())


def summary_of(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return means per kind and arm, with the smallest panoptic quality."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind in KINDS:
        chosen = [row for name, row in rows.items() if name.startswith(f"{kind}/")]
        if chosen:
            table[kind] = {
                arm: {
                    **{
                        key: round(float(np.mean([row[arm][key] for row in chosen])), 4)
                        for key in ("pq", "rq", "sq", "facets", "voxels", "cpu_seconds")
                    },
                    "pq_min": round(min(row[arm]["pq"] for row in chosen), 4),
                    "spines": len(chosen),
                }
                for arm in ARMS
            }
    return table


def run(out: Path, preset: str, assignments: Sequence[str], spines: int, tests: int) -> dict[str, Any]:
    """Train, test, return everything that was measured."""
    folder = write_training_data(out / "nnUNet_raw", spines)
    os.environ.setdefault("nnUNet_preprocessed", str(out / "nnUNet_preprocessed"))
    model = out / "model"
    trained = train_instances(folder, o=model, preset=preset, assignments=assignments, device="cpu", resume=True)
    weights = sha256(model / "fold_0.safetensors")
    predictor = load_instance_model(model, PREDICTION)
    rows: dict[str, dict[str, Any]] = {}
    for k in range(tests):
        for kind in KINDS:
            path = out / "tests" / f"{kind}_{k}.json"
            known = read_json(path) if path.is_file() else {}
            if (known.get("weights"), known.get("prediction")) != (weights, asdict(PREDICTION)) or not set(ARMS) <= set(
                known
            ):
                known = {
                    "weights": weights,
                    "prediction": asdict(PREDICTION),
                    **test_spine(FIRST_TEST + k, kind, predictor),
                }
                write_json(path, known)
            rows[f"{kind}/{k}"] = {arm: known[arm] for arm in ARMS}
            logging.info("%s %d: PQ %s", kind, k, {arm: known[arm]["pq"] for arm in ARMS})
    return {
        "command": f"python benchmarks/instance_training.py --preset {preset}",
        "settings": list(assignments),
        "versions": {"nnunet_spine_ext": __version__, "torch": torch.__version__, "machine": platform.machine()},
        "prediction": asdict(PREDICTION),
        "spacing_mm": list(SPACING),
        "training_spines": spines,
        "training": trained.folds["0"],
        "log": (model / "training/fold_0/log.csv").read_text().splitlines(),
        "means": summary_of(rows),
        "spines": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, model and instance_training.json")
    parser.add_argument("--preset", default="cpu", help="of nnUNetv2_spine_train_instances (default: cpu)")
    parser.add_argument("--set", dest="assignments", nargs="+", default=[], metavar="KEY=VALUE", help="its settings")
    parser.add_argument("--spines", type=int, default=45, help="for training and validation (default: 45)")
    parser.add_argument("--tests", type=int, default=6, help="spines of each kind (default: 6)")
    parser.add_argument("--quick", action="store_true", help="two short epochs, five spines, one test")
    parser.add_argument("--record", type=Path, help="write the result to this file too")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    assignments, spines, tests = [*arguments.assignments], arguments.spines, arguments.tests
    if arguments.quick:
        assignments, spines, tests = [*QUICK, *assignments], 5, 1
    result = run(arguments.out, arguments.preset, assignments, spines, tests)
    write_json(arguments.out / "instance_training.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    minutes = result["training"]["cpu_seconds"] / 60
    print(
        f"{'':12s}{'arm':10s}{'PQ':>8s}{'RQ':>8s}{'SQ':>8s}{'lowest PQ':>11s}{'facets':>8s}{'voxels':>8s}{'CPU s':>8s}"
    )
    for kind, arms in result["means"].items():
        for arm, row in arms.items():
            print(
                f"{kind:12s}{arm:10s}{row['pq']:8.4f}{row['rq']:8.4f}{row['sq']:8.4f}{row['pq_min']:11.4f}"
                f"{row['facets']:8.4f}{row['voxels']:8.4f}{row['cpu_seconds']:8.1f}"
            )
    gains = {kind: round(arms["network"]["pq"] - arms["free"]["pq"], 4) for kind, arms in result["means"].items()}
    summary = {
        "pq": {kind: {arm: row["pq"] for arm, row in arms.items()} for kind, arms in result["means"].items()},
        "gain": gains,
        "network_wins": all(gain > 0 for kind, gain in gains.items() if kind != "clean"),
        "training_cpu_minutes": round(minutes, 1),
        "within_time": minutes <= GOAL_CPU_MINUTES,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
