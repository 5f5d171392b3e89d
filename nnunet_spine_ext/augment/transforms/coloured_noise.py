"""Noise of an image that the scanner had interpolated before it was stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Measured, in_plane, pick_one
from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class ColouredNoise(Measured, Placed, stage="noise"):
    """Rician noise of coarser voxels than those of the patch, filled up with zeros: grains instead of single voxels.

    The image itself stays as sharp as it is. `sigma`: standard deviation of what is delivered, in units of the
    signal's span. `in_plane`: acquired voxel along the readout; along the other axis of the plane it is `phase_ratio`
    times as large. `through_plane`: of 3-D acquisitions; 0 leaves that axis white. Noise that follows what the
    transforms of the resolution do to the image is `rician_noise` as it comes.
    """

    p: float = 0.05
    sigma: Range = spread([0.0, 0.08], limits=(0.0, 2.0), neutral=0.0)
    in_plane: Range = spread([0.5, 2.0], limits=(0.0, 50.0))
    phase_ratio: Range = spread([1.0, 1.4], limits=(1.0, 10.0), neutral=1.0)
    through_plane: Range = spread(0.0, limits=(0.0, 50.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the level, the acquired voxel of each axis in mm, and where in the pool the noise is taken from."""
        across = self.through_plane_axis(rng, context)
        plane = in_plane(context, across)
        phase_axis = pick_one(rng, plane)
        coarsest = max(context.spacing[axis] for axis in plane)
        readout = self.length(rng, "in_plane", coarsest, context)
        ratio = self.draw(rng, "phase_ratio", context)
        acquired = []
        for axis, spacing in enumerate(context.spacing):
            if axis == across:
                acquired.append(self.length(rng, "through_plane", spacing, context))
            else:
                scale = spacing / coarsest if self.unit == "voxel" else 1.0
                acquired.append(readout * scale * (ratio if axis == phase_axis else 1.0))
        sigma = self.draw(rng, "sigma", context)
        params = {"sigma": sigma, "acquired": acquired, "offsets": [draw_offset(rng) for _ in range(3)]}
        return {**params, **self.place(rng, context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the noise."""
        colour = [AxisWork(acquired=acquired) for acquired in params["acquired"]]
        where = {"colour": colour, "labels": params.get("labels")}
        builder.add(index, params["channels"], params["sigma"], params["offsets"], **where)
