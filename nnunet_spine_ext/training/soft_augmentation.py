"""Augmentation with soft labels: they follow the geometry, linearly, and become the targets of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_spine_ext.augment.pipeline import Plan
from nnunet_spine_ext.losses.deep_supervision import soft_targets
from nnunet_spine_ext.soft.values import SUPERVISED, divided, weighted
from nnunet_spine_ext.training.on_device import DeviceAugmentation


class SoftTargets:
    """Makes what the loss reads of values and validity (B, K+1, *patch).

    Parameters
    ----------
    scales: per output of the network the size along each axis, 1 for the patch; None: no deep supervision.
    """

    def __init__(self, scales: Sequence[Sequence[float]] | None) -> None:
        self._scales = None if scales is None else tuple(tuple(float(f) for f in scale) for scale in scales)

    def __call__(self, soft: Tensor) -> Tensor | list[Tensor]:
        """Return values and validity, the latter 0 or 1, of the patch or of every output of the network."""
        supervised = (soft[:, -1:] > SUPERVISED).to(soft.dtype)
        target = torch.cat((soft[:, :-1] * supervised, supervised), dim=1)
        if self._scales is None:
            return target
        # The sizes that nnU-Net's own targets have.
        sizes = [[round(n * f) for n, f in zip(target.shape[2:], scale, strict=True)] for scale in self._scales]
        return soft_targets(target, sizes)


class SoftDeviceAugmentation(DeviceAugmentation):
    """Augments batches whose last channels are soft labels: K values and one of validity.

    Parameters
    ----------
    soft_targets: what becomes of them. pairs: (left, right) positions among the K values that are exchanged when a
    sample is mirrored left to right. The others: see `DeviceAugmentation`.
    """

    def __init__(
        self, *args: Any, soft_targets: SoftTargets, pairs: Sequence[tuple[int, int]] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.soft_targets = soft_targets
        self._pairs = tuple(pairs)

    @torch.no_grad()
    def apply(self, images: Tensor, labels: Tensor, plan: Plan) -> tuple[Tensor, Tensor | list[Tensor]]:
        """Return the input of the network (B, C, *patch) and the soft target or targets (B, K+1, …).

        Parameters
        ----------
        images: (B, C + K + 1, *source). labels: (B, 1, *source), the hard ones, which transforms may look at.
        """
        channels = self.pipeline.context.channels
        # Value times validity: where nothing is known nothing is mixed in.
        companions = weighted(images[:, channels:])
        images, _, moved = self.augmented(images[:, :channels], labels, companions, plan)
        soft = divided(companions if moved is None else moved)
        if self._pairs and plan.swapped:
            soft = self._exchanged(soft, plan.swapped)
        return images.contiguous(), self.soft_targets(soft)

    def _exchanged(self, soft: Tensor, samples: Sequence[int]) -> Tensor:
        order = list(range(soft.shape[1]))
        for left, right in self._pairs:
            order[left], order[right] = right, left
        soft = soft.clone()
        for sample in samples:
            soft[sample] = torch.stack([soft[sample, channel] for channel in order])
        return soft
