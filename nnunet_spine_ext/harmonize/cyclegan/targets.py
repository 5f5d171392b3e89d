"""What a harmonizer aims at: features, and foreground, of slices of the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.core.errors import NoInputError
from nnunet_spine_ext.harmonize.cyclegan.regions import cut_regions, disc_windows
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.progress import paced
from nnunet_spine_ext.harmonize.radiomics import all_features
from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter
from nnunet_spine_ext.harmonize.selection import SELECTION_FILE, FeatureSelection, save_selection, select_features
from nnunet_spine_ext.harmonize.selection_plots import save_selection_plots
from nnunet_spine_ext.harmonize.slice_set import UNKNOWN, SliceSet
from nnunet_spine_ext.losses.radiomics import FEATURES, radiomic_features
from nnunet_spine_ext.losses.slice_dice import foreground_share

_STREAM = 7
_BATCH = 8


@dataclass(frozen=True)
class Targets:
    """Numbers of the target.

    Parameters
    ----------
    means, spreads: of the five features `losses.radiomics.FEATURES`, in that order; spreads with n - 1.
    foreground: mean share of the pixels that are disc; 0 without a segmenter.
    selection: which of all features hardly differ between slices of the target.
    centred: slices whose region is in the middle because no disc was found.
    measured: slices. recognised: those in which the segmenter finds discs; None without one.
    """

    means: tuple[float, ...]
    spreads: tuple[float, ...]
    foreground: float
    selection: FeatureSelection
    centred: int = 0
    measured: int = 0
    recognised: int | None = None

    def save(self, folder: str | Path) -> Path:
        """Write the selection, its pictures and the targets of the loss into a model folder."""
        chosen = {name.rpartition("_")[2] for name in self.selection.names}
        extra: dict[str, Any] = {
            "loss_features": list(FEATURES),
            "loss_targets": list(self.means),
            "loss_spreads": list(self.spreads),
            "loss_features_selected": [name for name in FEATURES if name in chosen],
            "foreground": self.foreground,
            "regions_without_disc": self.centred,
        }
        save_selection_plots(folder, self.selection)
        return save_selection(Path(folder) / SELECTION_FILE, self.selection, extra)


def measure_targets(
    target: SliceSet,
    segmenter: SliceSegmenter | None,
    settings: CycleGanSettings,
    device: torch.device | None = None,
) -> Targets:
    """Measure slices of the target, `settings.radiomics.slices` of them at most, drawn by the seed.

    The region is around the discs of the mask; of an unlabelled slice, around those of the segmenter.

    Raises
    ------
    NoInputError: fewer than three slices with features. CaseError: see `select_features`.
    """
    wanted = min(settings.radiomics.slices, len(target))
    rng = np.random.default_rng([_STREAM, settings.seed])
    chosen = np.sort(rng.permutation(len(target))[:wanted])
    five, rows, shares, centred, recognised = [], [], [], 0, 0
    for images, masks, found in _batches(target, chosen, segmenter, device or torch.device("cpu")):
        if found is not None:
            shares.append(foreground_share(found))
            recognised += sum(window.found for window in disc_windows(found, images, settings.radiomics))
        windows = disc_windows(_known_discs(masks, found), images, settings.radiomics)
        centred += sum(not window.found for window in windows)
        regions = cut_regions(images, windows, settings.radiomics)
        five.append(radiomic_features(regions, bin_width=settings.radiomics.bin_width, mode="hard"))
        rows += [all_features(part, bin_width=settings.radiomics.bin_width) for part in regions[:, 0].cpu().numpy()]
    values = torch.cat(five).double().cpu()
    values = values[values.isfinite().all(1)]
    if len(values) < 3:
        raise NoInputError(
            "E-HARM-TARGET",
            file="target",
            found=f"{len(values)} slices with radiomic features",
            expected="three or more",
            fix="add scans of the target",
        )
    selection = select_features(rows, top=settings.radiomics.top, correlation=settings.radiomics.correlation)
    foreground = float(torch.cat(shares).mean()) if shares else 0.0
    means, spreads = values.mean(0).tolist(), values.std(0).tolist()
    known = None if segmenter is None else recognised
    return Targets(tuple(means), tuple(spreads), foreground, selection, centred, len(chosen), known)


def _batches(
    target: SliceSet, chosen: np.ndarray[Any, Any], segmenter: SliceSegmenter | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield slices, masks and what the segmenter finds, (B, 1, Y, X) each."""
    starts = range(0, len(chosen), _BATCH)
    for first in paced(starts, "features of the target", len(starts), units="batches"):
        indices = chosen[first : first + _BATCH].tolist()
        images, masks = target.tensor(indices).to(device), target.mask_tensor(indices).to(device)
        with torch.no_grad():
            yield images, masks, None if segmenter is None else segmenter(images)


def _known_discs(masks: Tensor, found: Tensor | None) -> Tensor:
    """Return masks as probabilities, with what the segmenter found where nothing is known."""
    unknown = masks == UNKNOWN
    known = torch.where(unknown, 0, masks).float()
    return known if found is None else torch.where(unknown.flatten(1).all(1).view(-1, 1, 1, 1), found, known)
