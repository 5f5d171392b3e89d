"""Mean and standard deviation of the patch as before the intensity stages, or as set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params, Transform


@dataclass(frozen=True, kw_only=True)
class Renormalise(Transform, stage="final"):
    """After all other stages, give the patch known statistics.

    `to`: the mean and standard deviation that it had after the warp ("input"), or `mean` and `sd` ("values": a z-score
    with the defaults). The input's mean can be moved by `shift` of its standard deviation, and this be multiplied by
    `gain`: whole images are normalised, and what else they show differs from scanner to scanner.
    """

    p: float = 1.0
    to: Literal["input", "values"] = "input"
    mean: Range = spread(0.0)
    sd: Range = spread(1.0, limits=(0.0, 1e6))
    shift: Range = spread(0.0, limits=(-10.0, 10.0), neutral=0.0)
    gain: Range = spread(1.0, limits=(0.01, 100.0), neutral=1.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw mean and standard deviation, or how far they are from the input's."""
        if self.to == "input":
            return {
                "to": "input",
                "shift": self.draw(rng, "shift", context),
                "gain": self.draw(rng, "gain", context),
            }
        return {"to": "values", "mean": self.draw(rng, "mean", context), "sd": self.draw(rng, "sd", context)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Ask the last stage for these statistics."""
        if params["to"] == "input":
            builder.restore(index, params["channels"], params["shift"], params["gain"])
        else:
            builder.normalise(index, params["channels"], params["mean"], params["sd"])
