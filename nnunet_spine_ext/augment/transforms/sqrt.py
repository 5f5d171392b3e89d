"""The square root of the signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import on_unit
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Sqrt(Selective, stage="table"):
    """u ** 0.5: lifts dark tissue; `mix` makes it weaker."""

    p: float = 0.05
    graded = False
    retain_stats: bool = True

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw where."""
        return self.select(rng, context)

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the curve."""
        builder.curve(index, params, on_unit(np.sqrt, below=1.0))
