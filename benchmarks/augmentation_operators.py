"""The checks of `augmentation_checks.py` for ours."""

from __future__ import annotations

from typing import Any

import acquisition_physics as physics
import augmentation_checks as checks
import torch
from augmentation_arms import Ours
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig


def operator(**settings: Any) -> checks.Operator:
    """Return one transform that surely acts, on voxels of 1 mm."""

    def run(image: Tensor, seed: int) -> Tensor:
        return physics.augment(image[0, 0], settings, draw=seed)[None, None]

    return run


def check(number: int) -> dict[str, Any]:
    """Return the figures; `number` of seeds for the last."""
    blur = operator(name="blur", unit="voxel", in_plane=1.0, through_plane=1.0)
    return {
        "alias": {
            "low_resolution": checks.alias(operator(name="low_resolution", scale=0.3)),
            "resolution": physics.alias("resolution"),
        },
        "blur_sd_requested_1": checks.blur_deviation(blur, 1),
        "noisy_air": checks.noisy_air(operator(name="rician_noise", sigma=0.05)),
        "air_spread_under_bias": checks.air_spread(operator(name="bias_polynomial", coefficient=0.5)),
        "reproducible": checks.reproducibility(Ours(AugmentConfig.load("shift"), mirror=True), number),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(check(50))
