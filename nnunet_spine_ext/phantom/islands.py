"""Specks that painting leaves: voxels of a vertebra or disc that another structure has cut off."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPECK_MM3 = 8.0
"""A piece below this volume, apart from the rest of its structure, is no part of the anatomy."""
_ENDPLATES = 200


def absorb_specks(semantic: NDArray[np.uint8], instances: NDArray[np.uint8], spacing: ArrayLike) -> None:
    """Give specks of vertebrae, sacrum and discs to what surrounds them, in place.

    Spurs, uncus and disc are painted over each other; on a grid the tip of one may remain alone behind another.

    Parameters
    ----------
    semantic, instances: label maps of one shape. spacing: voxel size in mm.
    """
    import cc3d
    from scipy.ndimage import binary_dilation, find_objects

    solid = np.where(instances < _ENDPLATES, instances, 0).astype(np.uint8)
    pieces = cc3d.connected_components(solid, connectivity=26)
    counts = np.bincount(pieces.ravel())
    owners = np.zeros(len(counts), np.uint8)
    owners[pieces.ravel()] = solid.ravel()
    largest = np.zeros(256, counts.dtype)
    np.maximum.at(largest, owners[1:], counts[1:])
    limit = SPECK_MM3 / float(np.prod(np.asarray(spacing)))
    specks = [k for k in range(1, len(counts)) if counts[k] < min(limit, largest[owners[k]])]
    boxes = find_objects(pieces) if specks else []
    for piece in specks:
        box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in boxes[piece - 1])
        own = pieces[box] == piece
        around = binary_dilation(own, np.ones((3, 3, 3), bool)) & ~own
        codes = semantic[box].astype(np.uint16) * 256 + instances[box]
        code = np.bincount(codes[around]).argmax()
        semantic[box][own], instances[box][own] = code >> 8, code & 255
