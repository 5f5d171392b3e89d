"""White Gaussian noise from a fixed pool: random offsets instead of random numbers.

Drawing a million normal numbers costs more than all that is done with them, and each device draws others. The pool is
made once, on the host; a sample's noise is the stretch that begins at its offset. So noise costs at most one copy, is
the same on every device and depends on nothing but the sample's own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

POOL_SIZE = 1 << 22
# So much of the beginning is repeated at the end: stretches up to this size, a patch of 128 voxels cubed, need no copy.
_REPEATED = 1 << 21
_POOL_SEED = 20031


def draw_offset(rng: np.random.Generator) -> int:
    """Draw where a sample's noise begins."""
    return int(rng.integers(POOL_SIZE))


def white_noise(offsets: Sequence[int], shape: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return one stretch of the pool per offset, (*shape) each, standard normal: views, not to be changed."""
    pool = _pool(device)
    return [_stretch(pool, offset, math.prod(shape)).view(*shape) for offset in offsets]


def _stretch(pool: Tensor, offset: int, size: int) -> Tensor:
    """Return `size` numbers from an offset on; a stretch longer than what is left begins again at the start."""
    start = offset % POOL_SIZE
    if start + size <= pool.numel():
        return pool[start : start + size]
    return pool[:POOL_SIZE].roll(-start).repeat(math.ceil(size / POOL_SIZE))[:size]


@lru_cache(maxsize=4)
def _pool(device: torch.device) -> Tensor:
    rng = np.random.Generator(np.random.Philox(key=_POOL_SEED))
    numbers = rng.standard_normal(POOL_SIZE, dtype=np.float32)
    return torch.from_numpy(np.concatenate([numbers, numbers[:_REPEATED]])).to(device)
