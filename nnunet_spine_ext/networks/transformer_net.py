"""The generator of a harmonizer: a network of style transfer that keeps the size of the picture.

Johnson, Alahi and Fei-Fei: Perceptual losses for real-time style transfer and super-resolution, ECCV 2016. The paper on
harmonization gives the order of its blocks; widths (32, 64, 128), five residual blocks and the scaled tanh are those of
the original network.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

MULTIPLE = 4
"""Both axes of what goes through the inner layers are multiples of this: two halvings."""

Upsampling = Literal["transposed", "nearest"]

_SLOPE = 0.2


class TransformerNet(nn.Module):
    """Slices to slices.

    Parameters
    ----------
    width: features at full resolution, doubled at each of two halvings.
    blocks: residual blocks at a quarter of the resolution.
    residual: the network says what to add to the slice, and starts with nothing; without it (the paper) it draws the
        slice anew. What it adds is cut off at the ends of the scale.
    upsampling: ``transposed`` convolutions (the paper), or ``nearest`` and a convolution, which leave no checkerboard
        (Odena, Dumoulin and Olah: Deconvolution and checkerboard artifacts, Distill 2016).
    """

    def __init__(
        self, width: int = 32, blocks: int = 5, *, residual: bool = False, upsampling: Upsampling = "transposed"
    ) -> None:
        super().__init__()
        self._residual = residual
        self.head = nn.Sequential(
            *_convolution(1, width, 9), *_convolution(width, 2 * width, 3, 2), *_convolution(2 * width, 4 * width, 3, 2)
        )
        self.body = nn.Sequential(*(_ResidualBlock(4 * width) for _ in range(blocks)))
        larger = _transposed if upsampling == "transposed" else _repeated
        self.tail = nn.Sequential(*larger(4 * width, 2 * width), *larger(2 * width, width), nn.ReflectionPad2d(4))
        self.last = nn.Conv2d(width, 1, 9)
        if residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 1, Y, X) in [-1, 1] for (B, 1, Y, X) in [-1, 1], of any size from 8 pixels on."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        # Half precision near 1 has steps of half a grey value.
        drawn = torch.tanh(self.last(self.tail(self.body(self.head(padded)))).float())[..., :height, :width]
        return (images + drawn).clamp(-1, 1) if self._residual else drawn


class _ResidualBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(features, features, 3), nn.LeakyReLU(_SLOPE), *_convolution(features, features, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _convolution(before: int, after: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    # The mean that a bias would add is taken out again by the normalization.
    return (
        nn.ReflectionPad2d(size // 2),
        nn.Conv2d(before, after, size, stride, bias=False),
        nn.InstanceNorm2d(after, affine=True),
        nn.ReLU(),
    )


def _transposed(before: int, after: int) -> tuple[nn.Module, ...]:
    return (
        nn.ConvTranspose2d(before, after, 3, 2, padding=1, output_padding=1, bias=False),
        nn.InstanceNorm2d(after, affine=True),
        nn.ReLU(),
    )


def _repeated(before: int, after: int) -> tuple[nn.Module, ...]:
    return (nn.Upsample(scale_factor=2), *_convolution(before, after, 3))
