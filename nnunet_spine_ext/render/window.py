"""Grey levels: which intensities become black and white."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array

Window = tuple[float, float]

_SAMPLES = 400_000
# Air is most of many MR volumes; a percentile over all voxels would then say nothing about tissue.
_AIR_SHARE_OF_BRIGHT = 0.05
_LOW, _HIGH = 1.0, 98.5
_CT_AIR = -700.0
_CT_WINDOW: Window = (-250.0, 850.0)


def window(array: Array) -> Window:
    """Return the intensities (low, high) to show as black and white.

    Robust against outliers (percentiles 1 and 98.5 of what is brighter than air), against NaN and infinity, and
    against constant images (high is then low + 1). Volumes that reach below -700 are taken for CT in Hounsfield units
    and get a fixed bone window.

    Parameters
    ----------
    array: any shape, any real dtype.
    """
    flat = array.reshape(-1)
    # A stride, not a random draw: equal input gives equal pictures. Odd, so that it does not fall in step with rows.
    step = max(1, flat.size // _SAMPLES) | 1
    values = flat[::step].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (_LOW, _HIGH))
    if low < _CT_AIR and high > 0:
        return _CT_WINDOW
    tissue = values[values > low + _AIR_SHARE_OF_BRIGHT * (high - low)]
    if tissue.size:
        high = float(np.percentile(tissue, _HIGH))
    return float(low), float(high) if high > low else float(low) + 1.0


def to_grey(array: Array, limits: Window) -> Array:
    """Map intensities to uint8, linearly between the limits; NaN and minus infinity are black."""
    low, high = limits
    scaled = (np.nan_to_num(array.astype(np.float32), nan=low, posinf=high, neginf=low) - low) * (255.0 / (high - low))
    grey: Array = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return grey
