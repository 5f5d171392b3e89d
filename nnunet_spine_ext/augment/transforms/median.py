"""A median filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Median(Selective, stage="local"):
    """Flat regions with sharp edges, as after denoising: the median of three voxels, one axis after another.

    Not the median of the 27 neighbours, which costs a hundred times as much: lines and corners thinner than two voxels
    go in both, but this one follows the axes. Axes with slices thicker than 1.5 times the finest voxel are left out.
    `passes`: how often; 0 leaves the image.
    """

    p: float = 0.1
    passes: Range = spread({"choice": [1, 2, 3]}, limits=(0, 10), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the number of passes."""
        passes = round(self.draw(rng, "passes", context))
        return {**self.select(rng, context), "passes": passes}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the passes."""
        builder.median(index, params, params["passes"])
