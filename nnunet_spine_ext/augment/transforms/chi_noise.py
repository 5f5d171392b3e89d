"""Noise of a magnitude image from several coils combined by root of summed squares."""

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
class ChiNoise(Placed, stage="noise"):
    """Non-central chi noise: air is brighter and more even than with one coil.

    `sigma`: per coil, in units of the signal's span. `coils`: effective number, 2 to 64. `g_factor`, `colour`: as for
    Rician noise.
    """

    p: float = 0.05
    sigma: Range = spread([0.0, 0.05], limits=(0.0, 2.0), neutral=0.0)
    coils: Range = spread([2, 8], limits=(2, 64))
    g_factor: Range = spread(1.0, limits=(1.0, 10.0), neutral=1.0)
    colour: Literal["acquisition", "white"] = "acquisition"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the level, the number of coils, the map and where in the pool the noise is taken from."""
        return {
            "sigma": self.draw(rng, "sigma", context),
            "coils": round(self.draw(rng, "coils", context)),
            "map": draw_map(rng, self.draw(rng, "g_factor", context), context),
            "offsets": [draw_offset(rng) for _ in range(3)],
            "colour": self.colour,
            **self.place(rng, context),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the noise."""
        builder.add(
            index,
            params["channels"],
            params["sigma"],
            params["offsets"],
            coils=params["coils"],
            amplification=map_at_knots(params["map"], context),
            follow=params["colour"] == "acquisition",
            labels=params.get("labels"),
        )
