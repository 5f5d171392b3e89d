"""Losses by name, from settings that a plans file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.adaptive_wing import AdaptiveWing, Reduction, Weighting
from nnunet_spine_ext.losses.deep_supervision import LevelScheme, SoftDeepSupervision
from nnunet_spine_ext.losses.soft_dice import DiceForm
from nnunet_spine_ext.losses.soft_dice_bce import SoftDiceBCE
from nnunet_spine_ext.losses.supervised import Activation, check_choice
from nnunet_spine_ext.losses.wing_dice import WingDice

LossName = Literal["adaptive_wing", "soft_dice_bce", "wing_dice"]

_WING = ("omega", "epsilon", "theta", "alpha", "weighting", "weight", "reduction")
_DICE = ("dice_weight", "batch_dice", "smooth", "dice_form")
_ALWAYS = ("name", "activation", "levels")
# Which settings a loss reads; another that is set would do nothing, and is an error.
_READ: dict[str, tuple[str, ...]] = {
    "adaptive_wing": _WING,
    "soft_dice_bce": (*_DICE, "bce_weight"),
    "wing_dice": (*_WING, "wing_weight", *_DICE),
}


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and its parameters; see the classes for what they mean.

    Parameters
    ----------
    name: ``adaptive_wing``, ``soft_dice_bce`` or ``wing_dice``.
    omega, epsilon, theta, alpha, weighting, weight, reduction: of `AdaptiveWing`.
    dice_weight, bce_weight, wing_weight: of the parts of a sum.
    batch_dice, smooth, dice_form: of the soft Dice; None is ``squared`` for ``wing_dice``, else ``l1``.
    activation: what the outputs of the model are: ``linear``, or logits of a ``sigmoid``; None is what the loss is for:
        sigmoid for ``soft_dice_bce``, linear for the others.
    levels: weights of deep supervision, ``nnunet`` or ``paper``.

    Raises
    ------
    UsageError: a setting that the loss does not read, or that is out of range.
    """

    name: LossName = "adaptive_wing"
    omega: float = 8.0
    epsilon: float = 1.0
    theta: float = 0.5
    alpha: float = 2.1
    weighting: Weighting = "off"
    weight: float = 10.0
    reduction: Reduction = "mean"
    dice_weight: float = 1.0
    bce_weight: float = 1.0
    wing_weight: float = 1.0
    batch_dice: bool = False
    smooth: float = 1.0
    dice_form: DiceForm | None = None
    activation: Activation | None = None
    levels: LevelScheme = "nnunet"

    def __post_init__(self) -> None:
        check_choice("name", self.name, LossName)
        check_choice("levels", self.levels, LevelScheme)
        used = (*_ALWAYS, *_READ[self.name])
        idle = [f.name for f in fields(self) if f.name not in used and getattr(self, f.name) != f.default]
        if idle:
            raise UsageError(
                "E-CONFIG-VALUE",
                file="loss settings",
                found=f"{', '.join(idle)} set for the loss {self.name}, which does not read it",
                expected=f"of {', '.join(used)}",
                fix="leave it out, or choose the loss that reads it",
            )
        build_loss(self)

    @property
    def output(self) -> Activation:
        """Return what the outputs of the model are: ``linear``, or logits of a ``sigmoid``."""
        natural: Activation = "sigmoid" if self.name == "soft_dice_bce" else "linear"
        return natural if self.activation is None else self.activation


def read_loss_settings(source: Mapping[str, Any], *, where: str = "loss settings") -> LossSettings:
    """Read settings from a mapping; raises UsageError, with the nearest name for an unknown key."""
    return load_config(LossSettings, source, where=where)


def build_loss(settings: LossSettings) -> nn.Module:
    """Return the loss of (output, target, valid) that settings describe; raises UsageError for values out of range."""
    wing = {name: getattr(settings, name) for name in _WING}
    dice = {name: getattr(settings, name) for name in _DICE if getattr(settings, name) is not None}
    if settings.name == "soft_dice_bce":
        return SoftDiceBCE(**dice, bce_weight=settings.bce_weight, activation=settings.output)
    loss = AdaptiveWing(**wing, activation=settings.output)
    return loss if settings.name == "adaptive_wing" else WingDice(loss, wing_weight=settings.wing_weight, **dice)


def build_deep_supervision(settings: LossSettings, *, last: float = 0.0) -> SoftDeepSupervision:
    """Return the loss of network outputs and targets with validity, one or several levels.

    Parameters
    ----------
    last: weight of the coarsest level, before normalisation, of the scheme ``nnunet``: 1e-6 in several processes.
    """
    return SoftDeepSupervision(build_loss(settings), scheme=settings.levels, last=last)
