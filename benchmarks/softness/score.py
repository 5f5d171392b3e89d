"""Predict with one trained model and measure: python -m softness.score SPEC.json.

Models answer through `SpinePredictor`, as for a user: soft ones with a soft map, `hard_all` with a mask. Nothing is
thresholded before an area is measured; far from the structure soft maps are 0, and measured without that as well
(`everywhere`). Both maps of linear outputs are measured, clamped and divided by their maximum;
which one counts is chosen on the validation subjects, by their soft ground truth (`summary.py`).
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.activation import Activation
from nnunet_spine_ext.inference.export import soft_answer
from nnunet_spine_ext.inference.managers import segmentation_volume, volume_like_image
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.support import support_mm
from softness.measures import agreement, areas, mean_area, rows_between, slice_axis, true_area

FLOOR = 0.5


class Model:
    """One trained model; `answer` gives its mask and its maps by name."""

    def __init__(self, folder: Path, fold: int, *, step: float = 0.5, device: str = "cpu") -> None:
        self.predictor = SpinePredictor(device=torch.device(device), step_size=step, tta="none", progress=False)
        with contextlib.redirect_stdout(io.StringIO()):
            self.predictor.initialize_from_trained_model_folder(folder, [fold])

    @torch.inference_mode()
    def answer(self, image: Path, *, crop: str = "auto") -> tuple[Volume, dict[str, Volume], dict[str, float]]:
        """Return the mask at 0.5, the maps on the grid of the image, and seconds of the processor by step."""
        predictor: Any = self.predictor
        predictor.crop = crop
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.process_time()
            data, properties = predictor.prepare([image])
            prepared = time.process_time()
            logits = predictor.predict_logits_from_preprocessed_data(data).cpu().numpy()
            predicted = time.process_time()
            mask, maps = self._exported(logits, properties)
        seconds = {
            "prepare": prepared - start, "network": predicted - prepared, "export": time.process_time() - predicted,
        }  # fmt: skip
        return mask, maps, {k: round(v, 3) for k, v in seconds.items()}

    def _exported(self, logits: np.ndarray, properties: dict[str, Any]) -> tuple[Volume, dict[str, Volume]]:
        predictor: Any = self.predictor
        managers = predictor.plans_manager, predictor.configuration_manager
        own = predictor.activation
        if own is None:
            segmentation, probability = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, *managers, predictor.label_manager, properties, return_probabilities=True, num_threads_torch=1
            )
            mask = segmentation_volume(segmentation, properties)
            return mask, {"mask": mask, "probability": volume_like_image(probability[1], properties)}
        reach = support_mm(predictor.plans_manager.plans)
        answer = soft_answer(logits, own, *managers, properties, support=reach)
        everywhere = soft_answer(logits, own, *managers, properties)
        maps = {own.kind: answer.soft[0], "everywhere": everywhere.soft[0], "mask": answer.mask}
        if own.kind == "sigmoid":
            return answer.mask, maps
        others = Activation("norm_relu", FLOOR) if own.kind == "clamp" else Activation("clamp")
        other = soft_answer(logits, others, *managers, properties, support=reach)
        return answer.mask, {**maps, others.kind: other.soft[0]}


def score_case(model: Model, name: str, file: Path, *, timed: bool = False) -> dict[str, Any]:
    """Return everything measured on one case of a test set; `file` is its JSON."""
    facts = read_json(file)
    image = file.with_suffix(".nii.gz")
    cord = read_volume(image.with_name(f"{file.stem}_cord.nii.gz"))
    mask, maps, seconds = model.answer(image)
    row: dict[str, Any] = {"set": name, "case": file.stem, "subject": facts["subject"], "contrast": facts["contrast"]}
    truth = cord.array >= 0.5
    found = mask.array == 1
    row |= {"above": int(found.sum()), "seconds": seconds, **agreement(truth, found, cord.spacing)}
    if timed:
        row["seconds_whole"] = model.answer(image, crop="off")[2]
    rows = rows_between(facts["slices"], name)
    if not rows:
        return row
    chosen = [int(r["slice"]) for r in rows]
    row["truth"] = round(true_area(cord, rows), 4)
    row["areas"] = {key: areas(volume, chosen) for key, volume in maps.items()}
    soft = image.with_name(f"{file.stem}_soft.nii.gz")
    if soft.exists():
        row["reference"] = areas(read_volume(soft), chosen)
    return row


def score_real(model: Model, group: dict[str, Any]) -> dict[str, Any]:
    """Return areas of every image of a group over the heights (mm) that all of them share, and Dice with masks."""
    found: dict[str, Any] = {"group": group["name"], "note": group["note"], "contrasts": {}}
    images = {c: read_volume(Path(files["image"])) for c, files in group["images"].items()}
    low, high = common_heights(list(images.values()))
    for contrast, files in group["images"].items():
        mask, maps, _ = model.answer(Path(files["image"]))
        chosen = slices_between(images[contrast], low, high)
        row: dict[str, Any] = {
            "areas": {key: areas(volume, chosen) for key, volume in maps.items()},
            "slices": len(chosen),
        }
        if files.get("mask"):
            manual = read_volume(Path(files["mask"]))
            manual = images[contrast].with_array(
                (manual.to_affine(images[contrast].affine).array > 0.5).astype(np.uint8)
            )
            row |= agreement(manual.array > 0, mask.array == 1, manual.spacing)
            row["manual"] = round(mean_area(manual, chosen, "sct"), 4)
        found["contrasts"][contrast] = row
    return found


def common_heights(volumes: list[Volume]) -> tuple[float, float]:
    """Return the heights (mm, upwards) between which all volumes have slices, in the middle of the image plane."""
    lows, highs = [], []
    for volume in volumes:
        heights = _heights(volume)
        lows.append(heights.min())
        highs.append(heights.max())
    return float(max(lows)), float(min(highs))


def slices_between(volume: Volume, low: float, high: float) -> list[int]:
    """Return the slices whose middle lies between two heights."""
    heights = _heights(volume)
    return np.flatnonzero((heights >= low - 1e-3) & (heights <= high + 1e-3)).tolist()


def _heights(volume: Volume) -> np.ndarray:
    axis = slice_axis(volume)
    index = np.tile((np.asarray(volume.shape) - 1) / 2, (volume.shape[axis], 1))
    index[:, axis] = np.arange(volume.shape[axis])
    return volume.world(index)[:, 2]


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    model = Model(Path(spec["model"]), spec["fold"], step=spec["step"], device=spec["device"])
    rows, timed = [], set()
    for name, cases in spec["sets"].items():
        for case in cases:
            contrast = read_json(Path(case))["contrast"]
            # The first volume of a kind is also done without crop mode, for the table of times.
            fresh = name == "six" and contrast not in timed
            timed |= {contrast} if fresh else set()
            rows.append(score_case(model, name, Path(case), timed=fresh))
    real = [score_real(model, group) for group in spec["real"]]
    write_json(Path(spec["scores"]), {"rows": rows, "real": real}, indent=None)


if __name__ == "__main__":
    main()
