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


class DomainHead(nn.Module):
    """Logits of domains from features: 1×1 convolution, mean, standard deviation and maximum, two hidden layers.

    Instance normalisation takes mean and scale out of every channel, and with them most of what tells scanners apart in
    the mean. The convolution mixes channels first, so that their relations show; spread and extremes are pooled too.

    Parameters
    ----------
    channels: of the features. domains: how many there are, at least 2. dimensions: 2 or 3.
    classes: condition on so many predicted classes (cdan); 0: pool over everything.
    """

    def __init__(self, channels: int, domains: int, *, dimensions: int = 3, classes: int = 0) -> None:
        super().__init__()
        convolution = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.reduce = convolution(channels, REDUCED, kernel_size=1)
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
        logits: Tensor = self.classify(self.norm(pooled(self.reduce(features))))
        return logits

    def conditioned(self, features: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, domains), one per predicted class, and the share of each class (B, K) in its sample.

        Parameters
        ----------
        features: (B, channels, *spatial). probabilities: (B, K, *spatial) of the classes on the same grid. Classes
            of which a sample has less than a voxel have share 0.
        """
        maps = self.reduce(features).flatten(2)
        belonging = probabilities.flatten(2).to(maps.dtype)
        mass = belonging.sum(dim=2)
        shares = torch.where(mass >= _LEAST_VOXELS, mass, 0.0)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-6)
        values = self.norm(_pooled_by_class(maps, belonging, mass))
        if self.condition is not None:
            values = values * self.condition.weight
        logits: Tensor = self.classify(values)
        return logits, shares


def pooled(features: Tensor) -> Tensor:
    """Return mean, standard deviation and maximum over the positions: (B, C, *spatial) to (B, 3 C)."""
    flat = features.flatten(2)
    # The root of a variance of exactly zero has no gradient.
    spread = (flat.var(dim=2, unbiased=False) + 1e-6).sqrt()
    return torch.cat((flat.mean(dim=2), spread, flat.amax(dim=2)), dim=1)


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
