"""Masks to post-process and what belongs to each: its image, levels that somebody else gave, a localizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.check.facts import Role
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image, read_json, strip_suffix
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Volume
from nnunet_spine_ext.inference.cases import InputCase, find_cases
from nnunet_spine_ext.inference.journal import JOURNAL, RUN, hash_of
from nnunet_spine_ext.inference.mask_schemes import without_ignored
from nnunet_spine_ext.inference.phases import CaseInput
from nnunet_spine_ext.measure.numbered import is_numbered

_CHANNEL = "_0000"
# Headers of an image and of a mask made from it can differ by rounding.
_HEADER_TOLERANCE = 0.01
# What a file of an option is called.
_ROLES = {"images": "image"}
# What a case cannot be done without, once it was asked for.
_NEEDED = ("levels", "localizer")
# Sub-folders of our results: they hold other kinds of masks of the same cases.
_OF_RUNS = ("instances", "soft", "uncertainty", "derivatives_seg")
_MOST_FILES = 5000
_SHOWN = 3


@dataclass(frozen=True)
class MaskCase:
    """A mask and its companions (``images``, ``levels``, ``localizer``), or the problem that keeps it from being used.

    `lacks_image`: images were given, none of them for this case.
    """

    name: str
    mask: Path
    companions: Mapping[str, Path] = field(default_factory=dict)
    problem: Problem | None = None
    lacks_image: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the mask first."""
        return (self.mask, *self.companions.values())

    def hashes(self) -> list[dict[str, str]]:
        """Return role, name and hash of every file, the image first: there the report looks for it."""
        rows = sorted([("mask", self.mask), *self.companions.items()], key=lambda row: row[0] != "images")
        return [{"role": _ROLES.get(name, name), "file": f.name, "sha256": hash_of(f)} for name, f in rows]


def find_masks(
    i: str | Path | Sequence[str | Path], companions: Mapping[str, str | Path | None], *, image_needed: bool
) -> list[MaskCase]:
    """Return the masks of a file, a folder or a list of files, each with the companions of its name.

    A companion that is one file belongs to a single mask whatever its name; in a folder it has the name of the mask,
    for images also with ``_0000``. What a case lacks is its own error; the others go on.

    Raises
    ------
    NoInputError: no mask (masks in sub-folders are named). UsageError: two masks of one name, a companion that is not
        there, one for several masks, images of which none belongs to a mask.
    """
    try:
        cases = find_cases(i, ["mask"])
    except NoInputError as error:
        unseen = masks_in_subfolders(i)
        if error.code != "E-IN-NONE" or not unseen:
            raise
        found = f"{error.found}, but {_in_words(unseen)}"
        fix = f"give the folder that holds them, or the files: -i {_pattern(unseen)}"
        raise NoInputError("E-IN-NONE", file=error.file, found=found, expected=error.expected, fix=fix) from error
    given = {name: Path(path) for name, path in companions.items() if path is not None}
    for name, path in given.items():
        _check_place(name, path, len(cases))
    found_masks = [_with_companions(case, given, image_needed=image_needed) for case in cases]
    if "images" in given and not any("images" in case.companions for case in found_masks):
        raise _no_image(given["images"], cases)
    return found_masks


def masks_in_subfolders(i: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the masks below a folder that a run does not see.

    Neither the results of a post-processing nor what other runs of ours keep in sub-folders are among them.

    At most some thousand files are looked at.
    """
    if not isinstance(i, (str, Path)) or not Path(i).is_dir():
        return []
    folder, found = Path(i), []
    looked = 0
    for place, names, files in os.walk(folder):
        top = Path(place) == folder
        ours = JOURNAL in files or RUN in files
        if ours and not top and _holds_postprocessed(Path(place)):
            names.clear()
            continue
        names[:] = sorted(n for n in names if not n.startswith(".") and not ((top or ours) and n in _OF_RUNS))
        looked += len(files)
        if not top:
            found += [Path(place) / f for f in sorted(files) if is_image(Path(f)) and not f.startswith(".")]
        if looked > _MOST_FILES:
            break
    return found


def _holds_postprocessed(folder: Path) -> bool:
    """Whether a folder has what a post-processing gave: it is done. Masks of a prediction can be post-processed."""
    try:
        run = read_json(folder / RUN)
    except CaseError:
        return False
    return isinstance(run, dict) and "masks" in run


def subfolder_warning(i: str | Path | Sequence[str | Path]) -> Problem | None:
    """Return the warning that masks in sub-folders of a folder of masks are not done; None where there are none."""
    unseen = masks_in_subfolders(i)
    if not unseen:
        return None
    return Problem(
        "warning",
        "W-POST-SUBFOLDER",
        str(i),
        f"{_in_words(unseen)}, which are not done",
        "all masks right in the folder",
        f"give them as files: -i {_pattern(unseen)}; or move them, if they are no masks",
    )


def _in_words(files: Sequence[Path]) -> str:
    folders = list(dict.fromkeys(str(file.parent) for file in files))
    more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
    return f"{len(files)} in sub-folders ({', '.join(folders[:_SHOWN])}{more})"


def _pattern(files: Sequence[Path]) -> str:
    """Return a pattern for the shell that names the first of the files and its like."""
    base = Path(os.path.commonpath([file.parent for file in files]))
    depth = len(files[0].relative_to(base).parts) - 1
    name = files[0].name
    return str(base.joinpath(*["*"] * depth, f"*{name[len(strip_suffix(files[0])) :]}"))


def _no_image(place: Path, cases: Sequence[InputCase]) -> UsageError:
    there = [file.name for file in sorted(place.iterdir()) if is_image(file)] if place.is_dir() else []
    below = 0 if there else len(masks_in_subfolders(place))
    held = f"{len(there)} images, such as {there[0]}" if there else "no image"
    held += f", {below} in sub-folders" if below else ""
    return UsageError(
        "E-POST-FILES",
        file=place,
        found=f"{held}; none belongs to one of {len(cases)} masks (--images)",
        expected=f"images with the names of the masks: {cases[0].name}.nii.gz or {cases[0].name}{_CHANNEL}.nii.gz",
        fix="rename them or give another folder; for a single mask the file itself",
    )


def _check_place(name: str, path: Path, count: int) -> None:
    found = None
    if not path.exists():
        found = "nothing there"
    elif path.is_file() and count > 1:
        found = f"one file for {count} masks"
    if found:
        raise UsageError(
            "E-POST-FILES",
            file=path,
            found=f"{found} (--{name})",
            expected="a folder with a file per mask, or a file for a single mask",
            fix="check the path",
        )


def _with_companions(case: InputCase, given: Mapping[str, Path], *, image_needed: bool) -> MaskCase:
    own: dict[str, Path] = {}
    problem, lacks_image = case.problem, False
    for name, path in given.items():
        file = path if path.is_file() else _in_folder(path, case.name, image=name == "images")
        if file is not None:
            own[name] = file
        elif name in _NEEDED or image_needed:
            problem = problem or _missing(path, case.name, name)
        else:
            lacks_image = True
    return MaskCase(case.name, case.files[0], own, problem, lacks_image)


def _in_folder(folder: Path, case: str, *, image: bool) -> Path | None:
    names = [f"{case}{s}" for s in IMAGE_SUFFIXES] + [f"{case}{_CHANNEL}{s}" for s in IMAGE_SUFFIXES if image]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _missing(folder: Path, case: str, name: str) -> Problem:
    return CaseError(
        "E-POST-COMPANION",
        file=folder,
        found=f"no file of the case {case} (--{name})",
        expected=f"a file such as {case}.nii.gz",
        fix="add it, or do this case without",
    ).problem()


def open_mask(
    case: MaskCase,
    *,
    strict: bool,
    prefer: Literal["sform", "qform"] | None,
    levels_scheme: str = "instances",
    ignored: int | None = None,
) -> tuple[Volume, CaseInput, list[Problem]]:
    """Read a mask and its companions through the gatekeeper; return them with the warnings about them.

    Parameters
    ----------
    levels_scheme: label scheme of masks of levels; in ``instances`` the ids may be mere places from the top.
    ignored: id of the ignore label of the masks, whose voxels become background; None: they have none.

    Raises
    ------
    CaseError: a companion is missing, a file cannot be used, grids differ, a localizer or a mask of levels is not
        numbered.
    """
    if case.problem is not None:
        raise case.problem.to_error()
    warnings: list[Problem] = []

    def read(file: Path, role: Role) -> Volume:
        opened = open_image(file, role=role, strict=strict, prefer=prefer)
        opened.facts.raise_errors()
        warnings.extend(opened.facts.problems)
        if opened.volume is None:
            # Without an error there is a volume; type checkers do not know.
            raise CaseError(
                "E-IN-UNREADABLE", file=file, found="no voxels", expected="a volume", fix="copy the file again"
            )
        return opened.volume

    mask, about_ignored = without_ignored(read(case.mask, "label"), ignored, case.mask)
    warnings += about_ignored
    given = CaseInput(file=str(case.mask))
    for name, file in case.companions.items():
        if name == "localizer" or (name == "levels" and levels_scheme == "instances"):
            _refuse_unnumbered(name, file)
        volume = read(file, "image" if name == "images" else "label")
        if name == "images":
            volume = on_grid_of(mask, volume, case.mask, file)
        found: dict[str, Any] = {_ROLES.get(name, name): volume}
        found |= {f"{name}_file": str(file)} if name in _NEEDED else {}
        given = replace(given, **found)
    if case.lacks_image:
        warnings.append(
            Problem(
                "warning",
                "W-POST-IMAGE",
                str(case.mask),
                "no image of this case (--images)",
                f"a file such as {case.name}.nii.gz",
                "its picture shows the mask alone",
            )
        )
    return mask, given, warnings


def on_grid_of(mask: Volume, other: Volume, mask_file: Path, file: Path) -> Volume:
    """Return a companion on exactly the grid of the mask; raises CaseError with both grids when they differ."""
    error = mask.corner_error(other)
    if error <= max(GRID_TOLERANCE_MM, _HEADER_TOLERANCE * min(mask.spacing)):
        return mask.with_array(other.array)
    apart = "" if mask.shape != other.shape else f", corners up to {error:.3g} mm apart"
    raise CaseError(
        "E-GEOM-GRID",
        file=file,
        found=f"another grid than {mask_file.name}: {_grid(other)}{apart}",
        expected=f"the grid of the mask: {_grid(mask)}",
        fix="resample one of them onto the other's grid",
    )


def _grid(volume: Volume) -> str:
    shape = "x".join(map(str, volume.shape))
    spacing = "x".join(f"{size:.4g}" for size in volume.spacing)
    origin = ", ".join(f"{value:.4g}" for value in volume.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm, {volume.orientation}, origin {origin}"


def _refuse_unnumbered(option: str, file: Path) -> None:
    # A companion that is one file need not have the name of its mask: what is known about it has its own.
    if not is_numbered(file.parent.parent, strip_suffix(file)):
        raise CaseError(
            "E-POST-UNNUMBERED",
            file=file,
            found=f"instances that are counted from the top, not numbered (--{option})",
            expected="anatomical numbers",
            fix="number it first (--numbering), or correct it",
        )
