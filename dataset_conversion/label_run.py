"""What the commands about label files share: which files, where to, and what became of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, SpineExtError, UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, strip_suffix
from nnunet_spine_ext.core.summary import RunSummary

POINT_SUFFIX = ".json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    case: str
    source: Path
    output: Path


@dataclass
class LabelRun(RunSummary):
    """What became of each file; `facts` are those of the whole run, for `to_dict`."""

    facts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return self.facts | {"outputs": self.outputs} | super().to_dict()


def paths_of(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def find_jobs(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    read: tuple[str, ...] = IMAGE_SUFFIXES,
    written: tuple[str, ...] = IMAGE_SUFFIXES,
    ending: str | None = None,
) -> list[Job]:
    """Return what to read and where to write it, sorted by case.

    Parameters
    ----------
    i: files, and folders whose files count (not those of their sub-folders).
    o: a folder; or, for one file that is named itself, a file.
    read, written: how files that count end, and how results may end.
    ending: how results end; None: as the file that was read.

    Raises
    ------
    NoInputError: nothing there.
    UsageError: two files of one case, an unknown ending, or one output file for several inputs.
    """
    if ending is not None and ending not in written:
        raise UsageError(
            "E-IN-FORMAT",
            file="--file-ending",
            found=ending,
            expected=f"one of {', '.join(written)}",
            fix="choose one",
        )
    given, output = paths_of(i), Path(o)
    files = [file for path in given for file in (_inside(path, read) if path.is_dir() else [path])]
    if not any(file.exists() or file.is_symlink() for file in files):
        raise NoInputError(
            "E-IN-NONE",
            file=given[0] if given else "-i",
            found="no such file" if files else "no file of this kind",
            expected=f"files ending in {', '.join(read)}",
            fix="check -i",
        )
    named = output.name.lower().endswith(written) and not output.is_dir()
    if (named and (len(files) > 1 or given[0].is_dir())) or (output.is_file() and not named):
        raise UsageError(
            "E-OUT-FOLDER", file=output, found="a file", expected="a folder for the results", fix="choose another -o"
        )
    jobs: dict[str, Job] = {}
    for file in sorted(files):
        case = case_of(file)
        if case.lower() in jobs:
            raise UsageError(
                "E-IN-TWICE",
                file=file,
                found=f"the same case {case!r} as {jobs[case.lower()].source}",
                expected="one file per case",
                fix="rename one of them, or convert them into two folders",
            )
        suffix = ending or file.name[len(case) :].lower()
        jobs[case.lower()] = Job(case, file, output if named else output / f"{case}{suffix}")
    return list(jobs.values())


def case_of(path: Path) -> str:
    """Return a file's name without the ending of images and of point files."""
    return strip_suffix(path).removesuffix(POINT_SUFFIX)


def partner(place: str | Path, job: Job) -> Path | None:
    """Return the image of the same case in another folder, or the one file that is named itself; None without one."""
    path = Path(place)
    if not path.is_dir():
        return path
    return next((file for file in _inside(path, IMAGE_SUFFIXES) if case_of(file) == job.case), None)


def needed_partner(place: str | Path, job: Job, what: str) -> Path:
    """Return what `partner` returns; raises CaseError if there is none."""
    found = partner(place, job)
    if found is None:
        raise CaseError(
            "E-PAIR-NOMASK",
            file=job.source,
            found=f"no {what} of this case in {place}",
            expected=f"{job.case} with the ending of an image",
            fix="give the folder that holds it, or convert the others alone",
        )
    return found


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over what is read, and over older results unless they may be replaced; raises UsageError."""
    outputs = list(outputs)
    read = {path.resolve() for path in inputs}
    own = [path for path in outputs if path.resolve() in read]
    if own:
        raise UsageError(
            "E-OUT-INPUT",
            file=own[0],
            found="the output is an input",
            expected="a place of its own for the results",
            fix="choose another -o",
        )
    old = [path for path in outputs if path.exists()]
    if old and not overwrite:
        raise UsageError(
            "E-OUT-EXISTS",
            file=old[0],
            found=f"{len(old)} of {len(outputs)} results are there already",
            expected="a new folder",
            fix="choose another -o, or replace them with --overwrite",
        )


def run_jobs(jobs: Iterable[Job], run: LabelRun, work: Callable[[Job], tuple[list[Path], list[Problem]]]) -> LabelRun:
    """Do the work of every job; one that fails is a row of the result. `work` returns what it wrote, and warnings."""
    for job in jobs:
        try:
            written, warnings = work(job)
        except CaseError as error:
            run.fail(job.case, error.problem())
        except SpineExtError:
            raise
        except OSError as error:
            run.fail(job.case, _unwritable(job.output, error))
        except Exception as error:
            logger.error("%s: unexpected error", job.case, exc_info=error)
            run.fail(job.case, _unexpected(job.source, error))
        else:
            run.done.append(job.case)
            run.outputs[job.case] = [str(path) for path in written]
            run.warn(job.case, *warnings)
    return run


def _inside(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.name.lower().endswith(suffixes) and not path.name.startswith(".")
    )


def _unwritable(path: Path, error: OSError) -> Problem:
    found = f"cannot be written ({error.strerror or error})"
    fix = "free space or change the permissions, then run again"
    return Problem("error", "E-OUT-WRITE", str(path), found, "room on the disk and the right to write", fix)


def _unexpected(path: Path, error: Exception) -> Problem:
    found = f"{type(error).__name__}: {error}"
    fix = "please report it with the traceback above"
    return Problem("error", "E-INTERNAL", str(path), found, "no internal error", fix)
