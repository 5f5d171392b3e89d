"""Zero-filled interpolation, as scanners do by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane
from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class ZeroFill(Acquired, stage="axis"):
    """Take the patch for a zero-filled one that was acquired `factor` times coarser along both axes of the plane."""

    p: float = 0.1
    factor: Range = spread([1.0, 2.0], limits=(1.0, 64.0), neutral=1.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the factor; 1 through the plane."""
        across, factor = self.through_plane_axis(rng, context), self.draw(rng, "factor", context)
        plane = in_plane(context, across)
        return {"factor": [factor if axis in plane else 1.0 for axis in range(context.dim)]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the truncation of each axis."""
        for axis, factor in enumerate(params["factor"]):
            builder.along(index, params["channels"], axis, AxisWork(acquired=factor * context.spacing[axis]))
