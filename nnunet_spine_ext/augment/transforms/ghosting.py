"""Ghosts by periodic changes during the acquisition: breathing, pulsating vessels, unstable gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import ghosts
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Ghosting(Acquired, stage="kspace"):
    """Modulate lines of k-space periodically: two faint copies of the image along one axis of the slice.

    `intensity`: amplitude of a ghost in parts of the image. `number`: ghosts lie a `number`-th of the patch to either
    side; not necessarily a whole number.
    """

    p: float = 0.05
    intensity: Range = spread([0.03, 0.2], limits=(0.0, 1.0), neutral=0.0)
    number: Range = spread([2.0, 8.0], limits=(1.0, 1000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw axis, strength, distance and angle."""
        return {
            "slice_axis": self.through_plane_axis(rng, context),
            "phase": int(rng.integers(2)),
            "intensity": self.draw(rng, "intensity", context),
            "number": self.draw(rng, "number", context),
            "angle": float(rng.uniform(-np.pi, np.pi)),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the modulation."""
        plane = builder.plane(index, params["slice_axis"])
        table = ghosts(plane, params["phase"], params["intensity"], params["number"], params["angle"])
        builder.multiply(index, params["channels"], table)
