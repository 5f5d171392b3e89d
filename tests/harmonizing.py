"""Slices, a segmenter and settings for tests of harmonization: small, and without any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.harmonize.cyclegan.data import TrainingSlices, split_slices
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings, read_settings
from nnunet_spine_ext.harmonize.cyclegan.targets import measure_targets
from nnunet_spine_ext.harmonize.cyclegan.training import CycleGanTraining, Goal
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel
from nnunet_spine_ext.harmonize.slice_set import SliceFacts, SliceSet

SIZE = 32


@dataclass(frozen=True)
class BrightDiscs:
    """A segmenter that calls bright pixels discs, with a gradient."""

    name: str = "bright"
    digest: str = "bright"
    spacing: float | None = None
    level: float = 150.0

    def __call__(self, images: Tensor) -> Tensor:
        """Return probabilities (B, 1, Y, X)."""
        return torch.sigmoid((images - self.level) / 8)


def slices(vendor: str, count: int, seed: int = 0, *, gain: float = 1.0, labelled: bool = True) -> SliceSet:
    """Return slices of a column of discs; `gain` is the contrast of the scanner, two slices per subject."""
    rng = np.random.default_rng([seed, count])
    images = rng.normal(60, 12, (count, SIZE, SIZE))
    masks = np.zeros(images.shape, np.uint8)
    for k in range(count):
        top = int(rng.integers(2, 6))
        for row in range(top, SIZE - 4, 8):
            images[k, row : row + 4, 12:20] = 230
            masks[k, row : row + 4, 12:20] = 1
    images = np.clip((images - 128) * gain + 128, 0, 255).astype(np.float32)
    facts = tuple(
        SliceFacts("Dataset900", f"{vendor}_{k // 2}", f"{vendor}_{k // 2}", vendor, k % 2, 0.0, labelled)
        for k in range(count)
    )
    return SliceSet(images, masks if labelled else None, facts, (4.0, 4.0))


def settings(*assignments: str) -> CycleGanSettings:
    """Return settings of a training of seconds."""
    small = ("slices.size=[32,32]", "radiomics.roi=[32,16]", "batch_size=2", "slices_per_epoch=4", "validation=0.25")
    return read_settings("smoke", [*small, *assignments])


def training_slices(chosen: CycleGanSettings) -> TrainingSlices:
    """Return ten target slices of Siemens and ten source slices of GE with less contrast."""
    return split_slices(slices("GE", 10, 1, gain=0.6), slices("Siemens", 10, 2), chosen)


def training(folder: Path, *assignments: str, segmenter: BrightDiscs | None = None) -> CycleGanTraining:
    """Return a training that has not begun."""
    chosen = settings(*assignments)
    parts = training_slices(chosen)
    found = (segmenter or BrightDiscs()) if chosen.weights.segmented else None
    targets = measure_targets(parts.target, found, chosen)
    model = HarmonizerModel("cyclegan", replace(chosen.slices, spacing=4.0), (4.0, 4.0), ("Siemens",), ("GE",))
    model = replace(model, settings={"generator": {"width": 4, "blocks": 1, "residual": chosen.generator.residual}})
    return CycleGanTraining(chosen, parts, Goal(found, targets, model), folder, torch.device("cpu"))
