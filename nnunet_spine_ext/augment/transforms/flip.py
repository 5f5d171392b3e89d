"""Mirroring; sided labels change sides when left and right are exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Geometric, homogeneous
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Flip(Geometric, stage="warp"):
    """Mirror along axes, without interpolation if nothing else moves.

    Each of `axes` is mirrored with probability `axis_p`. Left and right ids are exchanged where the left-right axis
    of the result runs against that of the source, whatever led to it.
    """

    graded: ClassVar[bool] = False

    p: float = 1.0
    axis_p: Range = spread(0.5, limits=(0.0, 1.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the axes."""
        probability = self.axis_p.sample(rng)
        coins = rng.random(context.dim)
        return {"axes": [axis for axis in self.chosen(context) if coins[axis] < probability]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the reflection."""
        signs = [-1.0 if axis in params["axes"] else 1.0 for axis in range(context.dim)]
        builder.compose(index, homogeneous(np.diag(signs)))
