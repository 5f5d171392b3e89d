"""Brighter or darker: the signal above air times a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Brightness(Selective, stage="table"):
    """Multiply the signal by `factor`; air stays where it is."""

    p: float = 0.15
    factor: Range = spread([0.75, 1.25], limits=(0.01, 100.0), neutral=1.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the factor."""
        return {**self.select(rng, context), "factor": self.draw(rng, "factor", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the map u -> factor * u."""
        builder.affine(index, params, params["factor"], 0.0)
