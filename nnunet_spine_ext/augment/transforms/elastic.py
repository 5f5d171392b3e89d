"""Smooth deformation without folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling
from nnunet_spine_ext.augment.lattice import displacement
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params

_SEEDS = 2**63


@dataclass(frozen=True, kw_only=True)
class Elastic(Resampling, stage="warp"):
    """Deform by a random stationary velocity field, integrated: one-to-one everywhere, and smooth.

    `std`: standard deviation of the displacement along each axis in mm. `spacing`: distance in mm of the points that
    move independently. Where both together would fold the image, the displacement is weakened until it does not. It
    acts after all other transforms of the warp.
    """

    p: float = 0.1
    std: Range = spread([0.5, 2.5], limits=(0.0, 100.0), neutral=0.0)
    spacing: Range = spread([20.0, 40.0], limits=(2.0, 1000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw strength, coarseness and the seed of the field."""
        free = set(self.chosen(context)) - set(self.locked(context))
        return {
            "std": self.draw(rng, "std", context),
            "spacing": self.draw(rng, "spacing", context),
            "still": [axis for axis in range(context.dim) if axis not in free],
            "seed": int(rng.integers(_SEEDS)),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the displacement."""
        if params["std"] > 0 and len(params["still"]) < context.dim:
            still = params["still"]
            field = displacement(
                params["seed"], params["std"], params["spacing"], context.shape, context.spacing, still
            )
            builder.deform(index, field)
