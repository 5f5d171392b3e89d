"""nnU-Net's loss with that of the domains, and targets without masks that may not be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_spine_ext.networks.bottleneck import WithFeatures
from nnunet_spine_ext.networks.domain_alignment import DomainAlignment


class LossWithDomains(nn.Module):
    """The segmentation loss, plus that of the domains where the network handed out features and they are told.

    nnU-Net's training step calls the loss with outputs and targets alone, so the domains of a batch are told before.

    Parameters
    ----------
    segmentation: nnU-Net's loss. alignment: the loss of domains. regions: whether the network's outputs are logits of
        regions (sigmoid) or of classes (softmax).
    """

    def __init__(self, segmentation: nn.Module, alignment: DomainAlignment, *, regions: bool) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.alignment = alignment
        self._regions = regions
        self._told: tuple[Tensor, float] | None = None
        self._sums: list[Tensor] = []
        self._strength = 0.0

    @contextmanager
    def telling(self, domains: Tensor, strength: float) -> Iterator[None]:
        """Tell the domains (B,) of the next batch, and lambda."""
        self._told = domains, strength
        try:
            yield
        finally:
            self._told = None

    def forward(self, output: Any, target: Any) -> Tensor:
        """Return the loss of what the network gave."""
        if not isinstance(output, WithFeatures):
            plain: Tensor = self.segmentation(output, target)
            return plain
        loss: Tensor = self.segmentation(output.segmentation, target)
        if self._told is None:
            return loss
        domains, strength = self._told
        aligned = self.alignment(output.features, domains, strength, self._probabilities(output.segmentation))
        self._remember(aligned.loss, aligned.logits, domains, strength)
        return loss + aligned.loss

    def taken(self) -> tuple[float, float, float]:
        """Return the classifier's balanced accuracy, the mean loss and the last lambda since it was last asked."""
        if not self._sums:
            return 0.0, 0.0, self._strength
        total = torch.stack(self._sums).double().sum(dim=0).cpu()
        count, self._sums = len(self._sums), []
        right, seen = total[1:].chunk(2)
        accuracy = float((right[seen > 0] / seen[seen > 0]).mean())
        return accuracy, float(total[0]) / count, self._strength

    @torch.no_grad()
    def _remember(self, loss: Tensor, logits: Tensor, domains: Tensor, strength: float) -> None:
        """Keep sums on the device: reading a number back in every step would make the host wait."""
        members = nn.functional.one_hot(domains, logits.shape[1]).float()
        right = members * (logits.argmax(dim=1) == domains).float()[:, None]
        self._sums.append(torch.cat((loss.detach()[None].float(), right.sum(dim=0), members.sum(dim=0))))
        self._strength = strength

    def _probabilities(self, segmentation: Tensor | list[Tensor]) -> Tensor | None:
        if self.alignment.head.condition is None:
            return None
        with torch.no_grad():
            # The largest output: nnU-Net does not train the smallest, whose weight is zero.
            logits = segmentation[0] if isinstance(segmentation, list | tuple) else segmentation
            return logits.float().sigmoid() if self._regions else logits.float().softmax(dim=1)


def ignored(target: Tensor | list[Tensor], samples: Sequence[int], labels: Any) -> Tensor | list[Tensor]:
    """Return the target with the whole of some samples ignored, what lies beyond the image too.

    The mask of a case that has none is the ignore label, but nnU-Net pads it with background, which the loss would
    teach.

    Parameters
    ----------
    target: (B, 1, …) of label ids, or (B, R + 1, …) of regions whose last channel is the ignore label; or a list of
        them. Not changed. samples: positions in the batch. labels: nnU-Net's label manager.
    """
    if not samples:
        return target
    if isinstance(target, list):
        return [_without(level, samples, labels) for level in target]
    return _without(target, samples, labels)


def _without(target: Tensor, samples: Sequence[int], labels: Any) -> Tensor:
    target = target.clone()
    for sample in samples:
        if labels.has_regions:
            target[sample] = 0
            target[sample, -1] = 1
        else:
            target[sample] = labels.ignore_label
    return target
