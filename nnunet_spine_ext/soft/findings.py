"""What is said about the masks of a soft label: those that were moved far, that jump, that were left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.volume import Volume

if TYPE_CHECKING:
    from nnunet_spine_ext.soft.alignment import ApartError
    from nnunet_spine_ext.soft.ground_truth import Contributor

# A scan that has to be moved this far lies elsewhere: the subject moved, or a header is wrong.
_FAR_MM = 10.0


def warnings_of(rows: Mapping[str, Contributor], soft: Mapping[str, Volume]) -> list[Problem]:
    """Return the warnings about a finished average: a label without fractions, jumps, large shifts, no label at all."""
    found = []
    if not any(((volume.array > 0) & (volume.array < 1)).any() for volume in soft.values()):
        fix = "look whether one mask was copied to all contrasts: such an average says nothing about contrasts"
        found.append(warning("W-SOFT-HARD", ", ".join(rows), "a label of 0 and 1 only", "fractions", fix))
    for name, row in rows.items():
        alignment = row.alignment
        if alignment is None:
            continue
        if alignment.jumps:
            places = ", ".join(f"{place:.4g}" for place in alignment.jumps[:5])
            step = f"{alignment.largest_step_mm:.3g} mm"
            said = f"{len(alignment.jumps)} jump(s) of the shift by up to {step}, at {places} mm"
            fix = "look at the picture: a slice of this mask or of the reference is wrong; --smooth-mm evens it out"
            found.append(warning("W-SOFT-JUMP", name, said, "less than 3 mm from slice to slice", fix))
        far = float(np.linalg.norm(alignment.shift[alignment.common], axis=1).max(initial=0.0))
        if far > _FAR_MM:
            fix = (
                "the subject moved or a header is wrong; along the body nothing is corrected: leave it out if in doubt"
            )
            found.append(warning("W-SOFT-FAR", name, f"a shift of {far:.3g} mm", f"at most {_FAR_MM:g} mm", fix))
        if not (soft[name].array >= 0).any():
            fix = "its label is ignore everywhere"
            found.append(warning("W-SOFT-NOTHING", name, "no slice with enough other masks", "some", fix))
    return found


def copies(masks: Mapping[str, Volume]) -> list[Problem]:
    """Return a warning for masks of which the voxels of two or more are the same, though they are not empty."""
    alike: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, mask in masks.items():
        if mask.array.any():
            digest = hashlib.sha256(np.ascontiguousarray(mask.array, dtype=np.float32).tobytes()).digest()
            alike.setdefault((mask.shape, digest), []).append(name)
    return [
        warning(
            "W-SOFT-COPY",
            ", ".join(names),
            f"the same voxels in {len(names)} masks",
            "a mask that was drawn on each image, or by each rater",
            "a copy counts as often as it is given; leave all but one out if it is one",
        )
        for names in alike.values()
        if len(names) > 1
    ]


def cut_off(masks: Mapping[str, Volume]) -> list[Problem]:
    """Return a warning for every mask that reaches the border of its scan within slices: its centre is not known there.

    Borders above and below are no fault: cords go on.
    """
    found = []
    for name, mask in masks.items():
        array = mask.to("RAS").array != 0
        edges = array[[0, -1]].any(axis=(0, 1)) | array[:, [0, -1]].any(axis=(0, 1))
        if edges.any() and min(array.shape[:2]) > 1:
            said = f"{int(edges.sum())} slices in which it reaches the border of its scan"
            fix = "what lies beyond is missing, and the slice is moved by it: leave the mask out, or give a whole one"
            found.append(warning("W-SOFT-BORDER", name, said, "whole cross-sections", fix))
    return found


def disagreement(names: Sequence[str], value: float, lowest: float, dropped: Sequence[str]) -> CaseError:
    """Return the error for two masks that do not agree and of which nobody can tell the better one."""
    after = f" (after leaving out {', '.join(dropped)})" if dropped else ""
    return CaseError(
        "E-SOFT-DISAGREE",
        file=", ".join(names),
        found=f"Dice {value:.3f} between the last two masks{after}",
        expected=f"{lowest:g} or more",
        fix="look at the masks: which of two is wrong cannot be told; correct it, or lower --min-dice",
    )


def out_of_reach(name: str, error: ApartError) -> Problem:
    """Return the warning for a mask that was left out because it shares no slice with the others."""
    return warning("W-SOFT-APART", name, error.found, error.expected, "it was left out: is its header wrong?")


def warning(code: str, file: str, found: str, expected: str, fix: str) -> Problem:
    """Return a warning about a mask."""
    return Problem("warning", code, file, found, expected, fix)
