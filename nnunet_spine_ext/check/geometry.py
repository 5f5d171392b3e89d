"""Findings about where the voxels are: voxel sizes, units, qform and sform, shear."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.check.facts import Header
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array

Prefer = Literal["sform", "qform"]
Emit = Callable[[Problem], None]

# ITK accepts direction cosines off by 1e-4 and refuses 3e-4 (measured with SimpleITK).
SHEAR_TOLERANCE = 1e-4
# Below this the nearest orthonormal axes move no corner of a spine scan by more than half a voxel.
SMALL_SHEAR = 1e-3
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
# Below this an axis has no length, above its inverse no end; below `_FLAT` (a volume) axes lie in one plane.
_NO_SIZE_MM, _FLAT = 1e-4, 1e-4
# Relative difference of pixdim and sform that a reader would notice.
_PIXDIM_TOLERANCE = 1e-3


def check_geometry(
    path: Path, header: Header, shape: tuple[int, ...], *, prefer: Prefer | None, emit: Emit
) -> Array | None:
    """Report every problem of the geometry through `emit`; return the affine to use, None if there is none.

    `shape` are the three axes of the volume.
    """
    _check_pixdim(path, header, emit)
    if header.unit in ("m", "um"):
        name = {"m": "metre", "um": "micrometre"}[header.unit]
        emit(finding("E-GEOM-UNITS", path, f"the spatial unit is {name}"))
    _check_conflict(path, header, shape, prefer, emit)
    affine = _choose(header, prefer)
    if affine is None:
        found = f"a qform with {header.bad_qform}" if header.bad_qform else "no geometry for three axes"
        emit(finding("E-GEOM-AFFINE", path, found))
        return None
    if not header.affines and header.fallback is not None:
        emit(finding("W-GEOM-NOCODE", path, "qform_code 0 and sform_code 0"))
    if not _check_affine(path, affine, emit):
        return None
    _check_shear(path, affine, shape, emit)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < MIN_SPACING_MM or sizes.max() > MAX_SPACING_MM:
        emit(finding("E-GEOM-SPACING", path, f"voxels of {triple(sizes)} mm"))
    return affine


def corner_distance(first: Array, second: Array, shape: tuple[int, ...]) -> float:
    """Largest distance in millimetres between equal corners of a grid under two affines."""
    corners = np.array([(*c, 1) for c in itertools.product(*[(0, n - 1) for n in shape[:3]])], dtype=np.float64)
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def triple(values: Array | tuple[float, ...]) -> str:
    """Return voxel sizes for people: ``0.586x0.586x3.3``."""
    return "x".join(f"{float(v):.4g}" for v in values)


def _choose(header: Header, prefer: Prefer | None) -> Array | None:
    if prefer is not None and prefer in header.affines:
        return header.affines[prefer]
    return next(iter(header.affines.values()), header.fallback)


def _check_pixdim(path: Path, header: Header, emit: Emit) -> None:
    if header.pixdim and not all(math.isfinite(v) and v > 0 for v in header.pixdim):
        emit(finding("E-GEOM-PIXDIM", path, f"pixdim {triple(header.pixdim)}"))
        return
    sform = header.affines.get("sform")
    if sform is None or not header.pixdim or "qform" in header.affines:
        return  # with a qform, a difference in size is a conflict of the two forms
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    if np.isfinite(sizes).all() and sizes.all() and np.abs(sizes / header.pixdim - 1).max() > _PIXDIM_TOLERANCE:
        found = f"pixdim {triple(header.pixdim)} mm, but voxels of {triple(sizes)} mm in the sform"
        emit(finding("W-GEOM-PIXDIM", path, found))


def _check_conflict(path: Path, header: Header, shape: tuple[int, ...], prefer: Prefer | None, emit: Emit) -> None:
    sform, qform = header.affines.get("sform"), header.affines.get("qform")
    if sform is None or not np.isfinite(sform).all():
        return
    if qform is None:
        if not header.bad_qform:
            return
        found = f"a qform with {header.bad_qform}, beside an sform"
    else:
        if not np.isfinite(qform).all():
            return  # said already: pixdim is not finite
        distance = corner_distance(sform, qform, shape)
        if distance <= max(GRID_TOLERANCE_MM, _rounding(header, shape)):
            return
        found = f"qform and sform differ by {distance:.4g} mm at a corner"
    chosen = prefer if prefer in header.affines else None
    if chosen is None:
        emit(finding("E-GEOM-CONFLICT", path, found))
    else:
        emit(finding("W-GEOM-PREFER", path, f"{found}; the {chosen} is used as asked"))


def _rounding(header: Header, shape: tuple[int, ...]) -> float:
    """Millimetres by which single precision may move a corner: near half turns the quaternion is not exact."""
    extent = float(np.linalg.norm(np.array(header.pixdim) * (np.array(shape[:3]) - 1)))
    return header.qform_tolerance * extent


def _check_affine(path: Path, affine: Array, emit: Emit) -> bool:
    if not np.isfinite(affine).all():
        emit(finding("E-GEOM-AFFINE", path, "an affine with numbers that are not finite"))
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < _NO_SIZE_MM or sizes.max() > 1 / _NO_SIZE_MM:
        emit(finding("E-GEOM-PIXDIM", path, f"voxels of {triple(sizes)} mm in the affine"))
        return False
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < _FLAT:
        emit(finding("E-GEOM-AFFINE", path, "an affine with two parallel axes"))
        return False
    return True


def _check_shear(path: Path, affine: Array, shape: tuple[int, ...], emit: Emit) -> None:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    deviation = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if deviation <= SHEAR_TOLERANCE:
        return
    angle = math.degrees(math.asin(min(1.0, deviation)))
    move = corner_distance(affine, orthonormal(affine), shape)
    found = f"axes {angle:.3g} degrees off perpendicular (cosine {deviation:.2g}; {move:.3g} mm at a corner)"
    hint = "resample it to a rectangular grid, for example with nibabel.processing.resample_to_output"
    if deviation <= SMALL_SHEAR:
        hint = "store the nearest perpendicular axes, for example by copying the qform over the sform"
    emit(finding("E-GEOM-SHEAR", path, found, hint=hint))


def orthonormal(affine: Array) -> Array:
    """Return the affine with the nearest perpendicular axes and the same voxel sizes and origin."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    result = affine.copy()
    result[:3, :3] = left @ right * sizes
    return result
