"""Signal void at metal or another strong source of susceptibility."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.object_effects import make_void, random_turn, rotated_rows
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class SignalVoid(Acquired, stage="axis"):
    """An ellipsoid anywhere in the patch loses its signal, which piles up at one end of it along the readout.

    `radius`: mm, the geometric mean of the three; the longest is up to `elongation` times the shortest. `rim`: height
    of the pile-up in units of the signal there. Labels stay: what is there is not seen, but it is there.
    """

    p: float = 0.03
    radius: Range = spread({"log": [2.0, 10.0]}, limits=(0.1, 200.0))
    elongation: Range = spread([1.0, 2.5], limits=(1.0, 10.0), neutral=1.0)
    rim: Range = spread([0.3, 1.5], limits=(0.0, 5.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw place (mm from the middle of the patch), shape and readout."""
        read = pick_one(rng, in_plane(context, self.through_plane_axis(rng, context)))
        radius = self.radius.scaled(rng, None, 1.0) * min(1.0, context.strength)
        spread_ = math.log(self.draw(rng, "elongation", context))
        logs = spread_ * rng.uniform(-0.5, 0.5, context.dim)
        return {
            "centre": [float(v) for v in rng.uniform(-0.5, 0.5, context.dim) * np.asarray(context.extent)],
            "rows": rotated_rows(radius * np.exp(logs - logs.mean()), random_turn(rng, context.dim)),
            "read": read,
            "rim": self.draw(rng, "rim", context),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the void."""
        void = make_void(context, params["centre"], params["rows"], params["read"], params["rim"])
        if void is not None:
            builder.void(index, params["channels"], void)
