"""Where the body is in a scan: told from air, however much of it there is, and however it was padded."""

from __future__ import annotations

import math

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume

# How often the threshold between air and body is found, and the share of the body left out at each side of its extent.
_PASSES, _SPECKS = 3, 1e-3
# Quantiles of so many voxels are as good as those of all: their error is a thousandth of a probability.
SAMPLES = 200_000


def body_mask(volume: Volume) -> Array:
    """Return the body without air as a boolean array (i, j, k).

    The threshold is Li's minimum cross-entropy on the logarithm. Exact zeros are padding and do not take part, nor does
    air beside the body: the threshold is found again within the extent of the body, so it does not depend on how much
    air the field of view holds. The largest component is kept and its holes (air ways, flow voids, dark cortical bone)
    are filled slice by slice.
    """
    from scipy.ndimage import binary_fill_holes

    values = volume.array.astype(np.float32)
    values = values - min(0.0, float(values.min()))
    extent: tuple[slice, ...] = (slice(None),) * 3
    mask: Array = values > 0
    for _ in range(_PASSES):
        inside = values[extent]
        inside = inside[inside > 0]
        if inside.size < 2 or inside.min() == inside.max():
            return mask
        mask = _largest_component(values > _li_threshold(inside))
        extent = _extent(mask)
    for k in range(mask.shape[2]):
        mask[:, :, k] = binary_fill_holes(mask[:, :, k])
    return mask


def strides(volume: Volume, samples: int = SAMPLES) -> tuple[slice, slice, slice]:
    """Return every how many voxels to look at so that about `samples` are left, as near to a cubic grid as can be."""
    steps = [1, 1, 1]
    while math.prod(-(-n // s) for n, s in zip(volume.shape, steps, strict=True)) > samples:
        # The axis that is sampled most finely is thinned next.
        fine = [size * step for size, step in zip(volume.spacing, steps, strict=True)]
        steps[int(np.argmin(fine))] += 1
    return slice(None, None, steps[0]), slice(None, None, steps[1]), slice(None, None, steps[2])


def thinned(volume: Volume, samples: int = SAMPLES) -> Volume:
    """Return every few voxels of a volume, `samples` of them at most; a view of the array."""
    step = strides(volume, samples)
    affine = volume.affine.copy()
    affine[:3, :3] *= [s.step for s in step]
    return Volume(volume.array[step], affine)


def _li_threshold(values: Array) -> float:
    from skimage.filters import threshold_li

    return float(np.exp(threshold_li(np.log(values))))


def _largest_component(mask: Array) -> Array:
    import cc3d

    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=6)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    largest: Array = labels == int(counts.argmax())
    return largest


def _extent(mask: Array) -> tuple[slice, ...]:
    """Return the box around a mask, less the outermost thousandth per side: specks of noise that touch the body."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        share = np.cumsum(mask.sum(axis=others)) / max(1, int(mask.sum()))
        first, last = (int(np.searchsorted(share, s)) for s in (_SPECKS, 1 - _SPECKS))
        box.append(slice(first, last + 1))
    return tuple(box)
