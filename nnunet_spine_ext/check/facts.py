"""What the gatekeeper knows about an image after one pass over its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array, Volume

Role = Literal["image", "training", "label"]
Plane = Literal["sagittal", "coronal", "axial", "isotropic", ""]
ROLES: tuple[Role, ...] = ("image", "training", "label")

# An axis is the slice axis when its voxels are this much longer than those of the other two.
PLANE_RATIO = 1.25
_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class VoxelFacts:
    """Statistics of the voxel values (after scl_slope and scl_inter).

    Parameters
    ----------
    count: voxels looked at (fewer than the header says if the file is truncated).
    minimum, maximum: of the finite values; NaN if there is none.
    nan, infinite: how many voxels are.
    saturated: how many voxels hold the largest value of an integer type.
    ids: the different values in ascending order where all are whole numbers from 0 and at most 4096, in an image 64;
        else None.
    strange: up to 8 values that are no whole numbers or negative, of those looked at for `ids`.
    """

    count: int
    minimum: float
    maximum: float
    nan: int = 0
    infinite: int = 0
    saturated: int = 0
    ids: tuple[int, ...] | None = None
    strange: tuple[float, ...] = ()

    @property
    def nonfinite(self) -> int:
        """Number of voxels that are NaN or infinite."""
        return self.nan + self.infinite


@dataclass(frozen=True)
class Header:
    """A file header in the terms that all formats share.

    Parameters
    ----------
    format: ``NIfTI-1``, ``MetaImage`` or ``NRRD``.
    shape: all dimensions as stored, fastest first.
    dtype: type of the stored numbers with their byte order; None if voxels are not plain numbers.
    type_name: how errors name the voxel type.
    offset: bytes before the first voxel, counted in the decompressed content of the file that holds the voxels.
    affines: ``sform``, ``qform`` or ``header`` to a 4x4 matrix in RAS+ millimetres; the ones that are set, best first.
    fallback: the affine to use when none is set.
    pixdim: voxel sizes as the header states them apart from the affines.
    qform_tolerance: angle in radians by which single precision may turn the qform.
    bad_qform: why the qform is no rotation, or nothing.
    unit: ``mm``, ``m``, ``um`` or nothing.
    slope, inter: scl_slope and scl_inter as stored; None where the format has none.
    """

    format: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    type_name: str
    offset: int
    affines: dict[str, Array]
    fallback: Array | None = None
    pixdim: tuple[float, ...] = ()
    qform_tolerance: float = 0.0
    bad_qform: str = ""
    unit: str = ""
    slope: float | None = None
    inter: float | None = None

    @property
    def voxel_count(self) -> int:
        """Number of voxels of all volumes."""
        return math.prod(self.shape)

    @property
    def byte_count(self) -> int:
        """Bytes of the voxels; 0 if their type is unknown."""
        return self.voxel_count * self.dtype.itemsize if self.dtype is not None else 0

    @property
    def scaling(self) -> tuple[float, float] | None:
        """Slope and intercept that apply (nibabel's and ITK's common rule); None for stored values."""
        slope, inter = self.slope, self.inter
        if slope is None or inter is None or not math.isfinite(slope) or not math.isfinite(inter):
            return None
        return None if slope == 0 or (slope, inter) == (1.0, 0.0) else (slope, inter)


@dataclass(frozen=True)
class ImageFacts:
    """All that `inspect` found out about a file, whether it is good or not.

    Parameters
    ----------
    shape: voxels along (i, j, k), and further axes longer than one; empty if the header could not be read.
    spacing: millimetres along (i, j, k); None if there is no usable affine.
    affine: (i, j, k, 1) to RAS+ millimetres; with `prefer`, the chosen one. `core.io.read_volume` always follows the
        sform: where a user preferred the qform, use ``Volume(volume.array, facts.affine)``.
    orientation: direction towards which each axis grows, such as ``PIR``; empty without affine.
    plane: acquisition plane: which way slices stack, judged by the largest spacing; ``isotropic`` if none stands out.
    dtype: type of the stored numbers, such as ``int16``.
    voxels: statistics of the values; None if no voxel was read.
    problems: errors and warnings in the order in which they were found.
    """

    path: Path
    role: Role
    format: str = ""
    shape: tuple[int, ...] = ()
    spacing: tuple[float, float, float] | None = None
    affine: Array | None = None
    orientation: str = ""
    plane: Plane = ""
    dtype: str = ""
    voxels: VoxelFacts | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error (warnings are no errors)."""
        return not self.errors

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop the case."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that the case can be used with."""
        return [problem for problem in self.problems if problem.severity == "warning"]

    def raise_errors(self) -> None:
        """Raise the first error as a CaseError; do nothing if there is none."""
        if self.errors:
            raise self.errors[0].to_error()

    def grid(self) -> Volume:
        """Return an empty volume (no memory) on the file's grid, for `same_grid` and `corner_error`.

        Raises the first error as a CaseError if the file has one.
        """
        self.raise_errors()
        if self.affine is None:
            msg = f"{self.path}: no affine"
            raise ValueError(msg)
        return empty_grid(self.shape, self.affine)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        voxels = self.voxels
        ids = voxels.ids if voxels and self.role == "label" else None
        return {
            "file": str(self.path),
            "role": self.role,
            "ok": self.ok,
            "format": self.format,
            "shape": list(self.shape),
            "spacing": list(self.spacing) if self.spacing else None,
            "orientation": self.orientation,
            "plane": self.plane,
            "dtype": self.dtype,
            "minimum": _number(voxels.minimum) if voxels else None,
            "maximum": _number(voxels.maximum) if voxels else None,
            "nonfinite": voxels.nonfinite if voxels else None,
            "label_ids": None if ids is None else list(ids),
            "problems": [problem.to_dict() for problem in self.problems],
        }


def empty_grid(shape: Sequence[int], affine: Array) -> Volume:
    """Return a volume of zeros that takes no memory."""
    return Volume(np.broadcast_to(np.zeros((), dtype=np.uint8), tuple(shape)), affine)


def plane_of(spacing: Sequence[float], orientation: str) -> Plane:
    """Return the acquisition plane: the axis of the clearly largest spacing is the one along which slices stack."""
    order = sorted(range(3), key=lambda axis: spacing[axis])
    if spacing[order[2]] < PLANE_RATIO * spacing[order[1]]:
        return "isotropic"
    letter = orientation[order[2]]
    return next(plane for plane, pair in zip(_PLANES, ("LR", "PA", "IS"), strict=True) if letter in pair)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
