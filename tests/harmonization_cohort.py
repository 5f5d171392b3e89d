"""A folder as an evaluation of harmonization leaves it, with values that the test chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.study.harmonization.arms import ARMS
from nnunet_spine_ext.study.harmonization.measured import (
    GEOMETRY_COLUMNS,
    RADIOMICS_COLUMNS,
    SEGMENTATION_COLUMNS,
    TRAINING_COLUMNS,
)
from nnunet_spine_ext.study.harmonization.pictures import SHOWN, Shown
from nnunet_spine_ext.study.records import write_rows

VENDORS = {"essenza": "target", "intera": "source", "ingenia": "source", "avanto": "unseen"}
# Soft Dice on vendors other than the target; 0.92 there, so the gap is 0.22.
DICE = {
    "none": 0.70, "zscore": 0.72, "histogram": 0.74, "nyul": 0.75, "cyclegan": 0.80, "sy": 0.81, "no-identity": 0.84,
    "no-harmonization": 0.85, "no-cycle": 0.83, "rf": 0.88, "seg": 0.89, "full": 0.909,
}  # fmt: skip
OWN = 0.92
FEATURES = {"Idmn": 0.96, "Correlation": 0.8, "SumEntropy": 3.0, "DifferenceEntropy": 1.5, "ShortRunEmphasis": 0.7}
ERRORS = {"none": 0.2, "zscore": 0.15, "histogram": 0.1, "nyul": 0.08, "rf": 0.015, "full": 0.01}
PATIENTS, SLICES = 4, 3


def write_evaluation(
    folder: Path, *, dice: Mapping[str, float] = DICE, errors: Mapping[str, float] = ERRORS, shown: bool = True
) -> Path:
    """Write the CSV files, pictures and facts; patients differ by ± 0.01 around the chosen mean."""
    write_rows(folder / "segmentation.csv", SEGMENTATION_COLUMNS, _segmentation(dice))
    write_rows(folder / "radiomics.csv", RADIOMICS_COLUMNS, _radiomics(dice, errors))
    write_rows(folder / "geometry.csv", GEOMETRY_COLUMNS, _geometry(dice))
    trained = {"seed": 0, "kind": "segmenter", "name": "unet", "parameters": 123456, "epochs": 10, "minutes": 1.5}
    write_rows(folder / "trainings.csv", TRAINING_COLUMNS, [trained])
    write_json(folder / "evaluation.json", {"segmenter": "unet", "versions": {"torch": "2"}})
    if shown:
        for arm in dice:
            _shown(arm).save(folder / SHOWN / f"{arm}.npz")
    return folder


def keys(arm: str, vendor: str, patient: int, number: int) -> dict[str, Any]:
    """Return what every row says about its slice."""
    return {
        "seed": 0, "arm": arm, "vendor": vendor, "role": VENDORS[vendor], "case": f"{vendor}{patient}",
        "subject": f"{vendor}-{patient}", "slice": number,
    }  # fmt: skip


def _slices(arms: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for arm in arms:
        for vendor, role in VENDORS.items():
            if role != "target" or arm == "none":
                for patient in range(PATIENTS):
                    yield from (keys(arm, vendor, patient, number) for number in range(SLICES))


def _segmentation(dice: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for row in _slices(dice):
        patient = int(row["subject"][-1])
        value = (OWN if row["role"] == "target" else dice[row["arm"]]) + 0.01 * (patient - 1.5) / 1.5
        for segmenter, loss in (("unet", 0.0), ("small", 0.1)):
            if segmenter == "unet" or row["arm"] == "none":
                yield row | {
                    "segmenter": segmenter, "dice": value - loss, "iou": value / (2 - value), "f1": value,
                    "precision": value, "recall": value, "reference_pixels": 100, "predicted_pixels": 90,
                }  # fmt: skip


def _radiomics(dice: Mapping[str, float], errors: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for row in _slices(dice):
        error = 0.005 if row["role"] == "target" else errors.get(row["arm"], 0.05)
        # As many are above as below: the mean is that of the target.
        sign = -1 if int(row["subject"][-1]) % 2 else 1
        for feature, aim in FEATURES.items():
            yield row | {
                "reference_case": "essenza0", "reference_slice": 0, "feature": feature, "reference": aim,
                "value": aim * (1 + sign * error), "error": error,
            }  # fmt: skip


def _geometry(dice: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for row in _slices(dice):
        if row["arm"] != "none":
            yield row | {"edge_correlation": 0.98, "volume_change": 0.03, "agreement": 0.95, "passed": True, "why": ""}


def _shown(arm: str) -> Shown:
    y, x = np.indices((64, 64))
    masks = np.stack([((y - 12 * k) % 24 < 6) & (abs(x - 32) < 12) for k in range(len(VENDORS))]).astype(np.uint8)
    shade = 10.0 * list(ARMS).index(arm)
    images = np.clip(60 + shade + 80 * masks + 0.5 * x, 0, 255).astype(np.float32)
    found = np.roll(masks, 1 if arm == "full" else 4, axis=1).astype(np.float32)
    return Shown(images, found, masks, tuple(VENDORS), tuple(f"{name}0, slice 0" for name in VENDORS))
