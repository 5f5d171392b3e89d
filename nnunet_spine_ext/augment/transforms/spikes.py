"""Spikes in k-space: waves all over the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import Spike
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Spikes(Acquired, stage="kspace"):
    """Add single large values to k-space: plane waves over tissue, an even veil in the dark.

    `intensity`: amplitude of each wave in units of the signal's span. `number`: of spikes. `radius`: how far from the
    middle of k-space, in cycles per voxel; 0.5 is the edge.
    """

    p: float = 0.03
    intensity: Range = spread({"log": [0.02, 0.08]}, limits=(0.0, 10.0))
    number: Range = spread({"choice": [1, 2, 3]}, limits=(1, 100))
    radius: Range = spread([0.05, 0.4], limits=(0.0, 0.5))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the spikes."""
        return {
            "slice_axis": self.through_plane_axis(rng, context),
            "spikes": [self._spike(rng, context) for _ in range(round(self.number.sample(rng)))],
        }

    def _spike(self, rng: np.random.Generator, context: Context) -> Params:
        radius, direction = self.radius.sample(rng), rng.uniform(-np.pi, np.pi)
        return {
            "frequency": [float(radius * np.cos(direction)), float(radius * np.sin(direction))],
            "per_slice": float(rng.uniform(-0.5, 0.5)),
            "amplitude": self.intensity.scaled(rng, None, 1.0) * min(1.0, context.strength),
            "angle": float(rng.uniform(-np.pi, np.pi)),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the spikes at the nearest points of k-space."""
        shape = builder.plane(index, params["slice_axis"]).shape
        last = (shape[1] - 1) // 2
        for spike in params["spikes"] if last > 0 else ():
            # Opposite frequencies are the same wave seen from the other side: one half of k-space holds all.
            sign = 1 if spike["frequency"][1] >= 0 else -1
            row, column = (round(sign * f * n) for f, n in zip(spike["frequency"], shape, strict=True))
            place = row % shape[0], min(max(column, 1), last)
            made = Spike(place, spike["per_slice"], spike["amplitude"], spike["angle"])
            builder.spike(index, params["channels"], made)
