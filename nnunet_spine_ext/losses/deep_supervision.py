"""Deep supervision by soft targets: average pooling without what is ignored, level weights, a wrapper for losses.

A target is (B, K+1, *spatial): the values of K soft classes, then one channel of validity (1 = supervised).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.supervised import VALID_ABOVE, check_choice, is_valid

LevelScheme = Literal["nnunet", "paper"]


def pooled(values: Tensor, valid: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return values and validity at a coarser level: means over blocks, which keep the volume.

    Interpolation without a filter reads the centre of each block only: from a quarter on it loses volume. Blocks
    overlap where sizes do not divide; nnU-Net's do.

    Parameters
    ----------
    values: (B, K, *spatial), 2-D or 3-D.
    valid: (B, 1, *spatial), supervised where above 0.999.
    size: spatial shape of the level, nowhere larger.

    Returns
    -------
    values (B, K, *size): mean over the supervised voxels of each block, 0 where there are none; float32 or float64.
    valid (B, 1, *size): 1 where a block is supervised as a whole (more than 0.999 of it), else 0.

    Raises
    ------
    UsageError: a size of other dimension, or larger.
    """
    shape = tuple(values.shape[2:])
    size = tuple(int(n) for n in size)
    if len(size) != len(shape) or any(not 0 < new <= old for new, old in zip(size, shape, strict=True)):
        raise UsageError(
            "E-LOSS-SHAPE",
            found=f"a level of {size} for a target of {shape}",
            expected="a level of the same dimension, nowhere larger than the target",
            fix="give targets at the resolution of the first output",
        )
    dtype = torch.promote_types(values.dtype, torch.float32)
    mask = is_valid(valid)
    kept = torch.where(mask, values.to(dtype), torch.zeros((), dtype=dtype, device=values.device))
    means = _means(torch.cat([kept, mask.to(dtype)], 1), size)
    share = means[:, -1:]
    # A block without supervised voxels has a mean of 0: the divisor only has to be no 0.
    smallest = torch.finfo(dtype).tiny
    return means[:, :-1] / share.clamp_min(smallest), (share > VALID_ABOVE).to(dtype)


def _means(stack: Tensor, size: tuple[int, ...]) -> Tensor:
    shape = tuple(stack.shape[2:])
    flat = len(size) == 2
    if all(old % new == 0 for new, old in zip(size, shape, strict=True)):
        kernel = [old // new for new, old in zip(size, shape, strict=True)]
        return (functional.avg_pool2d if flat else functional.avg_pool3d)(stack, kernel)
    return (functional.adaptive_avg_pool2d if flat else functional.adaptive_avg_pool3d)(stack, size)


def soft_targets(target: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return a target (B, K+1, *spatial) at each of the sizes, as (B, K+1, *size); raises as `pooled`."""
    return [_at_size(target, tuple(int(n) for n in size)) for size in sizes]


def _at_size(target: Tensor, size: tuple[int, ...]) -> Tensor:
    if size == tuple(target.shape[2:]):
        return target
    return torch.cat(pooled(target[:, :-1], target[:, -1:], size), 1)


def level_weights(n: int, scheme: LevelScheme = "nnunet", *, last: float = 0.0) -> tuple[float, ...]:
    """Return the weights of n outputs, finest first.

    Parameters
    ----------
    scheme: ``nnunet``: 1/2^i, `last` for the coarsest of several, divided by their sum. ``paper``: 0.5^i / n, which is
        what the code of the contrast-agnostic paper does: all levels, not normalised.
    last: nnU-Net's 0, or 1e-6 as it takes for several processes, where every parameter must take part.
    """
    weights = [0.5**i for i in range(n)]
    if scheme == "paper":
        return tuple(w / n for w in weights)
    if n > 1:
        weights[-1] = last
    return tuple(w / sum(weights) for w in weights)


class SoftDeepSupervision(nn.Module):
    """A loss of (output, target, valid) at every level, weighted; outputs have nnU-Net's background in channel 0.

    Parameters
    ----------
    loss: called with the K soft classes of an output, their targets and the validity.
    scheme, last: see `level_weights`.
    """

    def __init__(self, loss: nn.Module, *, scheme: LevelScheme = "nnunet", last: float = 0.0) -> None:
        super().__init__()
        check_choice("scheme", scheme, LevelScheme)
        self.loss = loss
        self.scheme: LevelScheme = scheme
        self.last = last

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the weighted sum over levels, a float32 scalar.

        Parameters
        ----------
        outputs: one (B, K+1, *spatial), or one per level, finest first; channel 0 is not read.
        targets: one per output; or one only, of the finest level, of which the others are made.

        Raises
        ------
        UsageError: numbers or shapes that do not belong together.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = level_weights(len(outputs), self.scheme, last=self.last)
        if isinstance(targets, Tensor):
            targets = [
                _at_size(targets, tuple(o.shape[2:])) if w else targets for o, w in zip(outputs, weights, strict=True)
            ]
        if len(outputs) != len(targets) or not outputs:
            raise UsageError(
                "E-LOSS-SHAPE",
                found=f"{len(outputs)} outputs and {len(targets)} targets",
                expected="one target per output",
                fix="make them with soft_targets",
            )
        total: Tensor | None = None
        for output, target, weight in zip(outputs, targets, weights, strict=True):
            if weight:
                level = weight * self.loss(output[:, 1:], target[:, :-1], target[:, -1:])
                total = level if total is None else total + level
        return total
