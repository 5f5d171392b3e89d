"""Noise of a magnitude image from one coil, or from several combined as complex images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.gfactor import draw_map, map_at_knots
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class RicianNoise(Placed, stage="noise"):
    """Rician noise: Gaussian in bright tissue, Rayleigh in air.

    `sigma`: standard deviation in units of the signal's span (the brightest tissue): 0.02 is a good clinical image,
    0.1 a poor one. `g_factor`: largest amplification by parallel imaging in the middle of the patch; 1 is none.
    `colour`: noise enters before what transforms of the stage `axis` cut off, window, fill with zeros and interpolate
    ("acquisition"; white where none fires), or after it ("white").
    """

    p: float = 0.2
    sigma: Range = spread([0.0, 0.08], limits=(0.0, 2.0), neutral=0.0)
    g_factor: Range = spread(1.0, limits=(1.0, 10.0), neutral=1.0)
    colour: Literal["acquisition", "white"] = "acquisition"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the level, the map and where in the pool the noise is taken from."""
        return {
            "sigma": self.draw(rng, "sigma", context),
            "map": draw_map(rng, self.draw(rng, "g_factor", context), context),
            "offsets": [draw_offset(rng) for _ in range(3)],
            "colour": self.colour,
            **self.place(rng, context),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the noise."""
        amplification = map_at_knots(params["map"], context)
        builder.add(
            index,
            params["channels"],
            params["sigma"],
            params["offsets"],
            amplification=amplification,
            follow=params["colour"] == "acquisition",
            labels=params.get("labels"),
        )
