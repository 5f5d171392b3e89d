"""More or less contrast about the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Contrast(Selective, stage="table"):
    """Multiply the distance from the mean by `factor`; `preserve_range` clips to the former extremes."""

    p: float = 0.15
    factor: Range = spread([0.75, 1.25], limits=(0.0, 20.0), neutral=1.0)
    preserve_range: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the factor."""
        factor = self.draw(rng, "factor", context)
        return {**self.select(rng, context), "factor": factor, "preserve_range": self.preserve_range}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the stretch."""
        builder.about_mean(index, params, params["factor"], preserve_range=params["preserve_range"])
