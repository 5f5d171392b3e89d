"""Exponential stretch."""

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
class Exp(Selective, stage="table"):
    """(exp(a u) - 1) / (exp(a) - 1): darkens all but the brightest tissue, the more the larger `amount` a."""

    p: float = 0.05
    amount: Range = spread([0.5, 3.0], limits=(1e-3, 20.0), neutral=1e-3)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the amount."""
        return {**self.select(rng, context), "amount": self.draw(rng, "amount", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        amount = params["amount"]
        builder.curve(index, params, on_unit(lambda u: np.expm1(amount * u) / np.expm1(amount)))
