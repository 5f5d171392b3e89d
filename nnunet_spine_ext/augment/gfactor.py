"""Maps of noise amplification by parallel imaging: worst where the coils are hardest to tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.spline import knot_grid

_NONE = 1.001


def draw_map(rng: np.random.Generator, largest: float, context: Context) -> dict[str, Any] | None:
    """Draw the parameters of a map with the largest value `largest`; None when there is no amplification.

    The amplification is a bump of random centre and width (a third to all of the patch) along each axis.
    """
    if largest < _NONE:
        return None
    centre = rng.uniform(-0.25, 0.25, context.dim) * np.array(context.extent)
    width = rng.uniform(0.35, 1.0, context.dim) * np.array(context.extent)
    return {"largest": largest, "centre": centre.tolist(), "width": width.tolist()}


def map_at_knots(params: dict[str, Any] | None, context: Context) -> NDArray[np.float64] | None:
    """Return the factors, at least 1, at the knots of the spline."""
    if params is None:
        return None
    distance = (knot_grid(context) - np.array(params["centre"])) / (np.array(params["width"]) / 2)
    return 1 + (params["largest"] - 1) * np.exp(-0.5 * (distance**2).sum(axis=-1))
