"""Settings of prediction that travel with a model, under ``plans["spine_ext"]["predict"]``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PredictSettings:
    """What stock `nnUNetv2_predict` does beyond nnU-Net with a model of ours.

    `mirror`: average with the left-right mirrored image, sided classes exchanged (models with sided classes only).
    `instances`: also write `instances/` (vertebrae, discs and endplates separated).
    """

    mirror: bool = True
    instances: bool = False
