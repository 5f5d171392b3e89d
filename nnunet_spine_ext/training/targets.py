"""Label maps to what nnU-Net's loss reads, on any device: regions, and a target for every deep-supervision output.

nnU-Net does this in its workers, sample by sample. The values are the same; what is copied to the device is one label
map instead of a list of targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

Regions = tuple[tuple[int, ...], ...]
Scales = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Targets:
    """What becomes of a batch of label maps.

    `regions`: label ids of each region, for region-based training; the ignore label, if any, is the last one. None:
    the label map itself. `scales`: per output of the network the size along each axis, 1 for the patch. None: no deep
    supervision.
    """

    regions: Regions | None = None
    scales: Scales | None = None

    def __call__(self, labels: Tensor) -> Tensor | list[Tensor]:
        """Return the target, or a list of targets, of label maps (B, 1, …) without negative ids.

        Labels stay of the type they have; regions are (B, R, …) bool.
        """
        target = labels if self.regions is None else in_regions(labels, self.regions)
        return target if self.scales is None else [at_scale(target, scale) for scale in self.scales]


def in_regions(labels: Tensor, regions: Regions) -> Tensor:
    """Return which voxels of (B, 1, …) lie in which region: (B, R, …) bool."""
    table = _region_table(regions, labels.device)
    index = labels.clamp(0, table.shape[1] - 1).to(torch.int32)
    members = torch.index_select(table, 1, index.flatten())
    return members.view(len(regions), *labels[:, 0].shape).movedim(0, 1).contiguous()


def at_scale(target: Tensor, scale: Sequence[float]) -> Tensor:
    """Return (B, C, …) at a scale per axis, as `interpolate` with mode ``nearest-exact`` picks voxels.

    That picks the same positions in every line, so nothing has to be interpolated, nor turned to float.
    """
    steps: list[slice] = []
    for axis, factor in enumerate(scale, start=target.dim() - len(scale)):
        picked = _picked(target.shape[axis], float(factor))
        step = picked[1] - picked[0] if len(picked) > 1 else 1
        regular = picked == tuple(range(picked[0], picked[-1] + 1, step))
        if not regular:
            target = torch.index_select(target, axis, _positions(picked, target.device))
        steps.append(slice(picked[0], picked[-1] + 1, step) if regular else slice(None))
    return target[(..., *steps)].contiguous()


def one_hot(labels: Tensor, ids: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return (B, len(ids), …) of ones where (B, 1, …) is an id."""
    numbers = _positions(tuple(ids), labels.device).view(1, -1, *[1] * (labels.dim() - 2))
    return (labels == numbers).to(dtype)


@cache
def _picked(size: int, factor: float) -> tuple[int, ...]:
    """Ask PyTorch itself, on the host, which voxels of a line it would pick."""
    line = torch.arange(size, dtype=torch.float32)[None, None]
    picked = functional.interpolate(line, [round(size * factor)], mode="nearest-exact")
    return tuple(int(v) for v in picked.flatten().tolist())


# Constants stay on the device: creating them in every step would make the host wait.
@cache
def _positions(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


@cache
def _region_table(regions: Regions, device: torch.device) -> Tensor:
    """Return (R, ids + 1) bool; the last column, of ids beyond all regions, is False."""
    table = torch.zeros(len(regions), max(max(ids) for ids in regions) + 2, dtype=torch.bool)
    for row, ids in enumerate(regions):
        table[row, list(ids)] = True
    return table.to(device)
