"""How far apart the features of several domains are: by a classifier's answers, by covariances, by kernels.

Distances are relative to the size of the features: otherwise smaller features would be nearer, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.core.config import check_ranges

DomainLossName = Literal["dann", "cdan", "coral", "mmd", "paired"]
ADVERSARIAL: tuple[DomainLossName, ...] = ("dann", "cdan")
"""Losses whose gradient is reversed on its way to the encoder; the others are distances to be made small."""

# Widths of the kernels relative to the median distance of two features: near and far structure both count.
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_SMALLEST = 1e-8
_FEWEST_PAIRS = 2


@dataclass(frozen=True)
class DomainLossSettings:
    """Which loss keeps domains out of the features, and how strong it is.

    Parameters
    ----------
    name: ``dann``: a classifier of the pooled features, its gradient reversed (Ganin et al. 2016). ``cdan``: the same,
        pooled per predicted class and conditioned on it (Long et al. 2018). ``coral``: difference of covariances (Sun
        and Saenko 2016). ``mmd``: maximum mean discrepancy (Gretton et al. 2012; Long et al. 2015). ``paired``:
        difference of the features of one patch as two simulated scanners take it (`unshared`).
    strength: largest lambda; None is 0.1 for ``dann`` and ``cdan``, 1 for the others.
    warm_up: first part of the training in which the encoder does not feel the loss, 0 to 0.9. A classifier that still
        guesses has nothing to say.
    gamma: how fast lambda rises after that.
    bounded: ``dann`` and ``cdan``: lambda of a sample is multiplied by `damping`, so that the encoder is not paid for
        driving the classifier into confident errors. Cross entropy has no upper limit: without this an encoder can
        gain without end, and learn little else.
    label_smoothing: of the classifier.
    voxels: at most so many positions per sample enter ``coral`` and ``mmd``.

    Raises
    ------
    UsageError: a number outside its limits.
    """

    name: DomainLossName = "dann"
    strength: float | None = None
    warm_up: float = 0.1
    gamma: float = 10.0
    bounded: bool = True
    label_smoothing: float = 0.1
    voxels: int = 256

    def __post_init__(self) -> None:
        """Refuse numbers outside their limits."""
        limits = {"warm_up": (0, 0.9), "gamma": (0.1, 100), "label_smoothing": (0, 0.9), "voxels": (8, 4096)}
        if self.strength is not None:
            limits["strength"] = (0, 100)
        check_ranges(self, limits, where="domain.loss")

    @property
    def largest(self) -> float:
        """The lambda that the schedule rises to."""
        return self.strength if self.strength is not None else 0.1 if self.name in ADVERSARIAL else 1.0

    @property
    def paired(self) -> bool:
        """Whether every patch has to be seen as two domains show it."""
        return self.name == "paired"


def balanced_cross_entropy(
    logits: Tensor, domains: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the cross entropy in which every domain that occurs counts the same, however many samples it has.

    Parameters
    ----------
    logits: (N, D). domains: (N,) from 0. weights: (N,) of the samples within their domain, 0 or more; None: equal.
    """
    losses = functional.cross_entropy(logits, domains, reduction="none", label_smoothing=label_smoothing)
    weights = torch.ones_like(losses) if weights is None else weights
    members = functional.one_hot(domains, logits.shape[1]).to(losses.dtype) * weights[:, None]
    mass = members.sum(dim=0)
    means = (members * losses[:, None]).sum(dim=0) / mass.clamp_min(_SMALLEST)
    return means.sum() / (mass > 0).sum().clamp_min(1)


def damping(logits: Tensor, domains: Tensor) -> Tensor:
    """Return what lambda of each sample is multiplied by: 1 up to the loss of a guess, 0 from twice that on.

    A guess among D domains has the cross entropy log D. An encoder that hides the domain brings a classifier there, not
    beyond. No gradient.

    Parameters
    ----------
    logits: (N, D). domains: (N,) from 0.
    """
    loss = functional.cross_entropy(logits.detach(), domains, reduction="none")
    return (2 - loss / math.log(logits.shape[1])).clamp(0, 1)


def coral_distance(features: Tensor, domains: Tensor, *, voxels: int = 256) -> Tensor:
    """Return how much the covariances of two domains differ, squared, relative to their size: 0 equal, 1 unrelated.

    Sun and Saenko 2016 divide by 4 C², which smaller features make small too. Every position of a map is one
    observation, so a batch of two samples is enough. The mean over all pairs of domains in the batch; 0 with one.

    Parameters
    ----------
    features: (B, C, *spatial). domains: (B,). voxels: at most so many positions per sample.
    """
    return _over_pairs(_observations(features, domains, voxels), _coral, features)


def mmd_distance(features: Tensor, domains: Tensor, *, voxels: int = 256) -> Tensor:
    """Return the squared maximum mean discrepancy of two domains, the mean over five Gaussian kernels.

    Their widths are relative to the median distance of the observations, so scale does not matter. Observations,
    pairs and arguments: see `coral_distance`.
    """
    return _over_pairs(_observations(features, domains, voxels), _mmd, features)


def unshared(first: Tensor, second: Tensor) -> Tensor:
    """Return the share of the variance that lies within pairs, the mean over features.

    It is 0 if the two of each pair are equal, and n / (2 n - 1) on average if they are alike only by chance: two thirds
    for two pairs, one half for many, half of one minus the intraclass correlation. It is 1 if they are opposite. What
    varies between pairs keeps features from becoming constant.

    Parameters
    ----------
    first, second: (n, F), the two of each pair, n >= 2.

    Raises
    ------
    ValueError: sides that differ in number, or one pair: all that varies then lies within it.
    """
    if len(first) != len(second) or len(first) < _FEWEST_PAIRS:
        raise ValueError(f"{len(first)} and {len(second)} samples are not {_FEWEST_PAIRS} pairs or more")
    within = (first - second).square().sum(dim=0) / 2
    values = torch.cat((first, second))
    total = (values - values.mean(dim=0)).square().sum(dim=0)
    return (within / total.clamp_min(_SMALLEST)).mean()


DISTANCES: dict[str, Callable[..., Tensor]] = {"coral": coral_distance, "mmd": mmd_distance}
"""Losses without an adversary, by name."""


def _observations(features: Tensor, domains: Tensor, voxels: int) -> list[Tensor]:
    """Return (positions, C) of every domain that occurs, from a regular grid of the positions."""
    flat = features.float().flatten(2).movedim(1, 2)
    step = max(1, flat.shape[1] // voxels)
    # A step that is odd does not stay in one column of the map.
    flat = flat[:, :: step | 1 if step > 1 else 1]
    return [flat[domains == domain].flatten(0, 1) for domain in torch.unique(domains).tolist()]


def _pairs(groups: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from combinations(groups, 2)


def _over_pairs(groups: list[Tensor], distance: Callable[[Tensor, Tensor], Tensor], features: Tensor) -> Tensor:
    found = [distance(first, second) for first, second in _pairs(groups)]
    # With one domain there is nothing to compare, but the graph stays whole.
    return torch.stack(found).mean() if found else features.float().sum() * 0.0


def _coral(first: Tensor, second: Tensor) -> Tensor:
    one, two = _covariance(first), _covariance(second)
    size = one.square().sum() + two.square().sum()
    return (one - two).square().sum() / size.clamp_min(_SMALLEST)


def _covariance(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=0, keepdim=True)
    return centred.T @ centred / max(1, len(values) - 1)


def _mmd(first: Tensor, second: Tensor) -> Tensor:
    values = torch.cat((first, second))
    # By products, not by cdist, whose gradient is infinite between equal points.
    squares = values.square().sum(dim=1)
    distances = (squares[:, None] + squares[None] - 2 * values @ values.T).clamp_min(0)
    median = distances.detach().median().clamp_min(_SMALLEST)
    kernel = torch.stack([torch.exp(-distances / (width * median)) for width in _BANDWIDTHS]).mean(dim=0)
    split = len(first)
    within = kernel[:split, :split].mean() + kernel[split:, split:].mean()
    return within - 2 * kernel[:split, split:].mean()
