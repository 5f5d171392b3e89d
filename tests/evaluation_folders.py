"""Small folders of references and predictions for the tests of the evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.run import EvaluationResult, evaluate

AFFINE = np.array([[0.0, 0.0, 3.0, 4.0], [-1.0, 0.0, 0.0, 7.0], [0.0, -1.5, 0.0, -2.0], [0.0, 0.0, 0.0, 1.0]])
LABELS = {"background": 0, "cord": 1, "canal": 2, "disc": 3}


def semantic() -> np.ndarray:
    array = np.zeros((14, 12, 6), np.uint8)
    array[1:9, 2:6, 1:4] = 1
    array[1:9, 6:8, 1:4] = 2
    return array


def instances() -> np.ndarray:
    array = np.zeros((14, 12, 6), np.uint16)
    for k, level in enumerate((19, 20)):
        array[7 * k : 7 * k + 4, 2:9, 1:5] = level
        array[7 * k + 4 : 7 * k + 6, 2:9, 1:5] = 100 + level
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    write_volume(Volume(array, affine), path)


class Folders:
    """An evaluation in the making: references, predictions, instances of both, and where the tables go."""

    def __init__(self, base: Path) -> None:
        self.ref, self.pred, self.out = base / "data" / "labelsTs", base / "pred", base / "scores"
        self.ref_instances, self.pred_instances = base / "data" / "instancesTs", self.pred / "instances"
        for folder in (self.ref, self.pred):
            folder.mkdir(parents=True)
        write_json(base / "data" / "dataset.json", {"labels": LABELS})

    def add(self, case: str, ref: np.ndarray, pred: np.ndarray | None, **geometry: Any) -> None:
        save(self.ref / f"{case}.nii.gz", ref)
        if pred is not None:
            save(self.pred / f"{case}.nii.gz", pred, **geometry)

    def add_instances(self, case: str, ref: np.ndarray, pred: np.ndarray | None) -> None:
        self.pred_instances.mkdir(exist_ok=True)
        save(self.ref_instances / f"{case}.nii.gz", ref)
        if pred is not None:
            save(self.pred_instances / f"{case}.nii.gz", pred)

    def run(self, **options: Any) -> EvaluationResult:
        return evaluate(self.ref, self.pred, self.out, **options)

    def values(self) -> dict[tuple[str, str, str], float]:
        with (self.out / "metrics.csv").open(newline="", encoding="utf-8") as stream:
            return {(r["case"], r["label"], r["metric"]): float(r["value"]) for r in csv.DictReader(stream)}

    def summary(self) -> dict[str, Any]:
        def refuse(word: str) -> None:
            pytest.fail(f"{word} is not JSON")

        content = json.loads((self.out / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)
        return dict(content)
