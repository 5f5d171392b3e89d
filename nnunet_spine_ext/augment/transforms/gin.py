"""A small random network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import seeded
from nnunet_spine_ext.augment.local_kernels import random_layers
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Gin(Selective, stage="local"):
    """Global intensity non-linear augmentation (Ouyang et al., TMI 2022): shapes kept, appearance random.

    A few convolutions with random kernels of 1 or 3 voxels and shifts, leaky rectifiers between them, blended with
    the original; mean and norm stay. `layers`: number of convolutions. `width`: channels between them. `mix`: share
    of the network.
    """

    p: float = 0.1
    layers: Range = spread(4, limits=(1, 8))
    width: Range = spread(2, limits=(1, 8))
    mix: Range = spread([0.0, 1.0], limits=(0.0, 1.0), neutral=0.0)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the sizes of the kernels, and the seed of kernels and shifts."""
        depth, width = (round(self.draw(rng, name, context)) for name in ("layers", "width"))
        sizes = [int(size) for size in rng.choice([1, 3], depth)]
        return {**self.select(rng, context), "sizes": sizes, "width": width, "seed": int(rng.integers(2**53))}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the network."""
        layers = random_layers(seeded(params["seed"]), params["sizes"], params["width"], context.spacing)
        builder.network(index, params, layers)
