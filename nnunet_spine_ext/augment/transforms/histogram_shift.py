"""A random monotone change of the whole histogram."""

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
class HistogramShift(Selective, stage="table"):
    """Move `points` control points of the identity at random, in order, and join them by lines.

    `amount`: 1 draws the points anywhere between 0 and 1, 0 leaves them in place.
    """

    p: float = 0.1
    points: Range = spread([3, 10], limits=(1, 50))
    amount: Range = spread([0.2, 0.8], limits=(0.0, 1.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the new places of the control points."""
        amount, number = self.draw(rng, "amount", context), round(self.draw(rng, "points", context))
        even = np.arange(1, number + 1) / (number + 1)
        moved = even + amount * (np.sort(rng.random(number)) - even)
        return {**self.select(rng, context), "places": [0.0, *(float(v) for v in moved), 1.0]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the piecewise linear curve."""
        places = params["places"]
        knots = np.linspace(0, 1, len(places))
        builder.curve(index, params, on_unit(lambda u: np.interp(u, knots, places), below=1.0))
