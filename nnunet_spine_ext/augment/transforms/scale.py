"""Larger or smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling, homogeneous
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Scale(Resampling, stage="warp"):
    """Scale about the centre; a factor of 2 shows everything twice as large.

    `independent`: probability that each axis has a factor of its own; else one factor serves all `axes`.
    """

    p: float = 0.2
    factor: Range = spread({"log": [0.7, 1.4]}, limits=(0.1, 10.0), neutral=1.0)
    independent: Range = spread(0.0, limits=(0.0, 1.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw one factor per axis, or one for all."""
        apart = rng.random() < self.independent.sample(rng)
        factors = [self.draw(rng, "factor", context) for _ in range(context.dim)]
        factors = factors if apart else factors[:1] * context.dim
        free = set(self.chosen(context)) - set(self.locked(context))
        return {"factors": [factor if axis in free else 1.0 for axis, factor in enumerate(factors)]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the scaling."""
        builder.compose(index, homogeneous(np.diag(params["factors"])))
