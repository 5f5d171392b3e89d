"""Masks as a rater would draw them: the border is where this very image passes half way from cord to surroundings.

One rule for all contrasts. What "half way" means differs between them by itself, because cord, fluid, fat and bone
have other signals, and resolution, noise and ringing are others: dark fluid makes the cord larger, bright fluid
smaller, or the other way round where fat shines in. That is the disagreement between contrasts which soft ground truth
is to remove; nothing about its size is chosen here.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt, gaussian_filter, label

from nnunet_spine_ext.core.volume import Array, Volume

EYE = 0.5
"""Blur of a rater's eye in the slice (standard deviation, mm): nobody follows single noisy pixels."""
RING = 4.0
"""Surroundings: what lies outside the cord within this distance (mm), fluid, fat and bone alike."""
REACH = 2.0
"""No rater draws further than this outside or inside the true border (mm), whatever the image shows."""
ALONG = 4.0
"""Signals are compared over this length of the cord (standard deviation, mm): raters scroll."""


def hard_mask(image: Volume, cord: Volume) -> Volume:
    """Return the mask (uint8) of one image.

    Parameters
    ----------
    image: what the rater sees.
    cord: the true fraction of each voxel that is cord, on the same grid: it says where to look, not where the border
        is.
    """
    axis = int(np.argmax(np.abs(image.affine[2, :3])))
    seen, truth = np.moveaxis(image.array, axis, 2).astype(np.float64), np.moveaxis(cord.array, axis, 2)
    spacing = np.delete(np.asarray(image.spacing), axis)
    seen = gaussian_filter(seen, (*(EYE / spacing), 0))
    distance = np.stack([_signed_distance(truth[..., k] >= 0.5, spacing) for k in range(truth.shape[2])], axis=2)
    inner, outer = _signals(seen, distance, ALONG / image.spacing[axis])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (seen - outer) / (inner - outer)
    found = np.zeros(truth.shape, bool)
    for k in np.flatnonzero((truth >= 0.5).any(axis=(0, 1))):
        found[..., k] = _drawn(share[..., k] > 0.5, distance[..., k])
    return image.with_array(np.ascontiguousarray(np.moveaxis(found, 2, axis)).astype(np.uint8))


def _signed_distance(inside: Array, spacing: Array) -> Array:
    """Return the distance from the border in mm, negative inside; far away where the slice has no cord."""
    if not inside.any():
        return np.full(inside.shape, 1e3)
    return np.where(
        inside, -distance_transform_edt(inside, sampling=spacing), distance_transform_edt(~inside, sampling=spacing)
    )


def _signals(seen: Array, distance: Array, smoothing: float) -> tuple[Array, Array]:
    """Return the signal of cord and of surroundings per slice, (slices,) each: medians, evened out along the cord."""
    inner, outer = [], []
    for k in range(seen.shape[2]):
        core, ring = distance[..., k] < -1.5, (distance[..., k] > 0) & (distance[..., k] < RING)
        inner.append(np.median(seen[..., k][core]) if core.any() else np.nan)
        outer.append(np.median(seen[..., k][ring]) if ring.any() else np.nan)
    return _evened(np.array(inner), smoothing), _evened(np.array(outer), smoothing)


def _evened(values: Array, sigma: float) -> Array:
    known = np.isfinite(values)
    if not known.any():
        return values
    weight = gaussian_filter(known.astype(np.float64), sigma, mode="constant")
    total = gaussian_filter(np.where(known, values, 0.0), sigma, mode="constant")
    return total / np.maximum(weight, 1e-12)


def _drawn(cord_like: Array, distance: Array) -> Array:
    """Return the outline that a rater draws in one slice: the connected piece round the middle, without holes."""
    allowed = distance < REACH
    core = distance < -REACH
    core = core if core.any() else distance <= distance.min()
    pieces, _ = label((cord_like & allowed) | core)
    kept = np.isin(pieces, np.unique(pieces[core]))
    padded = np.pad(kept, 2)
    return binary_fill_holes(binary_closing(padded, np.ones((3, 3))))[2:-2, 2:-2]
