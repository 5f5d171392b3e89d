"""Sampling images and labels at moved positions: once per voxel, images linear, labels nearest.

Positions are normalised as `grid_sample` wants them (align_corners=False: -1 and 1 are the outer faces of the first
and the last voxel), the last array axis first. There are two implementations of the same function: `by_grid` here
with `grid_sample` for accelerators and for gradients, and `by_gather` for the CPU. Outside the source images take the
level of air and labels are -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment.batch import spatial

OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class Motion:
    """Positions of R samples: `affine` (R, D, D+1) on voxels counted from the centre, or `nodes` (R, D, *nodes)."""

    shape: tuple[int, ...]
    affine: Tensor | None
    nodes: Tensor | None

    @property
    def device(self) -> torch.device | None:
        """Where the positions are."""
        given = self.affine if self.nodes is None else self.nodes
        return None if given is None else given.device

    def of(self, row: int) -> Motion:
        """Return the positions of one sample, with R = 1."""
        affine, nodes = (None if x is None else x[row : row + 1] for x in (self.affine, self.nodes))
        return Motion(self.shape, affine, nodes)

    def grid(self) -> Tensor:
        """Return all positions, (R, D, *shape)."""
        if self.nodes is not None:
            mode = "trilinear" if len(self.shape) == 3 else "bilinear"
            return functional.interpolate(self.nodes, size=self.shape, mode=mode, align_corners=True)
        first, rest = self.terms()
        return spatial(first, len(self.shape) - 1) + rest[:, :, None]

    def terms(self) -> tuple[Tensor, Tensor]:
        """Return the affine positions as a sum of (R, D, shape[0]) and (R, D, *shape[1:]): no product per voxel."""
        if self.affine is None:
            msg = "only an affine motion is a sum of terms"
            raise ValueError(msg)
        along = [torch.arange(n, device=self.affine.device, dtype=torch.float32) - (n - 1) / 2 for n in self.shape]
        tail = len(self.shape) - 1
        rest = spatial(self.affine[:, :, -1], tail)
        for axis, positions in enumerate(along[1:]):
            rest = rest + spatial(self.affine[:, :, axis + 1], tail) * spatial(positions, tail - 1 - axis)
        return self.affine[:, :, :1] * along[0], rest


Pair = tuple[Tensor, Tensor | None]
"""Images and labels."""


def by_grid(
    images: Tensor,
    labels: Tensor | None,
    motion: Motion,
    air: Tensor | None,
    target: Pair,
    indices: Sequence[int],
) -> None:
    """Sample R images (R, C, *source) and labels (R, K, *source) into R samples of (B, C, *shape) and (B, K, *shape).

    `air`: (R, C), needed if a position may lie outside. `indices`: which samples of the target.
    """
    grid = motion.grid().movedim(1, -1)
    dim = len(motion.shape)
    source = images if air is None else images - spatial(air, dim)
    moved = functional.grid_sample(source, grid, padding_mode="zeros", align_corners=False)
    out, out_labels = target
    for row, index in enumerate(indices):
        # Not before the sample before it is written: autograd forbids views that are older than a change.
        place = out[index]
        if air is None:
            place.copy_(moved[row])
        elif moved.requires_grad:
            place.copy_(moved[row] + spatial(air[row], dim))
        else:
            torch.add(moved[row], spatial(air[row], dim), out=place)
    if labels is not None and out_labels is not None:
        # Shifted by one where something may lie outside, so that the zeros of the padding become -1.
        shifted = labels.to(torch.float32) if air is None else (labels - float(OUTSIDE)).to(torch.float32)
        ids = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
        for row, index in enumerate(indices):
            place = out_labels[index]
            place.copy_(ids[row])
            if air is not None:
                place.add_(OUTSIDE)
