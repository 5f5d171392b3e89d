"""Volumes of instances and classes in cubic millimetres."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Volume


def volumes(labels: Volume) -> dict[int, float]:
    """Return the volume in mm³ of every id > 0 of an integer mask."""
    counts = np.bincount(labels.array.reshape(-1).astype(np.intp, copy=False))
    return {int(k): float(counts[k] * labels.voxel_volume) for k in np.flatnonzero(counts) if k > 0}
