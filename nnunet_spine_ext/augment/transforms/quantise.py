"""Intensities rounded as when they are stored with few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params, Transform


@dataclass(frozen=True, kw_only=True)
class Quantise(Transform, stage="final"):
    """Store the image with `bits` per voxel, of whose range the brightest tissue reaches the part `used`.

    12 bits hardly show, unless little of them is used; 8 bits are those of screenshots. What is brighter than the range
    is cut off. It comes after noise and before `renormalise`.
    """

    p: float = 0.05
    graded = False
    bits: Range = spread({"choice": [8.0, 10.0, 12.0]}, limits=(2.0, 16.0))
    used: Range = spread({"log": [0.1, 1.0]}, limits=(0.001, 1.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the number of steps from air to the brightest tissue, and in all."""
        last = 2.0 ** round(self.draw(rng, "bits", context)) - 1
        return {"steps": max(1.0, last * self.draw(rng, "used", context)), "last": last}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Ask the last stage for rounding."""
        builder.round(index, params["channels"], params["steps"], params["last"])
