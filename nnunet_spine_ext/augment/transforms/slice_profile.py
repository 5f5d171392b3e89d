"""Thickness of slices and the gaps between them, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Measured, pick_one, require_some
from nnunet_spine_ext.augment.axis_matrices import AxisWork, Interpolation, Profile, Slices
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class SliceProfile(Measured, stage="axis"):
    """Excite thick slices and interpolate between them.

    `thickness`: full width at half maximum. `gap`: to the next slice. `profile`: one of those listed; "box" with
    slopes of `edge` times the thickness, "slr" with the smooth slopes of a designed pulse, "gaussian".
    `interpolation`: how the slices are brought back to the grid of the patch; "nearest" makes stairs, and may move what
    lies between by half a voxel. Slices that are no further apart than
    those of the patch change nothing, and there are none in 2-D unless `slice_axis` names one.
    """

    p: float = 0.2
    thickness: Range = spread([2.0, 6.0], limits=(0.01, 100.0))
    gap: Range = spread([0.0, 1.0], limits=(0.0, 100.0), neutral=0.0)
    profile: tuple[Profile, ...] = ("box", "slr", "gaussian")
    edge: Range = spread([0.0, 0.4], limits=(0.0, 1.0))
    interpolation: tuple[Interpolation, ...] = ("linear", "cubic")

    def __post_init__(self) -> None:
        """Refuse empty lists of profiles and interpolations."""
        super().__post_init__()
        require_some(self.name, "profile", self.profile)
        require_some(self.name, "interpolation", self.interpolation)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the slices; lengths in mm."""
        across = self.through_plane_axis(rng, context)
        spacing = context.spacing[across] if across is not None else 1.0
        return {
            "axis": across,
            "thickness": self.length(rng, "thickness", spacing, context),
            "gap": self.length(rng, "gap", spacing, context, neutral=0.0),
            "phase": float(rng.random()),
            "profile": pick_one(rng, self.profile),
            "edge": self.draw(rng, "edge", context),
            "interpolation": pick_one(rng, self.interpolation),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the slices."""
        if params["axis"] is None:
            return
        names = ("thickness", "gap", "phase", "profile", "edge", "interpolation")
        slices = Slices(**{name: params[name] for name in names})
        builder.along(index, params["channels"], params["axis"], AxisWork(slices=(slices,)))
