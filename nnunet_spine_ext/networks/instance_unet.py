"""The U-Net that separates vertebrae: of the classes in a cutout it makes above, centre and below.

The layers are those of SPINEPS' Unet3D (Möller et al., Eur Radiol 2024; spineps 2.1.3), so that its weights fit: each
layer of that network has one here with parameters of the same shapes. What differs are the names.

===========================  ====================================
here                         spineps 2.1.3
===========================  ====================================
stem                         init_conv
encoder.k.first, .second     downs.k.0, downs.k.1
encoder.k.resize             downs.k.2
bottom.k                     mid_block1, mid_block2
decoder.k.first, .second     ups.k.0, ups.k.1
decoder.k.resize             ups.k.2
last                         final_res_block
head                         final_conv
….first.conv, .norm          ….block1.proj, .norm (in each block)
….second.conv, .norm         ….block2.proj, .norm
….shortcut                   ….res_conv
===========================  ====================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

# Groups of the normalization, where the channels can be divided by it.
_GROUPS = 8


class InstanceUNet(nn.Module):
    """3-D U-Net with residual blocks.

    Parameters
    ----------
    channels: input channels, those of the encoding of the classes.
    width: features at full resolution; 8 in SPINEPS. Below 8 each feature is normalized by itself.
    multipliers: of `width` at each resolution; every resolution but the last halves all three axes.
    out: output channels: nothing, above, centre, below.

    Raises
    ------
    ValueError: a number below 1.
    """

    def __init__(self, channels: int, width: int = 8, multipliers: Sequence[int] = (1, 2, 4, 8), out: int = 4) -> None:
        super().__init__()
        if min(channels, width, out, len(multipliers), *multipliers) < 1:
            msg = f"channels {channels}, width {width}, multipliers {tuple(multipliers)}, out {out}: all from 1 on"
            raise ValueError(msg)
        self.channels = channels
        features = [width, *(width * factor for factor in multipliers)]
        steps = list(itertools.pairwise(features))
        self.stem = nn.Conv3d(channels, width, 7, padding=3)
        self.encoder = nn.ModuleList(
            _Stage(_Block(a, b), _Block(b, b), nn.Conv3d(b, b, 4, 2, 1) if k + 1 < len(steps) else nn.Identity())
            for k, (a, b) in enumerate(steps)
        )
        self.bottom = nn.Sequential(_Block(features[-1], features[-1]), _Block(features[-1], features[-1]))
        self.decoder = nn.ModuleList(
            _Stage(_Block(b, a), _Block(a, a), nn.ConvTranspose3d(a, a, 4, 2, 1) if k else nn.Identity())
            for k, (a, b) in reversed(list(enumerate(steps)))
        )
        self.last = _Block(2 * width, width)
        self.head = nn.Conv3d(width, out, 1)

    @property
    def multiple(self) -> int:
        """Every axis of the input must be a multiple of this."""
        return int(2 ** (len(self.encoder) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, out, P, I, R) of encoded classes (B, channels, P, I, R).

        Raises
        ------
        ValueError: another number of axes or channels, or an axis that is no multiple of `multiple`.
        """
        if x.ndim != 5 or x.shape[1] != self.channels or any(n % self.multiple or not n for n in x.shape[2:]):
            msg = (
                f"input of shape {tuple(x.shape)}, expected (B, {self.channels}, P, I, R) with P, I and R multiples "
                f"of {self.multiple}"
            )
            raise ValueError(msg)
        x = self.stem(x)
        start = x
        kept = []
        for stage in self.encoder:
            x = stage.second(stage.first(x))
            kept.append(x)
            x = stage.resize(x)
        x = self.bottom(x)
        for stage in self.decoder:
            # The mean, not a concatenation: SPINEPS' decoder has only the features of one of the two.
            x = stage(0.5 * (x + kept.pop()))
        result: torch.Tensor = self.head(self.last(torch.cat((x, start), dim=1)))
        return result


class _Unit(nn.Module):
    """Convolution, normalization, activation."""

    def __init__(self, features_in: int, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(features_in, features, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(_GROUPS, features), features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.norm(self.conv(x)), 0.01)


class _Block(nn.Module):
    """Two units and a shortcut past them."""

    def __init__(self, features_in: int, features: int) -> None:
        super().__init__()
        self.first = _Unit(features_in, features)
        self.second = _Unit(features, features)
        self.shortcut = nn.Conv3d(features_in, features, 1) if features_in != features else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x)) + self.shortcut(x)
        return result


class _Stage(nn.Module):
    """Two blocks at one resolution, then the way to the next one."""

    def __init__(self, first: nn.Module, second: nn.Module, resize: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.resize = first, second, resize

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.resize(self.second(self.first(x)))
        return result
