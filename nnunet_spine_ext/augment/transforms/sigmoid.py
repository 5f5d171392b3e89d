"""A window: contrast in the middle, none at the ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import Curve, on_unit
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Selective, stage="table"):
    """A logistic curve of `slope` about `centre`, scaled to go from 0 to 1."""

    p: float = 0.05
    graded = False
    slope: Range = spread([3.0, 10.0], limits=(0.1, 100.0))
    centre: Range = spread([0.3, 0.6], limits=(0.0, 1.0))
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw slope and centre."""
        slope, centre = self.draw(rng, "slope", context), self.draw(rng, "centre", context)
        return {**self.select(rng, context), "slope": slope, "centre": centre}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        builder.curve(index, params, on_unit(_logistic(params["slope"], params["centre"])))


def _logistic(slope: float, centre: float) -> Curve:
    def value(u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return 1 / (1 + np.exp(-slope * (u - centre)))

    low, high = value(np.zeros(1)), value(np.ones(1))
    return lambda u: (value(u) - low) / (high - low)
