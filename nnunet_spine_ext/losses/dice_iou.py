"""Dice and intersection over union of one structure in slices, as losses of probabilities.

Of soft values 0 ≤ p ≤ 1 and a mask y ∈ {0, 1}: Dice 2Σpy / (Σp + Σy) and IoU Σpy / (Σp + Σy − Σpy), over all pixels of
a batch. Kim et al. (IEEE Access 2024) train their segmenters with a weighted sum of both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DiceIoULoss(nn.Module):
    """Weighted sum of 1 − Dice, 1 − IoU and cross entropy.

    Parameters
    ----------
    dice_weight, iou_weight: the paper tried 0 to 1 and 0 to 10.
    bce_weight: of the cross entropy, which the paper does not have: it helps short trainings.
    smooth: pixels added to numerator and denominator: a batch without the structure is perfect when nothing is found.

    Raises
    ------
    ValueError: a weight below 0, or none above it; a `smooth` of 0 or less.
    """

    def __init__(
        self, dice_weight: float = 1.0, iou_weight: float = 1.0, bce_weight: float = 0.0, smooth: float = 1.0
    ) -> None:
        super().__init__()
        weights = (dice_weight, iou_weight, bce_weight)
        if min(weights) < 0 or not max(weights) > 0 or not smooth > 0:
            msg = f"weights {weights}, smooth {smooth}: weights from 0 on, one of them and smooth above 0"
            raise ValueError(msg)
        self.dice_weight, self.iou_weight, self.bce_weight, self.smooth = dice_weight, iou_weight, bce_weight, smooth

    def forward(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        logits: (B, 1, Y, X).
        target: the same shape, 0 or 1.
        known: the same shape, bool: pixels that count; None: all.
        """
        target = target.to(logits.dtype)
        counts = torch.ones_like(target) if known is None else known.to(logits.dtype)
        chance = logits.sigmoid() * counts
        wanted = target * counts
        both, size = (chance * wanted).sum(), chance.sum() + wanted.sum()
        dice = (2 * both + self.smooth) / (size + self.smooth)
        iou = (both + self.smooth) / (size - both + self.smooth)
        loss = self.dice_weight * (1 - dice) + self.iou_weight * (1 - iou)
        if self.bce_weight:
            entropy = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * counts
            loss = loss + self.bce_weight * entropy.sum() / counts.sum().clamp_min(1)
        return loss
