"""Pieces of an image exchanged: what is where no longer fits what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import Params

_TRIES = 8


@dataclass(frozen=True, kw_only=True)
class SwapPatches(Selective, stage="local"):
    """Exchange pairs of rectangular blocks of the image; labels stay, so this teaches reconstruction, not appearance.

    `number`: of pairs. `size`: length of each edge in mm, at most half the patch. Few trainings gain from it.
    """

    p: float = 0.05
    number: Range = spread([1, 5], limits=(0, 200), neutral=0.0)
    size: Range = spread([5.0, 15.0], limits=(0.5, 1000.0))

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the first voxels of both blocks of each pair, and their size."""
        pairs = []
        for _ in range(round(self.draw(rng, "number", context))):
            sizes = [
                int(np.clip(round(self.draw(rng, "size", context) / spacing), 1, max(1, n // 2)))
                for n, spacing in zip(context.shape, context.spacing, strict=True)
            ]
            first, *others = (
                [int(rng.integers(n - size + 1)) for n, size in zip(context.shape, sizes, strict=True)]
                for _ in range(1 + _TRIES)
            )
            # Blocks that overlap cannot change places: a part of one of them would be lost.
            pairs += [[first, other, sizes] for other in others if _apart(first, other, sizes)][:1]
        return {**self.select(rng, context), "pairs": pairs}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the exchanges."""
        builder.swap(index, params, params["pairs"])


def _apart(first: Sequence[int], second: Sequence[int], sizes: Sequence[int]) -> bool:
    """Return whether two blocks of these sizes have no voxel in common."""
    return any(abs(a - b) >= size for a, b, size in zip(first, second, sizes, strict=True))
