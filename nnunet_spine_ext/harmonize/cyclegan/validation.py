"""What the log says of slices that are never trained on; nothing is chosen by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.harmonize.cyclegan.data import TrainingSlices, spread_over
from nnunet_spine_ext.harmonize.cyclegan.networks import HarmonizerNetworks, to_grey, to_unit
from nnunet_spine_ext.harmonize.cyclegan.regions import region_features
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.slice_set import DISC, UNKNOWN

if TYPE_CHECKING:
    from nnunet_spine_ext.harmonize.cyclegan.training import Goal

VALIDATED = ("validated_radiomics", "validated_unharmonized", "validated_cycle", "validated_dice")
"""Mean relative error of the five features of harmonized slices, and of the same as they were; mean absolute difference
of source slices after the way there and back, in grey levels; mean Dice of the target's segmenter on harmonized slices
whose discs are known."""

_BATCH = 4


@torch.no_grad()
def validate(
    networks: HarmonizerNetworks, slices: TrainingSlices, goal: Goal, settings: CycleGanSettings, device: torch.device
) -> dict[str, float]:
    """Return the numbers of `VALIDATED` over validation slices of the sources; NaN for what cannot be said."""
    networks.eval()
    chosen = spread_over(len(slices.source_validation), settings.validation_slices)
    features, before, cycle, dice = [], [], [], []
    for first in range(0, len(chosen), _BATCH):
        part = chosen[first : first + _BATCH]
        grey = slices.source_validation.tensor(part).to(device)
        fake = networks.to_target(to_unit(grey))
        harmonized = to_grey(fake)
        cycle += (to_grey(networks.to_source(fake)) - grey).abs().flatten(1).mean(1).tolist()
        found = None if goal.segmenter is None else goal.segmenter(harmonized).float()
        if found is not None:
            dice += _dice(found, slices.source_validation.mask_tensor(part).to(device))
        # The same region for both, or the difference would be one of places.
        features.append(region_features(harmonized, found, settings.radiomics))
        before.append(region_features(grey, found, settings.radiomics))
    return {
        "validated_radiomics": _error(torch.cat(features), goal.targets.means),
        "validated_unharmonized": _error(torch.cat(before), goal.targets.means),
        "validated_cycle": float(np.mean(cycle)),
        "validated_dice": float(np.mean(dice)) if dice else float("nan"),
    }


def first_samples(slices: TrainingSlices, most: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return slices of the sources and of the target (N, 1, Y, X), 0 to 255, for pictures, and the sources' vendors."""
    source, target = slices.source_validation, slices.target_validation
    places = spread_over(len(source), most)
    others = np.resize(spread_over(len(target), most), len(places)).tolist()
    return source.tensor(places), target.tensor(others), [source.facts[k].vendor for k in places]


def _error(features: Tensor, targets: tuple[float, ...]) -> float:
    """Return the mean, over features, of the relative distance of the mean over slices from the target."""
    wanted = torch.tensor(targets, dtype=torch.float64)
    means = torch.nanmean(features.double().cpu(), 0)
    return float(((means - wanted) / wanted).abs().mean())


def _dice(found: Tensor, masks: Tensor) -> list[float]:
    scores = []
    for probability, mask in zip(found, masks, strict=True):
        known, disc = mask != UNKNOWN, mask == DISC
        if disc.any():
            ours = (probability > 0.5) & known
            scores.append(float(2 * (ours & disc).sum() / (ours.sum() + disc.sum())))
    return scores
