"""Where the body is in a scan: told from air, however much of it there is, and however it was padded."""

from __future__ import annotations

import math

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume

# How often the threshold between air and body is found, and the share of the body left out at each side of its extent.
_PASSES, _SPECKS = 3, 1e-3
# Air is thick, dark tissue is not. Measured on five real T2w volumes with six changes of intensity each: of what lies
# below Li's threshold, 0.70 or more is thick in whole, halved and widened scans (41 % air and more), 0.58 or less in
# crops with at most 11 % air. A crop with 18 % lies on both sides (0.55 to 0.72), so changes of intensity can tip it.
_THICK_MM, _THICK_SHARE = 4.0, 0.65
# Li's threshold depends on how much dark tissue is in view, the level of the air on how much quiet air: a weighted
# geometric mean of both depends less on either.
_DARK_TISSUE = 3.0
_ABOVE_AIR, _AIR_SHARE = 5.0, 1 / 2
# Quantiles of so many voxels are as good as those of all.
SAMPLES = 200_000
# Of the logarithm of a threshold, at which its search ends.
_TOLERANCE = 1e-3


def body_mask(volume: Volume) -> Array:
    """Return the body without air as a boolean array (i, j, k).

    Steps, each for a way in which scans differ:

    1. Neighbouring voxels are averaged: noise must not join air and body.
    2. Exact zeros are padding and do not take part.
    3. Air and body are parted by Li's minimum cross-entropy threshold on the logarithm, found again within the extent
       of the body, so that air beside the body does not count.
    4. What lies below it is air only if most of it is more than `_THICK_MM` from any body; dark tissue is thin. Without
       air, as in a crop, all is body.
    5. The final threshold lies between Li's and a multiple of the air's level.
    6. The largest component is kept. Its holes (air ways, flow voids, cortical bone) are filled slice by slice.
    """
    from scipy.ndimage import uniform_filter

    values = volume.array.astype(np.float32)
    filled = values != 0
    window = [min(3, n) for n in values.shape]
    values = uniform_filter(values, size=window, mode="nearest")
    if not filled.all():
        # Beside padding the mean is that of the voxels that are filled.
        values /= np.maximum(uniform_filter(filled.astype(np.float32), size=window, mode="nearest"), 0.03)
    floor, top = np.quantile(_some(values[filled]), (0.002, 0.9)) if filled.any() else (0.0, 0.0)
    if not top > floor:
        return filled
    values = np.maximum(values - floor, 1e-3 * (top - floor))
    values[~filled] = 0
    threshold, mask = _li_within_body(values, filled)
    air = _thick(~mask, volume.spacing) & filled
    if np.count_nonzero(air) < max(2, _THICK_SHARE * np.count_nonzero(filled & ~mask)):
        return _filled_up(filled)
    extent = _extent(mask)
    near = values[extent][air[extent]]
    beside, everywhere = (
        float(np.quantile(_some(part), 0.25)) if part.size > 1000 else np.inf for part in (near, values[air])
    )
    # What lies beside a body is air with its ghosts, unless it is far brighter than other air: then it is dark tissue.
    level = everywhere if beside > _DARK_TISSUE * everywhere else beside
    if not np.isfinite(level):
        level = float(np.quantile(values[air], 0.25))
    between = threshold * min(1.0, _ABOVE_AIR * level / threshold) ** _AIR_SHARE
    mask = _filled_up(_largest_component(values > between))
    # Averaging carried the body one voxel out into the air; there the voxels themselves decide, and as they are noisier
    # it is Li's threshold that they must exceed.
    edge = mask & ~_shrunk(mask | ~filled, window)
    mask[edge] = volume.array[edge] > threshold + floor
    return mask


def _li_within_body(values: Array, filled: Array) -> tuple[float, Array]:
    """Return Li's threshold between air and body, found anew within the body's extent, and the body above it."""
    extent: tuple[slice, ...] = (slice(None),) * 3
    mask: Array = filled
    threshold = 0.0
    for _ in range(_PASSES):
        inside = values[extent]
        inside = _some(inside[inside > 0])
        if inside.size < 2 or inside.min() == inside.max():
            break
        threshold = _li_threshold(inside)
        mask = _largest_component(values > threshold)
        extent = _extent(mask)
    return threshold, mask


def _thick(mask: Array, spacing: tuple[float, float, float]) -> Array:
    """Return the voxels of a mask that are farther than `_THICK_MM` from its border; the edge of a scan is none."""
    return _shrunk(mask, [2 * int(_THICK_MM / step) + 1 for step in spacing])


def _shrunk(mask: Array, size: list[int]) -> Array:
    from scipy.ndimage import minimum_filter

    inner: Array = minimum_filter(mask.astype(np.uint8), size=size, mode="nearest") > 0
    return inner


def _filled_up(mask: Array) -> Array:
    from scipy.ndimage import binary_fill_holes

    for k in range(mask.shape[2]):
        mask[:, :, k] = binary_fill_holes(mask[:, :, k])
    return mask


def _some(values: Array) -> Array:
    """Return every few of many values: 200000 tell a threshold or a median well enough."""
    return values.ravel()[:: max(1, values.size // 200_000)]


def strides(volume: Volume, samples: int = SAMPLES) -> tuple[slice, slice, slice]:
    """Return every how many voxels to look at so that at most `samples` are left, as near to a cubic grid as can be."""
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

    return float(np.exp(threshold_li(np.log(values), tolerance=_TOLERANCE)))


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
