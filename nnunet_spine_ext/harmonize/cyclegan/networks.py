"""All networks of a training in one module, so that their state is one."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.slice_grid import TOP
from nnunet_spine_ext.losses.adversarial import ReplayPool
from nnunet_spine_ext.networks.patch_gan import PatchGAN
from nnunet_spine_ext.networks.slice_unet import SliceNetwork

_START = 1
# The running mean of the foreground remembers about ten steps.
_MOMENTUM = 0.1


class HarmonizerNetworks(nn.Module):
    """Two generators, two discriminators with their pools, and, if its loss counts, the segmenter of the sources.

    Parameters
    ----------
    size: (Y, X) of the slices.
    source_segmenter: a network to begin with; None: a new one.
    """

    source_segmenter: SliceNetwork | None
    foreground: Tensor

    def __init__(
        self, settings: CycleGanSettings, size: tuple[int, int], source_segmenter: SliceNetwork | None = None
    ) -> None:
        super().__init__()
        self.to_target = settings.generator.build()
        self.to_source = settings.generator.build()
        self.judge_target = PatchGAN(settings.discriminator_width)
        self.judge_source = PatchGAN(settings.discriminator_width)
        self.pool_target = ReplayPool(settings.pool, size)
        self.pool_source = ReplayPool(settings.pool, size)
        self.register_buffer("foreground", torch.zeros(()))
        self.source_segmenter = None
        if settings.weights.source_dice:
            copied = None if source_segmenter is None else deepcopy(source_segmenter).requires_grad_(True).train()
            self.source_segmenter = copied or settings.source_network.build()

    @torch.no_grad()
    def follow(self, share: Tensor) -> None:
        """Take the foreground of the slices of a step into `foreground`, its running mean; NaN leaves it as it is."""
        self.foreground.lerp_(torch.where(share.isnan(), self.foreground, share.to(self.foreground)), _MOMENTUM)

    @property
    def makers(self) -> list[nn.Parameter]:
        """Parameters that generators and source segmenter are made of."""
        modules: list[nn.Module] = [self.to_target, self.to_source]
        if self.source_segmenter is not None:
            modules.append(self.source_segmenter)
        return [p for module in modules for p in module.parameters()]

    @property
    def judges(self) -> list[nn.Parameter]:
        """Parameters of the discriminators."""
        return [*self.judge_target.parameters(), *self.judge_source.parameters()]


def build_networks(
    settings: CycleGanSettings, size: tuple[int, int], source_segmenter: SliceNetwork | None = None
) -> HarmonizerNetworks:
    """Return new networks, whose random weights depend on the seed alone; see `HarmonizerNetworks`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([_START, settings.seed]).generate_state(1)[0]))
        return HarmonizerNetworks(settings, size, source_segmenter)


def to_unit(grey: Tensor) -> Tensor:
    """Return slices from 0 to 255 as networks see them, -1 to 1."""
    return grey * (2 / TOP) - 1


def to_grey(unit: Tensor) -> Tensor:
    """Return slices from -1 to 1 on the scale 0 to 255, in single precision."""
    return (unit.float() + 1) * (TOP / 2)
