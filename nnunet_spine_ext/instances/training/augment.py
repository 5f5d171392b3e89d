"""The augmentations of SPINEPS' instance network (appendix A of its paper): each a function of a cutout.

A cutout is a pair of arrays (P, I, R): `labels`, uint8 ids of ``nnunet14``, and `target`, uint8, 0 nothing, 1 the
vertebra above, 2 the one in the centre, 3 the one below. The target is always what the labels show: a voxel that an
augmentation takes away from the labels is taken away from it as well.

What is random is drawn once (`draw`) and applied without any further draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.labels import NNUNET14_SIDED
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutouts import vertebra_voxels
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS
from nnunet_spine_ext.instances.training.settings import AugmentSettings

Pair = tuple[Array, Array]

_P, _I, _R = range(3)
# The crop leaves at least this share of the window's height above and below the centre: the vertebra in the centre.
_KEPT = 0.1


@dataclass(frozen=True)
class Draw:
    """One draw of all augmentations; None or False: not applied.

    `scale`: larger than 1 makes structures larger. `coarser`: factor of the voxel size. `eroded`: (share, seed of the
    voxels). `dropped`: a class. `crop`: (first, last + 1) kept along I, in shares of the window.
    """

    scale: float | None = None
    coarser: float | None = None
    eroded: tuple[float, int] | None = None
    dropped: int | None = None
    crop: tuple[float, float] | None = None
    flipped: bool = False


def draw(rng: np.random.Generator, settings: AugmentSettings) -> Draw:
    """Draw what happens to one cutout."""
    # All numbers are drawn every time: a probability that changes does not change the other draws.
    chance = rng.random(6)
    scale = 1 + settings.scaling_range * float(rng.uniform(-1, 1))
    coarser = float(rng.uniform(1, settings.resampling_factor))
    eroded = float(rng.uniform(0, 1)), int(rng.integers(2**31))
    dropped = int(rng.integers(ARCUS, CORPUS))
    edge = float(rng.uniform(0, 0.5 - _KEPT))
    crop = (edge, 1.0) if rng.random() < 0.5 else (0.0, 1.0 - edge)
    return Draw(
        scale=scale if chance[0] < settings.scaling else None,
        coarser=coarser if chance[1] < settings.resampling else None,
        eroded=eroded if chance[2] < settings.erosion else None,
        dropped=dropped if chance[3] < settings.label_drop else None,
        crop=crop if chance[4] < settings.vertical_crop else None,
        flipped=bool(chance[5] < settings.flip),
    )


def apply(labels: Array, target: Array, what: Draw) -> Pair:
    """Apply a draw to a cutout; scaling is the business of whoever reads the cutout (see `scaled`)."""
    if what.coarser is not None:
        labels, target = coarsened(labels, target, what.coarser)
    if what.eroded is not None:
        labels, target = eroded(labels, target, *what.eroded)
    if what.dropped is not None:
        labels, target = without_class(labels, target, what.dropped)
    if what.crop is not None:
        labels, target = cropped(labels, target, what.crop)
    if what.flipped:
        labels, target = flipped(labels, target)
    return labels, target


def read_size(size: Sequence[int], scale: float | None) -> tuple[int, int, int]:
    """Return how large a window has to be read for a cutout of `size` that is scaled: smaller structures, more of them.

    It has the parity of the cutout along each axis, so that both have one centre.
    """
    need = [n if scale is None else int(np.ceil(n / scale)) for n in size]
    p, i, r = (k + (k - n) % 2 for k, n in zip(need, size, strict=True))
    return p, i, r


def scaled(array: Array, scale: float, size: Sequence[int]) -> Array:
    """Return a cutout of `size` around the centre of a window, with structures `scale` times as large."""
    index = []
    for n, have in zip(size, array.shape, strict=True):
        position = (np.arange(n) + 0.5 - n / 2) / scale + have / 2
        index.append(np.clip(np.floor(position).astype(np.intp), 0, have - 1))
    return np.ascontiguousarray(array[np.ix_(*index)])


def coarsened(labels: Array, target: Array, factor: float) -> Pair:
    """Make voxels `factor` times as large along all axes and fine again, nearest neighbour."""
    index = []
    for n in labels.shape:
        blocks = np.floor((np.arange(n) + 0.5) / factor)
        index.append(np.clip(np.floor((blocks + 0.5) * factor).astype(np.intp), 0, n - 1))
    grid = np.ix_(*index)
    return np.ascontiguousarray(labels[grid]), np.ascontiguousarray(target[grid])


def eroded(labels: Array, target: Array, share: float, seed: int) -> Pair:
    """Take away this share of the outermost voxels of the vertebrae (those with a face on something else).

    The whole layer would be all of an arch that is two voxels thick on a coarse grid.
    """
    inside = vertebra_voxels(labels)
    core = inside.copy()
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        # The edge of the window is no surface.
        core[tuple(ahead)] &= inside[tuple(behind)]
        core[tuple(behind)] &= inside[tuple(ahead)]
    shell = np.flatnonzero(inside & ~core)
    gone = shell[np.random.default_rng(seed).random(len(shell)) < share]
    return _without(labels, target, gone)


def without_class(labels: Array, target: Array, label: int) -> Pair:
    """Remove one class of the vertebrae; never the bodies, for cutouts are made around them."""
    return _without(labels, target, np.flatnonzero(labels == label))


def cropped(labels: Array, target: Array, kept: tuple[float, float]) -> Pair:
    """Leave background above and below the part `kept` (shares of the height): an image that ends there."""
    first, last = (round(share * labels.shape[_I]) for share in kept)
    result = np.zeros_like(labels), np.zeros_like(target)
    for new, old in zip(result, (labels, target), strict=True):
        new[:, first:last] = old[:, first:last]
    return result


def flipped(labels: Array, target: Array) -> Pair:
    """Exchange left and right: the arrays and the sided classes."""
    table = np.arange(256, dtype=np.uint8)
    for left, right in NNUNET14_SIDED:
        table[left], table[right] = right, left
    return np.ascontiguousarray(table[labels[:, :, ::-1]]), np.ascontiguousarray(target[:, :, ::-1])


def _without(labels: Array, target: Array, gone: Array) -> Pair:
    labels, target = labels.copy(), target.copy()
    labels.reshape(-1)[gone] = 0
    target.reshape(-1)[gone] = 0
    return labels, target
