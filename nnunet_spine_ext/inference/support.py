"""Soft values far from every structure become 0.

A network that was trained by regression answers with a few hundredths where nothing is. Over a whole slice that adds up
to tens of square millimetres. A threshold removes it, and the outer half of every edge with it. Partial volume exists
only next to a structure, so distance tells the two apart and leaves edges alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.settings import PredictSettings

# What is certain enough to have an edge.
CORE = 0.5
# Voxel sizes come from headers in single precision.
_ROUNDING = 1e-5
# Slices at a time: distances over a whole CT would take twenty bytes per voxel.
_SLAB = 64


def support_mm(plans: Mapping[str, Any]) -> float | None:
    """Return how far from a structure soft values of a model are kept, in mm; None: everywhere.

    Raises UsageError for settings of prediction that are none.
    """
    return (predict_settings(plans) or PredictSettings()).support_mm


def limit_to_support(soft: Array, labels: Array, spacing: Sequence[float], reach: float) -> None:
    """Set soft values to 0, in place, that are farther than `reach` from every voxel of their class.

    Those voxels are where the value exceeds 0.5, and where the label map says the class (of several classes the largest
    value wins, and may be smaller). Kept values stay as they are, to the bit; a class without one becomes empty.

    Parameters
    ----------
    soft: (K, *spatial) float. labels: (*spatial), class k has the value k + 1.
    spacing: mm along the spatial axes, which are taken to be perpendicular.
    reach: mm, above 0; direct neighbours are kept however large voxels are.
    """
    for number, values in enumerate(soft, start=1):
        values[~near_core((values > CORE) | (labels == number), spacing, reach)] = 0


def near_core(core: Array, spacing: Sequence[float], reach: float) -> Array:
    """Return which voxels are within `reach` mm of a voxel of `core`, or its direct neighbours; (*spatial) bool."""
    near = np.zeros(core.shape, dtype=bool)
    halo = [max(1, int(reach / size * (1 + _ROUNDING))) for size in spacing]
    rows = np.flatnonzero(core.reshape(len(core), -1).any(axis=1))
    if not len(rows):
        return near
    for start in range(max(0, int(rows[0]) - halo[0]), min(len(core), int(rows[-1]) + halo[0] + 1), _SLAB):
        below = max(0, start - halo[0])
        part = core[below : start + _SLAB + halo[0]]
        found = ndimage.find_objects(part.view(np.uint8))
        if not found:
            continue
        box = tuple(
            slice(max(0, side.start - margin), side.stop + margin)
            for side, margin in zip(found[0][1:], halo[1:], strict=True)
        )
        answer = _near(part[(slice(None), *box)], spacing, reach)
        # Rows of the halo are for the distances only: their own neighbours are not all here.
        near[(slice(start, start + _SLAB), *box)] = answer[start - below : start - below + _SLAB]
    return near


def _near(core: Array, spacing: Sequence[float], reach: float) -> Array:
    near: Array = ndimage.distance_transform_edt(~core, sampling=spacing) <= reach * (1 + _ROUNDING)
    if np.linalg.norm(spacing) > reach:
        near |= ndimage.binary_dilation(core, np.ones((3,) * core.ndim, dtype=bool))
    return near
