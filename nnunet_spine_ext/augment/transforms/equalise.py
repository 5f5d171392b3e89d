"""Histogram equalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Equalise(Selective, stage="table"):
    """Make all intensities between the extremes equally frequent, and blend with the original."""

    p: float = 0.1
    mix: Range = spread([0.3, 1.0], limits=(0.0, 1.0), neutral=0.0)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw where and how much."""
        return self.select(rng, context)

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the equalisation."""
        builder.equalise(index, params)
