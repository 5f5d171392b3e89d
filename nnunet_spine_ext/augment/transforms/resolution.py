"""Resolution of the acquisition in millimetres, on the grid that the scanner reconstructs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Measured, in_plane, pick_one, require_some
from nnunet_spine_ext.augment.axis_matrices import AxisWork, Interpolation, Recon
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Resolution(Measured, stage="axis"):
    """Acquire larger voxels: k-space is cut off, and the image is interpolated from the reconstructed grid.

    `in_plane`: acquired voxel along the readout; along the other axis of the plane it is `phase_ratio` times as large.
    `through_plane`: of 3-D acquisitions; 0 leaves that axis alone. `zero_fill`: by how much the reconstructed voxel is
    smaller than the acquired one. `interpolation`: from there to the patch, one of those listed. Voxels smaller than
    those of the patch change nothing.
    """

    p: float = 0.25
    in_plane: Range = spread([0.5, 1.5], limits=(0.0, 50.0))
    phase_ratio: Range = spread([1.0, 1.4], limits=(1.0, 10.0), neutral=1.0)
    through_plane: Range = spread(0.0, limits=(0.0, 50.0))
    zero_fill: Range = spread([1.0, 2.0], limits=(1.0, 8.0), neutral=1.0)
    interpolation: tuple[Interpolation, ...] = ("linear", "cubic")

    def __post_init__(self) -> None:
        """Refuse an empty list of interpolations."""
        super().__post_init__()
        require_some(self.name, "interpolation", self.interpolation)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw acquired and reconstructed voxels per axis in mm (0: untouched) and the phases of the grids."""
        across = self.through_plane_axis(rng, context)
        plane = in_plane(context, across)
        phase_axis = pick_one(rng, plane)
        coarsest = max(context.spacing[axis] for axis in plane)
        readout = self.length(rng, "in_plane", coarsest, context)
        ratio, zero_fill = (self.draw(rng, field, context) for field in ("phase_ratio", "zero_fill"))
        acquired = []
        for axis, spacing in enumerate(context.spacing):
            if axis == across:
                value = self.length(rng, "through_plane", spacing, context)
            else:
                value = readout * (ratio if axis == phase_axis else 1.0)
                value *= spacing / coarsest if self.unit == "voxel" else 1.0
            acquired.append(value)
        return {
            "acquired": acquired,
            "reconstructed": [value / zero_fill for value in acquired],
            "phase": [float(v) for v in rng.random(context.dim)],
            "interpolation": pick_one(rng, self.interpolation),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add truncation and grid of each axis."""
        for axis in range(context.dim):
            acquired, voxel = params["acquired"][axis], params["reconstructed"][axis]
            if acquired > context.spacing[axis]:
                recon = Recon(voxel, params["phase"][axis], params["interpolation"])
                builder.along(index, params["channels"], axis, AxisWork(acquired=acquired, recon=recon))
