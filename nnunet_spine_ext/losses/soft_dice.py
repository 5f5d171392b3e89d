"""Soft Dice that is smallest where the prediction equals a soft target.

The usual form, 1 − 2Σpy / (Σp + Σy), is not: for y = 0.5 everywhere it is 0.5 at p = y and 0.33 at p = 1, so it
makes predictions hard. Two forms are 0 at p = y and above 0 everywhere else:

``l1``: Σ|p − y| / (Σ|p| + Σ|y|), the usual Dice wherever the target is 0 or 1. Wang, Popordanoska, Bertels, Lemmens and
Blaschko: Dice semimetric losses, MICCAI 2023.
``squared``: Σ(p − y)² / (Σp² + Σy²), that is 1 − 2Σpy / (Σp² + Σy²). Milletari, Navab and Ahmadi: V-Net, 3DV 2016.

Both are ratios of norms, so they need no p in [0, 1]: of a linear output they are taken as it is. Clamping it first
would leave voxels outside [0, 1] without a gradient.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

DiceForm = Literal["l1", "squared"]


def soft_dice(
    p: Tensor, y: Tensor, mask: Tensor, *, form: DiceForm = "l1", batch_dice: bool = False, smooth: float = 1.0
) -> Tensor:
    """Return one minus the soft Dice, averaged over samples and classes: 0 at p = y, at most 1 (``l1``).

    Parameters
    ----------
    p, y: (B, K, *spatial), both 0 where `mask` (B, 1, *spatial, bool) is False.
    batch_dice: one Dice per class over the whole batch, as nnU-Net's option of this name, instead of one per sample.
    smooth: voxels added to the denominator: a class that is absent and predicted nowhere gives 0, not 0/0. Because it
        is in the denominator only, the smallest value stays at p = y.
    """
    difference = p - y
    if form == "l1":
        apart, size = difference.abs(), p.abs() + y
    else:
        apart, size = difference.square(), p.square() + y.square()
    axes = [0, *range(2, p.dim())] if batch_dice else list(range(2, p.dim()))
    ratio = apart.sum(axes) / (size.sum(axes) + smooth)
    if batch_dice:
        return ratio.mean()
    # A sample that is ignored as a whole is no perfect one: it does not count. Its ratio is 0.
    present = mask.flatten(1).any(1).sum()
    return ratio.sum() / (present * ratio.shape[1]).clamp_min(1)
