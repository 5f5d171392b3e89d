"""A random smooth curve from dark to bright, or from bright to dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import on_unit
from nnunet_spine_ext.augment.transform import Params

_POINTS = 257


@dataclass(frozen=True, kw_only=True)
class Bezier(Selective, stage="table"):
    """A cubic Bézier curve through (0, 0) and (1, 1) with two random control points in the unit square.

    `amount`: 1 uses the drawn points, 0 those of a straight line. `invert`: probability of the falling curve.
    """

    p: float = 0.1
    amount: Range = spread([0.3, 1.0], limits=(0.0, 1.0), neutral=0.0)
    invert: float = 0.0

    def __post_init__(self) -> None:
        """Check the probability."""
        super().__post_init__()
        self.check_share("invert")

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the control points, abscissae in order so that the curve is a function."""
        amount = self.draw(rng, "amount", context)
        points = np.stack([np.sort(rng.random(2)), rng.random(2)], axis=1)
        straight = np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]])
        moved = straight + amount * (points - straight)
        inverted = bool(rng.random() < self.invert)
        return {**self.select(rng, context), "points": moved.tolist(), "inverted": inverted}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        (x1, y1), (x2, y2) = params["points"]
        t = np.linspace(0, 1, _POINTS)
        x, y = (3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 for a, b in ((x1, x2), (y1, y2)))
        y = 1 - y if params["inverted"] else y
        builder.curve(index, params, on_unit(lambda u: np.interp(u, x, y)))
