"""Chemical shift: fat is recorded beside its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ChemicalShift(Acquired, stage="axis"):
    """Move fat along the readout, one axis of the plane: dark lines on one side of what is fatty, bright ones opposite.

    `voxels`: 224 Hz at 1.5 T or 447 Hz at 3 T over the readout bandwidth per voxel; either direction. What is fat is
    not in an image. It is taken to be the part `fat` (0-1 by label id) of a labelled structure, nothing of those not
    listed, and the part `background` of everything else; of what is brighter than half of the signal's span, less of
    what is darker, and nothing of what is dark. Fluid without a label is thus taken for fat.
    """

    p: float = 0.05
    voxels: Range = spread([0.5, 2.5], limits=(0.0, 20.0), neutral=0.0)
    fat: dict[str | int, float] | None = None
    background: float = 1.0

    def __post_init__(self) -> None:
        """Check fractions and ids."""
        super().__post_init__()
        fractions = {**(self.fat or {}), "background": self.background}
        for label, fraction in fractions.items():
            if not 0 <= fraction <= 1 or (label != "background" and not str(label).isdecimal()):
                raise UsageError(
                    "E-CONFIG-RANGE",
                    file=f"{self.name}: fat",
                    found=f"{label}: {fraction}",
                    expected="label ids with a fat fraction from 0 to 1",
                    fix="correct it",
                )

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw axis, amount and direction."""
        axis = pick_one(rng, in_plane(context, self.through_plane_axis(rng, context)))
        sign = pick_one(rng, (-1.0, 1.0))
        fat = {0: self.background} | {int(label): float(fraction) for label, fraction in (self.fat or {}).items()}
        return {"axis": axis, "voxels": sign * self.draw(rng, "voxels", context), "fat": sorted(map(list, fat.items()))}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the shift."""
        if params["voxels"] and context.shape[params["axis"]] > 1:
            builder.shift_fat(index, params["channels"], params["axis"], params["voxels"], dict(params["fat"]))
