"""The files of each case whose cord is measured: the cord itself and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import is_image, strip_suffix

_POINTS = ".json"


@dataclass(frozen=True)
class CaseFiles:
    """A case: its files by option (``i``, ``levels``, ``discs``, ``instances``, ``centreline``), or what is wrong."""

    case: str
    files: dict[str, Path] = field(default_factory=dict)
    problem: CaseError | None = None


def find_cases(i: Path, o: Path, **companions: str | Path | None) -> list[CaseFiles]:
    """Return the cases of a file or folder, each with its companions of the same case name.

    A companion that is one file belongs to a single case whatever its name; a folder is searched by case name. What a
    case lacks is its own error; the others go on.

    Raises
    ------
    UsageError: a path that is not there, one companion file for several cases, or an output that is an input.
    NoInputError: a folder without images.
    """
    cords = _files(i, "-i")
    if not cords:
        raise NoInputError(
            "E-CSA-EMPTY", file=i, found="no image", expected="files such as case.nii.gz", fix="check -i"
        )
    given = {name: Path(path) for name, path in companions.items() if path is not None}
    own = frozenset(file.resolve() for files in cords.values() for file in files)
    tables = {name: _files(path, f"--{name}", points=name == "discs", but=own) for name, path in given.items()}
    for name, path in given.items():
        if path.is_file() and sum(map(len, cords.values())) > 1:
            raise UsageError(
                "E-CSA-FILES",
                file=path,
                found=f"one file for {len(cords)} cases (--{name})",
                expected="a folder with a file per case",
                fix="give a folder, or one case as -i",
            )
    cases = [_case(case, found, given, tables) for case, found in sorted(cords.items())]
    _check_output(i, o, cases)
    return cases


def _case(case: str, found: list[Path], given: dict[str, Path], tables: dict[str, dict[str, list[Path]]]) -> CaseFiles:
    files = {"i": found[0]}
    problem = _twice(case, found)
    for name, path in given.items():
        own = [path] if path.is_file() else tables[name].get(case, [])
        problem = problem or _twice(case, own)
        if own:
            files[name] = own[0]
        elif problem is None:
            problem = CaseError(
                "E-CSA-COMPANION",
                file=path,
                found=f"no file of the case {case} (--{name})",
                expected=f"a file such as {case}.nii.gz",
                fix="add it, or measure this case without",
            )
    return CaseFiles(case, files, problem)


def _twice(case: str, found: list[Path]) -> CaseError | None:
    if len(found) < 2:
        return None
    return CaseError(
        "E-CSA-TWICE",
        file=found[0],
        found=f"{len(found)} files of the case {case}: {', '.join(path.name for path in found)}",
        expected="one file per case",
        fix="remove or rename all but one",
    )


def _files(
    path: Path, option: str, *, points: bool = False, but: frozenset[Path] = frozenset()
) -> dict[str, list[Path]]:
    """Return files by case name; with `points`, a case without an image may have a file of points (.json).

    `but`: files of a folder that are not among them.
    """
    if path.is_file():
        return {_case_of(path): [path]}
    if not path.is_dir():
        raise UsageError(
            "E-CSA-FILES",
            file=path,
            found=f"nothing there ({option})",
            expected="a file or folder",
            fix="check the path",
        )
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith(".") or file.resolve() in but:
            continue
        if is_image(file) or (points and _is_points(file)):
            found.setdefault(_case_of(file), []).append(file)
    # A .json beside an image is its sidecar.
    return {case: [file for file in files if is_image(file)] or files for case, files in found.items()}


def _is_points(path: Path) -> bool:
    return path.name.lower().endswith(_POINTS) and path.name not in ("dataset.json", "plans.json", "run.json")


def _case_of(path: Path) -> str:
    return path.name[: -len(_POINTS)] if _is_points(path) else strip_suffix(path)


def _check_output(i: Path, o: Path, cases: list[CaseFiles]) -> None:
    inputs = {path.resolve() for one in cases for path in one.files.values()}
    if o.suffix.lower() != ".csv" or o.is_dir():
        raise UsageError(
            "E-OUT-FILE",
            file=o,
            found="no name of a table",
            expected="a file such as area.csv",
            fix="choose another -o",
        )
    if o.resolve() in inputs or o.with_suffix(_POINTS).resolve() in inputs:
        raise UsageError(
            "E-OUT-INPUT", file=o, found="the output is an input", expected="a name of its own", fix="choose another -o"
        )
