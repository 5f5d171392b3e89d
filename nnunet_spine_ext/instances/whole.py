"""Masks of whole vertebrae, as SPIDER has them: bodies are told from arches by the canal behind them.

All steps of the separation know bodies: they are what is counted, cut apart and placed. A mask that has one class for
the whole vertebra gets them back as far as geometry tells: a vertebra's body is what lies in front of the canal (or
cord) of its height, its spinous process what lies behind the canal in the middle. What lies behind it on either side,
processes and joints, goes by the class of the costal processes: an arch is then, as cuts between fused bodies expect
it, what leaves the upper half of a body.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import apply_table
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.frame import (
    ARCUS,
    CANAL,
    CORD,
    CORPUS,
    COSTAL,
    DISC,
    ORIENTATION,
    SACRUM,
    SPINOUS,
    Frame,
)

# Ids of the schemes of whole vertebrae, as classes of ``nnunet14``; the vertebra goes by its body's.
TABLES: dict[str, dict[int, int]] = {
    "whole_vertebrae": {1: CORPUS, 2: DISC, 3: CANAL, 4: CORD, 5: SACRUM},
    "totalsegmentator_mr": {18: SACRUM, 19: CORPUS, 20: DISC, 21: CORD},
}
# The edge of the canal is smoothed over this much of its length: single slices of a mask are off.
_SMOOTHING_MM = 9.0
# The cord has a sleeve of fluid that the canal has in it.
_SLEEVE_MM = 3.0
# Half the width of a spinous process; farther out than the second one lie the joints.
_SPINOUS_MM, _LATERAL_MM = 5.0, 8.0
# So far beyond its ends the canal may be taken to go straight on; a cord ends at L1, five vertebrae too early.
_BEYOND_MM = 20.0


def with_arches(frame: Frame) -> Frame:
    """Return a frame whose whole vertebrae (as corpus) are parted into body, arch and spinous process.

    Raises
    ------
    CaseError: vertebrae, and neither canal nor cord: what is in front of it nobody can tell.
    """
    bone = frame.labels == CORPUS
    if not bone.any():
        return frame
    tube = (frame.labels == CANAL) | (frame.labels == CORD)
    if not tube.any():
        raise CaseError(
            "E-INST-CANAL",
            file="semantic mask",
            found="whole vertebrae, and neither canal nor cord",
            expected="a canal or cord: bodies are what lies in front of it",
            fix="segment the canal as well, or use masks with vertebral bodies as a class of their own (nnunet14)",
        )
    front, back, middle = _edges(tube, frame)
    x, y = (np.arange(n, dtype=np.float32)[:, None] for n in frame.labels.shape[:2])
    behind = bone & (y <= front)[None]
    labels = np.where(behind, ARCUS, frame.labels).astype(np.uint8)
    aside = (x - middle) * frame.spacing[0]
    dorsal = behind & (y < back)[None]
    for label, where in (
        (SPINOUS, np.abs(aside) <= _SPINOUS_MM),
        (COSTAL[0], aside < -_LATERAL_MM),
        (COSTAL[1], aside > _LATERAL_MM),
    ):
        labels[dorsal & where[:, None]] = label
    return replace(frame, labels=labels, beyond_canal_mm3=_beyond(bone, tube, frame))


def classes_of_whole(semantic: Volume, scheme: str) -> Volume:
    """Return the ``nnunet14`` classes of a mask of whole vertebrae, on its grid, parted as in `with_arches`.

    Raises CaseError as `with_arches`, and for ids that the scheme does not know.
    """
    labels = apply_table(semantic.array, TABLES[scheme], file="semantic mask")
    upright = Volume(labels, semantic.affine).turned(ORIENTATION)
    box = (slice(None), slice(None), slice(None))
    x, y, z = upright.spacing
    parted = with_arches(Frame(np.asarray(upright.array, dtype=np.uint8), (x, y, z), box, upright.shape))
    return upright.with_array(parted.labels).to_grid_of(semantic)


def _beyond(bone: Array, tube: Array, frame: Frame) -> float:
    """Volume in mm³ of bone that lies more than `_BEYOND_MM` above or below the canal."""
    planes = np.flatnonzero(tube.any(axis=(0, 1)))
    reach = round(_BEYOND_MM / frame.spacing[2])
    below, above = bone[:, :, : max(0, planes[0] - reach)], bone[:, :, planes[-1] + reach + 1 :]
    return float(np.count_nonzero(below) + np.count_nonzero(above)) * frame.voxel_volume


def _edges(tube: Array, frame: Frame) -> tuple[Array, Array, Array]:
    """Return for every axial plane the foremost and hindmost voxel of the canal, and its middle from left to right."""
    from scipy.ndimage import median_filter

    depth = np.arange(tube.shape[1], dtype=np.int32)[:, None]
    across: Array = np.asarray(tube.any(axis=0))
    planes = np.flatnonzero(across.any(axis=0))
    front = np.where(across, depth, -1).max(axis=0)[planes].astype(np.float32)
    back = np.where(across, depth, tube.shape[1]).min(axis=0)[planes].astype(np.float32)
    along: Array = np.any(tube, axis=1)[:, planes]
    side = np.arange(tube.shape[0], dtype=np.float32)[:, None]
    middle = (along * side).sum(axis=0) / along.sum(axis=0)
    if not (frame.labels == CANAL).any():
        front, back = front + _SLEEVE_MM / frame.spacing[1], back - _SLEEVE_MM / frame.spacing[1]
    width = 2 * round(_SMOOTHING_MM / (2 * frame.spacing[2])) + 1
    every = np.arange(tube.shape[2])
    edges = (np.interp(every, planes, median_filter(edge, width, mode="nearest")) for edge in (front, back, middle))
    low, high, centre = (edge.astype(np.float32) for edge in edges)
    return low, high, centre
