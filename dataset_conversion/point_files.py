"""Centroid files of TPTBox and VerSe, translated into each other or computed from instance masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image
from nnunet_spine_ext.core.label_mappings import LevelOrder
from nnunet_spine_ext.core.labels import mapping, scheme
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.label_files import read_mask
from nnunet_spine_ext.dataset_conversion.label_run import (
    POINT_SUFFIX,
    Job,
    LabelRun,
    check_outputs,
    find_jobs,
    needed_partner,
    partner,
    run_jobs,
)
from nnunet_spine_ext.dataset_conversion.label_translation import INSTANCES, MaskTranslation, Translation
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.measure.points import PointList, read_points, unplaced, write_points


def points(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    target: Literal["poi", "verse"],
    scheme: str = INSTANCES,
    semantic: str | Path | None = None,
    like: str | Path | None = None,
    orientation: str | None = None,
    level_order: LevelOrder = "bottom-up",
    lowest: str | None = None,
    prefer: Prefer | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> LabelRun:
    """Write TPTBox point lists or VerSe centroids from files of either kind, or from instance masks.

    Parameters
    ----------
    i: point files and masks, or folders of them.
    o: folder for the results, or a .json file if one input is named.
    target: ``poi`` (TPTBox) or ``verse`` (vertebrae only: the file has no place for discs and endplates).
    scheme: of the masks; it must have levels.
    semantic: masks of scheme ``nnunet14`` of the same cases (folder or file): the point of a vertebra is the centre of
        its body, else that of the whole vertebra.
    like: images of the points (folder or file), for point files that do not state their grid.
    orientation: of the voxels that the results count, such as ``PIR``; None: that of the input.
    level_order, lowest, prefer, overwrite, dry_run: see `label_files.convert`.

    Raises
    ------
    UsageError: an unknown name, or results that would replace what must stay.
    NoInputError: no point file and no mask.
    """
    plan = _plan(scheme, level_order, lowest)
    if target not in ("poi", "verse"):
        raise UsageError("E-LABEL-SCHEME", file="--to", found=repr(target), expected="poi or verse", fix="choose one")
    _check_orientation(orientation)
    jobs = find_jobs(i, o, read=(*IMAGE_SUFFIXES, POINT_SUFFIX), written=(POINT_SUFFIX,), ending=POINT_SUFFIX)
    beside = [partner(place, job) for place in (semantic, like) if place is not None for job in jobs]
    read = [job.source for job in jobs] + [path for path in beside if path is not None]
    check_outputs([job.output for job in jobs], read, overwrite=overwrite)
    title = "Dry run: nothing is written." if dry_run else ""

    def work(job: Job) -> tuple[list[Path], list[Problem]]:
        if is_image(job.source):
            found, warnings = _points_of_mask(job, plan, semantic, prefer)
        else:
            found, warnings = read_points(job.source, _image(like, job, prefer)), []
            warnings += _left_out(job.source, found.left_out, "the file has no place or no instance for it")
        found = found.to(orientation) if orientation is not None else found
        if not dry_run:
            write_points(job.output, found, target)
        return [job.output], warnings + _left_out(job.source, unplaced(found, target), f"{target} has no place for it")

    return run_jobs(jobs, LabelRun(title=title, facts={"dry_run": dry_run, "to": target}), work)


def _plan(name: str, level_order: LevelOrder, lowest: str | None) -> Translation:
    source = scheme(name)
    if name != INSTANCES:
        mapping(name, INSTANCES)
    return Translation(source, scheme(INSTANCES), level_order=level_order, lowest=lowest)


def _points_of_mask(
    job: Job, plan: Translation, semantic: str | Path | None, prefer: Prefer | None
) -> tuple[PointList, list[Problem]]:
    mask, _, warnings = read_mask(job.source, prefer)
    translation = MaskTranslation(plan, mask, job.source)
    levels = translation.run()[""]
    classes = None
    if semantic is not None:
        path = needed_partner(semantic, job, "mask of classes")
        stored, _, more = read_mask(path, prefer)
        classes, placing = mask_on_image(stored, levels, file=path)
        warnings = [*warnings, *more, *placing]
    return PointList(centroids(levels, classes), levels), [*warnings, *translation.warnings]


def _image(like: str | Path | None, job: Job, prefer: Prefer | None) -> Volume | None:
    from nnunet_spine_ext.check.images import inspect

    path = partner(like, job) if like is not None else None
    return inspect(path, prefer=prefer).grid() if path is not None else None


def _left_out(path: Path, names: Sequence[str], why: str) -> list[Problem]:
    if not names:
        return []
    found = f"{', '.join(names)}: {why}"
    return [Problem("warning", "W-LABEL-DROPPED", str(path), found, "points of vertebrae", "it was left out")]


def _check_orientation(orientation: str | None) -> None:
    axes = {letter: pair for pair in ("LR", "PA", "IS") for letter in pair}
    given = [axes.get(letter) for letter in (orientation or "RAS").upper()]
    if len(given) != 3 or set(given) != {"LR", "PA", "IS"}:
        raise UsageError(
            "E-USE-ORIENTATION",
            file="--orientation",
            found=repr(orientation),
            expected="each of L/R, P/A and I/S once",
            fix="for example PIR",
        )
