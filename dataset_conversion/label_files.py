"""Label masks in files: translate them, list what can be translated, write colour tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.errors import EXIT_OK, Problem, UsageError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.label_mappings import LevelOrder
from nnunet_spine_ext.core.labels import MAPPINGS, SCHEMES, scheme, write_itksnap_labels, write_slicer_table
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.label_run import (
    Job,
    LabelRun,
    check_outputs,
    find_jobs,
    needed_partner,
    partner,
    run_jobs,
)
from nnunet_spine_ext.dataset_conversion.label_translation import (
    INSTANCES,
    MaskTranslation,
    Translation,
    custom_rows,
)
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image


def convert(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    source: str | None = None,
    target: str | None = None,
    label_map: Sequence[str] | None = None,
    instances: str | Path | None = None,
    level_order: LevelOrder = "bottom-up",
    lowest: str | None = None,
    fix_cord_canal: bool = False,
    drop_unknown: bool = False,
    file_ending: str | None = None,
    prefer: Prefer | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> LabelRun:
    """Translate label masks; type, geometry and orientation of each file stay as they are.

    Parameters
    ----------
    i: masks, or folders of masks.
    o: folder for the results, or a file if one mask is named. Where a mask holds levels and classes (SPIDER,
        TotalSpineSeg, TotalSegmentator) and classes are asked for, its levels go to ``<o>/instances``.
    source, target: names of label schemes; both may be left out if `label_map` says it all.
    label_map: ``name=id[,id...]`` words or one YAML file: names (or ids) of the target, ``background`` to drop ids;
        without `target` classes are numbered from 1 in this order.
    instances: instance masks (scheme ``instances``) of the same cases, to write levels from a mask of classes.
    level_order, lowest: what SPIDER's numbers mean; see `core.label_mappings.mapping_for`.
    fix_cord_canal: exchange cord and canal in masks whose shapes say that they are exchanged.
    drop_unknown: ids that the source does not have become background, instead of stopping the case.
    file_ending: such as ``.mha``; None: as the input.
    prefer: "sform" or "qform", for files in which the two place the image differently.
    overwrite: replace results that are there.
    dry_run: translate everything, write nothing.

    Raises
    ------
    UsageError: unknown names, a translation that does not exist, or results that would replace what must stay.
    NoInputError: no mask.
    """
    plan = Translation(
        source=scheme(source) if source else None,
        target=scheme(target) if target else None,
        custom=custom_rows(label_map, scheme(target) if target else None) if label_map else {},
        with_instances=instances is not None,
        level_order=level_order,
        lowest=lowest,
        fix_cord_canal=fix_cord_canal,
        drop_unknown=drop_unknown,
    )
    _check_plan(plan)
    jobs = find_jobs(i, o, ending=file_ending)
    second: dict[Job, Path] = {}
    if plan.splits():
        # A file that is named itself has no room for a second one.
        second = {job: job.output.parent / INSTANCES / job.output.name for job in jobs if job.output != Path(o)}
    read = [job.source for job in jobs]
    if instances is not None:
        read += [path for path in (partner(instances, job) for job in jobs) if path is not None]
    check_outputs([job.output for job in jobs] + list(second.values()), read, overwrite=overwrite)

    def work(job: Job) -> tuple[list[Path], list[Problem]]:
        results, warnings = _translate_files(job, plan, instances, prefer, split=job in second)
        places = {"": job.output} | ({INSTANCES: second[job]} if job in second else {})
        for name, path in places.items():
            if not dry_run:
                write_volume(results[name], path)
        return list(places.values()), warnings

    return run_jobs(jobs, LabelRun(title=_title(plan, dry_run=dry_run), facts=_facts(plan, dry_run=dry_run)), work)


def _check_plan(plan: Translation) -> None:
    custom = bool(plan.custom)
    if (plan.source is None) != (plan.target is None) and not (custom and plan.source is None):
        missing = "--to" if plan.target is None else "--from"
        raise UsageError(
            "E-LABEL-SCHEME", file=missing, found="nothing", expected="a label scheme", fix=f"give {missing}, or --map"
        )
    if plan.source is None and not custom:
        raise UsageError(
            "E-LABEL-SCHEME", file="--from", found="nothing", expected="a label scheme", fix="give --from and --to"
        )
    row = plan.row()
    if row is None and not custom and not plan.fix_cord_canal:
        raise UsageError(
            "E-LABEL-MAPPING",
            file=f"{plan.source.name if plan.source else ''}",
            found="the same scheme twice",
            expected="two schemes, --map or --fix-cord-canal",
            fix="choose another --to",
        )
    joinable = plan.source is not None and plan.source.kind == "semantic" and plan.target is not None
    if plan.with_instances and not (joinable and plan.target is not None and plan.target.kind == "levels"):
        raise UsageError(
            "E-LABEL-MAPPING",
            file="--instances",
            found="instance masks for a translation without use for them",
            expected="classes in --from and levels in --to",
            fix="leave --instances out",
        )


def _translate_files(
    job: Job, plan: Translation, instances: str | Path | None, prefer: Prefer | None, *, split: bool
) -> tuple[dict[str, Volume], list[Problem]]:
    mask, dtype, warnings = read_mask(job.source, prefer)
    one = MaskTranslation(plan, mask, job.source)
    if instances is None:
        results = one.run(split=split)
    else:
        path = needed_partner(instances, job, "instance mask")
        stored, _, more = read_mask(path, prefer)
        placed, placing = mask_on_image(stored, mask, file=path)
        results = {"": one.join(placed)}
        warnings = [*warnings, *more, *placing]
    return {name: _as_type(volume, dtype) for name, volume in results.items()}, [*warnings, *one.warnings]


def read_mask(path: Path, prefer: Prefer | None = None) -> tuple[Volume, str, list[Problem]]:
    """Return a mask, the type that it is stored in, and the gatekeeper's warnings; raises CaseError for its errors."""
    opened = open_image(path, role="label", prefer=prefer)
    if opened.volume is None:
        opened.facts.raise_errors()
        msg = f"{path}: neither a volume nor an error"
        raise ValueError(msg)
    return opened.volume, opened.facts.dtype, opened.facts.warnings


def _as_type(volume: Volume, dtype: str) -> Volume:
    """Return the ids in the type that the file had, if it can hold them and is not one of 64-bit integers."""
    wanted = np.dtype(dtype)
    if wanted.kind == "f":
        return volume.with_array(volume.array.astype(wanted))
    if wanted.kind not in "iu" or wanted.itemsize > 4 or int(volume.array.max(initial=0)) > np.iinfo(wanted).max:
        return volume
    return volume.with_array(volume.array.astype(wanted))


def _title(plan: Translation, *, dry_run: bool) -> str:
    row = plan.row()
    lines = ["Dry run: nothing is written."] if dry_run else []
    if row is not None:
        lines.append(f"{row.source} to {row.target}: {row.kind}")
        lines += [f"  {_lost(text)}" for text in row.lost]
        lines += [f"  assumed: {text}" for text in row.assumed]
    return "\n".join(lines)


def _lost(text: str) -> str:
    return text if text.startswith("dropped: ") else f"lost: {text}"


def _facts(plan: Translation, *, dry_run: bool) -> dict[str, Any]:
    row = plan.row()
    facts: dict[str, Any] = {"dry_run": dry_run, "map": {str(k): v for k, v in plan.custom.items()}}
    if row is not None:
        facts |= {"from": row.source, "to": row.target, "kind": row.kind}
        facts |= {"lost": list(row.lost), "assumed": list(row.assumed)}
    return facts


@dataclass(frozen=True)
class SchemeList:
    """All label schemes and the translations between them."""

    exit_code: int = EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        lines = ["schemes:"]
        lines += [f"  {row.name:20}{row.kind:10}{len(row.labels):4} ids" for row in SCHEMES.values()]
        lines.append("translations:")
        for row in MAPPINGS.values():
            lines.append(f"  {row.source} to {row.target}: {row.kind}")
            lines += [f"    {_lost(text)}" for text in row.lost] + [f"    assumed: {text}" for text in row.assumed]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same, with the ids, as plain JSON."""
        schemes = {
            row.name: {
                "kind": row.kind,
                "labels": {str(key): name for key, name in row.labels.items()},
                "sided_pairs": [list(pair) for pair in row.sided_pairs],
            }
            for row in SCHEMES.values()
        }
        translations = [
            {
                "from": row.source,
                "to": row.target,
                "kind": row.kind,
                "lost": list(row.lost),
                "assumed": list(row.assumed),
                "table": {str(key): value for key, value in row.table.items()},
            }
            for row in MAPPINGS.values()
        ]
        return {"schemes": schemes, "translations": translations}


def schemes() -> SchemeList:
    """Return the label schemes, and what each translation between two of them loses."""
    return SchemeList()


def tables(o: str | Path, *, schemes: Sequence[str] = ("nnunet14", INSTANCES), overwrite: bool = False) -> LabelRun:
    """Write the colours and names of label schemes for ITK-SNAP (.txt) and 3D Slicer (.ctbl).

    Parameters
    ----------
    o: folder for ``<scheme>_itksnap.txt`` and ``<scheme>_slicer.ctbl``.

    Raises
    ------
    UsageError: an unknown scheme, or files that are there already.
    """
    jobs = [Job(name, Path(name), Path(o) / f"{name}_itksnap.txt") for name in schemes]
    chosen = {job: scheme(job.case) for job in jobs}
    second = {job: Path(o) / f"{job.case}_slicer.ctbl" for job in jobs}
    check_outputs([*(job.output for job in jobs), *second.values()], [], overwrite=overwrite)

    def work(job: Job) -> tuple[list[Path], list[Problem]]:
        row = chosen[job]
        write_itksnap_labels(row.labels, job.output, row.colours)
        write_slicer_table(row.labels, second[job], row.colours)
        return [job.output, second[job]], []

    return run_jobs(jobs, LabelRun(), work)
