"""How long does prediction of soft maps take on a CPU, and what do crop mode and bfloat16 change in the answer?

    python benchmarks/soft_prediction.py --out bench/soft_prediction [--quick] [--model FOLDER]

Two volumes, noise with a bright curved cord: 64 x 192 x 320 mm, which is one window, and the grid of a sagittal T2w
volume of the neck, 384 x 216 x 52 voxels of 1 mm stored PSR. The network has nnU-Net's architecture with five stages of
32 to 320 features and a patch of 64 x 192 x 320; its weights are set by hand so that the cord is found
(`tests/soft_model.py`), which takes the time of any weights. `--model` takes a trained soft model and `--image` a
volume instead of the sagittal one. `--quick` has a small network. Stock is nnU-Net's own predictor in its defaults
(mirrored, no crop), on the same weights. CPU seconds of all threads count; wall-clock times mean little on a busy
machine. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from model_builder import CORD, make_dataset_json, make_plans
from soft_model import let_intensities_through, set_background

from nnunet_spine_ext.core.io import read_json, read_volume, write_json, write_volume
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.building import find_trainer
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.networks.precision import has_bf16

# Voxels of 1 mm along S, A, R, as nnU-Net orders them.
PATCH, FEATURES = (320, 192, 64), (32, 64, 128, 256, 320)
QUICK_PATCH, QUICK_FEATURES = (96, 64, 32), (4, 4, 8, 8, 8)
WINDOW_GOAL_S, RATIO_GOAL = 30.0, 20.0
# Seconds on two idle cores are CPU seconds / 2; PyTorch's convolutions divide that well.
CORES = 2
ARMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bf16": {"precision": "bf16"},
    "not_mirrored": {"tta": "none"},
    "not_mirrored_bf16": {"tta": "none", "precision": "bf16"},
    "crop_not_mirrored_bf16": {"tta": "none", "precision": "bf16", "crop": "on"},
}


def make_model(folder: Path, patch: tuple[int, ...], features: tuple[int, ...]) -> Path:
    """Write a soft model of nnU-Net's architecture whose weights let intensities through; return its folder."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = make_plans(patch=patch)
    stages = len(features)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(features),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    plans["spine_ext"] = {"predict": {}, "soft": {"output": "linear"}, "data": {}}
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    let_intensities_through(weights, [8.0], "linear")
    set_background(weights, "linear")
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainerSpine",
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", make_dataset_json(CORD, []))
    return folder


def cord_volume(shape: tuple[int, ...], orientation: str) -> Volume:
    """Return noise with a bright cord along S that bends forwards and back; `shape` is along R, A, S."""
    x, y, z = np.indices(shape, dtype=np.float32)
    bend = shape[1] * (0.45 + 0.08 * np.sin(2 * np.pi * z / shape[2]))
    radius = np.hypot((x - shape[0] / 2) / 1.2, y - bend)
    cord = np.clip(5.5 - radius, 0, 1)
    image = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32) + 900 * cord
    return Volume(image.astype(np.int16), np.eye(4)).to(orientation)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, round(time.process_time() - cpu, 1), round(time.perf_counter() - wall, 1)


def stock(model: Path, image: Path, out: Path) -> tuple[Array, dict[str, Any]]:
    """Predict with nnU-Net's own predictor in its defaults; return the mask and figures."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    find_trainer("nnUNetTrainerSpine")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",), "checkpoint_final.pth")
    passes = count_passes(predictor.network)
    out.mkdir(parents=True, exist_ok=True)
    work = lambda: predictor.predict_from_files_sequential([[str(image)]], [str(out / "stock")])  # noqa: E731
    _, cpu, wall = timed(work)
    return read_volume(out / "stock.nii.gz").array, {"cpu_s": cpu, "wall_s": wall, "passes": len(passes)}


def ours(model: Path, image: Path, options: dict[str, Any]) -> tuple[Array, Array, dict[str, Any]]:
    """Predict with our predictor; return mask, soft map and figures."""
    predictor = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    predictor.initialize_from_trained_model_folder(model, ("0",))
    passes = count_passes(predictor.network)
    answer, cpu, wall = timed(lambda: predictor.soft(*predictor.prepare([image])))
    figures = {"cpu_s": cpu, "wall_s": wall, "passes": len(passes)}
    return answer.mask.array, answer.soft[0].array, figures


def count_passes(network: torch.nn.Module) -> list[int]:
    passes: list[int] = []
    network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def compare(mask: Array, soft: Array, reference: Array, reference_soft: Array | None) -> dict[str, Any]:
    """Return differences to a stock mask, and to the soft map of our own single-precision answer."""
    both = 2.0 * np.count_nonzero(mask & reference) / max(1, np.count_nonzero(mask) + np.count_nonzero(reference))
    figures = {"voxels": int(reference.sum()), "differing": int((mask != reference).sum()), "dice": round(both, 5)}
    if reference_soft is not None:
        figures |= {
            "soft_largest_difference": round(float(np.abs(soft - reference_soft).max()), 5),
            "soft_volume_percent": round(100 * float(soft.sum() / reference_soft.sum() - 1), 4),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--quick", action="store_true", help="a small network, half the voxels along each axis: a test of this script"
    )
    parser.add_argument("--model", type=Path, help="folder of a trained soft model, with one class")
    parser.add_argument("--image", type=Path, help="volume to predict instead of the synthetic sagittal one")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--no-stock", action="store_true", help="leave stock prediction, the longest part, out")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    patch, features = (QUICK_PATCH, QUICK_FEATURES) if arguments.quick else (PATCH, FEATURES)
    model = arguments.model or make_model(out / "model", patch, features)
    window, sagittal = out / "window.nii.gz", arguments.image or out / "sagittal.nii.gz"
    half = (lambda shape: tuple(n // 2 for n in shape)) if arguments.quick else tuple
    write_volume(cord_volume(half((64, 192, 320)), "RAS"), window)
    if not arguments.image:
        write_volume(cord_volume(half((52, 384, 216)), "PSR"), sagittal)
    names = [name for name in arguments.arms if ARMS[name].get("precision") != "bf16" or has_bf16(torch.device("cpu"))]
    results: dict[str, Any] = {"one_window": {}, "sagittal": {}}
    for name in names:
        if "crop" not in ARMS[name]:
            *_, results["one_window"][name] = ours(model, window, ARMS[name])
            print("one window", name, results["one_window"][name], flush=True)
    # The first arm is in single precision: the others are compared with its soft map.
    reference_soft: Array | None = None
    masks: dict[str, tuple[Array, Array]] = {}
    for name in names:
        mask, soft, results["sagittal"][name] = ours(model, sagittal, ARMS[name])
        masks[name] = (mask, soft)
        reference_soft = soft if reference_soft is None else reference_soft
        print("sagittal", name, results["sagittal"][name], flush=True)
    if arguments.no_stock:
        reference = masks[names[0]][0]
    else:
        reference, results["sagittal"]["stock"] = stock(model, sagittal, out)
        print("sagittal stock", results["sagittal"]["stock"], flush=True)
    for name, (mask, soft) in masks.items():
        results["sagittal"][name] |= compare(mask, soft, reference, reference_soft)
    summary = summarise(results, patch, features, model, out)
    if arguments.record:
        write_json(arguments.record, summary)
    print(json.dumps(summary))


def summarise(
    results: dict[str, Any], patch: tuple[int, ...], features: tuple[int, ...], model: Path, out: Path
) -> dict[str, Any]:
    """Return all figures with the goals and whether they are reached."""
    stock_cpu = results["sagittal"].get("stock", {}).get("cpu_s")
    if stock_cpu:
        for name, row in results["sagittal"].items():
            if name != "stock":
                row["times_faster"] = round(stock_cpu / row["cpu_s"], 1)
    single = results["one_window"].get("not_mirrored", {}).get("cpu_s")
    fastest = max((row.get("times_faster", 0) for row in results["sagittal"].values()), default=0)
    return {
        "patch_and_features": [patch, features]
        if model == out / "model"
        else read_json(model / "plans.json")["plans_name"],
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
        **results,
        "one_window_goal": f"{WINDOW_GOAL_S:.0f} s on {CORES} idle cores, not mirrored, fp32",
        "one_window_s": None if single is None else round(single / CORES, 1),
        "one_window_reached": single is not None and single / CORES <= WINDOW_GOAL_S,
        "ratio_goal": f"{RATIO_GOAL:.0f} times as fast as stock",
        "ratio": fastest,
        "ratio_reached": fastest >= RATIO_GOAL,
        "ratio_of_defaults_reached": results["sagittal"].get("defaults", {}).get("times_faster", 0) >= RATIO_GOAL,
    }


if __name__ == "__main__":
    main()
