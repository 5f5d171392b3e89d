"""Which files make which case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image, strip_suffix

_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class InputCase:
    """A case to predict: one file per channel, or the problem that keeps it from being used."""

    name: str
    files: tuple[Path, ...]
    problem: Problem | None = None


def find_cases(source: str | Path | Sequence[str | Path], channels: Sequence[str]) -> list[InputCase]:
    """Return the cases of a file, a folder or a list of files, sorted by name.

    Single-channel models need no ``_0000``; a file with and one without it would be the same case, which is refused.
    Other four digits at the end, such as a year, are then part of the name, unless there is a ``_0000`` of that name.

    Parameters
    ----------
    channels: names of the model's input channels, in order.

    Raises
    ------
    NoInputError: nothing there that looks like an image.
    UsageError: two files for one case (also when names differ only by upper and lower case).
    """
    files = _images(source)
    stems = {strip_suffix(file) for file in files}
    by_case: dict[str, dict[int | None, Path]] = {}
    for file in files:
        stem = strip_suffix(file)
        match = _CHANNEL.search(stem)
        if match and len(channels) == 1 and f"{stem[: match.start()]}_0000" not in stems:
            match = None
        case, channel = (stem[: match.start()], int(match.group(1))) if match else (stem, None)
        slot = by_case.setdefault(case, {})
        key = 0 if channel is None and len(channels) == 1 else channel
        if key in slot:
            raise _collision(case, slot[key], file)
        slot[key] = file
    _refuse_case_twins(by_case)
    return [_case(name, slot, channels) for name, slot in sorted(by_case.items())]


def find_images(source: str | Path | Sequence[str | Path]) -> list[InputCase]:
    """Return every file of a file, a folder or a list of files as a case under its whole name, sorted by name.

    Channels of one case are files, and so cases, of their own: ``a_0000`` and ``a_0001``.

    Raises
    ------
    NoInputError: nothing there that looks like an image.
    UsageError: two files of one name (also when it differs only by upper and lower case).
    """
    named: dict[str, Path] = {}
    for file in _images(source):
        name = strip_suffix(file)
        if name in named:
            raise _collision(name, named[name], file)
        named[name] = file
    _refuse_case_twins({name: {None: file} for name, file in named.items()})
    return [InputCase(name, (file,)) for name, file in sorted(named.items())]


def _images(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            found = sorted(f for f in path.iterdir() if is_image(f) and not f.name.startswith("."))
            if not found:
                raise NoInputError(
                    "E-IN-NONE",
                    file=path,
                    found="no image in this folder",
                    expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
                    fix="check -i",
                )
            return found
        source = [path]
    files = [Path(f) for f in source]
    absent = [f for f in files if not f.exists() and not f.is_symlink()]
    if absent and len(absent) == len(files):
        raise NoInputError(
            "E-IN-MISSING",
            file=absent[0],
            found="no such file or folder",
            expected="an image or a folder",
            fix="check -i",
        )
    return files


def _collision(case: str, first: Path, second: Path) -> UsageError:
    return UsageError(
        "E-IN-TWICE",
        file=second,
        found=f"the same case {case!r} as {first}",
        expected="one file per case and channel",
        fix="rename one of them",
    )


def _refuse_case_twins(by_case: dict[str, dict[int | None, Path]]) -> None:
    seen: dict[str, str] = {}
    for name, slot in by_case.items():
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise _collision(name, next(iter(by_case[other].values())), next(iter(slot.values())))


def _case(name: str, slot: dict[int | None, Path], channels: Sequence[str]) -> InputCase:
    expected = list(range(len(channels)))
    if sorted(slot, key=lambda k: -1 if k is None else k) == expected:
        return InputCase(name, tuple(slot[k] for k in expected))
    found = ", ".join(sorted(f.name for f in slot.values()))
    wanted = ", ".join(f"{name}_{k:04d} ({channel})" for k, channel in enumerate(channels))
    error = CaseError(
        "E-IN-CHANNEL",
        file=next(iter(slot.values())),
        found=found,
        expected=f"one file per channel: {wanted}",
        fix="add or rename the files",
    )
    return InputCase(name, tuple(slot.values()), error.problem())
