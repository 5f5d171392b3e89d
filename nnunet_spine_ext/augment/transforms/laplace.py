"""The second derivative in place of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.local_kernels import laplace
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Laplace(Selective, stage="local"):
    """Thin lines along edges: the sum of the second derivatives per squared mm.

    `absolute`: its absolute value, so that both sides of an edge are bright. `negative`: its negative, bright where the
    image is brighter than around. `mix`: with the original.
    """

    p: float = 0.05
    mix: Range = spread([0.2, 1.0], limits=(0.0, 1.0), neutral=0.0)
    retain_stats: bool = True
    absolute: bool = True
    negative: bool = False

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw where, and the share of the lines."""
        return {**self.select(rng, context), "absolute": self.absolute, "negative": self.negative}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the kernel."""
        kernel = laplace(context.spacing)
        kernel = -kernel if params["negative"] else kernel
        builder.correlate(index, params, kernel, absolute=params["absolute"])
