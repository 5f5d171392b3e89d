"""Quarter turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Geometric, exchange, square_planes
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Rot90(Geometric, stage="warp"):
    """Rotate by 90, 180 or 270 degrees in a plane of two of `axes`, without interpolation if nothing else moves.

    Only planes with as many voxels, of the same size, along both axes; not with the left-right axis if labels have
    sides. Without such a plane nothing happens.
    """

    graded: ClassVar[bool] = False

    p: float = 0.1

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the plane and the number of quarter turns."""
        planes = square_planes(context, self.chosen(context))
        which, turns = rng.random(), int(rng.integers(1, 4))
        return {"plane": list(planes[int(which * len(planes))]) if planes else None, "turns": turns}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the turn."""
        if params["plane"] is not None:
            builder.compose(index, exchange(context, params["plane"], params["turns"]))
