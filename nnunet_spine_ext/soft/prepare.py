"""One soft label from the raw dataset to the grid of a preprocessed case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.soft_labels import checked, fractions, overshoot, read_classes
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume
from nnunet_spine_ext.soft.values import one_hot, resampled

FOLDER = "softLabelsTr"
# Affines of an image and its mask differ by this much in files of the field, by rounding of quaternions.
_TOLERANCE_MM = 0.05


@dataclass(frozen=True)
class Grid:
    """What nnU-Net did with the image of a case.

    `affine`: of the image file; None where the reader keeps none. `reorient`: whether its reader turned it to RAS.
    `transpose`: `transpose_forward` of the plans. `box`: (3, 2) the crop, in that order of axes. `shape`: of the
    preprocessed image. `nearest`: axis along which its slices were taken whole; None: it was interpolated.
    """

    affine: Array | None
    reorient: bool
    transpose: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    before: tuple[int, ...]
    shape: tuple[int, ...]
    nearest: int | None = None


def grid_of(
    properties: Mapping[str, Any],
    plans: Mapping[str, Any],
    shape: Sequence[int],
    *,
    reorient: bool,
    nearest: int | None = None,
) -> Grid:
    """Return the grid of a preprocessed case from nnU-Net's properties; `shape` is that of its image."""
    return Grid(
        affine=affine_of(properties, reorient=reorient),
        reorient=reorient,
        transpose=tuple(int(a) for a in plans["transpose_forward"]),
        box=tuple((int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]),
        before=tuple(int(n) for n in properties["shape_before_cropping"]),
        shape=tuple(int(n) for n in shape),
        nearest=nearest,
    )


def affine_of(properties: Mapping[str, Any], *, reorient: bool) -> Array | None:
    """Return the affine of the image file, RAS+, from what either reader of nnU-Net's stores."""
    if "nibabel_stuff" in properties:
        return np.asarray(properties["nibabel_stuff"]["original_affine"], dtype=np.float64)
    stuff = properties.get("sitk_stuff", {})
    # SimpleITK's reorienting reader stores the geometry after it has turned the image: not that of the file.
    if reorient or len(stuff.get("spacing", ())) != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(stuff["direction"], dtype=np.float64).reshape(3, 3) * np.asarray(stuff["spacing"])
    affine[:3, 3] = stuff["origin"]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@dataclass(frozen=True, eq=False)
class SoftLabel:
    """Values (K, *spatial) and validity (*spatial) on the grid of a preprocessed case.

    `between`: share of the supervised foreground that is neither 0 nor 1 in the file. `overshoot`: by how much its
    largest value exceeded 1.
    """

    values: Array
    valid: Array
    between: float
    overshoot: float


def from_file(path: Path, classes: int, grid: Grid) -> SoftLabel:
    """Read a soft label and bring it to the grid of its case.

    Parameters
    ----------
    path: 3-D for one class, 4-D (i, j, k, class) for several; on the grid of the image.
    classes: number of classes K.

    Raises
    ------
    CaseError: another number of classes, another grid, values that no soft label has, a file that cannot be read.
    """
    stored, affine = read_classes(path)
    values, valid = checked(stored, path, classes)
    share = fractions(values, valid)
    over = overshoot(stored)
    moved = np.stack([_as_network_sees(v, affine, grid, path) for v in (*values, valid)])
    return SoftLabel(*resampled(moved[:-1], moved[-1], grid.shape, grid.nearest), between=share, overshoot=over)


def from_hard(labels: Array, ids: Sequence[int], ignore: int | None) -> SoftLabel:
    """Return the soft label of a preprocessed hard label map (*spatial): 0 and 1, ignored voxels not valid."""
    values, valid = one_hot(labels, ids, ignore)
    return SoftLabel(values, valid, between=0.0, overshoot=0.0)


def _as_network_sees(array: Array, affine: Array, grid: Grid, path: Path) -> Array:
    """Return one volume in the order of the preprocessed axes, cropped as the image was."""
    volume = Volume(array, affine)
    reference = volume if grid.affine is None else Volume(array, grid.affine)
    error = volume.corner_error(reference)
    if error > max(_TOLERANCE_MM, GRID_TOLERANCE_MM):
        raise _other_grid(path, f"a grid that is up to {error:.2f} mm away from the image's")
    # The image's affine decides, to the last digit: so both are turned the same way.
    turned = reference.to("RAS") if grid.reorient else reference
    ordered = turned.array.transpose(2, 1, 0).transpose(grid.transpose)
    if ordered.shape != grid.before:
        before = [grid.before[grid.transpose.index(2 - axis)] for axis in range(3)]
        raise _other_grid(path, f"{list(turned.shape)} voxels where the image has {before}")
    return np.ascontiguousarray(ordered[tuple(slice(low, high) for low, high in grid.box)])


def _other_grid(path: Path, found: str) -> CaseError:
    return CaseError(
        "E-SOFT-GRID",
        file=path,
        found=found,
        expected="the grid of the case's image",
        fix="resample it to the image (value and validity on their own), or make it with nnUNetv2_spine_soft_gt",
    )
