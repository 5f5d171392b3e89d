"""Cross entropy plus soft Dice of the three vertebrae."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.losses.soft_dice import soft_dice


def instance_loss(logits: Tensor, target: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (cross entropy, soft Dice loss of above, centre and below).

    Parameters
    ----------
    logits: (B, 4, P, I, R). `target`: (B, P, I, R) int64, 0..3.
    counts: (B, P, I, R) bool, the voxels that count; None: all.
    """
    every = functional.cross_entropy(logits, target, reduction="none")
    mask = torch.ones_like(target, dtype=torch.bool) if counts is None else counts
    entropy = (every * mask).sum() / mask.sum().clamp_min(1)
    valid = mask[:, None]
    wanted = functional.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    dice = soft_dice(logits.softmax(1)[:, 1:] * valid, wanted * valid, valid)
    return entropy, dice


def region_mask(labels: Tensor, region: Literal["all", "vertebrae"]) -> Tensor | None:
    """Return which voxels of labels (B, P, I, R) of ``nnunet14`` count, None for all."""
    from nnunet_spine_ext.instances.frame import ARCUS, CORPUS

    return None if region == "all" else (labels >= ARCUS) & (labels <= CORPUS)
