"""Gaussian blur in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Measured
from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Blur(Measured, stage="axis"):
    """Gaussian blur; `in_plane` and `through_plane` are standard deviations, drawn for each axis alone."""

    p: float = 0.2
    in_plane: Range = spread([0.2, 0.8], limits=(0.0, 50.0), neutral=0.0)
    through_plane: Range = spread([0.0, 1.0], limits=(0.0, 50.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw one standard deviation per axis, in mm."""
        across = self.through_plane_axis(rng, context)
        fields = ["through_plane" if axis == across else "in_plane" for axis in range(context.dim)]
        return {
            "sigma": [
                self.length(rng, field, spacing, context, neutral=0.0)
                for field, spacing in zip(fields, context.spacing, strict=True)
            ]
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the blur of each axis."""
        for axis, sigma in enumerate(params["sigma"]):
            builder.along(index, params["channels"], axis, AxisWork(sigma=sigma))
