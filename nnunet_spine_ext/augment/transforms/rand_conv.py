"""A convolution with a random kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import seeded
from nnunet_spine_ext.augment.local_kernels import random_kernel
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class RandConv(Selective, stage="local"):
    """Texture and contrast of no scanner, shapes untouched: one kernel of normal numbers (Xu et al., ICLR 2021).

    `size`: of the kernel in voxels of the finest axis, odd; along coarser axes as many as cover the same length. The
    kernel is applied about the mean and keeps the spread of images of tissue; `retain_stats` makes that exact.
    """

    p: float = 0.1
    size: Range = spread({"choice": [3, 5, 7]}, limits=(1, 15))
    mix: Range = spread([0.3, 1.0], limits=(0.0, 1.0), neutral=0.0)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the size and the seed of the kernel."""
        size = round(self.draw(rng, "size", context))
        return {**self.select(rng, context), "size": size, "seed": int(rng.integers(2**53))}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the kernel."""
        kernel = random_kernel(seeded(params["seed"]), params["size"], context.spacing)
        builder.correlate(index, params, kernel, absolute=False)
