"""Changes of the geometry of slices and masks while a segmenter is trained."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_spine_ext.harmonize.segmenting.settings import SliceAugmentSettings
from nnunet_spine_ext.harmonize.slice_set import UNKNOWN


def deformed(
    images: Tensor, masks: Tensor, settings: SliceAugmentSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Turn, scale and move every slice by itself.

    Parameters
    ----------
    images: (B, 1, Y, X), 0 to 255. masks: uint8 (B, 1, Y, X), 0, 1 or 255.

    Returns
    -------
    Both, of the same shape and type; what comes from outside is black, and unknown in the mask.
    """
    if not settings.active:
        return images, masks
    height, width = images.shape[2:]
    drawn = rng.uniform(-1, 1, (len(images), 4))
    matrices = np.zeros((len(images), 2, 3), np.float32)
    for row, (turn, size, x, y) in zip(matrices, drawn, strict=True):
        angle, scale = math.radians(settings.rotation) * turn, (1 + settings.scaling) ** size
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        # Coordinates go from -1 to 1 along either side, so a turn has to know how long the sides are.
        row[:] = (
            (cos, -sin * height / width, 2 * settings.shift * x),
            (sin * width / height, cos, 2 * settings.shift * y),
        )
    grid = nn.functional.affine_grid(
        torch.from_numpy(matrices).to(images.device), list(images.shape), align_corners=False
    )
    moved = nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # Shifted by one, so that 0 is what comes from outside.
    labels = nn.functional.grid_sample(
        masks.float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False
    ).round()
    marked = torch.where(labels == 0, float(UNKNOWN), labels - 1).to(masks.dtype)
    return moved, marked
