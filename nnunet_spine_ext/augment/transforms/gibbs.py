"""Gibbs ringing along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one
from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Gibbs(Acquired, stage="axis"):
    """Cut off k-space sharply along one axis of the plane, acquired `factor` times coarser: edges ring by 9 %."""

    p: float = 0.1
    factor: Range = spread([1.2, 2.5], limits=(1.0, 64.0), neutral=1.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw axis and factor."""
        axis = pick_one(rng, in_plane(context, self.through_plane_axis(rng, context)))
        return {"axis": axis, "factor": self.draw(rng, "factor", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the truncation."""
        axis = params["axis"]
        work = AxisWork(acquired=params["factor"] * context.spacing[axis])
        builder.along(index, params["channels"], axis, work)
