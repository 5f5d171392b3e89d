"""What the instance phase asks of a network, and what it gets back; no network is loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutouts import Box, Cutout, CutoutSpec, ModelGrid

NOTHING, ABOVE, CENTRE, BELOW = 0, 1, 2, 3
ANSWERS = 4


@dataclass(frozen=True)
class CutoutAnswer:
    """What a network says about one cutout; nothing outside the box.

    Parameters
    ----------
    box: part of the grid (P, I, R) that the answer is about.
    labels: uint8 of the box's shape: 0 nothing, 1 the vertebra above, 2 the one in the centre, 3 the one below; 0
        wherever the mask has no vertebra.
    probabilities: (4, …) float of these, for soft fusion; None if only the labels are known.
    """

    box: Box
    labels: Array
    probabilities: Array | None = None


class CutoutPredictor(Protocol):
    """Anything that tells vertebrae apart in cutouts: a trained network, or a stand-in for one in tests."""

    @property
    def spec(self) -> CutoutSpec:
        """Size, voxel size and encoding of the cutouts."""

    def predict(self, grid: ModelGrid, cutouts: Sequence[Cutout]) -> Sequence[CutoutAnswer]:
        """Return one answer per cutout, in the same order."""
