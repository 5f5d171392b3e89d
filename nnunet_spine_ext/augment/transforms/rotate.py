"""Rotation in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling, rotation
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Rotate(Resampling, stage="warp"):
    """Rotate about the centre, in mm: shapes stay what they are on anisotropic voxels too.

    About each of `axes` by its own angle from `degrees`; about axis 0 first. In 2-D there is one angle.
    """

    p: float = 0.2
    degrees: Range = spread([-30.0, 30.0], limits=(-180.0, 180.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw one angle per axis."""
        chosen, locked = self.chosen(context), self.locked(context)
        if context.dim == 2:
            return {"degrees": [self.draw(rng, "degrees", context)]}
        angles = [self.draw(rng, "degrees", context) for _ in range(3)]
        free = [axis in chosen and all(other == axis for other in locked) for axis in range(3)]
        return {"degrees": [angle if turns else 0.0 for angle, turns in zip(angles, free, strict=True)]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the rotation."""
        builder.compose(index, rotation(params["degrees"]))
