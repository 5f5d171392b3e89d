"""How much of its surface each instance shares with something else."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume


def contact_mm2(instances: Volume, other: Array) -> Array:
    """Return the area in mm² of the faces between each instance and the voxels of a mask, by id.

    Parameters
    ----------
    instances: ids from 0; background has an area, too.
    other: (i, j, k) bool on the same grid.

    Returns
    -------
    (largest id + 1,) areas; not meaningful for ids that are themselves in `other`.
    """
    spacing = instances.spacing
    total = np.zeros(int(instances.array.max(initial=0)) + 1)
    for axis in range(3):
        area = spacing[(axis + 1) % 3] * spacing[(axis + 2) % 3]
        low = tuple(slice(None, -1) if k == axis else slice(None) for k in range(3))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        for mine, theirs in ((low, high), (high, low)):
            total += np.bincount(instances.array[mine][other[theirs]], minlength=len(total)) * area
    return total
