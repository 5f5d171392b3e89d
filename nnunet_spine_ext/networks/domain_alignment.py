"""Keeping domains out of features: five losses behind one interface, and a classifier that watches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_spine_ext.losses.domain import (
    ADVERSARIAL,
    DISTANCES,
    DomainLossSettings,
    balanced_cross_entropy,
    damping,
    unshared,
)
from nnunet_spine_ext.networks.domain_head import DomainHead, pooled
from nnunet_spine_ext.networks.gradient_reversal import reverse_gradient


class Aligned(NamedTuple):
    """What an alignment says of a batch: the loss to be added, and the logits (B, domains) of the classifier."""

    loss: Tensor
    logits: Tensor


class DomainAlignment(nn.Module):
    """The domain loss of a batch and the classifier it needs.

    With ``coral``, ``mmd`` and ``paired`` the classifier learns too, from detached features: it says how much of the
    domain can still be read there, and the encoder does not feel it.

    Parameters
    ----------
    settings: which loss. channels: of the features. domains, classes: how many. dimensions: 2 or 3.
    """

    def __init__(
        self, settings: DomainLossSettings, *, channels: int, domains: int, classes: int, dimensions: int = 3
    ) -> None:
        super().__init__()
        self.settings = settings
        conditioned = classes if settings.name == "cdan" else 0
        self.head = DomainHead(channels, domains, dimensions=dimensions, classes=conditioned)

    def forward(
        self, features: Tensor, domains: Tensor, strength: float | Tensor, probabilities: Tensor | None = None
    ) -> Aligned:
        """Return the loss and the classifier's logits.

        Parameters
        ----------
        features: (B, C, *spatial); for ``paired`` the second half of the batch shows the patches of the first half as
            other domains do. domains: (B,) from 0. strength: lambda of the schedule; at 0 no gradient reaches the
            features, and the classifier learns alone.
        probabilities: (B, K, *finer) of the predicted classes, for ``cdan``; its gradient is not used.

        Raises
        ------
        ValueError: ``paired`` with an odd batch, or with one patch.
        """
        # Half precision is too coarse for covariances, and for gradients multiplied by a small lambda.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            free = isinstance(strength, float | int) and strength == 0
            adversarial = self.settings.name in ADVERSARIAL
            # Multiplied by zero an infinite gradient would still be no number.
            seen = features.detach()
            if adversarial and not free:
                seen = reverse_gradient(features, strength * self._damping(seen, domains, probabilities))
            loss, logits = self._classified(seen, domains, probabilities)
            if not adversarial and not free:
                loss = loss + strength * self._distance(features, domains)
        return Aligned(loss, logits)

    def _distance(self, features: Tensor, domains: Tensor) -> Tensor:
        if self.settings.paired:
            first, second = pooled(features).tensor_split(2)
            return unshared(first, second)
        return DISTANCES[self.settings.name](features, domains, voxels=self.settings.voxels)

    @torch.no_grad()
    def _damping(self, features: Tensor, domains: Tensor, probabilities: Tensor | None) -> float | Tensor:
        """Return what lambda of each sample is multiplied by: (B, 1, …), or 1 where it is not bounded."""
        if not self.settings.bounded:
            return 1.0
        # Without dropout, and without taking the batch into the running statistics twice.
        learning = self.head.training
        self.head.eval()
        _, logits = self._classified(features, domains, probabilities)
        self.head.train(learning)
        return damping(logits, domains).view(-1, *(1,) * (features.dim() - 1))

    def _classified(self, features: Tensor, domains: Tensor, probabilities: Tensor | None) -> tuple[Tensor, Tensor]:
        smoothing = self.settings.label_smoothing
        if self.head.condition is None or probabilities is None:
            logits = self.head(features)
            return balanced_cross_entropy(logits, domains, label_smoothing=smoothing), logits
        logits, shares = self.head.conditioned(features, coarse(probabilities, features.shape[2:]))
        repeated = domains[:, None].expand(shares.shape).flatten()
        loss = balanced_cross_entropy(
            logits.flatten(0, 1), repeated, label_smoothing=smoothing, weights=shares.flatten()
        )
        return loss, (logits * shares[:, :, None]).sum(dim=1)


def coarse(probabilities: Tensor, shape: torch.Size) -> Tensor:
    """Return the mean probabilities (B, K, *shape) on the coarse grid of features, without gradient."""
    pool = functional.adaptive_avg_pool3d if len(shape) == 3 else functional.adaptive_avg_pool2d
    return pool(probabilities.detach().float(), tuple(shape))


def strength_at(settings: DomainLossSettings, fraction: float) -> float:
    """Return lambda when a fraction of the training is over, 0 to 1.

    Zero in the warm-up, then Ganin's λ(p) = λmax (2 / (1 + exp(-γ p)) - 1), where p goes from 0 at the end of the
    warm-up to 1.
    """
    if fraction < settings.warm_up:
        return 0.0
    p = (min(fraction, 1.0) - settings.warm_up) / (1 - settings.warm_up)
    return settings.largest * (2 / (1 + math.exp(-settings.gamma * p)) - 1)
