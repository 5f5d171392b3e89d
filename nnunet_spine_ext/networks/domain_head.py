"""A classifier of domains on the deepest features of a U-Net."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

REDUCED, HIDDEN = 128, (256, 64)
"""Channels after the 1×1 convolution; widths of the hidden layers."""

# A class with less than one voxel of the coarse map has no features of its own.
_LEAST_VOXELS = 1.0
# Voxels whose probability of a class is at least half of its largest in the sample belong to it.
_BELONGS = 0.5


class RunningStandard(nn.Module):
    """Take the mean over many batches from every feature, and divide it by its standard deviation.

    What tells domains is small beside what all samples have in common. Measured on frozen features of six simulated
    scanners: without this, a classifier with dropout 0.5 is still at chance after 700 steps; with it, it is right in
    two of five. Batches of two are too small for their own statistics, so these are running ones, as in batch
    normalisation in evaluation mode.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, features: int, momentum: float = 0.05) -> None:
        super().__init__()
        self._momentum = momentum
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return (N, F) standardised; in training the statistics take in the batch first.

        `weights`: (N,) of the samples in the statistics, 0 or more; None: equal.
        """
        if self.training:
            self._take_in(values.detach(), weights)
        return (values - self.mean) / (self.variance + 1e-6).sqrt()

    @torch.no_grad()
    def _take_in(self, values: Tensor, weights: Tensor | None) -> None:
        shares = torch.ones_like(values[:, 0]) if weights is None else weights
        shares = (shares / shares.sum().clamp_min(1e-6))[:, None]
        self.steps += 1
        # The first batches count fully: a slow start from zero and one would be a long one.
        part = torch.clamp_min(1 / self.steps, self._momentum)
        self.mean.lerp_((shares * values).sum(dim=0), part)
        self.variance.lerp_((shares * (values - self.mean).square()).sum(dim=0), part)


class DomainHead(nn.Module):
    """Logits of domains from features: 1×1 convolution, mean, standard deviation and maximum, two hidden layers.

    Instance normalisation takes mean and scale out of every channel, and with them most of what tells scanners apart in
    the mean. The convolution mixes channels first, so that their relations show; spread and extremes are pooled too.

    A linear classifier of the same three of the features themselves is added to the logits. It learns within few steps
    what can be read linearly, while the hidden layers with their dropout are still at chance: without it the encoder
    wins against a classifier that has not learnt yet, and a linear probe reads as much as before.

    Parameters
    ----------
    channels: of the features. domains: how many there are, at least 2. dimensions: 2 or 3.
    classes: condition on so many predicted classes (cdan); 0: pool over everything.
    """

    def __init__(self, channels: int, domains: int, *, dimensions: int = 3, classes: int = 0) -> None:
        super().__init__()
        convolution = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.reduce = convolution(channels, REDUCED, kernel_size=1)
        self.linear = nn.Linear(3 * channels, domains)
        self.linear_standard = RunningStandard(3 * channels)
        self.standard = RunningStandard(3 * REDUCED)
        self.norm = nn.LayerNorm(3 * REDUCED)
        # One factor per class and pooled feature: a low-rank form of the product of features and classes of CDAN, which
        # would have classes × 384 inputs.
        self.condition = nn.Embedding(classes, 3 * REDUCED) if classes else None
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, mean=1.0, std=0.5)
        widths = (3 * REDUCED, *HIDDEN)
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(0.5)]
        self.classify = nn.Sequential(*layers, nn.Linear(widths[-1], domains))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, domains) of features (B, channels, *spatial)."""
        direct = self.linear(self.linear_standard(pooled(features)))
        logits: Tensor = direct + self.classify(self.norm(self.standard(pooled(self.reduce(features)))))
        return logits

    def conditioned(self, features: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, domains), one per predicted class, and the share of each class (B, K) in its sample.

        Parameters
        ----------
        features: (B, channels, *spatial). probabilities: (B, K, *spatial) of the classes on the same grid. Classes
            of which a sample has less than a voxel have share 0.
        """
        maps = self.reduce(features).flatten(2)
        belonging = probabilities.flatten(2).to(features.dtype)
        mass = belonging.sum(dim=2)
        shares = torch.where(mass >= _LEAST_VOXELS, mass, 0.0)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-6)
        values = self.norm(_standardised(self.standard, _pooled_by_class(maps, belonging, mass), shares))
        raw = _pooled_by_class(features.flatten(2), belonging, mass)
        direct = self.linear(_standardised(self.linear_standard, raw, shares))
        if self.condition is not None:
            values = values * self.condition.weight
        logits: Tensor = direct + self.classify(values)
        return logits, shares


def pooled(features: Tensor) -> Tensor:
    """Return mean, standard deviation and maximum over the positions: (B, C, *spatial) to (B, 3 C)."""
    flat = features.flatten(2)
    # The root of a variance of exactly zero has no gradient.
    spread = (flat.var(dim=2, unbiased=False) + 1e-6).sqrt()
    return torch.cat((flat.mean(dim=2), spread, flat.amax(dim=2)), dim=1)


def _standardised(standard: RunningStandard, values: Tensor, shares: Tensor) -> Tensor:
    """Standardise (B, K, F) over samples and classes, by their shares (B, K)."""
    done: Tensor = standard(values.flatten(0, 1), shares.flatten())
    return done.view(values.shape)


def _pooled_by_class(maps: Tensor, belonging: Tensor, mass: Tensor) -> Tensor:
    """Return (B, K, 3 C) of maps (B, C, N) and probabilities (B, K, N)."""
    weights = belonging / mass[:, :, None].clamp_min(1e-6)
    mean = torch.einsum("bkn,bcn->bkc", weights, maps)
    square = torch.einsum("bkn,bcn->bkc", weights, maps.square())
    spread = ((square - mean.square()).clamp_min(0) + 1e-6).sqrt()
    inside = belonging >= _BELONGS * belonging.amax(dim=2, keepdim=True)
    # One class at a time: all at once would need K × C × N numbers.
    lowest = torch.finfo(maps.dtype).min
    largest = torch.stack(
        [maps.masked_fill(~inside[:, None, k], lowest).amax(dim=2) for k in range(inside.shape[1])], dim=1
    )
    return torch.cat((mean, spread, largest), dim=2)
