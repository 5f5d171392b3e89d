"""Simulated low resolution as in other toolboxes: to a coarser grid and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one, require_some
from nnunet_spine_ext.augment.axis_matrices import AxisWork, Interpolation, Zoom
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LowResolution(Acquired, stage="axis"):
    """Sample every axis on `scale` times as many voxels and interpolate back; in voxels, whatever their size.

    `axes`: all, those of the plane, one drawn at random, or a list of array axes. `per_axis`: draw a scale for each.
    `anti_alias`: limit the frequencies to those that the coarse grid holds; without, the nearest voxel is taken as
    nnU-Net does, and finer structure turns into false coarse structure.
    """

    p: float = 0.25
    scale: Range = spread([0.5, 1.0], limits=(0.01, 1.0), neutral=1.0)
    axes: Literal["all", "in_plane", "one"] | tuple[int, ...] = "all"
    per_axis: bool = True
    anti_alias: bool = True
    interpolation: tuple[Interpolation, ...] = ("linear",)

    def __post_init__(self) -> None:
        """Refuse empty lists."""
        super().__post_init__()
        require_some(self.name, "interpolation", self.interpolation)
        require_some(self.name, "axes", self.axes)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the number of voxels of each axis."""
        across, one = self.through_plane_axis(rng, context), int(rng.integers(context.dim))
        chosen = self._chosen(context, across, one)
        scales = [self.draw(rng, "scale", context) for _ in range(context.dim)]
        sizes = []
        for axis, size in enumerate(context.shape):
            scale = scales[axis if self.per_axis else 0] if axis in chosen else 1.0
            sizes.append(max(1, round(size * scale)))
        return {"sizes": sizes, "anti_alias": self.anti_alias, "interpolation": pick_one(rng, self.interpolation)}

    def _chosen(self, context: Context, across: int | None, one: int) -> Sequence[int]:
        if isinstance(self.axes, tuple):
            if any(not 0 <= axis < context.dim for axis in self.axes):
                raise UsageError(
                    "E-AUG-CONTEXT",
                    file=self.name,
                    found=f"axes {list(self.axes)}",
                    expected=f"array axes from 0 to {context.dim - 1}",
                    fix="correct axes",
                )
            return self.axes
        return {"all": range(context.dim), "in_plane": in_plane(context, across), "one": [one]}[self.axes]

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the way to the coarse grid and back, axis by axis."""
        for axis, size in enumerate(params["sizes"]):
            zoom = Zoom(size, params["anti_alias"], params["interpolation"])
            if size != context.shape[axis]:
                builder.along(index, params["channels"], axis, AxisWork(zooms=(zoom,)))
