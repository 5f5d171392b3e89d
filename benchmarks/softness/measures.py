"""What is measured on one volume: areas of the cord where they are compared, overlap, volume, surface distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.pairs import MaskPair
from nnunet_spine_ext.evaluate.surface import assd
from nnunet_spine_ext.evaluate.voxel import dice, relative_volume_error
from nnunet_spine_ext.measure import cross_sectional_area
from softness.contrasts import LEVELS

MODES = ("sct", "pv")
WHERE = {"compressed": (3.9, 5.1), "lesioned": (1.8, 6.0)}
"""Levels where areas are compared, by test set; `LEVELS` for all others."""


def rows_between(slices: Sequence[Mapping[str, float]], name: str) -> list[Mapping[str, float]]:
    """Return the slices of a volume's truth in which the areas of a test set are compared."""
    low, high = WHERE.get(name, LEVELS)
    return [row for row in slices if low <= row["level"] < high]


def true_area(cord: Volume, rows: Sequence[Mapping[str, float]]) -> float:
    """Return the mean true area in mm², perpendicular to the cord, over the thickness of each slice."""
    axis = slice_axis(cord)
    across = np.delete(np.asarray(cord.spacing), axis)
    sums = np.moveaxis(cord.array, axis, 0).sum(axis=(1, 2), dtype=np.float64) * float(across.prod())
    cosines = [np.cos(np.deg2rad(row["angle_deg"])) for row in rows]
    return float(np.mean([sums[int(row["slice"])] * c for row, c in zip(rows, cosines, strict=True)]))


def slice_axis(volume: Volume) -> int:
    """Return the array axis that runs along the body."""
    return int(np.argmax(np.abs(volume.affine[2, :3])))


def mean_area(volume: Volume, chosen: Sequence[int], mode: str) -> float:
    """Return the mean area in mm² of a mask or soft map over slices of its own numbering; where nothing is, 0."""
    found = cross_sectional_area(known(volume), mode=mode, form=False)
    areas = dict(zip(found.index.tolist(), found.area.tolist(), strict=True))
    values = [areas.get(int(number), 0.0) for number in chosen]
    return float(np.mean(np.nan_to_num(values))) if values else float("nan")


def known(volume: Volume) -> Volume:
    """Return a soft label with 0 where it is -1: only slices that are known are asked for."""
    return volume.with_array(np.maximum(volume.array, 0)) if float(volume.array.min(initial=0)) < 0 else volume


def areas(volume: Volume, chosen: Sequence[int]) -> dict[str, float]:
    """Return the mean area by mode."""
    return {mode: round(mean_area(volume, chosen, mode), 4) for mode in MODES}


def agreement(reference: Array, found: Array, spacing: tuple[float, float, float]) -> dict[str, float | None]:
    """Return Dice, relative volume error (%) and average surface distance (mm) of two masks; None where undefined."""
    if not reference.any() or not found.any():
        empty = not reference.any() and not found.any()
        return {"dice": 1.0 if empty else 0.0, "rve": 0.0 if empty else None, "asd": None}
    pair: Any = MaskPair(*_boxed(reference.astype(bool), found.astype(bool)), spacing)
    return {
        "dice": round(dice(pair), 5), "rve": round(relative_volume_error(pair), 4), "asd": round(assd(pair), 4),
    }  # fmt: skip


def _boxed(reference: Array, found: Array) -> tuple[Array, Array]:
    """Cut both masks to the box round their union, one voxel wider."""
    places = np.argwhere(reference | found)
    box = tuple(slice(max(0, a - 1), b + 2) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))
    return reference[box], found[box]
