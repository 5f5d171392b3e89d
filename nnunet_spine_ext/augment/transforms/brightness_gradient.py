"""Brightness that rises or falls across the patch."""

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
class BrightnessGradient(Selective, stage="local"):
    """A smooth hill or hollow added to everything, air too; a bias field multiplies and leaves air alone.

    `height`: of the hill in units of the signal. `width`: its standard deviation in mm.
    """

    p: float = 0.1
    height: Range = spread([-0.4, 0.4], limits=(-5.0, 5.0), neutral=0.0)
    width: Range = spread([20.0, 120.0], limits=(1.0, 2000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw height and hill."""
        height, width = (self.draw(rng, name, context) for name in ("height", "width"))
        return {**self.select(rng, context), "height": height, "hill": draw_bump(rng, width, context, reach=0.75)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the hill at the knots, so that the mean brightness over the patch stays."""
        hill = bump_at_knots(params["hill"], context)
        inner = hill[(slice(1, -1),) * hill.ndim]
        builder.add(index, params, params["height"] * (hill - inner.mean()))
