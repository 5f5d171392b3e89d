"""The length of the gradient in place of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.local_kernels import scharr
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Scharr(Selective, stage="local"):
    """Edges bright, everything else dark: the magnitude of the gradient by Scharr's kernels, per mm on every axis.

    `mix`: with the original; 1 leaves only edges.
    """

    p: float = 0.1
    mix: Range = spread([0.2, 1.0], limits=(0.0, 1.0), neutral=0.0)
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw where, and the share of the edges."""
        return self.select(rng, context)

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the kernels of all axes."""
        builder.correlate(index, params, scharr(context.spacing), absolute=True)
