"""Parts of the image that show nothing."""

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
class BlankRectangle(Selective, stage="local"):
    """Cut-out: rectangular blocks without content; labels stay, so that the network infers from what is around.

    `number`: of blocks. `size`: length of each edge in mm, at most half the patch. `fill`: the block's own mean, air,
    noise, or any of these.
    """

    p: float = 0.1
    number: Range = spread([1, 3], limits=(0, 50), neutral=0.0)
    size: Range = spread([8.0, 30.0], limits=(0.5, 1000.0))
    fill: Literal["mean", "air", "noise", "any"] = "any"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the blocks as first voxel and voxel beyond the last, along every axis."""
        boxes = []
        for _ in range(round(self.draw(rng, "number", context))):
            sizes = [
                int(np.clip(round(self.draw(rng, "size", context) / spacing), 1, max(1, n // 2)))
                for n, spacing in zip(context.shape, context.spacing, strict=True)
            ]
            low = [int(rng.integers(n - size + 1)) for n, size in zip(context.shape, sizes, strict=True)]
            boxes.append([low, [start + size for start, size in zip(low, sizes, strict=True)]])
        fill = str(rng.choice(["mean", "air", "noise"])) if self.fill == "any" else self.fill
        return {**self.select(rng, context), "boxes": boxes, "fill": fill, "noise_offset": draw_offset(rng)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the blocks."""
        builder.blank(index, params, params["boxes"], params["fill"], params["noise_offset"])
