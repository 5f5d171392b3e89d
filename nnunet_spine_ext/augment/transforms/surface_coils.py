"""The receive field of an array of surface coils: bright near the skin of the back, dark in the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.spline import knot_grid
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.errors import UsageError

_SCATTER = 0.15


@dataclass(frozen=True, kw_only=True)
class SurfaceCoils(Placed, stage="field"):
    """Root of the summed squares of loops side by side in one plane.

    `axis`, `side`: array axis that points from the array into the body, and at which end the array lies (-1 or 1);
    None: any. In nnU-Net's order a spine coil lies at axis 1, side -1. `coils`: loops in the patch's surroundings.
    `radius`: of a loop in mm. `distance`: from the centre of the patch to the array in mm. `residual`: how much of the
    fall-off is left after the scanner's own normalisation (0 none, 1 all).
    """

    p: float = 0.15
    axis: int | None = None
    side: int | None = None
    coils: Range = spread([2, 8], limits=(1, 64))
    radius: Range = spread([40.0, 90.0], limits=(5.0, 500.0))
    distance: Range = spread([60.0, 150.0], limits=(1.0, 2000.0))
    residual: Range = spread([0.1, 0.6], limits=(0.0, 1.5), neutral=0.0)

    def __post_init__(self) -> None:
        """Refuse a side that is none."""
        super().__post_init__()
        if self.side not in (None, -1, 1):
            raise self._refuse("E-CONFIG-VALUE", f"side {self.side}", "-1 or 1")

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the places of the loops in mm about the centre of the patch, and their gains.

        Raises
        ------
        UsageError: an axis that the patch does not have.
        """
        if self.axis is not None and not 0 <= self.axis < context.dim:
            raise self._refuse("E-AUG-CONTEXT", f"axis {self.axis}", f"an array axis from 0 to {context.dim - 1}")
        axis = int(rng.integers(context.dim)) if self.axis is None else self.axis
        side = int(rng.choice([-1, 1])) if self.side is None else self.side
        number, radius = round(self.draw(rng, "coils", context)), self.draw(rng, "radius", context)
        places = rng.uniform(-0.5, 0.5, (number, context.dim)) * (np.array(context.extent) + 2 * radius)
        places[:, axis] = side * self.draw(rng, "distance", context)
        gains = np.exp(rng.normal(0, _SCATTER, number))
        return {
            "places": places.tolist(),
            "gains": gains.tolist(),
            "radius": radius,
            "residual": self.draw(rng, "residual", context),
            **self.place(rng, context),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the field at the knots; on the axis of a loop it is R^3 / (R^2 + d^2)^1.5."""
        offset = knot_grid(context)[..., None, :] - np.array(params["places"])
        squared = params["radius"] ** 2
        loops = np.array(params["gains"]) * (squared / (squared + (offset**2).sum(axis=-1))) ** 1.5
        field = params["residual"] * 0.5 * np.log((loops**2).sum(axis=-1))
        builder.multiply(index, params["channels"], field, params.get("labels"))

    def _refuse(self, code: str, found: str, expected: str) -> UsageError:
        return UsageError(code, file=self.name, found=found, expected=expected, fix="correct it")
