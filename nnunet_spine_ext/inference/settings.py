"""Settings of prediction that travel with a model, under ``plans["spine_ext"]["predict"]``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.harmonize.geometry_gate import GateSettings
from nnunet_spine_ext.inference.adaptation.settings import AdaptSettings
from nnunet_spine_ext.inference.view_settings import ViewSettings

Crop = Literal["auto", "off", "on"]
Match = Literal["none", "noise", "body", "nyul", "cdf", "anchored", "cyclegan"]
Tta = Literal["none", "mirror", "full"]
Adapt = Literal["none", "consistency", "tent"]


@dataclass(frozen=True)
class PredictSettings:
    """What happens in prediction beyond nnU-Net with a model of ours.

    Parameters
    ----------
    mirror: average with the left-right mirrored image, sided classes exchanged (models with sided classes only).
    instances: stock `nnUNetv2_predict` also writes `instances/` (vertebrae, discs and endplates separated).
    numbering: stock `nnUNetv2_predict` also numbers them, which means that it separates them.
    instance_model, numbering_model: folders of the networks for these two; our own commands take them, too, unless they
        are given others.
    activation: how linear outputs of a soft model become values in [0, 1]: ``clamp`` cuts at 0 and 1, ``norm_relu``
        divides by the maximum of the volume. None: what validation chose (``soft.activation``), else ``clamp``. Models
        with sigmoid output always use the sigmoid.
    activation_floor: `norm_relu` divides by no less than this. Outputs of a trained model reach 1 and more where there
        is a whole structure; half of that is not noise yet.
    support_mm: soft values farther than this (mm) from every voxel above 0.5 become 0. Networks that were trained by
        regression answer with a few hundredths where nothing is. None: nothing is removed.
    crop: whether nnUNetv2_spine_predict looks for the structures coarsely first and does only their surroundings with
        care; ``auto``: for soft models on a CPU, where that is less work.
    match: bring noise and intensities to those of the training images before anything else (`harmonize.denoising`,
        `harmonize.matching`), in our command unless ``--match`` says another, and in stock `nnUNetv2_predict`.
        ``noise`` leaves intensities alone; ``anchored`` needs a first prediction, and ``cyclegan`` a network, so stock
        prediction stops with them.
    harmonize_model: folder of the network for ``cyclegan``. gate: limits for the slices that it makes.
    intensity_views: in stock prediction, average over changed intensities as well, inside the network.
    views: what ``--tta full`` of nnUNetv2_spine_predict looks at; of `intensity_views` the intensities.
    adapt: numbers of test-time training, which ``--adapt`` of nnUNetv2_spine_predict switches on.

    Raises
    ------
    UsageError: a floor or a distance that is not above 0, or not finite.
    """

    mirror: bool = True
    instances: bool = False
    numbering: bool = False
    instance_model: str | None = None
    numbering_model: str | None = None
    activation: Literal["clamp", "norm_relu"] | None = None
    activation_floor: float = 0.5
    support_mm: float | None = 5.0
    crop: Crop = "auto"
    match: Match = "none"
    harmonize_model: str | None = None
    gate: GateSettings = field(default_factory=GateSettings)
    intensity_views: bool = False
    views: ViewSettings = field(default_factory=ViewSettings)
    adapt: AdaptSettings = field(default_factory=AdaptSettings)

    def __post_init__(self) -> None:
        if not _positive(self.activation_floor):
            expected = "a number above 0: volumes without any structure are divided by it"
            raise _out_of_range(f"activation_floor={self.activation_floor}", expected, "use 0.5")
        if self.support_mm is not None and not _positive(self.support_mm):
            raise _out_of_range(
                f"support_mm={self.support_mm}", "millimetres above 0", "use 5, or null to keep all values"
            )


def _positive(number: float) -> bool:
    return number > 0 and math.isfinite(number)


def _out_of_range(found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-CONFIG-RANGE", file="predict settings", found=found, expected=expected, fix=fix)
