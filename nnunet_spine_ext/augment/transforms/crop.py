"""A smaller field of view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Geometric
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Crop(Geometric, stage="warp"):
    """Restrict the field of view: what is cut away becomes air, and -1 in labels; the grid stays.

    Along each of `axes` a length from `cut` is taken away, divided at random between both ends. `unit`: "fraction" of
    the size of the patch, or "mm". At least one voxel is left. The box lies in the result, whatever the other
    transforms of the warp do.
    """

    p: float = 0.1
    cut: Range = spread([0.0, 0.5], limits=(0.0, 1000.0), neutral=0.0)
    unit: Literal["fraction", "mm"] = "fraction"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the box that is kept, in voxels."""
        chosen = self.chosen(context)
        low, high = [], []
        for axis, size in enumerate(context.shape):
            cut = self.draw(rng, "cut", context) / (1.0 if self.unit == "fraction" else context.extent[axis])
            removed = min(size - 1, math.floor(cut * size + 0.5)) if axis in chosen else 0
            before = math.floor(rng.random() * (removed + 1))
            low.append(before)
            high.append(size - (removed - before))
        return {"low": low, "high": high}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the box."""
        builder.restrict(index, params["low"], params["high"])
