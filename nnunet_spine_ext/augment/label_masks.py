"""Which voxels of a batch bear chosen labels, for stages that work on whole volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.batch import Batch, Plane, pick
from nnunet_spine_ext.augment.context import Context


def label_weights(context: Context, chosen: Sequence[int]) -> NDArray[np.float64]:
    """Return 1 for each id that is chosen, from 0 to one beyond the largest; ids that are not known are as 0."""
    known = set(context.labels)
    ids = range(max(known) + 2)
    return np.array([float((label if label in known else 0) in chosen) for label in ids])


def inside(batch: Batch, planes: Sequence[Plane], weights: Tensor) -> Tensor:
    """Return whether a voxel's label is chosen, (K, …); `weights` (K, ids), the last for unknown ids."""
    shape = (len(planes), *batch.images.shape[2:])
    chosen = weights > 0
    if batch.labels is None:
        return chosen[:, 0].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    count = weights.shape[1]
    labels = pick(batch.labels[:, 0], [index for index, _ in planes])
    ids = labels.clamp(0, count - 1).to(torch.int32).flatten(1)
    result = torch.empty(ids.shape, dtype=torch.bool, device=ids.device)
    # One selection per plane is faster than one gather for all, and needs no index of 8 bytes.
    for row, own, out in zip(chosen, ids, result, strict=True):
        torch.index_select(row, 0, own, out=out)
    return result.view(shape)


def only_inside(batch: Batch, planes: Sequence[Plane], weights: Tensor, images: Tensor, changed: Tensor) -> Tensor:
    """Return what was changed where a voxel's label is chosen, else the images, all (K, …)."""
    return torch.where(inside(batch, planes, weights), changed, images)
