"""Logarithmic compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import on_unit
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Log1p(Selective, stage="table"):
    """log(1 + a u) / log(1 + a): lifts dark tissue, the more the larger `amount` a."""

    p: float = 0.05
    amount: Range = spread({"log": [1.0, 20.0]}, limits=(1e-3, 1e4), neutral=1e-3)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the amount; what the strength scales is log(1 + a), in which the effect grows evenly."""
        amount = math.expm1(context.strength * math.log1p(self.amount.sample(rng)))
        low, high = self.amount.limits
        return {**self.select(rng, context), "amount": min(max(amount, low), high)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        amount = params["amount"]
        builder.curve(index, params, on_unit(lambda u: np.log1p(amount * u) / np.log1p(amount), below=1.0))
