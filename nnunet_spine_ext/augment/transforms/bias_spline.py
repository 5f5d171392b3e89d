"""A bias field whose logarithm is a smooth random surface with a length scale in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import seeded
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.spline import knots
from nnunet_spine_ext.augment.transform import Params

_WAVES = 48


@dataclass(frozen=True, kw_only=True)
class BiasSpline(Placed, stage="field"):
    """Receive and dielectric shading: a Gaussian random field.

    `sd`: of the logarithm of the field. `scale`: correlation length in mm; shading at 3 T has about 100-200 mm.
    """

    p: float = 0.15
    sd: Range = spread([0.05, 0.3], limits=(0.0, 2.0), neutral=0.0)
    scale: Range = spread([60.0, 200.0], limits=(10.0, 2000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw strength, scale and the seed of the waves that make up the field."""
        sd, scale = self.draw(rng, "sd", context), self.draw(rng, "scale", context)
        return {"sd": sd, "scale": scale, "seed": int(rng.integers(2**53)), **self.place(rng, context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the field at the knots: a sum of plane waves, the same at any grid of the same patch."""
        rng = seeded(params["seed"])
        waves = rng.standard_normal((_WAVES, context.dim)) / params["scale"]
        phases = rng.uniform(0, 2 * np.pi, _WAVES)
        # A plane wave is a product over the axes, so that few exponentials are needed.
        field = np.exp(1j * phases)
        for axis, places in enumerate(knots(context)[:-1]):
            factor = np.exp(1j * places[:, None] * waves[:, axis])
            field = field[..., None, :] * factor
        last = np.exp(1j * knots(context)[-1][:, None] * waves[:, -1])
        field = (field @ last.T).real * np.sqrt(2 / _WAVES)
        builder.multiply(index, params["channels"], params["sd"] * field, params.get("labels"))
