"""Room for the results: an estimate before the work, and what it looks like when there is none left."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_spine_ext.core.errors import Problem, SetupError
from nnunet_spine_ext.inference.cases import InputCase

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (*_FULL, errno.EROFS, errno.EACCES)
# Measured on phantoms: a mask of 14 classes takes 1.1 to 1.7 % of its compressed image, and so do its instances.
_MASK_SHARE = 0.05
# Measured: faint noise in half of the voxels, the worst there is, takes 1.9 to 2.6 times the compressed image.
_SOFT_SHARE = 2.5
_BYTES_PER_CASE = 100_000
_REPORT_BYTES_PER_CASE = 2_000_000
_MB = 1e6


def little_space(
    output: Path, cases: Sequence[InputCase], *, instances: bool, report: bool, soft: int = 0
) -> Problem | None:
    """Return the warning that the disk of `output` may not hold the results of these cases; None if it will.

    soft: number of soft maps per case.
    """
    per_case = _BYTES_PER_CASE + (_REPORT_BYTES_PER_CASE if report else 0)
    images = sum(_size(file) for case in cases for file in case.files[:1])
    share = _MASK_SHARE * (2 if instances else 1) + _SOFT_SHARE * soft
    needed = images * share + per_case * len(cases)
    existing = next(parent for parent in (output.resolve(), *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    found = f"{free / _MB:.1f} MB free for the results of {len(cases)} cases"
    kinds = f"{_MASK_SHARE:.0%} of the images per kind of mask, "
    kinds += f"{_SOFT_SHARE:.0%} per soft map, " if soft else ""
    expected = f"about {needed / _MB:.1f} MB ({kinds}and the records)"
    return Problem("warning", "W-OUT-SPACE", str(output), found, expected, "free space, or choose another -o")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or this user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def unwritable(output: Path, error: BaseException) -> Problem | None:
    """Return the finding for an error of the disk that the results go to; None for another error."""
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE:
        return None
    found = f"a result cannot be written ({error.strerror})"
    fix = "free space or change the permissions, then run again with --resume"
    return Problem("error", "E-OUT-WRITE", str(output), found, "room on the disk and the right to write", fix)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn an error of the disk inside the block into a SetupError that ends the run and names the folder."""
    try:
        yield
    except OSError as error:
        problem = unwritable(output, error)
        if problem is None:
            raise
        raise SetupError(
            problem.code, file=problem.file, found=problem.found, expected=problem.expected, fix=problem.fix
        ) from error
