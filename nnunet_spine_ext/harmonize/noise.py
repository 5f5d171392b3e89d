"""How strong the noise of a scan is, told from the scan alone."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.body import SAMPLES

# A median of absolute values over this is a standard deviation of a normal distribution.
_MAD = 0.6745
# Immerkaer 1996, Fast noise variance estimation: the difference of two Laplacians, which ignores planes and edges.
# That is the second difference along both axes, three voxels each; of independent noise its deviation is six times that
# of the noise.
_REACH, _GAIN = 3, 6.0
# Voxel sizes that differ by less than this part are the same.
_ALIKE = 0.02
# Fewer voxels than these say nothing.
_FEWEST = 100


def noise_deviation(image: Volume, body: Array, *, slices: int | None = None) -> float | None:
    """Return the standard deviation of the noise within a body; None where there are too few voxels to tell.

    It is what Immerkaer's difference of Laplacians leaves in the planes of the finest voxels. Fine anatomy counts as
    noise, and noise that an interpolation has smoothed is counted too low, so compare scans of similar voxels.

    Parameters
    ----------
    image: one channel. body: boolean (i, j, k).
    slices: look at no more of them, spread evenly; None: at all.
    """
    planes, inside = in_planes(image, np.asarray(image.array)), in_planes(image, body)
    if slices is not None and len(planes) > slices:
        chosen = np.linspace(0, len(planes) - 1, slices).round().astype(int)
        planes, inside = planes[chosen], inside[chosen]
    if min(planes.shape[1:]) < _REACH:
        return None
    with np.errstate(invalid="ignore"):
        rest = np.diff(np.diff(np.ascontiguousarray(planes, dtype=np.float64), 2, axis=1), 2, axis=2)
    values = rest[inside[:, 1:-1, 1:-1]]
    values = np.abs(values[np.isfinite(values)][:: max(1, values.size // SAMPLES)])
    return float(np.median(values)) / _MAD / _GAIN if values.size >= _FEWEST else None


def in_planes(image: Volume, array: Array) -> Array:
    """Return an array on the grid of an image with the axis of the thickest voxels first; a view.

    Of axes that are as thick as each other it is the one nearest to left and right, however the image is stored.
    """
    spacing = np.asarray(image.spacing)
    thick = np.flatnonzero(spacing >= (1 - _ALIKE) * spacing.max())
    sideways = np.abs(image.affine[0, :3] / spacing)[thick]
    return np.moveaxis(array, int(thick[np.argmax(np.round(sideways, 6))]), 0)
