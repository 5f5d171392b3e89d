"""A sine of the signal: bright tissue may become darker than what is less bright."""

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
class Sin(Selective, stage="table"):
    """sin(pi / 2 * quarters * u): up to 1 quarter monotone, with 2 the brightest becomes as dark as air."""

    p: float = 0.05
    graded = False
    quarters: Range = spread([0.5, 2.0], limits=(0.05, 8.0))
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw how far the sine goes."""
        return {**self.select(rng, context), "quarters": self.draw(rng, "quarters", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        rate = params["quarters"] * np.pi / 2
        builder.curve(index, params, on_unit(lambda u: np.sin(rate * u), below=1.0))
