"""Patches of a case, from where its first prediction has structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from nnunet_spine_ext.core.volume import Array


@dataclass(frozen=True)
class Patch:
    """A patch with its surroundings.

    Parameters
    ----------
    context: (1, C, *spatial) float32, the patch with a margin around it; 0 outside the image, as in prediction.
    inside: (1, 1, *patch) bool: voxels of the patch that are in the image.
    margin: voxels around the patch, per axis.
    """

    context: torch.Tensor
    inside: torch.Tensor
    margin: tuple[int, ...]

    @property
    def image(self) -> torch.Tensor:
        """The patch itself, (1, C, *patch)."""
        box = tuple(slice(m, n - m) for m, n in zip(self.margin, self.context.shape[2:], strict=True))
        return self.context[(slice(None), slice(None), *box)]


class PatchSource:
    """Draws patches around voxels of structures, every structure with the same probability.

    Parameters
    ----------
    data: (C, *spatial) float32, a prepared image.
    labels: (*spatial), its first prediction.
    patch: size of the network's patches; of 2-D networks one number less than there are axes.
    margin: voxels around a patch, one number per axis of it.
    device: where patches go.
    """

    def __init__(
        self, data: torch.Tensor, labels: Array, patch: Sequence[int], margin: Sequence[int], device: torch.device
    ) -> None:
        self.data = data
        self.patch = tuple(patch)
        self.margin = tuple(margin)
        self.device = device
        self._shape = labels.shape
        self._places = [np.flatnonzero(labels == label) for label in np.unique(labels[labels > 0])]

    @property
    def found(self) -> bool:
        """Whether there is a structure to look at."""
        return bool(self._places)

    def draw(self, rng: np.random.Generator) -> Patch:
        """Return a patch around a random voxel of a random structure, moved into the image where it would leave it."""
        places = self._places[rng.integers(len(self._places))]
        voxel = np.unravel_index(int(places[rng.integers(len(places))]), self._shape)
        flat = len(self._shape) - len(self.patch)
        plane = self.data[(slice(None), *(int(v) for v in voxel[:flat]))]
        box: list[slice] = []
        # (before, after) per axis, the last axis first, as PyTorch wants it.
        padding: list[int] = []
        inside = torch.ones(self.patch, dtype=torch.bool)
        for axis, (centre, size, margin) in enumerate(zip(voxel[flat:], self.patch, self.margin, strict=True)):
            length = self._shape[flat + axis]
            start = min(max(int(centre) - size // 2, 0), length - size) if length >= size else -((size - length) // 2)
            first, last = start - margin, start + size + margin
            box.append(slice(max(first, 0), min(last, length)))
            padding = [max(-first, 0), max(last - length, 0), *padding]
            keep = torch.zeros(size, dtype=torch.bool)
            keep[max(-start, 0) : length - start] = True
            inside &= keep.reshape(*[-1 if other == axis else 1 for other in range(len(self.patch))])
        # A copy: what was made in inference mode cannot be trained on.
        context = functional.pad(plane[(slice(None), *box)].clone(), padding)
        return Patch(context[None].to(self.device), inside[None, None].to(self.device), self.margin)
