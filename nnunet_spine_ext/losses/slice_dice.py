"""Losses on what segmenters find in slices: agreement with a pseudo ground truth, and a floor under the foreground."""

from __future__ import annotations

import torch
from torch import Tensor


def slice_dice_loss(probability: Tensor, truth: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Return 1 - 2Σpt / (Σp + Σt), the mean over slices; no gradient goes into `truth`.

    Through a pseudo ground truth a generator could make a segmenter find what is easily found again, which is nothing
    at all. Per slice and not over the batch, so that a batch split over devices gives the same.

    Parameters
    ----------
    probability, truth: (B, 1, Y, X), 0 to 1.
    smooth: pixels added to both sides of the fraction: nothing found where nothing is gives 0.
    """
    truth = truth.detach()
    both, size = (probability * truth).flatten(1).sum(1), (probability + truth).flatten(1).sum(1)
    return (1 - (2 * both + smooth) / (size + smooth)).mean()


def foreground_share(probability: Tensor) -> Tensor:
    """Return the mean of (B, 1, Y, X) over the pixels of each slice, (B,)."""
    return probability.flatten(1).mean(1)


def foreground_floor(probability: Tensor, floor: float) -> Tensor:
    """Return by which part the foreground of slices lies below a floor: 0 at or above it, 1 where there is none.

    Agreement is cheapest where nothing is found; this is what an empty slice costs.

    Parameters
    ----------
    probability: (B, 1, Y, X).
    floor: least mean probability of a slice; 0: no floor.
    """
    if floor <= 0:
        return probability.new_zeros(())
    return torch.relu(1 - foreground_share(probability) / floor).mean()
