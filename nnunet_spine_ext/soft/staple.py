"""Several raters of one image: their plain average, or STAPLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.soft.scan import Extent, span_of

Method = Literal["average", "staple"]

# Background around the structure that STAPLE sees: with a whole scan of it every rater's specificity would be 1.
_MARGIN = 2
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Rating:
    """What raters agree on.

    Parameters
    ----------
    soft: float32 on the grid of the masks, 0 to 1; -1 where fewer raters than asked for say something.
    raters: how many say something, per voxel.
    sensitivity, specificity: per rater, STAPLE only.
    """

    soft: Volume
    raters: Array
    sensitivity: dict[str, float] = field(default_factory=dict)
    specificity: dict[str, float] = field(default_factory=dict)


def combine_raters(
    masks: Mapping[str, Volume],
    *,
    method: Method = "average",
    weights: Mapping[str, float] | None = None,
    extent: Extent = "seg",
    trim_mm: float = 0.0,
    min_overlap: int = 2,
) -> Rating:
    """Combine masks of one image, voxel by voxel: nothing is moved.

    Parameters
    ----------
    masks: 0 to 1, on one grid.
    method: ``average``, or ``staple`` (Warfield et al. 2004, as in SimpleITK; masks are thresholded at a half). STAPLE
        compares all raters, so it has a result only where all of them say something.
    weights, extent, trim_mm, min_overlap: see `soft_ground_truth`.

    Raises
    ------
    CaseError: masks on different grids, an empty one, or no slice with enough raters.
    """
    names = list(masks)
    grid = masks[names[0]]
    for name in names[1:]:
        _check_grid(grid, masks[name], names[0], name)
    stack = [on_grid(masks[name], grid).to("RAS").array.astype(np.float32) for name in names]
    spacing = grid.to("RAS").spacing[2]
    spans = [span_of(a, spacing, name=n, extent=extent, trim_mm=trim_mm) for n, a in zip(names, stack, strict=True)]
    levels = np.arange(stack[0].shape[2], dtype=np.float64)
    says = np.stack([span.holds(levels) for span in spans])
    needed = len(names) if method == "staple" else min_overlap
    valid = says.sum(axis=0) >= needed
    if not valid.any():
        raise CaseError(
            "E-SOFT-APART",
            file=names[0],
            found=f"no slice in which {needed} of {len(names)} raters drew something",
            expected="masks that overlap along the body",
            fix="leave masks out, or ask for fewer (--min-overlap)",
        )
    sensitivity: dict[str, float] = {}
    specificity: dict[str, float] = {}
    if method == "staple":
        soft, rates = _staple([mask * valid for mask in stack])
        sensitivity, specificity = (dict(zip(names, rate, strict=True)) for rate in rates)
    else:
        shares = np.array([(weights or {}).get(name, 1.0) for name in names])
        soft = np.zeros_like(stack[0])
        weight = (shares[:, None] * says).sum(axis=0)
        for share, mask, there in zip(shares, stack, says, strict=True):
            soft += mask * (np.float32(share) * there)
        soft /= np.where(weight > 0, weight, 1.0).astype(np.float32)
    soft = np.where(valid, np.clip(soft, 0.0, 1.0), np.float32(-1)).astype(np.float32)
    counts = np.broadcast_to(says.sum(axis=0).astype(np.uint8), soft.shape)
    ras = grid.to("RAS")
    back = [ras.with_array(np.ascontiguousarray(array)).to_grid_of(grid) for array in (soft, counts)]
    return Rating(back[0], back[1].array, sensitivity, specificity)


def _staple(masks: Sequence[Array]) -> tuple[Array, tuple[list[float], list[float]]]:
    """Return STAPLE's probability on the grid of the masks, and the raters' sensitivities and specificities."""
    import SimpleITK as sitk  # noqa: N813

    hard = [mask >= 0.5 for mask in masks]
    anyone = np.any(hard, axis=0)
    cut = []
    for axis in range(3):
        there = np.flatnonzero(anyone.any(axis=tuple(k for k in range(3) if k != axis)))
        cut.append(slice(max(0, int(there[0]) - _MARGIN), int(there[-1]) + 1 + _MARGIN))
    box = tuple(cut)
    images = [sitk.GetImageFromArray(np.ascontiguousarray(mask[box].astype(np.uint8))) for mask in hard]
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1.0)
    staple.SetMaximumIterations(_MOST_ITERATIONS)
    probability = sitk.GetArrayFromImage(staple.Execute(images))
    soft = np.zeros(masks[0].shape, dtype=np.float32)
    soft[box] = probability
    return soft, ([float(v) for v in staple.GetSensitivity()], [float(v) for v in staple.GetSpecificity()])


def on_grid(mask: Volume, grid: Volume) -> Volume:
    """Return a mask on the grid of another one of the same image, which may be stored in another axis order.

    Raises ValueError if it lies on another grid.
    """
    same = mask if grid.same_grid(mask) else mask.to_affine(grid.affine)
    return grid.with_array(same.array)


def _check_grid(grid: Volume, other: Volume, first: str, second: str) -> None:
    try:
        on_grid(other, grid)
    except ValueError as error:
        raise CaseError(
            "E-SOFT-RATERS",
            file=second,
            found=f"a grid of {other.shape} {other.orientation}, {first} has {grid.shape} {grid.orientation}",
            expected="raters' masks of one image, on its grid",
            fix="leave --raters out: scans of several contrasts are aligned slice by slice",
        ) from error
