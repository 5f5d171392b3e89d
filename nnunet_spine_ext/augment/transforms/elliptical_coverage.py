"""Elliptical coverage of k-space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import ellipse
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params

_CORNER = 2**0.5


@dataclass(frozen=True, kw_only=True)
class EllipticalCoverage(Acquired, stage="kspace"):
    """Acquire an ellipse of k-space and fill the corners with zeros, over both axes of the slice.

    `radius`: in parts of the largest frequencies of the patch; from 1.414 on all is covered.
    """

    p: float = 0.05
    radius: Range = spread([0.6, 1.0], limits=(0.05, 1.5), neutral=_CORNER)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the radius."""
        return {"slice_axis": self.through_plane_axis(rng, context), "radius": self.draw(rng, "radius", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the ellipse."""
        plane = builder.plane(index, params["slice_axis"])
        builder.multiply(index, params["channels"], ellipse(plane, params["radius"]))
