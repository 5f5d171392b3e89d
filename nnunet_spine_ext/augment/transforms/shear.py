"""Shear in millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling, homogeneous
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Shear(Resampling, stage="warp"):
    """Tilt each pair of `axes` by its own angle: positions along the first move by tan(angle) times the second.

    Volumes stay what they are. The other order of a pair differs by a rotation only.
    """

    p: float = 0.1
    degrees: Range = spread([-5.0, 5.0], limits=(-60.0, 60.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw one angle per pair of axes, as [moved axis, other axis, degrees]."""
        free = set(self.chosen(context)) - set(self.locked(context))
        pairs = [(a, b) for a in range(context.dim) for b in range(a + 1, context.dim)]
        angles = [self.draw(rng, "degrees", context) for _ in pairs]
        return {"tilts": [[a, b, angle] for (a, b), angle in zip(pairs, angles, strict=True) if {a, b} <= free]}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the shear."""
        linear = np.eye(context.dim)
        for moved, other, angle in params["tilts"]:
            linear[moved, other] = math.tan(math.radians(angle))
        builder.compose(index, homogeneous(linear))
