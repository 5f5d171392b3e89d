"""Annotations of several origins (manual masks, cord masks, masks translated from another modality) merged into one."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import is_image, write_json, write_text, write_volume
from nnunet_spine_ext.core.labels import SCHEMES, apply_table, mapping, scheme
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.annotation_layers import Conflict, Merged, fill_endplates, merge_layers
from nnunet_spine_ext.dataset_conversion.building import volume_of
from nnunet_spine_ext.dataset_conversion.label_run import Job, LabelRun, case_of, check_outputs, run_jobs
from nnunet_spine_ext.dataset_conversion.label_translation import custom_rows
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image
from nnunet_spine_ext.dataset_conversion.patterns import Pattern

TARGETS = ("nnunet14", "spineps")
CONFLICTS_FILE, REPORT_FILE = "conflicts.csv", "merge.json"
# Endplates are about 1 mm thick; annotators leave two or three voxels of 0.9 mm free.
GAP_MM = 3.0
_CLASSES = "nnunet14"
_COLUMNS = ("case", "kept", "kept_source", "lost", "lost_source", "rule", "voxels")
_SHOWN = 10
# Whose masks make the grid.
_FIRST = 0


@dataclass(frozen=True)
class MaskSource:
    """Masks of one origin: where they are, and what their ids are in nnunet14."""

    text: str
    table: dict[int, int]
    files: dict[str, Path]

    @property
    def classes(self) -> set[int]:
        """Return the classes that its masks can have."""
        return set(self.table.values()) - {0}


@dataclass(frozen=True)
class CaseReport:
    """What became of one case: voxels per source and class, filled endplates, conflicts."""

    voxels: dict[str, dict[str, int]]
    filled: int
    conflicts: tuple[Conflict, ...]


@dataclass
class MergeRun(LabelRun):
    """What became of each case, and where the sources contradict each other."""

    sources: list[str] = field(default_factory=list)
    cases: dict[str, CaseReport] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Return the conflicts as rows of the table."""
        names = scheme(_CLASSES).labels
        return [
            {
                "case": case,
                "kept": names[one.kept],
                "kept_source": self.sources[one.kept_source],
                "lost": names[one.lost],
                "lost_source": self.sources[one.lost_source],
                "rule": one.rule,
                "voxels": one.voxels,
            }
            for case, report in sorted(self.cases.items())
            for one in report.conflicts
        ]

    def record(self) -> dict[str, Any]:
        """Return what merge.json holds; no times: equal input, equal bytes."""
        rows = self.rows()
        cases = {
            case: {
                "voxels": report.voxels,
                "endplate_filled": report.filled,
                "conflicts": [{k: v for k, v in row.items() if k != "case"} for row in rows if row["case"] == case],
            }
            for case, report in sorted(self.cases.items())
        }
        failed = {case: problem.to_dict() for case, problem in sorted(self.failed.items())}
        return {"version": 1, **self.facts, "cases": cases, "failed": failed}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return self.record() | super().to_dict()

    def render(self) -> str:
        """Return the report for the console, with the largest conflicts of all cases together."""
        totals: Counter[tuple[str, ...]] = Counter()
        for row in self.rows():
            totals[(row["kept"], row["kept_source"], row["lost"], row["lost_source"], row["rule"])] += row["voxels"]
        lines = [
            f"  {voxels} voxels: {kept} ({first}) over {lost} ({second}), rule: {rule}"
            for (kept, first, lost, second, rule), voxels in totals.most_common(_SHOWN)
        ]
        more = len(totals) - len(lines)
        filled = sum(report.filled for report in self.cases.values())
        head = [self.title, f"  {filled} voxels between bodies and discs became endplate"] if self.title else []
        tail = super().render().splitlines()[len(head[:1]) :]
        return "\n".join([*head, *lines, *([f"  ... and {more} more pairs"] if more > 0 else []), *tail])


def merge_annotations(
    o: str | Path,
    *,
    source: Sequence[Sequence[str]],
    target: str = "nnunet14",
    endplate_gap: float = GAP_MM,
    resample: str | None = None,
    prefer: Prefer | None = None,
    strict: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> MergeRun:
    """Merge masks of the same scans: what an earlier source labels stays, gaps at discs become endplates.

    See `annotation_layers` for the rules. A case needs a mask in every source; the others are reported and left out.

    Parameters
    ----------
    o: folder for ``<case>.nii.gz``, conflicts.csv and merge.json.
    source: for each source, in the order of priority, a folder (or a pattern with ``{case}``), then what its ids mean:
        a label scheme, ``name=id[,id...]`` words with the names of nnunet14, or a YAML file of those.
    target: ids of the results, one of `TARGETS`.
    endplate_gap: mm; 0 fills nothing.
    resample: "nearest" brings masks on another grid onto that of the first source; None refuses them.
    prefer: "sform" or "qform", for files in which the two place the mask differently.
    strict: treat every warning about a file as an error.
    overwrite: replace results that are there.
    dry_run: merge everything, write nothing.

    Raises
    ------
    UsageError: an unknown scheme, name or target, two files of one case, results that would replace what must stay.
    NoInputError: a source without masks.
    """
    if target not in TARGETS:
        raise _usage("--target", repr(target), f"one of {', '.join(TARGETS)}", nearest(target, TARGETS))
    if not 0 <= endplate_gap < float("inf"):
        raise _usage("--endplate-gap", str(endplate_gap), "0 mm or more", f"{GAP_MM:g} is usual")
    sources = _sources(source)
    folder = Path(o)
    cases = sorted({case for one in sources for case in one.files})
    jobs = [Job(case, _any_file(case, sources), folder / f"{case}.nii.gz") for case in cases]
    tables = [folder / CONFLICTS_FILE, folder / REPORT_FILE]
    read = [path for one in sources for path in one.files.values()]
    check_outputs([*(job.output for job in jobs), *tables], read, overwrite=overwrite)
    options = {"sources": [list(words) for words in source], "target": target, "endplate_gap": endplate_gap}
    facts = {"options": options | {"resample": resample, "prefer": prefer, "strict": strict}}
    doing = "would merge" if dry_run else "merges"
    run = MergeRun(title=f"{folder}: {doing} {len(sources)} sources", facts=facts, sources=[s.text for s in sources])

    def work(job: Job) -> tuple[list[Path], list[Problem]]:
        layers, grid, warnings = _layers(job.case, sources, resample, prefer)
        if strict and warnings:
            raise warnings[0].to_error()
        merged = merge_layers(layers, [one.classes for one in sources])
        mask, filled = fill_endplates(grid.with_array(merged.array), endplate_gap)
        ids = mask.array if target == _CLASSES else apply_table(mask.array, mapping(_CLASSES, target).table)
        if not dry_run:
            write_volume(mask.with_array(ids), job.output)
        run.cases[job.case] = CaseReport(_voxels(merged, sources), filled, merged.conflicts)
        return [] if dry_run else [job.output], warnings

    run_jobs(jobs, run, work)
    if not dry_run and run.done:
        write_json(tables[1], run.record())
        write_text(tables[0], _csv(run.rows()))
    return run


def _sources(given: Sequence[Sequence[str]]) -> list[MaskSource]:
    found = []
    for words in given:
        if len(words) < 2:
            what = f"only {words[0]!r}" if words else "nothing"
            raise _usage(
                "--source", what, "a folder and what its ids mean", "add a label scheme or name=id words, as in cord=1"
            )
        found.append(MaskSource(words[0], _table(words[1:]), _files(words[0])))
    if len({one.text for one in found}) < len(found):
        raise _usage("--source", "the same folder twice", "each once", "merge the words of its ids")
    single = [one for one in found if Path(one.text).expanduser().is_file()]
    if len(single) == len(found):
        # One file each: they are of one case, whatever they are called.
        case = next(iter(found[_FIRST].files))
        return [MaskSource(one.text, one.table, {case: next(iter(one.files.values()))}) for one in found]
    return found


def _table(words: Sequence[str]) -> dict[int, int]:
    """Return id to id of nnunet14."""
    if len(words) == 1 and "=" not in words[0] and not words[0].lower().endswith((".yaml", ".yml", ".json")):
        known = words[0] if words[0] in SCHEMES else scheme(words[0]).name
        if known == _CLASSES:
            return {number: number for number in scheme(known).labels}
        return dict(mapping(known, _CLASSES).table)
    return custom_rows(words, scheme(_CLASSES), option="--source")


def _files(text: str) -> dict[str, Path]:
    """Return the masks of a folder, a file or a pattern with ``{case}``, by case."""
    pattern = Pattern.parse(text)
    if pattern.has_wildcards:
        if pattern.signature[1] != ("case",):
            raise _usage("--source", text, "a folder, or a pattern in which {case} stands for the case", "write {case}")
        listed = [(case_of(Path(match.named["case"])), match.path) for match in pattern.matches()]
    else:
        place = Path(text).expanduser()
        paths = sorted(place.iterdir()) if place.is_dir() else [place] if os.path.lexists(place) else []
        listed = [(case_of(path), path) for path in paths if is_image(path) and not path.name.startswith(".")]
    if not listed:
        raise NoInputError(
            "E-IN-NONE", file=text, found="no mask", expected="masks", fix="check the folder; put patterns in quotes"
        )
    files: dict[str, Path] = {}
    for case, path in listed:
        if case in files:
            raise _usage("--source", f"{files[case]} and {path} for {case}", "one mask per case", "move one away")
        files[case] = path
    return files


def _any_file(case: str, sources: Sequence[MaskSource]) -> Path:
    return next(one.files[case] for one in sources if case in one.files)


def _layers(
    case: str, sources: Sequence[MaskSource], resample: str | None, prefer: Prefer | None
) -> tuple[list[Array], Volume, list[Problem]]:
    """Return the masks of a case in ids of nnunet14 on the grid of the first, that grid, and warnings."""
    missing = [one.text for one in sources if case not in one.files]
    if missing:
        raise CaseError(
            "E-PAIR-NOMASK",
            file=case,
            found=f"no mask in {', '.join(missing)}",
            expected="a mask of this name in every source",
            fix="add it, or leave the case out",
        )
    layers: list[Array] = []
    warnings: list[Problem] = []
    grid: Volume | None = None
    for one in sources:
        path = one.files[case]
        opened = open_image(path, role="label", prefer=prefer)
        said = [problem for problem in opened.facts.warnings if problem.code != "W-LABEL-EMPTY"]
        opened.facts.raise_errors()
        stored = volume_of(opened)
        grid = grid or stored
        placed, moved = mask_on_image(stored, grid, file=path, resample=resample)
        ids = apply_table(placed.array, one.table, file=path)
        if not ids.any():
            fix = "look whether it is of this case"
            said.append(Problem("warning", "W-LABEL-EMPTY", str(path), "no voxel of any class", "some", fix))
        warnings += [*said, *moved]
        layers.append(ids.astype(np.uint8))
    if grid is None:
        msg = "no source"
        raise ValueError(msg)
    return layers, grid, warnings


def _voxels(merged: Merged, sources: Sequence[MaskSource]) -> dict[str, dict[str, int]]:
    names = scheme(_CLASSES).labels
    found: dict[str, dict[str, int]] = {one.text: {} for one in sources}
    for (number, label), count in sorted(merged.voxels().items()):
        found[sources[number].text][names[label]] = count
    return found


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _usage(option: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-MERGE-OPTION", file=option, found=found, expected=expected, fix=fix)
