"""Brighter or darker by a constant, as another offset of the receiver or another rescaling does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class BrightnessShift(Selective, stage="table"):
    """Add `shift`, in units of the signal's span."""

    p: float = 0.1
    shift: Range = spread([-0.1, 0.1], limits=(-4.0, 4.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the shift."""
        return {**self.select(rng, context), "shift": self.draw(rng, "shift", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the map u -> u + shift."""
        builder.affine(index, params, 1.0, params["shift"])
