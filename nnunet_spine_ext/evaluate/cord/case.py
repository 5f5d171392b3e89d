"""One image from its files to its areas and scores."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.labels import vertebra_name
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.cases import LabelSet, MaskFolder, Resample, on_grid_of
from nnunet_spine_ext.evaluate.cord.areas import AreaTable, Range, SliceAreas, measure, pool, union_of_levels
from nnunet_spine_ext.evaluate.cord.metrics import AT_HALF
from nnunet_spine_ext.evaluate.cord.reading import Cord, read_cord
from nnunet_spine_ext.evaluate.pairs import label_pairs, score
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.result import MISSING
from nnunet_spine_ext.measure.levels import Levels
from nnunet_spine_ext.measure.numbered import is_numbered
from nnunet_spine_ext.measure.points import read_points

LevelKind = Literal["levels", "discs", "instances"]


@dataclass(frozen=True)
class LevelFiles:
    """Where levels come from: a labelled cord, discs (the Spinal Cord Toolbox' voxels, or points), our instances."""

    folder: MaskFolder
    kind: LevelKind

    def read(self, case: str, cord: Volume) -> Levels:
        """Return the levels of a case; points may need the grid of the cord. Raises CaseError when it has none."""
        from nnunet_spine_ext import measure as room

        path = self.folder.get(case)
        if path is None:
            raise CaseError(
                "E-EVAL-CORD-LEVELS",
                file=self.folder.folder,
                found=f"no levels of {case}",
                expected="a file for every case",
                fix="add it, or leave --level-range out",
            )
        if path.suffix.lower() == ".json":
            return room.levels_from_points(read_points(path, cord))
        volume = read_volume(path)
        try:
            if self.kind == "discs":
                return room.levels_from_discs(volume)
            if self.kind == "instances":
                return room.levels_from_instances(_numbered(volume, path, case))
            return room.levels_from_labels(volume)
        except CaseError as error:
            raise CaseError(error.code, file=path, found=error.found, expected=error.expected, fix=error.fix) from error


def _numbered(volume: Volume, path: Path, case: str) -> Volume:
    if is_numbered(path.parent.parent, case):
        return volume
    raise CaseError(
        "E-CSA-UNNUMBERED",
        file=path,
        found="instances that are counted from the top, not numbered",
        expected="anatomical numbers",
        fix="number them, or give --discs",
    )


@dataclass(frozen=True)
class CordJob:
    """Where files are and how areas are measured; references are images, a table, or nothing.

    `preds` has one folder per model.
    """

    refs: MaskFolder | None
    table: AreaTable | None
    preds: tuple[MaskFolder, ...]
    labels: tuple[LabelSet, ...]
    cord: str | None
    mode: str
    ranges: tuple[Range, ...]
    levels: LevelFiles | None
    resample: Resample = None


@dataclass(frozen=True)
class RangeArea:
    """Mean areas in mm² in one range: of each prediction and of the reference, over `slices` that all of them have.

    `own` counts the slices of each prediction in the range, `reference_slices` those of the reference (None: it has
    no slices), `shared_slices` those that all predictions have, whatever the reference has.
    """

    areas: tuple[float, ...]
    reference: float
    slices: int
    own: tuple[int, ...]
    reference_slices: int | None
    shared_slices: int

    @property
    def coverage(self) -> float:
        """Share of the reference's slices that the prediction has too; NaN where it has none."""
        return self.slices / self.reference_slices if self.reference_slices else math.nan


@dataclass
class CaseAreas:
    """What became of one image.

    `scores`: by metric, for the first prediction; `ranges` by name. `failure` is set for a missing prediction (scores
    are those of an empty one) and for a case that could not be measured.
    """

    ranges: dict[str, RangeArea] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    soft: tuple[bool, ...] = ()
    warnings: list[Problem] = field(default_factory=list)
    failure: Problem | None = None
    details: str = ""


def guarded(case: str, job: CordJob) -> CaseAreas:
    """Measure one case; whatever goes wrong is its outcome."""
    try:
        return score_case(case, job)
    except CaseError as error:
        return CaseAreas(failure=error.problem())
    except Exception as error:
        return CaseAreas(failure=Problem.unexpected(error, case, "areas"), details=traceback.format_exc())


def score_case(case: str, job: CordJob) -> CaseAreas:
    """Read and measure one case; raises CaseError for what cannot be compared."""
    outcome = CaseAreas()
    ref_path = job.refs.get(case) if job.refs else None
    ref = read_cord(ref_path, job.labels[0], job.cord) if ref_path else None
    preds: list[Cord | None] = []
    for folder, labels in zip(job.preds, job.labels[1:], strict=True):
        path = folder.get(case)
        preds.append(None if path is None else _on_one_grid(ref or _first(preds), path, labels, job, outcome))
        if path is None:
            outcome.failure = _missing(case, folder)
    outcome.soft = tuple(bool(pred and pred.soft) for pred in preds)
    for cord in (ref, *preds):
        _tell(cord, outcome)
    if outcome.failure is None:
        outcome.ranges = _areas(case, job, ref, [p for p in preds if p], outcome)
    elif ref is not None and len(preds) == 1:
        outcome.ranges = _without_prediction(case, job, ref)
    if ref is not None:
        outcome.scores = _scores(ref, preds[0])
    return outcome


def _first(preds: Sequence[Cord | None]) -> Cord | None:
    return next((pred for pred in preds if pred is not None), None)


def _on_one_grid(own: Cord | None, path: Path, labels: LabelSet, job: CordJob, outcome: CaseAreas) -> Cord:
    cord = read_cord(path, labels, job.cord)
    if own is None:
        return cord
    array, warnings = on_grid_of(own.volume, cord.volume, path, job.resample, soft=cord.soft)
    outcome.warnings += warnings
    return replace(cord, volume=Volume(array, own.volume.affine))


def _missing(case: str, folder: MaskFolder) -> Problem:
    found = f"no prediction of {case}"
    fix = "predict the case; it has no area, and scores are those of an empty mask"
    return Problem("error", MISSING, str(folder.folder), found, "one for every case", fix)


def _tell(cord: Cord | None, outcome: CaseAreas) -> None:
    if cord is None:
        return
    notes = list(cord.notes)
    if not cord.mask.any():
        notes.append("nothing above one half: no cord and no area")
    for note in notes:
        found = Problem("warning", "W-EVAL-CORD", str(cord.path), note, "a map of the cord", "see the areas")
        outcome.warnings.append(found)


def _areas(
    case: str, job: CordJob, ref: Cord | None, preds: Sequence[Cord], outcome: CaseAreas
) -> dict[str, RangeArea]:
    """Areas by range; levels are those of the reference's slices, else of the table's, else of all maps' slices."""
    levels = job.levels.read(case, (ref or preds[0]).volume) if job.levels else None
    own = measure(ref, job.mode, levels) if ref else job.table.by_slice.get(case) if job.table else None
    unknown = _unknown_slices(ref) if ref else frozenset()
    found = [measure(pred, job.mode, levels if ref is None else None) for pred in preds]
    if unknown:
        found = [_without(one, unknown) for one in found]
    for one, pred in zip(found, preds, strict=True):
        outcome.warnings += [
            Problem("warning", "W-EVAL-CORD", str(pred.path), note, "one cord inside the image", "see the areas")
            for note in one.notes
            if note != "no cord"
        ]
    # A table of slices may lack levels; then those of the maps are taken.
    by_level = union_of_levels(found) if own is None or (ref is None and levels is not None) else own
    result = {}
    for chosen in job.ranges:
        _tell_missing(chosen, by_level, (ref or preds[0]).path, outcome)
        if own is not None:
            pooled = pool([*found, own], chosen, by_level)
            both = pool(found, chosen, by_level).slices
            result[chosen.name] = RangeArea(
                pooled.areas[:-1], pooled.areas[-1], pooled.slices, pooled.own[:-1], pooled.own[-1], both
            )
        else:
            pooled = pool(found, chosen, by_level)
            true = job.table.mean(case, chosen) if job.table else math.nan
            result[chosen.name] = RangeArea(pooled.areas, true, pooled.slices, pooled.own, None, pooled.slices)
    return result


def _tell_missing(chosen: Range, levels: SliceAreas, path: Path, outcome: CaseAreas) -> None:
    """Warn of levels of a range of which there is no slice."""
    missing = sorted((chosen.levels or frozenset()) - {int(v) for v in levels.levels if math.isfinite(v)})
    if missing:
        said = f"no slice of {', '.join(map(vertebra_name, missing))} in {chosen.name}"
        problem = Problem("warning", "W-EVAL-CORD", str(path), said, "all levels of the range", "see the areas")
        outcome.warnings.append(problem)


def _without_prediction(case: str, job: CordJob, ref: Cord) -> dict[str, RangeArea]:
    """The rows of a missing prediction: no area, and none of the reference's slices covered."""
    own = measure(ref, job.mode, job.levels.read(case, ref.volume) if job.levels else None)
    return {chosen.name: RangeArea((math.nan,), math.nan, 0, (0,), len(own.of(chosen)), 0) for chosen in job.ranges}


def _unknown_slices(ref: Cord) -> frozenset[int]:
    """Slices (0 is the lowest) in which the reference is unknown somewhere: nobody's area counts there."""
    if not ref.unknown.any():
        return frozenset()
    frame = ref.volume.to("LAS")
    return frozenset(int(k) for k in np.flatnonzero((frame.array == -1).any(axis=(0, 1))))


def _without(areas: SliceAreas, slices: frozenset[int]) -> SliceAreas:
    keep = np.array([int(k) not in slices for k in areas.slices], dtype=bool)
    return replace(areas, slices=areas.slices[keep], areas=areas.areas[keep], levels=areas.levels[keep])


def _scores(ref: Cord, pred: Cord | None) -> dict[str, float]:
    """Metrics of the registry at one half, and the volume error of the shares, over voxels where R is known."""
    known = ~ref.unknown
    other: Array = np.zeros(ref.volume.shape) if pred is None else pred.shares
    found = np.zeros(ref.volume.shape, bool) if pred is None else pred.mask
    masks = [(side & known).astype(np.uint8) for side in (ref.mask, found)]
    [(_, pair)] = label_pairs(masks[0], masks[1], [1], ref.volume.spacing)
    values: dict[str, float] = {name: score(METRICS[name], pair) for name in AT_HALF}
    true, given = (float((side * known).sum(dtype=np.float64)) for side in (ref.shares, other))
    values["soft_relative_volume_error"] = 100 * (given - true) / true if true else math.nan
    return values
