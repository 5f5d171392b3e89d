"""The gatekeeper at the door of prediction: all channels of a case before nnU-Net sees one."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.cases import InputCase


def inspect_case(
    case: InputCase, *, strict: bool = False, prefer: Literal["sform", "qform"] | None = None
) -> tuple[list[Problem], Volume | None]:
    """Return the gatekeeper's warnings for all channels and, if a preferred transform decides, the grid to use.

    Raises CaseError for a case without all its files, for the first error in one of them, and for channels on different
    grids.
    """
    if case.problem is not None:
        raise case.problem.to_error()
    warnings: list[Problem] = []
    grids: list[Volume] = []
    for file in case.files:
        facts = inspect(file, strict=strict, prefer=prefer)
        facts.raise_errors()
        warnings += facts.problems
        if facts.affine is not None:
            grids.append(Volume(np.broadcast_to(np.uint8(0), facts.shape[:3]), facts.affine))
    for file, grid in zip(case.files[1:], grids[1:], strict=True):
        if not grids[0].same_grid(grid):
            raise CaseError(
                "E-GEOM-CHANNELS",
                file=file,
                found=f"shape {grid.shape}, corners {grids[0].corner_error(grid):.3g} mm from {case.files[0].name}",
                expected="all channels on one grid",
                fix="resample the channels onto one of them",
            )
    return warnings, grids[0] if prefer else None
