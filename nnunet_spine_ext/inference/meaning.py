"""What outputs of a network mean: values that can be averaged, how uncertain they are, and which structure wins."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from nnunet_spine_ext.inference.activation import Activation, hard_labels, probabilities

# Probabilities stay this far from 0 and 1 where their logarithm is taken.
_LEAST = 1e-6
# In a geometric mean a single view that is sure of the contrary must not have the last word.
_LEAST_IN_PRODUCT = 1e-4
Marks: TypeAlias = torch.Tensor
"""Labels (*spatial) of an integer type, or, where structures may overlap, (structures, *spatial) bool."""


class Meaning(ABC):
    """How outputs (heads, *spatial) are to be understood.

    `values` of a view are averaged, `means` become outputs again. All but `marks` work voxel by voxel, so they may be
    given any part of a volume. Entropies are shares of the largest possible one, 0 to 1.
    """

    @abstractmethod
    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return what can be averaged, of the same shape; may use the memory of the outputs."""

    @abstractmethod
    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return outputs with these values; may use their memory."""

    @abstractmethod
    def entropy(self, values: torch.Tensor) -> torch.Tensor:
        """Return how uncertain values are: (*spatial), 0 to 1."""

    @abstractmethod
    def marks(self, values: torch.Tensor) -> Marks:
        """Return which structure is where."""

    @abstractmethod
    def posterior(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (heads, *spatial) float32 of the outputs of a whole volume."""

    def logarithms(self, values: torch.Tensor) -> torch.Tensor:
        """Return what a geometric mean adds up, of the same shape."""
        return self.outputs(values.clamp(min=_LEAST_IN_PRODUCT, max=1 - _LEAST_IN_PRODUCT))


class Exclusive(Meaning):
    """Logits of classes of which one is true: a softmax."""

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (heads, *spatial)."""
        return outputs.softmax(dim=0)

    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return logits whose softmax the values are."""
        return values.clamp(min=_LEAST).log_()

    def entropy(self, values: torch.Tensor) -> torch.Tensor:
        """Return the entropy of the classes, over that of equal chances."""
        return torch.special.entr(values).sum(dim=0).div_(math.log(max(2, values.shape[0]))).clamp_(min=0)

    def marks(self, values: torch.Tensor) -> Marks:
        """Return the most probable class (*spatial)."""
        kind = torch.uint8 if values.shape[0] <= 256 else torch.int16
        return values.argmax(dim=0).to(kind)

    def posterior(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the softmax."""
        return outputs.float().softmax(dim=0)


class Overlapping(Meaning):
    """Logits of regions that are each there or not: sigmoids."""

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (heads, *spatial)."""
        return outputs.sigmoid()

    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return logits whose sigmoid the values are."""
        return values.clamp(min=_LEAST, max=1 - _LEAST).logit_()

    def entropy(self, values: torch.Tensor) -> torch.Tensor:
        """Return the entropy of one region, on average over regions."""
        return binary_entropy(values).mean(dim=0)

    def marks(self, values: torch.Tensor) -> Marks:
        """Return where each region is more probable than not (heads, *spatial)."""
        return values > 0.5

    def posterior(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the sigmoids."""
        return outputs.float().sigmoid()


class Soft(Meaning):
    """Outputs of a soft model, of which channel 0 is the remainder: how much of a voxel is of each class.

    Linear outputs are averaged as they are; of a sigmoid model, the sigmoids.
    """

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self._sigmoid = activation.kind == "sigmoid"

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return soft values before they are cut to 0 and 1 (heads, *spatial)."""
        return outputs.sigmoid() if self._sigmoid else outputs

    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return outputs with these values."""
        return values.clamp(min=_LEAST, max=1 - _LEAST).logit_() if self._sigmoid else values

    def entropy(self, values: torch.Tensor) -> torch.Tensor:
        """Return the entropy of soft values taken for probabilities, on average over classes."""
        return binary_entropy(values[1:].clamp(min=0, max=1)).mean(dim=0)

    def marks(self, values: torch.Tensor) -> Marks:
        """Return the label map (*spatial) of a whole volume."""
        outputs = self.outputs(values.clone() if self._sigmoid else values)
        return torch.from_numpy(hard_labels(outputs.numpy(), self.activation))

    def posterior(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return background and soft values, 0 to 1."""
        return torch.from_numpy(probabilities(np.asarray(outputs.float()), self.activation))


def meaning_of(activation: Activation | None, *, regions: bool) -> Meaning:
    """Return the meaning of a model's outputs: its activation if it is soft, and whether it has regions."""
    if activation is not None:
        return Soft(activation)
    return Overlapping() if regions else Exclusive()


def binary_entropy(chance: torch.Tensor) -> torch.Tensor:
    """Return the entropy of yes and no in bits, 0 to 1."""
    return (torch.special.entr(chance) + torch.special.entr(1 - chance)).div_(math.log(2))


def sizes_and_overlap(one: Marks, other: Marks, structures: int) -> tuple[list[int], list[int], list[int]]:
    """Return voxels per structure of either, and of both together; labels count from 1, overlapping ones by row."""
    if one.dtype == torch.bool:
        axes: Sequence[int] = tuple(range(1, one.ndim))
        counts = (one.sum(dim=axes), other.sum(dim=axes), (one & other).sum(dim=axes))
        return counts[0].tolist(), counts[1].tolist(), counts[2].tolist()
    same = one[one == other]
    found = [torch.bincount(m.reshape(-1).long(), minlength=structures + 1)[1:] for m in (one, other, same)]
    return found[0].tolist(), found[1].tolist(), found[2].tolist()
