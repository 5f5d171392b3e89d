"""Sharpening: the difference to a smoothed image, added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class UnsharpMask(Selective, stage="local"):
    """Edge enhancement as in the reconstruction of scanners: x + amount * (x - smoothed); the mean stays.

    `sigma`: of the Gaussian in mm. `amount`: 0.5 is a usual filter, 2 a strong one; -1 would leave the smoothed image.
    """

    p: float = 0.15
    sigma: Range = spread([0.4, 1.5], limits=(0.05, 20.0))
    amount: Range = spread([0.0, 1.5], limits=(-1.0, 10.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw width and amount."""
        sigma, amount = (self.draw(rng, name, context) for name in ("sigma", "amount"))
        return {**self.select(rng, context), "sigma": sigma, "amount": amount}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the filter."""
        builder.sharpen(index, params, params["sigma"], params["amount"])
