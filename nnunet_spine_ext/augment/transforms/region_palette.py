"""Intensity classes repainted region by region: the same tissue has another brightness in another place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class RegionPalette(Selective, stage="local"):
    """Divide the patch into cells around random places, and give each class of each cell its own grey value.

    `classes`: of the histogram; `clustering`: by k-means, or by a Gaussian mixture ("em"). `regions`: number of cells;
    1 is `palette`. `value`: of a class in a cell, in units of the signal. `variation`: 1 draws the values of every cell
    alone, 0 gives all cells the same. `texture`: part of the differences inside a class that stays, drawn per cell.
    `sharpness`: as for `palette`. `border`: mm over which cells pass into each other; 0 makes sharp seams. `air`:
    probability that the darkest class stays dark in all cells.
    """

    p: float = 0.1
    graded = False
    classes: Range = spread([2, 6], limits=(2, 12))
    regions: Range = spread([2, 10], limits=(1, 32))
    value: Range = spread([0.05, 1.0], limits=(0.0, 2.0))
    variation: Range = spread([0.2, 1.0], limits=(0.0, 1.0))
    texture: Range = spread({"log": [0.5, 2.0]}, limits=(0.0, 3.0))
    sharpness: Range = spread([1.0, 2.5], limits=(1.0, 10.0))
    border: Range = spread([2.0, 8.0], limits=(0.0, 100.0))
    air: float = 0.9
    clustering: Literal["kmeans", "em"] = "kmeans"

    def __post_init__(self) -> None:
        """Check the probability."""
        super().__post_init__()
        self.check_share("air")

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw places in mm from the middle of the patch, and values and texture of each cell."""
        classes, regions = (round(self.draw(rng, name, context)) for name in ("classes", "regions"))
        common = [self.draw(rng, "value", context) for _ in range(classes)]
        variation = self.draw(rng, "variation", context)
        dark = rng.random() < self.air
        values = []
        for _ in range(regions):
            own = [c + variation * (self.draw(rng, "value", context) - c) for c in common]
            values.append([0.0, *own[1:]] if dark else own)
        return {
            **self.select(rng, context),
            "places": (rng.uniform(-0.5, 0.5, (regions, context.dim)) * np.array(context.extent)).tolist(),
            "values": values,
            "texture": [self.draw(rng, "texture", context) for _ in range(regions)],
            "sharpness": self.draw(rng, "sharpness", context),
            "border": self.draw(rng, "border", context),
            "clustering": self.clustering,
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the repainting."""
        cells = (params["places"], params["values"], params["texture"])
        # Records from before cells passed into each other have neither.
        border, mixture = params.get("border", 0.0), params.get("clustering") == "em"
        builder.regions(index, params, *cells, sharpness=params["sharpness"], border=border, mixture=mixture)
