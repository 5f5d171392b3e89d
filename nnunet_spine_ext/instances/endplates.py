"""Superior and inferior endplates: which vertebra each voxel of an endplate belongs to."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ENDPLATE, SACRUM
from nnunet_spine_ext.instances.voxels import Voxels, neighbours

# What is left of an endplate after its border with the body joins the nearest such voxel within this distance.
_REACH_MM = 6.0


def endplate_owners(voxels: Voxels, body: Array, levels: Array, sacrum: int) -> tuple[Array, Array]:
    """Tell for each voxel of an endplate which vertebra it belongs to.

    Parameters
    ----------
    body: (n,) number of the body that each voxel is part of; `levels` (n,) vertebra above each voxel of an endplate.
    sacrum: number to give to the sacrum: that of the last vertebra plus one.

    Returns
    -------
    (numbers, owner): numbers (m,) of the voxels of endplates; owner (m,) the vertebra, 0 where none is near: it is the
    vertebra above (inferior endplate) or the one below (superior endplate), whichever the voxel is in touch with.
    """
    plate = voxels.of(ENDPLATE)
    above = levels[plate].astype(np.intp)
    bone = voxels.dense(np.where(voxels.label == SACRUM, sacrum, body), np.int16).reshape(-1)
    touch = np.zeros((2, len(plate)), dtype=np.int16)
    for place in neighbours(voxels.flat[plate], voxels.frame.labels.shape):
        number = bone[place]
        touch[0] += (number == above) & (number > 0)
        touch[1] += number == above + 1
    del bone
    owner = np.where(touch[0] > touch[1], above, np.where(touch[1] > 0, above + 1, 0))
    lost = owner == 0
    if not lost.any():
        return plate, owner.astype(np.int16)
    from scipy.spatial import cKDTree

    points = voxels.frame.positions(voxels.flat[plate])
    for level in np.unique(above[lost]):
        known = np.flatnonzero((above == level) & (owner > 0))
        asked = np.flatnonzero((above == level) & (owner == 0))
        if len(known):
            distance, nearest = cKDTree(points[known]).query(points[asked], distance_upper_bound=_REACH_MM)
            found = np.isfinite(distance)
            owner[asked[found]] = owner[known[nearest[found]]]
    return plate, owner.astype(np.int16)
