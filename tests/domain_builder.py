"""Preprocessed datasets with domains, and trainers that do not tell them apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import CONFIGURATION, DATASET, make_trainer, save_case

from nnunet_spine_ext.training.dann import nnUNetTrainerSpineDANN, nnUNetTrainerSpineShiftDANN

PLAIN = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 1}
# Two sources' worth of subjects with masks, and a target without.
ROWS = {
    "a_1": ("anna", "Siemens", True),
    "b_1": ("bert", "Siemens", True),
    "c_1": ("cleo", "siemens ", True),
    "p_1": ("paul", "Philips", False),
    "q_1": ("quin", "Philips", False),
}
SPLITS = [{"train": ["b_1", "c_1", "p_1", "q_1"], "val": ["a_1"]}]

Maker = Callable[..., Any]


def case_rows(**changes: Any) -> dict[str, dict[str, Any]]:
    """Return the entries of cases.json; `changes` replace facts by case, None leaves the case out."""
    rows: dict[str, dict[str, Any]] = {
        case: {"subject": subject, "manufacturer": maker, "field_strength": 3.0, "labelled": labelled}
        for case, (subject, maker, labelled) in ROWS.items()
    }
    for case, change in changes.items():
        if change is None:
            del rows[case]
        else:
            rows[case] = rows[case] | change
    return rows


def add_domains(folder: Path, rows: dict[str, dict[str, Any]], splits: list[dict[str, list[str]]]) -> None:
    """Write cases.json and splits, and the unlabelled cases with their masks of the ignore label."""
    (folder / "cases.json").write_text(json.dumps({"version": 1, "cases": rows}))
    (folder / "splits_final.json").write_text(json.dumps(splits))
    data = folder / f"nnUNetPlans_{CONFIGURATION}"
    dataset_json = json.loads((folder / "dataset.json").read_text())
    for number, case in enumerate(("p_1", "q_1")):
        if (data / f"{case}.pkl").exists():
            continue
        # Smaller than the patch: nnU-Net pads, and takes the border for background.
        image = np.random.default_rng(50 + number).normal(size=(1, 10, 18, 18)).astype(np.float32)
        labels = np.full(image.shape, dataset_json["labels"].get("ignore", 0), dtype=np.int16)
        save_case(data / case, image, labels, dataset_json)


def domain_trainer(
    root: Path,
    *,
    kind: type[nnUNetTrainer] = nnUNetTrainerSpineDANN,
    domain: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    rows: dict[str, dict[str, Any]] | None = None,
    splits: list[dict[str, list[str]]] | None = None,
    **kwargs: Any,
) -> Any:
    """Return a trainer on the CPU; tables are written anew with every call."""
    content: dict[str, Any] = {"train": SHORT | (train or {})} | (settings or {})
    if domain is not None:
        content["domain"] = domain
    trainer = make_trainer(kind, root, settings=content, **({"labels": PLAIN} | kwargs))
    add_domains(root / DATASET, rows or case_rows(), splits or SPLITS)
    return trainer


@pytest.fixture
def make(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that builds domain-adversarial trainers on one small dataset."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return lambda **kwargs: domain_trainer(nnunet_folders["nnUNet_preprocessed"], **kwargs)


__all__ = ["Maker", "make", "nnUNetTrainerSpineDANN", "nnUNetTrainerSpineShiftDANN"]
