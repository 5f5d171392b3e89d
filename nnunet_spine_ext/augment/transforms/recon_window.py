"""Windows that scanners put on k-space before reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, in_plane, pick_one, require_some
from nnunet_spine_ext.augment.axis_matrices import AxisWork, Window, WindowKind
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class ReconWindow(Acquired, stage="axis"):
    """Smooth k-space along both axes of the plane over what was acquired, which takes ringing and sharpness away.

    `kind`: one of those listed. `amount`: 1 is the full window. `taper`: part of k-space in which a Tukey or Fermi
    window falls off.
    """

    p: float = 0.15
    kind: tuple[WindowKind, ...] = ("hann", "tukey", "fermi")
    amount: Range = spread([0.3, 1.0], limits=(0.0, 1.0), neutral=0.0)
    taper: Range = spread([0.2, 0.8], limits=(0.0, 1.0))

    def __post_init__(self) -> None:
        """Refuse an empty list of windows."""
        super().__post_init__()
        require_some(self.name, "kind", self.kind)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the window."""
        return {
            "axes": in_plane(context, self.through_plane_axis(rng, context)),
            "kind": pick_one(rng, self.kind),
            "amount": self.draw(rng, "amount", context),
            "taper": self.draw(rng, "taper", context),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the window of each axis."""
        window = Window(params["kind"], params["amount"], params["taper"])
        for axis in params["axes"]:
            builder.along(index, params["channels"], axis, AxisWork(windows=(window,)))
