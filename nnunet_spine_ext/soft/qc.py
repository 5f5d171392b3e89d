"""Is the soft label what it should be? Areas before and after, shifts and agreement, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure import cross_sectional_area
from nnunet_spine_ext.soft.ground_truth import RATERS, Contributor, SoftGroundTruth
from nnunet_spine_ext.soft.union_grid import Frame

# Room around the structure that the measurement gets: the rest of the scan holds nothing.
_ROOM = 3


@dataclass(frozen=True)
class Areas:
    """Cross-sectional area in each slice of one scan, mode ``pv`` of `measure.cross_sectional_area`.

    Parameters
    ----------
    z: mm along the union's axis.
    mask, soft: mm²; NaN where there is none or the label is ignore.
    """

    z: Array
    mask: Array
    soft: Array

    @property
    def shared(self) -> Array:
        """Slices that have both."""
        return np.isfinite(self.mask) & np.isfinite(self.soft)


@dataclass(frozen=True)
class Row:
    """One mask in the table; areas in mm² over the slices that have both, lengths in mm, angles in degrees."""

    contrast: str
    used: bool
    why: str
    reference: bool
    weight: float
    slices: int
    slices_labelled: int
    area_mask: float
    area_soft: float
    shift_x: float
    shift_y: float
    shift_largest: float
    step_largest: float
    jumps: int
    angle_largest: float
    affine: bool
    dice_before: float
    dice: float
    dice_worst_slice: float
    z_worst_slice: float


@dataclass(frozen=True)
class Quality:
    """The table of one subject.

    Parameters
    ----------
    rows: one per mask.
    areas: by mask, without those left out.
    std_mask, std_soft: standard deviation (ddof 1) of the mean area across the masks that are used, over the levels
        that all of them have; NaN when they share none.
    shared: lowest and highest of these levels (mm), None without.
    """

    rows: list[Row]
    areas: dict[str, Areas]
    std_mask: float
    std_soft: float
    shared: tuple[float, float] | None


def quality(result: SoftGroundTruth, masks: Mapping[str, Volume]) -> Quality:
    """Measure a result; `masks` are those that it was made of."""
    frame = Frame.of(masks[result.reference])
    used = [name for name, row in result.contributors.items() if row.used]
    areas = {name: _areas(masks[name], _soft_of(result, name), frame) for name in used}
    rows = [_row(name, row, result, masks[name], areas.get(name)) for name, row in result.contributors.items()]
    shared = _shared([areas[name] for name in used])
    means = [_means(areas[name], shared) for name in used] if shared is not None else []
    std_mask, std_soft = (
        (float(np.std(column, ddof=1)) for column in zip(*means, strict=True))
        if len(means) > 1
        else (float("nan"),) * 2
    )
    return Quality(rows, areas, std_mask, std_soft, shared)


def table(rows: Sequence[Row], subject: str | None = None) -> str:
    """Return the rows as CSV, empty where a number is not known; with a first column if a subject is named."""
    stream = io.StringIO()
    names = list(Row.__dataclass_fields__)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(([] if subject is None else ["subject"]) + names)
    for row in rows:
        writer.writerow(([] if subject is None else [subject]) + [_cell(value) for value in asdict(row).values()])
    return stream.getvalue()


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if not np.isfinite(value) else f"{value:.4f}"
    return str(value)


def _soft_of(result: SoftGroundTruth, name: str) -> Volume:
    return result.soft[RATERS] if RATERS in result.soft else result.soft[name]


def _row(name: str, row: Contributor, result: SoftGroundTruth, mask: Volume, areas: Areas | None) -> Row:
    alignment, agreement = row.alignment, row.agreement
    nothing = float("nan")
    shift = np.zeros((0, 2)) if alignment is None else alignment.shift[alignment.common]
    lengths = np.linalg.norm(shift, axis=1)
    both = areas.shared if areas is not None else np.zeros(0, dtype=bool)
    angles = None if alignment is None else alignment.angle
    labelled = 0
    if row.used:
        labelled = int((_soft_of(result, name).to("RAS").array >= 0).any(axis=(0, 1)).sum())
    worst = -1 if agreement is None else agreement.worst_level
    return Row(
        contrast=name,
        used=row.used,
        why=row.why,
        reference=row.used and name == result.reference and RATERS not in result.soft,
        weight=row.weight,
        slices=int(mask.to("RAS").array.any(axis=(0, 1)).sum()),
        slices_labelled=labelled,
        area_mask=float(areas.mask[both].mean()) if areas is not None and both.any() else nothing,
        area_soft=float(areas.soft[both].mean()) if areas is not None and both.any() else nothing,
        shift_x=float(shift[:, 0].mean()) if len(shift) else nothing,
        shift_y=float(shift[:, 1].mean()) if len(shift) else nothing,
        shift_largest=float(lengths.max()) if len(shift) else nothing,
        step_largest=nothing if alignment is None else alignment.largest_step_mm,
        jumps=0 if alignment is None else len(alignment.jumps),
        angle_largest=0.0 if angles is None else float(np.degrees(np.abs(angles)).max()),
        affine=alignment is not None and alignment.shape is not None,
        dice_before=row.dice_before,
        dice=nothing if agreement is None else agreement.dice,
        dice_worst_slice=nothing if agreement is None else agreement.worst_dice,
        z_worst_slice=float(result.z[worst]) if 0 <= worst < len(result.z) and row.used else nothing,
    )


def _areas(mask: Volume, soft: Volume, frame: Frame) -> Areas:
    ras, label = mask.to("RAS"), soft.to("RAS")
    shown = np.asarray((ras.array > 0) | (label.array > 0))
    box = []
    for axis in range(3):
        there = np.flatnonzero(shown.any(axis=tuple(k for k in range(3) if k != axis)))
        low, high = (int(there[0]), int(there[-1])) if len(there) else (0, 0)
        box.append(slice(max(0, low - _ROOM), high + 1 + _ROOM))
    cut = (box[0], box[1], box[2])
    first = cut[2].start
    count = ras.crop(cut).shape[2]
    columns = []
    for volume in (ras, label):
        part = volume.crop(cut)
        found = cross_sectional_area(Volume(np.asarray(part.array, np.float32), part.affine), mode="pv", form=False)
        column = np.full(count, np.nan)
        column[np.asarray(found.slice, dtype=int)] = found.area
        columns.append(column)
    middle = [(s.start + s.stop - 1) / 2 for s in cut[:2]]
    places = np.array([[*middle, first + k] for k in range(count)])
    matrix, offset = frame.of_index(ras.affine)
    return Areas((places @ matrix.T + offset)[:, 2], columns[0], columns[1])


def _shared(areas: Sequence[Areas]) -> tuple[float, float] | None:
    """Return the range of levels in which every scan has slices with both areas."""
    ends = [(row.z[row.shared].min(), row.z[row.shared].max()) for row in areas if row.shared.any()]
    if len(ends) < len(areas) or not ends:
        return None
    low, high = max(end[0] for end in ends), min(end[1] for end in ends)
    return (float(low), float(high)) if high >= low else None


def _means(areas: Areas, shared: tuple[float, float]) -> tuple[float, float]:
    """Return the mean areas between two levels, interpolated so that thick and thin slices see the same part."""
    here = areas.shared
    order = np.argsort(areas.z[here])
    z = areas.z[here][order]
    levels = np.linspace(*shared, 101)
    mask, soft = (np.interp(levels, z, column[here][order]).mean() for column in (areas.mask, areas.soft))
    return float(mask), float(soft)
