"""Shift in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling, homogeneous
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Translate(Resampling, stage="warp"):
    """Shift along each of `axes` by its own distance from `shift`.

    `unit`: "mm", or "fraction" of the size of the patch. Whole voxels within the source are moved without
    interpolation.
    """

    p: float = 0.2
    shift: Range = spread([-10.0, 10.0], limits=(-1000.0, 1000.0), neutral=0.0)
    unit: Literal["mm", "fraction"] = "mm"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw one distance per axis."""
        free = set(self.chosen(context)) - set(self.locked(context))
        shifts = [self.draw(rng, "shift", context) for _ in range(context.dim)]
        units = context.extent if self.unit == "fraction" else (1.0,) * context.dim
        return {"mm": [shifts[axis] * units[axis] if axis in free else 0.0 for axis in range(context.dim)]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the shift."""
        builder.compose(index, homogeneous(np.eye(context.dim), params["mm"]))
