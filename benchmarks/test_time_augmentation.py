"""What do views of an image give on other scanners, and how many of them does it take?

    python benchmarks/test_time_augmentation.py --out bench/tta [--quick] [--model FOLDER] [--record FILE]

A small model of 14 classes is trained on phantoms of the reference scanner (or `--model` names one), and predicts
phantoms of each scanner profile: without augmentation, mirrored, and with `--tta full`. Views are predicted once and
averaged in several ways: all of them and with the early stop, mean, entropy-weighted and geometric, and without one
kind of view. Dice is the mean over the classes that the truth has; sided Dice that over the six sided ones.

Goals: the early stop saves 40 % of the forward passes and costs no more than 0.001 Dice; sided Dice with mirroring is
not below that without. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generalisation.presets import conditions
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnunet_spine_ext.augment.profiles import REFERENCE
from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.io import read_volume, write_json
from nnunet_spine_ext.core.threads import set_frugal_cpu
from nnunet_spine_ext.inference.managers import segmentation_volume
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.tta import average_views, structure_names, surroundings_of
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.inference.views import Composed, make_views

SCANNERS = (REFERENCE, "philips-3t", "ge-3t", "siemens-1.5t", "ge-1.5t", "philips-1.5t")
SAVED, COST = 0.40, 0.001
SIDED = (4, 5, 6, 7, 8, 9)
WAYS = {
    "full": ViewSettings(stop=False),
    "full, early stop": ViewSettings(),
    "full, entropy": ViewSettings(stop=False, aggregate="entropy"),
    "full, geometric": ViewSettings(stop=False, aggregate="geometric"),
    "without intensity": ViewSettings(stop=False, kinds=("mirror", "resolution")),
    "without resolution": ViewSettings(stop=False, kinds=("mirror", "intensity")),
}
_SPACING = ("2", "2", "4")


def run(folder: Path, name: str, *words: object) -> None:
    values = dict(os.environ) | {f"nnUNet_{n}": str(folder / f"nnUNet_{n}") for n in ("raw", "preprocessed", "results")}
    values |= {"nnUNet_extTrainer": str(trainers_folder()), "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    set_frugal_cpu(values)
    command = [str(Path(sys.executable).with_name(name)), *map(str, words)]
    with (folder / "log.txt").open("a") as stream:
        stream.write(f"\n$ {' '.join(command)}\n")
        stream.flush()
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=values, check=False).returncode
    if code:
        sys.exit(f"{name} ended with {code}; see {folder / 'log.txt'}")


# What `--quick` trains with.
QUICK_SPINES, QUICK_EPOCHS = 6, 2


def phantoms(folder: Path, number: int, name: str, count: int, seed: int, scanner: str) -> Path:
    target = folder / "nnUNet_raw" / f"Dataset{number}_{name}"
    if not (target / "dataset.json").exists():
        run(folder, "nnUNetv2_spine_phantom", "-o", folder / "nnUNet_raw", "-d", number, "--name", name, "--n", count,
            "--seed", seed, "--scanner", scanner, "--region", "lumbar", "--healthy", "--spacing", *_SPACING,
            "--folds", max(2, count // 2))  # fmt: skip
    return target


def trained(folder: Path, *, quick: bool, epochs: int | None) -> Path:
    """Train on the reference scanner with the demo's recipe, once; return the model's folder."""
    model = folder / "nnUNet_results/Dataset941_Source/nnUNetTrainerSpine__views__3d_fullres"
    if (model / "fold_0" / "checkpoint_final.pth").exists():
        return model
    phantoms(folder, 941, "Source", QUICK_SPINES if quick else 24, 0, REFERENCE)
    run(folder, "nnUNetv2_plan_and_preprocess", "-d", 941, "-c", "3d_fullres", "-np", 1, "-npfp", 1)
    settings = [f"--set=train.num_epochs={QUICK_EPOCHS if quick else epochs}"] if quick or epochs else []
    run(folder, "nnUNetv2_spine_plan", "-d", 941, "--name", "views", "--preset", "demo", "--overwrite", *settings)
    run(folder, "nnUNetv2_train", 941, "3d_fullres", 0, "-tr", "nnUNetTrainerSpine", "-p", "views", "-device", "cpu")
    return model


class Comparison:
    """Predicts a case in every way and scores it."""

    def __init__(self, model: Path, device: str) -> None:
        options: dict[str, Any] = {"device": torch.device(device), "progress": False, "crop": "off"}
        self.plain, self.mirror = (SpinePredictor(tta=tta, **options) for tta in ("none", "mirror"))
        for predictor in (self.plain, self.mirror):
            predictor.initialize_from_trained_model_folder(model, None)

    def rows(self, image: Path, truth: Path) -> list[dict[str, Any]]:
        labels = read_volume(truth).array
        rows = []
        outputs: dict[str, torch.Tensor] = {}
        for name, predictor in (("none", self.plain), ("mirror", self.mirror)):
            data, properties = predictor.prepare([image])
            start = time.process_time()
            outputs[name] = predictor.predict_logits_from_preprocessed_data(data)
            rows.append({"way": name, "passes": predictor.passes, "cpu_s": time.process_time() - start, "views": 1})
        answers: dict[str, torch.Tensor] = {}
        plain = self.plain
        axes = plain.allowed_mirroring_axes or ()
        around = surroundings_of(plain.plans_manager.plans, plain.configuration_manager, axes)
        passes: dict[str, int] = {}
        seconds: dict[str, float] = {}

        def answer(view: Composed) -> torch.Tensor:
            if view.name not in answers:
                before, start = plain.passes, time.process_time()
                seen = plain.predict_logits_from_preprocessed_data(view.forward(data))
                answers[view.name] = view.backward(seen, data.shape[1:])
                passes[view.name], seconds[view.name] = plain.passes - before, time.process_time() - start
            return answers[view.name].clone()

        names = structure_names(plain.dataset_json, regions=False)
        for name, settings in WAYS.items():
            # Of the same views, so that none is predicted for one way alone.
            views = [
                view
                for view in make_views(ViewSettings(), around)
                if all(part.kind in ("mirror", *settings.kinds) for part in view.parts)
            ]
            made = average_views(answer, views, plain.meaning, settings, structures=names)
            outputs[name] = made.outputs
            rows.append({
                "way": name, "passes": sum(passes[v] for v in made.views), "views": len(made.views),
                "cpu_s": sum(seconds[v] for v in made.views),
            })  # fmt: skip
        for row in rows:
            row |= self._scores(outputs[row["way"]], properties, labels)
        return rows

    def _scores(self, outputs: torch.Tensor, properties: dict[str, Any], truth: np.ndarray) -> dict[str, float]:
        mask = segmentation_volume(
            convert_predicted_logits_to_segmentation_with_correct_shape(
                outputs.numpy(), self.plain.plans_manager, self.plain.configuration_manager, self.plain.label_manager,
                properties, num_threads_torch=1,
            ),
            properties,
        ).array  # fmt: skip
        present = [k for k in range(1, outputs.shape[0]) if (truth == k).any()]
        dice = {k: 2 * ((mask == k) & (truth == k)).sum() / ((mask == k).sum() + (truth == k).sum()) for k in present}
        sided = [dice[k] for k in SIDED if k in dice]
        return {"dice": float(np.mean(list(dice.values()))), "sided": float(np.mean(sided))}


def summarise(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the summary, and a table of Dice per scanner and way."""
    ways = ["none", "mirror", *WAYS]
    scanners = list(dict.fromkeys(row["scanner"] for row in rows))

    def mean(key: str, way: str, scanner: str | None = None) -> float:
        found = [row[key] for row in rows if row["way"] == way and scanner in (None, row["scanner"])]
        return float(np.mean(found))

    lines = ["| scanner | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    lines += [
        f"| {scanner} | " + " | ".join(f"{mean('dice', way, scanner):.4f}" for way in ways) + " |"
        for scanner in scanners
    ]
    for title, key, digits in (
        ("mean", "dice", 4),
        ("sided", "sided", 4),
        ("passes", "passes", 1),
        ("CPU s", "cpu_s", 1),
    ):
        lines.append(f"| {title} | " + " | ".join(f"{mean(key, way):.{digits}f}" for way in ways) + " |")
    saved = 1 - mean("passes", "full, early stop") / mean("passes", "full")
    cost = mean("dice", "full") - mean("dice", "full, early stop")
    sided = mean("sided", "mirror") - mean("sided", "none")
    worst = min(
        np.mean([a["sided"] - b["sided"] for a, b in zip(*(
            [row for row in rows if row["way"] == way and row["scanner"] == scanner] for way in ("mirror", "none")
        ), strict=True)]) for scanner in scanners
    )  # fmt: skip
    summary: dict[str, Any] = {
        "cases": len({(row["scanner"], row["case"]) for row in rows}),
        "dice": {way: round(mean("dice", way), 4) for way in ways},
        "early_stop": {"saved": round(saved, 3), "cost": round(cost, 4),
                       "reached": bool(saved >= SAVED and cost <= COST)},
        "sided_mirror_minus_none": {"mean": round(sided, 4), "worst_scanner": round(float(worst), 4),
                                    "reached": bool(worst >= 0)},
    }  # fmt: skip
    return summary, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--quick", action="store_true",
        help=f"shows that it runs, meant for ten minutes at most: {QUICK_SPINES} spines, {QUICK_EPOCHS} epochs, "
        "two scanners, one test spine each; no claim",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help="a trained model of the scheme nnunet14, instead of training one")
    parser.add_argument("--epochs", type=int, help="of the training (default: the preset's)")
    parser.add_argument("--cases", type=int, default=3, help="test spines per scanner (default: %(default)s)")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    start = time.time()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = arguments.out.resolve() / ("quick" if arguments.quick else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    model = arguments.model or trained(folder, quick=arguments.quick, epochs=arguments.epochs)
    compare = Comparison(model, arguments.device)
    rows: list[dict[str, Any]] = []
    scanners = (SCANNERS[0], SCANNERS[-2]) if arguments.quick else SCANNERS
    for number, scanner in enumerate(scanners):
        name = scanner.replace(".", "").replace("-", "")
        count = 1 if arguments.quick else arguments.cases
        test = phantoms(folder, 950 + number, name, count, 100_000, scanner)
        for mask in sorted((test / "labelsTr").glob("*.nii.gz"))[:count]:
            image = test / "imagesTr" / mask.name.replace(".nii.gz", "_0000.nii.gz")
            rows += [{"scanner": scanner, "case": mask.name, **row} for row in compare.rows(image, mask)]
        print(f"{scanner}: {time.time() - start:.0f} s", flush=True)
    summary, table = summarise(rows)
    print(table)
    result: Mapping[str, Any] = {"summary": summary, "conditions": conditions(arguments, start), "rows": rows}
    write_json(folder / "result.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
