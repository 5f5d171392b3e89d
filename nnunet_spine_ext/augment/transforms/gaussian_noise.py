"""Real Gaussian noise, for images that are no magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Placed, stage="noise"):
    """Gaussian noise everywhere, in air too: of CT, and of what other software calls noise; MRI has Rician noise.

    `sigma`: standard deviation in units of the signal's span. `colour`: as for Rician noise.
    """

    p: float = 0.1
    sigma: Range = spread([0.0, 0.08], limits=(0.0, 2.0), neutral=0.0)
    colour: Literal["acquisition", "white"] = "acquisition"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the level and where in the pool the noise is taken from."""
        sigma = self.draw(rng, "sigma", context)
        params = {"sigma": sigma, "offsets": [draw_offset(rng)], "colour": self.colour}
        return {**params, **self.place(rng, context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the noise."""
        builder.add(
            index,
            params["channels"],
            params["sigma"],
            params["offsets"],
            magnitude=False,
            follow=params["colour"] == "acquisition",
            labels=params.get("labels"),
        )
