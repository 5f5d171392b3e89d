"""The negative image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Inverse(Selective, stage="table"):
    """Bright becomes dark: 1 - u."""

    p: float = 0.1
    graded = False
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw where."""
        return self.select(rng, context)

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the map u -> 1 - u."""
        builder.affine(index, params, -1.0, 1.0)
