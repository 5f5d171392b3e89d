"""Which slice to show: through the middle of the spine, straight or following its curve."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume

# A plane whose extent along the body reaches this share of the best one competes by labelled area.
_NEARLY_BEST = 0.95
# Among the levels with the most different labels, those with this share of the largest area are all good to look at.
_AMPLE = 0.6
_SMOOTH_MM = 12.0


def choose_position(labels: Volume, plane: str, ids: Collection[int] | None = None) -> int:
    """Return the index along the RAS axis through the plane that shows the spine best.

    Sagittal and coronal: the plane with the largest labelled extent along the body, of those the one with the largest
    labelled area. Axial: of the levels with the most different labels and much labelled area, the one closest to the
    middle of the labelled extent. Without any label: the middle of the volume.

    Parameters
    ----------
    labels: integer ids, any orientation.
    ids: labels that count, such as cord, canal, corpus and disc for the midline; None or none present: all.
    """
    array = labels.to("RAS").array
    if plane == "axial":
        return _richest_level(array)
    mask = _mask(array, ids)
    if not mask.any():
        return array.shape[0 if plane == "sagittal" else 1] // 2
    # (through the plane, along the body)
    area = mask.sum(axis=1 if plane == "sagittal" else 0)
    extent = (area > 0).sum(axis=1)
    candidates = np.where(extent >= _NEARLY_BEST * extent.max(), area.sum(axis=1), -1)
    return int(np.argmax(candidates))


def curve(labels: Volume, plane: str, ids: Collection[int] | None = None) -> tuple[int, ...] | None:
    """Return one position per level along the body, following the labels' smoothed centre line.

    Levels without labels are interpolated, those beyond the ends repeat the last value. None if nothing is labelled.

    Parameters
    ----------
    labels: integer ids, any orientation.
    plane: ``sagittal`` (the curve goes left and right) or ``coronal`` (it goes to the front and back).
    ids: labels that count; None or none present: all.
    """
    ras = labels.to("RAS")
    mask = _mask(ras.array, ids)
    area = mask.sum(axis=1 if plane == "sagittal" else 0).astype(np.float64)
    weight = area.sum(axis=0)
    levels = np.flatnonzero(weight)
    if levels.size == 0:
        return None
    centre = (area * np.arange(area.shape[0])[:, None]).sum(axis=0)[levels] / weight[levels]
    first, last = int(levels[0]), int(levels[-1])
    inside = _smoothed(np.interp(np.arange(first, last + 1), levels, centre), _SMOOTH_MM / ras.spacing[2])
    smooth = np.pad(inside, (first, weight.size - 1 - last), mode="edge")
    return tuple(int(n) for n in np.clip(np.rint(smooth), 0, area.shape[0] - 1))


def deviation_mm(positions: tuple[int, ...], labels: Volume, plane: str) -> float:
    """Return how far (mm) a curve leaves a straight plane: largest minus smallest position."""
    spacing = labels.to("RAS").spacing[0 if plane == "sagittal" else 1]
    return (max(positions) - min(positions)) * spacing


def _mask(array: Array, ids: Collection[int] | None) -> Array:
    if ids:
        chosen: Array = np.isin(array, list(ids))
        if chosen.any():
            return chosen
    nonzero: Array = array != 0
    return nonzero


def _richest_level(array: Array) -> int:
    area = (array != 0).sum(axis=(0, 1))
    if not area.any():
        return array.shape[2] // 2
    kinds = np.array([np.unique(array[:, :, k]).size if area[k] else 0 for k in range(array.shape[2])])
    richest = np.flatnonzero(kinds == kinds.max())
    ample = richest[area[richest] >= _AMPLE * area[richest].max()]
    labelled = np.flatnonzero(area)
    middle = (labelled[0] + labelled[-1]) / 2
    return int(ample[np.argmin(np.abs(ample - middle))])


def _smoothed(line: Array, sigma: float) -> Array:
    """Gaussian mean along a line, continued beyond its ends by point reflection (a straight line stays straight)."""
    radius = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    if line.size < 2:
        return line
    padded = np.pad(line, radius, mode="reflect", reflect_type="odd")
    smooth: Array = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return smooth
