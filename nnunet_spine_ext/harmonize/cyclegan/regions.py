"""The region around the discs of slices, on the scale that radiomic features are computed on."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.cyclegan.settings import RadiomicSettings, RoiScaling
from nnunet_spine_ext.harmonize.slice_grid import ROBUST, TOP
from nnunet_spine_ext.harmonize.slice_pairs import RoiWindow, roi_window
from nnunet_spine_ext.losses.radiomics import radiomic_features

# A region of one grey level would be divided by zero; it becomes zero instead.
_LEAST_RANGE = 1e-3


def disc_windows(probability: Tensor | None, images: Tensor, settings: RadiomicSettings) -> list[RoiWindow]:
    """Return the window of each slice (B, 1, Y, X), around what the probability (B, 1, Y, X) calls disc.

    Without a probability, or where it shows no disc, the middle of the slice.
    """
    shape = (images.shape[2], images.shape[3])
    found: list[Array | None] = [None] * len(images)
    if probability is not None:
        found = list(probability.detach().float().cpu().numpy()[:, 0])
    return [roi_window(mask, shape, settings.roi) for mask in found]


def cut_regions(images: Tensor, windows: list[RoiWindow], settings: RadiomicSettings) -> Tensor:
    """Return the windows of slices (B, 1, Y, X), 0 to 255, scaled as the settings say; differentiable."""
    parts = [image[:, window[0], window[1]] for image, window in zip(images, windows, strict=True)]
    return rescaled(torch.stack(parts), settings.scaling)


def rescaled(regions: Tensor, scaling: RoiScaling) -> Tensor:
    """Return regions (B, 1, Y, X) spread to 0 to 255 one by one; differentiable, the limits included."""
    if scaling == "none":
        return regions
    flat = regions.flatten(1)
    if scaling == "minmax":
        low, high = flat.amin(1), flat.amax(1)
    else:
        low, high = torch.quantile(flat.float(), flat.new_tensor([q / 100 for q in ROBUST], dtype=torch.float32), dim=1)
    shape = (-1, 1, 1, 1)
    spread = (high - low).clamp_min(_LEAST_RANGE).view(shape)
    return ((regions - low.view(shape)) * (TOP / spread)).clamp(0, TOP)


@torch.no_grad()
def region_features(images: Tensor, probability: Tensor | None, settings: RadiomicSettings) -> Tensor:
    """Return the five features of the regions of slices (B, 1, Y, X), 0 to 255, as PyRadiomics would: (B, 5)."""
    regions = cut_regions(images, disc_windows(probability, images, settings), settings)
    return radiomic_features(regions, bin_width=settings.bin_width, mode="hard")
