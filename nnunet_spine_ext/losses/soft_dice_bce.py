"""Soft Dice and binary cross-entropy, both smallest where the prediction equals a soft target."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.soft_dice import DiceForm, soft_dice
from nnunet_spine_ext.losses.supervised import (
    Activation,
    check_choice,
    check_numbers,
    full_precision,
    supervised,
    where_supervised,
)


class SoftDiceBCE(nn.Module):
    """Weighted sum of one minus the soft Dice and the binary cross-entropy of logits.

    Parameters
    ----------
    dice_weight, bce_weight: of the two parts.
    batch_dice, smooth, dice_form: see `soft_dice.soft_dice`.
    activation: ``sigmoid``, or ``linear`` without cross-entropy, which is of probabilities only.

    Raises
    ------
    UsageError: cross-entropy of a linear output, or a parameter out of range.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        batch_dice: bool = False,
        smooth: float = 1.0,
        dice_form: DiceForm = "l1",
        activation: Activation = "sigmoid",
    ) -> None:
        super().__init__()
        check_numbers(
            "weights from 0, one of them above 0, and smooth above 0",
            dice_weight >= 0 and bce_weight >= 0 and dice_weight + bce_weight > 0 and smooth > 0,
            dice_weight=dice_weight,
            bce_weight=bce_weight,
            smooth=smooth,
        )
        check_choice("dice_form", dice_form, DiceForm)
        check_choice("activation", activation, Activation)
        if activation == "linear" and bce_weight > 0:
            raise UsageError(
                "E-LOSS-ACTIVATION",
                found="binary cross-entropy of a linear output",
                expected="activation sigmoid: cross-entropy is of probabilities",
                fix="set activation to sigmoid, or take the loss wing_dice for a linear output",
            )
        self.dice_weight, self.bce_weight = dice_weight, bce_weight
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_form: DiceForm = dice_form
        self.activation: Activation = activation

    def forward(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss, a float32 scalar; arguments as `adaptive_wing.AdaptiveWing.forward`."""
        with full_precision(output):
            z, y, mask = supervised(output, target, valid)
            loss = torch.zeros((), dtype=z.dtype, device=z.device)
            if self.dice_weight > 0:
                p = where_supervised(mask, torch.sigmoid(z)) if self.activation == "sigmoid" else z
                dice = soft_dice(p, y, mask, form=self.dice_form, batch_dice=self.batch_dice, smooth=self.smooth)
                loss = loss + self.dice_weight * dice
            if self.bce_weight > 0:
                entropy = where_supervised(mask, functional.binary_cross_entropy_with_logits(z, y, reduction="none"))
                loss = loss + self.bce_weight * entropy.sum() / (mask.sum() * y.shape[1]).clamp_min(1)
            return loss
