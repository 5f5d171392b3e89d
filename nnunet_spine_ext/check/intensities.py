"""Findings about what the voxels hold: scaling, NaN, constant and saturated images, masks that are no masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nnunet_spine_ext.check.facts import Header, Role, VoxelFacts
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.errors import Problem

Emit = Callable[[Problem], None]

# Share of voxels at the largest value of their type from which detail is lost.
SATURATED_SHARE = 0.005


def check_scaling(path: Path, header: Header, emit: Emit) -> None:
    """Report scl_slope and scl_inter that readers treat differently.

    A slope of 0 with an intercept of 0 is the standard's own way to say "not scaled" and common: no finding.
    """
    slope, inter = header.slope, header.inter
    if slope is None or inter is None or (slope == 0 and inter == 0):
        return
    usable = math.isfinite(slope) and slope != 0
    if usable and not math.isfinite(inter):
        emit(finding("E-INT-SCALING", path, f"scl_slope {slope:g} and scl_inter {inter:g}"))
    elif not usable:
        emit(finding("W-INT-SCALING", path, f"scl_slope {slope:g} and scl_inter {inter:g}"))


def check_values(path: Path, header: Header, voxels: VoxelFacts, role: Role, emit: Emit) -> None:
    """Report what is wrong with the values of a file that was read to its end."""
    if voxels.nonfinite:
        found = f"{voxels.nan} NaN and {voxels.infinite} infinite of {voxels.count} voxels"
        everywhere = voxels.nonfinite == voxels.count
        mild = role == "image" and not everywhere
        emit(finding("W-INT-NONFINITE" if mild else "E-INT-NONFINITE", path, found))
        if everywhere:
            return
    if role == "label":
        _check_mask(path, voxels, emit)
        return
    if voxels.minimum == voxels.maximum:
        hint = (
            "; an empty mask has to be given as one (nnUNetv2_spine_check: --role label)" if voxels.maximum == 0 else ""
        )
        emit(finding("E-INT-CONSTANT", path, f"{voxels.minimum:g} in every voxel", hint=hint))
    elif voxels.ids is not None:
        emit(finding("W-INT-MASK", path, f"{len(voxels.ids)} different values, all whole numbers from 0"))
    elif voxels.saturated > SATURATED_SHARE * voxels.count:
        share = 100 * voxels.saturated / voxels.count
        found = f"{share:.1f} % of the voxels at the largest {header.type_name}"
        emit(finding("W-INT-SATURATED", path, found))


def _check_mask(path: Path, voxels: VoxelFacts, emit: Emit) -> None:
    if voxels.strange:
        values = ", ".join(f"{value:.6g}" for value in voxels.strange)
        emit(finding("E-LABEL-VALUE", path, f"values such as {values} in a mask"))
    elif voxels.ids is None:
        emit(finding("E-LABEL-VALUE", path, "more than 4096 different values in a mask"))
    elif voxels.minimum == voxels.maximum == 0:
        emit(finding("W-LABEL-EMPTY", path, "no voxel other than 0"))
