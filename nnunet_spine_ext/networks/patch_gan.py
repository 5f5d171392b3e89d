"""The discriminator of a harmonizer: one score per patch of a slice.

Isola, Zhu, Zhou and Efros: Image-to-image translation with conditional adversarial networks, CVPR 2017. The paper on
harmonization says four layers of 4×4 and a receptive field of 34: strides 2, 2, 1, 1 are the only halvings at the front
that give it (2, 2, 2, 1 give 46).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

KERNEL = 4
STRIDES = (2, 2, 1, 1)
_SLOPE = 0.2


class PatchGAN(nn.Module):
    """Scores of patches, before any sigmoid: high is real.

    Parameters
    ----------
    width: features of the first layer, doubled by each of the next two.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        features = (1, width, 2 * width, 4 * width, 1)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(features)):
            inner = 0 < number < len(STRIDES) - 1
            layers.append(nn.Conv2d(before, after, KERNEL, STRIDES[number], padding=1, bias=not inner))
            if inner:
                layers.append(nn.InstanceNorm2d(after, affine=True))
            if after != 1:
                layers.append(nn.LeakyReLU(_SLOPE))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 1, Y', X') for (B, 1, Y, X) in [-1, 1]; from 320 pixels 78 scores."""
        return self.layers(images)

    @staticmethod
    def receptive_field() -> int:
        """Return how many pixels of each axis one score depends on."""
        field, jump = 1, 1
        for stride in STRIDES:
            field += (KERNEL - 1) * jump
            jump *= stride
        return field
