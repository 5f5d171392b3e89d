"""Two axes exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Geometric, exchange, square_planes
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Transpose(Geometric, stage="warp"):
    """Exchange two of `axes`, without interpolation if nothing else moves; the planes are those of `rot90`."""

    graded: ClassVar[bool] = False

    p: float = 0.1

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the plane."""
        planes = square_planes(context, self.chosen(context))
        which = rng.random()
        return {"plane": list(planes[int(which * len(planes))]) if planes else None}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the exchange."""
        if params["plane"] is not None:
            builder.compose(index, exchange(context, params["plane"], None))
