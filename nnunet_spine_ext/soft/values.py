"""Soft labels as values and validity, so that "unknown" never meets an interpolator as a number.

On disk a voxel that nobody has labelled is -1. Interpolated, that would become a value like any other: half way to a
cord voxel it is background. So it is split off at once: K channels of values and one of validity, and what is
interpolated is value times validity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.losses.supervised import VALID_ABOVE

SUPERVISED = VALID_ABOVE
"""Validity above which a voxel is supervised: below, part of its value comes from beyond what is known."""


def one_hot(labels: Array, ids: Sequence[int], ignore: int | None) -> tuple[Array, Array]:
    """Return values (K, …) and validity (…) of a hard label map (…); negative ids are background."""
    values = np.stack([labels == number for number in ids]).astype(np.float32)
    valid = np.ones(labels.shape, np.float32) if ignore is None else (labels != ignore).astype(np.float32)
    return values, valid


def resampled(values: Array, valid: Array, shape: Sequence[int], nearest: int | None = None) -> tuple[Array, Array]:
    """Return values (K, …) and validity (…) on a grid of another size over the same extent.

    Linear between voxel centres, as nnU-Net resamples; value = resampled(value · valid) / resampled(valid), so voxels
    that are not known contribute nothing. The result is in [0, 1].

    Parameters
    ----------
    nearest: axis along which whole slices are taken, as nnU-Net does with images of thick slices: a label that mixed
        two slices would not be that of the slice which the image shows.
    """
    if tuple(valid.shape) == tuple(shape):
        return values, valid
    if nearest is not None and valid.shape[nearest] != shape[nearest]:
        count = valid.shape[nearest]
        place = (np.arange(shape[nearest]) + 0.5) * (count / shape[nearest])
        slices = np.clip(np.floor(place).astype(int), 0, count - 1)
        values, valid = values.take(slices, axis=nearest + 1), valid.take(slices, axis=nearest)
    stacked = torch.from_numpy(np.concatenate([values * valid, valid[None]])).float()
    mode = "bilinear" if valid.ndim == 2 else "trilinear"
    moved = functional.interpolate(stacked[None], size=[int(n) for n in shape], mode=mode, align_corners=False)[0]
    joined = divided(moved[None])[0].numpy()
    return joined[:-1], joined[-1]


def divided(joined: Tensor) -> Tensor:
    """Return (B, K+1, …) of values and validity for one of (value · validity) and validity, after interpolation."""
    valid = joined[:, -1:].clamp(0, 1)
    # Where nothing is known there is nothing to divide: the value is 0 and not supervised.
    values = joined[:, :-1] / valid.clamp_min(torch.finfo(valid.dtype).tiny)
    return torch.cat((values.clamp(0, 1) * (valid > 0), valid), dim=1)


def weighted(joined: Tensor) -> Tensor:
    """Return (value · validity) and validity (B, K+1, …), which may be interpolated, for values and validity."""
    return torch.cat((joined[:, :-1] * joined[:, -1:], joined[:, -1:]), dim=1)
