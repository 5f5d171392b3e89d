"""Intensity classes of the whole image repainted: anatomy keeps its borders, the contrast is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Palette(Selective, stage="table"):
    """Divide the histogram into `classes` and give each a random grey value; needs no labels.

    `clustering`: by k-means, or by a Gaussian mixture ("em"), whose classes are as wide as those of the image.
    `texture`: part of the differences inside a class that stays. `sharpness`: 1 blends from class to class, 4 nearly
    in steps. `air`: probability that the darkest class stays dark. A class that is wide, by noise or texture, differs
    less from its neighbours. Where fat borders on air, what both share passes through all classes between: rims stay.
    """

    p: float = 0.15
    graded = False
    classes: Range = spread([3, 7], limits=(2, 12))
    value: Range = spread([0.05, 1.0], limits=(0.0, 2.0))
    texture: Range = spread([0.3, 1.0], limits=(0.0, 3.0))
    sharpness: Range = spread([1.0, 2.5], limits=(1.0, 10.0))
    air: float = 0.9
    clustering: Literal["kmeans", "em"] = "kmeans"

    def __post_init__(self) -> None:
        """Check the probability."""
        super().__post_init__()
        self.check_share("air")

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the grey values."""
        values = [self.draw(rng, "value", context) for _ in range(round(self.draw(rng, "classes", context)))]
        if rng.random() < self.air:
            values[0] = 0.0
        texture, sharpness = self.draw(rng, "texture", context), self.draw(rng, "sharpness", context)
        params = {**self.select(rng, context), "noise_offset": draw_offset(rng)}
        found = {"clustering": self.clustering, "values": values}
        return {**params, **found, "texture": texture, "sharpness": sharpness}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the repainting."""
        number = len(params["values"])
        texture = [params["texture"]] * number
        builder.classes(
            index,
            params,
            means=params["values"],
            texture=texture,
            noise=[0.0] * number,
            sharpness=params["sharpness"],
            mixture=params["clustering"] == "em",
        )
