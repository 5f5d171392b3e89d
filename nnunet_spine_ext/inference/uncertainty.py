"""Maps of how uncertain a prediction is, on the grid of its image."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.export import on_image_grid
from nnunet_spine_ext.inference.managers import volume_like_image
from nnunet_spine_ext.inference.tta import Averaged

MAPS = ("entropy", "mutual information")
"""What the two volumes of a file are."""


def uncertainty_maps(
    averaged: Averaged, plans_manager: Any, configuration_manager: Any, properties: dict[str, Any]
) -> tuple[Volume, Volume]:
    """Return entropy and mutual information of the views of a prepared image, float32, on the grid of its first file.

    Both are shares of the largest possible entropy, 0 to 1. What nnU-Net cut off around the image is 0.

    Raises
    ------
    ValueError: they were not asked for when the views were averaged.
    """
    if averaged.entropy is None or averaged.information is None:
        msg = "views were averaged without uncertainty"
        raise ValueError(msg)
    both = torch.stack([averaged.entropy, averaged.information]).numpy()
    entropy, information = on_image_grid(both, plans_manager, configuration_manager, properties).clip(0, 1)
    return volume_like_image(entropy, properties), volume_like_image(information, properties)
