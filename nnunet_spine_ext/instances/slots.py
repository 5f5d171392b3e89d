"""Places for vertebrae that have no body in the mask.

The body may lie outside the picture (its processes or its disc are still in it), may have been missed by the
segmentation, or may not exist (C1). Such a vertebra has a place in the sequence all the same, otherwise everything
below it would count one too few.
"""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import DISC, ENDPLATE, SACRUM
from nnunet_spine_ext.instances.seeds import MISSING_BODY, Bodies
from nnunet_spine_ext.instances.voxels import Voxels


def with_slots(voxels: Voxels, bodies: Bodies, min_speck_mm3: float = 0.0) -> tuple[Bodies, Array]:
    """Add empty places above the first, below the last and between distant bodies.

    Returns
    -------
    (bodies, (n,) bool: which places have a body). No place is added below when
    there is a sacrum: it is what lies below.
    """
    arcs, pitches, real = [float(bodies.arc[0] - bodies.pitch[0])], [float(bodies.pitch[0])], [False]
    for k in range(len(bodies)):
        arcs.append(float(bodies.arc[k]))
        pitches.append(float(bodies.pitch[k]))
        real.append(True)
        if k + 1 < len(bodies):
            pitch = 0.5 * float(bodies.pitch[k] + bodies.pitch[k + 1])
            distance = float(bodies.arc[k + 1] - bodies.arc[k])
            missing = round(distance / pitch) - 1 if distance > MISSING_BODY * pitch else 0
            for step in range(1, missing + 1):
                arcs.append(float(bodies.arc[k]) + distance * step / (missing + 1))
                pitches.append(pitch)
                real.append(False)
    if not ((voxels.part_label == SACRUM) & (voxels.part_mm3 >= min_speck_mm3)).any():
        arcs.append(float(bodies.arc[-1] + bodies.pitch[-1]))
        pitches.append(float(bodies.pitch[-1]))
        real.append(False)
    return _renumbered(bodies, np.array(arcs), np.array(pitches), np.array(real))


def _renumbered(bodies: Bodies, arcs: Array, pitches: Array, real: Array) -> tuple[Bodies, Array]:
    number = np.concatenate([[0], np.flatnonzero(real) + 1]).astype(np.int16)
    notes = {key: [int(number[k]) for k in found] for key, found in bodies.notes.items()}
    return Bodies(number[bodies.labels], arcs, pitches, notes), real


def prune_slots(
    voxels: Voxels,
    vertebra: Array,
    level: Array,
    bodies: Bodies,
    real: Array,
    *,
    min_bodyless_mm3: float,
    min_disc_mm3: float,
    min_sliver_mm3: float,
) -> tuple[Bodies, Array, Array, Array]:
    """Remove empty places again and renumber everything from 1.

    A place without a body stays if it has enough posterior elements, or if a disc or endplates lie below it and (for a
    place between two bodies) above it as well. A place that stays for its discs alone is no vertebra when less than
    `min_sliver_mm3` of posterior elements lies in it: a few voxels at the edge of the picture are noise.

    Parameters
    ----------
    vertebra: (n,) vertebra of each voxel; `level` (n,) vertebra above each voxel of a disc or endplate.
    real: (places,) bool, which places have a body.

    Returns
    -------
    (bodies, (places,) bool: which of the places remain, vertebra, level) with the remaining places.
    """
    count = len(bodies)
    size = voxels.frame.voxel_volume
    posterior = np.bincount(vertebra, minlength=count + 1)[1:] * size
    below = np.bincount(level[voxels.of(DISC, ENDPLATE)], minlength=count + 1) * size
    keep = real | (posterior >= min_bodyless_mm3)
    inner = np.zeros(count, dtype=bool)
    inner[1:-1] = True
    inner[-1] = bool(real[-1])
    both = (below[1:] >= min_disc_mm3) & (below[:-1] >= min_disc_mm3)
    keep |= inner & both
    keep[0] |= below[1] >= min_disc_mm3
    # A place that goes hands its discs to the place above it, and its few voxels to nobody.
    new = np.cumsum(keep)
    whole = keep & (real | (posterior >= min_sliver_mm3))
    of_vertebra = np.concatenate([[0], np.where(whole, new, 0)]).astype(np.int16)
    of_level = np.concatenate([[0], new]).astype(np.int16)
    number = np.concatenate([[0], new])
    notes = {key: [int(number[k]) for k in found] for key, found in bodies.notes.items()}
    kept = Bodies(of_vertebra[bodies.labels], bodies.arc[keep], bodies.pitch[keep], notes)
    return kept, keep, of_vertebra[vertebra], of_level[level]
