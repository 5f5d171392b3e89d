"""Reading masks to be combined: what their values mean, and what cannot be a mask of one structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import FileStamp
from nnunet_spine_ext.core.soft_labels import LARGEST
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array, Volume

# What values mean is said here, with the file's own numbers.
_JUDGED_HERE = ("E-LABEL-VALUE", "W-LABEL-EMPTY")


@dataclass(frozen=True)
class ReadMask:
    """A mask as it was read.

    Parameters
    ----------
    volume: float32, 0 to 1, on the file's grid.
    stamps: the files that were read, with their SHA-256.
    warnings: of the gatekeeper, and about values that were changed.
    """

    volume: Volume
    stamps: tuple[FileStamp, ...]
    warnings: list[Problem] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.stamps[0].sha256 if self.stamps else ""


def read_mask(path: str | Path, *, label: int | None = None, prefer: Prefer | None = None) -> ReadMask:
    """Read a mask of one structure through the gatekeeper.

    Parameters
    ----------
    label: take the voxels of this id, where the file has several; None: the file has one structure.
    prefer: "sform" or "qform", for files in which the two place the mask differently.

    Raises
    ------
    CaseError: the file cannot be used (4-D, sheared axes, truncated, ...), or its values are no mask of one structure.
    """
    opened = open_image(path, role="label", prefer=prefer)
    problems = [problem for problem in opened.facts.problems if problem.code not in _JUDGED_HERE]
    for problem in problems:
        if problem.severity == "error":
            raise problem.to_error()
    if opened.volume is None:
        opened.facts.raise_errors()
        raise CaseError(
            "E-IN-UNREADABLE", file=path, found="no voxels", expected="a readable file", fix="write it again as .nii.gz"
        )
    array, said = mask_values(opened.volume.array, file=path, label=label)
    return ReadMask(Volume(array, opened.volume.affine), opened.stamps, [*problems, *said])


def mask_values(array: Array, *, file: str | Path, label: int | None = None) -> tuple[Array, list[Problem]]:
    """Return stored values as float32 from 0 to 1, and what was changed.

    0 and one other value of at least 1 are a binary mask, whatever that value is; fractions up to 1 are a soft mask and
    stay; a soft mask that overshoots (up to 1.5, as everywhere) is clamped.

    Raises
    ------
    CaseError: several ids and none chosen, an id that is not there, negative or infinite values, another scale.
    """
    if label is not None:
        chosen = np.asarray(array == label)
        if not chosen.any():
            raise CaseError(
                "E-SOFT-LABEL",
                file=file,
                found=f"no voxel of label {label}",
                expected="some",
                fix="choose an id that the mask has (--label)",
            )
        return chosen.astype(np.float32), []
    values = np.unique(array)
    low, high = float(values[0]), float(values[-1])
    if not np.isfinite(values).all() or low < 0:
        raise CaseError(
            "E-SOFT-VALUE",
            file=file,
            found=f"values from {low:g} to {high:g}"
            if np.isfinite([low, high]).all()
            else "values that are not finite",
            expected="0 to 1",
            fix="give a mask of one structure",
        )
    others = values[values > 0]
    if len(others) <= 1 and high >= 1:
        changed = f"the values 0 and {high:g}"
        said = [] if high == 1 else [_warning("W-SOFT-SCALE", file, changed, "0 and 1", f"{high:g} was taken for 1")]
        return np.asarray(array > 0).astype(np.float32), said
    if high > 1 and bool((np.rint(values) == values).all()):
        raise CaseError(
            "E-SOFT-LABEL",
            file=file,
            found=f"values {shorten([f'{value:g}' for value in others], 8)}",
            expected="a mask of one structure: 0 and 1, or fractions of 1",
            fix="choose an id (--label), or give a mask of this structure alone",
        )
    if high > LARGEST:
        raise CaseError(
            "E-SOFT-VALUE",
            file=file,
            found=f"values up to {high:.4g}",
            expected="a mask of one structure: 0 and 1, or fractions of 1",
            fix="divide by the value of a full voxel",
        )
    said = []
    if high > 1:
        said.append(_warning("W-SOFT-SCALE", file, f"values up to {high:.4g}", "0 to 1", "they were clamped"))
    if ((others < 1) & (others > 0)).any():
        said.append(
            _warning("W-SOFT-SOFT", file, "a soft mask", "a binary one", "its fractions were averaged as they are")
        )
    return np.clip(array, 0, 1).astype(np.float32), said


def _warning(code: str, file: str | Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, str(file), found, expected, fix)
