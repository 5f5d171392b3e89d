"""`nnUNetv2_spine_soft_gt`: soft labels of one subject or many, subject by subject, with a journal."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import (
    read_volume,
    sha256,
    write_bytes,
    write_json,
    write_text,
    write_volume,
)
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.partial import Journal, plain, unusable_folder, unwritable
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.render.png import encode_png
from nnunet_spine_ext.soft.ground_truth import RATERS, Recipe, SoftGroundTruth, soft_ground_truth
from nnunet_spine_ext.soft.inputs import Job, from_bids, from_table, from_words, weights_of
from nnunet_spine_ext.soft.masks import read_mask
from nnunet_spine_ext.soft.picture import picture
from nnunet_spine_ext.soft.qc import Quality, Row, quality, table
from nnunet_spine_ext.soft.scan import Extent
from nnunet_spine_ext.soft.sidecar import options, sidecar
from nnunet_spine_ext.soft.staple import Method

JOURNAL = "cases.jsonl"
_LOCK = ".nnunet_spine.lock"
_SUFFIX = ".nii.gz"
_COVERAGE, _UNION = f"coverage{_SUFFIX}", f"union{_SUFFIX}"
_TABLE, _PICTURE, _SIDECAR = "qc.csv", "qc.png", "soft_gt.json"
_FILES = (_COVERAGE, _UNION, _TABLE, _PICTURE, _SIDECAR)

_log = logging.getLogger(__name__)


@dataclass
class SoftSummary(RunSummary):
    """Subjects of a run by outcome; `lines` says in one line each what came out."""

    lines: list[str] = field(default_factory=list)

    def render(self) -> str:
        """Return the lines, warnings and failures, and the counts."""
        return "\n".join([*self.lines, super().render()])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {**super().to_dict(), "lines": self.lines}


def soft_gt(
    o: str | Path,
    *,
    i: Sequence[str] = (),
    images: Sequence[str] = (),
    table: str | Path | None = None,
    bids: str | Path | None = None,
    ending: str = "label-SC_seg",
    reference: str | None = None,
    raters: bool = False,
    method: Method = "average",
    rotation: bool = False,
    affine: bool = False,
    weights: Sequence[str] = (),
    extent: Extent = "seg",
    trim_mm: float = 0.0,
    smooth_mm: float = 4.0,
    min_overlap: int = 2,
    min_dice: float = 0.7,
    label: int | None = None,
    prefer: Prefer | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> SoftSummary:
    """Make soft labels from several masks per subject and write them, with a table, a picture and a JSON file.

    Parameters
    ----------
    o: output folder; many subjects get a folder each.
    i, images: ``NAME=FILE`` masks of one subject, and scans to draw them on.
    table, bids, ending: or many subjects, see `inputs.from_table` and `inputs.from_bids`.
    reference to min_dice: see `soft_ground_truth`. With many subjects a subject without the reference takes its own.
    label, prefer: see `masks.read_mask`.
    resume: keep what an earlier run with the same options finished, if inputs and outputs are unchanged.
    overwrite: replace what an earlier run left.

    Raises
    ------
    UsageError: contradicting options, unusable tables, results that are there.
    NoInputError: no masks. SetupError: the folder is in use, or cannot be written to.
    """
    if sum(bool(way) for way in (i, table, bids)) != 1:
        raise UsageError(
            "E-SOFT-INPUT",
            file="-i, --table, --bids",
            found="none or several of them",
            expected="one",
            fix="name masks with -i, or many subjects with --table or --bids",
        )
    if images and not i:
        raise UsageError("E-SOFT-INPUT", file="--images", found="no -i", expected="-i", fix="put images into the table")
    recipe = Recipe(
        reference,
        raters,
        method,
        rotation,
        affine,
        weights_of(weights),
        extent,
        trim_mm,
        smooth_mm,
        min_overlap,
        min_dice,
    )
    jobs = from_words(i, images) if i else from_table(table) if table else from_bids(str(bids), ending)
    _check_names(jobs, recipe)
    out = Path(o).expanduser()
    run = _Run(out, jobs, recipe, label, prefer)
    return run.work(resume=resume, overwrite=overwrite)


def _check_names(jobs: Sequence[Job], recipe: Recipe) -> None:
    """Raise UsageError for a reference or a weight of a name that no mask of any subject has."""
    known = sorted({name for job in jobs for name in job.masks})
    asked = dict.fromkeys(recipe.weights, "--weights") | ({recipe.reference: "--reference"} if recipe.reference else {})
    for name, option in asked.items():
        if name not in known:
            raise UsageError(
                "E-SOFT-NAME",
                file=option,
                found=f"{name!r}, which no mask is called",
                expected=f"one of {', '.join(known[:12])}",
                fix=nearest(name, known),
            )


@dataclass(frozen=True)
class _Run:
    out: Path
    jobs: Sequence[Job]
    recipe: Recipe
    label: int | None
    prefer: Prefer | None

    @property
    def journal(self) -> Journal:
        return Journal(self.out / JOURNAL)

    def identity(self) -> dict[str, Any]:
        from nnunet_spine_ext import __version__

        return {"version": __version__, "label": self.label, "prefer": self.prefer, **options(self.recipe)}

    def work(self, *, resume: bool, overwrite: bool) -> SoftSummary:
        from tqdm import tqdm

        summary = SoftSummary()
        self._refuse_inputs()
        with ExitStack() as stack:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                lock = self.out / _LOCK
                stack.enter_context(file_lock(lock, what=f"writing soft labels into {self.out.name}"))
            except OSError as error:
                raise unusable_folder(self.out, error) from error
            finished = self._finished(resume=resume, overwrite=overwrite)
            for job in tqdm(
                self.jobs, desc="soft labels", unit="subject", disable=None if len(self.jobs) > 1 else True
            ):
                entry = finished.get(job.subject)
                if entry is not None and self._is_whole(job, entry):
                    summary.skipped.append(job.subject or self.out.name)
                    continue
                self._remove(entry)
                self._try(job, summary)
            self._table()
        return summary

    def _finished(self, *, resume: bool, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Return what the journal says is done, by subject, and begin the journal of this run."""
        known, entries = self.journal.read()
        made = {row["case"]: row for row in entries if row.get("status") == "done"}
        # Without a journal they are somebody else's.
        there = [] if known is not None else [path for job in self.jobs for path in self._targets(job) if path.exists()]
        if (made or there) and not (resume or overwrite):
            raise UsageError(
                "E-SOFT-EXISTS",
                file=self.out if made else there[0],
                found=f"results of {len(made)} subject(s)" if made else "a file that would be replaced",
                expected="an empty folder",
                fix="--resume goes on, --overwrite replaces them, or choose another folder (-o)",
            )
        keep = resume and known == plain(self.identity())
        if resume and known is not None and not keep:
            _log.warning("%s: starting anew, because options or version differ from those of the earlier run", self.out)
        if not keep:
            # Before the journal forgets them: a mask that is no longer given, or left out, leaves no label behind.
            for job in self.jobs:
                self._remove(made.get(job.subject))
        done = made if keep else {}
        self.journal.start(self.identity(), done.values())
        return done

    def _targets(self, job: Job) -> list[Path]:
        """Return all files that a subject may get."""
        folder = self.out / job.subject if job.subject else self.out
        soft = [folder / "soft" / f"{name}{_SUFFIX}" for name in ([RATERS] if self.recipe.raters else job.masks)]
        return [*soft, *(folder / name for name in _FILES)]

    def _refuse_inputs(self) -> None:
        """Raise UsageError if a file that is read lies where files are written: it would be lost."""
        targets = {path.resolve() for job in self.jobs for path in self._targets(job)}
        folders = {path.parent for path in targets if path.parent.name == "soft"}
        for job in self.jobs:
            for path in (*job.masks.values(), *job.images.values()):
                if path.resolve() in targets or path.resolve().parent in folders:
                    raise UsageError(
                        "E-SOFT-INPUT",
                        file=path,
                        found="an input in the place of a result",
                        expected="results in a folder of their own",
                        fix="choose another folder (-o)",
                    )

    def _remove(self, entry: Mapping[str, Any] | None) -> None:
        """Remove what an earlier run wrote for a subject."""
        for name in entry["outputs"] if entry is not None else ():
            path = self.out / name
            if ".." in path.parts:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(path, error, "change the permissions, then --resume") from error

    def _is_whole(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """Whether a subject's inputs are those that the journal names, and its outputs are there unchanged."""
        try:
            inputs = {name: sha256(path) for name, path in job.masks.items()}
            outputs = {name: sha256(self.out / name) for name in entry["outputs"]}
        except OSError:
            return False
        return inputs == entry["inputs"] and outputs == entry["outputs"]

    def _try(self, job: Job, summary: SoftSummary) -> None:
        case = job.subject or self.out.name
        try:
            self._one(job, summary, case)
        except (SetupError, UsageError):
            # Nothing can be written, or the call was wrong: the next subject would fail alike.
            raise
        except Exception as error:
            # One bad subject is a line in the journal, never the end of the others.
            problem = error.problem() if isinstance(error, SpineExtError) else _unexpected(case, error)
            _log.debug("%s", case, exc_info=error)
            summary.fail(case, problem)
            self.journal.append({"case": job.subject, "status": "failed", "problem": problem.to_dict()})

    def _one(self, job: Job, summary: SoftSummary, case: str) -> None:
        read = {name: read_mask(path, label=self.label, prefer=self.prefer) for name, path in job.masks.items()}
        masks = {name: mask.volume for name, mask in read.items()}
        result = soft_ground_truth(masks, self._recipe_of(job))
        warnings = [problem for mask in read.values() for problem in mask.warnings]
        measured = quality(result, masks)
        images, said = _images(job, masks)
        warnings += said
        page = encode_png(picture(result, masks, measured, images=images))
        sources = {name: {"file": job.masks[name].name, "sha256": mask.sha256} for name, mask in read.items()}
        record = sidecar(result, self.recipe, sources=sources, measured=measured, warnings=warnings)
        outputs = self._write(job, result, measured, record, page)
        entry = {"case": job.subject, "status": "done", "inputs": {n: m.sha256 for n, m in read.items()}}
        self.journal.append({**entry, "outputs": {name: sha256(self.out / name) for name in outputs}})
        summary.done.append(case)
        summary.warn(case, *warnings, *result.warnings)
        summary.lines.append(_line(case, result, measured))

    def _recipe_of(self, job: Job) -> Recipe:
        """Return the recipe without names that this subject does not have."""
        recipe = self.recipe
        if recipe.reference is not None and recipe.reference not in job.masks:
            _log.warning("%s: no mask is called %s; the finest one is the reference", job.subject, recipe.reference)
            recipe = replace(recipe, reference=None)
        if len(self.jobs) > 1:
            recipe = replace(recipe, weights={n: w for n, w in recipe.weights.items() if n in job.masks})
        return recipe

    def _write(
        self, job: Job, result: SoftGroundTruth, measured: Quality, record: Mapping[str, Any], page: bytes
    ) -> list[str]:
        folder = self.out / job.subject if job.subject else self.out
        paths: dict[Path, Volume] = {folder / "soft" / f"{n}{_SUFFIX}": v for n, v in result.soft.items()}
        paths[folder / _COVERAGE] = result.coverage
        if not self.recipe.raters:
            paths[folder / _UNION] = result.union
        try:
            for path, volume in paths.items():
                write_volume(volume, path)
            write_text(folder / _TABLE, table(measured.rows))
            write_bytes(folder / _PICTURE, page)
            write_json(folder / _SIDECAR, record)
        except OSError as error:
            raise unwritable(folder, error, "free space or change the permissions, then --resume") from error
        written = [*paths, folder / _TABLE, folder / _PICTURE, folder / _SIDECAR]
        return [path.relative_to(self.out).as_posix() for path in written]

    def _table(self) -> None:
        """Write one table of all subjects."""
        if len(self.jobs) == 1 and not self.jobs[0].subject:
            return
        lines: list[str] = []
        for job in self.jobs:
            path = self.out / job.subject / _TABLE
            if not path.is_file():
                continue
            head, *rows = path.read_text(encoding="utf-8").splitlines()
            lines = lines or [f"subject,{head}"]
            lines += [f"{job.subject},{row}" for row in rows]
        if lines:
            write_text(self.out / _TABLE, "\n".join(lines) + "\n")


def _images(job: Job, masks: Mapping[str, Volume]) -> tuple[dict[str, Volume], list[Problem]]:
    """Return the scans to draw on; one that cannot be used is missing in the picture, and nothing else."""
    found: dict[str, Volume] = {}
    said = []
    for name, path in job.images.items():
        try:
            image = read_volume(path)
        except CaseError as error:
            said.append(_undrawn(path, error.found))
            continue
        turned = image.to(masks[name].orientation)
        if not turned.same_grid(masks[name], tolerance_mm=0.1):
            said.append(_undrawn(path, "another grid than its mask"))
            continue
        found[name] = masks[name].with_array(np.asarray(turned.array, dtype=np.float32))
    return found, said


def _undrawn(path: Path, found: str) -> Problem:
    return Problem("warning", "W-SOFT-IMAGE", str(path), found, "the scan of its mask", "it is not in the picture")


def _unexpected(case: str, error: Exception) -> Problem:
    found = f"an unexpected error ({type(error).__name__}: {error})"
    return Problem("error", "E-CASE-INTERNAL", case, found, "usable masks", "see -v, report it")


def _line(case: str, result: SoftGroundTruth, measured: Quality) -> str:
    used = [row for row in measured.rows if row.used]
    worst: Row = min(used, key=lambda row: row.dice if np.isfinite(row.dice) else 2.0)
    kind = "raters" if "raters" in result.soft else f"masks, reference {result.reference}"
    text = f"{case}: {len(used)} {kind}; lowest Dice with the others {worst.dice:.3f} ({worst.contrast})"
    if np.isfinite(measured.std_mask) and "raters" not in result.soft:
        spread = f"masks {measured.std_mask:.2f} mm2, soft labels {measured.std_soft:.2f} mm2"
        text += f"; SD of the mean area across scans: {spread}"
    return text
