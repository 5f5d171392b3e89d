"""What test-time training makes smaller."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.adaptation import affine
from nnunet_spine_ext.inference.adaptation.patches import Patch

Network = Callable[[torch.Tensor], torch.Tensor]
# A class with less than this many voxels in both answers has no Dice worth training on.
_LEAST_VOXELS = 1.0
# Single precision tells 1 minus this from 1.
_TINY = 1e-6


def to_probabilities(logits: torch.Tensor, *, regions: bool) -> torch.Tensor:
    """Return probabilities (B, K, *spatial) in single precision; regions overlap, classes do not."""
    return logits.float().sigmoid() if regions else logits.float().softmax(dim=1)


def without_background(values: torch.Tensor, *, regions: bool) -> torch.Tensor:
    """Return the channels of structures; of regions these are all."""
    return values if regions else values[:, 1:]


def soft_dice(a: torch.Tensor, b: torch.Tensor, valid: torch.Tensor) -> torch.Tensor | None:
    """Return the mean over channels of 2 Σab / (Σa² + Σb²), which is 1 only where both are equal.

    Channels that neither shows are left out; None when that leaves none.

    Parameters
    ----------
    a, b: (B, K, *spatial) in [0, 1]. valid: (B or 1, 1, *spatial), 0 or 1.
    """
    weight = valid.to(a.dtype)
    axes = [0, *range(2, a.ndim)]
    both = (a * b * weight).sum(dim=axes)
    squares = ((a * a + b * b) * weight).sum(dim=axes)
    shown = squares.detach() > _LEAST_VOXELS
    return (2 * both[shown] / squares[shown]).mean() if bool(shown.any()) else None


def inconsistency(network: Network, patch: Patch, maps: tuple[Array, Array], *, regions: bool) -> torch.Tensor | None:
    """Return one minus the soft Dice of the answers to two affine copies of a patch, both mapped back.

    Only the first answer is trained, the second stands for what it should be, as in DG-TTA. None when neither answer
    shows a structure where both hold.
    """
    size = patch.inside.shape[2:]
    answers = []
    valid = patch.inside
    for number, matrix in enumerate(maps):
        with torch.set_grad_enabled(number == 0):
            answer = to_probabilities(network(affine.forward(patch.context, matrix, size)), regions=regions)
            moved, there = affine.backward(without_background(answer, regions=regions), matrix)
        answers.append(moved)
        valid = valid & there
    dice = soft_dice(answers[0], answers[1], valid)
    return None if dice is None else 1 - dice


def entropy(probabilities: torch.Tensor, inside: torch.Tensor, *, regions: bool) -> torch.Tensor:
    """Return the mean entropy of probabilities (B, K, *spatial) inside the image, 0 to 1 (all equally likely)."""
    p = probabilities.clamp(_TINY, 1 - _TINY)
    if regions:
        each = -(p * p.log() + (1 - p) * (1 - p).log()).mean(dim=1, keepdim=True) / math.log(2)
    else:
        each = -(p * p.log()).sum(dim=1, keepdim=True) / math.log(p.shape[1])
    weight = inside.to(each.dtype).expand_as(each)
    return (each * weight).sum() / weight.sum()


def shares(probabilities: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the mean probability (K,) of each channel inside the image: its share of the voxels."""
    weight = inside.to(probabilities.dtype)
    axes = [0, *range(2, probabilities.ndim)]
    return (probabilities * weight).sum(dim=axes) / weight.sum()


def divergence(prior: torch.Tensor, now: torch.Tensor, *, regions: bool) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of shares (K,) from their prior, at least 0; of regions their mean.

    It grows without limit where a structure that the prior knows disappears.
    """
    p, q = prior.clamp(_TINY, 1 - _TINY), now.clamp(_TINY, 1 - _TINY)
    each = p * (p / q).log()
    if not regions:
        return each.sum()
    return (each + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
