"""nnU-Net's dataset with the soft label as further channels of the image, so that its own loader crops both alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.soft.store import open_soft, soft_file


class Stacked:
    """Image channels and soft channels, one after the other; reads what is asked for, as the loader asks for it."""

    def __init__(self, image: Any, soft: Any) -> None:
        self._parts = (image, soft)
        self.shape = (image.shape[0] + soft.shape[0], *image.shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        """Return all channels (C + K + 1, …) of a box; the first slice must take all of them."""
        return np.concatenate([np.asarray(part[index], dtype=np.float32) for part in self._parts])


class SoftDataset(nnUNetDatasetBlosc2):
    """Cases whose image has the K values of the soft label and their validity as last channels."""

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, Any]:
        """Return image with soft label, hard label, mask of a previous stage, and properties."""
        image, labels, previous, properties = super().load_case(identifier)
        soft = open_soft(soft_file(self.source_folder, identifier))
        return Stacked(image, soft), labels, previous, properties
