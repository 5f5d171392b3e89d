"""From the crops that workers load to what the network and the loss get, on the device and without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, spatial, thin
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.training.targets import Targets, one_hot


class DeviceAugmentation:
    """Augments batches as nnU-Net's loader crops them, and makes the targets.

    In such a crop voxels beyond the image are 0 and have label -1. Zero is the mean of an image that was normalised,
    not air, and no transform should take it for tissue: meanwhile they get the level of air. In the end they are 0
    again, as in prediction, and background. Voxels that are in the image but outside of its non-zero mask also have
    label -1; they are ordinary background, but channels that were normalised inside the mask are 0 there.

    Parameters
    ----------
    pipeline: its context describes the batches.
    targets: what becomes of the label maps.
    highest: the largest label id, ignore included.
    masked: per channel, whether nnU-Net normalised it inside the non-zero mask (`use_mask_for_norm`).
    previous: foreground labels of the previous stage of a cascade, whose masks are the second channel of the labels;
        they follow the geometry and become channels of the image.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        targets: Targets,
        *,
        highest: int,
        masked: Sequence[bool] = (),
        previous: Sequence[int] = (),
    ) -> None:
        self.pipeline = pipeline
        self._targets = targets
        self._masked = [channel for channel, inside in enumerate(masked) if inside]
        self._all_masked = len(self._masked) == pipeline.context.channels
        self._mixed = bool(self._masked) and not self._all_masked
        # Only where the channels differ must what is outside of the mask be told from background.
        self._unmasked_id = highest + 1 if self._mixed else 0
        self._previous = tuple(int(label) for label in previous)

    def plan(self, keys: Sequence[SampleKey], epoch_fraction: float | None = None) -> Plan:
        """Draw what happens to a batch; see `Pipeline.plan`."""
        return self.pipeline.plan(keys, epoch_fraction)

    @torch.no_grad()
    def apply(self, images: Tensor, labels: Tensor, plan: Plan) -> tuple[Tensor, Tensor | list[Tensor]]:
        """Return the input of the network (B, C, *patch) and the target or targets.

        Parameters
        ----------
        images: (B, C, *source) on the device. labels: (B, 1, *source), for a cascade (B, 2, *source). Not changed.
        """
        images, labels, _ = self.augmented(images, labels, None, plan)
        if self._previous:
            images = torch.cat((images, one_hot(labels[:, 1:2], self._previous, images.dtype)), dim=1)
        return images.contiguous(), self._targets(labels[:, :1].contiguous())

    def augmented(
        self, images: Tensor, labels: Tensor, companions: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return images (B, C, *patch), label maps without negative ids, and what follows the geometry alone."""
        images, labels = self._with_air(images, labels)
        images, moved, companions = self.pipeline.apply_with(images, labels, companions, plan)
        labels = labels if moved is None else moved
        images = self._with_zeros(images, labels[:, :1])
        labels = labels.clamp_min(0)
        if self._mixed:
            own = labels[:, :1].masked_fill(labels[:, :1] == self._unmasked_id, 0)
            labels = own if labels.shape[1] == 1 else torch.cat((own, labels[:, 1:]), dim=1)
        return images, labels, companions

    def _with_air(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with air beyond them, and the labels with -1 beyond the images only."""
        if not self._all_masked:
            # Beyond the image every channel is exactly zero.
            zero = images == 0 if images.shape[1] == 1 else (images == 0).all(dim=1, keepdim=True)
            own = labels[:, :1]
            inside = own.masked_fill(own < 0, self._unmasked_id) if self._unmasked_id else own.clamp_min(0)
            own = torch.where(zero, own, inside)
            labels = own if labels.shape[1] == 1 else torch.cat((own, labels[:, 1:]), dim=1)
        outside = labels[:, :1] < 0
        air = torch.where(thin(outside, SAMPLE_VOXELS), math.inf, thin(images, SAMPLE_VOXELS)).amin(dim=2)
        # A crop may lie wholly beyond the image.
        air = torch.where(air.isinf(), 0, air)
        return torch.where(outside, spatial(air, images.dim() - 2), images), labels

    def _with_zeros(self, images: Tensor, own: Tensor) -> Tensor:
        """Set voxels beyond the images, and those outside of the mask in masked channels, back to zero."""
        # They are ours: `_with_air` made them, or a stage did.
        images.masked_fill_(own < 0, 0)
        for channel in self._masked if self._mixed else ():
            images[:, channel : channel + 1].masked_fill_(own == self._unmasked_id, 0)
        return images
