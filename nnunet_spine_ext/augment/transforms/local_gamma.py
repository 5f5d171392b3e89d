"""Gamma correction that differs from place to place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.local_kernels import bump_at_knots, draw_bump
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class LocalGamma(Selective, stage="local"):
    """Signal to a power that changes smoothly: `gamma` on top of a hill, 1 far from it.

    `width`: standard deviation of the hill in mm.
    """

    p: float = 0.1
    gamma: Range = spread({"log": [0.4, 2.5]}, limits=(0.05, 20.0), neutral=1.0)
    width: Range = spread([20.0, 100.0], limits=(1.0, 2000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the exponent and the hill."""
        gamma, width = (self.draw(rng, name, context) for name in ("gamma", "width"))
        return {**self.select(rng, context), "gamma": gamma, "hill": draw_bump(rng, width, context, reach=0.5)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the exponents at the knots."""
        builder.power(index, params, params["gamma"] ** bump_at_knots(params["hill"], context))
