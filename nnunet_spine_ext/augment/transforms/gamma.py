"""Gamma correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import on_unit
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Gamma(Selective, stage="table"):
    """Signal to the power `gamma`: below 1 lifts dark tissue, above 1 darkens it. What is below air keeps its slope."""

    p: float = 0.3
    gamma: Range = spread({"log": [0.7, 1.5]}, limits=(0.05, 20.0), neutral=1.0)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the exponent."""
        return {**self.select(rng, context), "gamma": self.draw(rng, "gamma", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        builder.curve(index, params, on_unit(lambda u: u ** params["gamma"], below=1.0))
