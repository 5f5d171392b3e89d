"""Cross-sectional area of the spinal cord, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centreline import Centreline
from nnunet_spine_ext.measure.cord_line import SMOOTHING, line_of
from nnunet_spine_ext.measure.cord_map import NEAR_ZERO, CordMap, cord_map
from nnunet_spine_ext.measure.levels import PROJECTION_SMOOTHING, Levels, levels_from_labels
from nnunet_spine_ext.measure.slice_shape import Mode, count_objects, pv_shapes, sct_shapes, tilt

MODES: tuple[str, ...] = get_args(Mode)
# A slice of a soft map that nowhere exceeds this would be no cord in a mask.
_FAINT = 0.5
FAINT_NOTE = f"slices nowhere exceed {_FAINT:g}; mode sct scales them to full strength"


@dataclass(frozen=True, eq=False)
class CrossSection:
    """What was measured in every slice from the lowest to the highest that holds cord; all arrays have that length.

    Slices inside this range that are empty or unknown are NaN everywhere but in `slice`, `index`, `level`, `objects`.

    Parameters
    ----------
    slice: number along the superior-inferior axis, 0 is the lowest slice of the volume (the Spinal Cord Toolbox'
        numbering, whatever the orientation of the file).
    index: number of the same slice along the input's own array axis.
    level: vertebra id (1 is C1, 8 T1, 20 L1; see `core.labels.VERTEBRAE`); NaN where not known or not asked for.
    area: mm² across the cord.
    angle_ap, angle_rl: tilt about the front-to-back and the right-left axis in degrees.
    diameter_ap, diameter_rl: mm. `diameter_ap` of mode ``sct`` is the mean extent in a band of 3 mm,
        `diameter_ap_ellipse` and `diameter_rl` are axes of the ellipse with the same second moments.
    length_anterior, length_posterior: the two parts of `diameter_ap` about the centre, mm (``sct`` only).
    eccentricity: of that ellipse, 0 is a circle.
    orientation: degrees of its long axis to the right-left axis.
    solidity: share of the convex hull that is filled (``sct`` only).
    length: mm of cord in the slice: thickness over the cosines of the tilt.
    objects: separate objects in the slice; all of them count for the area.
    mode: ``sct`` or ``pv``.
    notes: sentences about values that were changed or cannot be trusted.
    """

    slice: Array
    index: Array
    level: Array
    area: Array
    angle_ap: Array
    angle_rl: Array
    diameter_ap: Array
    diameter_ap_ellipse: Array
    diameter_rl: Array
    length_anterior: Array
    length_posterior: Array
    eccentricity: Array
    orientation: Array
    solidity: Array
    length: Array
    objects: Array
    mode: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slice)

    def columns(self) -> dict[str, Array]:
        """Return the arrays by name, in the order of the table."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, np.ndarray)}

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the table as CSV, one row per slice, empty where NaN; write it atomically if a path is given."""
        from nnunet_spine_ext.measure.csa_table import csv_text

        return csv_text([self.columns()], path)


def cross_sectional_area(
    volume: Volume,
    *,
    mode: str = "sct",
    levels: Levels | Volume | None = None,
    label: int | None = None,
    centreline: Volume | Centreline | Array | None = None,
    smoothing: float = SMOOTHING,
    angle_correction: bool = True,
    form: bool = True,
) -> CrossSection:
    """Measure the cross-section of the spinal cord in every slice.

    Parameters
    ----------
    volume: mask, soft map (0 to 1; -1 where unknown) or label map in any orientation. Nothing is thresholded.
    mode: ``sct`` gives the numbers of the Spinal Cord Toolbox (sct_process_segmentation with its defaults): every
        slice is scaled to its own maximum first. ``pv`` is the sum of the shares of voxels times their area across
        the cord: a map of half the strength has half the area. Values above 1 count as 1 in ``pv``.
    levels: a labelled cord (a volume whose values in the cord are levels) or what `measure.levels` makes of discs,
        points or instances.
    label: the cord's label, where `volume` has several.
    centreline: where the tilt comes from, instead of the map itself: a mask (any grid), points (n, 3) in RAS+ mm or a
        line of the spine.
    smoothing: of the centreline, in the toolbox' unit; its command line has 30, its Python interface 20.
    angle_correction: False measures in the plane of the slices.
    form: False leaves out diameters, eccentricity, orientation and solidity (NaN), which take most of the time.

    Returns
    -------
    The table; without rows when there is no cord.

    Raises
    ------
    UsageError: unknown mode, negative smoothing.
    CaseError: several labels and none chosen, values on another scale, a centreline or levels that do not fit.
    """
    check_options(mode, smoothing)
    cord = cord_map(volume, label)
    used = np.flatnonzero((cord.array > NEAR_ZERO).any(axis=(0, 1)))
    if not len(used):
        return _no_cord(cord, mode)
    slices = np.arange(used[0], used[-1] + 1)
    slopes = np.zeros((len(slices), 2))
    if angle_correction:
        slopes = line_of(cord, centreline, smoothing, weighted=mode == "pv").at(slices)
    found = _measured(cord, slices, slopes, mode, form=form)
    if levels is None:
        return found
    chosen = levels_from_labels(levels) if isinstance(levels, Volume) else levels
    level = chosen.of_slices(cord, line_of(cord, centreline, PROJECTION_SMOOTHING), slices)
    return replace(found, level=level, notes=(*found.notes, *chosen.notes))


def check_options(mode: str, smoothing: float) -> None:
    """Raise UsageError for an unknown mode or a smoothing that is no number from 0 up."""
    if mode not in MODES:
        raise UsageError(
            "E-CSA-MODE", found=f"the mode {mode!r}", expected=" or ".join(MODES), fix="choose one of these"
        )
    if not 0 <= smoothing < float("inf"):
        raise UsageError(
            "E-CSA-SMOOTHING", found=f"a smoothing of {smoothing}", expected="0 or more", fix="30 is the usual value"
        )


def _measured(cord: CordMap, slices: Array, slopes: Array, mode: str, *, form: bool) -> CrossSection:
    angles = tilt(slopes, cord.spacing)
    shapes = (
        sct_shapes(cord, slices, angles, form=form) if mode == "sct" else pv_shapes(cord, slices, slopes, form=form)
    )
    shapes |= {
        "angle_ap": np.degrees(angles[0]),
        "angle_rl": np.degrees(angles[1]),
        "length": cord.spacing[2] / (np.cos(angles[0]) * np.cos(angles[1])),
    }
    unknown = np.isnan(shapes["area"]) | cord.unknown[slices]
    nothing = np.full(len(slices), np.nan)
    measured: dict[str, Any] = {
        field.name: np.where(unknown, np.nan, shapes.get(field.name, nothing))
        for field in fields(CrossSection)
        if field.name not in ("slice", "index", "level", "objects", "mode", "notes")
    }
    objects = count_objects(cord, slices)
    return CrossSection(
        slice=slices,
        index=cord.own_index(slices),
        level=nothing,
        objects=objects,
        mode=mode,
        notes=(*cord.notes, *_remarks(cord, slices, objects, mode)),
        **measured,
    )


def _highest(cord: CordMap, slices: Array) -> Array:
    """Return the largest share of each slice that holds cord, 1 for those that hold none."""
    highest = cord.array[:, :, slices].max(axis=(0, 1))
    return np.where(highest > NEAR_ZERO, highest, 1.0)


def _remarks(cord: CordMap, slices: Array, objects: Array, mode: str) -> list[str]:
    notes = []
    if mode == "sct" and (faint := int((_highest(cord, slices) <= _FAINT).sum())):
        notes.append(f"{faint} {FAINT_NOTE}")
    if len(slices) == 1:
        notes.append("one slice alone tells no tilt: the cord is taken for perpendicular to it")
    if several := int((objects > 1).sum()):
        notes.append(f"{several} slices hold more than one object; all of them count")
    if missing := int(cord.unknown[slices].sum()):
        notes.append(f"{missing} slices are unknown (-1) somewhere and are not measured")
    planes = cord.array[:, :, slices]
    # At the border of the image there may be more cord outside.
    cut = sum(
        (planes[edge, :, :] > 0).any() if axis == 0 else (planes[:, edge, :] > 0).any()
        for axis in (0, 1)
        for edge, at_border in (
            (0, cord.offset[axis] == 0),
            (-1, cord.offset[axis] + planes.shape[axis] == cord.shape[axis]),
        )
        if at_border
    )
    if cut:
        notes.append("the cord touches the border of the image; its area may be cut off")
    return notes


def _no_cord(cord: CordMap, mode: str) -> CrossSection:
    empty = {field.name: np.zeros(0) for field in fields(CrossSection) if field.name not in ("mode", "notes")}
    empty |= {name: np.zeros(0, dtype=int) for name in ("slice", "index", "objects")}
    return CrossSection(**empty, mode=mode, notes=(*cord.notes, "no cord"))
