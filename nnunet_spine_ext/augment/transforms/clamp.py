"""The darkest and brightest voxels clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Clamp(Selective, stage="table"):
    """Clip the share `low` of darkest and `high` of brightest voxels to the quantiles there."""

    p: float = 0.05
    low: Range = spread([0.0, 0.05], limits=(0.0, 0.49), neutral=0.0)
    high: Range = spread([0.0, 0.1], limits=(0.0, 0.49), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw both shares."""
        low, high = self.draw(rng, "low", context), self.draw(rng, "high", context)
        return {**self.select(rng, context), "low": low, "high": high}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the clipping."""
        builder.clamp(index, params, params["low"], 1 - params["high"])
