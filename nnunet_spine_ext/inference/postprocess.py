"""`nnUNetv2_spine_postprocess`: semantic masks from anywhere become separate, numbered vertebrae."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.device import check_device_name
from nnunet_spine_ext.core.errors import Problem, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.parallel import each_case
from nnunet_spine_ext.inference.batch import (
    FULL_LIMIT,
    Attempt,
    BatchResult,
    Done,
    attempt,
    record,
    stopped,
    unexpected,
)
from nnunet_spine_ext.inference.journal import Journal, folder_lock, is_finished
from nnunet_spine_ext.inference.mask_cases import MaskCase, find_masks, open_mask, subfolder_warning
from nnunet_spine_ext.inference.mask_schemes import (
    check_level_sources,
    dataset_beside,
    ignored_id,
    recorded_scheme,
    scheme_of_masks,
)
from nnunet_spine_ext.inference.phase_options import PhaseOptions, check_phases
from nnunet_spine_ext.inference.phases import CaseInput, Phases
from nnunet_spine_ext.inference.preflight import check_output
from nnunet_spine_ext.inference.results import (
    check_bids_names,
    discard_report,
    foreign_cases,
    foreign_warning,
    name_instances,
    write_mask_run,
)
from nnunet_spine_ext.inference.space import writing

logger = logging.getLogger(__name__)


class PostprocessResult(BatchResult):
    """Outcome of a run; see `BatchResult`."""

    verb = ("process", "processed")
    rehearsal = "dry run: networks were not loaded"


def postprocess(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    scheme: str | None = None,
    instance_model: str | Path | None = None,
    numbering: bool = False,
    numbering_model: str | Path | None = None,
    images: str | Path | None = None,
    levels: str | Path | None = None,
    levels_scheme: str = "instances",
    localizer: str | Path | None = None,
    first_vertebra: str | None = None,
    enforce: bool = False,
    assignments: Sequence[str] = (),
    snapshots: bool = False,
    bids: bool = False,
    report: bool = False,
    device: str = "auto",
    jobs: int = 1,
    resume: bool = False,
    strict: bool = False,
    prefer: Literal["sform", "qform"] | None = None,
    dry_run: bool = False,
) -> PostprocessResult:
    """Separate, clean and number the vertebrae of semantic masks, whoever made them.

    Parameters
    ----------
    i: a mask, a folder of masks or a list of masks. o: output folder (made if needed).
    scheme: their label scheme; None: as the dataset.json beside them says.
    instance_model: folder of an instance network; None: without a network.
    numbering: also say which vertebra is which; the next five imply it. numbering_model: folder of a network that looks
        at `images` (a file or a folder). levels: masks of levels, in `levels_scheme`. localizer: numbered instances of
        another scan of the same person. first_vertebra: level of the uppermost vertebra in the picture.
    enforce: 12 thoracic and 5 lumbar vertebrae, no anomaly; implies `numbering`.
    assignments: settings of the phases, such as ``instances.smoothing_mm=25``.
    snapshots: a picture per case. bids: BIDS-derivatives as well. report: also write report.html.
    device: where networks run. jobs: processes, each of which holds one case (and the networks).
    resume: keep finished cases whose files, options and output bytes are unchanged.
    strict: warnings about files are errors. prefer: which of two conflicting transforms to believe.
    dry_run: read every file, write nothing; the exit code is the one to expect.

    Returns
    -------
    Cases done, skipped and failed; a failed case has left nothing under its final name.

    Raises
    ------
    UsageError, NoInputError, SetupError: nothing was started.
    """
    check_device_name(device)
    _check_jobs(jobs)
    models = [None if folder is None else str(folder) for folder in (instance_model, numbering_model)]
    asked = PhaseOptions(
        True, models[0], numbering, models[1], first_vertebra, enforce, snapshots, bids, tuple(assignments)
    )
    phases = replace(asked.completed(anchored=(levels or localizer) is not None), levels_scheme=levels_scheme)
    sources = {"images": images, "levels": levels, "localizer": localizer}
    run = _prepare(i, Path(o), scheme, phases, sources, device, jobs, resume=resume, strict=strict, prefer=prefer)
    if dry_run:
        _rehearse(run)
    else:
        _work(run, i, report=report)
    return run.result


@dataclass(frozen=True)
class _Job:
    """What a process needs to do cases; `earlier` is the journal of the run that is resumed.

    `ignored`: id of the ignore label of the masks.
    """

    output: Path
    cases: Mapping[str, MaskCase]
    phases: PhaseOptions
    scheme: str
    ignored: int | None
    fingerprint: str
    earlier: Mapping[str, Any]
    device: str
    jobs: int
    strict: bool
    prefer: Literal["sform", "qform"] | None

    def finished(self, case: MaskCase, hashes: list[dict[str, str]]) -> bool:
        """Whether an earlier run did a case, with the same files and options."""
        return is_finished(self.earlier.get(case.name), self.output / f"{case.name}.nii.gz", hashes, self.fingerprint)


@dataclass(frozen=True)
class _Run:
    job: _Job
    result: PostprocessResult
    sources: Mapping[str, Any]
    foreign: Mapping[str, list[str]]


def _check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise UsageError("E-USE-JOBS", file="--jobs", found=f"{jobs}", expected="1 or more processes", fix="use 1")


def _prepare(
    i: str | Path | Sequence[str | Path],
    output: Path,
    scheme: str | None,
    phases: PhaseOptions,
    sources: Mapping[str, str | Path | None],
    device: str,
    jobs: int,
    *,
    resume: bool,
    strict: bool,
    prefer: Literal["sform", "qform"] | None,
) -> _Run:
    """Find the cases and what is known about them; nothing is written."""
    i = i[0] if isinstance(i, Sequence) and not isinstance(i, str) and len(i) == 1 else i
    for source in (i, *(path for path in sources.values() if path is not None)):
        check_output(output, source)
    check_level_sources(sources, phases.levels_scheme)
    cases = find_masks(i, sources, image_needed=phases.needs_image)
    name = scheme_of_masks(i, scheme)
    check_phases(phases, name, images=sources["images"] is not None)
    ignored = ignored_id(dataset_beside(i))
    facts = [name, ignored, phases.identity(), strict, prefer, sorted(k for k, v in sources.items() if v), __version__]
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    journal = Journal(output).read()
    earlier = journal if resume else {}
    by_name = {c.name: c for c in cases}
    job = _Job(output, by_name, phases, name, ignored, fingerprint, earlier, device, jobs, strict, prefer)
    title = f"{len(cases)} masks, scheme {name}, " + ("a network" if phases.instance_model else "without a network")
    result = PostprocessResult(title=title, folder=output)
    foreign = foreign_cases(output, set(job.cases), journal, fingerprint)
    check_bids_names(output, job.cases, foreign, asked=phases.bids)
    # Who resumes goes on in a folder of earlier results.
    mixed = {kind: names for kind, names in foreign.items() if not (resume and kind == "same_settings")}
    notes = (subfolder_warning(i), foreign_warning(output, mixed))
    result.notes += [note for note in notes if note is not None]
    return _Run(job, result, sources, foreign)


def _work(run: _Run, i: str | Path | Sequence[str | Path], *, report: bool) -> None:
    """Do all cases into the locked folder and write the report."""
    job, result, output = run.job, run.result, run.job.output
    for note in result.notes:
        logger.warning("%s", note)
    if job.jobs == 1:
        # Before the folder is made: a model that cannot be loaded is no fault of the first case.
        _phases_of(job).load()
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with folder_lock(output):
        with writing(output):
            discard_report(output)
            _write_records(run, i)
        _run_cases(run)
        if result.stopped is None:
            with writing(output):
                name_instances(output)
    if report and (result.done or result.skipped) and result.stopped is None:
        from nnunet_spine_ext.report.build import report as build_report

        with writing(output):
            build_report(output)


def _write_records(run: _Run, i: str | Path | Sequence[str | Path]) -> None:
    job = run.job
    masks = [i] if isinstance(i, (str, Path)) else list(i)
    content = dataset_beside(i)
    dataset = content if recorded_scheme(content) == job.scheme else None
    places = {name: None if path is None else str(Path(path).resolve()) for name, path in run.sources.items()}
    options = asdict(job.phases) | {"strict": job.strict, "prefer": job.prefer, "device": job.device}
    # Not under "input": a report would take the masks for images.
    sources = places | {"masks": [str(Path(mask).resolve()) for mask in masks]}
    write_mask_run(job.output, job.scheme, options, sources, run.foreign, dataset, job.phases.models())


def _run_cases(run: _Run) -> None:
    from tqdm import tqdm

    job, result = run.job, run.result
    journal = Journal(job.output)
    full = 0
    names = list(job.cases)
    try:
        made = each_case(names, _do, job, job.jobs)
        for number, (_, outcome) in enumerate(tqdm(made, total=len(names), desc="cases", disable=None)):
            if isinstance(outcome, SetupError):
                raise outcome
            record(outcome, result, journal)
            full += outcome.full
            if full == FULL_LIMIT:
                result.stopped = stopped(job.output, full, len(names) - number - 1)
                return
    except SetupError as error:
        if error.code != "E-EVAL-WORKER":
            raise
        raise SetupError(
            "E-POST-WORKER",
            file="--jobs",
            found=error.found,
            expected="enough memory for --jobs cases at once",
            fix="use fewer --jobs and --resume: what is finished stays",
        ) from error


def _do(name: str, job: _Job) -> Attempt | SetupError:
    """Do one case, in this process or one of several; nothing is raised but an interrupt."""
    case = job.cases[name]
    with _ended_cleanly(active=job.jobs > 1):
        try:
            phases = _phases_of(job)
            phases.load()
        except SetupError as error:
            return error
        return attempt(
            name,
            job.output,
            job.fingerprint,
            inputs=case.hashes,
            finished=partial(job.finished, case),
            work=partial(_process, case, job, phases),
            source=str(case.mask),
        )


def _process(case: MaskCase, job: _Job, phases: Phases) -> Done:
    mask, given, warnings = _opened(case, job)
    semantic, found = phases.run(mask, job.output, case.name, given)
    # Last: under this name the case is complete.
    write_volume(semantic, job.output / f"{case.name}.nii.gz")
    return Done(warnings + found)


def _opened(case: MaskCase, job: _Job) -> tuple[Volume, CaseInput, list[Problem]]:
    levels = job.phases.levels_scheme
    return open_mask(case, strict=job.strict, prefer=job.prefer, levels_scheme=levels, ignored=job.ignored)


def _phases_of(job: _Job) -> Phases:
    return _loaded(job.phases, job.scheme, job.device, job.jobs, job.fingerprint)


@functools.lru_cache(maxsize=1)
def _loaded(options: PhaseOptions, scheme: str, device: str, jobs: int, fingerprint: str) -> Phases:
    """Keep networks from case to case; several processes share the cores.

    `fingerprint`: a model that was trained anew in its folder is another one, though its path is the same.
    """
    if jobs > 1 and (options.instance_model or options.numbering_model):
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    return Phases(options, scheme, device)


@contextmanager
def _ended_cleanly(*, active: bool) -> Iterator[None]:
    """Let a process of several that is told to end take away what it has half written first."""
    if not active:
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        # Going on would do the cases that wait in the queue of this process.
        os._exit(1)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _rehearse(run: _Run) -> None:
    """Read every file as the run would, and record which cases would be done, are finished, or would fail."""
    from tqdm import tqdm

    job, result = run.job, run.result
    phases = Phases(job.phases, job.scheme)
    result.dry_run = True
    for case in tqdm(list(job.cases.values()), desc="cases", disable=None):
        try:
            if case.name in job.earlier and job.finished(case, case.hashes()):
                result.skipped.append(case.name)
                continue
            mask, given, warnings = _opened(case, job)
            phases.check(mask, given)
        except SpineExtError as error:
            result.fail(case.name, error.problem())
        except Exception as error:
            result.fail(case.name, unexpected(case.name, str(case.mask), error))
        else:
            result.planned[case.name] = [str(file) for file in case.files]
            result.warn(case.name, *warnings)
