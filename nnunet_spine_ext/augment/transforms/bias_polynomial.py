"""A bias field whose logarithm is a polynomial of the position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.spline import knots
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.errors import UsageError

_HIGHEST = 8


@dataclass(frozen=True, kw_only=True)
class BiasPolynomial(Placed, stage="field"):
    """exp of a polynomial of degree `order` in coordinates from -1 to 1 over the patch.

    `coefficient`: bound of the random coefficients; 0.5 changes the signal by up to about 60 % from end to end.
    """

    p: float = 0.15
    order: int = 3
    coefficient: Range = spread([0.0, 0.3], limits=(0.0, 3.0), neutral=0.0)

    def __post_init__(self) -> None:
        """Refuse an order that is none, or finer than the knots of the field."""
        super().__post_init__()
        if not 1 <= self.order <= _HIGHEST:
            raise UsageError(
                "E-CONFIG-RANGE",
                file=f"{self.name}: order",
                found=str(self.order),
                expected=f"1 to {_HIGHEST}",
                fix="correct it",
            )

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the coefficients of all monomials up to the order, one axis of the array per axis of the image."""
        bound = self.draw(rng, "coefficient", context)
        shape = (self.order + 1,) * context.dim
        values = rng.uniform(-bound, bound, shape)
        degree = np.indices(shape).sum(axis=0)
        values[(degree > self.order) | (degree == 0)] = 0.0
        return {"coefficients": values.tolist(), **self.place(rng, context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the polynomial at the knots."""
        field = np.array(params["coefficients"])
        for places, extent in zip(knots(context), context.extent, strict=True):
            # Contract the first axis, powers, with the positions; the new axis goes to the end.
            powers = np.vander(places / (extent / 2), field.shape[0], increasing=True)
            field = np.tensordot(field, powers, axes=(0, 1))
        builder.multiply(index, params["channels"], field, params.get("labels"))
