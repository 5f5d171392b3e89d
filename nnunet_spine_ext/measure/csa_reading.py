"""Opening what a cord is measured on: masks and soft maps, with the findings that matter for them."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.check.facts import ImageFacts
from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, read_volume, stored_volume
from nnunet_spine_ext.core.soft_labels import read_classes
from nnunet_spine_ext.core.volume import Volume

# A soft map has values that no label has (`cord_map` judges them), and one slice has an area. Masks are read as images,
# too, where they hold several classes.
_ALLOWED = ("E-LABEL-VALUE", "E-IN-2D", "W-INT-MASK")


def open_volume(path: Path, *, prefer: Prefer | None = None, strict: bool = False) -> tuple[Volume, list[Problem]]:
    """Return a mask or soft map, and the warnings about its file.

    Parameters
    ----------
    prefer: which to use where sform and qform disagree. strict: raise warnings, too.

    Raises
    ------
    CaseError: a file that cannot be used.
    """
    opened = open_image(path, role="label", prefer=prefer)
    if any(problem.code == "E-INT-NONFINITE" for problem in opened.facts.problems):
        # A soft map may have NaN outside its field of view; for a mask the gatekeeper refuses it.
        opened = open_image(path, role="image", prefer=prefer)
    found = _findings(opened.facts, strict=strict)
    if opened.volume is not None:
        return opened.volume, found
    if any(problem.code == "E-IN-2D" for problem in opened.facts.problems):
        return read_volume(path), found
    raise CaseError(
        "E-IN-UNREADABLE", file=path, found="no voxels", expected="a volume", fix="copy or convert the file again"
    )


def open_class(
    path: Path, number: int, *, prefer: Prefer | None = None, strict: bool = False
) -> tuple[Volume, list[Problem]]:
    """Return one class of a soft map of several (i, j, k, class), and the warnings about its file.

    `number` counts from 1; a 3-D file is class 1. The other parameters are those of `open_volume`.

    Raises
    ------
    CaseError: a file that cannot be used, that is no NIfTI, or has fewer classes.
    """
    opened = open_image(path, role="image", prefer=prefer)
    if opened.volume is not None and number == 1:
        return open_volume(path, prefer=prefer, strict=strict)
    found = _findings(opened.facts, strict=strict, allowed=(*_ALLOWED, "E-IN-DIM"))
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise CaseError(
            "E-CSA-CLASS", file=path, found="no NIfTI file", expected="a soft map in NIfTI format", fix="convert it"
        )
    classes, affine = read_classes(path)
    if number > len(classes):
        raise CaseError(
            "E-CSA-CLASS",
            file=path,
            found=f"{len(classes)} classes",
            expected=f"a class {number}, counted from 1 (--class)",
            fix="count the foreground labels of dataset.json in ascending order of their ids",
        )
    own = opened.facts.affine if opened.facts.affine is not None else affine
    return stored_volume(path, classes[number - 1], own), found


def _findings(facts: ImageFacts, *, strict: bool, allowed: tuple[str, ...] = _ALLOWED) -> list[Problem]:
    found = [problem for problem in facts.problems if problem.code not in allowed]
    for problem in found:
        if problem.code == "E-IN-DIM":
            raise CaseError(
                problem.code,
                file=problem.file,
                found=problem.found,
                expected=f"{problem.expected}; of a soft map of several classes, which one is measured",
                fix=f"{problem.fix}; --class N takes the N-th class of a soft map",
            )
        if problem.severity == "error" or strict:
            raise problem.to_error()
    return found
