"""Partial Fourier acquisition along one axis, without complex numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one
from nnunet_spine_ext.augment.axis_matrices import AxisWork
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class PartialFourier(Acquired, stage="axis"):
    """Acquire only a `fraction` of k-space along one axis of the plane and fill the rest with zeros.

    What is acquired on one side only counts half: the real part of the result for a signal without phase. What its
    imaginary part adds to the magnitude is left out; see `complex_partial_fourier` for the whole.
    """

    p: float = 0.1
    fraction: Range = spread([0.6, 0.9], limits=(0.5, 1.0), neutral=1.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw axis and fraction."""
        axis = pick_one(rng, in_plane(context, self.through_plane_axis(rng, context)))
        return {"axis": axis, "fraction": self.draw(rng, "fraction", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the filter."""
        builder.along(index, params["channels"], params["axis"], AxisWork(partial=params["fraction"]))
