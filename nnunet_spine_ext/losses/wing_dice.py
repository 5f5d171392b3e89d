"""Adaptive wing and soft Dice together: the wing for every voxel, Dice for the structure as a whole."""

from __future__ import annotations

from torch import Tensor, nn

from nnunet_spine_ext.losses.adaptive_wing import AdaptiveWing
from nnunet_spine_ext.losses.soft_dice import DiceForm
from nnunet_spine_ext.losses.soft_dice_bce import SoftDiceBCE
from nnunet_spine_ext.losses.supervised import check_numbers


class WingDice(nn.Module):
    """Weighted sum of an adaptive wing loss and one minus the soft Dice, for linear output or its sigmoid.

    Parameters
    ----------
    wing: the wing with its parameters; its activation is that of both.
    wing_weight, dice_weight: of the two parts, both above 0.
    batch_dice, smooth, dice_form: see `soft_dice.soft_dice`. Squared by default: in short trainings on noisy discs the
        ``l1`` form overshot, and found structures in images without any, which the wing alone did not.

    Raises
    ------
    UsageError: a weight that is not above 0, or smooth out of range.
    """

    def __init__(
        self,
        wing: AdaptiveWing | None = None,
        *,
        wing_weight: float = 1.0,
        dice_weight: float = 1.0,
        batch_dice: bool = False,
        smooth: float = 1.0,
        dice_form: DiceForm = "squared",
    ) -> None:
        super().__init__()
        check_numbers(
            "both weights above 0; for one part alone take the loss adaptive_wing or soft_dice_bce",
            wing_weight > 0 and dice_weight > 0,
            wing_weight=wing_weight,
            dice_weight=dice_weight,
        )
        self.wing = AdaptiveWing() if wing is None else wing
        self.dice = SoftDiceBCE(
            dice_weight=dice_weight,
            bce_weight=0,
            batch_dice=batch_dice,
            smooth=smooth,
            dice_form=dice_form,
            activation=self.wing.activation,
        )
        self.wing_weight = wing_weight

    def forward(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss, a float32 scalar; arguments as `adaptive_wing.AdaptiveWing.forward`."""
        return self.wing_weight * self.wing(output, target, valid) + self.dice(output, target, valid)
