"""Settings of prediction that travel with a model, under ``plans["spine_ext"]["predict"]``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nnunet_spine_ext.core.errors import UsageError

Crop = Literal["auto", "off", "on"]


@dataclass(frozen=True)
class PredictSettings:
    """What happens in prediction beyond nnU-Net with a model of ours.

    Parameters
    ----------
    mirror: average with the left-right mirrored image, sided classes exchanged (models with sided classes only).
    instances: stock `nnUNetv2_predict` also writes `instances/` (vertebrae, discs and endplates separated).
    activation: how linear outputs of a soft model become values in [0, 1]: ``clamp`` cuts at 0 and 1, ``norm_relu``
        divides by the maximum of the volume. None: what validation chose (``soft.activation``), else ``clamp``. Models
        with sigmoid output always use the sigmoid.
    activation_floor: `norm_relu` divides by no less than this. Outputs of a trained model reach 1 and more where there
        is a whole structure; half of that is not noise yet.
    crop: whether nnUNetv2_spine_predict looks for the structures coarsely first and does only their surroundings with
        care; ``auto``: for soft models on a CPU, where that is less work.

    Raises
    ------
    UsageError: a floor that is not above 0, or not finite.
    """

    mirror: bool = True
    instances: bool = False
    activation: Literal["clamp", "norm_relu"] | None = None
    activation_floor: float = 0.5
    crop: Crop = "auto"

    def __post_init__(self) -> None:
        if not (self.activation_floor > 0 and math.isfinite(self.activation_floor)):
            raise UsageError(
                "E-CONFIG-RANGE",
                file="predict settings",
                found=f"activation_floor={self.activation_floor}",
                expected="a number above 0: volumes without any structure are divided by it",
                fix="use 0.5",
            )
